"""Verdicts that ``fastiseat eval`` keeps: found again, gone on with, and not believed where they are damaged."""

import json
import os
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from fastiseat.cli.eval import follow as eval_follow
from fastiseat.evaluation import EnsembleState, robustness
from fastiseat.evaluation.ensemble.evaluator import EnsembleEvaluator
from fastiseat.evaluation.verdicts import records

pytestmark = pytest.mark.usefixtures("short")
AA = ("--attack", "aa", "--subset", 20, "--eps", 0.05)


def saved(run):
    """What a person finds, without the checksums in the names."""
    return sorted(path.stem.rsplit("-", 1)[0] for path in (run / "evaluations").iterdir())


def verdicts(result):
    """Of each attack, sample by sample."""
    found = [records.read(Path(row["saved"])) for row in result["attacks"]]
    return {record.facts["attack"]["name"]: record.ensemble_state.broken_by.tolist() for record in found}


def test_names_that_a_person_finds(fastiseat, run):
    result = fastiseat("eval", run, "--attack", "clean", "pgd-3", "--weights", "best", "last")
    assert result.code == 0
    assert saved(run) == [
        "best-digits-test-clean",
        "best-digits-test-pgd-3-linf-0.15",
        "last-digits-test-clean",
        "last-digits-test-pgd-3-linf-0.15",
    ]
    assert "verdicts: " in result.out
    weights = run / "weights" / "last.safetensors"
    assert fastiseat("eval", weights, "--attack", "clean", "--out", "there").code == 0
    assert [path.name.rsplit("-", 1)[0] for path in (run.parent / "there").iterdir()] == ["last-digits-test-clean"]


def test_complete_verdicts_are_not_computed_again(fastiseat, evaluate, run, monkeypatch, sanity):
    words = (run, "--attack", "clean", "pgd-3", "aa", "--subset", 20)
    first = evaluate(*words)
    assert len(sanity) == 1
    monkeypatch.setattr(robustness.Evaluator, "__call__", lambda *_, **__: pytest.fail("attacked"))
    monkeypatch.setattr(EnsembleEvaluator, "__call__", lambda *_, **__: pytest.fail("attacked"))
    result = fastiseat("eval", *words, "--json")
    assert json.loads(result.out) == first
    assert [line.split(":")[0] for line in result.err.splitlines()] == ["clean", "pgd-3", "aa"]
    assert all("its verdicts are in" in line for line in result.err.splitlines())
    assert len(sanity) == 1, "what the checks found is kept beside the verdicts"


@pytest.mark.parametrize(
    "more",
    [
        ("--eps", 0.1),
        ("--norm", "l2", "--eps", 0.15),
        ("--seed", 1),
        ("--subset", 30),
        ("--split", "train"),
        ("--restarts", 2),
        ("--step-size", 0.1),
        ("--weights", "last"),
        ("--fresh",),
    ],
)
def test_other_settings_are_other_verdicts(fastiseat, run, more):
    assert fastiseat("eval", run, "--attack", "pgd-3").code == 0
    result = fastiseat("eval", run, "--attack", "pgd-3", *more)
    assert (result.code, result.err) == (0, "")


def test_a_subset_of_all_is_all(fastiseat, run):
    assert fastiseat("eval", run, "--attack", "clean").code == 0
    assert "its verdicts are in" in fastiseat("eval", run, "--attack", "clean", "--subset", 60).err


def test_other_weights_under_the_same_name_are_other_verdicts(fastiseat, run):
    file = run / "weights" / "best.safetensors"
    assert fastiseat("eval", file, "--attack", "clean", "--dataset", "digits").code == 0
    state = load_file(file)
    state["linear.bias"] += 1
    last = (run / "weights" / "last.safetensors").read_bytes()
    assert last
    save_file(state, file, {"variant": "released"})
    assert fastiseat("eval", file, "--attack", "clean", "--dataset", "digits").err == ""


@pytest.mark.parametrize("harm", ["cut", "changed", "foreign", "other facts"])
def test_a_file_that_is_not_trusted_stays_as_it_is(fastiseat, evaluate, run, harm):
    words = (run, "--attack", "pgd-3")
    first = evaluate(*words)
    (path,) = (run / "evaluations").iterdir()
    text = path.read_text()
    if harm == "other facts":
        record = records.decode(text.encode())
        record.facts["seed"] = 5
        path.write_bytes(records.encode(record))
    else:
        content = {"cut": text[:-40], "changed": text.replace("[-1, 1", "[1, 1").replace("[1, -1", "[1, 1")}
        path.write_text(content.get(harm, "{}") if content.get(harm) != text else text.replace("0.15", "0.16"))
    harmed = path.read_bytes()
    result = fastiseat("eval", *words, "--json")
    assert "is not trusted (" in result.err
    assert path.read_bytes() == harmed
    again = json.loads(result.out)["attacks"][0]
    assert again["saved"] == str(path.with_name(f"{path.stem}-2.json"))
    assert again["correct"] == first["attacks"][0]["correct"]
    third = fastiseat("eval", *words)
    assert "is not trusted (" in third.err and f"its verdicts are in {again['saved']}" in third.err


class Cut:
    """Interrupts an ensemble after so many verdicts of a part."""

    def __init__(self, monkeypatch, after, by):
        self.left = after
        ended = EnsembleState.ended

        def counted(ensemble_state, *words, **more):
            ended(ensemble_state, *words, **more)
            self.left -= 1
            if self.left == 0:
                by()

        monkeypatch.setattr(EnsembleState, "ended", counted)


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("after", [1, 12, 30])
def test_an_interrupted_ensemble_goes_on_to_the_same_verdicts(fastiseat, evaluate, run, monkeypatch, after):
    whole = evaluate(run, *AA, "--out", "whole")
    cut = Cut(monkeypatch, after, interrupt)
    result = fastiseat("eval", run, *AA)
    assert result.code == 130
    (path,) = (run / "evaluations").iterdir()
    said, last = result.err.splitlines()
    assert said == f"the verdicts so far are in {path}: the same command goes on from there"
    assert last == "fastiseat: interrupted"
    assert "repeat its command first" in fastiseat("eval", path).complaint
    cut.left = -1
    rest = evaluate(run, *AA, "--batch-size", 7)
    assert verdicts(rest) == verdicts(whole)
    assert {rest["attacks"][0]["saved"]} == {str(path)}


def test_sigterm_saves_too(fastiseat, evaluate, run, monkeypatch):
    whole = evaluate(run, *AA, "--out", "whole")
    before = signal.getsignal(signal.SIGTERM)
    cut = Cut(monkeypatch, 20, lambda: os.kill(os.getpid(), signal.SIGTERM))
    result = fastiseat("eval", run, *AA)
    assert result.code == 143
    assert "stopped by SIGTERM between two verdicts: the same command goes on" in result.err
    assert signal.getsignal(signal.SIGTERM) == before
    cut.left = -1
    assert verdicts(evaluate(run, *AA)) == verdicts(whole)


def test_an_ensemble_is_saved_meanwhile(evaluate, run, monkeypatch):
    monkeypatch.setattr(eval_follow, "_SAVED_EVERY", 0.0)
    saved, save = [], records.Record.save
    monkeypatch.setattr(
        records.Record, "save", lambda record, path: (saved.append(record.left), save(record, path))
    )
    evaluate(run, *AA, "--no-sanity")
    assert len(saved) > 10
    assert saved == sorted(saved, reverse=True) and saved[-1] == 0


def test_an_interrupt_before_any_verdict_leaves_nothing(fastiseat, run, monkeypatch):
    monkeypatch.setattr(robustness, "correct_under", lambda *_, **__: interrupt())
    result = fastiseat("eval", run)
    assert (result.code, result.out, result.err) == (130, "", "fastiseat: interrupted\n")
    assert not (run / "evaluations").exists()


def test_an_interrupt_wipes_the_bar_away(fastiseat, run, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    Cut(monkeypatch, 20, interrupt)
    result = fastiseat("eval", run, *AA)
    assert result.code == 130
    assert result.err.endswith("\x1b[2Kfastiseat: interrupted\n")


def test_a_folder_that_can_not_be_written(fastiseat, run):
    (run / "evaluations").write_text("a file")
    assert "choose another --out" in fastiseat("eval", run, "--attack", "clean").complaint
