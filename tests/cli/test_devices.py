"""The commands on a GPU, and the same words on a CPU."""

import json
import os

import pytest
import torch
from devices import DEVICES
from tiny import SHORT

from fastiseat.engine.precision import precision_for_amp

on_each_device = pytest.mark.parametrize("device", DEVICES)
# A process of its own reads all of the digits.
FEW = ("--limit-train", 100, "--limit-test", 60)


def device_told(device):
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


@on_each_device
@pytest.mark.parametrize("amp", [False, True])
def test_train_and_eval(fastiseat, tmp_path, device, amp):
    result = fastiseat("train", *SHORT, "--device", device, *(["--amp"] if amp else []), "--out", "run")
    assert (result.code, result.err) == (0, "")
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["device"] == device_told(device)
    assert stored["precision"] == (precision_for_amp(torch.device(device)) if amp else "full")
    result = fastiseat("eval", "run", "--attack", "clean", "pgd", "--steps", 10, "--device", device, "--json")
    assert (result.code, result.err) == (0, "")
    found = {row["attack"]: row["accuracy"] for row in json.loads(result.out)["attacks"]}
    expected = json.loads((tmp_path / "run" / "results.json").read_text())[0]["accuracy"]
    # An evaluation may round otherwise from call to call, and one image of 60 fall the other way.
    assert found == pytest.approx(expected, abs=1.5 / 60)


@on_each_device
def test_a_deterministic_run_needs_nothing_in_the_environment(process, device):
    environment = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    words = (*SHORT, *FEW, "--deterministic", "--device", device, "--out", "run")
    result = process("train", *words, env=environment)
    assert (result.code, result.err) == (0, "")


@on_each_device
def test_doctor_names_the_cards_that_torch_can_use(fastiseat, monkeypatch, device):
    if device == "cpu":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = json.loads(fastiseat("doctor", "--json").out)
    served = [gpu["name"] for gpu in found["gpus"] if gpu["served"]]
    count = torch.cuda.device_count() if device == "cuda" else 0
    assert served == [torch.cuda.get_device_name(index) for index in range(count)]
    assert found["auto"]["device"] == device
    assert found["auto"]["problem"] == ""
    assert found["auto"]["amp"] == precision_for_amp(torch.device(device))


# Enough to go through all that is measured: one baseline, the dearest method, rounds as short as can be.
BENCH = ("bench", "step", "--arch", "small", "--rounds", 1, "--seconds", 0.001)


@on_each_device
def test_bench_finds_no_step_wrong(fastiseat, device):
    words = ("--dataset", "digits", "--batch-size", 32, "--baseline", "eager", "--method", "iseat", "--json")
    result = fastiseat(*BENCH, "--device", device, *words)
    assert result.code == 0, result
    document = json.loads(result.out)
    rows = document["step"][0]["rows"]
    assert document["machine"]["kind"] == device
    assert {row["variant"] for row in rows} >= {"eager", "fastiseat-eager-full"}
    assert [row["problem"] for row in rows] == [""] * len(rows)
    assert all(row["peak_bytes"] > 0 and row["median"] > 0 for row in rows)


@on_each_device
def test_a_batch_that_fits_no_device_is_refused_in_a_line(fastiseat, device):
    words = ("--dataset", "tinyimagenet", "--batch-size", 10**9, "--baseline", "none", "--precision", "full")
    result = fastiseat(*BENCH, "--device", device, *words)
    assert result.code == 2
    *_, complaint = result.err.splitlines()
    assert complaint.startswith("fastiseat: error: batch_size=1000000000: small at 64×64 takes more than the ")
    assert f" GiB that are free on {device}; about " in complaint


@pytest.fixture
def hardly_any_memory():
    """As on a card that others have filled."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-6)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.gpu
def test_training_on_a_full_card(fastiseat, hardly_any_memory):
    complaint = fastiseat("train", *SHORT, "--arch", "prn18", "--device", "cuda", "--out", "run").complaint
    assert complaint == "out of memory with batch_size=50: lower --batch-size or take a smaller --arch"
