"""The ways to run an evaluation's programs: call by call, or by a recording of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from fastiseat.engine.recording.engines import CAPTURERS, capturer, chosen_engine, switches
from fastiseat.engine.recording.guards import ModuleGuards
from fastiseat.engine.recording.recorder import Capturer, Recorder, UnrecordableError, World
from fastiseat.engine.restore import fastest_convolutions, own_randomness
from fastiseat.fusion.undo import PythonState

Result = TypeVar("Result")


class Program(Protocol):
    """What an evaluation computes on a device, such as a trial; equal ones compute the same."""

    def __call__(self, given: Mapping[str, Tensor], /) -> Mapping[str, Tensor]:
        """Its results for tensors that have ``images`` among them."""

    def __hash__(self) -> int: ...


class Runner(Protocol):
    """Runs a :class:`Program`."""

    name: str

    def __call__(self, program: Program, given: Mapping[str, Tensor], *, seed: int) -> Mapping[str, Tensor]:
        """What it says of ``given``; ``seed`` is that of all random numbers that it draws."""


class EagerRunner:
    """Call by call: the reference."""

    name = "eager"

    def __call__(self, program: Program, given: Mapping[str, Tensor], *, seed: int) -> Mapping[str, Tensor]:
        """See :class:`Runner`."""
        with own_randomness(given["images"].device, seed):
            return program(given)


class Recorded:
    """By a recording, made at the first program of its kind: a replay reads the numbers and weights of its time."""

    def __init__(self, name: str, capturer: Callable[[], Capturer], model: nn.Module) -> None:
        self.name = name
        self._guards = ModuleGuards(model)
        self._recorder = Recorder(capturer)

    def __call__(self, program: Program, given: Mapping[str, Tensor], *, seed: int) -> Mapping[str, Tensor]:
        """See :class:`Runner`."""
        world = World(
            device=given["images"].device,
            persistent=self._guards.tensors,
            changing=self._guards.tensors,  # buffers may, in eval mode too
            state=self._guards.state,
            remember=lambda: PythonState(self._guards.model).restore,
        )
        key = program, self._guards.state(), switches()
        # Around the recording too: the kernels that a warm-up chose are the ones that are replayed.
        with fastest_convolutions(world.device):
            return self._recorder.run(key, program, given, world, seed=seed)


def runner_named(name: str, model: nn.Module) -> Runner:
    """:class:`UserError` for an unknown one, or one that does not run on this device; ``compile`` is eager."""
    device = next(model.parameters()).device
    chosen = chosen_engine(name, device)
    return Recorded(chosen, capturer(chosen, device), model) if chosen in CAPTURERS else EagerRunner()


class Recovering:
    """A runner and, from the first program on that it can't record, call by call in its place, which is said."""

    def __init__(self, runner: Runner, say: Callable[[str], None]) -> None:
        self._runner, self._say = runner, say

    @property
    def name(self) -> str:
        """Of the runner in use."""
        return self._runner.name

    @property
    def records(self) -> bool:
        """Whether programs are recorded still."""
        return not isinstance(self._runner, EagerRunner)

    def attempt(self, called: str, work: Callable[[Runner], Result]) -> Result:
        """``work`` by the runner in use; done a second time, call by call, where it asks for what can't be recorded."""
        try:
            return work(self._runner)
        except (UnrecordableError, torch.OutOfMemoryError) as error:
            if not self.records:
                raise
            reason = " ".join(str(error).split())
        # Out of the handler, whose traceback holds the tensors of the failed recording.
        self._say(f"evaluation takes engine eager: {called} cannot be recorded: {reason}")
        self._runner = EagerRunner()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        return work(self._runner)
