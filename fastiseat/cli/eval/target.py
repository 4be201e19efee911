"""From a target of ``fastiseat eval`` to networks and the images that they are evaluated on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastiseat import models
from fastiseat.checkpoint import RUN, WEIGHTS, RunDirectory, RunImages, absolute_dataset
from fastiseat.cli.eval.believed import MEANT, differ, require_believable
from fastiseat.cli.eval.flags import Eval
from fastiseat.cli.target import weights_file
from fastiseat.config import PGD
from fastiseat.errors import UserError
from fastiseat.fields import typed
from fastiseat.models import Network
from fastiseat.names.balls import Norm
from fastiseat.pipelines.data import datasets
from fastiseat.pipelines.protocol.base import DataSet, Split
from fastiseat.pipelines.protocol.progress import Progress
from fastiseat.pipelines.stores.checksums import verified
from fastiseat.run.data import limited
from fastiseat.safe import resolved
from fastiseat.shortage import enough_memory

FOLDER = "evaluations"
_SAVED = ".json"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A weights file: ``which`` of a run's, or its own name, and the folder that its verdicts are kept in."""

    file: Path
    which: str
    folder: Path
    of_a_run: bool


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network, the images it is asked about, and the ε it was trained with, if its file tells."""

    weights: Weights
    model: Network
    data: DataSet
    split: Split
    facts: dict[str, Any]
    """Which images these are."""
    trained_eps: str | None
    trained_norm: Norm
    """Of the ball of that ε."""
    run: str | None
    """The digest of the run that trained it, if its file tells."""
    verified: bool = True
    """Whether they were compared with what was prepared."""


def is_saved(target: Path) -> bool:
    """Whether it names a saved evaluation."""
    return target.suffix == _SAVED and not target.is_dir()


def weights_of(target: Path, arguments: Eval) -> Iterator[Weights]:
    """The weights files that a target stands for; :class:`UserError` for those that a run lacks."""
    if not target.is_dir():
        folder = _chosen(arguments.out) or Path(FOLDER)
        yield Weights(file=weights_file(target, "best"), which=target.stem, folder=folder, of_a_run=False)
        return
    for which in dict.fromkeys(arguments.weights):
        yield Weights(
            file=weights_file(target, which),
            which=which,
            folder=_chosen(arguments.out) or target / FOLDER,
            of_a_run=True,
        )


def _chosen(out: Path | None) -> Path | None:
    """The folder that a user names may be a link, which is what it points to."""
    return None if out is None else resolved(out)


def load(weights: Weights, arguments: Eval, progress: Progress) -> Subject:
    """The network, channels-last on the CPU, and its data; :class:`UserError` where they do not fit."""
    with enough_memory(f"while {weights.file} and the images are read", "give the command more"):
        return _loaded(weights, arguments, progress)


def _loaded(weights: Weights, arguments: Eval, progress: Progress) -> Subject:
    metadata = models.read_weights(weights.file, entry=arguments.entry).metadata
    model = models.load_model(
        weights.file,
        variant=arguments.variant,
        mean=arguments.mean,
        std=arguments.std,
        entry=arguments.entry,
        say=progress.say,
    )
    data = _images(weights.file, metadata, arguments, progress)
    _check_fit(model, data, weights.file)
    is_verified = verified(data, arguments.split, progress=progress)
    whole = data.test if arguments.split == "test" else data.train
    subset = arguments.subset if arguments.subset and arguments.subset < len(whole) else None
    return Subject(
        weights=weights,
        model=model.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        data=data,
        split=limited(whole, subset),
        facts={
            "dataset": data.name,
            "fingerprint": data.fingerprint,
            "split": arguments.split,
            "subset": subset,
            "samples": subset or len(whole),
        },
        trained_eps=metadata.get("eps"),
        trained_norm=typed("norm", metadata.get("norm", PGD().norm), Norm),
        verified=is_verified,
        run=metadata.get(RUN),
    )


def _images(file: Path, metadata: Mapping[str, str], arguments: Eval, progress: Progress) -> DataSet:
    """Those that the network was trained on, wherever they lie, unless a flag names others; then it is told.

    Raises:
        UserError: they are not what they were any more, or lie at a place that the file chooses, and no flag says that
            these are meant.
    """
    trained = trained_on(file, metadata)
    meant = arguments.dataset is None and arguments.data_dir is None
    if arguments.dataset is None:
        require_believable(file, trained, meant=meant)
    data = datasets.load(
        told("dataset", arguments.dataset, trained.name),
        data_dir=arguments.data_dir,
        prepared=trained.prepared if meant else None,
        expected=trained.fingerprint if meant else None,
        progress=progress,
    )
    if trained.name is not None and absolute_dataset(trained.name) != data.name:
        progress.say(f"{file} was trained on {trained.name}, and is evaluated on {data.name}")
    elif trained.fingerprint not in (None, data.fingerprint):
        others = differ(file, trained, str(data.prepared or "its package"), data.fingerprint)
        if meant:
            raise UserError(f"{others}: {MEANT}")
        progress.say(others)
    return data


def trained_on(file: Path, metadata: Mapping[str, str]) -> RunImages:
    """The images that a weights file's run was trained on: what the file tells, and beside it the run's directory."""
    name, fingerprint = metadata.get("dataset"), metadata.get("data_fingerprint")
    run = RunDirectory(file.absolute().parents[1])
    own = run.images() if file.absolute().parent.name == WEIGHTS["best"].parent.name else RunImages()
    if fingerprint not in (None, own.fingerprint):
        own = RunImages()  # a file from elsewhere
    return RunImages(name=name or own.name, prepared=own.prepared, fingerprint=fingerprint or own.fingerprint)


def told(name: str, flag: Any, metadata: str | None) -> Any:
    """The flag, or what the file says instead; :class:`UserError` where neither tells."""
    if flag is None and metadata is None:
        raise UserError(f"the weights file does not tell {name}: give --{name}")
    return metadata if flag is None else flag


def _check_fit(model: Network, data: DataSet, file: Path) -> None:
    spec = model.spec
    if (spec.in_channels, spec.num_classes) != (data.num_channels, data.num_classes):
        raise UserError(
            f"{file} is for {spec.in_channels} channels and {spec.num_classes} classes, {data.name} has "
            f"{data.num_channels} and {data.num_classes}: give the network's own data set with --dataset"
        )
