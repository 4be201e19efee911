"""A whole run: epochs of steps, validation after each, the best weights, and everything needed to go on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fastiseat import methods, models
from fastiseat.checkpoint import WEIGHTS, RunDirectory
from fastiseat.config import Config, Network
from fastiseat.engine import TrainStep
from fastiseat.engine.borrow import own_randomness
from fastiseat.evaluation import Attack, attack_named, evaluate_split
from fastiseat.metrics import EpochMeter, require_finite
from fastiseat.pipelines import datasets
from fastiseat.pipelines.base import DataSet, Loader, Split, held_out
from fastiseat.pipelines.torch import TorchLoader
from fastiseat.provenance import provenance
from fastiseat.report.curves import draw_curves
from fastiseat.schedule import scalars_at

Row = dict[str, Any]
# How many steps on a GPU may pass before a loss that is no number is noticed; a CPU looks at each.
FINITE_EVERY = 50


class Observer(Protocol):
    """Who watches a run. Metrics are device tensors: reading one waits for the device."""

    def step(self, *, epoch: int, step: int, images: int, metrics: dict[str, Tensor]) -> None:
        """After each training step; ``images`` is the size of its batch."""

    def epoch(self, row: Row) -> None:
        """After each epoch, with its line of ``metrics.jsonl``."""

    def evaluating(self, what: str, done: int, total: int) -> None:
        """While a split is evaluated: ``done`` of ``total`` images."""


def build_network(network: Network, data: DataSet, *, seed: int) -> nn.Module:
    """The network with its first weights: PyTorch's defaults drawn from ``seed``, or those of ``init``."""
    with own_randomness(torch.device("cpu"), seed):
        model = models.build(
            network.arch,
            variant=network.variant,
            in_channels=data.num_channels,
            num_classes=data.num_classes,
        )
    if network.init is not None:
        models.init_from(model, network.init)
    return model


class Trainer:
    """Trains ``config`` into ``out``. Raises :class:`fastiseat.errors.UserError` before anything is written
    where config, data, directory or device do not go together.
    """

    def __init__(
        self, config: Config, out: Path, *, device: torch.device, observer: Observer, resume: bool = False
    ) -> None:
        self.config, self.device, self.observer = config, device, observer
        self.directory = RunDirectory.open(out, config, resume=resume)
        self.data = datasets.load(config.data.dataset)
        training, self.selection, self.selection_name = self._splits()
        self.loader: Loader = TorchLoader(training, batch_size=config.data.batch_size, seed=config.run.seed)
        self.model = build_network(config.network, self.data, seed=config.run.seed).to(device)
        self.step = TrainStep(
            self.model,
            method=methods.from_config(config.objective),
            attack=config.attack,
            awp=config.awp,
            optimizer=config.optimizer,
            seed=config.run.seed,
        )
        self.rows: list[Row] = []
        if resume:
            self._restore()

    def _splits(self) -> tuple[Split, Split, str]:
        """What trains, what the best weights are chosen on, and the latter's name."""
        share = self.config.data.val_split
        if share == 0:
            return self.data.train, self.data.test, "test"
        mask = held_out(self.data.train.labels, share, seed=self.config.run.seed)
        held, kept = np.flatnonzero(mask), np.flatnonzero(~mask)
        return self.data.train.take(kept), self.data.train.take(held), "val"

    def run(self) -> list[Row]:
        """Train what is left of the run, then attack best and last weights; returns their results."""
        if not self.rows:
            self.directory.write_config(self.config, provenance(self.device, self.data.fingerprint()))
        with deterministic(self.config.run.deterministic):
            for epoch in range(len(self.rows), self.config.schedule.epochs):
                self._finish_epoch(self._train_epoch(epoch) | self._validate())
            results = [self._final(which) for which in WEIGHTS]
        self.directory.write_results(results)
        draw_curves(self.directory.path)
        return results

    def _train_epoch(self, epoch: int) -> Row:
        scalars = asdict(scalars_at(self.config, epoch))
        self._set(scalars)
        meter, began = EpochMeter(), time.perf_counter()
        for number, batch in enumerate(self.loader.epoch(epoch)):
            images, labels = batch.images.to(self.device), batch.labels.to(self.device)
            metrics = self.step(images, labels)
            meter.add(metrics)
            if self.device.type == "cpu" or number % FINITE_EVERY == 0:
                require_finite(metrics["loss"], epoch=epoch, step=number)
            self.observer.step(epoch=epoch, step=number, images=len(labels), metrics=metrics)
        require_finite(metrics["loss"], epoch=epoch, step=number)
        row = meter.row()
        seconds = time.perf_counter() - began
        trained = len(self.loader) * self.config.data.batch_size
        return {"epoch": epoch, **scalars, **row, "seconds": seconds, "images_per_second": trained / seconds}

    def _set(self, scalars: dict[str, float]) -> None:
        if not self.config.objective.lam:
            scalars = {name: value for name, value in scalars.items() if name != "lam"}
        self.step.set(**scalars)

    def _validate(self) -> Row:
        began = time.perf_counter()
        eps = self.config.attack.eps
        row = {
            f"{self.selection_name}_clean": self._accuracy(
                self.model, self.selection, attack_named("clean", eps=eps)
            ),
            f"{self.selection_name}_pgd10": self._accuracy(
                self.model, self.selection, attack_named("pgd", eps=eps)
            ),
        }
        return row | {"validation_seconds": time.perf_counter() - began}

    def _accuracy(self, model: nn.Module, split: Split, attack: Attack) -> float:
        def progress(done: int) -> None:
            self.observer.evaluating(attack.name, done, len(split))

        return float(evaluate_split(model, split, attack, progress=progress).mean())

    def _score(self, row: Row) -> float:
        """What the best weights are chosen by: accuracy under PGD-10, on clean images for ``none``."""
        attacked = methods.METHODS[self.config.objective.method].attacked
        return float(row[f"{self.selection_name}_{'pgd10' if attacked else 'clean'}"])

    def _finish_epoch(self, row: Row) -> None:
        # Ties take the later epoch (released code).
        row["best"] = all(self._score(row) >= self._score(earlier) for earlier in self.rows)
        self.rows.append(row)
        if row["best"]:
            self._write_weights("best", row)
        self._write_weights("last", row)
        self.directory.write_checkpoint(
            {"model": self.model.state_dict(), "step": self.step.state_dict(), "rows": self.rows}
        )
        self.directory.write_metrics(self.rows)
        self.observer.epoch(row)

    def _write_weights(self, which: str, row: Row) -> None:
        metadata = models.metadata(
            self.model.spec,
            dataset=self.config.data.dataset,
            method=self.config.objective.method,
            eps=repr(self.config.attack.eps),
            epoch=str(row["epoch"]),
        )
        self.directory.write_weights(which, self.model, metadata)

    def _restore(self) -> None:
        state = self.directory.read_checkpoint()
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.step.load_state_dict(state["step"])
        self.rows = state["rows"]

    def _final(self, which: str) -> Row:
        """Accuracy on the test set of one of the two weight files, as written."""
        chosen = [row for row in self.rows if row["best"] or which == "last"][-1]
        model = models.load_model(self.directory.path / WEIGHTS[which]).to(self.device)
        eps, steps = self.config.attack.eps, self.config.run.final_steps
        attacks = [attack_named("clean", eps=eps), attack_named("pgd", eps=eps)]
        if steps:
            attacks.append(attack_named("pgd", eps=eps, steps=steps))
        accuracies = {attack.name: self._accuracy(model, self.data.test, attack) for attack in attacks}
        return {"weights": which, "epoch": chosen["epoch"], "accuracy": accuracies}


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Deterministic algorithms in the block if ``wanted``; the caller's settings afterwards."""
    cudnn = torch.backends.cudnn
    found = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    try:
        if wanted:
            torch.use_deterministic_algorithms(True)
            cudnn.deterministic, cudnn.benchmark = True, False
        yield
    finally:
        torch.use_deterministic_algorithms(found[0])
        cudnn.deterministic, cudnn.benchmark = found[1:]
