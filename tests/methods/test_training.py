"""Four short epochs of each method of another paper, through the Trainer: it learns, and enters every stage."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import tiny

from fastiseat import trainer

EPOCHS = 4
METHODS = ("at-rice", "awp-wu", "trades", "trades-awp", "mart", "mart-awp", "slore-mart")


@pytest.fixture(autouse=True)
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.install(monkeypatch, train=300, test=20)
    monkeypatch.setattr(trainer, "draw_curves", lambda path: None)


@pytest.mark.parametrize("method", METHODS)
def test_four_epochs_lower_the_loss(method: str, tmp_path: Path) -> None:
    config = tiny.config(method, epochs=EPOCHS, run={"final_steps": 0})
    run = tiny.trainer(config, tmp_path / "run")
    stages = []
    run.observer.on_epoch = lambda row: stages.append(getattr(run.step.method, "late", False))
    run.run()
    losses = [row["train_loss"] for row in run.rows]
    assert all(map(math.isfinite, losses))
    assert losses[-1] < 0.97 * losses[0]
    assert run.rows[-1]["lr"] < run.rows[0]["lr"]  # every stage of the learning rate, too
    assert stages == [False] * 3 + [method == "slore-mart"]
    assert run.rows[-1]["gamma"] == config.awp.gamma
