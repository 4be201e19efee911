"""NVIDIA's driver and cards, and which build of torch runs on which card."""

from __future__ import annotations

import os
import re
import subprocess
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from fastiseat.diagnosis.finding import Finding, Gpu

# CUDA 13 has no code generator below this, and needs this driver.
CUDA_13_CAPABILITY, CUDA_13_DRIVER = (7, 5), 580
# Of the releases that have cu126 builds the last, and how pip is told.
LAST_CUDA_12_TORCH, TORCH_FOR_CUDA_12 = "2.14", "torch<2.15"
INDEX = "https://download.pytorch.org/whl"
_QUERY = "index,name,compute_cap,memory.total,driver_version"


@dataclass(frozen=True, kw_only=True)
class Build:
    """What the installed torch was built for, and what it sees here."""

    cuda: str | None
    architectures: tuple[str, ...]
    sees_gpus: bool
    complaint: str
    """What torch warns of when it looks for GPUs, in one line."""


def torch_build() -> Build:
    """Ask torch, and keep what it would print."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sees = torch.cuda.is_available() and torch.version.hip is None
        architectures = tuple(torch.cuda.get_arch_list())
        try:
            if sees:
                torch.cuda.init()
            complaints = [str(warning.message) for warning in caught]
        except RuntimeError as error:
            sees, complaints = False, [str(error)]
    complaint = " ".join(complaints[0].split()) if complaints else ""
    return Build(cuda=torch.version.cuda, architectures=architectures, sees_gpus=sees, complaint=complaint)


def nvidia_smi() -> str | None:
    """A line a card, or None where the driver's own tool is missing or fails."""
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def driver_of(cards: str | None) -> str:
    """The driver's version; empty where it is not known."""
    rows = list(_rows(cards))
    return rows[0][-1] if rows else ""


def driver_finding(cards: str | None) -> Finding:
    """The driver, by its tool."""
    if version := driver_of(cards):
        return Finding(name="NVIDIA driver", found=True, what=version)
    why = "nvidia-smi is missing or fails" if cards is None else "nvidia-smi shows no card"
    remedy = "only for a machine with an NVIDIA card: https://www.nvidia.com/drivers"
    return Finding(name="NVIDIA driver", found=False, why=why, remedy=remedy)


def gpus(cards: str | None, build: Build) -> list[Gpu]:
    """The cards that torch sees, or where it sees none those that the driver shows."""
    return _seen_by_torch() if build.sees_gpus else list(_shown_by_driver(cards))


def _seen_by_torch() -> list[Gpu]:
    import torch

    cards = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [
        Gpu(index=index, name=card.name, capability=(card.major, card.minor), memory=card.total_memory)
        for index, card in enumerate(cards)
    ]


def _shown_by_driver(cards: str | None) -> Iterator[Gpu]:
    for index, name, compute, memory, _ in _rows(cards):
        if re.fullmatch(r"\d+\.\d+", compute):
            major, minor = map(int, compute.split("."))
            size = int(memory) * 2**20 if memory.isdigit() else None
            yield Gpu(index=int(index), name=name, capability=(major, minor), memory=size)


def _rows(cards: str | None) -> Iterator[list[str]]:
    for line in (cards or "").splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == len(_QUERY.split(",")):
            yield fields


def diagnose_gpu(gpu: Gpu, build: Build, driver: str) -> Gpu:
    """Whether ``build`` runs on the card; if not, why, and which build does."""
    builds = _builds(gpu.capability)
    if build.sees_gpus and serves(build.architectures, gpu.capability):
        return replace(gpu, served=True, builds=builds)
    why, remedy = _obstacle(gpu.capability, build)
    return replace(gpu, why=why, builds=builds, remedy=remedy or _installation(gpu.capability, driver))


def _obstacle(capability: tuple[int, int], build: Build) -> tuple[str, str]:
    """Why the build does not run on the card, and what helps, if not another build."""
    if build.sees_gpus:
        return f"the installed torch has code for {' '.join(build.architectures)} only", ""
    if build.cuda is None:
        return "the installed torch is not a CUDA build", ""
    if capability < CUDA_13_CAPABILITY and int(build.cuda.split(".")[0]) >= 13:
        return f"the installed torch is a CUDA {build.cuda} build", ""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        hidden = f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']}"
        return f"torch sees no card with {hidden}", "unset CUDA_VISIBLE_DEVICES"
    return f"torch sees no card: {build.complaint or 'it does not say why'}", ""


def _builds(capability: tuple[int, int]) -> str:
    if capability < CUDA_13_CAPABILITY:
        return f"cu126 builds of torch up to {LAST_CUDA_12_TORCH}, as CUDA 13 stops at sm_75"
    return "builds for CUDA 12.8 or newer" if capability >= (10, 0) else "builds for CUDA 13, among others"


def _installation(capability: tuple[int, int], driver: str) -> str:
    """The command for a build that serves the card under its driver, and before it the driver's update if needed."""
    major = driver.split(".")[0]
    old_driver = major.isdigit() and int(major) < CUDA_13_DRIVER
    if capability < CUDA_13_CAPABILITY or (old_driver and capability < (9, 0)):
        return _pip(TORCH_FOR_CUDA_12, "cu126")
    update = f"update the driver, {driver}, to {CUDA_13_DRIVER} or newer for CUDA 13, then " if old_driver else ""
    return update + _pip("torch", "cu130")


def _pip(requirement: str, index: str) -> str:
    # The installed torch meets the requirement but for its build: pip would leave it.
    return f'pip install --force-reinstall "{requirement}" --index-url {INDEX}/{index}'


def serves(architectures: Sequence[str], capability: tuple[int, int]) -> bool:
    """Whether a build for ``architectures``, such as sm_80 and compute_120, has code that a card can run.

    Machine code (sm) runs on its own major version from its minor version on; with the suffix a on exactly its own.
    PTX (compute) is compiled on any later card.
    """
    return any(_runs(architecture, capability) for architecture in architectures)


def _runs(architecture: str, capability: tuple[int, int]) -> bool:
    match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", architecture)
    if match is None:
        return False
    kind, suffix = match[1], match[4]
    built = (int(match[2]), int(match[3]))
    if suffix == "a":
        return built == capability
    return built <= capability and (built[0] == capability[0] or (kind == "compute" and not suffix))
