"""Where a measurement was made: enough to tell two machines, drivers and versions apart."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fastiseat.diagnosis.extras import version_of
from fastiseat.run.provenance import commit
from fastiseat.version import __version__


def machine(device: torch.device) -> dict[str, Any]:
    """Device, driver and versions."""
    return {
        "device": device_name(device),
        "kind": device.type,
        "memory": _memory(device),
        "driver": _ask_nvidia(device, "driver_version") if device.type == "cuda" else None,
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "versions": {
            "fastiseat": __version__,
            "commit": commit(),
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "triton": version_of("triton"),
        },
        "argv": without_paths([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def without_paths(words: list[str]) -> list[str]:
    """A command without the folders of the machine that it ran on."""
    kept, places = [], ("--results", "--data-dir", "--weights")
    for before, word in zip(["", *words], words, strict=False):
        if before not in places and not word.startswith(places):
            kept.append(word)
    return kept


def device_name(device: torch.device) -> str:
    """The card's or the processor's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


def slug(name: str) -> str:
    """A device's name as a part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@dataclass(kw_only=True)
class Clocks:
    """MHz that the device was seen at: what tells a card that throttles."""

    device: torch.device
    seen: list[int] = field(default_factory=list)

    def look(self) -> None:
        """Once a round: asking takes milliseconds, between the timed blocks."""
        if self.device.type == "cuda" and (answer := _ask_nvidia(self.device, "clocks.sm").split()):
            self.seen.append(int(answer[0]))

    def summary(self) -> dict[str, int] | None:
        """Lowest and highest; None where nothing tells."""
        return {"min": min(self.seen), "max": max(self.seen)} if self.seen else None


def _ask_nvidia(device: torch.device, query: str) -> str:
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    command = ["nvidia-smi", f"--id=GPU-{uuid}", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _cpu_name() -> str:
    try:
        models = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        models = []
    return f"{models[0]}, {os.cpu_count()} cores" if models else f"{platform.machine()} CPU"
