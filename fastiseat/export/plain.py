"""A network in PyTorch's own ops, float32: what exporters read and other programs run."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastiseat.export.source import Source
from fastiseat.fusion.norm import BatchNormReLU


class PlainNormReLU(nn.Module):
    """What :class:`fastiseat.fusion.norm.BatchNormReLU` computes in eval mode."""

    def __init__(self, bn: BatchNormReLU) -> None:
        super().__init__()
        self.bn = bn

    def forward(self, a: Tensor, b: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(a + b, relu(bn(a + b)))."""
        s, bn = a if b is None else a + b, self.bn
        return s, F.batch_norm(s, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps).relu()


def exported_program(source: Source) -> torch.export.ExportedProgram:
    """Images (N, C, H, W) to logits for any N, H and W, in aten's operators alone.

    Of a network whose last features are a single pixel at the size of its own images, for that size alone.
    """
    program = _traced(source, 32, torch.export.Dim.DYNAMIC)
    # torch tells a size of 1 from all others when it traces, and asserts what it saw.
    return program if _takes(program, source) else _traced(source, source.side, torch.export.Dim.AUTO)


def _takes(program: torch.export.ExportedProgram, source: Source) -> bool:
    """Whether it runs on images of the source's own size."""
    try:
        with torch.no_grad():
            program.module()(torch.zeros(2, source.spec.in_channels, source.side, source.side))
    except AssertionError:
        return False
    return True


def _traced(source: Source, side: int, free: Any) -> torch.export.ExportedProgram:
    images = torch.zeros(2, source.spec.in_channels, side, side)
    shapes = ({0: torch.export.Dim.DYNAMIC, 2: free, 3: free},)
    with torchs_own_warnings():
        program: torch.export.ExportedProgram = torch.export.export(
            _plain(source), (images,), dynamic_shapes=shapes
        )
        # Of no decompositions, but it resolves the switch of autocast before the head, which is no operator.
        program = program.run_decompositions({})
    foreign = {str(node.target) for node in program.graph.nodes if _is_foreign(node)}
    assert not foreign, f"{foreign} would not run without fastiseat"
    for node in program.graph.nodes:
        for told in ("from_node", "stack_trace"):  # of the exporter's own steps, numbered anew in each process
            node.meta.pop(told, None)
    return program


@contextmanager
def torchs_own_warnings() -> Iterator[None]:
    """Silence what torch's exporter and reader say about torch's own code."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        # torch 2.11's reader of its own files.
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
        yield


def _plain(source: Source) -> nn.Module:
    model = copy.deepcopy(source.model).float().requires_grad_(False)
    for name, module in list(model.named_modules()):
        if isinstance(module, BatchNormReLU):
            model.set_submodule(name, PlainNormReLU(module))
    return model


def _is_foreign(node: torch.fx.Node) -> bool:
    if node.op != "call_function":
        return False
    return not str(node.target).startswith("aten.") and getattr(node.target, "__module__", "") != "_operator"
