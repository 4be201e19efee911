"""Image files to arrays: decoded by Pillow in as many threads as there are cores, in order, block by block."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, UnidentifiedImageError

from fastiseat.errors import UserError
from fastiseat.pipelines.data.archives import Files
from fastiseat.pipelines.protocol.source import ImageFile, Images, block_size

# Not all that Pillow knows: it hands EPS to another program, whatever the file is called.
_FORMATS = ("JPEG", "PNG", "BMP", "PPM", "WEBP", "TIFF", "GIF")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_MOST_PIXELS = 2**26
# Images a thread takes at a time: small ones are decoded about as fast as a task is handed over.
_TASK = 64


def decode(content: bytes, where: str, *, side: int | None = None) -> Images:
    """An image as RGB, uint8 (H, W, 3); grey, palette and CMYK ones are converted, an alpha channel is dropped.

    With ``side`` the shorter side is resized to it (bilinear, antialiased; the longer one is rounded) and the
    centre is cut out. The orientation that a camera notes is not applied.

    Raises:
        UserError: damaged content, more than 8 bits a channel, or more than 2**26 pixels; says ``where``.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if image.mode not in _MODES:
                raise UserError(f"{where}: pixels of mode {image.mode}; save the image with 8 bits a channel")
            if image.width * image.height > _MOST_PIXELS:
                raise UserError(f"{where}: {image.width}×{image.height} pixels; at most {_MOST_PIXELS:,} are read")
            # From a palette with transparent colours, Pillow's way to RGB is over RGBA.
            rgb = (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")
    except UserError:
        raise
    except Exception as error:  # Pillow's readers of two dozen formats raise as many types
        reason = str(error) if not isinstance(error, UnidentifiedImageError) else "no image"
        raise UserError(f"{where}: cannot be decoded ({reason}); fetch it again, or remove it") from error
    return np.asarray(rgb if side is None else _square(rgb, side))


def _square(image: Image.Image, side: int) -> Image.Image:
    scale = side / min(image.size)
    width, height = (max(side, round(scale * length)) for length in image.size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - side) // 2, (height - side) // 2
    return resized.crop((left, top, left + side, top + side))


def decoded(files: Files, names: Sequence[str], *, side: int | None = None) -> Callable[[], Iterator[Images]]:
    """The ``blocks`` of a :class:`SourceSplit`: the images called ``names``, which must all have one size."""

    def blocks() -> Iterator[Images]:
        first = decode(files.read(names[0]), files.where(names[0]), side=side)

        def one(name: str) -> Images:
            image = decode(files.read(name), files.where(name), side=side)
            if image.shape != first.shape:
                raise UserError(
                    f"{files.where(name)}: {_size(image)} pixels, but {files.where(names[0])} has {_size(first)}; all "
                    "must have one size: fastiseat data prepare imagefolder:DIR --image-size N resizes them"
                )
            return image

        def some(part: Sequence[str]) -> list[Images]:
            return [one(name) for name in part]

        step = block_size(first.shape)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(names), step):
                block = names[start : start + step]
                tasks = [block[at : at + _TASK] for at in range(0, len(block), _TASK)]
                yield np.stack([image for images in pool.map(some, tasks) for image in images])

    return blocks


def undecoded(files: Files, names: Sequence[str]) -> Callable[[], Iterator[ImageFile]]:
    """The ``files`` of a :class:`SourceSplit`: those called ``names``."""
    return lambda: (ImageFile(files.where(name), files.read(name)) for name in names)


def image_shape(files: Files, name: str, *, side: int | None = None) -> tuple[int, int, int]:
    """Height, width and channels of one image once it is decoded."""
    height, width, channels = decode(files.read(name), files.where(name), side=side).shape
    return height, width, channels


def _size(image: Images) -> str:
    return f"{image.shape[1]}×{image.shape[0]}"
