"""Which cards an installation is built for, and what it says where it cannot be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from setuptools.errors import CompileError, OptionError
from toolkits import cuda_toolkit

toolkit = cuda_toolkit()
CUDA_12, CUDA_13 = [50, 60, 70, 75, 80, 86, 90], [75, 80, 86, 90, 100, 103, 120]


def executable(path: Path, prints: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\nprintf '{prints}'\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A compiler that knows these, and cards."""
    for name in ("CUDACXX", "CUDA_HOME", "CUDA_PATH", toolkit.VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)

    def make(known=CUDA_13, cards=(), wanted=None):
        executable(tmp_path / "bin" / "nvidia-smi", "".join(f"{card}\\n" for card in cards))
        if wanted is not None:
            monkeypatch.setenv(toolkit.VARIABLE, wanted)
        return executable(tmp_path / "bin" / "nvcc", "".join(f"compute_{arch}\\n" for arch in known))

    return make


@pytest.mark.parametrize(
    ("wanted", "archs"),
    [
        ("80;90", [80, 90]),
        ("8.0 9.0", [80, 90]),
        ("sm_90, 7.5,12.0", [75, 90, 120]),
        ("100", [100]),
        ("none", []),
        ("None ", []),
        ("", [75, 80, 90]),
    ],
)
def test_what_is_asked_for(machine, wanted, archs):
    assert toolkit.archs(machine(wanted=wanted)) == archs


@pytest.mark.parametrize("wanted", ["ampere", "80;x", "8", "9.0a", "80-real", "none;80"])
def test_words_that_mean_nothing(machine, wanted):
    with pytest.raises(OptionError, match=f"{toolkit.VARIABLE}={wanted}: give numbers such as 80;90"):
        toolkit.archs(machine(wanted=wanted))


def test_a_v100_needs_a_cuda_12_toolkit(machine):
    assert toolkit.archs(machine(CUDA_12, wanted="70;75;90")) == [70, 75, 90]
    with pytest.raises(
        OptionError, match=r"70;75.*no code for 70, only for 75, 80.*a CUDA 12 toolkit does: set CUDACXX"
    ):
        toolkit.archs(machine(CUDA_13, wanted="70;75"))


def test_a_card_that_is_newer_than_the_compiler(machine):
    with pytest.raises(OptionError, match=r"no code for 120, only for .*; a later toolkit may"):
        toolkit.archs(machine(CUDA_12, wanted="120"))
    assert toolkit.archs(machine(CUDA_12, cards=["12.0"], wanted="")) == [90]  # its PTX


def test_by_default_the_machines_own_cards(machine):
    assert toolkit.archs(machine(cards=["9.0", "8.6", "9.0"])) == [86, 90]
    assert toolkit.archs(machine(cards=["9.0"], wanted="native")) == [90]


def test_a_card_that_nobody_asked_for_is_no_reason_to_stop_the_installation(machine):
    with pytest.raises(CompileError, match=r"this machine's card: .* has no code for 70"):
        toolkit.archs(machine(cards=["7.0"]))


def test_native_without_a_card(machine):
    with pytest.raises(OptionError, match="nvidia-smi shows no card"):
        toolkit.archs(machine(wanted="native"))


def test_without_nvcc_there_is_nothing_to_build(machine):
    machine()
    assert toolkit.archs(None) == []
    machine(wanted="80")
    with pytest.raises(OptionError, match=f"{toolkit.VARIABLE}=80: there is no nvcc; install CUDA's toolkit"):
        toolkit.archs(None)


def test_where_the_compiler_is_looked_for(machine, monkeypatch, tmp_path):
    on_path = machine()
    assert toolkit.find_nvcc() == on_path
    home = executable(tmp_path / "home" / "bin" / "nvcc", "")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    assert toolkit.find_nvcc() == home
    monkeypatch.setenv("CUDACXX", "/opt/nvcc")
    assert toolkit.find_nvcc() == "/opt/nvcc"
