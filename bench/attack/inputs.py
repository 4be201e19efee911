"""What ``bench attack`` attacks: a network that was trained, and the images of its data set."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastiseat import models
from fastiseat.bench.inputs import SEED
from fastiseat.checkpoint import WEIGHTS
from fastiseat.config import PGD
from fastiseat.errors import UserError
from fastiseat.evaluation import Evaluator, attack_named
from fastiseat.models.files.choices import Say
from fastiseat.names import AUTOATTACK
from fastiseat.names.balls import Norm
from fastiseat.pipelines.data import datasets
from fastiseat.pipelines.data.locations import is_place
from fastiseat.pipelines.protocol.base import Split
from fastiseat.recipes import recipe
from fastiseat.run.data import limited
from fastiseat.run.trainer import Trainer
from fastiseat.safe import one_line, open_file, plain

PARTS = tuple(AUTOATTACK)
"""Of the standard AutoAttack, in their order."""
TRAINED_HERE = "trained here"
# Enough that attacks meet resistance, few enough to wait for.
_EPOCHS = 10


@dataclass(frozen=True, kw_only=True)
class AttackCase:
    """What is attacked, how large, and by which parts."""

    arch: str
    """Of a network that is trained where there are no ``weights``."""
    dataset: str
    """Empty for the one that ``weights`` tell of."""
    subset: int
    """Test images, of all classes alike."""
    batch_size: int
    unbroken: int
    """Images, classified correctly, on which nothing succeeds; 0 leaves that out."""
    weights: Path | None = None
    eps: float | None = None
    """None for the one that the network was trained with."""
    norm: Norm = "linf"
    parts: tuple[str, ...] = PARTS

    def __post_init__(self) -> None:
        for name, least in (("subset", 1), ("batch_size", 1), ("unbroken", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)}: at least {least} is needed to attack")


@dataclass(frozen=True, kw_only=True)
class Victim:
    """A network as it was loaded, in eval mode on its device, and what it was trained for."""

    model: models.Network
    dataset: str
    eps: float
    weights: str
    """The file's SHA-256 in 16 digits, or :data:`TRAINED_HERE`."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The same images twice: as ``fastiseat eval`` reads them, and as floats (n, C, H, W) with labels, on the CPU."""

    split: Split

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """Images and labels."""
        images = torch.from_numpy(np.ascontiguousarray(self.split.images))
        x = images.permute(0, 3, 1, 2).float().div(255).contiguous()
        return x, torch.from_numpy(np.ascontiguousarray(self.split.labels))


def require_network(case: AttackCase) -> None:
    """:class:`UserError` where weights can't be read, or there are none and the network is too dear to be trained."""
    if case.weights is not None:
        _loaded(case.weights, case, torch.device("cpu"), say=lambda line: None)  # it is said when it is attacked
    elif case.dataset != "digits":
        raise UserError(
            f"{case.arch} on {case.dataset}: untrained, it would withstand nothing; give a trained one with --weights"
        )


def victim(case: AttackCase, device: torch.device, data_dir: Path | None) -> Victim:
    """The network of a case, which is trained where there are no weights; see :func:`require_network`."""
    if case.weights is not None:
        return _loaded(case.weights, case, device)
    require_network(case)
    with TemporaryDirectory(prefix="fastiseat-bench-") as folder:
        file = _trained(case, Path(folder), device, data_dir)
        return replace(_loaded(file, case, device), weights=TRAINED_HERE)


def _to_stderr(line: str) -> None:
    print(one_line(line), file=sys.stderr)


def _loaded(file: Path, case: AttackCase, device: torch.device, *, say: Say = _to_stderr) -> Victim:
    metadata = models.read_weights(file).metadata
    given = {"dataset": case.dataset or None, "eps": case.eps}
    told = {name: metadata.get(name) if value is None else value for name, value in given.items()}
    for name, value in told.items():
        if value is None:
            raise UserError(f"{file}: does not tell what {name} it was trained with; give --{name}")
    trained = metadata.get("norm", PGD().norm)
    if case.eps is None and case.norm != trained:
        raise UserError(f"{file}: its eps is that of norm {trained}; give --norm {trained}, or --eps")
    if not case.dataset and is_place(str(told["dataset"])):
        raise UserError(
            f"{file}: trained on {plain(told['dataset'])}, which a weights file alone can't choose: if that is what "
            "you mean, say so by --dataset"
        )
    return Victim(
        model=models.load_model(file, say=say).to(device).eval(),
        dataset=str(told["dataset"]),
        eps=float(told["eps"] or 0.0),
        weights=_checksum(file),
    )


def _checksum(file: Path) -> str:
    with open_file(file) as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:16]


class _Silent:
    """Watches a run without a word."""

    def step(self, **_: Any) -> None:
        """Nothing."""

    def epoch(self, row: dict[str, Any]) -> None:
        """Nothing."""

    def evaluating(self, what: str, done: int, total: int) -> None:
        """Nothing."""

    def say(self, line: str) -> None:
        """Nothing."""


def _trained(case: AttackCase, folder: Path, device: torch.device, data_dir: Path | None) -> Path:
    config = recipe(case.dataset, "at")
    config = replace(
        config,
        network=replace(config.network, arch=case.arch),
        schedule=replace(config.schedule, epochs=_EPOCHS),
        run=replace(config.run, seed=SEED),
    )
    out = folder / "run"
    Trainer(config, out, device=device, observer=_Silent(), data_dir=data_dir).run()
    return out / WEIGHTS["last"]


def images_to_attack(case: AttackCase, found: Victim, data_dir: Path | None) -> Target:
    """Those of a case; :class:`UserError` where they are not the network's."""
    data, spec = datasets.load(found.dataset, data_dir=data_dir), found.model.spec
    if (spec.in_channels, spec.num_classes) != (data.num_channels, data.num_classes):
        raise UserError(
            f"weights for {spec.in_channels} channels and {spec.num_classes} classes: {data.name} has "
            f"{data.num_channels} and {data.num_classes}; give the network's own data set with --dataset"
        )
    return Target(split=limited(data.test, case.subset))


def classified_correctly(target: Target, found: Victim, case: AttackCase) -> Target | None:
    """As many of the images as a case wants unbroken, or as there are; None for none."""
    clean = attack_named("clean", eps=0.0)
    right = Evaluator(found.model, batch_size=case.batch_size, engine="eager")(target.split, clean)
    rows = np.flatnonzero(right)[: case.unbroken]
    return Target(split=target.split.take(rows)) if len(rows) else None
