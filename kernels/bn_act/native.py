"""``bn_act`` and its gradients in C++: two passes over memory, where PyTorch takes three or more."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from fastiseat.kernels.bn_act.arguments import Backward, Eval, EvalBackward, Forward, Train, TrainBackward
from fastiseat.kernels.bn_act.layout import brought, layout, sizes
from fastiseat.kernels.core import native
from fastiseat.kernels.core.dispatch import AUTO, VARIABLE
from fastiseat.kernels.core.fit import unreadable
from fastiseat.kernels.core.signature import tensors_of

PARTS = {True: 512, False: 64}
"""The most parts that a device takes a channel's sums in: of rows of all channels, of planes of one."""

unsupported = native.unsupported


SMALL = 2**18
"""Elements below which, on a CPU, the way through torch.ops and autograd takes longer than what is saved."""


def unfit(call: Forward | Backward) -> str:
    """Why one call cannot be served; empty when it can. Gradients are the registered op's."""
    first = (tensors := tensors_of(call))[0]
    if first.numel() == 0 or first.shape[1] >= 2**16:
        return "there are no elements, or 65,536 channels and more"
    with torch.no_grad():
        return unreadable(*tensors)


def unfit_forward(call: Forward) -> str:
    """The same for what begins a graph: a gradient stays with the backend of its forward pass."""
    if call.a.numel() < SMALL and call.a.is_cpu and os.environ.get(VARIABLE, AUTO) in ("", AUTO):
        return f"{call.a.numel()} elements are too few to gain by it; {SMALL} are needed"
    return unfit(call)


def bn_act(call: Train) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``reference.bn_act`` for the calls that ``unfit`` lets pass."""
    a, b, order = _addends(call)
    s, y = _sum_like(a, b), torch.empty_like(a)
    mean, rstd, var = (torch.empty_like(call.weight) for _ in range(3))
    output = (s if b is not None else None, y, mean, rstd, var)
    vectors = _plain(call.weight, call.bias)
    native.call("bn_act", a, a, b, *vectors, call.eps, *output, *_shape(a, order), *_partial(a, order))
    return s, y, mean, rstd, var


def bn_act_backward(call: TrainBackward) -> tuple[Tensor, Tensor, Tensor]:
    """``reference.bn_act_backward`` for the calls that ``unfit`` lets pass."""
    dy, ds, s, order = _gradients(call)
    output = torch.empty_like(s), torch.empty_like(call.weight), torch.empty_like(call.weight)
    vectors = _plain(*call.vectors)
    native.call("bn_act_backward", s, dy, ds, s, *vectors, *output, *_shape(s, order), *_partial(s, order))
    return output


def bn_act_eval(call: Eval) -> tuple[Tensor, Tensor]:
    """``reference.bn_act_eval`` for the calls that ``unfit`` lets pass."""
    a, b, order = _addends(call)
    s, y = _sum_like(a, b), torch.empty_like(a)
    vectors = _plain(call.weight, call.bias, call.mean, call.var)
    output = (s if b is not None else None, y)
    native.call("bn_act_eval", a, a, b, *vectors, call.eps, *output, *_shape(a, order), *_partial(a, order)[1:])
    return s, y


def bn_act_eval_backward(call: EvalBackward) -> tuple[Tensor, Tensor, Tensor]:
    """``reference.bn_act_eval_backward`` for the calls that ``unfit`` lets pass."""
    dy, ds, s, order = _gradients(call)
    size = len(call.weight) if call.sums else 0
    dx, dweight, dbias = torch.empty_like(s), call.weight.new_empty(size), call.weight.new_empty(size)
    output = (dx, dweight, dbias) if call.sums else (dx, None, None)
    more = (*_shape(s, order), *_partial(s, order))
    native.call("bn_act_eval_backward", s, dy, ds, s, *_plain(*call.vectors), call.eps, *output, *more)
    return dx, dweight, dbias


def _addends(call: Forward) -> tuple[Tensor, Tensor | None, torch.memory_format]:
    order = layout(call.a)
    return brought(call.a, order), None if call.b is None else brought(call.b, order), order


def _gradients(call: Backward) -> tuple[Tensor, Tensor | None, Tensor, torch.memory_format]:
    order = layout(call.s)
    ds = None if call.ds is None else brought(call.ds, order)
    return brought(call.dy, order), ds, brought(call.s, order), order


def _sum_like(a: Tensor, b: Tensor | None) -> Tensor:
    return a.new_empty(0) if b is None else torch.empty_like(a)


def _plain(*vectors: Tensor) -> list[Tensor]:
    return [vector.contiguous() for vector in vectors]


def _shape(x: Tensor, order: torch.memory_format) -> tuple[int, int, int, int]:
    return (*sizes(x, order), native.DTYPES[x.dtype])


def _partial(x: Tensor, order: torch.memory_format) -> tuple[Tensor, int] | tuple[()]:
    """A device's room for sums, and the number of parts that they are taken in; a CPU needs none."""
    if not x.is_cuda:
        return ()
    num, channels, inner = sizes(x, order)
    # About 64 elements for each of a part's 256 threads.
    size = num * channels if inner == 1 else num * inner
    parts = max(1, min(PARTS[inner == 1], size // 2**14))
    return torch.empty(2 * parts * channels, device=x.device, dtype=torch.float64), parts
