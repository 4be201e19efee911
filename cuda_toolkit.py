"""For setup.py: where CUDA's compiler is, and which cards to build for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from setuptools.errors import CompileError, OptionError

VARIABLE = "FASTISEAT_CUDA_ARCHS"
# For a machine that shows no card.
USUAL = [75, 80, 90]


def find_nvcc() -> str | None:
    """CUDA's compiler: the one that a variable names, on the path, or where NVIDIA installs it."""
    if "CUDACXX" in os.environ:
        return os.environ["CUDACXX"]
    homes = (os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name))
    places = [*(f"{home}/bin" for home in homes), os.environ.get("PATH", os.defpath), "/usr/local/cuda/bin"]
    return shutil.which("nvcc", path=os.pathsep.join(places))


def archs(nvcc: str | None) -> list[int]:
    """Compute capabilities to build for, 75 for 7.5, from ``FASTISEAT_CUDA_ARCHS``; empty for no library."""
    wanted = os.environ.get(VARIABLE, "")
    words = [word.lower() for word in re.split(r"[\s,;]+", wanted) if word]
    if words == ["none"] or (not words and nvcc is None):
        return []
    if nvcc is None:
        raise OptionError(f"{VARIABLE}={wanted}: there is no nvcc; install CUDA's toolkit or set CUDACXX")
    if not words:
        return for_cards(cards(), known_archs(nvcc)) or USUAL
    if words == ["native"]:
        if not (found := cards()):
            raise OptionError(f"{VARIABLE}=native: nvidia-smi shows no card; name them, such as 80;90")
        return for_cards(found, known_archs(nvcc))
    return named_archs(words, wanted, nvcc)


def named_archs(words: list[str], wanted: str, nvcc: str) -> list[int]:
    """Those of 70, 7.0 or sm_70 that the compiler knows; an error for any other word."""
    parts = [re.fullmatch(r"(?:sm_?|compute_?)?(\d{1,2})\.?(\d)", word) for word in words]
    if not all(parts):
        raise OptionError(f"{VARIABLE}={wanted}: give numbers such as 80;90 or 8.0 9.0, or native, or none")
    known = known_archs(nvcc)
    numbers = sorted({int(part[1] + part[2]) for part in parts if part})
    if unknown := [arch for arch in numbers if known and arch not in known]:
        raise OptionError(f"{VARIABLE}={wanted}: {out_of_reach(unknown[0], known, nvcc)}")
    return numbers


def out_of_reach(arch: int, known: list[int], nvcc: str) -> str:
    """Why ``nvcc`` cannot build for a card, and which toolkit can."""
    remedy = "a CUDA 12 toolkit does: set CUDACXX to its nvcc" if arch < known[0] else "a later toolkit may"
    return f"{nvcc} has no code for {arch}, only for {', '.join(map(str, known))}; {remedy}"


def for_cards(found: list[int], known: list[int]) -> list[int]:
    """What the compiler can build that runs on these cards: a newer one takes the PTX of the newest it knows."""
    if known and (old := [arch for arch in found if arch < known[0]]):
        raise CompileError(f"this machine's card: {out_of_reach(old[0], known, 'nvcc')}")
    return sorted({max((arch for arch in known if arch <= card), default=card) for card in found})


def cards() -> list[int]:
    """The compute capabilities of this machine's cards."""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    return sorted(
        {int(major + minor) for major, minor in re.findall(r"^(\d+)\.(\d)$", ask(command), re.MULTILINE)}
    )


def known_archs(nvcc: str) -> list[int]:
    """What the compiler can build for; empty where it does not tell."""
    return sorted(map(int, re.findall(r"compute_(\d+)\b", ask([nvcc, "--list-gpu-arch"]))))


def ask(command: list[str]) -> str:
    """What a command prints; nothing where it fails or is missing."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
