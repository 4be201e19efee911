"""``idbh`` as a whole: against Pillow one image at a time, its draws, and what it refuses."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from devices import DEVICES, assert_within_an_ulp
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import idbh as oracle
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastiseat.errors import UserError
from fastiseat.kernels import idbh
from fastiseat.kernels.idbh import draws as draws
from fastiseat.kernels.idbh.policies import POLICIES, Kind

NAMES = list(POLICIES)
SEEDS, EPOCHS = [0, 2**32, 2**64 - 1], [0, 199, 2**32 - 1]


def batch(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images of narrow and of wide ranges of levels, and places that try both words of the index."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, shape, generator=rng)
    images[::3] = images[::3] // 4 + torch.randint(0, 190, (len(images[::3]), 1, 1, shape[3]), generator=rng)
    index = torch.randint(0, 50_000, shape[:1], generator=rng)
    special = torch.tensor([0, 2**32 - 1, 2**32, 2**40 + 3, 2**63 - 1, -1])
    index[1 : 1 + len(special)] = special[: max(len(index) - 1, 0)]
    return images.to(torch.uint8), index


def by_pillow(images: Tensor, index: Tensor, *, seed: int, epoch: int, policy: str) -> Tensor:
    done = [
        oracle.idbh_oracle(image, place, seed=seed, epoch=epoch, policy=policy)
        for image, place in zip(images.numpy(), index.tolist(), strict=True)
    ]
    return torch.from_numpy(np.stack(done))


@pytest.mark.parametrize("policy", NAMES)
@pytest.mark.parametrize("shape", [(400, 32, 32, 3), (150, 48, 40, 3), (150, 11, 23, 3)])
def test_equals_pillow(shape, policy):
    images, index = batch(shape)
    arguments = {"seed": 7, "epoch": 3, "policy": policy}
    assert torch.equal(idbh(images, index, **arguments), by_pillow(images, index, **arguments))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("epoch", EPOCHS)
def test_every_bit_of_seed_epoch_and_index_counts(seed, epoch):
    images, index = batch((9, 12, 13, 3))
    expected = by_pillow(images, index, seed=seed, epoch=epoch, policy="svhn")
    assert torch.equal(idbh(images, index, seed=seed, epoch=epoch, policy="svhn"), expected)
    assert torch.equal(idbh(images, index, seed=seed, epoch=torch.tensor(epoch), policy="svhn"), expected)


@pytest.mark.parametrize("policy", NAMES)
def test_draws_equal_the_oracle(policy):
    index = torch.arange(300)
    drawn = draws.draw(index, seed=2**40 + 5, epoch=9, policy=POLICIES[policy], height=48, width=40)
    (rows, columns), box = drawn.cuts, drawn.box
    for k in range(300):
        expected = oracle.draws(k, 2**40 + 5, 9, policy, 48, 40)
        assert (
            oracle.Draws(
                mirrored=bool(drawn.flip[k]),
                cut_x=int(columns.size[k]),
                cut_y=int(rows.size[k]),
                crop=(int(columns.start[k]), int(rows.start[k])),
                window=(int(columns.window[k]), int(rows.window[k])),
                kind=oracle.KINDS[drawn.kind[k]],
                magnitude=float(drawn.magnitude[k]),
                vertical=bool(drawn.vertical[k]),
                box=tuple(int(side[k]) for side in box) if box.height[k] else None,
            )
            == expected
        )


@settings(max_examples=20)
@given(order=st.permutations(range(12)), cut=st.integers(0, 12), policy=st.sampled_from(NAMES))
def test_a_sample_knows_nothing_of_its_batch(order, cut, policy):
    images, index = batch((12, 12, 11, 3))
    arguments = {"seed": 1, "epoch": 2, "policy": policy}
    expected = idbh(images, index, **arguments)
    assert torch.equal(idbh(images[order], index[order], **arguments), expected[order])
    parts = [idbh(images[part], index[part], **arguments) for part in (slice(cut), slice(cut, None))]
    assert torch.equal(torch.cat(parts), expected)


def test_seed_epoch_and_index_each_change_the_draws():
    images, index = batch((64, 16, 16, 3))
    first = idbh(images, index, seed=0, epoch=0, policy="cifar10-strong")
    others = [
        idbh(images, index + place, seed=seed, epoch=epoch, policy="cifar10-strong")
        for place, seed, epoch in [(0, 1, 0), (0, 2**32, 0), (0, 0, 1), (1, 0, 0), (2**32, 0, 0)]
    ]
    for one in range(len(others)):
        for other in [first, *others[:one]]:
            assert (others[one] != other).flatten(1).any(1).float().mean() > 0.9


def deviation(cells: Tensor, probabilities: list[float]) -> float:
    """Pearson's statistic, in standard deviations from its mean."""
    counts = torch.bincount(cells, minlength=len(probabilities)).double()
    assert len(counts) == len(probabilities)
    expected = len(cells) * torch.tensor(probabilities, dtype=torch.float64)
    freedom = len(probabilities) - 1
    return (((counts - expected) ** 2 / expected).sum().item() - freedom) / (2 * freedom) ** 0.5


@pytest.mark.parametrize("policy", NAMES)
class TestDraws:
    """Fixed seeds: what passes once passes always. Below 5, as of these many statistics one or two exceed 3."""

    @pytest.fixture
    def drawn(self, policy):
        return draws.draw(torch.arange(20_000), seed=0, epoch=0, policy=POLICIES[policy], height=32, width=32)

    def test_flips_and_kinds(self, drawn, policy):
        probabilities = [choice.probability for choice in POLICIES[policy].color_shape.values()]
        assert list(POLICIES[policy].color_shape) == list(Kind)
        assert sum(probabilities) == pytest.approx(1)
        assert abs(deviation(drawn.flip, [0.5] * 2)) < 5
        assert abs(deviation(drawn.kind, probabilities)) < 5
        assert abs(deviation(drawn.kind * 2 + drawn.flip, [p / 2 for p in probabilities for _ in "01"])) < 5

    def test_crop_shift(self, drawn, policy):
        _, hi = POLICIES[policy].crop_shift
        rows, columns = drawn.cuts
        total = rows.size + columns.size
        assert abs(deviation(total, [1 / hi] * hi)) < 5
        for cut in drawn.cuts:
            of_four = cut.size == 4
            assert abs(deviation(cut.start[of_four], [1 / 5] * 5)) < 5
            assert abs(deviation(cut.window[of_four], [1 / 5] * 5)) < 5
            assert (cut.start <= cut.size).all() and (cut.window <= cut.size).all()
        assert abs(deviation(columns.size[total == hi - 1], [1 / hi] * hi)) < 5

    def test_magnitudes(self, drawn, policy):
        for kind, (_, low, high) in POLICIES[policy].color_shape.items():
            strength = drawn.magnitude[drawn.kind == kind]
            if kind >= Kind.SHEAR:
                assert abs(deviation((strength < 0).long(), [0.5] * 2)) < 5
            strength = strength.abs()
            assert (strength >= np.float32(low)).all() and (strength <= np.float32(high)).all()
            if kind == Kind.ROTATE:
                angles = int(high)
                assert abs(deviation(strength.long() - 1, [1 / angles] * angles)) < 5
            elif high:
                tenths = ((strength - low) / (high - low) * 10).long().clamp(0, 9)
                assert abs(deviation(tenths, [0.1] * 10)) < 5
        shears = drawn.kind == Kind.SHEAR
        quarter = drawn.vertical[shears] * 2 + (drawn.magnitude[shears] < 0)
        assert abs(deviation(quarter, [0.25] * 4)) < 5

    def test_boxes(self, drawn, policy):
        box, (smallest, largest) = drawn.box, POLICIES[policy].erasing_area
        erased = box.height > 0
        assert abs(deviation(erased.long(), [0.5] * 2)) < 5 if policy == "cifar10-weak" else erased.all()
        height, width = box.height[erased], box.width[erased]
        assert (box.top[erased] + height <= 32).all() and (box.left[erased] + width <= 32).all()
        assert (height < 32).all() and (width < 32).all()
        # Both sides are rounded to whole pixels.
        assert ((height + 0.5) * (width + 0.5) >= smallest * 1024).all()
        assert ((height - 0.5) * (width - 0.5) <= largest * 1024).all()
        assert ((height + 0.5) / (width - 0.5) >= 0.3).all() and ((height - 0.5) / (width + 0.5) <= 3.3).all()
        assert box.top[erased].min() == box.left[erased].min() == 0
        assert (box.top[erased] + height).max() == (box.left[erased] + width).max() == 32


class TestTheStreamNeverChanges:
    """Literal values, from the oracle: whoever changes them changes every run that was ever seeded."""

    @pytest.mark.parametrize(
        ("policy", "checksum"),
        [
            ("cifar10-weak", "9b9616b6c1168e25bc1b2af8a846a23c041ed94b7ec0eac3937d6087fb7be42b"),
            ("cifar10-strong", "bf228c204864e6c311f94ec0bab54cddf193f7de36c8c176004de5a45b3acbdf"),
            ("svhn", "ba80e8c6bd1723bfa0a5fafb1e7383985de11a32fa4460cf51c1ff56df682ec3"),
        ],
    )
    def test_pixels(self, policy, checksum):
        pixels = torch.arange(64 * 32 * 32 * 3).mul(37).remainder(251).to(torch.uint8).view(64, 32, 32, 3)
        images = idbh(pixels, torch.arange(64), seed=1234, epoch=56, policy=policy)
        levels = images.mul(255).round().to(torch.uint8).contiguous()
        assert hashlib.sha256(levels.numpy().tobytes()).hexdigest() == checksum


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_dtypes_and_memory_formats(dtype, memory_format):
    images, index = batch((20, 12, 11, 3))
    arguments = {"seed": 1, "epoch": 2, "policy": "svhn"}
    result = idbh(images, index, dtype=dtype, memory_format=memory_format, **arguments)
    levels = by_pillow(images, index, **arguments).mul(255).round()
    assert result.dtype == dtype
    assert result.is_contiguous(memory_format=memory_format)
    assert torch.equal(result, levels.to(dtype).div(255))


def test_images_of_any_strides_and_no_argument_is_changed():
    images, index = batch((6, 12, 12, 3))
    expected = idbh(images, index, seed=1, epoch=2, policy="svhn")
    planes = images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    every_other = images.repeat_interleave(2, 0).repeat_interleave(2, 2)[::2, :, ::2]
    for view in (images, planes, every_other):
        before, index_before = view.clone(), index.clone()
        assert torch.equal(idbh(view, index, seed=1, epoch=2, policy="svhn"), expected)
        assert torch.equal(view, before)
        assert torch.equal(index, index_before)


@pytest.mark.parametrize("policy", NAMES)
def test_no_images(policy):
    nothing = torch.zeros(0, 32, 32, 3, dtype=torch.uint8)
    assert idbh(nothing, torch.arange(0), seed=0, epoch=0, policy=policy).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("policy", NAMES)
def test_the_global_random_state_is_left_alone(policy):
    images, index = batch((4, 12, 12, 3))
    before = torch.get_rng_state()
    idbh(images, index, seed=0, epoch=0, policy=policy)
    assert torch.equal(torch.get_rng_state(), before)


class NoReadBack(TorchDispatchMode):
    """Refuses every operation whose result, or its shape, depends on values: a device would have to be awaited."""

    REFUSED = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "index", "index_put", "_unique2")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__.rstrip("_") if func.namespace == "aten" else ""
        assert name not in self.REFUSED, f"{func} reads a tensor back"
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("policy", NAMES)
def test_nothing_is_read_back(policy):
    """Nor on the device ``meta``, where a tensor has no values: whatever asked for one would fail."""
    images, index = batch((5, 12, 13, 3))
    with NoReadBack():
        idbh(images, index, seed=2**64 - 1, epoch=torch.tensor(3), policy=policy)
    epoch = torch.tensor(0, device="meta")
    result = idbh(images.to("meta"), index.to("meta"), seed=2**64 - 1, epoch=epoch, policy=policy)
    assert (result.device.type, result.shape) == ("meta", (5, 3, 12, 13))


@pytest.mark.parametrize("reading", [Tensor.item, Tensor.nonzero, lambda x: x[x > 0]])
def test_a_planted_reading_is_caught(reading):
    with NoReadBack(), pytest.raises(AssertionError, match="reads a tensor back"):
        reading(torch.ones(1))


def test_a_compiler_sees_one_graph():
    images, index = batch((16, 12, 13, 3))

    def augmented(images: Tensor, index: Tensor, epoch: Tensor) -> Tensor:
        return idbh(images, index, seed=1, epoch=epoch, policy="svhn")

    compiled = torch.compile(augmented, backend="eager", fullgraph=True)
    epoch = torch.tensor(3)
    assert torch.equal(compiled(images, index, epoch), augmented(images, index, epoch))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("policy", NAMES)
def test_pixels_are_the_cpus_to_the_last_bit_but_one(device, policy):
    """Levels are equal: a GPU may multiply by 1/255 where a CPU divides, and no more."""
    images, index = batch((64, 16, 20, 3))
    arguments = {"seed": 3, "epoch": 5, "policy": policy}
    found = idbh(images.to(device), index.to(device), **arguments)
    assert found.device.type == device
    assert_within_an_ulp(found, idbh(images, index, **arguments))


@pytest.mark.gpu
@pytest.mark.parametrize("policy", NAMES)
def test_a_captured_graph_draws_anew_for_each_epoch(policy):
    images, index = batch((256, 32, 32, 3))
    on_gpu, index_on_gpu, epoch = images.cuda(), index.cuda(), torch.zeros((), dtype=torch.int64, device="cuda")
    idbh(on_gpu, index_on_gpu, seed=1, epoch=epoch, policy=policy)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = idbh(on_gpu, index_on_gpu, seed=1, epoch=epoch, policy=policy)
    for number in (0, 1, 199):
        epoch.fill_(number)
        graph.replay()
        expected = idbh(images, index, seed=1, epoch=number, policy=policy)
        assert torch.equal(result.mul(255).round().cpu(), expected.mul(255).round())


IMAGES, INDEX = torch.zeros(2, 12, 11, 3, dtype=torch.uint8), torch.arange(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": "cifar10"}, "unknown policy 'cifar10'; did you mean cifar10-"),
        ({"policy": "tiny"}, "unknown policy 'tiny'; known: cifar10-strong, cifar10-weak, svhn"),
        ({"images": IMAGES[..., :1]}, "images have 1 channels; policy=cifar10-weak .* needs 3, .*: repeat a grey"),
        ({"images": torch.cat((IMAGES, IMAGES), 3)}, "images have 6 channels"),
        ({"images": IMAGES[:, :10]}, "images are 10×11 pixels; policy=cifar10-weak cuts off up to 10 .* needs 11"),
        ({"images": IMAGES[:, :, :8], "policy": "svhn"}, "images are 12×8 pixels; policy=svhn .* needs 9"),
        ({"images": IMAGES.float()}, r"images are torch\.float32 .*uint8 of shape \(m, H, W, C\) is needed"),
        ({"images": IMAGES[0]}, r"of shape \(12, 11, 3\)"),
        ({"index": INDEX.int()}, r"index is torch\.int32"),
        ({"index": INDEX.to("meta")}, "index lies on meta, images on cpu"),
        ({"seed": 2**64}, "seed=18446744073709551616 must lie"),
        ({"epoch": -1}, r"epoch=-1 must lie in 0 … 2\*\*32 - 1"),
        ({"epoch": torch.zeros(2, dtype=torch.int64)}, r"epoch is torch\.int64 of shape \(2,\)"),
        ({"dtype": torch.uint8}, r"dtype=torch\.uint8 is not offered"),
        ({"memory_format": torch.preserve_format}, r"memory_format=torch\.preserve_format is not offered"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {"images": IMAGES, "index": INDEX, "seed": 0, "epoch": 0, "policy": "cifar10-weak"} | change
    with pytest.raises(UserError, match=message):
        idbh(**arguments)
