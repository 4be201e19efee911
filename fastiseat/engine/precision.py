"""Half precision: which dtype a device is good at, autocast, and the loss scale that fp16 needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastiseat.errors import unknown

# ``full`` is the parameters' own dtype, float32 or float64.
DTYPES = {"full": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# A fixed factor on the attack's loss, whose sign is all that counts: small input gradients are 0 in fp16 without.
FP16_ATTACK_SCALE = 8192.0
# torch.amp.GradScaler's defaults.
FIRST_SCALE, GROWTH_INTERVAL = 2.0**16, 2000


def precision_for_amp(device: torch.device) -> str:
    """What ``--amp`` means on a device: bf16 or fp16, or ``full`` on a CPU that would emulate them.

    bf16 on NVIDIA's Ampere and later and on CPUs with bf16 instructions; fp16 on older GPUs. Emulated bf16 was
    seen to be 40 to 60 times slower than float32.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if native else "full"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context of every forward pass; ``full`` shuts out one that the caller has on."""
    if precision not in DTYPES:
        raise unknown("precision", precision, DTYPES)
    dtype = DTYPES[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


class LossScale:
    """Dynamic loss scaling with ``torch.amp.GradScaler``'s rule, for gradients that are no ``.grad``.

    Off (``enabled=False``) it changes nothing and waits for nothing. On, :meth:`accept` reads one flag from the
    device each step.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self.scale, self.good_steps = FIRST_SCALE if enabled else 1.0, 0

    def gradients(self, loss: Tensor, *weights: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """∇ of ``loss`` for each of ``weights`` that it depends on, unscaled; the others are left out.

        Unscaled in the dtype of ``loss``: in half precision small ones would be lost.
        """
        scaled = loss * self.scale if self.enabled else loss
        inputs = [tensor for group in weights for tensor in group.values()]
        found = iter(torch.autograd.grad(scaled, inputs, allow_unused=True))
        by_group = [{name: g for name in group if (g := next(found)) is not None} for group in weights]
        if self.enabled:
            by_group = [{name: g.to(loss.dtype) for name, g in group.items()} for group in by_group]
            torch._foreach_div_([gradient for group in by_group for gradient in group.values()], self.scale)
        return by_group

    def finite_or_zero(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        """``gradients``, or zeros where one of them overflowed: an infinite ν would spoil the running statistics."""
        if not self.enabled:
            return gradients
        finite = _all_finite(gradients.values())
        return {name: torch.where(finite, gradient, 0.0) for name, gradient in gradients.items()}

    def accept(self, gradients: Sequence[Tensor]) -> bool:
        """Whether to take this step; adapts the scale. An overflow halves it, 2,000 good steps double it."""
        if not self.enabled:
            return True
        accepted = bool(_all_finite(gradients))
        self.good_steps = self.good_steps + 1 if accepted else 0
        if not accepted:
            self.scale /= 2
        elif self.good_steps == GROWTH_INTERVAL:
            self.scale, self.good_steps = self.scale * 2, 0
        return accepted

    def state_dict(self) -> dict[str, Any]:
        """Scale and count of good steps."""
        return {"scale": self.scale, "good_steps": self.good_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was taken."""
        if self.enabled:
            self.scale, self.good_steps = state["scale"], state["good_steps"]


def _all_finite(gradients: Iterable[Tensor]) -> Tensor:
    return torch.stack([gradient.isfinite().all() for gradient in gradients]).all()
