"""ONNX, by torch's exporter; read back by onnxruntime."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from fastiseat.errors import UserError
from fastiseat.export.plain import exported_program, torchs_own_warnings
from fastiseat.export.source import Source

NEEDED = ("onnx", "onnxscript", "onnxruntime")
RUN = '(logits,) = session.run(["logits"], {"images": images.numpy()})'
_LARGEST = 2**31 - 2**20  # protobuf's limit, less the graph


def encode(source: Source) -> bytes:
    """One file, weights included, with dynamic batch, height and width."""
    _require_packages()
    size = sum(4 * parameter.numel() for parameter in source.model.parameters())
    if size > _LARGEST:
        raise UserError(f"--to onnx: {size} bytes of weights, and a file holds 2 GiB: take --to torch-export")
    axes = ({0: "batch", 2: "height", 3: "width"},)
    with torchs_own_warnings(), _quiet():
        program = torch.onnx.export(
            exported_program(source),
            dynamo=True,
            dynamic_shapes=axes,
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def load(path: Path, source: Source) -> Callable[[Tensor], Tensor]:
    """The forward of a session on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def loading(name: str) -> str:
    """The lines that open the file."""
    return f"import onnxruntime\nimport torch\n\nsession = onnxruntime.InferenceSession({name!r})"


def _require_packages() -> None:
    missing = []
    for name in NEEDED:
        try:
            import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise UserError(f"--to onnx: needs {', '.join(missing)}: pip install 'fastiseat[onnx]'")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on packages that have nothing to do with these networks."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
