"""Four short epochs of each method of another paper, through the Trainer: it learns, and enters every stage."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import tiny

from fastiseat.report import live

EPOCHS = 4
METHODS = ("at-rice", "awp-wu", "trades", "trades-awp", "mart", "mart-awp", "slore-mart")


@pytest.fixture(autouse=True)
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.install(monkeypatch, train=300, test=20)
    monkeypatch.setattr(live, "draw_curves", lambda path: None)


@pytest.mark.parametrize("method", METHODS)
def test_four_epochs_lower_the_loss(method: str, tmp_path: Path) -> None:
    config = tiny.config(method, epochs=EPOCHS, run={"final_steps": 0})
    run = tiny.trainer(config, tmp_path / "run")
    stages = []
    run.observer.on_epoch = lambda row: stages.append(getattr(run.step.method, "sign", None))
    run.run()
    losses = [row["train_loss"] for row in run.rows]
    assert all(map(math.isfinite, losses))
    assert losses[-1] < 0.97 * losses[0]
    assert run.rows[-1]["lr"] < run.rows[0]["lr"]  # every stage of the learning rate, too
    assert stages == ([1, 0, 0, -1] if method == "slore-mart" else [None] * EPOCHS)
    assert ["train_loss_distribution" in row for row in run.rows] == [bool(stage) for stage in stages]
    assert run.rows[-1]["gamma"] == config.awp.gamma
