"""One training step for any module: the checks around Algorithm 1, and the choice of the engine that runs it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fastiseat.attacks.balls import ball_named
from fastiseat.config import AWP, MOMENTUM, PGD, Optimizer
from fastiseat.engine import accept
from fastiseat.engine.algorithm1 import Algorithm1, StepInputs
from fastiseat.engine.frozen import Frozen
from fastiseat.engine.passes import Passes
from fastiseat.engine.precision import LossScale
from fastiseat.engine.recording.engines import Engine, engine_named
from fastiseat.engine.recording.guards import ModuleGuards
from fastiseat.engine.recording.recorder import Snapshot, UnrecordableError
from fastiseat.engine.restore import counter_seed, own_randomness, random_state
from fastiseat.engine.settings import Settings
from fastiseat.engine.state import check_state
from fastiseat.engine.trainable import check_held, trainable
from fastiseat.errors import UserError, unknown
from fastiseat.fields import require, shown, typed
from fastiseat.fusion.turns import taking_turns
from fastiseat.fusion.undo import tensors_of, undone
from fastiseat.methods import Method
from fastiseat.models.answers import logits_of
from fastiseat.pipelines.protocol.augmentation import Augmentation
from fastiseat.safe import one_line
from fastiseat.weights import Average, Update

# A caller's inference mode would make buffers that no gradient may ever flow through.
_as_ever = torch.inference_mode(mode=False)

CLEAN_GRAPHS = ("keep", "recompute", "auto")


def _warn(line: str) -> None:
    warnings.warn(one_line(line), RuntimeWarning, stacklevel=2)


def _check_choices(
    precision: object, engine: object, clean_graph: object, overlap: object, seed: object, say: object
) -> None:
    for name, text in {"precision": precision, "engine": engine, "clean_graph": clean_graph}.items():
        typed(name, text, str)
    if clean_graph not in CLEAN_GRAPHS:
        raise unknown("clean_graph", clean_graph, CLEAN_GRAPHS)
    typed("overlap", overlap, bool)
    typed("seed", seed, int)
    require(callable(say), "say", shown(say), "a function of one line is needed, such as print")


class TrainStep:
    """Attack, weight perturbation, objective and update for any ``nn.Module`` that returns logits.

    ``step(images, labels)`` trains on one batch and returns metrics as device tensors: ``loss`` and
    ``loss_<term>`` (scalars), ``accuracy_adversarial`` if the method attacks, ``nan_gradient`` (bool) if this step
    did so, except in fp16, and where the clean logits are at hand ``accuracy_clean``, ``loss_clean`` and ``av``, the
    per-sample AV of Eq. 13 (m,).

    The module's parameters must all be float32 or all float64; each submodule's train/eval flag, the global
    random state and the frozen parameters are left as found, and θ+ν is never written into the module.
    BatchNorm's running statistics are updated by the clean pass, by each further attack pass and by the final
    one, in this order (11 times at K = 10; released code). With ``attack.bn_mode="eval"`` the whole attack
    runs on the running statistics that the step found, and the clean pass of a method that needs one follows
    it, in train mode.

    Raises :class:`fastiseat.errors.UserError` for a module or batch that it can't take, saying why. Pixel and
    label ranges are checked at every call on a CPU, at the first one on a GPU, where the check has to wait.
    """

    @_as_ever
    @taking_turns()
    def __init__(
        self,
        model: nn.Module,
        *,
        method: Method | str | None = None,
        attack: PGD | None = None,
        awp: AWP | None = None,
        optimizer: Optimizer | None = None,
        average: Average | None = None,
        augmentation: Augmentation | None = None,
        precision: str = "full",
        engine: str = "auto",
        clean_graph: str = "auto",
        overlap: bool = False,
        seed: int = 0,
        say: Callable[[str], None] = _warn,
    ) -> None:
        """``None`` takes the default: ``ISEAT()``, the method's ``default_attack``, no weight perturbation, ``SGD()``.

        ``method`` may be a name of ``fastiseat list methods``: the method with its own numbers and, where ``attack``
        and ``awp`` are None, its recipe's start of the attack, BatchNorm mode and weight perturbation, with PGD's ε and
        steps.

        ``precision`` is ``full`` (the parameters' own), ``bf16`` or ``fp16``: our own networks run on a copy of
        the weights that is rounded once a step, others by autocast, which rounds them alike.
        Parameters, δ, losses and ranks stay in full precision.

        ``engine`` is ``eager`` (call by call, the reference), ``graph`` (the whole step as one CUDA graph), ``tape``
        (the same recording by PyTorch's operators on a CPU: slow, a proof), ``compile`` (the network by
        torch.compile) or ``auto``: graph on a CUDA device where the step can be recorded, else eager.

        ``clean_graph`` is what becomes of the clean pass until its gradient is due: ``keep`` its graph, ``recompute``
        it for one forward more and half the memory, or ``auto``: keep, unless memory runs out in the first step.

        ``overlap`` runs the clean pass and its backward on a second stream, with engine graph alone.

        ``average``, such as :class:`fastiseat.EMA`, is kept of the weights and read as :attr:`averaged`; the module
        itself is never averaged.

        ``augmentation`` is what images go through that come with an ``index``. ``say`` is told in a line where
        ``auto`` had to choose the slower way; by default it warns.
        """
        _check_choices(precision, engine, clean_graph, overlap, seed, say)
        accept.check_alone()
        self.model = model
        self.weights = trainable(model)
        self.settings = Settings.of(
            method=method, attack=attack, awp=awp, optimizer=optimizer, augmentation=augmentation
        )
        self.seed, self._say = seed, say
        self.steps_taken = 0
        self.num_classes: int | None = None  # known from the first call on
        self._device = next(iter(self.weights.values())).device
        self._guards = ModuleGuards(model)
        self._adopted: object = None
        self._may_draw = False  # other random numbers than when it was tried
        self._passes = Passes(model, precision=precision, device=self._device)
        self._loss_scale = LossScale(enabled=precision == "fp16", device=self._device)
        self.average = typed("average", average, Average | None)
        self._update = Update(
            self.weights,
            optimizer=self.settings.optimizer,
            awp=self.settings.awp,
            average=average,
            full_precision=self._passes.full_precision,
        )
        # Refused at once: a teacher that is the network in training would move with it.
        check_held(self.method.networks, model)
        self._algorithm = Algorithm1(
            model=model,
            passes=self._passes,
            update=self._update,
            loss_scale=self._loss_scale,
            frozen=Frozen(precision=precision, device=self._device),
            recompute_clean=clean_graph == "recompute",
        )
        self._may_recompute = clean_graph == "auto"
        self._may_fall_back = engine == "auto"
        self.engine: Engine = engine_named(engine, self._algorithm, self._guards)
        self._algorithm.run_on(streams=2 if overlap and self.engine.name == "graph" else 1)
        if overlap and (idle := self._not_overlapping()):
            say(f"overlap changes nothing: {idle}")

    def _not_overlapping(self) -> str:
        """Why no two passes run at once; nothing where they do."""
        if not self.settings.needs_clean:
            return f"method {type(self.method).__name__} has no clean pass to run beside the other"
        return "" if self._algorithm.overlap else f"engine {self.engine.name} has one stream; engine graph has two"

    @property
    def method(self) -> Method:
        """What the attack climbs and the update descends."""
        return self.settings.method

    @property
    def attack(self) -> PGD:
        """The attack's settings."""
        return self.settings.attack

    @property
    def awp(self) -> AWP:
        """The weight perturbation's."""
        return self.settings.awp

    @property
    def optimizer(self) -> Optimizer:
        """The update's."""
        return self.settings.optimizer

    @property
    def momentum_buffers(self) -> dict[str, Tensor]:
        """The momentum by parameter name, of those that have been updated with any."""
        found: dict[str, Tensor] = self._update.kept.by_name().get(MOMENTUM, {})
        return found

    @property
    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights by parameter name, each like its parameter; they change with the next step.

        A copy of the module takes them by ``load_state_dict(step.averaged, strict=False)``; its BatchNorms keep the
        running statistics of the weights that were trained.

        Raises:
            UserError: no average is kept.
        """
        if self.average is None:
            raise UserError("averaged: this step keeps no average; give it one, TrainStep(average=EMA())")
        return self._update.averaged()

    @property
    def state_bytes(self) -> dict[str, int]:
        """Memory of what the step keeps from call to call beside the weights: bytes by the names of the state."""
        return self._update.kept.num_bytes()

    def set(self, **scalars: float) -> None:
        """Change lr, momentum, eps, step_size, lam, gamma or epoch from the next call on; all or, on an error, none."""
        self.settings = self.settings.set(scalars)

    def come_to(self, fraction: float) -> None:
        """``fraction`` of the run, 0 … 1, is over: a method in stages goes on with the one of now."""
        typed("fraction", fraction, float)
        self.settings = replace(self.settings, method=self.method.at_progress(fraction))

    @_as_ever
    @taking_turns()
    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        delta: Tensor | None = None,
        *,
        start: Tensor | None = None,
        index: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Train on ``images`` (m, C, H, W) in [0, 1], or uint8 (m, H, W, C), and ``labels`` (m,) int64.

        Images are taken up to 1e-6 beyond [0, 1], which rounding leaves; x' lies in it.
        ``delta`` is a finished perturbation, which takes the place of the attack; ``start`` the first one,
        which the attack then climbs from; both lie within the attack's ε, up to 1e-6 of rounding, and have a row for
        each view of an image. With ``index`` (m,) int64, each sample's place in the data set, uint8 images are
        augmented first; a method with two views needs it. With ``rows`` (m,) int64 too, images and labels are any
        number, whose samples ``rows`` are the batch: a data set that lies in the device's memory stays where it is.
        """
        usable = accept.outside_inference
        given = StepInputs(*map(usable, (images, labels)), *map(usable, (delta, start, index, rows)))
        self._look_at(given)
        # Counted, not drawn on: a resume needs no random state, and an extra pass shifts no later numbers.
        seed = counter_seed(self.seed, self.steps_taken)
        metrics = self._run(given, seed)
        # Last: a step that raised has not been taken, and draws the same numbers when it is tried again.
        self.steps_taken += 1
        return metrics

    def _look_at(self, given: StepInputs) -> None:
        """Take in the module as it is now, and refuse what can't be trained."""
        accept.check_alone()
        accept.check_no_cache()
        if self._guards.state() != self._adopted:
            self.weights = trainable(self.model)
            self._update.refresh(self.weights)
            # A module that was changed may draw random numbers now, which the first trial did not see.
            self._may_draw = self._adopted is not None
            self._adopted = self._guards.state()
        weight = next(iter(self.weights.values()))
        accept.check_images(given.images, weight)
        accept.check_labels(given.images, given.labels)
        views = self.settings.trained.views
        accept.check_places(given.images, given.index, given.rows, views=views)
        if given.rows is None:
            accept.check_perturbations(given.images, given.delta, given.start, weight, views=views)
        if given.delta is not None and self.settings.trained.watch is not None:
            raise UserError(
                f"delta: {type(self.method).__name__} reads how its attack went, of which a finished perturbation "
                "tells nothing: give a start, or neither"
            )
        if given.delta is None and given.start is None and not self.settings.trained.start.moves:
            self.settings.trained.require_start(self.settings.attack)
        twice = self.settings.needs_clean and (self._algorithm.recompute_clean or self._may_recompute)
        if self.num_classes is None or (twice and self._may_draw):  # numbers that are to be drawn twice
            self.num_classes, self._may_draw = self._try(given), False
        # On a GPU reading pixels and labels waits for the device: done once, not at each call.
        elif self._device.type != "cpu":
            return
        accept.check_values(given.images, given.labels, self.num_classes)
        accept.check_in_ball(self.attack.eps, ball_named(self.attack.norm), delta=given.delta, start=given.start)

    def _try(self, given: StepInputs) -> int:
        """Run the network once, leaving no trace; the number of classes."""
        x, y = self._algorithm.batch(self.settings, given)
        seeded = own_randomness(self._device, self.seed)
        with undone(self.model, tensors_of(self.model)), seeded, torch.no_grad():
            # Whether the network draws is told by the generators having moved: no module has to say so.
            before = random_state(self._device)
            self.model.train()
            logits = self._first_logits(x, given.images)
            now = random_state(self._device)
            answers = [self._algorithm.frozen(network, x) for network in self.settings.trained.networks]
        self._algorithm.tried(draws=not all(map(torch.equal, before, now)))
        num_classes = accept.count_classes(logits, len(y))
        for answer in answers:
            accept.check_same_classes(answer, len(y), num_classes)
        return num_classes

    def _first_logits(self, x: Tensor, images: Tensor) -> Tensor:
        try:
            return logits_of(self._passes.raw(x, {}))
        except RuntimeError as error:
            accept.check_layout(images, error)
            raise

    def _run(self, given: StepInputs, seed: int) -> dict[str, Tensor]:
        """By the engine; where it was ours to choose, by the humbler one if it can't be done."""
        try:
            return self._run_in_memory(given, seed)
        except UnrecordableError as error:
            reason = str(error)
            if not self._may_fall_back:
                raise UserError(
                    f"engine={self.engine.name}: this step cannot be recorded: {reason}; take engine eager"
                ) from error
        self._say(f"engine=auto takes eager: this step cannot be recorded: {reason}")
        self.engine = engine_named("eager", self._algorithm, self._guards)
        self._algorithm.run_on(streams=1)
        return self._run_in_memory(given, seed)

    def _run_in_memory(self, given: StepInputs, seed: int) -> dict[str, Tensor]:
        """With the clean graph kept, or recomputed where that was ours to choose and it does not fit."""
        if not (self._may_recompute and self.settings.needs_clean):
            return self.engine(self.settings, given, seed=seed)
        # The failed attempt may have updated running statistics before memory ran out; the second has to find them
        # as the first did.
        found = Snapshot([*self._guards.tensors(), *self._update.kept.tensors(), *self._loss_scale.tensors])
        try:
            metrics = self.engine(self.settings, given, seed=seed)
        except torch.OutOfMemoryError:
            found.restore()
        else:
            self._may_recompute = False
            return metrics
        # Out of the handler, whose traceback holds the tensors of the failed step.
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self._say("clean_graph=auto takes recompute: two graphs do not fit into memory at once")
        self._algorithm.recompute()
        self._may_recompute = False
        return self.engine(self.settings, given, seed=seed)

    def __reduce__(self) -> tuple[Callable[..., TrainStep], tuple[object, ...]]:
        """Copied or unpickled it goes on to the same bits, with a module, and its engine's recordings, of its own."""
        is_settled = self.engine.name == "eager" or not self._may_fall_back
        remade = "recompute" if self._algorithm.recompute_clean else "keep"
        choices = {
            "precision": self._passes.precision,
            "engine": self.engine.name if is_settled else "auto",
            "clean_graph": "auto" if self._may_recompute else remade,
            "overlap": self._algorithm.overlap,
            "average": self.average,
            "seed": self.seed,
            "say": self._say,
        }
        return _again, (type(self), self.model, self.settings, choices, self.state_dict())

    @_as_ever
    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on beside the module and the arguments: by name the state of optimizer, weight
        perturbation and average, each a tensor or tensors by weight; step count and loss scale.

        SGD's is ``momentum_buffers``, of the weights that have been updated with any. The tensors are the step's own
        memory, which its next call changes; ``last_gradients`` are copies.
        """
        numbers = {"steps_taken": self.steps_taken, "loss_scale": self._loss_scale.state_dict()}
        return self._update.kept.by_name() | numbers

    def check_state_dict(self, state: Any) -> None:
        """:class:`UserError` unless :meth:`load_state_dict` can take ``state``."""
        check_state(state, self._update.kept)

    @_as_ever
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as the step that ``state_dict`` was taken of; :class:`UserError` if it does not match.

        Then nothing has changed. A weight that an entry lacks goes on as before its first step: ``{}`` begins an entry
        anew.
        """
        self.check_state_dict(state)
        self._update.kept.load(state)
        self.steps_taken = int(state["steps_taken"])
        self._loss_scale.load_state_dict(state["loss_scale"])


def _again(
    kind: type[TrainStep], model: nn.Module, settings: Settings, choices: dict[str, Any], state: dict[str, Any]
) -> TrainStep:
    """A step of what another was made of, in its state."""
    parts = {name: getattr(settings, name) for name in ("method", "attack", "awp", "optimizer", "augmentation")}
    one = kind(model, **parts, **choices)
    one.settings = settings
    one.load_state_dict(state)
    return one
