"""The formats, each an encoder, a reader and the lines that load it elsewhere."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fastiseat.checkpoint import weights_content
from fastiseat.export import onnx_file, robustbench
from fastiseat.export.plain import exported_program, torchs_own_warnings
from fastiseat.export.source import Source
from fastiseat.models import load_model, metadata
from fastiseat.version import __version__

Forward = Callable[[Tensor], Tensor]
"""Float32 images (N, C, H, W) to logits."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a network becomes a file and a file a network.

    Attributes:
        suffix: of the file's name.
        library: whose files these are, as the Hugging Face Hub calls it.
        encode: the file's bytes.
        load: the forward of a written file.
        snippet: Python that binds ``logits``, for a file of this name in the present folder.
        note: what a user has to know about this network in this format; may be empty.
        beside: a file that loading needs as well.
    """

    suffix: str
    library: str
    encode: Callable[[Source], bytes]
    load: Callable[[Path, Source], Forward]
    snippet: Callable[[Source, str], str]
    note: Callable[[Source], str]
    beside: Callable[[Source], Path | None] = lambda source: None


def images_line(source: Source, dtype: torch.dtype = torch.float32) -> str:
    """The line of a snippet that stands for the user's images."""
    more = "" if dtype == torch.float32 else f", dtype={dtype}"
    shape = f"8, {source.spec.in_channels}, {source.side}, {source.side}"
    return f"images = torch.rand({shape}{more})  # your images: NCHW, values in [0, 1]"


def _float32_note(source: Source) -> str:
    return "its float64 weights were rounded to float32" if source.dtype == torch.float64 else ""


def _encode_safetensors(source: Source) -> bytes:
    run = {name: str(source.settings[name]) for name in ("schedule.epochs", "run.seed") if name in source.settings}
    known = {name.partition(".")[2]: value for name, value in run.items()}
    told = {**known, "exported_by": f"fastiseat {__version__}", **source.metadata}
    return weights_content(source.model, {**told, **metadata(source.spec)})


def _load_safetensors(path: Path, source: Source) -> Forward:
    model = load_model(path)
    assert next(model.parameters()).dtype == source.dtype
    return lambda images: model(images.to(source.dtype))


def _safetensors_snippet(source: Source, name: str) -> str:
    lines = ("import fastiseat", "import torch", "", f"model = fastiseat.load_model({name!r})  # in eval mode")
    return "\n".join((*lines, images_line(source, source.dtype), "logits = model(images)"))


def _encode_program(source: Source) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(exported_program(source), buffer)
    return buffer.getvalue()


def _load_program(path: Path, source: Source) -> Forward:
    with torchs_own_warnings():
        forward: Forward = torch.export.load(path).module()
    return forward


def _program_snippet(source: Source, name: str) -> str:
    load = f"model = torch.export.load({name!r}).module()  # always in eval mode; gradients pass"
    return "\n".join(("import torch", "", load, images_line(source), "logits = model(images)"))


def _robustbench_snippet(source: Source, name: str) -> str:
    return "\n".join((robustbench.loading(source, name), images_line(source), "logits = model(images)"))


def _onnx_snippet(source: Source, name: str) -> str:
    return "\n".join((onnx_file.loading(name), images_line(source), onnx_file.RUN))


FORMATS = {
    "safetensors": Format(
        suffix=".safetensors",
        library="fastiseat",
        encode=_encode_safetensors,
        load=_load_safetensors,
        snippet=_safetensors_snippet,
        note=lambda source: "",
    ),
    "robustbench": Format(
        suffix=".pt",
        library="pytorch",
        encode=robustbench.encode,
        load=robustbench.load,
        snippet=_robustbench_snippet,
        note=lambda source: "; ".join(filter(None, (robustbench.note(source), _float32_note(source)))),
        beside=robustbench.beside,
    ),
    "torch-export": Format(
        suffix=".pt2",
        library="pytorch",
        encode=_encode_program,
        load=_load_program,
        snippet=_program_snippet,
        note=_float32_note,
    ),
    "onnx": Format(
        suffix=".onnx",
        library="onnx",
        encode=onnx_file.encode,
        load=onnx_file.load,
        snippet=_onnx_snippet,
        note=_float32_note,
    ),
}
