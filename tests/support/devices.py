"""One test body for both kinds of device, and what their results may differ by."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastiseat.engine.precision import precision_for_amp

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def require_precision(precision: str, device: str) -> None:
    """Skip what a card before Ampere would emulate."""
    if device == "cuda" and precision == "bf16" and precision_for_amp(torch.device(device)) != "bf16":
        pytest.skip("this card has no bf16")


def random_state(device: str) -> Tensor:
    """Of the device's global generator."""
    return torch.cuda.get_rng_state() if device == "cuda" else torch.get_rng_state()


def assert_within_an_ulp(found: Tensor, expected: Tensor) -> None:
    """Values in [0, 1] from any device, at most one unit in the last place apart; zeros are zeros."""
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    apart = (found.cpu().double() - expected.double()).abs()
    assert (apart <= torch.finfo(expected.dtype).eps * expected.double()).all()
