"""Weight files of every origin: our own safetensors, the ISEAT authors' checkpoints, RobustBench's files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fastiseat.errors import UserError
from fastiseat.models.identify import identify
from fastiseat.models.layouts import Layout, layout_of, strip_prefixes, to_released
from fastiseat.models.names import Variant, canonical_variant, describe
from fastiseat.models.torch_file import read_torch

_Origin = Literal["safetensors", "authors", "torch"]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What a weight file holds.

    Attributes:
        state: the tensors on the CPU, in the released layout, complete for ``arch``.
        arch: canonical name.
        variant: ``released``, ``common``, or None where nothing in the file speaks for either.
        variant_told: whether the file itself says so. A PreActResNet-18 in a torch file that is not the
            authors' is taken to be ``common``, as RobustBench's are, but a caller may say otherwise.
        in_channels: colour planes of the images.
        num_classes: logits per image.
        metadata: a safetensors file's own, or the numbers and strings beside a torch file's ``state_dict``.
    """

    state: dict[str, Tensor]
    arch: str
    variant: Variant | None
    variant_told: bool
    in_channels: int
    num_classes: int
    metadata: dict[str, str]

    def __str__(self) -> str:
        return describe(self.arch, self.variant, self.in_channels, self.num_classes)


def read_weights(path: str | os.PathLike[str]) -> Weights:
    """Read ``.safetensors``, or any other name as a torch file; no code in the file is ever executed.

    A torch file is a bare state dict or a dict with a ``state_dict``. The architecture is recognised from
    keys and shapes. The variant comes from the metadata of a safetensors file, else from a Wide ResNet's key
    layout, else (PreActResNet-18 in a torch file) from ``best_pgd``, which the authors' checkpoints have.

    Raises:
        UserError: no such file, not a weight file, a pickle of more than tensors and plain containers, no
            known network, metadata that contradicts the tensors. The message starts with the path.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise UserError("a folder; give a file in it" if path.is_dir() else "no such file; check it")
        return _from_safetensors(path) if path.suffix.lower() == ".safetensors" else _from_torch(path)
    except UserError as error:
        # A file's keys are quoted in the message: no line break or terminal escape of theirs may get through.
        line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(error))
        raise UserError(f"{path}: {line}") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path}: cannot be read ({reason}); check the file and its permissions") from None


def _from_safetensors(path: Path) -> Weights:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = dict(file.metadata() or {})
            raw = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no mapping)
    except SafetensorError as error:
        raise UserError(
            f"not a safetensors file, or a truncated one ({error}); fetch it or export it again"
        ) from None
    weights = _weights(raw, metadata, origin="safetensors")
    for name in ("arch", "in_channels", "num_classes"):
        stated, found = metadata.get(name), str(getattr(weights, name))
        if stated not in (None, found):
            raise UserError(
                f"its metadata says {name} {stated}, its tensors say {found}; export it again from its source"
            )
    return weights


def _from_torch(path: Path) -> Weights:
    raw, beside = read_torch(path)
    metadata = {key: str(value) for key, value in beside.items() if isinstance(value, (int, float, str))}
    return _weights(raw, metadata, origin="authors" if "best_pgd" in beside else "torch")


def _weights(raw: Mapping[str, Tensor], metadata: dict[str, str], *, origin: _Origin) -> Weights:
    for key, tensor in raw.items():
        if tensor.is_complex():
            raise UserError(f"{key} holds complex numbers; a network's weights are real: export it again")
    state = _with_counters(to_released(raw))
    arch, in_channels, num_classes = identify(state)
    layout = layout_of(strip_prefixes(raw))
    variant, told = _variant(metadata, layout=layout, arch=arch, origin=origin)
    return Weights(
        state=state,
        arch=arch,
        variant=variant,
        variant_told=told,
        in_channels=in_channels,
        num_classes=num_classes,
        metadata=metadata,
    )


def _variant(
    metadata: Mapping[str, str], *, layout: Layout | None, arch: str, origin: _Origin
) -> tuple[Variant | None, bool]:
    """The variant, and whether the file tells it."""
    if origin == "safetensors" and "variant" in metadata:
        return canonical_variant(metadata["variant"]), True
    if layout is not None:
        return layout, True
    if arch != "prn18" or origin == "safetensors":
        return None, False
    return ("released", True) if origin == "authors" else ("common", False)


def _with_counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with the BatchNorm counters that files older than PyTorch 0.4.1 lack."""
    means = [key for key in state if key.endswith(".running_mean")]
    counters = {key.replace("running_mean", "num_batches_tracked"): torch.tensor(0) for key in means}
    return counters | state
