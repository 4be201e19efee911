"""The campaign of ``make torture``, in short: tests/torture has all of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def torture(*words):
    """The exit code, and what was printed."""
    ended = subprocess.run(
        [sys.executable, "-m", "torture", *words],
        cwd=HERE,
        env=os.environ | {"PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
    )
    return ended.returncode, ended.stdout + ended.stderr


def test_nothing_is_lost_by_kills_and_full_disks():
    code, said = torture("--tries", "4", "--a-deed", "2", "--only", "kills", "full disks")
    assert code == 0, said


@pytest.mark.long
@pytest.mark.timeout(900)
def test_nothing_is_lost_by_kills_and_tampering():
    """The other campaigns are left to `make torture`: what they show depends on the machine."""
    code, said = torture("--tries", "24", "--a-deed", "4", "--only", "kills", "tampering")
    assert code == 0, said


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_write_in_place_is_found():
    code, said = torture("--tries", "14", "--a-deed", "7", "--only", "kills", "--careless")
    assert code == 1 and "eval clean, killed at operation" in said, said
