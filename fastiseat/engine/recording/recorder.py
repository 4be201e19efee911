"""Calls by a recording: computed once for the recorder, then replayed without Python; the same on every capturer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from fastiseat.engine.restore import own_randomness, random_state
from fastiseat.errors import UserError
from fastiseat.fusion.undo import random_numbers

Tensors = Mapping[str, Tensor]
Program = Callable[[Tensors], Tensors]

# Of a result: its dtype, and whether it has a dimension.
Kind = tuple[torch.dtype, bool]

# Recordings of other settings or shapes that are kept for their return; each holds the memory of a whole step.
MOST_RECORDINGS = 4


class UnrecordableError(Exception):
    """Says in one line why a recording of this computation would not compute the same."""


class Capturer(Protocol):
    """One recording: made between :meth:`begin` and :meth:`end`, then replayed any number of times."""

    warm_ups: int
    """How often the computation runs before it is recorded: libraries choose, load and compile their kernels."""

    def warming_up(self) -> AbstractContextManager[object]:
        """Where those runs take place."""

    def begin(self, persistent: Sequence[Tensor]) -> None:
        """From here on everything is recorded. ``persistent`` is all memory from outside that it may touch."""

    def end(self) -> None:
        """Nothing is recorded any more; called after an error too."""

    def replay(self) -> None:
        """Compute it again from what the persistent memory holds now, into the same memory."""


@dataclass(frozen=True, kw_only=True)
class World:
    """What a program depends on beside its inputs."""

    device: torch.device
    persistent: Callable[[], Sequence[Tensor]]
    """All memory that it reads or writes and that outlives it."""
    changing: Callable[[], Sequence[Tensor]]
    """What of it a call changes for the next one."""
    state: Callable[[], Hashable]
    """What of Python's objects it depends on; a call leaves it as it is."""
    remember: Callable[[], Callable[[], object]]
    """Notes it for the function returned, which puts it back."""
    resident: Sequence[Tensor] = field(default=())
    """Memory that belongs to the call and is read in place."""


class Snapshot:
    """The values of tensors, to be put back."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        # Clones: what is put back must not be the memory that is written meanwhile.
        self._found = [(tensor, tensor.detach().clone()) for tensor in tensors]

    @torch.no_grad()
    def restore(self) -> None:
        """Write them where they were, in place."""
        for tensor, value in self._found:
            tensor.copy_(value)


class Recording:
    """One program on inputs of one kind: memory for these, and the results' memory packed by dtype."""

    def __init__(self, capturer: Capturer, inputs: Tensors) -> None:
        self._capturer = capturer
        # Memory of its own, which the recording reads at each replay: the caller's tensors are others at every
        # call. In their layout, which kernels were chosen for.
        self._inputs = {name: tensor.clone(memory_format=torch.preserve_format) for name, tensor in inputs.items()}
        self.draws = False
        """Whether it draws random numbers."""
        self._persistent: list[Tensor] = []
        self._results: dict[str, tuple[Kind, torch.Size]] = {}
        """Of each result its kind and shape."""
        self._packed: dict[Kind, Tensor] = {}
        self._sizes: dict[Kind, list[int]] = {}

    def record(self, program: Program, world: World, *, seed: int) -> None:
        """Warm up and record; what a call changes is put back exactly, whatever happens."""
        # Warm-ups train the module for real, and so does a tape's recording. Only the replay that follows is the
        # step that was asked for, and it has to begin where the caller stands.
        changed, state, put_back = Snapshot(world.changing()), world.state(), world.remember()
        try:
            with own_randomness(world.device, seed):
                self._warm_up(program, world)
                # A module that is another one after each pass would need another recording at each step.
                if world.state() != state:
                    raise UnrecordableError("the model's attributes are other ones after each pass")
            # Held for as long as the recording lives: what else lies where it is going to read and write?
            self._persistent = [*world.persistent(), *world.resident, *self._inputs.values()]
            with own_randomness(world.device, seed):
                self._record(program)
        finally:
            changed.restore()
            put_back()

    def _record(self, program: Program) -> None:
        # Nothing of the warm-up is among these: a tensor that the program has kept from it is not its own at a
        # replay.
        self._capturer.begin(self._persistent)
        try:
            self._pack(program(self._inputs))
        except BaseException:
            with suppress(Exception):  # a capture that failed complains at its end again
                self._capturer.end()
            raise
        self._capturer.end()

    def replay(self, inputs: Tensors, device: torch.device, *, seed: int) -> dict[str, Tensor]:
        """The results for ``inputs``, in memory of their own."""
        for name, tensor in inputs.items():
            self._inputs[name].copy_(tensor, non_blocking=True)
        if self.draws:
            with own_randomness(device, seed):
                self._capturer.replay()
        else:
            self._capturer.replay()
        return self._unpack()

    def _warm_up(self, program: Program, world: World) -> None:
        # A replay draws torch's numbers on the device anew, but none on the host: those would be frozen in it.
        put_back, before = random_numbers(), random_state(world.device)
        with self._capturer.warming_up():
            # What happens once alone belongs here: cuDNN's trials, Triton's compiling, buffers that are made on
            # demand. Some of it waits for the device or allocates, which a capture may not.
            for _ in range(self._capturer.warm_ups):
                program(self._inputs)
        drawn = [not torch.equal(*pair) for pair in zip(before, random_state(world.device), strict=True)]
        if put_back() or (len(drawn) > 1 and drawn[0]):
            raise UnrecordableError("the model draws random numbers on the host")
        self.draws = any(drawn)

    def _pack(self, results: Tensors) -> None:
        """One tensor for all numbers of a dtype, one for all else: a replay's results are copied by few calls."""
        self._results = {name: ((t.dtype, t.dim() > 0), t.shape) for name, t in results.items()}
        groups: dict[Kind, list[Tensor]] = {}
        for name, tensor in results.items():
            groups.setdefault(self._results[name][0], []).append(tensor.detach().reshape(-1))
        self._packed = {kind: torch.cat(group) for kind, group in groups.items()}
        self._sizes = {kind: [len(tensor) for tensor in group] for kind, group in groups.items()}

    def _unpack(self) -> dict[str, Tensor]:
        # Clones, as the next replay writes into the same memory, and a caller may keep metrics of many steps.
        parts = {kind: iter(self._parts(kind, packed.clone())) for kind, packed in self._packed.items()}
        return {
            name: next(parts[kind]).view(shape) if shape else next(parts[kind])
            for name, (kind, shape) in self._results.items()
        }

    def _parts(self, kind: Kind, packed: Tensor) -> Sequence[Tensor]:
        return packed.split(self._sizes[kind]) if kind[1] else packed.unbind()


class Recorder:
    """Runs programs by recordings of them, one for each key and each kind of inputs."""

    def __init__(self, capturer: Callable[[], Capturer]) -> None:
        self._capturer = capturer
        self._recordings: dict[Hashable, Recording] = {}

    def run(
        self, key: Hashable, program: Program, inputs: Tensors, world: World, *, seed: int = 0
    ) -> dict[str, Tensor]:
        """``program(inputs)``, by a recording that is made where there is none for ``key`` yet.

        ``key`` tells what the program computes and where its memory lies, the world's state with it; inputs are told
        apart by shape, dtype and layout, the resident ones by address.

        Raises:
            UnrecordableError: a recording would compute something else; nothing has changed.
        """
        kinds = tuple([(name, t.shape, t.dtype, t.stride()) for name, t in inputs.items()])
        key = key, kinds, tuple([(t.data_ptr(), t.shape, t.dtype, t.stride()) for t in world.resident])
        recording = self._recordings.get(key)
        if recording is None:
            recording = self._record_in_memory(key, program, inputs, world, seed)
        return recording.replay(inputs, world.device, seed=seed)

    def _record_in_memory(
        self, key: Hashable, program: Program, inputs: Tensors, world: World, seed: int
    ) -> Recording:
        """Without the other recordings where there is no room for one more."""
        # With none to drop the error is the caller's, who may recompute the clean graph instead.
        with suppress(*([torch.OutOfMemoryError] if self._recordings else [])):
            return self._record(key, program, inputs, world, seed)
        self._recordings.clear()
        return self._record(key, program, inputs, world, seed)

    def _record(self, key: Hashable, program: Program, inputs: Tensors, world: World, seed: int) -> Recording:
        recording = Recording(self._capturer(), inputs)
        # Before the new one is made: each holds the memory of a whole step.
        while len(self._recordings) >= MOST_RECORDINGS:
            del self._recordings[next(iter(self._recordings))]
        try:
            recording.record(program, world, seed=seed)
        except (UserError, UnrecordableError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever a driver or a user's code raises
            raise UnrecordableError(" ".join(str(error).split())[:300] or type(error).__name__) from error
        self._recordings[key] = recording
        return recording
