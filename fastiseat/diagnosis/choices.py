"""What ``auto`` comes to: asked of the code that decides, not told beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from fastiseat.diagnosis.finding import Choice, Choices, Gpu
from fastiseat.engine.precision import precision_for_amp
from fastiseat.engine.recording import engines
from fastiseat.errors import UserError
from fastiseat.kernels import FIRST_DTYPES, ops
from fastiseat.kernels.core.dispatch import AUTO, VARIABLE
from fastiseat.pipelines.loaders.choose import auto_in_words


def choices(device: torch.device, gpus: Sequence[Gpu]) -> Choices:
    """Precision of ``--amp`` on ``device``, which ``--device auto`` stands for, the loader, each device's kernels."""
    try:
        amp = precision_for_amp(device)
    except RuntimeError:
        amp = "unknown"
    engine, engine_why = engines.auto_in_words(device)
    return Choices(
        device=str(device),
        problem=_problem(device, gpus),
        amp=amp,
        loader=auto_in_words(),
        engine=engine,
        engine_why=engine_why,
        kernels=tuple(
            choice
            for place in ("cpu", *(f"cuda:{gpu.index}" for gpu in gpus if gpu.served))
            for choice in kernel_choices(place)
        ),
    )


def _problem(device: torch.device, gpus: Sequence[Gpu]) -> str:
    index = device.index or 0
    if device.type != "cuda" or any(gpu.index == index and gpu.served for gpu in gpus):
        return ""
    why = next((gpu.why for gpu in gpus if gpu.index == index), "it is no working NVIDIA card")
    instead = next((f"cuda:{gpu.index}" for gpu in gpus if gpu.served), "cpu")
    return f"will fail on GPU {index}: {why}; give --device {instead}"


def kernel_choices(device: str) -> tuple[Choice, ...]:
    """The backend of each op on a device, as dispatch picks it in this environment."""
    wanted = os.environ.get(VARIABLE) or AUTO
    found = []
    for op in ops():
        try:
            backend, why = op.explain(device, FIRST_DTYPES.get(op.name, torch.float32), wanted)
        except UserError as error:
            backend, why = "none", str(error)
        found.append(Choice(device=device, op=op.name, backend=backend, why=why))
    return tuple(found)
