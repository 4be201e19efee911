"""RobustBench's files: a torch file with a ``state_dict`` that RobustBench's own classes load, where it has one.

Its ``WideResNet`` is the common variant, its ``PreActResNet`` has either shortcuts and a last BatchNorm or none by
flags, both for images of 3×32×32. For others :mod:`fastiseat.export.plain_networks` is put beside the file: RobustBench
evaluates any module.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from fastiseat.export import plain_networks
from fastiseat.export.source import Source
from fastiseat.models import export_state_dict, load_model
from fastiseat.models.factory import build_spec
from fastiseat.names.networks import FORMS, wrn_size

_ZOO = "robustbench.model_zoo.architectures"


def own_class(source: Source) -> tuple[str, str] | None:
    """RobustBench's class for the network, as an import and a call; None where it has none."""
    spec, classes = source.spec, f"num_classes={source.spec.num_classes}"
    # Its poolings are of fixed size: at 64×64 one fails, and the other gives four rows of logits for an image.
    if spec.in_channels != 3 or source.side != 32 or not _is_bare(source):
        return None
    form = FORMS[spec.variant]
    if spec.arch == "prn18" and not form.stem_norm:
        more = f"bn_before_fc={form.last_norm}, out_shortcut={not form.shortcut_reads_input}"
        call = f"PreActResNet(PreActBlock, [2, 2, 2, 2], {classes}, {more})"
        return f"from {_ZOO}.resnet import PreActBlock, PreActResNet", call
    size = wrn_size(spec.arch)
    if size is None or spec.variant != "common":
        return None
    return (
        f"from {_ZOO}.wide_resnet import WideResNet",
        f"WideResNet(depth={size[0]}, widen_factor={size[1]}, {classes})",
    )


def plain_class(source: Source) -> bool:
    """Whether the file of plain networks has a class for it."""
    spec = source.spec
    return own_class(source) is None and plain_networks.is_here(spec.arch, spec.variant) and _is_bare(source)


def beside(source: Source) -> Path | None:
    """The file of plain networks, where loading needs it."""
    return Path(plain_networks.__file__) if plain_class(source) else None


def encode(source: Source) -> bytes:
    """A torch file of tensors and strings, which ``torch.load`` reads with ``weights_only=True``."""
    # A Wide ResNet's keys tell readers its variant; others have one layout.
    layout = "released" if source.spec.variant == "released" else "common"
    state = {key: _float32(tensor) for key, tensor in export_state_dict(source.model, layout).items()}
    told = {name: str(value) for name, value in {**asdict(source.spec), **source.metadata}.items()}
    buffer = io.BytesIO()
    torch.save({**told, "state_dict": state}, buffer)
    return buffer.getvalue()


def load(path: Path, source: Source) -> Callable[[Tensor], Tensor]:
    """The forward, by plain PyTorch where the file comes with it."""
    if not plain_class(source):
        return load_model(path, variant=source.spec.variant)
    model = plain_networks.network(**asdict(source.spec))
    model.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    return model.eval()


def loading(source: Source, name: str) -> str:
    """The lines that make ``model``."""
    spec, found = source.spec, own_class(source)
    if found is None and not plain_class(source):
        load = f"model = fastiseat.load_model({name!r}, variant={spec.variant!r})  # in eval mode"
        return f"import fastiseat\nimport torch\n\n{load}"
    by_name = ", ".join(f"{field}={value!r}" for field, value in asdict(spec).items())
    imported, call = found or ("from plain_networks import network  # the file beside", f"network({by_name})")
    state = f'model.load_state_dict(torch.load({name!r}, weights_only=True)["state_dict"])'
    return f"import torch\n{imported}\n\nmodel = {call}\n{state}\nmodel.eval()"


def note(source: Source) -> str:
    """Which class loads the file."""
    found = own_class(source)
    if found:
        return f"RobustBench's own class loads it, for images of 32×32: {found[1]}"
    how = "plain_networks.py beside it does" if plain_class(source) else "fastiseat.load_model does"
    side = "" if source.side == 32 else f" and images of {source.side}×{source.side}"
    return (
        f"RobustBench has no class for {source.spec}{side}: {how}, and robustbench.eval.benchmark takes the module"
    )


def _is_bare(source: Source) -> bool:
    """Whether the network has nothing beyond its architecture, such as a normalisation of its own."""
    with torch.device("meta"):
        expected = build_spec(source.spec).state_dict()
    return source.model.state_dict().keys() == expected.keys()


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
