"""``fastiseat doctor``: a table for people, JSON for programs, and no error whatever is found."""

import io
import json
import sys

import pytest
import torch

from fastiseat.diagnosis import nvidia
from fastiseat.diagnosis.finding import Choice, Gpu
from fastiseat.kernels import ops

FINDING = {"name": str, "found": bool, "what": str, "why": str, "remedy": str}
GPU = {
    "index": int, "name": str, "capability": str, "memory": int,
    "served": bool, "why": str, "builds": str, "remedy": str,
}  # fmt: skip
LIBRARIES = ["native library", "CUDA library"]
PARTS = ["system", "Python", "torch", "processor", "NVIDIA driver", *LIBRARIES, "Triton", "FFCV", "DALI", "Apex"]


@pytest.fixture
def v100(monkeypatch):
    """A card that the driver shows and a CPU build of torch cannot use."""
    monkeypatch.setattr(nvidia, "nvidia_smi", lambda: "0, Tesla [V100], 7.0, 16384, 570.1\n")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)


def kinds(record):
    return {name: type(value) for name, value in record.items()}


def test_json_has_its_schema(fastiseat, v100):
    result = fastiseat("doctor", "--json")
    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)
    assert list(found) == ["fastiseat", "findings", "gpus", "auto"]
    assert [finding["name"] for finding in found["findings"]] == PARTS
    assert all(kinds(finding) == FINDING for finding in found["findings"])
    (gpu,) = found["gpus"]
    assert kinds(gpu) == GPU
    assert (gpu["capability"], gpu["memory"]) == ("7.0", 16 * 2**30)
    assert list(found["auto"]) == ["device", "problem", "amp", "loader", "engine", "engine_why", "kernels"]
    assert found["auto"]["device"] == "cpu"
    assert found["auto"]["amp"] in ("bf16", "full")
    assert found["auto"]["loader"].startswith("resident where ")
    kernels = found["auto"]["kernels"]
    assert [(kernel["device"], kernel["op"]) for kernel in kernels] == [("cpu", op.name) for op in ops()]
    assert all(kinds(kernel) == dict.fromkeys(("device", "op", "backend", "why"), str) for kernel in kernels)


def test_the_table_is_plain_off_a_terminal(fastiseat, v100):
    result = fastiseat("doctor")
    assert (result.code, result.err) == (0, "")
    assert "\x1b" not in result.out
    assert max(map(len, result.out.splitlines())) <= 120
    for words in (
        *PARTS,
        "GPU 0",
        "Tesla [V100], compute capability 7.0, 16 GiB",
        "--device",
        "--amp",
        "pgd_step",
    ):
        assert words in result.out


def test_a_forced_kernel_is_reported_and_no_error(fastiseat, monkeypatch):
    monkeypatch.setenv("FASTISEAT_KERNELS", "nonsense")
    result = fastiseat("doctor", "--json")
    assert result.code == 0
    assert "unknown value of FASTISEAT_KERNELS" in json.loads(result.out)["auto"]["kernels"][0]["why"]


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_without_a_working_torch(fastiseat, monkeypatch, words):
    monkeypatch.setattr(nvidia, "nvidia_smi", lambda: None)
    monkeypatch.setitem(sys.modules, "torch", None)
    result = fastiseat("doctor", *words)
    assert result.code == 0
    assert "cannot be imported" in result.out
    if words:
        assert json.loads(result.out)["auto"] is None


def test_nothing_optional_is_imported(process, tmp_path):
    for name in ("apex", "ffcv"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise SystemExit('{name} was imported')")
    result = process("doctor", "--json")
    assert result.code == 0, result
    found = {finding["name"]: finding for finding in json.loads(result.out)["findings"]}
    assert found["FFCV"]["found"]
    assert "not NVIDIA's" in found["Apex"]["why"]


def test_an_unknown_flag_is_an_error(fastiseat):
    assert fastiseat("doctor", "--jsn").code == 2


def test_memory_that_the_driver_does_not_tell_is_left_out():
    from fastiseat.cli.doctor import _gpu_details

    gpu = Gpu(index=0, name="GB10", capability=(12, 1), memory=None, served=True, builds="some")
    assert next(_gpu_details(gpu)) == "GB10, compute capability 12.1"


def test_kernels_that_are_served_alike_share_a_row():
    from rich.console import Console

    from fastiseat.cli.doctor import _kernels_table

    rows = [
        ("cpu", "a", "native"),
        ("cpu", "b", "native"),
        ("cuda:0", "a", "triton"),
        ("cuda:0", "b", "reference"),
    ]
    table = _kernels_table([Choice(device=device, op=op, backend=backend, why="") for device, op, backend in rows])
    console = Console(width=115, record=True, file=io.StringIO())
    console.print(table)
    words = [[cell.strip() for cell in line.split("│")[1:-1]] for line in console.export_text().splitlines()]
    assert [row for row in words if row] == [
        ["cpu", "native", "a, b", ""],
        ["cuda:0", "triton", "a", ""],
        ["cuda:0", "reference", "b", "nothing faster is built for it yet"],
    ]
