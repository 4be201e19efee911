"""The world that conftest.py makes for every test."""

from __future__ import annotations

import torch


def test_fresh_memory_is_nan():
    model_weight = torch.empty(3, requires_grad=True)
    for tensor in (torch.empty(2, 2), torch.empty_like(torch.ones(3)), model_weight):
        assert tensor.isnan().all()
    assert model_weight.requires_grad
    assert torch.empty(3, dtype=torch.int64).dtype == torch.int64


def test_each_test_starts_from_one_seed():
    assert torch.initial_seed() == 0
