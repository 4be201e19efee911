"""What a run leaves as it found it, and what it notes down about where it happened."""

import json
import random

import numpy as np
import pytest
import tiny
import torch
from devices import DEVICES, random_state

from fastiseat.engine.restore import deterministic


@pytest.fixture(autouse=True)
def few_digits(monkeypatch):
    tiny.install(monkeypatch)


def global_numpy_state():
    return np.random.get_state()[1].tolist()  # noqa: NPY002 (the legacy state is what a user may rely on)


def test_provenance_is_in_the_config(tmp_path):
    tiny.trainer(tiny.config(epochs=1), tmp_path / "run").run()
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["data_fingerprint"] == tiny.data().fingerprint
    assert stored["versions"]["torch"] == torch.__version__
    assert stored["device"] == "cpu"
    assert {"argv", "started", "host"} <= stored.keys()


@pytest.mark.parametrize("device", DEVICES)
def test_the_world_is_left_as_found(tmp_path, device):
    before = random_state("cpu"), random.getstate(), global_numpy_state(), random_state(device)
    flags = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    tiny.trainer(tiny.config(epochs=1, run={"deterministic": True}), tmp_path / "run", device=device).run()
    assert random_state("cpu").equal(before[0])
    assert random_state(device).equal(before[3])
    assert random.getstate() == before[1]
    assert global_numpy_state() == before[2]
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == flags
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("mode", ["default", "warn", "error"])
def test_determinism_is_as_wanted_inside_and_as_found_outside(mode):
    torch.set_deterministic_debug_mode(mode)
    try:
        found = torch.get_deterministic_debug_mode()
        with deterministic(True):
            assert torch.get_deterministic_debug_mode() == 2
        assert torch.get_deterministic_debug_mode() == found
        with deterministic(False):
            assert torch.get_deterministic_debug_mode() == found
        assert torch.get_deterministic_debug_mode() == found
    finally:
        torch.set_deterministic_debug_mode("default")
