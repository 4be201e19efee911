"""A recording that any machine can make and replay: the calls of PyTorch's operators, one after the other.

It is slower than the computation itself, and keeps all of its memory. What it is for is to show that nothing of a
step happens outside of what a CUDA graph would replay.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import get_ident
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from fastiseat.engine.recording.recorder import UnrecordableError
from fastiseat.kernels.core import launches

# They give memory and no values.
_EMPTY = {"aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty", "aten::new_empty_strided"}
# They tell something of a tensor, not of its values.
_OF_METADATA = {"aten::is_same_size"}
# By a mask they have as many rows as it has true values, which the host would wait for; by integers they don't.
_MASKED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
# They reach into the memory without any operator that a dispatch mode would see.
_PAST_OPERATORS = {Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__}
_READS = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


class Call(NamedTuple):
    """An operator's call, and the memory that its results are to be in."""

    func: Any
    args: Any
    kwargs: Any
    results: list[tuple[int, Tensor]]
    """By number among all that it returns; those in memory of its arguments are not among them."""

    def run(self) -> None:
        """Again, into the same memory."""
        found = tree_flatten(self.func(*self.args, **self.kwargs))[0]
        for number, result in self.results:
            # Operators return new memory each time; the calls after this one read where it was when they were
            # recorded.
            result.copy_(found[number])


class Tape(TorchDispatchMode):
    """A :class:`~fastiseat.engine.recording.recorder.Capturer` on CPUs.

    Recording raises :class:`~fastiseat.engine.recording.recorder.UnrecordableError` where a replay would not do the
    same: where the host reads a value or goes back to random numbers, where a tensor is neither persistent nor the
    tape's own, and where a kernel is launched outside of an operator. A replay begins with NaN in all of the tape's own
    memory, so that nothing of the last one is left to be read.
    """

    warm_ups = 1

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._calls: list[Call] = []
        self._own: dict[int, Tensor] = {}
        self._depth = 0
        self._reads = _Reads()
        self._persistent = _Ranges([])
        self._thread = get_ident()
        self._numbers = torch.get_rng_state()

    def warming_up(self) -> AbstractContextManager[object]:
        """Anywhere."""
        return nullcontext()

    def begin(self, persistent: Sequence[Tensor]) -> None:
        """See :class:`~fastiseat.engine.recording.recorder.Capturer`."""
        self._persistent = _Ranges(persistent)
        self._thread = get_ident()
        self._numbers = torch.get_rng_state()
        launches.watchers.append(self._launched)
        self.__enter__()  # type: ignore[no-untyped-call]
        self._reads.__enter__()  # type: ignore[no-untyped-call]

    def end(self) -> None:
        """See :class:`~fastiseat.engine.recording.recorder.Capturer`."""
        self._reads.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        launches.watchers.remove(self._launched)

    @torch.no_grad()
    def replay(self) -> None:
        """See :class:`~fastiseat.engine.recording.recorder.Capturer`."""
        # What a replay does not write before it reads it would be the last one's, and be right by chance where
        # nothing has changed. NaN makes such a read show in the step's results.
        for memory in self._own.values():
            memory.fill_(torch.nan if memory.is_floating_point() else _GARBAGE.get(memory.dtype, 0))
        for call in self._calls:
            call.run()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        self._check(func, args, kwargs, given)
        self._depth += 1
        try:
            results = func(*args, **kwargs)
        finally:
            self._depth -= 1
        if torch.Tag.nondeterministic_seeded in func.tags:
            self._numbers = torch.get_rng_state()
        self._note(func, args, kwargs, results)
        return results

    def _check(self, func: Any, args: Any, kwargs: Any, given: list[Tensor]) -> None:
        name = func._schema.name
        if any(isinstance(value, torch.Generator) for value in (*args, *kwargs.values())):
            raise UnrecordableError(f"{name} draws from a generator of its own")
        if torch.Tag.nondeterministic_seeded in func.tags and not torch.equal(
            torch.get_rng_state(), self._numbers
        ):
            raise UnrecordableError(f"{name} draws random numbers that were drawn before, as a recomputation does")
        for tensor in given:
            if not self._knows(tensor):
                raise UnrecordableError(
                    f"{name} reads a tensor {tuple(tensor.shape)} that is neither persistent nor made by the step"
                )
        masks = name in _MASKED and any(index.dtype in (torch.bool, torch.uint8) for index in _indices(args))
        reads = name not in _MASKED and any(tag in func.tags for tag in _READS)
        tells = any(value.type.kind() not in ("TensorType", "ListType") for value in func._schema.returns)
        if masks or ((reads or tells) and name not in _OF_METADATA):
            raise UnrecordableError(f"{name} waits for a value to reach the host")

    def _note(self, func: Any, args: Any, kwargs: Any, results: Any) -> None:
        new = []
        for number, result in enumerate(tree_flatten(results)[0]):
            if isinstance(result, Tensor) and not self._knows(result):
                # The whole storage, kept alive: an address that was freed could come to be another tensor's.
                self._own[_address(result)] = _all_of(result)
                new.append((number, result.detach()))
        writes = any(argument.is_write for argument in func._schema.arguments)
        if func._schema.name in _EMPTY or not (new or writes or not _tensors(results)):
            return  # memory without values, or another view of some
        # The memory without its graph, which would hold every activation's node besides.
        args, kwargs = tree_map_only(Tensor, Tensor.detach, (args, kwargs))
        self._calls.append(Call(func, args, kwargs, new))

    def _knows(self, tensor: Tensor) -> bool:
        address = _address(tensor)
        # Address 0 is an empty tensor's: nothing to be read.
        return not address or address in self._own or address in self._persistent

    def _launched(self, name: str) -> None:
        # Other threads' kernels are none of the step's: loaders launch some of their own meanwhile.
        if not self._depth and get_ident() == self._thread:
            raise UnrecordableError(f"{name} is launched outside of an operator")


class _Reads(TorchFunctionMode):
    """Refuses what reads a tensor's values past all operators."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _PAST_OPERATORS:
            raise UnrecordableError(f"Tensor.{func.__name__} reads values on the host")
        return func(*args, **(kwargs or {}))


# Integers have no NaN: values that no index, label or count can be.
_GARBAGE = {torch.int64: -(2**62), torch.int32: -(2**30), torch.uint8: 85}


class _Ranges:
    """The memory of tensors, whatever storage object they see it through."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        held = {(_address(t), _address(t) + t.untyped_storage().nbytes()) for t in tensors if _address(t)}
        self._ranges = sorted(held)
        self._begins = [begin for begin, _ in self._ranges]

    def __contains__(self, address: int) -> bool:
        place = bisect_right(self._begins, address)
        # Storages may lie within each other: parameters in one buffer, each by itself and all together.
        return any(begin <= address < end for begin, end in self._ranges[:place])


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _all_of(tensor: Tensor) -> Tensor:
    """The whole storage as one tensor."""
    whole = torch.empty(0, dtype=tensor.dtype)
    return whole.set_(tensor.untyped_storage())


def _tensors(results: Any) -> list[Tensor]:
    return [result for result in tree_flatten(results)[0] if isinstance(result, Tensor)]


def _indices(args: Any) -> Iterator[Tensor]:
    yield from (index for index in args[1] if isinstance(index, Tensor))
