"""``bn_act`` and its gradients in C++: two passes over memory, where PyTorch takes three or more."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from fastiseat.kernels.bn_act.layout import brought, layout, sizes
from fastiseat.kernels.core import native
from fastiseat.kernels.core.dispatch import AUTO, VARIABLE

PARTS = {True: 512, False: 64}
"""The most parts that a device takes a channel's sums in: of rows of all channels, of planes of one."""

unsupported = native.unsupported


SMALL = 2**18
"""Elements below which, on a CPU, the way through torch.ops and autograd takes longer than what is saved."""


def unfit(first: Tensor, *args: Any, **kwargs: Any) -> str:
    """Why one call cannot be served; empty when it can. Gradients are the registered op's."""
    if first.numel() == 0 or first.shape[1] >= 2**16:
        return "there are no elements, or 65,536 channels and more"
    with torch.no_grad():
        return native.unfit(first, *[value for value in args if isinstance(value, Tensor)])


def unfit_forward(first: Tensor, *args: Any, **kwargs: Any) -> str:
    """The same for what begins a graph: a gradient stays with the backend of its forward pass."""
    if first.numel() < SMALL and first.is_cpu and os.environ.get(VARIABLE, AUTO) in ("", AUTO):
        return f"{first.numel()} elements are too few to gain by it; {SMALL} are needed"
    return unfit(first, *args, **kwargs)


def bn_act(
    a: Tensor, b: Tensor | None, weight: Tensor, bias: Tensor, *, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``reference.bn_act`` for the calls that ``unfit`` lets pass."""
    order = layout(a)
    a, b = brought(a, order), None if b is None else brought(b, order)
    s, y = _sum_like(a, b), torch.empty_like(a)
    mean, rstd, var = (torch.empty_like(weight) for _ in range(3))
    output = (s if b is not None else None, y, mean, rstd, var)
    native.call("bn_act", a, a, b, *_plain(weight, bias), eps, *output, *_partial(a, order), *_shape(a, order))
    return s, y, mean, rstd, var


def bn_act_backward(
    dy: Tensor, ds: Tensor | None, s: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """``reference.bn_act_backward`` for the calls that ``unfit`` lets pass."""
    order = layout(s)
    dy, s, ds = brought(dy, order), brought(s, order), None if ds is None else brought(ds, order)
    dx, dweight, dbias = torch.empty_like(s), torch.empty_like(weight), torch.empty_like(weight)
    vectors = _plain(weight, bias, mean, rstd)
    output = (dx, dweight, dbias)
    native.call("bn_act_backward", s, dy, ds, s, *vectors, *output, *_partial(s, order), *_shape(s, order))
    return output


def bn_act_eval(
    a: Tensor, b: Tensor | None, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, eps: float
) -> tuple[Tensor, Tensor]:
    """``reference.bn_act_eval`` for the calls that ``unfit`` lets pass."""
    order = layout(a)
    a, b = brought(a, order), None if b is None else brought(b, order)
    s, y = _sum_like(a, b), torch.empty_like(a)
    vectors = _plain(weight, bias, mean, var)
    output = (s if b is not None else None, y, *_partial(a, order)[1:])
    native.call("bn_act_eval", a, a, b, *vectors, eps, *output, *_shape(a, order))
    return s, y


def bn_act_eval_backward(
    dy: Tensor,
    ds: Tensor | None,
    s: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    eps: float,
    sums: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """``reference.bn_act_eval_backward`` for the calls that ``unfit`` lets pass."""
    order = layout(s)
    dy, s, ds = brought(dy, order), brought(s, order), None if ds is None else brought(ds, order)
    size = len(weight) if sums else 0
    dx, dweight, dbias = torch.empty_like(s), weight.new_empty(size), weight.new_empty(size)
    output = (dx, dweight, dbias) if sums else (dx, None, None)
    vectors = _plain(weight, bias, mean, var)
    native.call(
        "bn_act_eval_backward", s, dy, ds, s, *vectors, eps, *output, *_partial(s, order), *_shape(s, order)
    )
    return dx, dweight, dbias


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
