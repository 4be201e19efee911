"""A whole run: epochs of steps, validation after each, the best weights, and everything needed to go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fastiseat import methods, models
from fastiseat.beforehand import check, precision_of
from fastiseat.checkpoint import (
    DIGESTS,
    RUN,
    WEIGHTS,
    Found,
    RunDirectory,
    RunImages,
    absolute,
    as_json,
    digest,
    digests,
)
from fastiseat.checkpoint.cadence import Every
from fastiseat.checkpoint.content import Expected
from fastiseat.checkpoint.kept import KeptWeights
from fastiseat.checkpoint.recorded import SHA256, require_recorded
from fastiseat.checkpoint.turn import turn
from fastiseat.config import PGD, Config, Execution, Network
from fastiseat.engine import TrainStep
from fastiseat.engine.borrow import deterministic, own_randomness
from fastiseat.engine.precision import strict_float32
from fastiseat.errors import UserError
from fastiseat.evaluation import BATCH_SIZE, Attack, Evaluator, NotFiniteError, attack_named
from fastiseat.lock import locked
from fastiseat.metrics import (
    DivergedError,
    EpochMeter,
    caveats,
    diverged,
    require_finite,
    require_finite_network,
    require_life,
)
from fastiseat.models.choices import Say, warn
from fastiseat.peak import peak_memory_bytes
from fastiseat.pipelines.augmentation import Augmentation
from fastiseat.pipelines.base import Batch, Loader, Split
from fastiseat.pipelines.loaders import AUTO
from fastiseat.pipelines.mix import extra_batch_size
from fastiseat.pipelines.progress import SILENT, Progress
from fastiseat.provenance import extra_fingerprint, network_fingerprint, provenance
from fastiseat.recipes import METHODS
from fastiseat.report.curves import draw_title
from fastiseat.report.live import LiveCurves
from fastiseat.rundata import RunData, load_run_data, training_loader
from fastiseat.schedule import as_row, moving, progress, scalars_of_step
from fastiseat.shortage import enough_memory
from fastiseat.signals import Interruptions, Stopped
from fastiseat.threads import SMALL, Threads, as_begun, begun_with, computing_with, faster, named

Row = dict[str, Any]
# How many steps on a GPU may pass before a loss that is no number is noticed; a CPU looks at each.
FINITE_EVERY = 50
# Pixels of an image that the rehearsal looks at, from its corner.
CORNER = 8
# More would only hide that the settings do not work.
MOST_ROLLBACKS = 3


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


def build_network(
    network: Network, *, in_channels: int, num_classes: int, seed: int, say: Say = warn
) -> models.Network:
    """The network with its first weights: drawn from ``seed`` as ``initialization`` says, or those of ``init``.

    ``say`` is told in a line what was taken where that file leaves a choice.
    """
    with own_randomness(torch.device("cpu"), seed):
        model = models.build(
            network.arch,
            variant=network.variant,
            in_channels=in_channels,
            num_classes=num_classes,
            initialization=network.initialization,
        )
    mean, std = network.mean or None, network.std or None
    if network.init is None:
        models.set_normalization(model, mean=mean, std=std)
    else:
        models.init_from(model, network.init, mean=mean, std=std, say=_for_training(say))
    return model


def load_standard(path: Path, *, in_channels: int, num_classes: int, say: Say = warn) -> models.Network:
    """The network without defence in a weights file, float32 on the CPU, for images and classes as they are.

    ``say`` is as in :func:`build_network`.
    """
    network = models.load_model(path, say=_for_training(say))
    spec = network.spec
    if (spec.in_channels, spec.num_classes) != (in_channels, num_classes):
        raise UserError(
            f"standard={path}: it holds {spec}, but the data set has {in_channels} colour planes and {num_classes} "
            "classes; give a network trained on it (fastiseat train --method none)"
        )
    return network.float().requires_grad_(False)


def _for_training(say: Say) -> Say:
    return lambda line: say(f"{line} (to train with another one: fastiseat export makes a file of it)")


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

        ``execution`` and ``loader``, a name in :mod:`fastiseat.pipelines.loaders`, change nothing of what is trained.

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
        self.data = self._images(repeated or RunImages(), data_dir, progress)
        self._load = partial(
            training_loader, config, self.data, loader, device=device, data_dir=data_dir, progress=progress
        )
        self.loading = self._load()
        self.loader: Loader = self.loading.loader
        model = build_network(
            config.network,
            in_channels=self.data.whole.num_channels,
            num_classes=self.data.whole.num_classes,
            seed=config.run.seed,
            say=observer.say,
        )
        # Read again on every resume, where it changes nothing any more: the first of all is what config.json keeps.
        self.init_fingerprint = None if config.network.init is None else network_fingerprint(model)
        self.model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.precision = precision_of(config.run, device, observer.say)
        self.model.checkpoint_blocks = self.execution.checkpoint_blocks
        asked = self.execution.threads
        self.threads = Threads(count=asked or torch.get_num_threads(), why=f"{asked}, as given" if asked else "")
        self.standard = self._standard()
        self.step = self._step_for(self.model)
        self.step.method.require_start(config.attack)
        self.evaluator = Evaluator(
            self.model,
            precision=self.precision,
            engine=self.execution.engine,
            batch_size=min(2 * config.data.batch_size, BATCH_SIZE),  # an attack holds one graph, a step two
            strict=False,  # it only finds images: the verdicts are
            say=observer.say,
        )
        self.digest = digest(as_json(config), self._fingerprints())
        self.digests = [self.digest]
        self.rows: list[Row] = []
        self._restored: Path | None = None
        self.meter, self.seconds = EpochMeter(), 0.0  # of the epoch under way
        self.rollbacks = 0
        self.interruptions = Interruptions()
        self.weights = KeptWeights(
            directory=self.directory, model=self.model, metadata=self._metadata, say=observer.say
        )
        self.curves = LiveCurves(self.directory.path, say=observer.say)
        if resume:
            self._restore()
        if resume_anyway and self.step.steps_taken:
            self._say_what_turns()

    def _fingerprints(self) -> dict[str, str | None]:
        """Of what the settings name by its place."""
        return {
            "data_fingerprint": self.data.whole.fingerprint,
            "extra_fingerprint": extra_fingerprint(self.data.extra),
            "standard_fingerprint": network_fingerprint(self.standard),
            "init_fingerprint": self.init_fingerprint,
        }

    def _images(self, repeated: RunImages, data_dir: Path | None, progress: Progress) -> RunData:
        """What to train on: where the run in the directory was trained before, else where the repeated one was."""
        own = self.directory.images() if self.resume else RunImages()
        if repeated.name != self.config.data.dataset:
            repeated = RunImages()
        prepared = own.prepared or (repeated.prepared if data_dir is None else None)
        with enough_memory("while the images are read", "give the run more, or fewer images by --limit-train"):
            data = load_run_data(
                self.config, data_dir=data_dir, prepared=prepared, expected=own.fingerprint, progress=progress
            )
        if repeated.fingerprint not in (None, data.whole.fingerprint):
            self.observer.say(
                f"{data.whole.name}: the run of --config was trained on images with the fingerprint "
                f"{repeated.fingerprint}, this one is on {data.whole.fingerprint}"
            )
        return data

    def _step_for(self, model: models.Network, *, say: Say | None = None) -> TrainStep:
        return TrainStep(
            model,
            method=methods.from_config(self.config.objective, standard=self.standard),
            attack=self.config.attack,
            awp=self.config.awp,
            optimizer=self.config.optimizer,
            augmentation=Augmentation.of(self.config.data, seed=self.config.run.seed),
            precision=self.precision,
            engine=self.execution.engine,
            clean_graph=self.execution.clean_graph,
            overlap=self.execution.overlap,
            seed=self.config.run.seed,
            say=say or self.observer.say,
        )

    def choose_threads(self, *, repeated: int | None = None) -> None:
        """On a CPU, where no setting, no run that goes on and no variable has chosen: as many threads as the
        ``repeated`` run had, else, where a step is small, one or all, whichever is faster now.
        """
        if self.device.type != "cpu" or self.threads.why or self.step.steps_taken:
            return
        if repeated is not None:
            self.threads = as_begun(repeated)
        elif not named() and torch.get_num_threads() > 1 and self._work() <= SMALL:
            self.threads = faster(self._trial())

    def _work(self) -> int:
        height, width = self.data.whole.train.images.shape[1:3]
        size = sum(weight.numel() for weight in self.model.parameters())
        return int(size * height * width * self._images_a_step())

    def _trial(self) -> Callable[[], object]:
        """A step on noise by a network like the run's, which leaves no trace in the run's own."""
        whole, count = self.data.whole, self._images_a_step()
        model = build_network(
            replace(self.config.network, init=None),
            in_channels=whole.num_channels,
            num_classes=whole.num_classes,
            seed=0,
        )
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        step = self._step_for(model, say=lambda line: None)
        noise = torch.Generator().manual_seed(0)
        images = torch.randint(256, (count, *whole.train.images.shape[1:]), dtype=torch.uint8, generator=noise)
        labels, index = torch.randint(whole.num_classes, (count,), generator=noise), torch.arange(count)
        return lambda: step(images, labels, index=index)

    def _standard(self) -> models.Network | None:
        path, whole = self.config.objective.standard, self.data.whole
        if path is None:
            return None
        network = load_standard(
            path, in_channels=whole.num_channels, num_classes=whole.num_classes, say=self.observer.say
        )
        network.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    @property
    def verified(self) -> bool:
        """Whether all that is read of the data set was compared with what was prepared."""
        return self.data.verified and self.loading.verified

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        planned = self.config.schedule.epochs * len(self.loader)
        return min(planned, self.config.schedule.max_steps or planned)

    def run(self) -> list[Row]:
        """Train what is left of the run, then attack best and last weights; returns their results.

        SIGTERM, SIGINT and SIGUSR1 end it after the step under way, with a checkpoint, by :class:`Stopped`; a second
        SIGINT at once.
        """
        with (
            locked(self.directory.path, say=self.observer.say, wait=self.wait),
            deterministic(self.config.run.deterministic),
            nullcontext() if self.config.run.tf32 else strict_float32(),
            self.interruptions,
            self.curves,
            computing_with(self.threads.count) if self.device.type == "cpu" else nullcontext(),
        ):
            self._take()
            self._rehearse()
            self._begin()
            while self.step.steps_taken < self.total_steps or self._in_epoch():
                try:
                    self._finish_epoch(self._train_epoch(len(self.rows)) | self._validate())
                except DivergedError as error:
                    self._roll_back(error)
            results = [self._final(which) for which in WEIGHTS]
            self.directory.write_results(results)
        return results

    def _take(self) -> None:
        """Decide about the directory again, now that it is ours: another run may have had it since the first look."""
        RunDirectory.open(self.directory.path, self.config, resume=self.resume, anyway=self.resume_anyway)
        self.directory.sweep()
        if self.resume and self.directory.checkpoints.newest() != self._restored:
            self._restore()
        self._restore_weights()

    def _rehearse(self) -> None:
        """The closing steps before the first one: weights written, read back, attacked on an image, results, a title.
        Of the image a corner, which any network takes, and which costs a Wide ResNet on a CPU no seconds.

        What can't be done at the end, for want of space, rights or names, is told now, and leaves nothing.
        """
        with self.directory.scratch() as scratch:
            scratch.write_weights("last", self.model, self._metadata({"epoch": 0}, self.digest))
            model = models.load_model(scratch.path / WEIGHTS["last"]).to(self.device)
            evaluator = Evaluator(model, engine="eager", say=lambda line: None)
            image, attack = self.data.test.take(np.arange(1)), attack_named("pgd", eps=0, steps=1)
            corner = replace(image, images=image.images[:, :CORNER, :CORNER])
            scratch.write_metrics([{"accuracy": float(evaluator(corner, attack).mean())}])
            scratch.write_results([])
        draw_title(self.directory.path)

    def _begin(self) -> None:
        self.digests = self._digests()
        if self.step.steps_taken:
            # The checkpoint decides: the file lacks its last row if the run was stopped between writing the two.
            self._write_metrics()
            if not self.resume_anyway:
                given = {"options": self.options} if self.options else {}
                self.directory.note(**{DIGESTS: self.digests}, **given)
                return
        where = provenance(
            self.device,
            self.precision,
            self.data.whole,
            self.data.extra,
            standard=self.standard,
            init_fingerprint=self.init_fingerprint,
            loader=self.loading.name,
            verified=self.verified,
            execution=asdict(self.execution) | {"engine": self.step.engine.name},
            approximations=self.config.approximations,
        )
        self.directory.write_config(self.config, {**where, DIGESTS: self.digests, "options": self.options})

    def _digests(self) -> list[str]:
        """Of all settings that this run has had, the present ones' last: they are in ``config.json`` before anything
        else is written, as what was made before they changed remains the run's.
        """
        before = digests(self.directory.stored()) if self.resume and not self.directory.is_free() else []
        if before and self.step.steps_taken and not self.resume_anyway:
            return before
        return [*(each for each in before if each != self.digest), self.digest]

    def _in_epoch(self) -> int:
        """Steps taken of the epoch under way."""
        return self.step.steps_taken - int(sum(row["steps"] for row in self.rows))

    def _train_epoch(self, epoch: int) -> Row:
        began, first = time.perf_counter() - self.seconds, self._in_epoch()
        steps = min(len(self.loader), self.total_steps - self.step.steps_taken + first)
        scalars = self._scalars(epoch, steps - 1)
        self._set(scalars)
        self.step.come_to(progress(epoch, self.config.schedule.epochs))
        self.step.set(epoch=epoch)
        in_motion = moving(self.config.schedule)
        for number, batch in enumerate(islice(self.loader.epoch(epoch, first=first), steps - first), start=first):
            if in_motion:
                now = self._scalars(epoch, number)
                self.step.set(**{name: now[name] for name in in_motion})
            here = Batch(*(part.to(self.device, non_blocking=True) for part in batch.tensors))
            metrics = self.step(here.images, here.labels, index=here.index, rows=here.rows)
            self.meter.add(metrics)
            if self.device.type == "cpu" or number % FINITE_EVERY == 0 or number == steps - 1:
                require_finite(metrics["loss"], self.meter.nan_gradient, epoch=epoch, step=number)
            self.observer.step(epoch=epoch, step=number, images=len(here.index), metrics=metrics)
            self.seconds = time.perf_counter() - began
            if self.every.after_step(self.step.steps_taken):
                self._write_checkpoint()
            self._heed_signals()
        require_finite_network(self.model, epoch=epoch)
        self.seconds = time.perf_counter() - began
        measured = self.meter.row()
        return {
            "epoch": epoch,
            "steps": steps,
            **scalars,
            **measured,
            "caveats": caveats(measured, from_start=self._cleans_at_the_start()),
            "seconds": self.seconds,
            "images_per_second": steps * self._images_a_step() / self.seconds,
            "peak_memory_bytes": peak_memory_bytes(self.device),
        }

    def _cleans_at_the_start(self) -> bool:
        """Whether the clean logits of a step are those of the images that its attack started from."""
        attack, uses = self.config.attack, METHODS[self.config.objective.method]
        return attack.random_start and (attack.bn_mode == "train" or uses.stability)

    def _images_a_step(self) -> int:
        data = self.config.data
        extra = 0 if data.extra is None else extra_batch_size(data.batch_size, data.extra_ratio)
        return data.batch_size + extra

    def _heed_signals(self) -> None:
        """Where a signal has asked for it, end the run; what it has done so far is in a checkpoint."""
        if self.interruptions.requested is not None:
            self._write_checkpoint()
            self.directory.checkpoints.close()
            how = f"after a checkpoint; go on with: {self.directory.resuming()}"
            raise Stopped(self.interruptions.requested, how)

    def _write_checkpoint(self) -> None:
        """Of a good state only: one with a number that is none would be gone on from for ever."""
        require_finite_network(self.model, self.meter.nan_gradient, epoch=len(self.rows))
        self.directory.checkpoints.save(
            {
                "model": self.model.state_dict(),
                "step": self.step.state_dict(),
                "rows": self.rows,
                "meter": self.meter.state_dict(),
                "seconds": self.seconds,
                "rollbacks": self.rollbacks,
                RUN: self.digests[-1],
            },
            step=self.step.steps_taken,
        )
        self.every.written()

    def _roll_back(self, error: DivergedError) -> None:
        """Go on from the last checkpoint with the images in another order, or let ``error`` end the run."""
        rollbacks = self.rollbacks
        if self.on_nan != "rollback" or rollbacks >= MOST_ROLLBACKS or self._latest() is None:
            raise error
        self._restore()
        self.rollbacks = rollbacks + 1
        self._restore_weights(anew=True)
        self._write_metrics()
        self._reshuffle()
        self.observer.say(
            f"{error} Instead: back to step {self.step.steps_taken}, images in another order "
            f"({self.rollbacks} of {MOST_ROLLBACKS} times)"
        )

    def _reshuffle(self) -> None:
        self.loading = self._load(shuffle=self.rollbacks)
        self.loader = self.loading.loader

    def _scalars(self, epoch: int, step: int) -> dict[str, float]:
        """Of one step; an epoch's row has those of its last."""
        return as_row(scalars_of_step(self.config, epoch, step, len(self.loader)), self.config.schedule)

    def _set(self, scalars: dict[str, float]) -> None:
        if not self.config.objective.lam:
            scalars = {name: value for name, value in scalars.items() if name != "lam"}
        self.step.set(**scalars)

    def _validate(self) -> Row:
        began = time.perf_counter()
        split, name, attack = self.data.selection, self.data.selection_name, self.config.attack
        clean, pgd = (attack_named(each, eps=attack.eps, norm=attack.norm) for each in ("clean", "pgd"))
        try:
            row = {
                f"{name}_clean": self._accuracy(self.evaluator, split, clean),
                f"{name}_pgd10": self._accuracy(self.evaluator, split, pgd),
            }
        except NotFiniteError as error:
            raise diverged(f"{error.finding}, in epoch {len(self.rows) + 1}'s validation") from error
        return row | {"validation_seconds": time.perf_counter() - began}

    def _accuracy(self, evaluator: Evaluator, split: Split, attack: Attack) -> float:
        def progress(done: int) -> None:
            self.observer.evaluating(attack.name, done, len(split))
            self._heed_signals()

        return float(evaluator(split, attack, progress=progress).mean())

    def _score(self, row: Row) -> float:
        """What the best weights are chosen by: accuracy under PGD-10, on clean images for ``none``."""
        attacked = self.step.method.attacked
        return float(row[f"{self.data.selection_name}_{'pgd10' if attacked else 'clean'}"])

    def _finish_epoch(self, row: Row) -> None:
        # Ties take the later epoch (released code).
        row["best"] = all(self._score(row) >= self._score(earlier) for earlier in self.rows if earlier["best"])
        self.weights.settle(row, self.rows, self._expected().check)
        self.rows.append(row)
        self.weights.write(row, self.digests[-1])
        self.meter, self.seconds = EpochMeter(), 0.0
        if self.every.after_epoch(len(self.rows)) or self.step.steps_taken >= self.total_steps:
            self._write_checkpoint()
            self.directory.checkpoints.flush()  # a line of metrics speaks of a checkpoint that is there
        self._write_metrics()
        self.observer.epoch(row)
        labels = self.data.selection.labels
        require_life(
            self.rows,
            self.data.selection_name,
            largest_share=float(np.bincount(labels).max() / len(labels)),
            chance=1 / self.data.whole.num_classes,
        )

    def _write_metrics(self) -> None:
        self.directory.write_metrics(self.rows)
        if self.rows:
            self.curves.update()

    def _metadata(self, row: Row, run: str | None) -> dict[str, str]:
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

    def _restore_weights(self, *, anew: bool = False) -> None:
        """Have the files be those that the rows tell of."""
        if not self.rows:
            return
        more = self.step.steps_taken < self.total_steps or bool(self._in_epoch())
        epochs = -(-self.total_steps // len(self.loader))
        check, anyway = self._expected().check, self.resume_anyway
        self.weights.restore(self.rows, check, epochs=epochs, more=more, anew=anew, anyway=anyway)

    def _latest(self) -> Found | None:
        return self.directory.checkpoints.latest(self._expected().check)

    def _expected(self) -> Expected:
        name = self.data.selection_name
        return Expected(
            digests=digests(self.directory.stored()),
            model=self.model.state_dict(),
            check_step=self.step.check_state_dict,
            scores=(f"{name}_clean", f"{name}_pgd10"),
            epoch_steps=len(self.loader),
            rollbacks=MOST_ROLLBACKS,
        )

    def _restore(self) -> None:
        newest = self.directory.checkpoints.newest()
        if newest is None:
            return
        self._require_same_images()
        found = self._latest()
        assert found is not None
        self._restored = newest
        for line in found.skipped:
            self.observer.say(line)
        if self.device.type == "cpu" and not self.threads.why and (count := begun_with(self.directory.stored())):
            self.threads = as_begun(count)
        self.model.load_state_dict(found.state["model"])
        self.step.load_state_dict(found.state["step"])
        self.rows = found.state["rows"]
        self.meter = EpochMeter()
        self.meter.load_state_dict(found.state.get("meter", {}), self.device)
        self.seconds, self.rollbacks = found.state.get("seconds", 0.0), found.state.get("rollbacks", 0)
        if self.rollbacks:
            self._reshuffle()

    def _require_same_images(self) -> None:
        """And the same standard network: what a run goes on with is what it began with."""
        stored = self.directory.stored()
        found_now = {"data": self.data.whole.fingerprint, "extra": extra_fingerprint(self.data.extra)}
        for what, fingerprint in found_now.items():
            if stored.get(f"{what}_fingerprint") != fingerprint:
                raise self._other_images(what, stored.get(f"{what}_fingerprint"), fingerprint)
        if stored.get("standard_fingerprint") != network_fingerprint(self.standard):
            raise UserError(
                f"{self.directory.path} was trained with another standard network than "
                f"{self.config.objective.standard} holds now: bring that back, or choose another --out"
            )

    def _say_what_turns(self) -> None:
        """What the settings that the run goes on with change in its next epoch."""
        with suppress(UserError):  # settings of another version, which nobody can go on with unchanged
            moved = turn(self.directory.stored_config(), self.config, len(self.rows))
            if moved:
                self.observer.say(moved)

    def _other_images(self, what: str, before: str | None, now: str | None) -> UserError:
        whole, extra = self.data.whole, self.config.data.extra
        which, where = (whole.name, whole.prepared or "its package") if what == "data" else (what, extra)
        return UserError(
            f"{self.directory.path} was trained on other {which} images than are found now in {where}: their "
            f"fingerprint was {before}, it is {now}; bring those back, or choose another --out"
        )

    def _final(self, which: str) -> Row:
        """Accuracy on the test set of one of the two weight files, as written."""
        chosen = [row for row in self.rows if row["best"] or which == "last"][-1]
        file = self.directory.path / WEIGHTS[which]
        require_recorded(file)
        model = models.load_model(file).to(self.device)
        evaluator = Evaluator(model, engine="auto", say=self.observer.say)
        attack, steps = self.config.attack, self.config.run.final_steps
        named = partial(attack_named, eps=attack.eps, norm=attack.norm)
        attacks = [named("clean"), named("pgd")]
        if steps:
            attacks.append(named("pgd", steps=steps))
        accuracies = {attack.name: self._accuracy(evaluator, self.data.test, attack) for attack in attacks}
        return {"weights": which, "epoch": chosen["epoch"], SHA256: chosen.get(SHA256), "accuracy": accuracies}


def _ball(norm: str) -> dict[str, str]:
    """For the weights' metadata, where one of the L∞ ball tells none, as all files of earlier versions."""
    return {} if norm == PGD().norm else {"norm": norm}
