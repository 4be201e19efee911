"""torch.compile compiles a step's passes once, not once a step."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters

from fastiseat import AWP, ISEAT, PGD, TrainStep, models

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own, as it loads its compiler


def test_after_the_first_step_nothing_is_compiled() -> None:
    torch.manual_seed(0)
    model = models.build("small", num_classes=5)
    step = TrainStep(model, method=ISEAT(lam=0.1), awp=AWP(), attack=PGD(steps=2), engine="compile")
    step._passes.compile("aot_eager")
    graphs = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        before = counters["stats"]["unique_graphs"]
        step(torch.rand(4, 3, 8, 8, generator=generator), torch.randint(5, (4,), generator=generator))
        graphs.append(counters["stats"]["unique_graphs"] - before)
    assert graphs == [3, 0, 0]  # the attack's, those that leave no trace, the final one
