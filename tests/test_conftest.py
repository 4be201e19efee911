"""The world that conftest.py makes for every test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch


def test_fresh_memory_is_nan():
    model_weight = torch.empty(3, requires_grad=True)
    for tensor in (torch.empty(2, 2), torch.empty_like(torch.ones(3)), model_weight):
        assert tensor.isnan().all()
    assert model_weight.requires_grad
    assert torch.empty(3, dtype=torch.int64).dtype == torch.int64


def test_each_test_starts_from_one_seed():
    assert torch.initial_seed() == 0


def test_without_a_card_triton_interprets():
    if not torch.cuda.is_available():
        assert os.environ["TRITON_INTERPRET"] == "1"


def test_the_summary_counts_the_tests_of_each_backend(tmp_path):
    folder = tmp_path / "kernels"
    folder.mkdir()
    (folder / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('name', ['triton', 'native', 'reference'])\n"
        "def test_op(name):\n"
        "    pytest.skip('no') if name == 'native' else None\n"
    )
    ours = Path(__file__).with_name("conftest.py")
    (tmp_path / "conftest.py").write_text(f"exec(open({str(ours)!r}).read())")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull]
    told = os.environ | {"TRITON_INTERPRET": "1"}
    printed = subprocess.run(
        [*command, "--rootdir", tmp_path, tmp_path], env=told, capture_output=True, text=True
    ).stdout
    assert "tests of triton kernels in Triton's interpreter: 1 passed, 0 failed, 0 skipped" in printed
    assert "tests of native kernels: 0 passed, 0 failed, 1 skipped" in printed
