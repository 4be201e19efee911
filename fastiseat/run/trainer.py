"""A run, put together from its config."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fastiseat.checkpoint import RunDirectory, RunImages, absolute, as_json, digest
from fastiseat.checkpoint.cadence import Every
from fastiseat.checkpoint.kept import KeptWeights
from fastiseat.config import Config, Execution
from fastiseat.pipelines.loaders.choose import AUTO
from fastiseat.pipelines.protocol.progress import SILENT, Progress
from fastiseat.report.live import LiveCurves
from fastiseat.report.reader import MetricsRow
from fastiseat.run.assemble import evaluator_for, images_for, network_for, standard_for, step_for, threads_asked
from fastiseat.run.beforehand import check, precision_of
from fastiseat.run.data import training_loader
from fastiseat.run.loop import train
from fastiseat.run.metrics import EpochMeter
from fastiseat.run.observer import Observer
from fastiseat.run.provenance import network_fingerprint
from fastiseat.run.resume import restore, say_what_turns
from fastiseat.run.signals import Interruptions
from fastiseat.run.state import Run
from fastiseat.run.trial import threads_for


class Trainer(Run):
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
        execution: Execution | None = None,
        loader: str = AUTO,
        data_dir: Path | None = None,
        progress: Progress = SILENT,
        resume_anyway: bool = False,
        checkpoint_every: str = "1epoch",
        keep: int = 2,
        on_nan: str = "stop",
        repeated: RunImages | None = None,
        options: Mapping[str, Any] | None = None,
        wait: bool = False,
    ) -> None:
        """``checkpoint_every`` is what :meth:`Every.parse` reads, ``keep`` how many checkpoints are kept, and
        ``on_nan`` ``stop`` or ``rollback``. ``resume_anyway`` lets a run go on with other settings.

        ``execution`` and ``loader``, a name in :mod:`fastiseat.pipelines.loaders.choose`, change nothing of what is
        trained.

        ``progress`` is told of data that is prepared first. ``repeated`` are the images of the run whose settings these
        are: they are looked for first, and others in their place are told.

        ``options`` are the command's, in JSON's types, which ``config.json`` keeps for ``--resume``. ``wait`` has
        :meth:`run` wait for another process that trains into ``out``.
        """
        config = absolute(config)
        self.config, self.device, self.observer = config, device, observer
        self.execution = Execution() if execution is None else execution
        check(
            config,
            out,
            device=device,
            engine=self.execution.engine,
            loader=loader,
            checkpoint_every=checkpoint_every,
            keep=keep,
            on_nan=on_nan,
            resume=resume,
            anyway=resume_anyway,
        )
        self.every, self.on_nan = Every.parse(checkpoint_every), on_nan
        self.resume, self.resume_anyway, self.wait, self.options = resume, resume_anyway, wait, dict(options or {})
        self.directory = RunDirectory.open(out, config, resume=resume, anyway=resume_anyway, keep=keep)
        self._load_data(repeated or RunImages(), loader, data_dir, progress)
        self._build()
        self._stand_at_the_start()
        if resume:
            restore(self)
        if resume_anyway and self.step.steps_taken:
            say_what_turns(self)

    def _load_data(self, repeated: RunImages, loader: str, data_dir: Path | None, progress: Progress) -> None:
        own, say = self.directory.images() if self.resume else RunImages(), self.observer.say
        self.data = images_for(self.config, own, repeated, data_dir=data_dir, progress=progress, say=say)
        self.load = partial(
            training_loader,
            self.config,
            self.data,
            loader,
            device=self.device,
            data_dir=data_dir,
            progress=progress,
        )
        self.loading = self.load()

    def _build(self) -> None:
        config, whole, say = self.config, self.data.whole, self.observer.say
        model = network_for(config, self.execution, whole, say)
        # Read again on every resume, where it changes nothing any more: the first of all is what config.json keeps.
        self.init_fingerprint = None if config.network.init is None else network_fingerprint(model)
        self.model = model.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.precision = precision_of(config.run, self.device, say)
        self.standard = standard_for(config, whole, self.device, say)
        self.step = step_for(self, self.model, say)
        self.step.method.require_start(config.attack)
        self.evaluator = evaluator_for(self)

    def _stand_at_the_start(self) -> None:
        self.threads = threads_asked(self.execution)
        self.digest = digest(as_json(self.config), self.fingerprints())
        self.digests = [self.digest]
        self.rows: list[MetricsRow] = []
        self.restored: Path | None = None
        self.meter, self.seconds, self.rollbacks = EpochMeter(), 0.0, 0
        self.interruptions = Interruptions()
        say = self.observer.say
        self.weights = KeptWeights(directory=self.directory, model=self.model, metadata=self.metadata, say=say)
        self.curves = LiveCurves(self.directory.path, say=say)

    def choose_threads(self, *, repeated: int | None = None) -> None:
        """Those of :func:`fastiseat.run.trial.threads_for`, before the run begins."""
        self.threads = threads_for(self, repeated)

    def run(self) -> list[MetricsRow]:
        """Train what is left of the run; results of best and last weights, as :func:`fastiseat.run.loop.train`."""
        return train(self)
