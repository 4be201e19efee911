"""``fastiseat bench``: tables for people, JSON for programs, and one line for what cannot be measured."""

import json

import pytest

from fastiseat.bench.steps import ceiling, limits

QUICK = ("--arch", "small", "--dataset", "digits", "--batch-size", 12, "--rounds", 1, "--seconds", 0.0001)


@pytest.fixture(autouse=True)
def small_products(monkeypatch):
    monkeypatch.setattr(ceiling, "_SIDES", {"cpu": 64})
    monkeypatch.setattr(ceiling, "_COPIED", {"cpu": 2**16})


def test_all_parts_as_json(fastiseat):
    result = fastiseat("bench", "all", *QUICK, "--baseline", "none", "--method", "at", "--images", 60, "--json")
    assert result.code == 0
    found = json.loads(result.out)
    assert {"step", "loaders", "kernels", "epoch", "ceiling", "machine", "clocks", "targets"} <= found.keys()
    (case,) = found["step"]
    assert [(row["variant"], row["method"]) for row in case["rows"]] == [("fastiseat-eager-full", "at")]
    assert case["rows"][0]["median"] > 0
    assert [attacked["title"] for attacked in found["attack"]] == ["small on digits"], "too few images to train on"


ATTACK = (
    "bench",
    "attack",
    "--eps",
    0.2,
    "--subset",
    6,
    "--batch-size",
    6,
    "--part",
    "apgd-ce",
    "--seconds",
    0.0001,
)


def test_attacks_on_a_run_s_network(fastiseat, finished, tmp_path):
    results = tmp_path / "results"
    result = fastiseat(*ATTACK, "--weights", finished, "--unbroken", 2, "--results", results, "--json")
    assert result.code == 0
    (file,) = results.iterdir()
    found = json.loads(file.read_text())
    assert found == json.loads(result.out)
    first, second = found["attack"]
    assert [row["variant"] for row in first["rows"]] == ["fastiseat-eager-full", "pyautoattack"]
    assert (first["rounds"], first["images"], first["eps"], first["norm"]) == (1, 6, 0.2, "linf")
    assert second["unbroken"]
    assert 1 <= second["images"] <= 2, "of those that a network of two epochs gets right"
    assert "step" not in found
    assert str(finished) not in file.read_text(), "the machine's own folders"


def test_attacks_by_the_engines_and_in_the_precisions_named(fastiseat, finished):
    words = (
        "--weights",
        finished,
        "--unbroken",
        0,
        "--engine",
        "eager",
        "tape",
        "--baseline",
        "none",
        "--norm",
        "l2",
    )
    result = fastiseat(*ATTACK, *words, "--markdown")
    assert result.code == 0
    for engine in ("eager", "tape"):
        assert f"| fastiseat-{engine}-full |  | " in result.out
    assert "ε 0.2 (l2), apgd-ce alone: AutoAttack by its parts" in result.out
    assert "pyautoattack |" not in result.out.replace("× pyautoattack |", "")


@pytest.mark.parametrize("form", [[], ["--markdown"]])
def test_steps_as_tables(fastiseat, form):
    result = fastiseat("bench", "step", *QUICK, "--baseline", "eager", "--method", "at", "iseat", *form)
    assert result.code == 0
    assert result.out.count("fastiseat-eager-full") >= 4
    for words in ("one training step", "× eager", "host ms", "memory", "TF32", "of peak", "floor ms", "Table 7"):
        assert words in result.out
    assert ("## " in result.out) == bool(form)


def test_engines_and_modes_as_they_are_named(fastiseat):
    words = ("--engine", "eager", "tape", "--clean-graph", "keep", "recompute", "--awp-gradient", "previous-step")
    result = fastiseat("bench", "step", *QUICK, *words, "--baseline", "none", "--method", "iseat", "--markdown")
    assert result.code == 0
    for engine in ("eager", "tape"):
        assert f"| fastiseat-{engine}-full-recompute | iseat |" in result.out
        assert f"| fastiseat-{engine}-full-previous-step (approximate) | iseat |" in result.out
        assert f"| fastiseat-{engine}-full | iseat |" not in result.out, "keep and exact are it"
    assert ", modes: one training step" in result.out
    assert "Targets on" in result.out


def test_the_other_modes_come_beside_the_plain_one(fastiseat):
    words = ("--checkpoint-blocks", "--wasteful", "--baseline", "none", "--method", "iseat", "--json")
    (case,) = json.loads(fastiseat("bench", "step", *QUICK, *words).out)["step"]
    assert [row["mode"] for row in case["rows"]] == ["", "checkpoint-blocks", "wasteful"]
    assert [row["units"] for row in case["rows"]] == [28, 41, 39]


def test_kernels_and_loaders_alone(fastiseat):
    assert "pgd_step" in fastiseat("bench", "kernels", *QUICK).out
    out = fastiseat("bench", "loaders", *QUICK, "--images", 60, "--loader", "torch").out
    assert "images/s" in out
    assert "pgd_step" not in out


def test_results_are_written_on_request(fastiseat, tmp_path):
    result = fastiseat("bench", "kernels", *QUICK, "--results", tmp_path / "results", "--json")
    (file,) = (tmp_path / "results").iterdir()
    assert json.loads(file.read_text()) == json.loads(result.out)
    assert str(file) in result.err.replace("\n", "")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--baseline", "eager"), "unknown baseline of attack 'eager'"),
        (("--weights", "absent.safetensors"), "absent.safetensors"),
        (("--preset", "h200"), "prn18 on cifar10: untrained, it would withstand nothing; give a trained one with"),
        (("--subset", 0), "subset=0: at least 1"),
        (("--engine", "graph", "--weights", "RUN", "--baseline", "none"), "graph"),
        (
            ("--weights", "RUN", "--dataset", "digits", "svhn"),
            "--dataset digits svhn: one network is for one data set",
        ),
    ],
)
def test_what_cannot_be_attacked_is_one_line(fastiseat, finished, words, complaint):
    result = fastiseat(*ATTACK, *(finished if word == "RUN" else word for word in words))
    assert result.code == 2
    assert complaint in result.err.splitlines()[-1]
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("step", "--batch-size", 10**9), "batch_size=1000000000: small at 8×8 takes more than"),
        (("step", "--batch-size", 1), "batch_size=1: BatchNorm needs at least 2 images"),
        (("step", "--precision", "fp16"), "fastiseat-eager-fp16: PyTorch's fp16 convolutions crawl on a CPU"),
        (("step", "--precision", "fp8"), "unknown precision 'fp8'"),
        (("step", "--engine", "warp"), "unknown engine 'warp'"),
        (
            ("step", "--engine", "graph"),
            "fastiseat-graph-full: engine graph records on a cuda device, this is cpu",
        ),
        (("step", "--clean-graph", "auto"), "unknown clean_graph 'auto'"),
        (("step", "--awp-gradient", "none"), "unknown awp_gradient 'none'"),
        (("step", "--method", "trades"), "unknown method to time 'trades'"),
        (("step", "--baseline", "egaer"), "unknown baseline 'egaer'"),
        (("step", "--arch", "resnet"), "resnet"),
        (("step", "--dataset", "imagenet"), "data set 'imagenet': benchmarks know the shapes of"),
        (("step", "--preset", "h300"), "unknown preset 'h300'"),
        (("step", "--device", "cuda:7"), "device 'cuda:7'"),
        (("kernels", "--backend", "cuda"), "unknown backend 'cuda'"),
        (("loaders", "--loader", "tape"), "unknown loader 'tape'"),
        (("step", "--rounds", 0), "--rounds 0"),
        (("step", "--seconds", 0), "--seconds 0.0"),
        (("loaders", "--images", 0), "--images 0"),
        (("step", "--json", "--markdown"), "--json and --markdown: one of them"),
    ],
)
def test_what_cannot_be_measured_is_one_line(fastiseat, words, complaint):
    given = [word for word in QUICK if word != "--seconds"][:-1] if "--seconds" in words else list(QUICK)
    for flag in ("--arch", "--dataset", "--batch-size", "--rounds"):
        if flag in words and flag in given:
            place = given.index(flag)
            del given[place : place + 2]
    result = fastiseat("bench", *words, *given)
    assert result.code == 2
    assert result.out == ""
    assert complaint in result.err.splitlines()[-1]
    assert "Traceback" not in result.err


def test_a_kernel_that_is_asked_for_and_absent_is_one_line(fastiseat, monkeypatch):
    monkeypatch.setattr(limits, "free_bytes", lambda device: 2**40)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    result = fastiseat("bench", "kernels", *QUICK, "--backend", "triton")
    assert result.code == 2
    assert "triton" in result.err.splitlines()[-1]
