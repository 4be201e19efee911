"""The campaign of ``make torture``, in short: tests/torture has all of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def torture(*words, home):
    """The exit code, and what was printed; nothing may come into the user's own ``home``."""
    ended = subprocess.run(
        [sys.executable, "-m", "torture", *words],
        cwd=HERE,
        env=os.environ | {"PYTHONPATH": str(HERE), "HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert not (home / ".cache" / "fastiseat").exists()
    return ended.returncode, ended.stdout + ended.stderr


def test_nothing_is_lost_by_kills_and_full_disks(tmp_path):
    code, said = torture("--tries", "4", "--a-deed", "2", "--only", "kills", "full disks", home=tmp_path)
    assert code == 0, said


@pytest.mark.long
@pytest.mark.timeout(900)
def test_nothing_is_lost(tmp_path):
    """By any of the campaigns."""
    code, said = torture("--tries", "24", "--a-deed", "4", home=tmp_path)
    assert code == 0, said


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_write_in_place_is_found(tmp_path):
    code, said = torture("--tries", "14", "--a-deed", "7", "--only", "kills", "--careless", home=tmp_path)
    assert code == 1 and "eval clean, killed at operation" in said, said
