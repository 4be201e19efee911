"""The accuracies that a step tells."""

from __future__ import annotations

import pytest
import torch
from side_by_side import batch, small, step

from fastiseat import AT, ISEAT, Standard
from fastiseat.methods import Method


@pytest.mark.parametrize("method", [Standard(), AT(), ISEAT(lam=0.1)], ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_answer_of_no_numbers_is_wrong(method: Method, value: float) -> None:
    """Class 0 too, for which ``argmax`` takes it."""
    model, (x, y) = small(), batch(0, 6)
    last = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.bias[0] = value
    metrics = step(model, "eager", method=method)(x, torch.zeros_like(y))
    accuracies = {name: float(found) for name, found in metrics.items() if name.startswith("accuracy")}
    assert accuracies and set(accuracies.values()) == {0.0}
