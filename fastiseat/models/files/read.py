"""Weight files of every origin: our own safetensors, the ISEAT authors' checkpoints, the model zoo's files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fastiseat.errors import UserError
from fastiseat.fields import typed
from fastiseat.models.files import checksum
from fastiseat.models.files.entries import find
from fastiseat.models.files.identify import Identity, believed, identify, said
from fastiseat.models.files.layouts import Layout, layout_of, strip_prefixes, to_released
from fastiseat.models.files.parts import Parts, take_apart
from fastiseat.models.files.shipped import hint, shipped
from fastiseat.models.files.torch_file import load
from fastiseat.models.normalization import Normalization, held
from fastiseat.names.networks import Variant, canonical_variant, describe
from fastiseat.safe import one_line, open_file
from fastiseat.safe.reading import NETWORK

_Origin = Literal["safetensors", "authors", "torch"]
_TINY_IMAGENET_CLASSES = 200
_COUNTER = "num_batches_tracked"
_NORMALIZATION = ("normalize.mean", "normalize.std")


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What a weight file holds.

    Attributes:
        state: the network's tensors on the CPU, in the released layout, complete for ``arch``.
        arch: canonical name.
        variant: one of ``variants``; None where nothing in the file speaks for any.
        variant_told: whether the file itself says so. A PreActResNet-18 in a torch file that is not the
            authors' is taken to be what RobustBench's and Tack et al.'s are, a Wide ResNet under released keys alone
            for the released variant, but a caller may say otherwise.
        variants: all that have these keys and shapes.
        in_channels: colour planes of the images.
        num_classes: logits per image.
        normalization: what the file holds of it, of a mean of 0 and a std of 1 too; None where it holds none.
        choice: what was taken and what was left, where the file holds weights of several networks and the caller
            did not say which; None where there was no choice.
        normalization_open: why nobody can tell from the file how images are normalised, where it speaks of that.
        metadata: a safetensors file's own, or the numbers and strings beside a torch file's state dict.
    """

    state: dict[str, Tensor]
    arch: str
    variant: Variant | None
    variant_told: bool
    variants: tuple[Variant, ...]
    in_channels: int
    num_classes: int
    normalization: Normalization | None
    normalization_open: str | None
    choice: str | None
    metadata: dict[str, str]

    def __str__(self) -> str:
        return describe(self.arch, self.variant, self.in_channels, self.num_classes)


def read_weights(path: str | os.PathLike[str], *, entry: str | None = None) -> Weights:
    """Read ``.safetensors``, or any other name as a torch file; no code in the file is ever executed.

    A torch file is a bare state dict or a dict with one. Architecture and variant are what our own files say. Of others
    the architecture is recognised from keys and shapes, and the variant from a Wide ResNet's common key layout, else
    from ``best_pgd``, which the authors' checkpoints have, else (a Wide ResNet's released keys, which all of this
    library's have, and PreActResNet-18 in a torch file) from what is usual among networks of these keys.
    Wrappers' prefixes come off; a normalisation of images beside the network is told apart from it.

    Args:
        path: a file, or where there is none of that name, weights that come with the package: ``digits-iseat``.
        entry: the name of the state dict in a torch file that holds several, or the prefix of the network in a state
            dict that does.

    Raises:
        UserError: no such file, not a weight file, a pickle of more than tensors and plain containers, no
            known network, metadata that contradicts the tensors. The message starts with the path.
    """
    path = Path(typed("path", path, str | os.PathLike))
    typed("entry", entry, str | None)
    try:
        path = shipped(path) or path
        if path.is_dir():
            raise UserError("a folder; give a file in it")
        if not path.exists():
            raise UserError(f"no such file; check it{hint(path)}")
        if path.suffix.lower() != ".safetensors":
            return _from_torch(path, entry)
        return _from_safetensors(path, entry)
    except UserError as error:
        # A file's keys are quoted in the message: no line break or terminal escape of theirs may get through.
        raise UserError(f"{path}: {one_line(error)}") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path}: cannot be read ({reason}); check the file and its permissions") from None


def _from_safetensors(path: Path, entry: str | None) -> Weights:
    try:
        # Looked at first, as the library waits for what comes out of a pipe.
        with (
            open_file(path, most=NETWORK) as regular,
            safe_open(_in_utf8(path, regular), framework="pt", device="cpu") as file,
        ):
            metadata = dict(sorted((file.metadata() or {}).items()))  # which come in any order
            raw = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no mapping)
    except SafetensorError as error:
        raise UserError(
            f"not a safetensors file, or a truncated one ({error}); fetch it or export it again"
        ) from None
    except (
        RuntimeError
    ) as error:  # torch maps the file once more, and tells so where the system has no descriptor left
        raise UserError(f"cannot be read ({str(error).splitlines()[0]}); mend that, and try again") from None
    if (noted := metadata.pop(checksum.NAME, None)) is not None:
        checksum.check(path, noted)
    weights = _weights(raw, metadata, origin="safetensors", wanted=entry)
    for name in ("arch", "in_channels", "num_classes"):
        stated, found = metadata.get(name), str(getattr(weights, name))
        if stated not in (None, found):
            raise UserError(
                f"its metadata says {name} {stated}, its tensors say {found}; export it again from its source"
            )
    return weights


def _in_utf8(path: Path, opened: BinaryIO) -> str | Path:
    """A name of the file that safetensors takes, which asks for UTF-8 where Linux takes any bytes."""
    try:
        os.fsencode(path).decode()
    except UnicodeDecodeError:
        return f"/dev/fd/{opened.fileno()}"
    return path


def _from_torch(path: Path, entry: str | None) -> Weights:
    found = find(load(path), entry)
    beside = {key: value.item() if isinstance(value, np.generic) else value for key, value in found.beside.items()}
    metadata = {key: str(value) for key, value in beside.items() if isinstance(value, (int, float, str))}
    origin: _Origin = "authors" if "best_pgd" in beside else "torch"
    weights = _weights(found.state, metadata, origin=origin, wanted=found.wanted)
    if found.others:
        weights = replace(weights, choice=_choice(found.name, found.others))
    if beside.get("normalize_input") is True and weights.normalization is None:
        # As Carmon et al. note it, whose code has the numbers.
        return replace(weights, normalization_open="its normalize_input is True, but it does not hold by what")
    return weights


def _choice(taken: str, others: Sequence[str]) -> str:
    where = repr(taken) if taken else "the file's own level"
    names = ", ".join(map(repr, others[:6]))
    return f"weights taken from {where}, others are in {names}: entry={others[0]!r} takes those"


def _weights(
    raw: Mapping[str, Tensor], metadata: dict[str, str], *, origin: _Origin, wanted: str | None
) -> Weights:
    for key, tensor in raw.items():
        if tensor.is_complex():
            raise UserError(f"{key} holds complex numbers; a network's weights are real: export it again")
    spec = said(metadata) if wanted is None else None
    parts = _our_parts(raw)
    state = _with_counters(parts.network)
    identity = believed(spec, state)
    if identity is None:
        parts = take_apart(raw, wanted)
        state = _with_counters(to_released(parts.network))
    for key, tensor in state.items():
        if not tensor.is_floating_point() and not key.endswith(_COUNTER):
            raise UserError(
                f"{key} holds {str(tensor.dtype).removeprefix('torch.')}; a network's weights are floating-point "
                "numbers: give the file before it was rounded to whole ones"
            )
    if identity is None:
        identity = identify(state, spec)
    arch, variants, in_channels, num_classes = identity
    layout = layout_of(strip_prefixes(parts.network))
    variant, told = _variant(metadata, identity, layout=layout, origin=origin)
    return Weights(
        state=state,
        arch=arch,
        variant=variant,
        variant_told=told,
        variants=variants,
        in_channels=in_channels,
        num_classes=num_classes,
        normalization=held(*parts.normalization, in_channels=in_channels) if parts.normalization else None,
        normalization_open=parts.open,
        choice=_choice(parts.root, parts.others) if parts.others else None,
        metadata=metadata,
    )


def _our_parts(raw: Mapping[str, Tensor]) -> Parts:
    """A network of this library, and its first layer where that normalises images."""
    network = {key: tensor for key, tensor in raw.items() if key not in _NORMALIZATION}
    pair = [raw[key] for key in _NORMALIZATION if key in raw]
    return Parts(network, normalization=(pair[0], pair[1]) if len(pair) == 2 else None)


def _variant(
    metadata: Mapping[str, str], identity: Identity, *, layout: Layout | None, origin: _Origin
) -> tuple[Variant | None, bool]:
    """The variant, and whether the file tells it."""
    if "variant" in metadata and (origin == "safetensors" or "arch" in metadata):  # a torch file of ours has both
        return _stated(metadata["variant"], identity), True
    if layout == "common":
        return layout, True
    if len(identity.variants) == 1:
        return identity.variants[0], True
    if origin == "authors" and "released" in identity.variants:
        return "released", True
    if layout == "released":  # the keys of this library's common ones too
        return layout, False
    if identity.arch != "prn18" or origin == "safetensors":
        return None, False
    return _usual(identity), False


def _stated(name: str, identity: Identity) -> Variant:
    variant = canonical_variant(name)
    if variant not in identity.variants:
        raise UserError(
            f"its metadata says variant {variant}, its keys are those of {' or '.join(identity.variants)}; export it "
            "again from its source"
        )
    return variant


def _usual(identity: Identity) -> Variant:
    """Of variants with the same keys, that of most files: RobustBench's, and Tack et al.'s on their data sets."""
    if "consistency" in identity.variants:
        return "consistency-stride-2" if identity.num_classes == _TINY_IMAGENET_CLASSES else "consistency"
    return "common" if "common" in identity.variants else "released-no-bn"


def _with_counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with the BatchNorm counters that files older than PyTorch 0.4.1 lack."""
    means = [key for key in state if key.endswith(".running_mean")]
    counters = {key.replace("running_mean", _COUNTER): torch.tensor(0) for key in means}
    return counters | state
