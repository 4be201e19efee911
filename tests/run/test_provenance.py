"""Where a run happened, as it is noted down."""

from __future__ import annotations

import subprocess
from pathlib import Path

from fastiseat.run import provenance

ROOT = Path(__file__).parents[2]


def test_the_commit_is_that_of_the_checkout(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    monkeypatch.setattr(provenance, "files", lambda package: tmp_path / package)
    assert provenance.commit() == head


def test_the_checkout_is_where_the_package_lies():
    """Wherever the module is moved within it."""
    assert Path(str(provenance.files("fastiseat"))).resolve().parent == ROOT
    assert (provenance.commit() is None) == (not (ROOT / ".git").exists())
