"""A run: what it writes, and which weights it calls the best."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny
from PIL import Image
from safetensors.torch import load_file

from fastiseat.evaluation import Evaluator
from fastiseat.models import load_model, read_weights
from fastiseat.pipelines.data.formats import digits
from fastiseat.recipes import METHODS
from fastiseat.report.reader import read_metrics
from fastiseat.run.epoch import train_epoch
from fastiseat.run.metrics import NEED_CLEAN_LOGITS
from fastiseat.run.scores import final

FILES = [
    "checkpoints/step-000000004.ckpt",
    "checkpoints/step-000000006.ckpt",
    "config.json",
    "figures/curves.png",
    "metrics.jsonl",
    "results.json",
    "weights/best.safetensors",
    "weights/last.safetensors",
]


@pytest.fixture(autouse=True)
def few_digits(monkeypatch):
    tiny.install(monkeypatch)


def test_the_files_of_a_run(tmp_path, drawn_pictures):
    watcher = tiny.Watcher()
    config = tiny.config(epochs=3)
    trainer = tiny.trainer(config, tmp_path / "run", observer=watcher)
    assert not (tmp_path / "run").exists(), "nothing is written before the run begins"
    results = trainer.run()
    found = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and path.name != ".lock"]
    assert sorted(str(path.relative_to(tmp_path / "run")) for path in found) == FILES
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == results
    assert [result["weights"] for result in results] == ["best", "last"]
    assert all(list(result["accuracy"]) == ["clean", "pgd-10", "pgd-2"] for result in results)
    assert read_metrics(tmp_path / "run") == watcher.rows == trainer.rows
    assert [(epoch, step, images) for epoch, step, images, _ in watcher.steps] == [
        (epoch, step, 50) for epoch in range(3) for step in range(2)
    ]
    assert watcher.evaluations[:2] == [("clean", 60, 60), ("pgd-10", 60, 60)]
    with Image.open(tmp_path / "run" / "figures" / "curves.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 500


def test_what_a_line_of_metrics_says(tmp_path):
    trainer = tiny.trainer(tiny.config(epochs=2), tmp_path / "run")
    trainer.run()
    first, second = trainer.rows
    losses = [loss for epoch, _, _, loss in trainer.observer.steps if epoch == 1]
    assert second["train_loss"] == pytest.approx(np.mean(losses))
    assert second["train_loss"] == pytest.approx(
        second["train_loss_adversarial"] + second["train_loss_stability"], rel=1e-5
    )
    assert second["av_step_mean"] == pytest.approx(
        second["train_loss_adversarial"] - second["train_loss_clean"], abs=1e-5
    )
    assert (first["lr"], first["lam"], first["gamma"]) == (0.1, 0.0, 0.007)
    assert (second["lr"], second["lam"]) == (pytest.approx(0.001), 0.1)  # of two epochs, both drops
    assert "train_loss_stability" not in first
    assert first["caveats"] == second["caveats"] == []
    assert first.keys() > tiny.CLOCKS
    assert first["images_per_second"] == pytest.approx(100 / first["seconds"])


@pytest.mark.parametrize("method", [name for name, entry in METHODS.items() if not entry.needs])
def test_clean_losses_and_av_are_there_or_said_not_to_be(tmp_path, method):
    """Of every method by its own recipe; those of images that an attack started from elsewhere are said to be."""
    config = tiny.config(method, epochs=1, attack={"steps": 1}, data={"limit_train": 50}, run={"final_steps": 0})
    trainer = tiny.trainer(config, tmp_path / "run")
    (row,) = [train_epoch(trainer, 0)]
    nulls = {name for name in NEED_CLEAN_LOGITS if row[name] is None}
    said = " ".join(row["caveats"])
    assert all(name in said for name in nulls)
    assert bool(nulls) == ("null" in said) == (method in ("none", "consistency"))
    assert ("random start in place of x" in said) == (method in ("at-rice", "awp-wu"))


@pytest.mark.parametrize(("lam_from", "missing"), [(1.0, True), (0.0, False)])
def test_an_attack_in_eval_mode_gives_no_clean_logits_until_lam_is_on(tmp_path, lam_from, missing):
    config = tiny.config(epochs=1, attack={"steps": 1, "bn_mode": "eval"}, run={"final_steps": 0})
    config = replace(config, schedule=replace(config.schedule, lam_from=lam_from))
    row = train_epoch(tiny.trainer(config, tmp_path / "run"), 0)
    assert (row["av_step_sd"] is None) == bool(row["caveats"]) == missing


def test_weight_files_carry_what_an_evaluation_needs(tmp_path):
    trainer = tiny.trainer(tiny.config(epochs=1, attack={"eps": 8 / 255}), tmp_path / "run")
    trainer.run()
    weights = read_weights(tmp_path / "run" / "weights" / "last.safetensors")
    assert weights.metadata.items() >= {"dataset": "digits", "method": "iseat", "epoch": "0"}.items()
    assert float(weights.metadata["eps"]) == 8 / 255
    assert tiny.same_weights(weights.state, trainer.model.state_dict())


def scripted(monkeypatch, **accuracies):
    """Validation that finds what it is told to, epoch by epoch; an attack without a script finds 0."""
    told = {name: iter(values) for name, values in accuracies.items()}

    def verdicts(evaluator, split, attack, **_):
        value = next(told[attack.name], 0) if attack.name in told else 0
        return np.arange(10) < round(10 * value)

    monkeypatch.setattr(Evaluator, "__call__", verdicts)


def best_epochs(out):
    rows = read_metrics(out)
    chosen = int(read_weights(out / "weights" / "best.safetensors").metadata["epoch"])
    return [row["epoch"] for row in rows if row["best"]], chosen


def test_ties_for_the_best_weights_take_the_later_epoch(tmp_path, monkeypatch):
    scripted(monkeypatch, **{"pgd-10": [0.5, 0.7, 0.6, 0.7, 0.3], "clean": [0.9, 0.1, 1, 0.1, 1]})
    results = tiny.trainer(tiny.config("at", epochs=5, attack={"steps": 1}), tmp_path / "run").run()
    assert best_epochs(tmp_path / "run") == ([0, 1, 3], 3)
    assert [(result["weights"], result["epoch"]) for result in results] == [("best", 3), ("last", 4)]


def test_without_a_defence_the_best_is_chosen_on_clean_accuracy(tmp_path, monkeypatch):
    scripted(monkeypatch, **{"clean": [0.5, 0.9, 0.8], "pgd-10": [0.3, 0.2, 0.4]})
    tiny.trainer(tiny.config("none", epochs=3), tmp_path / "run").run()
    assert best_epochs(tmp_path / "run") == ([0, 1], 1)


def test_results_are_those_of_the_written_weights(tmp_path, monkeypatch):
    scripted(monkeypatch, **{"pgd-10": [0.9, 0.1]})
    trainer = tiny.trainer(tiny.config("at", epochs=2), tmp_path / "run")
    trainer.run()
    monkeypatch.undo()
    tiny.install(monkeypatch)
    best, last = (final(trainer, which) for which in ("best", "last"))
    first = load_file(tmp_path / "run" / "weights" / "best.safetensors")
    assert not tiny.same_weights(first, trainer.model.state_dict())
    assert best["accuracy"] != last["accuracy"]


def test_final_steps_0_leaves_the_last_attack_out(tmp_path):
    results = tiny.trainer(tiny.config("none", epochs=1, run={"final_steps": 0}), tmp_path / "run").run()
    assert [list(result["accuracy"]) for result in results] == [["clean", "pgd-10"]] * 2


def test_real_digits_learn_something(tmp_path, monkeypatch):
    monkeypatch.undo()
    results = tiny.trainer(tiny.config("at", epochs=2, batch_size=128), tmp_path / "run").run()
    assert len(digits.read().test) == 355
    assert results[1]["accuracy"]["clean"] > 0.6
    assert load_model(tmp_path / "run" / "weights" / "last.safetensors").spec.in_channels == 1
