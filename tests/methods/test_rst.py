"""RST, and what the recipes of HAT, Consistency and RST set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from tiny_releases import pixels

from fastiseat import UserError
from fastiseat.cli.train.command import parse
from fastiseat.cli.train.config_file import read_settings, settle
from fastiseat.methods.trades import AdversarialFirst
from fastiseat.recipes import recipe


def numbers(dataset: str, method: str) -> tuple[Any, ...]:
    """What a paper's setting consists of, in the order of the assertions below."""
    config = recipe(dataset, method)
    optimizer, schedule = config.optimizer, config.schedule
    learning = optimizer.lr, optimizer.nesterov, schedule.lr_shape
    return config.network.arch, config.data.batch_size, schedule.epochs, *learning, config.attack.noise


def test_the_numbers_of_the_papers() -> None:
    assert numbers("cifar10", "rst") == ("wrn-28-10", 128, 100, 0.1, True, "cosine", 0.001)
    assert numbers("cifar10", "hat") == ("prn18", 128, 50, 0.21, True, "onecycle", 0.001)
    assert numbers("tinyimagenet", "hat") == ("prn18", 128, 50, 0.21, True, "onecycle", 0.001)
    assert numbers("cifar10", "consistency") == ("prn18", 128, 200, 0.1, False, "steps", 0.0)
    rst, hat = (recipe("cifar10", method).attack for method in ("rst", "hat"))
    assert (rst.eps, rst.step_size, rst.bn_mode) == (0.031, 0.007, "eval")
    assert recipe("cifar10", "hat").schedule.momentum_cycle == (0.95, 0.85)
    assert (hat.eps, hat.step_size, hat.bn_mode) == (8 / 255, 2 / 255, "eval")
    assert recipe("cifar10", "rst").data.extra_ratio == 0.5
    assert [recipe(name, "consistency").data.crop_padding for name in ("digits", "svhn", "cifar10")] == [1, 4, 4]


def test_the_command_line_asks_for_extra_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the file that --extra names"):
        parse(["--method", "rst"])
    file = str(tmp_path / "file")
    assert str(parse(["--method", "rst", "--extra", file]).config.data.extra) == file
    assert str(parse(["--method", "hat", "--standard", file]).config.objective.standard) == file


def test_half_of_each_batch_is_extra_and_the_run_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.install(monkeypatch, test=20)
    np.savez(tmp_path / "extra.npz", image=pixels(70, 8, 1), label=np.arange(70) % 10)
    extra = {"extra": tmp_path / "extra.npz"}
    config = tiny.config("rst", epochs=3, batch_size=25, data=extra, attack={"steps": 2}, run={"final_steps": 0})
    watcher = tiny.Watcher()
    run = tiny.trainer(config, tmp_path / "run", observer=watcher)
    assert run.step.method == AdversarialFirst(beta=6.0)
    run.run()
    assert {images for _, _, images, _ in watcher.steps} == {50}
    losses = [row["train_loss"] for row in run.rows]
    assert losses[-1] < losses[0]
    settings = read_settings(tmp_path / "run" / "config.json")
    assert settle(settings) == config
