"""Settings that can't be meant are answered with the value, the rule and the remedy, whether flags or a file's."""

import pytest
import tiny


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
        ({"attack": {"eps": "8:255"}}, "--config: attack.eps='8:255': Input should be a valid number"),
        ({"attack": {"eps": 8}}, "eps=8.0: is beyond the pixel values, 0 … 1; 8 of 255 levels are written 8/255"),
        ({"attack": {"step_size": 0}}, "step_size=0 with eps=0.15: the attack would never move; use eps/4 or so"),
        ({"optimizer": {"lr": float("nan")}}, "lr=nan: must be a finite number"),
        ({"optimizer": {"lr": 10**400}}, "lr=inf: must be a finite number"),
        ({"network": {"variant": "x"}}, "--config: network.variant='x': Input should be 'released', 'common'"),
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
    path = tiny.settings_file(tmp_path, settings)
    assert complaint in fastiseat("train", "--dry-run", "--config", path).complaint


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("no.json", "No such file or directory"), (".", "it is a folder, and a file is needed")],
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
        ("--epochs 1.5", "Error parsing --epochs"),
        ("--method", "--method"),
        ("--config", "--config"),
    ],
)
def test_usage_errors_name_the_flag(fastiseat, words, named):
    result = fastiseat("train", *words.split())
    assert result.code == 2
    assert named in result.err
    assert "--help" in result.err
