"""Wide ResNets (Zagoruyko & Komodakis, 2016), as the ISEAT authors and as RobustBench have them."""

from __future__ import annotations

from torch import Tensor, nn

from fastiseat.errors import UserError
from fastiseat.fusion.norm import Addends, BatchNormReLU, one_pass
from fastiseat.models import plain as written
from fastiseat.models.blocks import PreActBlock, classify, conv3x3, stage
from fastiseat.models.files.layouts import layout_of
from fastiseat.models.homes import Recognised, State, size_of
from fastiseat.models.network import Network
from fastiseat.names.networks import FORMS, ModelSpec, canonical_arch, variants_of, wrn_size


class WideResNet(Network):
    """WRN-depth-width: a 16-channel stem, three stages of pre-activation blocks, bn1, relu, pool, fc0.

    The released variant strides in a block's conv2 and its shortcut convolutions read the raw input: 7.37
    GMAC for WRN-34-10 at 32x32. The common one (RobustBench, TRADES) strides in conv1 and its shortcut
    convolutions read relu(bn1(input)): 6.66 GMAC. State-dict keys, for both: ``conv1``,
    ``layer{1-3}.block{i}.{bn1,conv1,bn2,conv2,shortcut.0}`` with i from 0, ``bn1``, ``fc0``;
    :mod:`fastiseat.models.files.layouts` translates. Layers draw PyTorch's first weights.

    Args:
        spec: what the network is; its variant, channels and classes shape it.
        depth: 6n + 4.
        width: the factor on the stages' 16, 32 and 64 channels.
    """

    def __init__(self, spec: ModelSpec, *, depth: int, width: int) -> None:
        super().__init__(spec)
        narrow, middle, wide = 16 * width, 32 * width, 64 * width
        num_blocks = (depth - 4) // 6
        halve = FORMS[spec.variant].wide_strides
        assert halve is not None  # ModelSpec refuses such a variant

        def layer(in_width: int, out_width: int, strides: tuple[int, int]) -> nn.Sequential:
            return stage(
                in_width, out_width, depth=num_blocks, strides=strides, variant=spec.variant, prefix="block"
            )

        self.conv1 = conv3x3(spec.in_channels, 16)
        self.layer1 = layer(16, narrow, (1, 1))
        self.layer2 = layer(narrow, middle, halve)
        self.layer3 = layer(middle, wide, halve)
        self.bn1 = BatchNormReLU(wide)
        self.fc0 = nn.Linear(wide, spec.num_classes)

    @one_pass()
    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W), in the images' dtype."""
        addends: Addends = self.conv1(self.normalized(images)), None
        for blocks in (self.layer1, self.layer2, self.layer3):
            addends = self.through(blocks, addends)
        _, features = self.bn1(*addends)
        return classify(self.fc0, features)


PARTS = frozenset({WideResNet, PreActBlock, BatchNormReLU, nn.Conv2d, nn.Linear, nn.Sequential})


def build(spec: ModelSpec) -> Network:
    """``wrn-<depth>-<width>``."""
    depth, width = _size(spec)
    return WideResNet(spec, depth=depth, width=width)


def plain(spec: ModelSpec) -> nn.Module:
    """The same as people write it."""
    return written.WideResNet(spec, *_size(spec))


def recognised(state: State) -> Recognised | None:
    """Depth by the blocks of a stage and width by their channels; its variants have the same keys."""
    if layout_of(state) != "released":
        return None
    num_blocks = len({key.split(".")[1] for key in state if key.startswith("layer1.block")})
    channels = size_of(state, "layer1.block0.conv1.weight", axis=0)
    if channels % 16:
        raise UserError(
            f"layer1.block0.conv1.weight has {channels} channels; a Wide ResNet's are a multiple of 16"
        )
    arch = canonical_arch(f"wrn-{6 * num_blocks + 4}-{channels // 16}")
    return Recognised(arch, variants_of(arch), stem="conv1.weight", head="fc0.weight")


def _size(spec: ModelSpec) -> tuple[int, int]:
    size = wrn_size(spec.arch)
    assert size is not None, spec
    return size
