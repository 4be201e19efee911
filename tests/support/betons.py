"""Training splits of a few images, and betons made of them."""

import io

import numpy as np
from PIL import Image
from tiny_releases import pixels

from fastiseat.pipelines.protocol.base import Split
from fastiseat.pipelines.protocol.progress import SILENT
from fastiseat.pipelines.stores.beton import write_beton
from fastiseat.pipelines.stores.encoded import EncodedSplit

PRINT = "0123456789abcdef"


def split(n=40, side=8, channels=3):
    return Split(images=pixels(n, side, channels), labels=np.arange(n) % 7)


def smooth_jpeg(seed, mode="RGB", side=64, size=None, **options):
    """A JPEG of smooth noise, its colours at half the resolution, as photographs are stored."""
    noise = Image.fromarray(pixels(1, 9, seed=seed)[0]).resize(size or (side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    noise.convert(mode).save(buffer, "JPEG", **{"quality": 80, "subsampling": "4:2:0"} | options)
    return buffer.getvalue()


def encoded(files, side=64):
    return EncodedSplit(
        data=np.frombuffer(b"".join(files), dtype=np.uint8),
        offsets=np.cumsum([0, *map(len, files)]),
        labels=np.arange(len(files)) % 7,
        height=side,
        width=side,
    )


def write(path, train, progress=SILENT):
    return write_beton(path, train, name="mine", fingerprint=PRINT, progress=progress)
