"""Between two looks at a metric the host never waits for the device: PyTorch raises where it would."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import tiny
import torch

from fastiseat import AWP, ISEAT, TrainStep, models
from fastiseat.config import Execution
from fastiseat.run.trainer import Trainer

pytestmark = pytest.mark.gpu


@pytest.fixture
def no_waiting() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("engine", ["graph", "eager"])
@pytest.mark.parametrize("precision", ["full", "bf16", "fp16"])
def test_a_step_waits_for_nothing(no_waiting, engine: str, precision: str) -> None:
    torch.manual_seed(0)
    model = models.build("small", num_classes=5).cuda().to(memory_format=torch.channels_last)
    step = TrainStep(model, method=ISEAT(lam=0.1), awp=AWP(), precision=precision, engine=engine)
    x, y = torch.rand(16, 3, 8, 8, device="cuda"), torch.randint(5, (16,), device="cuda")
    step(x, y)  # the first one looks at the images' range
    torch.cuda.set_sync_debug_mode("error")
    for lr in (0.1, 0.01):
        step.set(lr=lr)
        step(x, y)


def test_an_epoch_waits_at_its_log_points_alone(no_waiting, tmp_path, monkeypatch) -> None:
    tiny.install(monkeypatch)
    config = tiny.config(epochs=1, batch_size=10)
    config = replace(config, data=replace(config.data, flip=True, crop_padding=1))

    class Watcher(tiny.Watcher):
        def step(self, *, epoch, step, images, metrics):
            # Step 0 and the last one are log points of the trainer's own.
            torch.cuda.set_sync_debug_mode("error" if 0 < step + 1 < 9 else "default")

    device = torch.device("cuda")
    Trainer(config, tmp_path / "run", device=device, observer=Watcher(), execution=Execution(engine="graph")).run()
