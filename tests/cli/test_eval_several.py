"""Several evaluations at once: their means, and two of them sample by sample."""

import shutil

import numpy as np
import pytest

from fastiseat.evaluation.verdicts import records

FEW = ("--attack", "clean", "pgd-3")


@pytest.fixture
def runs(run):
    """Three of them, of which the second is other weights."""
    second = shutil.copytree(run, run.parent / "second")
    shutil.copy(second / "weights" / "last.safetensors", second / "weights" / "best.safetensors")
    return run, second, shutil.copytree(run, run.parent / "third")


def test_the_mean_over_targets(fastiseat, evaluate, runs):
    found = evaluate(*runs, *FEW)
    accuracies = np.array([[row["accuracy"] for row in each["attacks"]] for each in found["evaluations"]])
    for column, values in zip(found["means"], accuracies.T, strict=True):
        assert column["targets"] == 3
        assert column["mean"] == pytest.approx(values.mean())
        assert column["sd"] == pytest.approx(values.std(ddof=1))
    out = fastiseat("eval", *runs, *FEW).out
    assert "mean ± sample SD (n - 1) over the targets" in out
    assert f"{100 * accuracies[:, 0].mean():.2f} ± {100 * accuracies[:, 0].std(ddof=1):.2f}%" in out


def test_each_weights_have_a_mean_of_their_own(evaluate, runs):
    found = evaluate(*runs[:2], "--weights", "best", "last", "--attack", "clean")
    assert [(each["group"], each["targets"]) for each in found["means"]] == [("best", 2), ("last", 2)]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (("--eps", 0.1), "eps (0.1, 0.15)"),
        (("--norm", "l2", "--eps", 0.15), "norm (l2, linf)"),
        (("--subset", 30), "subset (30, None)"),
        (("--split", "train"), "split (train, test)"),
    ],
)
def test_what_is_measured_otherwise_has_no_mean(fastiseat, evaluate, run, other, reason):
    (row,) = evaluate(run, "--attack", "pgd-3", *other)["attacks"]
    (line,) = evaluate(row["saved"], run, "--attack", "pgd-3")["no_means"]
    assert line.startswith("no mean of pgd-3: the targets differ in ") and reason in line
    assert line in fastiseat("eval", row["saved"], run, "--attack", "pgd-3").out


@pytest.mark.usefixtures("short")
def test_the_two_autoattacks_never_share_a_column(evaluate, run):
    weak, standard = evaluate(run, "--attack", "aa-torchattacks", "aa", "--subset", 10)["attacks"]
    found = evaluate(weak["saved"], standard["saved"])
    assert (found["means"], found["no_means"]) == ([], [])


def test_two_weights_sample_by_sample(fastiseat, evaluate, run):
    found = evaluate(run, "--weights", "best", "last", "--compare", *FEW)["comparison"]
    assert [found["first"], found["second"]] == [
        str(run / "weights" / f"{w}.safetensors") for w in ("best", "last")
    ]
    files = {which: next((run / "evaluations").glob(f"{which}-*-clean-*")) for which in ("best", "last")}
    first, second = (records.read(path).robust for path in files.values())
    clean = found["attacks"][0]
    assert clean["agreement"] == (first == second).mean()
    assert clean["both"] == (first & second).sum()
    assert clean["only_first"] == (first & ~second).sum()
    assert clean["only_second"] == (~first & second).sum()
    assert clean["neither"] == (~first & ~second).sum()
    assert clean["differing"] == np.flatnonzero(first != second)[:20].tolist()
    text = fastiseat("eval", *files.values(), "--compare").out
    assert "only second" in text and "±" not in text


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("run --compare", "--compare: two evaluations are compared, here are 1; give two targets"),
        ("run second third --compare", "--compare: two evaluations are compared, here are 3"),
        ("run second --weights best last --compare", "--compare: two evaluations are compared, here are 4"),
        ("run saved.json --compare", "--compare: the evaluations differ in subset (None, 30); evaluate both on"),
        ("saved.json third.json --compare", "--compare: no attack of the same name, norm and ε is in both"),
        ("run/config.json", "run/config.json: it is no evaluation that fastiseat saved"),
        ("missing.json", "missing.json: cannot be read (No such file or directory)"),
    ],
)
def test_what_can_not_be_compared(fastiseat, evaluate, runs, words, complaint):
    for name, attack in {"saved": "clean", "third": "pgd-1"}.items():
        (row,) = evaluate(runs[0], "--attack", attack, "--subset", 30)["attacks"]
        shutil.copy(row["saved"], f"{name}.json")
    assert complaint in fastiseat("eval", *words.split()).complaint


def test_what_is_wrong_with_the_last_is_said_before_the_first_is_attacked(fastiseat, run):
    assert "missing.pt: no such file" in fastiseat("eval", run, "missing.pt").complaint
    assert not (run / "evaluations").exists()


def test_a_target_is_needed(fastiseat):
    assert fastiseat("eval").complaint.startswith("eval: name a run's directory, a weights file or a saved")
