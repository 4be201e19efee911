"""A flag outranks the file of --config, which outranks the recipe."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from fastiseat.checkpoint import as_json
from fastiseat.cli.train.command import default_directory, parse
from fastiseat.config import Data
from fastiseat.recipes import recipe


@pytest.fixture(autouse=True)
def enough_digits(monkeypatch):
    """As many as a batch of the recipe takes."""
    tiny.install(monkeypatch, train=256)


@pytest.fixture
def plan(fastiseat):
    """What ``train --dry-run`` prints."""

    def run(*words):
        result = fastiseat("train", "--dry-run", *words)
        assert (result.code, result.err) == (0, ""), result
        return json.loads(result.out)

    return run


def test_a_dry_run_says_what_would_be_trained_and_writes_nothing(plan, tmp_path):
    planned = plan("--epochs", 4, "--out", "run")
    assert planned["config"]["schedule"]["epochs"] == 4
    assert planned["parameters"] == 77562
    assert planned["steps_per_epoch"] == 2
    assert [row["epoch"] for row in planned["schedule"]] == [0, 1, 2, 3]
    assert [row["lam"] for row in planned["schedule"]] == [0, 0, 0.1, 0.1]
    assert [row["lr"] for row in planned["schedule"]] == pytest.approx([0.1, 0.1, 0.01, 0.001])
    assert set(planned["schedule"][0]) == {"epoch", "lr", "eps", "step_size", "lam", "gamma"}
    assert list(tmp_path.iterdir()) == []


def test_a_momentum_that_moves_is_planned_too(plan):
    rows = plan("--epochs", 2, "--lr-shape", "onecycle", "--momentum-cycle", 0.8, 0.6, "--lr-warmup", 0.5)[
        "schedule"
    ]
    found = [row[name] for row in rows for name in ("momentum_first", "momentum")]
    assert found == pytest.approx([0.8, 0.6, 0.7, 0.8])
    still = plan("--epochs", 2, "--lr-shape", "onecycle", "--momentum-cycle", "None")["schedule"]
    assert set(rows[0]) - set(still[0]) == {"momentum", "momentum_first"}


def test_a_learning_rate_that_moves_within_epochs_is_planned_from_first_to_last_step(plan):
    """As metrics will have it; of a data set that is not there, the last step's of an epoch of many."""
    words = ("--epochs", 4, "--lr-shape", "cosine", "--lr-per-step")
    rows = plan(*words)["schedule"]
    expected = [0.05 * (1 + math.cos(math.pi * end / 8)) for end in range(1, 9)]
    assert [row[name] for row in rows for name in ("lr_first", "lr")] == pytest.approx(expected, abs=1e-15)
    unprepared = plan("--dataset", "svhn", "--lr", 0.1, *words)["schedule"]
    assert [row["lr"] for row in unprepared] == pytest.approx([row["lr"] for row in rows], abs=1e-15)
    assert "lr_first" not in unprepared[0]


@pytest.mark.parametrize("method", ["none", "at", "at-awp", "lsi", "iseat", "at-rice", "trades", "mart-awp"])
def test_without_flags_it_is_the_recipe(plan, method):
    assert plan("--method", method)["config"] == as_json(recipe("digits", method))


@pytest.mark.parametrize(
    ("words", "reached"),
    [
        ("--dataset svhn --augment idbh-svhn", lambda config: config.data.augment == "idbh-svhn"),
        ("--extra x.npz --extra-ratio 0.25", lambda config: config.data.extra_ratio == 0.25),
        ("--lr-shape cosine", lambda config: config.schedule.lr_shape == "cosine"),
    ],
)
def test_flags_that_stand_in_the_place_of_others_reach_theirs(words, reached):
    assert reached(parse(words.split()).config)


def test_every_flag_reaches_its_setting():
    words = """--dataset digits --batch-size 10 --val-split 0.2
        --flip --crop-padding 2 --padding-mode reflect
        --images jpeg --limit-train 99 --limit-test 9
        --max-steps 8 --amp --amp-dtype fp16 --arch wrn-10-1 --variant common --mean 0.1 --std 0.2
        --initialization he --method iseat
        --lam 0.3 --weighting top --distance kl --smoothness lsi
        --norm l2 --eps 8/255 --step-size 2/255 --steps 4 --random-start --attack-bn eval
        --awp-gamma 0.02 --awp-norm global --awp-gradient half-batch
        --lr 0.2 --momentum 0.5 --nesterov --weight-decay 0.01 --optimizer apex --epochs 3
        --lr-drops 0.1 0.2 0.3 --lr-factor 0.5 --lr-stages 0.5 0.4 0.3 --lr-per-step
        --lam-from 0.6 --awp-from 0.7 --warmup 0.8 --seed 9 --no-tf32 --deterministic --final-steps 7"""
    assert as_json(parse(words.split()).config) == {
        "data": {
            "dataset": "digits",
            "batch_size": 10,
            "flip": True,
            "crop_padding": 2,
            "padding_mode": "reflect",
            "augment": "standard",
            "images": "jpeg",
            "extra": None,
            "extra_ratio": 0.5,
            "limit_train": 99,
            "limit_test": 9,
            "val_split": 0.2,
        },
        "network": {
            "arch": "wrn-10-1",
            "variant": "common",
            "initialization": "he",
            "mean": [0.1],
            "std": [0.2],
            "init": None,
        },
        "objective": {
            "method": "iseat",
            "lam": 0.3,
            "weighting": "top",
            "distance": "kl",
            "smoothness": "lsi",
            "beta": None,
            "reverse_from": None,
            "standard": None,
        },
        "attack": {
            "eps": 8 / 255,
            "step_size": 2 / 255,
            "norm": "l2",
            "steps": 4,
            "random_start": True,
            "noise": 0.0,
            "bn_mode": "eval",
        },
        "awp": {"gamma": 0.02, "norm": "global", "gradient": "half-batch"},
        "optimizer": {
            "lr": 0.2,
            "momentum": 0.5,
            "nesterov": True,
            "weight_decay": 0.01,
            "implementation": "apex",
        },
        "schedule": {
            "epochs": 3,
            "max_steps": 8,
            "lr_shape": "steps",
            "lr_drops": [0.1, 0.2, 0.3],
            "lr_factor": 0.5,
            "lr_stages": [0.5, 0.4, 0.3],
            "lr_per_step": True,
            "lr_warmup": 0.25,
            "momentum_cycle": [0.95, 0.85],
            "lam_from": 0.6,
            "awp_from": 0.7,
            "warmup": 0.8,
        },
        "run": {
            "seed": 9,
            "amp": True,
            "amp_dtype": "fp16",
            "tf32": False,
            "deterministic": True,
            "final_steps": 7,
        },
    }


def test_a_runs_config_repeats_it(plan, finished):
    stored = json.loads((finished / "config.json").read_text())["config"]
    assert plan("--config", finished / "config.json")["config"] == stored


def test_a_run_of_before_a_setting_was_there_is_repeated_without_it(plan, finished, tmp_path):
    """A recipe that sets it today does not come between."""
    stored = json.loads((finished / "config.json").read_text())
    stored["config"]["objective"]["method"] = "at-rice"
    stored["config"]["data"]["dataset"] = "cifar10"
    for name in ("mean", "std", "initialization"):
        del stored["config"]["network"][name]
    assert recipe("cifar10", "at-rice").network.mean
    network = plan("--config", tiny.settings_file(tmp_path, stored))["config"]["network"]
    assert (network["mean"], network["std"], network["initialization"]) == ([], [], "torch")
    part = {"config": stored["config"]}  # without the words of a run: any part of one, over the recipe
    assert plan("--config", tiny.settings_file(tmp_path, part))["config"]["network"]["mean"]


def test_a_printed_plan_is_a_config_too(plan, tmp_path):
    first = plan("--method", "at", "--eps", "8/255", "--lr-drops", "--seed", 2**62)
    assert plan("--config", tiny.settings_file(tmp_path, first["config"])) == first


def test_part_of_a_file_is_enough(plan, tmp_path):
    path = tiny.settings_file(tmp_path, {"schedule": {"epochs": 7}, "objective": {"method": "at"}})
    expected = as_json(recipe("digits", "at"))
    expected["schedule"]["epochs"] = 7
    assert plan("--config", path)["config"] == expected
    assert plan("--config", tiny.settings_file(tmp_path, {}))["config"] == as_json(recipe())


def test_a_file_may_be_toml(plan, fastiseat, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[attack]\neps = "8/255"\nstep_size = 0.007\n[schedule]\nepochs = 4\nlr_drops = [0.25]\n')
    settings = {"attack": {"eps": 8 / 255, "step_size": 0.007}, "schedule": {"epochs": 4, "lr_drops": [0.25]}}
    assert plan("--config", path) == plan("--config", tiny.settings_file(tmp_path, settings))
    path.write_text('method = "at"\n')
    assert fastiseat("train", "--config", path).complaint == "unknown setting 'method'; it is objective.method"
    path.write_text("[optimizer]\nepochs = 4\n")
    assert (
        fastiseat("train", "--config", path).complaint
        == "unknown setting 'optimizer.epochs'; it is schedule.epochs"
    )
    path.write_text("[attack]\neps = 8/255\n")
    assert fastiseat("train", "--config", path).complaint.startswith(f"--config {path} is not TOML: ")
    path.write_text('[attack]\neps = "8/x"\n')
    assert fastiseat("train", "--config", path).complaint.startswith("--config: attack.eps='8/x': ")


def test_flag_over_file_over_recipe(plan, tmp_path):
    path = tiny.settings_file(
        tmp_path, {"config": {"optimizer": {"lr": 0.5, "momentum": 0.5}, "run": {"seed": 3}}}
    )
    for words in (["--lr", "0.7", f"--config={path}"], ["--config", path, "--lr", "0.7"]):
        config = plan(*words)["config"]
        assert config["optimizer"] == {
            "lr": 0.7,
            "momentum": 0.5,
            "nesterov": False,
            "weight_decay": 5e-4,
            "implementation": "own",
        }
        assert config["run"]["seed"] == 3
    assert (
        plan("--config", path, "--method", "at")["config"]["objective"]
        == as_json(recipe("digits", "at"))["objective"]
    )


def test_the_flags_of_trades_and_mart(plan):
    config = plan("--method", "trades", "--beta", "1.5", "--noise", "0.01")["config"]
    assert (config["objective"]["beta"], config["attack"]["noise"]) == (1.5, 0.01)
    assert config["attack"]["random_start"] is False


def test_a_dry_run_says_which_recipe_it_took_and_what_was_changed(plan):
    planned = plan("--dataset", "cifar10", "--augment", "idbh-cifar10-weak", "--epochs", 7, "--lr", 0.2)
    assert planned["recipe"].startswith("iseat on cifar10 with wrn-34-10, idbh-cifar10-weak: ")
    assert "IDBH: γ = 0.005, and ISEAT trains twice as long" in planned["recipe"]
    assert planned["changed"] == ["optimizer.lr: 0.1 -> 0.2", "schedule.epochs: 400 -> 7"]
    assert "no published numbers" in plan("--dataset", "svhn", "--augment", "idbh-svhn")["recipe"]
    assert "Rice et al., 2020" in plan("--dataset", "cifar10", "--method", "awp-wu")["recipe"]
    assert plan("--method", "at")["recipe"] == "at on digits with small: the data set's recipe."


def test_a_file_chooses_the_recipe_as_flags_do(plan, tmp_path):
    data = {"dataset": "cifar10", "augment": "idbh-cifar10-strong"}
    path = tiny.settings_file(tmp_path, {"data": data, "awp": {"gamma": 0.003}})
    config = plan("--config", path)["config"]
    assert (config["schedule"]["epochs"], config["awp"]["gamma"]) == (400, 0.003)  # the file outranks the recipe
    config = plan("--config", path, "--augment", "standard", "--extra", "x.npz")["config"]
    assert (config["schedule"]["epochs"], config["objective"]["lam"]) == (200, 0.01)
    assert (config["network"]["arch"], config["awp"]["gamma"]) == ("wrn-28-10", 0.003)


def test_a_dry_run_finds_a_batch_larger_than_the_data(fastiseat):
    assert "batch_size=5000: there are" in fastiseat("train", "--dry-run", "--batch-size", 5000).complaint


def test_a_runs_folder_is_named_after_the_last_part_of_a_path():
    config = replace(recipe(), data=Data(dataset="npz:/some/where/mine.npz"))
    folder = default_directory(config)
    assert folder.parent == Path("runs")
    assert folder.name.startswith("npz-mine-iseat-s0-")


@pytest.mark.parametrize(
    ("dataset", "method", "parameters"),
    [("svhn", "at", 11_172_170), ("tinyimagenet", "iseat", 11_269_640)],
)
def test_a_plan_needs_no_data_and_prepares_none(plan, tmp_path, monkeypatch, dataset, method, parameters):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("FASTISEAT_DATA", raising=False)
    planned = plan("--dataset", dataset, "--method", method)
    assert planned["config"] == as_json(recipe(dataset, method))
    assert planned["parameters"] == parameters
    assert planned["steps_per_epoch"] is None
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_knows_the_network_that_was_asked_for(plan):
    """MART's numbers are a ResNet-18's or a wide network's."""
    narrow = plan("--dataset", "cifar10", "--method", "mart", "--arch", "prn18")["config"]
    wide = plan("--dataset", "cifar10", "--method", "mart")["config"]
    for config, arch, lr, weight_decay, beta, epochs in (
        (narrow, "prn18", 0.01, 3.5e-3, 5.0, 120),
        (wide, "wrn-34-10", 0.1, 7e-4, 6.0, 90),
    ):
        assert config["network"]["arch"] == arch
        assert (config["optimizer"]["lr"], config["optimizer"]["weight_decay"]) == (lr, weight_decay)
        assert (config["objective"]["beta"], config["schedule"]["epochs"]) == (beta, epochs)


@pytest.mark.parametrize(
    ("words", "epochs", "lam"),
    [("ablation --method iseat", 40, 0.1), ("eq7", 10, 1.0), ("eq7 --lam 2.5", 10, 2.5)],
)
def test_fine_tuning_as_in_the_papers_studies(plan, finished, words, epochs, lam):
    weights = finished / "weights" / "best.safetensors"
    network = ("--arch", "small", "--variant", "released")
    planned = plan("--init", weights, *network, "--fine-tune", *words.split())
    rows = planned["schedule"]
    assert len(rows) == epochs
    assert {row["lam"] for row in rows} == {lam}
    assert [row["lr"] for row in rows] == pytest.approx([0.01] * (epochs // 2) + [0.001] * (epochs // 2))
    objective = planned["config"]["objective"]
    assert (objective["method"], objective["weighting"]) == (
        ("lsi", "top") if "eq7" in words else ("iseat", "linear")
    )


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--fine-tune ablation", "say which trained network to begin with by --init FILE"),
        (
            "--fine-tune eq7 --method iseat --init digits-iseat",
            "Eq. 7 is method lsi, without weight perturbation; not iseat",
        ),
    ],
)
def test_fine_tuning_that_lacks_something(fastiseat, words, complaint):
    assert complaint in fastiseat("train", "--dry-run", *words.split()).complaint


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_an_attack_that_would_start_where_its_loss_is_flat_is_refused(fastiseat, tmp_path, more):
    line = fastiseat("train", "--method", "trades", "--noise", 0, "--out", "run", *more).complaint
    assert "no gradient: give it a start, noise 0.001 as TRADES has it (PGD(noise=0.001), --noise 0.001)" in line
    assert not (tmp_path / "run").exists()
