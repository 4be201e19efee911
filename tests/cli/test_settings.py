"""A flag outranks the file of --config, which outranks the recipe; what can't be meant is answered with a remedy."""

import json

import pytest

from fastiseat.checkpoint import as_json
from fastiseat.recipes import recipe


@pytest.fixture
def plan(fastiseat):
    """What ``train --dry-run`` prints."""

    def run(*words):
        result = fastiseat("train", "--dry-run", *words)
        assert (result.code, result.err) == (0, ""), result
        return json.loads(result.out)

    return run


def settings_file(folder, settings):
    path = folder / "settings.json"
    path.write_text(settings if isinstance(settings, str) else json.dumps(settings), encoding="utf-8")
    return path


def test_a_dry_run_says_what_would_be_trained_and_writes_nothing(plan, tmp_path):
    planned = plan("--epochs", 4, "--out", "run")
    assert planned["config"]["schedule"]["epochs"] == 4
    assert planned["parameters"] == 77562
    assert [row["epoch"] for row in planned["schedule"]] == [0, 1, 2, 3]
    assert [row["lam"] for row in planned["schedule"]] == [0, 0, 0.1, 0.1]
    assert [row["lr"] for row in planned["schedule"]] == pytest.approx([0.1, 0.1, 0.01, 0.001])
    assert set(planned["schedule"][0]) == {"epoch", "lr", "eps", "step_size", "lam", "gamma"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["none", "at", "at-awp", "lsi", "iseat"])
def test_without_flags_it_is_the_recipe(plan, method):
    assert plan("--method", method)["config"] == as_json(recipe("digits", method))


def test_every_flag_reaches_its_setting(plan):
    words = """--dataset digits --batch-size 10 --val-split 0.2
        --flip --crop-padding 2 --padding-mode reflect --limit-train 99 --limit-test 9
        --max-steps 8 --amp --arch wrn-10-1 --variant common --method lsi
        --lam 0.3 --eps 8/255 --step-size 2/255 --steps 4 --random-start --attack-bn eval --awp-norm global
        --lr 0.2 --momentum 0.5 --weight-decay 0.01 --epochs 3 --lr-drops 0.1 0.2 0.3 --lr-factor 0.5 --lam-from 0.6
        --awp-from 0.7 --warmup 0.8 --seed 9 --deterministic --final-steps 7"""
    assert plan(*words.split())["config"] == {
        "data": {
            "dataset": "digits",
            "batch_size": 10,
            "flip": True,
            "crop_padding": 2,
            "padding_mode": "reflect",
            "limit_train": 99,
            "limit_test": 9,
            "val_split": 0.2,
        },
        "network": {"arch": "wrn-10-1", "variant": "common", "init": None},
        "objective": {"method": "lsi", "lam": 0.3},
        "attack": {
            "eps": 8 / 255,
            "step_size": 2 / 255,
            "steps": 4,
            "random_start": True,
            "bn_mode": "eval",
        },
        "awp": {"gamma": 0.0, "norm": "global"},
        "optimizer": {"lr": 0.2, "momentum": 0.5, "weight_decay": 0.01},
        "schedule": {
            "epochs": 3,
            "max_steps": 8,
            "lr_drops": [0.1, 0.2, 0.3],
            "lr_factor": 0.5,
            "lam_from": 0.6,
            "awp_from": 0.7,
            "warmup": 0.8,
        },
        "run": {"seed": 9, "amp": True, "deterministic": True, "final_steps": 7},
    }


def test_a_runs_config_repeats_it(plan, finished):
    stored = json.loads((finished / "config.json").read_text())["config"]
    assert plan("--config", finished / "config.json")["config"] == stored


def test_a_printed_plan_is_a_config_too(plan, tmp_path):
    first = plan("--method", "at", "--eps", "8/255", "--lr-drops", "--seed", 2**62)
    assert plan("--config", settings_file(tmp_path, first["config"])) == first


def test_part_of_a_file_is_enough(plan, tmp_path):
    path = settings_file(tmp_path, {"schedule": {"epochs": 7}, "objective": {"method": "at"}})
    expected = as_json(recipe("digits", "at"))
    expected["schedule"]["epochs"] = 7
    assert plan("--config", path)["config"] == expected
    assert plan("--config", settings_file(tmp_path, {}))["config"] == as_json(recipe())


def test_flag_over_file_over_recipe(plan, tmp_path):
    path = settings_file(tmp_path, {"config": {"optimizer": {"lr": 0.5, "momentum": 0.5}, "run": {"seed": 3}}})
    for words in (["--lr", "0.7", f"--config={path}"], ["--config", path, "--lr", "0.7"]):
        config = plan(*words)["config"]
        assert config["optimizer"] == {"lr": 0.7, "momentum": 0.5, "weight_decay": 5e-4}
        assert config["run"]["seed"] == 3
    assert plan("--config", path, "--method", "at")["config"]["objective"] == {"method": "at", "lam": 0.0}


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"data": {"batch_sise": 1}}, "unknown setting 'data.batch_sise'; did you mean data.batch_size"),
        ({"dta": {}}, "unknown setting 'dta'; did you mean data?"),
        ({"data": 5}, "--config: data=5: an object of settings is needed"),
        ({"data": None}, "--config: data=None: an object of settings is needed"),
        ({"data": {"batch_size": "12"}}, "--config: data.batch_size='12': Input should be a valid integer"),
        ({"data": {"batch_size": True}}, "--config: data.batch_size=True: Input should be a valid integer"),
        ({"data": {"batch_size": 1.5}}, "--config: data.batch_size=1.5: Input should be a valid integer"),
        ({"data": {"dataset": ["digits"]}}, "unknown data set \"['digits']\"; did you mean digits?"),
        ({"data": {"dataset": 5}}, "unknown data set '5'"),
        ({"objective": {"method": None}}, "unknown method 'None'; did you mean none?"),
        (
            {"attack": {"random_start": "yes"}},
            "--config: attack.random_start='yes': Input should be a valid boolean",
        ),
        ({"attack": {"eps": "8/255"}}, "--config: attack.eps='8/255': Input should be a valid number"),
        ({"attack": {"eps": 8}}, "eps=8.0: is beyond the pixel values, 0 … 1; 8 of 255 levels are written 8/255"),
        ({"attack": {"step_size": 0}}, "step_size=0 with eps=0.15: the attack would never move; use eps/4 or so"),
        ({"optimizer": {"lr": float("nan")}}, "lr=nan: must be a finite number"),
        ({"optimizer": {"lr": 10**400}}, "lr=inf: must be a finite number"),
        ({"network": {"variant": "x"}}, "--config: network.variant='x': Input should be 'released' or 'common'"),
        ({"schedule": {"lr_drops": 0.5}}, "--config: schedule.lr_drops=0.5: Input should be a valid array"),
        (
            {"schedule": {"lr_drops": [0.5, "x"]}},
            "--config: schedule.lr_drops.1='x': Input should be a valid number",
        ),
        ({"run": {"seed": 2**64}}, "seed=18446744073709551616: must lie in 0"),
        ([1], "holds no settings: an object like that of a run's config.json is needed"),
        ({"config": 5}, "holds no settings"),
        ("", "is not JSON: Expecting value"),
        ("\ufeff{}", "is not JSON: Unexpected UTF-8 BOM"),
        ("[" * 100_000, "is not JSON: maximum recursion depth"),
    ],
)
def test_odd_files_are_refused(fastiseat, tmp_path, settings, complaint):
    path = settings_file(tmp_path, settings)
    assert complaint in fastiseat("train", "--dry-run", "--config", path).complaint


@pytest.mark.parametrize(
    ("name", "complaint"), [("no.json", "No such file or directory"), (".", "Is a directory")]
)
def test_files_that_can_not_be_read_are_named(fastiseat, name, complaint):
    assert fastiseat("train", "--config", name).complaint == f"--config {name}: {complaint}"


def test_a_file_that_is_no_text_is_named(fastiseat, tmp_path):
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00")
    assert "--config x.json is not JSON" in fastiseat("train", "--config", "x.json").complaint


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--dataset digit", "unknown data set 'digit'; did you mean digits?"),
        ("--method isaet", "unknown method 'isaet'; did you mean iseat"),
        ("--arch smal", "unknown network 'smal'; did you mean small?"),
        ("--eps -0.1", "eps=-0.1: must be at least 0 (the radius of the perturbation, in pixel values 0 … 1)"),
        ("--eps 8", "eps=8.0: is beyond the pixel values"),
        ("--eps nan", "eps=nan: must be a finite number"),
        ("--epochs 0", "epochs=0: must be at least 1"),
        ("--method at --lam 0.1", "lam=0.1: method at has no stability term; use lam 0, or method lsi or iseat"),
        (
            "--method lsi --awp-gamma 0.1",
            "method lsi has no weight perturbation; use awp-gamma 0, or method iseat",
        ),
        ("--resume", "--resume: say which run to continue with --out DIR"),
    ],
)
def test_values_that_can_not_be_meant_are_refused(fastiseat, words, complaint):
    assert complaint in fastiseat("train", "--dry-run", *words.split()).complaint


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--batch-sise 5", "--batch-size"),
        ("--eps 1/0", "Error parsing --eps"),
        ("--epochs 1.5", "Error parsing --epochs"),
        ("--variant x", "--variant"),
        ("--method", "--method"),
        ("--config", "--config"),
        ("extra", "extra"),
    ],
)
def test_usage_errors_name_the_flag(fastiseat, words, named):
    result = fastiseat("train", *words.split())
    assert result.code == 2
    assert named in result.err
    assert "--help" in result.err
