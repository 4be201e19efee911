"""``augment``'s kernels: the reference's pixels, bit for bit, on every device; and what PyTorch sees of them."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastiseat.errors import UserError
from fastiseat.kernels import augment
from fastiseat.kernels.augment import _OP, Arguments, native, reference
from fastiseat.kernels.core.dispatch import VARIABLE
from fastiseat.kernels.core.triton_support import interpreted

SEEDS, EPOCHS = [0, 2**32 - 1, 2**32, 2**63 + 12345, 2**64 - 1], [0, 199, 2**31, 2**32 - 1]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FORMATS = [torch.channels_last, torch.contiguous_format]
# One value and many, whole and broken blocks of 1,024, sizes that four divides and does not; all padding; no draw.
CASES = [
    ((1, 8, 8, 1), {}),
    ((5, 9, 12, 3), {"pad_mode": "reflect"}),
    ((3, 13, 7, 2), {"flip": False}),
    ((2, 19, 18, 3), {"pad_mode": "reflect", "pad": 17}),
    ((2, 32, 32, 1), {"pad": 1}),
    ((9, 1, 1, 5), {"pad_mode": "reflect", "pad": 0}),
    ((4, 6, 5, 1), {"flip": False, "pad": 0}),
    ((6, 2, 70, 4), {"pad": 9}),
]


@pytest.fixture(params=["native", "triton"])
def named(request, monkeypatch) -> str:
    """The backend that serves whatever it can."""
    monkeypatch.setenv(VARIABLE, request.param)
    return request.param


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def on(request, named) -> str:
    """The device of the backend."""
    if (named, request.param) == ("triton", "cpu") and torch.cuda.is_available() and not interpreted():
        pytest.skip("Triton compiles for the card here")
    return request.param


def batch(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Random pixels and every level among them; places in the data set that try the high word."""
    index = torch.randint(0, 50_000, shape[:1])
    special = torch.tensor([2**32 - 1, 2**32, 2**40 + 3, 2**63 - 1, -1])
    index[1 : 1 + len(special)] = special[: max(len(index) - 1, 0)]
    size = math.prod(shape)
    levels = torch.cat((torch.arange(256), torch.randint(0, 256, (max(0, size - 256),))))
    return levels[:size].to(torch.uint8).view(shape), index


def expected(images: Tensor, index: Tensor, backend: str, **settings) -> Tensor:
    """The reference's pixels. Triton's interpreter cuts bfloat16 off where hardware rounds."""
    call = Arguments(images, index, **{"seed": 7, "epoch": 3} | settings)
    if call.dtype != torch.bfloat16 or backend != "triton" or not interpreted():
        return reference.augment(call)
    exact = reference.augment(replace(call, dtype=torch.float32))
    return (exact.view(torch.int32) & -(2**16)).view(torch.float32).to(torch.bfloat16)


def assert_served(images: Tensor, index: Tensor, backend: str, device: str, **settings) -> None:
    """Through the public function, with tensors brought to the device."""
    there = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in settings.items()}
    found = augment(images.to(device), index.to(device), **{"seed": 7, "epoch": 3} | there)
    wanted = expected(images, index, backend, **settings)
    assert (found.device.type, found.dtype, found.stride()) == (device, wanted.dtype, wanted.stride())
    assert torch.equal(found.cpu(), wanted)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "settings"), CASES)
def test_pixels(named, on, shape, settings, dtype, memory_format):
    images, index = batch(shape)
    assert_served(images, index, named, on, dtype=dtype, memory_format=memory_format, **settings)


def test_a_batch_of_127(named, on):
    images, index = batch((127, 3, 2, 3))
    assert_served(images, index, named, on, pad=3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_level_is_the_quotient_correctly_rounded(named, on, dtype):
    """In float64 first, whose rounding to a shorter dtype is the quotient's own."""
    images, index = batch((1, 16, 16, 1))
    found = augment(images.to(on), index.to(on), seed=0, epoch=0, flip=False, pad=0, dtype=dtype).cpu().flatten()
    exact = (torch.arange(256).double() / 255).float()
    if dtype == torch.bfloat16 and named == "triton" and interpreted():
        exact = (exact.view(torch.int32) & -(2**16)).view(torch.float32)
    assert torch.equal(found, exact.to(dtype))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("epoch", EPOCHS)
def test_every_bit_of_seed_epoch_and_index_counts(named, on, seed, epoch):
    images, index = batch((7, 5, 6, 1))
    assert_served(images, index, named, on, seed=seed, epoch=epoch)
    assert_served(images, index, named, on, seed=seed, epoch=torch.tensor(epoch))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32])
def test_an_epoch_of_any_integer_dtype(named, on, dtype):
    images, index = batch((7, 5, 6, 1))
    for number in (100, 200 if dtype != torch.int8 else -100):
        assert_served(images, index, named, on, epoch=torch.tensor(number, dtype=dtype))


class TestRows:
    @pytest.mark.parametrize("memory_format", FORMATS)
    @pytest.mark.parametrize("rows", [[4, 0, 4, 2, 3], [6], [], [0, 1, 2, 3, 4, 5, 6] * 2])
    def test_each_sample_is_its_row(self, named, on, rows, memory_format):
        images, _ = batch((7, 5, 6, 3))
        rows, index = torch.tensor(rows, dtype=torch.int64), torch.randint(0, 50_000, (len(rows),))
        assert_served(images, index, named, on, rows=rows, memory_format=memory_format)

    def test_index_and_rows_of_any_stride(self, named, on):
        images, _ = batch((7, 5, 6, 3))
        pairs = torch.randint(0, 7, (6, 2), device=on)
        found = augment(images.to(on), pairs[:, 0], rows=pairs[:, 1], seed=7, epoch=3)
        pairs = pairs.cpu()
        assert torch.equal(found.cpu(), expected(images, pairs[:, 0], named, rows=pairs[:, 1]))

    def test_the_reference_gathers_too(self):
        images, index = batch((7, 5, 6, 3))
        rows = torch.tensor([3, 3, 0, 6, 5, 1, 2])
        assert torch.equal(expected(images, index, "", rows=rows), expected(images[rows], index, ""))

    def test_a_row_that_names_no_image_is_nan_and_is_not_read(self, named, on):
        """A CPU's rows are looked at first; the op itself cannot, on a device."""
        images, index = (tensor.to(on) for tensor in batch((4, 5, 6, 3)))
        rows = torch.tensor([1, -1, 4, 2**62], device=on)
        found = torch.ops.fastiseat.augment(
            images, index, rows, 7, 3, True, 4, "zero", torch.float16, torch.channels_last
        )
        assert found.isnan().flatten(1).all(1).tolist() == [False, True, True, True]
        assert not found[0].isnan().any()

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            (torch.tensor([0, 4]), r"rows lie in 0 … 4; those of images are 0 … 3"),
            (torch.tensor([-1, 2]), r"rows lie in -1 … 2"),
            (torch.tensor([0, 1], dtype=torch.int32), r"rows are torch\.int32 of shape \(2,\); int64"),
            (torch.tensor([[0, 1]]), r"rows are torch\.int64 of shape \(1, 2\); int64 of shape \(m,\)"),
            (torch.tensor([0, 1, 2]), r"index is .* of shape \(2,\); int64 of shape \(3,\) is needed"),
            (torch.tensor([0, 1], device="meta"), "rows lies on meta, images on cpu"),
        ],
    )
    def test_wrong_ones_are_named(self, rows, message):
        images, _ = batch((4, 5, 6, 3))
        with pytest.raises(UserError, match=message):
            augment(images, torch.arange(2), rows=rows, seed=0, epoch=0)


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (2, 0, 8, 3), (2, 8, 8, 0)])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_empty(named, on, shape, memory_format):
    images = torch.zeros(shape, dtype=torch.uint8)
    assert_served(images, torch.arange(shape[0]), named, on, memory_format=memory_format)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_any_number_of_threads(threads, memory_format, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setenv(VARIABLE, "native")
    images, index = batch((127, 32, 32, 3))
    assert_served(images, index, "native", "cpu", memory_format=memory_format)


class TestWhatServes:
    def test_native_code_is_the_cpus_own_choice(self, monkeypatch):
        monkeypatch.delenv(VARIABLE, raising=False)
        monkeypatch.setattr(_OP, "reference", None)
        images, index = batch((3, 5, 6, 3))
        assert _OP.explain("cpu", torch.uint8) == ("native", "")
        assert torch.equal(augment(images, index, seed=7, epoch=3), expected(images, index, "native"))

    def test_float64_is_the_references_whatever_is_asked_for(self, named):
        images, index = batch((3, 5, 6, 3))
        found = augment(images, index, seed=7, epoch=3, dtype=torch.float64)
        assert found.dtype == torch.float64
        assert torch.equal(found, expected(images, index, "", dtype=torch.float64))

    def test_images_that_are_not_contiguous_are_the_references(self, monkeypatch):
        images, index = batch((3, 5, 6, 3))
        view = images.transpose(1, 2)
        monkeypatch.delenv(VARIABLE, raising=False)
        assert torch.equal(augment(view, index, seed=7, epoch=3), expected(view, index, ""))
        monkeypatch.setenv(VARIABLE, "native")
        with pytest.raises(UserError, match="cannot serve augment: images are not contiguous"):
            augment(view, index, seed=7, epoch=3)

    def test_padding_beyond_32_bits_is_the_references(self, named, on):
        images, index = (tensor.to(on) for tensor in batch((3, 5, 6, 3)))
        with pytest.raises(UserError, match="an image or its padding has 1073741824 values or more"):
            augment(images, index, seed=7, epoch=3, pad=2**29)

    def test_no_other_dtype_of_images(self):
        assert native.unsupported("cpu", torch.float32) == "serves images of torch.uint8, not torch.float32"


class TestTheOp:
    @pytest.mark.parametrize("dtype", [torch.float64, *DTYPES])
    @pytest.mark.parametrize("epoch", [None, torch.tensor(5)])
    def test_opcheck(self, named, on, dtype, epoch):
        images, index = (tensor.to(on) for tensor in batch((4, 5, 6, 3)))
        rows, epoch = torch.tensor([3, 0, 0, 1], device=on), None if epoch is None else epoch.to(on)
        settings = (-5, 3, True, 2, "reflect", dtype, torch.channels_last, epoch)
        torch.library.opcheck(torch.ops.fastiseat.augment.default, (images, index, rows, *settings))

    @pytest.mark.parametrize("memory_format", FORMATS)
    @pytest.mark.parametrize("shape", [(4, 5, 6, 3), (4, 5, 6, 1), (1, 1, 1, 1), (0, 5, 6, 3), (2, 0, 6, 3)])
    def test_its_fake_has_the_strides_of_a_run(self, shape, memory_format):
        images, index = batch(shape)
        settings = (None, 0, 0, True, 2, "zero", torch.float32, memory_format)
        fake = torch.ops.fastiseat.augment(images.to("meta"), index.to("meta"), *settings)
        real = torch.ops.fastiseat.augment(images, index, *settings)
        assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)

    def test_a_compiler_sees_one_op(self, named, on):
        images, index = (tensor.to(on) for tensor in batch((4, 5, 6, 3)))
        epoch, rows = torch.tensor(200, device=on), torch.tensor([3, 0, 0, 1], device=on)
        seen = []

        def watch(graph, inputs):
            seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
            return graph

        def run(images: Tensor, epoch: Tensor) -> Tensor:
            return augment(images, index, rows=rows, seed=2**64 - 1, epoch=epoch)

        torch._dynamo.reset()
        found = torch.compile(run, backend=watch, fullgraph=True)(images, epoch)
        assert [name for name in seen if "augment" in name] == ["fastiseat.augment.default"]
        wanted = expected(images.cpu(), index.cpu(), named, rows=rows.cpu(), seed=2**64 - 1, epoch=200)
        assert torch.equal(found.cpu(), wanted)


def test_triton_compiles_for_cards_that_are_not_there():
    script = Path(__file__).with_name("triton_augment_compile.py")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 12


@pytest.mark.gpu
@pytest.mark.parametrize("pad_mode", ["zero", "reflect"])
def test_a_captured_graph_draws_anew_for_each_epoch(named, pad_mode):
    images, index = batch((64, 32, 32, 3))
    rows = torch.randperm(64)
    there = [tensor.cuda() for tensor in (images, index, rows)]
    epoch = torch.zeros((), dtype=torch.int64, device="cuda")

    def run() -> Tensor:
        return augment(there[0], there[1], rows=there[2], seed=1, epoch=epoch, pad_mode=pad_mode)

    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    for number in (0, 1, 199):
        epoch.fill_(number)
        graph.replay()
        wanted = expected(images, index, named, rows=rows, seed=1, epoch=number, pad_mode=pad_mode)
        assert torch.equal(result.cpu(), wanted)


@pytest.mark.gpu
def test_no_call_waits_for_the_device(named):
    images, index = (tensor.cuda() for tensor in batch((8, 9, 9, 3)))
    epoch = torch.zeros((), dtype=torch.int32, device="cuda")
    augment(images, index, rows=index.abs() % 8, seed=1, epoch=epoch)  # compiles
    rows = torch.arange(8, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        augment(images, index, rows=rows, seed=1, epoch=epoch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
