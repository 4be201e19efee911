"""Operating system, Python and torch."""

from __future__ import annotations

import os
import platform

from fastiseat.diagnosis.finding import Finding
from fastiseat.waiting import in_words

# The README names the same.
TESTED_PYTHON = ("3.11", "3.12", "3.13")
TESTED_TORCH = ("2.11", "2.13")


def system_finding() -> Finding:
    """Linux in full, macOS on the CPU, Windows through WSL."""
    system, release = platform.system(), platform.release()
    what = f"{system or 'unknown system'} {release}, {platform.machine()}"
    if system == "Linux":
        wsl = " (WSL)" if "microsoft" in release.lower() else ""
        return Finding(name="system", found=True, what=f"{what}{wsl}: supported, on CPUs and NVIDIA GPUs")
    if system == "Darwin":
        return Finding(
            name="system", found=True, what=f"{what}: supported, on the CPU only", why="Apple's GPUs are not used"
        )
    remedy = "run it in WSL, https://learn.microsoft.com/windows/wsl" if system == "Windows" else "run it on Linux"
    return Finding(name="system", found=True, what=what, why="not supported", remedy=remedy)


def processor_finding() -> Finding:
    """Cores, what wants them now, and how PyTorch's threads go about it."""
    from fastiseat.run.threads import cores, named

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    parts = [
        f"{cores()} cores",
        "" if load is None else f"load {load:.1f}",
        f"{_threads()} threads of PyTorch{f' ({set_})' if (set_ := named()) else ''}",
        f"waiting: {in_words()}",
    ]
    busy = load is not None and load > cores() / 2
    why = "other work wants the cores: threads may wait for each other" if busy else ""
    remedy = (
        "OMP_NUM_THREADS=1 or --threads 1 for small networks; train measures it there by itself" if busy else ""
    )
    return Finding(name="processor", found=True, what=", ".join(filter(None, parts)), why=why, remedy=remedy)


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def python_finding() -> Finding:
    """The interpreter that runs this."""
    version = platform.python_version()
    return Finding(name="Python", found=True, what=version, why=_untested(version, TESTED_PYTHON))


def torch_finding() -> Finding:
    """The one check that imports what it looks for: a torch that is installed but cannot load is the news."""
    try:
        import torch
    except (ImportError, OSError) as error:
        why = f"cannot be imported: {error}"
        return Finding(name="torch", found=False, why=why, remedy="pip install --force-reinstall torch")
    version = str(torch.__version__)
    if torch.version.hip:
        why = "ROCm builds are not supported"
        return Finding(
            name="torch", found=True, what=f"{version}, ROCm build", why=why, remedy="pip install torch"
        )
    build = f"CUDA {torch.version.cuda} build" if torch.version.cuda else "CPU build"
    return Finding(name="torch", found=True, what=f"{version}, {build}", why=_untested(version, TESTED_TORCH))


def _untested(version: str, tested: tuple[str, ...]) -> str:
    tried = ".".join(version.split(".")[:2]) in tested
    return "" if tried else f"not among the tested versions, {', '.join(tested)}"
