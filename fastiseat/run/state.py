"""What a run is made of and where it stands, for the rooms that act on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fastiseat import models
from fastiseat.checkpoint import RUN, RunDirectory
from fastiseat.checkpoint.cadence import Every
from fastiseat.checkpoint.kept import KeptWeights
from fastiseat.config import PGD, Config, Execution
from fastiseat.engine import TrainStep
from fastiseat.evaluation import Evaluator
from fastiseat.pipelines.loaders.choose import Chosen
from fastiseat.pipelines.loaders.mix import extra_batch_size
from fastiseat.pipelines.protocol.base import Loader
from fastiseat.report.live import LiveCurves
from fastiseat.report.reader import MetricsRow
from fastiseat.run.data import RunData
from fastiseat.run.metrics import EpochMeter
from fastiseat.run.observer import Observer
from fastiseat.run.provenance import extra_fingerprint, network_fingerprint
from fastiseat.run.signals import Interruptions
from fastiseat.run.threads import Threads


class Run:
    """The parts that :class:`fastiseat.run.trainer.Trainer` assembles, and how far they have come."""

    # As asked for.
    config: Config
    device: torch.device
    observer: Observer
    execution: Execution
    every: Every
    on_nan: str
    resume: bool
    resume_anyway: bool
    wait: bool
    options: dict[str, Any]

    # Made of it.
    directory: RunDirectory
    data: RunData
    load: Callable[..., Chosen]
    """The loader again, with ``shuffle`` in another order."""
    loading: Chosen
    model: models.Network
    standard: models.Network | None
    init_fingerprint: str | None
    precision: str
    step: TrainStep
    evaluator: Evaluator
    digest: str
    """Of all that decides what is trained."""
    weights: KeptWeights
    curves: LiveCurves
    interruptions: Interruptions

    # Where it stands.
    threads: Threads
    digests: list[str]
    """Of all settings that the run has had, the present ones' last."""
    rows: list[MetricsRow]
    meter: EpochMeter
    seconds: float
    """Of the epoch under way, as its meter."""
    rollbacks: int
    restored: Path | None
    """The checkpoint that it goes on from."""

    @property
    def loader(self) -> Loader:
        """Of the training images."""
        return self.loading.loader

    @property
    def verified(self) -> bool:
        """Whether all that is read of the data set was compared with what was prepared."""
        return self.data.verified and self.loading.verified

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        planned = self.config.schedule.epochs * len(self.loader)
        return min(planned, self.config.schedule.max_steps or planned)

    @property
    def steps_in_epoch(self) -> int:
        """Steps taken of the epoch under way."""
        return self.step.steps_taken - int(sum(row["steps"] for row in self.rows))

    @property
    def is_over(self) -> bool:
        """Whether all steps are taken and their epochs closed."""
        return self.step.steps_taken >= self.total_steps and not self.steps_in_epoch

    @property
    def images_a_step(self) -> int:
        """Of the data set and extra ones."""
        data = self.config.data
        extra = 0 if data.extra is None else extra_batch_size(data.batch_size, data.extra_ratio)
        return data.batch_size + extra

    def fingerprints(self) -> dict[str, str | None]:
        """Of what the settings name by its place."""
        return {
            "data_fingerprint": self.data.whole.fingerprint,
            "extra_fingerprint": extra_fingerprint(self.data.extra),
            "standard_fingerprint": network_fingerprint(self.standard),
            "init_fingerprint": self.init_fingerprint,
        }

    def metadata(self, row: MetricsRow, run: str | None) -> dict[str, str]:
        """Of the weights that an epoch wrote."""
        return models.metadata(
            self.model.spec,
            dataset=self.config.data.dataset,
            method=self.config.objective.method,
            eps=repr(self.config.attack.eps),
            **_ball(self.config.attack.norm),
            epoch=str(row["epoch"]),
            data_fingerprint=self.data.whole.fingerprint,
            **({} if run is None else {RUN: run}),
        )

    def write_metrics(self) -> None:
        """The lines of all epochs, and their curves."""
        self.directory.write_metrics(self.rows)
        if self.rows:
            self.curves.update()

    def next_epoch(self) -> None:
        """Measure anew."""
        self.meter, self.seconds = EpochMeter(), 0.0

    def timed(self, seconds: float) -> None:
        """So long has the epoch under way taken by now."""
        self.seconds = seconds

    def begun_under(self, digests: list[str]) -> None:
        """All settings that it has had are known."""
        self.digests = digests

    def restored_from(self, file: Path, state: dict[str, Any], threads: Threads) -> None:
        """It stands where a checkpoint says, and computes with so many threads."""
        self.restored, self.threads, self.rows = file, threads, state["rows"]
        self.next_epoch()
        self.meter.load_state_dict(state.get("meter", {}), self.device)
        self.seconds, self.rollbacks = state.get("seconds", 0.0), state.get("rollbacks", 0)
        if self.rollbacks:
            self.reshuffle()

    def rolled_back(self, times: int) -> None:
        """It has gone back to a checkpoint ``times`` in all."""
        self.rollbacks = times

    def reshuffle(self) -> None:
        """Have the images come in the order of the latest rollback."""
        self.loading = self.load(shuffle=self.rollbacks)


def _ball(norm: str) -> dict[str, str]:
    """For the weights' metadata, where one of the L∞ ball tells none, as all files of earlier versions."""
    return {} if norm == PGD().norm else {"norm": norm}
