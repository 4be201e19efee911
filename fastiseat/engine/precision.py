"""Precisions: half, which dtype a device is good at, autocast, fp16's loss scale; and float32 without TF32."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fastiseat.errors import unknown
from fastiseat.fusion.turns import taking_turns

# ``full`` is the parameters' own dtype, float32 or float64.
DTYPES = {"full": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# A fixed factor on the attack's loss, whose sign is all that counts: small input gradients are 0 in fp16 without.
FP16_ATTACK_SCALE = 8192.0
# torch.amp.GradScaler's defaults.
FIRST_SCALE, GROWTH_INTERVAL = 2.0**16, 2000
# What float32 products may be computed in, by torch's names; an op without a setting takes that of "all".
_SHARED = (("generic", "all"), ("cuda", "all"), ("mkldnn", "all"))
_PRODUCTS = tuple([(backend, op) for backend in ("cuda", "mkldnn") for op in ("conv", "rnn", "matmul")])


def precision_for_amp(device: torch.device) -> str:
    """What ``--amp`` means on a device: bf16 or fp16, or ``full`` on a CPU that would emulate them.

    bf16 on NVIDIA's Ampere and later and on CPUs with bf16 instructions; fp16 on older GPUs. Emulated bf16 was
    seen to be 40 to 60 times slower than float32.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if native else "full"


def autocast(precision: str, device: torch.device, *, cache: bool | None = None) -> torch.autocast:
    """The context of every forward pass; ``full`` shuts out one that the caller has on.

    ``cache``: whether weights that were cast once are read again, by default as the caller has it.
    """
    if precision not in DTYPES:
        raise unknown("precision", precision, DTYPES)
    dtype = DTYPES[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None, cache_enabled=cache)


@contextmanager
def strict_float32() -> Iterator[None]:
    """float32 products in float32 in the block, for the whole process; its own settings afterwards.

    torch keeps two sets of them, ``allow_tf32`` and the newer ``fp32_precision``, writes one into the other, and
    raises where it reads an older one that the newer ones contradict. In the block they agree.
    """
    with taking_turns():
        newer = _switch_off()
        older = _allows_tf32(), torch.get_float32_matmul_precision()
        torch._C._set_cudnn_allow_tf32(False)
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch._C._set_cudnn_allow_tf32(older[0])
            torch.set_float32_matmul_precision(older[1])
            for (backend, op), value in newer.items():
                torch._C._set_fp32_precision_setter(backend, op, value)


def _switch_off() -> dict[tuple[str, str], str]:
    """The newer settings, which are then ``none`` and ``ieee``."""
    found = {}
    for backend, op in (*_SHARED, *_PRODUCTS):
        # Each by itself, as nothing that it would inherit is left.
        found[backend, op] = torch._C._get_fp32_precision_getter(backend, op)
        torch._C._set_fp32_precision_setter(backend, op, "none" if op == "all" else "ieee")
    return found


def _allows_tf32() -> bool:
    """The older setting for cuDNN, while the newer ones are off: True is what contradicts them."""
    try:
        return torch._C._get_cudnn_allow_tf32()
    except RuntimeError:
        return True


class LossScale:
    """Dynamic loss scaling with ``torch.amp.GradScaler``'s rule, for gradients that are no ``.grad``.

    Off (``enabled=False``) it changes nothing. On, it lives on the device and never waits for it.
    """

    def __init__(self, *, enabled: bool, device: torch.device | str = "cpu") -> None:
        self.enabled = enabled
        self._scale = torch.full((), FIRST_SCALE if enabled else 1.0, device=device, dtype=torch.float32)
        self._good_steps = torch.zeros((), dtype=torch.int32, device=device)

    @property
    def tensors(self) -> list[Tensor]:
        """What changes from step to step."""
        return [self._scale, self._good_steps] if self.enabled else []

    def scaled(self, loss: Tensor) -> Tensor:
        """What gradients are taken of."""
        return loss * self._scale if self.enabled else loss

    def unscaled(self, groups: list[dict[str, Tensor]], dtype: torch.dtype) -> list[dict[str, Tensor]]:
        """Gradients of :meth:`scaled` as those of the loss, which is of ``dtype``: in it, where there is a scale."""
        if not self.enabled:
            return groups
        # Before the division: in fp16 a gradient divided by its scale is 0 where it is small, which scaling was
        # for.
        groups = [{name: gradient.to(dtype) for name, gradient in group.items()} for group in groups]
        torch._foreach_div_([gradient for group in groups for gradient in group.values()], self._scale)
        return groups

    def finite_or_zero(self, gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """``gradients``, or zeros where one of them overflowed: an infinite ν would spoil the running statistics."""
        if not self.enabled:
            return gradients
        finite = ~_overflowed(gradients.values())
        # `where`, as inf times 0 is NaN.
        return {name: torch.where(finite, gradient, 0.0) for name, gradient in gradients.items()}

    def skip(self, gradients: Sequence[Tensor]) -> Tensor | None:
        """bool (): whether an overflow voids this step; None where there is no scale, which else adapts.

        An overflow halves it, 2,000 good steps double it.
        """
        if not self.enabled:
            return None
        overflowed = _overflowed(gradients)
        torch._amp_update_scale_(
            self._scale, self._good_steps, overflowed.to(torch.float32), 2.0, 0.5, GROWTH_INTERVAL
        )
        return overflowed

    def state_dict(self) -> dict[str, Any]:
        """Scale and count of good steps; waits for the device where there is a scale."""
        if not self.enabled:
            return {"scale": 1.0, "good_steps": 0}
        return {"scale": float(self._scale), "good_steps": int(self._good_steps)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was taken."""
        if self.enabled:
            self._scale.fill_(state["scale"])
            self._good_steps.fill_(state["good_steps"])


def _overflowed(gradients: Iterable[Tensor]) -> Tensor:
    return ~torch.stack([gradient.isfinite().all() for gradient in gradients]).all()
