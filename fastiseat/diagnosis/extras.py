"""The native libraries, and the optional packages, which are looked at from outside only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from fastiseat.diagnosis.finding import Finding, Gpu

UNKNOWN = "of unknown version"
TRITON_CAPABILITY = (8, 0)
DALI = ("nvidia-dali-cuda130", "nvidia-dali-cuda120")
DALI_REMEDY = "pip install nvidia-dali-cuda130, or nvidia-dali-cuda120 for a CUDA 12 driver"
FFCV_REMEDY = (
    "pip install ffcv, which compiles: it needs libopencv-dev, libturbojpeg0-dev, pkg-config and a compiler"
)
APEX_REMEDY = "build it from source, https://github.com/NVIDIA/apex; pip install apex gets something else"


def native_finding(device: str) -> Finding:
    """The library that serves kernels on the CPU, or the one for CUDA devices."""
    from fastiseat.kernels.core import native

    name = {"cpu": "native library", "cuda": "CUDA library"}[device]
    missing = native.library(device).missing
    if not missing:
        return Finding(name=name, found=True, what=f"interface {native.ABI_VERSION}")
    why, remedy = re.split(r"[:;] (?=install )", missing, maxsplit=1)
    if device == "cuda":
        remedy = f"only for a machine with an NVIDIA card: {remedy}"
    return Finding(name=name, found=False, why=why, remedy=remedy)


def optional_findings(gpus: Sequence[Gpu]) -> list[Finding]:
    """What serves kernels on a card, and what some settings need."""
    return [triton_finding(gpus), ffcv_finding(), dali_finding(), apex_finding()]


def triton_finding(gpus: Sequence[Gpu]) -> Finding:
    """Triton, and whether it supports the cards."""
    if folder_of("triton") is None:
        remedy = "comes with the CUDA builds of torch for Linux"
        return Finding(name="Triton", found=False, why="not installed", remedy=remedy)
    older = [f"GPU {gpu.index} ({gpu.compute})" for gpu in gpus if gpu.capability < TRITON_CAPABILITY]
    why = f"serves compute capability 8.0 and later, not {', '.join(older)}" if older else ""
    return Finding(name="Triton", found=True, what=version_of("triton") or UNKNOWN, why=why)


def ffcv_finding() -> Finding:
    """FFCV."""
    if folder_of("ffcv") is None:
        return Finding(name="FFCV", found=False, why="not installed", remedy=FFCV_REMEDY)
    return Finding(name="FFCV", found=True, what=version_of("ffcv") or UNKNOWN)


def dali_finding() -> Finding:
    """NVIDIA DALI under one of its real names."""
    for name in DALI:
        if (version := version_of(name)) is None:
            continue
        # find_spec("nvidia.dali") would import nvidia.
        if Path(str(metadata.distribution(name).locate_file("nvidia/dali/__init__.py"))).exists():
            return Finding(name="DALI", found=True, what=f"{name} {version}")
        why = f"{name} {version} is installed, but its files are gone"
        return Finding(name="DALI", found=False, why=why, remedy=f"pip install --force-reinstall {name}")
    placeholder = version_of("nvidia-dali")
    why = f"nvidia-dali {placeholder} is a placeholder without content" if placeholder else "not installed"
    return Finding(name="DALI", found=False, why=why, remedy=DALI_REMEDY)


def apex_finding() -> Finding:
    """NVIDIA's Apex for ``--optimizer apex``, told by its files from the other project of that name."""
    folder, version = folder_of("apex"), version_of("apex")
    if folder is None:
        return Finding(name="Apex", found=False, why="not installed", remedy=APEX_REMEDY)
    if not (folder / "optimizers" / "fused_sgd.py").exists():
        why = (
            f"{' '.join(filter(None, ('apex', version)))} is installed, but it is not NVIDIA's: no apex.optimizers"
        )
        remedy = f"pip uninstall apex; {APEX_REMEDY}"
        return Finding(name="Apex", found=False, why=why, remedy=remedy)
    if find_spec("amp_C") is None:
        why = "built without its CUDA code (no amp_C), so its fused optimizers do not work"
        return Finding(name="Apex", found=True, what=version or UNKNOWN, why=why, remedy=APEX_REMEDY)
    return Finding(name="Apex", found=True, what=f"{version or UNKNOWN}, with CUDA code")


def version_of(distribution: str) -> str | None:
    """The installed version by its metadata, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def folder_of(package: str) -> Path | None:
    """The folder that ``import package`` would run, or None; a plain folder of that name does not count."""
    try:
        spec = find_spec(package)
    except ValueError:  # a half-made module of that name is loaded
        return None
    if spec is None or spec.origin is None or spec.submodule_search_locations is None:
        return None
    return Path(spec.origin).parent
