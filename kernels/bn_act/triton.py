"""``bn_act`` and its gradients in Triton: two passes over memory, and a small launch that ends the sums."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from fastiseat.kernels.bn_act import triton_kernels as kernels
from fastiseat.kernels.bn_act.arguments import Backward, Eval, EvalBackward, Forward, Train, TrainBackward
from fastiseat.kernels.bn_act.layout import brought, layout, sizes
from fastiseat.kernels.core.signature import tensors_of

TILE = 2048
"""Elements that a program holds at once: 16 a thread."""
PROGRAMS = 512
"""The most programs of a pass: four for each multiprocessor of a large card, so that all run at once."""
PARTS = 512
"""Parts that the end of a sum reads at once: it has few programs, and would wait for memory once a turn."""
WIDEST = 64
"""Channels of a tile in channels_last: 128 bytes or more in a row."""
OPTIONS = {"enable_fp_fusion": False}
"""Products and sums stay apart: every pass finds the same ReLU closed."""


class Plan(NamedTuple):
    """How a call is cut into programs."""

    num_rows: int
    channels: int
    inner: int
    rows_per_part: int
    parts: int
    shape: dict[str, Any]

    @classmethod
    def of(cls, x: Tensor, order: torch.memory_format) -> Plan:
        """For a tensor in this memory format."""
        num, channels, inner = sizes(x, order)
        is_rows = inner == 1
        block_c = min(triton.next_power_of_2(channels), WIDEST) if is_rows else 1
        block_r = TILE // block_c
        num_rows, columns = num * inner, triton.cdiv(channels, block_c)
        parts = max(1, min(triton.cdiv(num_rows, block_r), PROGRAMS // columns))
        rows_per_part = triton.cdiv(triton.cdiv(num_rows, parts), block_r) * block_r
        shape = {"IS_ROWS": is_rows, "BLOCK_R": block_r, "BLOCK_C": block_c} | OPTIONS
        return cls(num_rows, channels, inner, rows_per_part, triton.cdiv(num_rows, rows_per_part), shape)

    @property
    def grid(self) -> tuple[int, int]:
        """Of a pass."""
        return self.parts, triton.cdiv(self.channels, self.shape["BLOCK_C"])

    @property
    def extent(self) -> tuple[int, int, int, int]:
        """What a pass is told about its array."""
        return self.num_rows, self.channels, self.inner, self.rows_per_part

    @property
    def end(self) -> tuple[tuple[int], dict[str, Any]]:
        """Grid and tile of the kernel that adds the parts up."""
        return (triton.cdiv(self.channels, 4),), {"BLOCK_P": PARTS, "BLOCK_C": 4, "num_warps": 8} | OPTIONS

    def partial(self, x: Tensor) -> Tensor:
        """Room for two sums of each part."""
        return torch.empty(2 * self.parts * self.channels, dtype=torch.float64, device=x.device)


def unfit(call: Forward | Backward) -> str:
    """Why one call cannot be served; empty when it can. Gradients are the registered op's."""
    first = (tensors := tensors_of(call))[0]
    if len({tensor.device for tensor in tensors}) > 1:
        return "the arguments lie on several devices"
    if first.numel() == 0:
        return "there are no elements"
    if first.shape[1] >= 2**16:
        return "there are 2**16 channels or more"  # a grid has fewer along its second axis
    return "a channel has 2**31 elements or more" if first.numel() // first.shape[1] >= 2**31 else ""


def bn_act(call: Train) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``reference.bn_act`` for the calls that ``unfit`` lets pass."""
    order = layout(call.a)
    plan = Plan.of(call.a, order)
    a, b = brought(call.a, order), None if call.b is None else brought(call.b, order)
    weight, bias = call.weight.contiguous(), call.bias.contiguous()
    mean, rstd, var = (torch.empty_like(weight) for _ in range(3))
    partial, y = plan.partial(a), torch.empty_like(a)
    s = a if b is None else torch.empty_like(a)
    with _on(a):
        kernels.moments_kernel[plan.grid](a, b, s, partial, *plan.extent, HAS_B=b is not None, **plan.shape)
        grid, tile = plan.end
        counts = (plan.num_rows, plan.channels, plan.rows_per_part, plan.parts)
        kernels.finish_moments_kernel[grid](partial, mean, rstd, var, call.eps, *counts, **tile)
        vectors = (weight, bias, mean, rstd)
        kernels.activate_kernel[plan.grid](
            s, None, s, y, *vectors, call.eps, *plan.extent, HAS_B=False, TRAIN=True, **plan.shape
        )
    return a.new_empty(0) if b is None else s, y, mean, rstd, var


def bn_act_eval(call: Eval) -> tuple[Tensor, Tensor]:
    """``reference.bn_act_eval`` for the calls that ``unfit`` lets pass."""
    order = layout(call.a)
    plan = Plan.of(call.a, order)
    a, b = brought(call.a, order), None if call.b is None else brought(call.b, order)
    vectors = [vector.contiguous() for vector in (call.weight, call.bias, call.mean, call.var)]
    s, y = a.new_empty(0) if b is None else torch.empty_like(a), torch.empty_like(a)
    with _on(a):
        kernels.activate_kernel[plan.grid](
            a, b, s, y, *vectors, call.eps, *plan.extent, HAS_B=b is not None, TRAIN=False, **plan.shape
        )
    return s, y


def bn_act_backward(call: TrainBackward) -> tuple[Tensor, Tensor, Tensor]:
    """``reference.bn_act_backward`` for the calls that ``unfit`` lets pass."""
    return _backward(call, eps=0.0, train=True, sums=True)


def bn_act_eval_backward(call: EvalBackward) -> tuple[Tensor, Tensor, Tensor]:
    """``reference.bn_act_eval_backward`` for the calls that ``unfit`` lets pass."""
    return _backward(call, eps=call.eps, train=False, sums=call.sums)


def _backward(call: Backward, *, eps: float, train: bool, sums: bool) -> tuple[Tensor, Tensor, Tensor]:
    order = layout(call.s)
    plan = Plan.of(call.s, order)
    dy, s, ds = (
        brought(call.dy, order),
        brought(call.s, order),
        None if call.ds is None else brought(call.ds, order),
    )
    vectors = [vector.contiguous() for vector in call.vectors]
    size = plan.channels if sums else 0
    dx, dweight, dbias = torch.empty_like(s), vectors[0].new_empty(size), vectors[0].new_empty(size)
    with _on(s):
        if sums:
            partial, (grid, tile) = plan.partial(s), plan.end
            kernels.gradients_kernel[plan.grid](
                dy, s, partial, *vectors, eps, *plan.extent, TRAIN=train, **plan.shape
            )
            counts = (plan.channels, plan.parts)
            kernels.finish_gradients_kernel[grid](
                partial, vectors[-1], dweight, dbias, eps, *counts, TRAIN=train, **tile
            )
        kernels.differentiate_kernel[plan.grid](
            dy, ds, s, dx, *vectors, dweight, dbias, eps, *plan.extent,
            HAS_DS=ds is not None, TRAIN=train, **plan.shape,
        )  # fmt: skip
    return dx, dweight, dbias


def _on(x: Tensor) -> Any:
    """Triton launches on the current device."""
    return torch.cuda.device(x.device) if x.is_cuda else torch.no_grad()
