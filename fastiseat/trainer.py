"""A whole run: epochs of steps, validation after each, the best weights, and everything needed to go on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fastiseat import methods, models
from fastiseat.checkpoint import WEIGHTS, RunDirectory
from fastiseat.config import Config, Network
from fastiseat.engine import TrainStep
from fastiseat.engine.borrow import own_randomness
from fastiseat.engine.precision import precision_for_amp
from fastiseat.errors import UserError
from fastiseat.evaluation import Attack, attack_named, evaluate_split
from fastiseat.metrics import EpochMeter, require_finite, require_finite_network
from fastiseat.pipelines.base import Loader, Split
from fastiseat.pipelines.loaders import AUTO
from fastiseat.pipelines.progress import SILENT, Progress
from fastiseat.provenance import extra_fingerprint, provenance
from fastiseat.report.curves import draw_curves
from fastiseat.rundata import load_run_data, network_batch, training_loader
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

    def say(self, line: str) -> None:
        """Something that the user should know."""


def build_network(network: Network, *, in_channels: int, num_classes: int, seed: int) -> models.Network:
    """The network with its first weights: PyTorch's defaults drawn from ``seed``, or those of ``init``."""
    with own_randomness(torch.device("cpu"), seed):
        model = models.build(
            network.arch,
            variant=network.variant,
            in_channels=in_channels,
            num_classes=num_classes,
        )
    if network.init is not None:
        models.init_from(model, network.init)
    return model


class Trainer:
    """Trains ``config`` into ``out``. Raises :class:`fastiseat.errors.UserError` before anything is written
    where config, data, directory or device do not go together.
    """

    def __init__(
        self,
        config: Config,
        out: Path,
        *,
        device: torch.device,
        observer: Observer,
        resume: bool = False,
        loader: str = AUTO,
        data_dir: Path | None = None,
        progress: Progress = SILENT,
    ) -> None:
        """``loader`` is a name in :mod:`fastiseat.pipelines.loaders`, which changes nothing of what is trained.

        ``progress`` is told of data that is prepared first.
        """
        self.config, self.device, self.observer = config, device, observer
        self.directory = RunDirectory.open(out, config, resume=resume)
        self.data = load_run_data(config, data_dir=data_dir, progress=progress)
        self.loading = training_loader(
            config, self.data, loader, device=device, data_dir=data_dir, progress=progress
        )
        self.loader: Loader = self.loading.loader
        model = build_network(
            config.network,
            in_channels=self.data.whole.num_channels,
            num_classes=self.data.whole.num_classes,
            seed=config.run.seed,
        )
        self.model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.precision = self._precision()
        self.step = TrainStep(
            self.model,
            method=methods.from_config(config.objective),
            attack=config.attack,
            awp=config.awp,
            optimizer=config.optimizer,
            precision=self.precision,
            seed=config.run.seed,
        )
        self.rows: list[Row] = []
        if resume:
            self._restore()

    def _precision(self) -> str:
        if not self.config.run.amp:
            return "full"
        precision = precision_for_amp(self.device)
        if precision == "full":
            self.observer.say(
                "--amp: this CPU has no bf16 instructions and would emulate them; training in float32"
            )
        return precision

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        planned = self.config.schedule.epochs * len(self.loader)
        return min(planned, self.config.schedule.max_steps or planned)

    def run(self) -> list[Row]:
        """Train what is left of the run, then attack best and last weights; returns their results."""
        if self.rows:
            # The checkpoint decides: the file lacks its last row if the run was stopped between writing the two.
            self.directory.write_metrics(self.rows)
        else:
            where = provenance(
                self.device, self.precision, self.data.whole, self.data.extra, loader=self.loading.name
            )
            self.directory.write_config(self.config, where)
        with deterministic(self.config.run.deterministic):
            while self.step.steps_taken < self.total_steps:
                self._finish_epoch(self._train_epoch(len(self.rows)) | self._validate())
            results = [self._final(which) for which in WEIGHTS]
        self.directory.write_results(results)
        draw_curves(self.directory.path)
        return results

    def _train_epoch(self, epoch: int) -> Row:
        scalars = asdict(scalars_at(self.config, epoch))
        self._set(scalars)
        meter, began, trained = EpochMeter(), time.perf_counter(), 0
        steps = min(len(self.loader), self.total_steps - self.step.steps_taken)
        for number, batch in enumerate(islice(self.loader.epoch(epoch), steps)):
            images, labels = network_batch(
                batch, self.config.data, seed=self.config.run.seed, epoch=epoch, device=self.device
            )
            metrics = self.step(images, labels)
            meter.add(metrics)
            trained += len(labels)
            if self.device.type == "cpu" or number % FINITE_EVERY == 0 or number == steps - 1:
                require_finite(metrics["loss"], epoch=epoch, step=number)
            self.observer.step(epoch=epoch, step=number, images=len(labels), metrics=metrics)
        require_finite_network(self.model, epoch=epoch)
        row = meter.row()
        seconds = time.perf_counter() - began
        return {
            "epoch": epoch,
            "steps": steps,
            **scalars,
            **row,
            "seconds": seconds,
            "images_per_second": trained / seconds,
        }

    def _set(self, scalars: dict[str, float]) -> None:
        if not self.config.objective.lam:
            scalars = {name: value for name, value in scalars.items() if name != "lam"}
        self.step.set(**scalars)

    def _validate(self) -> Row:
        began = time.perf_counter()
        split, name, eps = self.data.selection, self.data.selection_name, self.config.attack.eps
        row = {
            f"{name}_clean": self._accuracy(self.model, split, attack_named("clean", eps=eps)),
            f"{name}_pgd10": self._accuracy(self.model, split, attack_named("pgd", eps=eps)),
        }
        return row | {"validation_seconds": time.perf_counter() - began}

    def _accuracy(self, model: nn.Module, split: Split, attack: Attack) -> float:
        def progress(done: int) -> None:
            self.observer.evaluating(attack.name, done, len(split))

        return float(evaluate_split(model, split, attack, progress=progress).mean())

    def _score(self, row: Row) -> float:
        """What the best weights are chosen by: accuracy under PGD-10, on clean images for ``none``."""
        attacked = methods.METHODS[self.config.objective.method].attacked
        return float(row[f"{self.data.selection_name}_{'pgd10' if attacked else 'clean'}"])

    def _finish_epoch(self, row: Row) -> None:
        # Ties take the later epoch (released code).
        row["best"] = all(self._score(row) >= self._score(earlier) for earlier in self.rows)
        self.rows.append(row)
        if row["best"]:
            self._write_weights("best", row)
        self._write_weights("last", row)
        self.directory.checkpoints.save(
            {"model": self.model.state_dict(), "step": self.step.state_dict(), "rows": self.rows},
            step=self.step.steps_taken,
        )
        self.directory.checkpoints.flush()  # a line of metrics speaks of a checkpoint that is there
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
        found = self.directory.checkpoints.latest()
        if found is None:
            return
        for line in found.skipped:
            self.observer.say(line)
        stored = self.directory.stored()
        if stored.get("data_fingerprint") != self.data.whole.fingerprint:
            raise self._other_images(self.data.whole.name)
        if stored.get("extra_fingerprint") != extra_fingerprint(self.data.extra):
            raise self._other_images("extra")
        try:
            self.model.load_state_dict(found.state["model"])
            self.step.load_state_dict(found.state["step"])
            self.rows = found.state["rows"]
        except (KeyError, RuntimeError, TypeError, UserError) as error:
            raise UserError(
                f"{found.path} is not of this run ({type(error).__name__}): remove {found.path.parent} to start afresh"
            ) from error

    def _other_images(self, which: str) -> UserError:
        return UserError(
            f"{self.directory.path} was trained on other {which} images than are found now: bring those back, or "
            "choose another --out"
        )

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
    found = torch.get_deterministic_debug_mode(), cudnn.deterministic, cudnn.benchmark
    try:
        if wanted:
            torch.use_deterministic_algorithms(True)
            cudnn.deterministic, cudnn.benchmark = True, False
        yield
    finally:
        torch.set_deterministic_debug_mode(found[0])
        cudnn.deterministic, cudnn.benchmark = found[1:]
