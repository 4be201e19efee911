"""The ways to run a step: call by call, by a recording of it, or with the network compiled."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from fastiseat.engine.algorithm1 import Algorithm1, StepInputs
from fastiseat.engine.place import Buffers
from fastiseat.engine.recording.cuda_graph import GraphCapturer
from fastiseat.engine.recording.guards import ModuleGuards
from fastiseat.engine.recording.recorder import (
    MOST_RECORDINGS,
    Capturer,
    Recorder,
    Tensors,
    UnrecordableError,
    World,
)
from fastiseat.engine.recording.tape import Tape
from fastiseat.engine.restore import modes_restored, own_randomness
from fastiseat.engine.settings import Settings, scalar_tensor
from fastiseat.errors import UserError, unknown
from fastiseat.fusion.undo import PythonState
from fastiseat.kernels.core.dispatch import VARIABLE

ENGINES = ("auto", "eager", "graph", "tape", "compile")
CAPTURERS = {"graph": "cuda", "tape": "cpu"}
"""The engines that record, and the kind of device that each does so on."""


class Engine(Protocol):
    """Runs :class:`~fastiseat.engine.algorithm1.Algorithm1`."""

    name: str

    def __call__(self, settings: Settings, given: StepInputs, *, seed: int) -> dict[str, Tensor]:
        """One step; ``seed`` is that of all random numbers that it draws."""


class Eager:
    """Call by call: the reference."""

    name = "eager"

    def __init__(self, algorithm: Algorithm1) -> None:
        self._algorithm = algorithm

    def __call__(self, settings: Settings, given: StepInputs, *, seed: int) -> dict[str, Tensor]:
        """See :class:`Engine`."""
        # Of each step anew, and not of the weights, which its last call alone writes.
        found = Buffers(self._algorithm.model)
        try:
            # Around the algorithm in every engine: itself it sets modes and draws numbers as it likes.
            with modes_restored(self._algorithm.model), own_randomness(given.images.device, seed):
                metrics = self._algorithm(settings, given)
        except BaseException:
            found.restore()  # the update of weights is the last thing to happen, that of statistics is not
            raise
        # Only now: a step that raised has touched nothing that a file should hold.
        self._algorithm.update.kept.touch(*self._algorithm.update.written)
        return metrics


class Compiled(Eager):
    """Call by call, the network by torch.compile.

    A compiled backward computes all gradients that it was compiled for, and only as a whole: the attack gets weights
    that want none, and the clean pass is computed a second time for its own. 29 units an ISEAT step.
    """

    name = "compile"

    def __init__(self, algorithm: Algorithm1) -> None:
        super().__init__(algorithm)
        algorithm.recompute()
        algorithm.passes.compile()


class Recorded:
    """By a recording: a replay computes the whole step from the numbers, images and weights of its time."""

    def __init__(
        self, name: str, capturer: Callable[[], Capturer], algorithm: Algorithm1, guards: ModuleGuards
    ) -> None:
        self.name, self._capturer = name, capturer
        self._algorithm, self._guards = algorithm, guards
        self._recorder = Recorder(capturer)
        self._settings: Settings | None = None
        self._structure: Hashable = None
        self._bound: Settings | None = None
        """The settings, their numbers in the tensors that recordings read."""
        self._numbers: dict[str, float] = {}
        self._tensors: dict[str, Tensor] = {}
        self._written: dict[Hashable, tuple[Collection[str], Collection[str]]] = {}
        """What the program of each recording writes; replays run none of its Python."""

    def __call__(self, settings: Settings, given: StepInputs, *, seed: int) -> dict[str, Tensor]:
        """See :class:`Engine`."""
        algorithm, networks = self._algorithm, settings.trained.networks
        # A recording has one sequence of random numbers, which goes on: it can't draw earlier ones again.
        if algorithm.draws and algorithm.recompute_clean:
            raise UnrecordableError("a second clean pass would have to draw the network's random numbers again")
        # By identity, as settings never change: most steps have those of the one before, and write nothing.
        if settings is not self._settings:
            self._take(settings)
        # The module was looked at when the call began.
        looks = self._guards.latest, algorithm.frozen.state(networks)
        key = self._structure, algorithm.recompute_clean, looks, switches()
        inputs = {name: tensor for name, tensor in given._asdict().items() if tensor is not None}
        # With rows, images and labels are the whole data set: read where they lie, never copied into a recording.
        resident = {name: inputs.pop(name) for name in ("images", "labels")} if given.rows is not None else {}
        world = World(
            device=given.images.device,
            persistent=lambda: [*self._persistent(), *algorithm.frozen.tensors(networks)],
            changing=self._changing,
            state=lambda: (self._guards.state(), algorithm.frozen.state(networks)),
            remember=lambda: _put_back([PythonState(model) for model in (algorithm.model, *networks)]),
            resident=list(resident.values()),
        )
        metrics = self._recorder.run(key, partial(self._program, key, resident), inputs, world, seed=seed)
        algorithm.update.kept.touch(*self._written[key])
        return metrics

    def _take(self, settings: Settings) -> None:
        """Write the numbers of ``settings`` where recordings read them."""
        weight = next(weight for weight in self._algorithm.model.parameters() if weight.requires_grad)
        for name, value in settings.scalars().items():
            if name not in self._tensors:
                self._tensors[name] = scalar_tensor(name, weight)
            # Into the same memory, which recordings read: a new number costs no new recording.
            if value != self._numbers.get(name):
                self._tensors[name].fill_(value)
        self._settings, self._numbers = settings, settings.scalars()
        self._structure = settings.structure()
        self._bound = settings.with_tensors({name: self._tensors[name] for name in self._numbers})

    def _program(self, key: Hashable, resident: Tensors, inputs: Tensors) -> Mapping[str, Tensor]:
        assert self._bound is not None
        with modes_restored(self._algorithm.model):
            metrics = self._algorithm(self._bound, StepInputs(**resident, **inputs))
        # Popped first, so that the key moves to the end.
        self._written.pop(key, None)
        self._written[key] = self._algorithm.update.written
        if len(self._written) > MOST_RECORDINGS:  # those of the last ones are at the end
            del self._written[next(iter(self._written))]
        return metrics

    def _changing(self) -> list[Tensor]:
        algorithm = self._algorithm
        return [*self._guards.tensors(), *algorithm.update.kept.tensors(), *algorithm.loss_scale.tensors]

    def _persistent(self) -> list[Tensor]:
        return [*self._changing(), *self._algorithm.update.tensors(), *self._tensors.values()]


def _put_back(states: Sequence[PythonState]) -> Callable[[], object]:
    return lambda: [state.restore() for state in states]


def switches() -> Hashable:
    """The process-wide settings that choose kernels, or what a module makes."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return (
        os.environ.get(VARIABLE),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        # Reading allow_tf32 is an error where these were set.
        (cuda.fp32_precision, cudnn.conv.fp32_precision),  # type: ignore[attr-defined]
        (cudnn.deterministic, cudnn.enabled),
    )


def engine_named(name: str, algorithm: Algorithm1, guards: ModuleGuards) -> Engine:
    """:class:`UserError` for an unknown one, or one that does not run on this device or with this update."""
    device = next(weight.device for weight in algorithm.model.parameters())
    chosen = chosen_engine(name, device, unrecordable=algorithm.update.optimizer.unrecordable)
    if chosen in CAPTURERS:
        return Recorded(chosen, capturer(chosen, device), algorithm, guards)
    return Compiled(algorithm) if chosen == "compile" else Eager(algorithm)


def chosen_engine(name: str, device: torch.device, *, unrecordable: str = "") -> str:
    """``name``, or what ``auto`` comes to; :class:`UserError` for an unknown one, or one for another device or update.

    ``unrecordable`` says why the update of the weights can't be recorded, where that is so.
    """
    if name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    if name == "auto":
        return auto_in_words(device)[0] if not unrecordable else "eager"
    wanted = CAPTURERS.get(name, device.type)
    if device.type != wanted:
        raise UserError(
            f"engine={name}: it records on a {wanted} device, the model lies on {device}; take engine eager, or auto"
        )
    if name in CAPTURERS and unrecordable:
        raise UserError(f"engine={name}: {unrecordable}; take engine eager, or auto")
    return name


def capturer(name: str, device: torch.device) -> Callable[[], Capturer]:
    """What makes the recordings of one of :data:`CAPTURERS`."""
    return partial(GraphCapturer, device) if name == "graph" else Tape


def auto_in_words(device: torch.device) -> tuple[str, str]:
    """What ``auto`` comes to on a device, and why."""
    if device.type == "cuda":
        return "graph", "the whole step as one CUDA graph; eager where it can't be recorded"
    return "eager", f"CUDA graphs do not run on {device}"
