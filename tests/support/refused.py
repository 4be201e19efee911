"""Modules that a recording would not repeat."""

from __future__ import annotations

import random

import numpy as np
import torch
from side_by_side import Plain
from torch import Tensor

from fastiseat.kernels.core import native

GLOBAL = torch.full((4,), 0.1, dtype=torch.float64)


class HiddenSync(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * (1 + x.mean().item()))


class BranchOnAValue(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.mean() > 0.1 else -x)


class ComparesTensors(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if torch.equal(x, x + 1) else -x)


class Constant(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * torch.tensor(1.5, dtype=x.dtype))


class ConstantList(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * torch.tensor([0.5, 1.0, 1.5], dtype=x.dtype).view(1, 3, 1, 1))


class GlobalTensor(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bn(self.conv(x)).relu().mean((2, 3)) + GLOBAL)


class FromNumpy(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * torch.from_numpy(np.full(12, 0.5)))


class Nonzero(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * (1 + len(x.flatten().nonzero())))


class BooleanMask(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + x[x > 0.5].mean())


class WrittenMask(Plain):
    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        x[x > 0.5] = 0.5
        return super().forward(x)


class MaskedSelect(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + x.masked_select(x > 0.5).mean())


class Unique(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.unique(x.detach()).mean())


class Repeats(Plain):
    def forward(self, x: Tensor) -> Tensor:
        counts = (x.detach().mean((1, 2, 3)) > 0).long()
        return super().forward(x.repeat_interleave(counts, 0))


class ToNumpy(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * float(x.detach().numpy().mean()))


class ToList(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * max(x.detach().flatten().tolist()))


class PythonsRandom(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * (1 + random.random()))


class NumPysRandom(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * (1 + np.random.rand()))  # noqa: NPY002


class OwnGenerator(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.generator = [torch.Generator()]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.1 * torch.rand(x.shape, dtype=x.dtype, generator=self.generator[0]))


class Counter(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x * (1 + 0.1 * (self.calls % 2)))


class Keeps(Plain):
    def forward(self, x: Tensor) -> Tensor:
        self.features = self.conv(x)
        return super().forward(x)


class NativeCall(Plain):
    """A kernel that PyTorch does not see."""

    def forward(self, x: Tensor) -> Tensor:
        native.announce(f"mine at {x.data_ptr():#x}")
        return super().forward(x)


class Raises(Plain):
    """At the first pass of a recording, not before."""

    armed = False

    def forward(self, x: Tensor) -> Tensor:
        if self.armed and len(x) and torch.is_grad_enabled():  # no graph of fx knows a length
            raise ValueError("no such\nluck")
        return super().forward(x)


# Module: what the refusal says.
REFUSED = {
    HiddenSync: "aten::_local_scalar_dense waits for a value",
    BranchOnAValue: "waits for a value",
    ComparesTensors: "aten::equal waits for a value",
    Constant: "neither persistent nor made by the step",
    ConstantList: "neither persistent nor made by the step",
    GlobalTensor: "neither persistent nor made by the step",
    FromNumpy: "neither persistent nor made by the step",
    Nonzero: "aten::nonzero waits for a value",
    BooleanMask: "waits for a value",
    WrittenMask: "neither persistent nor made by the step",
    MaskedSelect: "aten::masked_select waits for a value",
    Unique: "waits for a value",
    Repeats: "waits for a value",
    ToNumpy: "Tensor.numpy reads values on the host",
    ToList: "Tensor.tolist reads values on the host",
    PythonsRandom: "draws random numbers on the host",
    NumPysRandom: "draws random numbers on the host",
    OwnGenerator: "generator of its own",
    Counter: "attributes are other ones after each pass",
    Keeps: "attributes are other ones after each pass",
    NativeCall: "is launched outside of an operator",
    Raises: "no such luck",
}
