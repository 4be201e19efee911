"""A network in PyTorch's own ops, float32: what exporters read and other programs run."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastiseat.export.source import Source
from fastiseat.models.norm import BatchNormReLU


class PlainNormReLU(nn.Module):
    """What :class:`fastiseat.models.norm.BatchNormReLU` computes in eval mode."""

    def __init__(self, bn: BatchNormReLU) -> None:
        super().__init__()
        self.bn = bn

    def forward(self, a: Tensor, b: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(a + b, relu(bn(a + b)))."""
        s, bn = a if b is None else a + b, self.bn
        return s, F.batch_norm(s, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps).relu()


def exported_program(source: Source) -> torch.export.ExportedProgram:
    """Images (N, C, H, W) to logits for any N, H and W, in aten's operators alone."""
    spec, dynamic = source.spec, torch.export.Dim.DYNAMIC
    images = torch.zeros(2, spec.in_channels, 32, 32)
    shapes = ({0: dynamic, 2: dynamic, 3: dynamic},)
    with torchs_own_warnings():
        program: torch.export.ExportedProgram = torch.export.export(
            _plain(source), (images,), dynamic_shapes=shapes
        )
        # Of no decompositions, but it resolves the switch of autocast before the head, which is no operator.
        program = program.run_decompositions({})
    foreign = {str(node.target) for node in program.graph.nodes if _is_foreign(node)}
    assert not foreign, f"{foreign} would not run without fastiseat"
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
