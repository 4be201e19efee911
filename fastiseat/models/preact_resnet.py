"""Pre-activation ResNets with a 3x3 stem: PreActResNet-18 and a small one for 8x8 digits."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fastiseat.fusion.norm import Addends, BatchNormReLU, one_pass
from fastiseat.models import plain as written
from fastiseat.models.blocks import PreActBlock, classify, conv3x3, stage, summed
from fastiseat.models.homes import Recognised, State
from fastiseat.models.network import Network
from fastiseat.names.networks import FORMS, ModelSpec, variants_of

SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "prn18": ((2, 2, 2, 2), (64, 128, 256, 512)),
    "small": ((1, 1, 1), (16, 32, 64)),
}
"""Blocks and width of each stage."""


class PreActResNet(Network):
    """Stem, stages of pre-activation blocks, bn, relu, global average pool, linear.

    Every stage but the first halves the image in its first block's conv1. Variants differ in what the shortcut
    convolutions read (see :class:`~fastiseat.models.blocks.PreActBlock`), in a BatchNorm and ReLU after the stem, in
    those after the last block, and in the stem's stride: :class:`~fastiseat.names.networks.Form`. State-dict keys:
    ``conv1``, ``bn1`` after the stem, ``layer{stage}.{block}.{bn1,conv1,bn2,conv2,shortcut.0}``, ``bn`` after the
    last block, ``linear``; those of two variants may be the same.
    Layers draw PyTorch's first weights.

    Args:
        spec: what the network is; its variant, channels and classes shape it.
        depths: blocks of each stage.
        widths: channels of each stage; the stem has the first's.
    """

    def __init__(self, spec: ModelSpec, *, depths: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__(spec)
        form, self.num_stages = FORMS[spec.variant], len(depths)
        self.conv1 = conv3x3(spec.in_channels, widths[0], stride=form.stem_stride)
        self.bn1 = BatchNormReLU(widths[0]) if form.stem_norm else None
        in_width = widths[0]
        for number, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
            strides = (1 if number == 1 else 2, 1)
            blocks = stage(in_width, width, depth=depth, strides=strides, variant=spec.variant)
            self.add_module(f"layer{number}", blocks)
            in_width = width
        self.bn = BatchNormReLU(in_width) if form.last_norm else None
        self.linear = nn.Linear(in_width, spec.num_classes)

    @one_pass()
    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W), in the images' dtype."""
        addends: Addends = self.conv1(self.normalized(images)), None
        if self.bn1 is not None:
            addends = self.bn1(*addends)[1], None
        for number in range(1, self.num_stages + 1):
            blocks = self.get_submodule(f"layer{number}")
            assert isinstance(blocks, nn.Sequential)
            addends = self.through(blocks, addends)
        features = summed(addends) if self.bn is None else self.bn(*addends)[1]
        return classify(self.linear, features)


PARTS = frozenset({PreActResNet, PreActBlock, BatchNormReLU, nn.Conv2d, nn.Linear, nn.Sequential})


def build(spec: ModelSpec) -> Network:
    """``small`` or ``prn18``."""
    depths, widths = SIZES[spec.arch]
    return PreActResNet(spec, depths=depths, widths=widths)


def plain(spec: ModelSpec) -> nn.Module:
    """The same as people write it."""
    return written.PreActResNet(spec, *SIZES[spec.arch])


def recognised(state: State) -> Recognised | None:
    """``prn18`` by its fourth stage, and the variants that have BatchNorms where ``state`` has them."""
    if not ("linear.weight" in state and "layer1.0.conv1.weight" in state):
        return None
    arch = "prn18" if "layer4.0.conv1.weight" in state else "small"
    stem, last = (any(key.startswith(f"{name}.") for key in state) for name in ("bn1", "bn"))
    forms = {name: (FORMS[name].stem_norm, FORMS[name].last_norm) for name in variants_of(arch)}
    # Where none has, the released one's keys are the nearest, and what they differ in is told.
    variants = tuple(name for name, norms in forms.items() if norms == (stem, last)) or ("released",)
    return Recognised(arch, variants, stem="conv1.weight", head="linear.weight")
