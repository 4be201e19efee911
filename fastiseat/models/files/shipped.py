"""Weights that come with the package, by name."""

from __future__ import annotations

import difflib
from importlib.resources import files
from pathlib import Path

ASSETS = Path(str(files("fastiseat"))) / "assets"


def names() -> list[str]:
    """Of all of them."""
    return sorted(path.stem for path in ASSETS.glob("*.safetensors"))


def shipped(path: Path) -> Path | None:
    """The file of that name; None where ``path`` exists itself, or is no name of any."""
    if path.exists() or str(path) not in names():
        return None
    return ASSETS / f"{path}.safetensors"


def hint(path: Path) -> str:
    """For the message that there is no such file: the names that are spelt like it."""
    near = difflib.get_close_matches(str(path).lower(), names(), n=3, cutoff=0.6)
    return f", or did you mean {' or '.join(near)}, which comes with fastiseat?" if near else ""
