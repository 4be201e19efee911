"""``fastiseat train``: what it prints, and what it refuses before and while it trains."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from tiny import SHORT

from fastiseat.engine import TrainStep
from fastiseat.pipelines import datasets
from fastiseat.pipelines.base import Split


def test_the_whole_command(fastiseat, tmp_path):
    result = fastiseat("train", *SHORT, "--out", "run")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == "iseat on digits, small, cpu, 1 epochs of 2 steps -> run"
    assert lines[1].startswith("epoch 1/1  lr 0.1  loss ")
    assert lines[1].endswith("  best")
    assert lines[-1] == "run: run"
    assert "iseat on digits, test accuracy, ε = 0.15" in " ".join(result.out.split())
    accuracy = json.loads((tmp_path / "run" / "results.json").read_text())[0]["accuracy"]
    assert f"best    │     1 │ {100 * accuracy['clean']:.2f}%" in result.out


def test_an_output_that_is_no_terminal_gets_plain_lines(fastiseat):
    result = fastiseat("train", *SHORT, "--out", "run")
    assert "\x1b" not in result.out
    assert "\r" not in result.out


def test_quiet_prints_the_result_only(fastiseat):
    result = fastiseat("train", *SHORT, "--quiet", "--out", "run")
    assert "loss" not in result.out
    assert "->" not in result.out
    assert "test accuracy" in result.out
    assert result.out.endswith("\nrun: run\n")


def test_without_out_a_run_gets_a_directory_of_its_own(fastiseat, tmp_path):
    result = fastiseat("train", *SHORT, "--method", "none", "--seed", 7)
    (out,) = (tmp_path / "runs").iterdir()
    assert out.name.startswith("digits-none-s7-20")
    assert result.out.endswith(f"\nrun: runs/{out.name}\n")


def test_config_repeats_a_run_exactly(fastiseat, tmp_path):
    fastiseat("train", *SHORT, "--seed", 3, "--out", "one")
    fastiseat("train", "--config", "one/config.json", "--out", "two")
    weights = [(tmp_path / name / "weights" / "last.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]


def test_a_directory_in_use_is_refused_and_left_alone(fastiseat, tmp_path):
    fastiseat("train", *SHORT, "--out", "run")
    before = (tmp_path / "run" / "config.json").read_bytes()
    complaint = fastiseat("train", *SHORT, "--out", "run", "--seed", 1).complaint
    assert complaint == "run is not empty: add --resume to continue its run, or choose another --out"
    complaint = fastiseat("train", *SHORT, "--out", "run", "--seed", 1, "--resume").complaint
    assert "run holds a run with other settings (run.seed: 0 -> 1): change them back" in complaint
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_resuming_a_finished_run_prints_its_results_again(fastiseat):
    once = fastiseat("train", *SHORT, "--out", "run")
    again = fastiseat("train", "--config", "run/config.json", "--out", "run", "--resume")
    assert again.code == 0
    assert "epoch 1/1" not in again.out
    assert once.out.endswith(again.out.split("\n", 1)[1])


@pytest.mark.parametrize("out", ["[/x]", ":smile: [bold] ε", "a$b$"])
def test_odd_names_of_directories_are_printed_as_they_are(fastiseat, tmp_path, out):
    result = fastiseat("train", *SHORT, "--out", out)
    assert result.code == 0
    assert result.out.endswith(f"\nrun: {out}\n")
    assert (tmp_path / out / "results.json").is_file()


@pytest.mark.parametrize(
    ("out", "complaint"),
    [
        ("file", "file is a file: choose another --out"),
        ("file/run", "cannot write file/run/config.json: Not a directory; free space or choose another --out"),
        ("/proc/none/run", "cannot write /proc/none/run/config.json: No such file or directory"),
        (300 * "x", "File name too long"),
    ],
)
def test_places_that_can_hold_no_run(fastiseat, tmp_path, out, complaint):
    (tmp_path / "file").touch()
    assert complaint in fastiseat("train", *SHORT, "--out", out).complaint


def test_a_directory_that_can_not_be_looked_into(fastiseat, tmp_path, monkeypatch):
    def denied(path):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    (tmp_path / "run").mkdir()
    monkeypatch.setattr(Path, "iterdir", denied)  # root may look anywhere
    assert fastiseat("train", *SHORT, "--out", "run").complaint == "[Errno 13] Permission denied: 'run'"


def test_more_images_a_batch_than_there_are(fastiseat):
    complaint = fastiseat("train", "--batch-size", 101, "--out", "run").complaint
    assert complaint == "batch_size=101: there are 100 training images; use at most that"
    assert not Path("run").exists()


def test_labels_out_of_range(fastiseat, monkeypatch):
    labels = np.full(60, 10)

    def load(_, **places):
        return replace(tiny.data(), test=Split(images=tiny.data().test.images, labels=labels))

    monkeypatch.setattr(datasets, "load", load)
    assert fastiseat("train").complaint == "digits: test label 10 is out of range: labels lie in 0 … 9"


def test_a_run_that_diverges(fastiseat):
    complaint = fastiseat("train", "--lr", 1e9, "--batch-size", 10, "--out", "run").complaint
    assert "in epoch 1, step" in complaint
    assert "training diverged; lower --lr, --lam or --awp-gamma, then start anew" in complaint


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate"),
        MemoryError(),
    ],
)
def test_a_machine_without_memory_to_spare(fastiseat, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(TrainStep, "_step", fail)
    complaint = fastiseat("train", *SHORT, "--out", "run").complaint
    assert complaint == "out of memory with batch_size=50: lower --batch-size or take a smaller --arch"


def test_a_defect_keeps_its_traceback(fastiseat, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a defect")

    monkeypatch.setattr(TrainStep, "_step", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        fastiseat("train", *SHORT, "--out", "run")


@pytest.mark.parametrize(
    ("device", "complaint"),
    [
        ("gpu", "device 'gpu': cpu, cuda, cuda:N or auto is needed"),
        ("meta", "device 'meta': training runs on cpu and cuda; use one of them or auto"),
        ("cuda:9", "device 'cuda:9': this machine shows [0-9] GPUs; use cpu or auto"),
    ],
)
def test_devices_that_are_not_here(fastiseat, device, complaint):
    found = fastiseat("train", *SHORT, "--device", device, "--out", "run").complaint
    assert found == complaint.replace("[0-9]", str(torch.cuda.device_count()))


def test_fine_tuning_from_a_run_and_from_what_is_none(fastiseat, finished, tmp_path):
    init = finished / "weights" / "best.safetensors"
    assert fastiseat("train", *SHORT, "--init", init, "--lam-from", 0, "--out", "run").code == 0
    other = fastiseat("train", *SHORT, "--arch", "wrn-10-1", "--init", init, "--out", "other").complaint
    assert "they must agree in arch" in other
    assert "no such file" in fastiseat("train", *SHORT, "--init", "missing.pt", "--out", "other").complaint
    (tmp_path / "garbage.pt").write_bytes(b"garbage")
    assert "not a weight file" in fastiseat("train", *SHORT, "--init", "garbage.pt", "--out", "other").complaint
    assert not (tmp_path / "other").exists()


def test_results_name_the_attack_of_the_paper(fastiseat):
    result = fastiseat("train", "--epochs", 1, "--batch-size", 100, "--method", "none", "--out", "run", "--quiet")
    assert "pgd-50" in result.out
