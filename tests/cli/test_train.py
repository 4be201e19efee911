"""``fastiseat train``: what it prints and writes."""

import json
import re

import pytest
from tiny import SHORT


def test_the_whole_command(fastiseat, tmp_path):
    result = fastiseat("train", *SHORT, "--out", "run")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == "iseat on digits, small, cpu, 1 epochs of 2 steps -> run"
    assert re.fullmatch(r"loader: resident, \d+\.\d kB in the device's memory", lines[1])
    assert lines[2] == "engine: eager"
    assert lines[3].startswith("epoch 1/1  lr 0.1  loss ")
    assert lines[3].endswith("  best")
    assert re.fullmatch(r"peak memory: \d+\.\d+ [MG]B", lines[-3])
    assert lines[-1] == "run: run"
    assert "iseat on digits, test accuracy, ε = 0.15" in " ".join(result.out.split())
    accuracy = json.loads((tmp_path / "run" / "results.json").read_text())[0]["accuracy"]
    cells = [re.split(r"\s*│\s*", line) for line in result.out.splitlines() if "best " in line and "│" in line]
    assert cells == [["", "best", "1", *(f"{100 * share:.2f}%" for share in accuracy.values()), ""]]


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
    assert (
        "run holds a run with other settings (run.seed: 0 -> 1): leave them out to go on with the run's own"
        in complaint
    )
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_resuming_a_finished_run_prints_its_results_again(fastiseat):
    once = fastiseat("train", *SHORT, "--out", "run")
    again = fastiseat("train", "--config", "run/config.json", "--out", "run", "--resume")
    assert again.code == 0
    assert "epoch 1/1" not in again.out
    assert once.out.endswith(again.out.split("\n", 3)[3])


@pytest.mark.parametrize("out", ["[/x]", ":smile: [bold] ε", "a$b$"])
def test_odd_names_of_directories_are_printed_as_they_are(fastiseat, tmp_path, out):
    result = fastiseat("train", *SHORT, "--out", out)
    assert result.code == 0
    assert result.out.endswith(f"\nrun: {out}\n")
    assert (tmp_path / out / "results.json").is_file()


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
