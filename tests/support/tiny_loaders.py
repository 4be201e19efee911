"""Small packed and JPEG data for tests of loaders, and what must hold of every loader."""

import io
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tiny_releases import pixels

from fastiseat.pipelines.protocol.base import Split
from fastiseat.pipelines.protocol.order import Order
from fastiseat.pipelines.stores.encoded import EncodedSplit

CPU = torch.device("cpu")


def packed(n=30, side=8, channels=3):
    return Split(images=pixels(n, side, channels), labels=np.arange(n) * 7)


def smooth_jpeg(seed, mode="RGB", size=(24, 16), **options):
    """A JPEG with smooth colours, which chroma subsampling and rounding act on."""
    corners = Image.fromarray(pixels(1, 6, seed=seed)[0])
    buffer = io.BytesIO()
    corners.resize(size, Image.Resampling.BICUBIC).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def jpeg_files(n=30):
    """Of all kinds: with and without subsampled chroma, baseline and progressive, grey, turned by a note."""
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds = [
        {"quality": 75, "subsampling": 2},
        {"quality": 75, "subsampling": 1},
        {"quality": 95, "subsampling": 0},
        {"quality": 40, "progressive": True, "optimize": True},
        {"mode": "L"},
        {"exif": turned},
    ]
    return [smooth_jpeg(seed, **kinds[seed % len(kinds)]) for seed in range(n)]


def encoded(files):
    return EncodedSplit(
        data=np.frombuffer(b"".join(files), dtype=np.uint8),
        offsets=np.cumsum([0, *map(len, files)]),
        labels=np.arange(len(files)) * 7,
        height=16,
        width=24,
    )


def by_pillow(files):
    """What the files show, by Pillow alone, as a packed split."""
    images = np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])
    return Split(images=images, labels=np.arange(len(files)) * 7)


def order_of(size, batch_size=8, **options):
    return Order(size=size, batch_size=batch_size, seed=3, **options)


def damaged(file):
    """The file with its second half gone."""
    return file[: len(file) // 2]


def assert_same_batches(found, expected):
    """Bit for bit, in order, and as many, gathered or not."""
    found, expected = list(found), list(expected)
    assert len(found) == len(expected) > 0
    for batch, wanted in zip(found, expected, strict=True):
        for tensor, reference in zip(batch.gathered().tensors, wanted.gathered().tensors, strict=True):
            assert tensor.dtype == reference.dtype and torch.equal(tensor, reference)


def num_threads():
    """Threads of this process, of libraries too."""
    return len(list(Path("/proc/self/task").iterdir()))


def assert_threads_end(before):
    """The system takes a moment to forget a thread that has been joined."""
    deadline = time.monotonic() + 5
    while num_threads() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert num_threads() <= before
