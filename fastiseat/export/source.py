"""What is exported: a network, and what its file and its run tell of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch

from fastiseat.checkpoint import WEIGHTS, RunDirectory
from fastiseat.errors import UserError
from fastiseat.models import ModelSpec, Network, load_model, read_weights
from fastiseat.models.files.choices import Numbers, Say
from fastiseat.names.data import DATA
from fastiseat.names.networks import family_of
from fastiseat.safe import read_file
from fastiseat.safe.reading import TEXT


class Said(TypedDict, total=False):
    """What a caller may say of a file that does not tell it; see :func:`fastiseat.load_model`."""

    variant: str | None
    mean: Numbers | None
    std: Numbers | None
    entry: str | None
    say: Say


@dataclass(frozen=True, kw_only=True)
class Source:
    """A network to export.

    Attributes:
        model: in eval mode, on the CPU.
        metadata: what the weights file tells beyond what the network is.
        run: the content of ``config.json``; empty for a file alone.
        result: the entry of ``results.json`` for these very weights; empty where there is none.
    """

    model: Network
    metadata: Mapping[str, str]
    run: Mapping[str, Any]
    result: Mapping[str, Any]

    @property
    def spec(self) -> ModelSpec:
        """What the network is."""
        return self.model.spec

    @property
    def dtype(self) -> torch.dtype:
        """float32 or float64."""
        return next(self.model.parameters()).dtype

    @property
    def settings(self) -> dict[str, Any]:
        """The run's settings of all groups under ``group.name``; what the file tells where there is no run."""
        if not self.run:
            told = {
                "method": "objective.method",
                "eps": "attack.eps",
                "norm": "attack.norm",
                "dataset": "data.dataset",
            }
            return {setting: self.metadata[name] for name, setting in told.items() if name in self.metadata}
        groups = [(group, found) for group, found in self.run["config"].items() if isinstance(found, Mapping)]
        return {f"{group}.{name}": value for group, found in groups for name, value in found.items()}

    @property
    def side(self) -> int:
        """Height and width of the images, as far as the data set's name tells them."""
        kind = DATA.get(str(self.settings.get("data.dataset", "")))
        return (kind.side if kind else None) or family_of(self.spec.arch).side


def read_source(file: Path, *, run: Path | None = None, which: str = "best", **said: Unpack[Said]) -> Source:
    """The network in a weights file; with ``run``, a directory whose ``which`` weights it is, all that is known of it.

    ``said`` are arguments of :func:`fastiseat.load_model`.

    Raises:
        UserError: as :func:`fastiseat.load_model`, or a file of the run that can't be read.
    """
    model = load_model(file, **said)
    read = read_weights(file, entry=said.get("entry"))
    metadata = {name: told for name, told in read.metadata.items() if name not in asdict(model.spec)}
    config = RunDirectory(run).stored() if run and (run / "config.json").exists() else {}
    result = _result(run, which, metadata.get("epoch")) if run else {}
    return Source(model=model, metadata=metadata, run=config, result=result)


def _result(run: Path, which: str, epoch: str | None) -> Mapping[str, Any]:
    """A resumed run has results of an earlier end: those of another epoch belong to other weights."""
    path = run / "results.json"
    if not path.exists():
        return {}
    try:
        rows = json.loads(read_file(path, most=TEXT))
        found = [row for row in rows if row["weights"] == which and str(row["epoch"]) == epoch]
        return {**found[0], "accuracy": _shares(found[0]["accuracy"])} if found else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} can't be read ({error!r}): restore it, or export {WEIGHTS[which]} alone"
        ) from error


def _shares(accuracy: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): float(share) for name, share in accuracy.items()}
