"""Batches read by FFCV: from packed pixels, or decoded from JPEG files at every epoch by several threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fastiseat.errors import UserError
from fastiseat.pipelines.protocol.base import Batch
from fastiseat.pipelines.protocol.order import Order
from fastiseat.pipelines.stores.beton import Beton

_MISSING = (
    "--loader ffcv needs FFCV, which is not installed or can't be loaded: pip install 'fastiseat[ffcv]' (this compiles "
    "it; on Debian and Ubuntu it needs: apt-get install g++ libopencv-dev libturbojpeg0-dev pkg-config)"
)


class FfcvLoader:
    """Batches of ``beton`` on the CPU, in ``order``.

    Packed pixels are those of the split, bit for bit. JPEG files are decoded by libjpeg-turbo's faster, less exact
    transform: of the training images of Tiny ImageNet, no value is further than 6 from what Pillow makes of the same
    file, and the mean distance is 0.96 of 255.

    The first loader of a process takes 3 to 4 s to import FFCV. The first batch of each loader takes half a second
    longer than the others on a free core, and later epochs don't: what reads the images is compiled then.

    Attributes:
        beton: has passed :meth:`Beton.check`: FFCV follows the numbers in the file without looking at them.
        order: its ``size`` is the number of rows.
        rows: int64, the stored row of each sample of the run's training split; None where they are the same.
        workers: threads that decode JPEG files, 1 or more, of which no more than cores are used; pixels are copied
            by one.
    """

    def __init__(
        self, beton: Beton, order: Order, *, rows: npt.NDArray[np.int64] | None = None, workers: int = 2
    ) -> None:
        """:class:`UserError` where FFCV is not installed."""
        stored = beton.info.samples
        rows = np.arange(stored) if rows is None else rows
        assert len(rows) == order.size and rows.min() >= 0 and rows.max() < stored and workers > 0
        self.order, self._rows = order, rows.astype(np.uint64)
        self._loader = _open(beton, order.share, workers if beton.info.kind == "jpeg" else 1)

    def __len__(self) -> int:
        return len(self.order)

    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, counted from 0, from step ``first`` on."""
        from fastiseat.pipelines.loaders.ffcv_epoch import Epoch

        indices = self.order.epoch(epoch, first=first)
        with Epoch(self._loader, self._rows[indices].reshape(-1)) as batches:
            for index, (images, labels) in zip(indices, batches, strict=False):
                yield Batch(torch.from_numpy(images), torch.from_numpy(labels), torch.from_numpy(index))


def library() -> SimpleNamespace:
    """What is used of FFCV and Numba, imported only where it is used; :class:`UserError` where it is not installed."""
    with _settings_kept():
        try:
            import numba

            with _threads_kept(numba):
                from ffcv.fields.basics import IntDecoder
                from ffcv.fields.ndarray import NDArrayDecoder
                from ffcv.fields.rgb_image import SimpleRGBImageDecoder
                from ffcv.loader import Loader
        except ImportError as error:
            raise UserError(f"{_MISSING}; {error}") from error
    return SimpleNamespace(
        numba=numba,
        Loader=Loader,
        labels=IntDecoder,
        images={"packed": NDArrayDecoder, "jpeg": SimpleRGBImageDecoder},
    )


def _open(beton: Beton, batch_size: int, workers: int) -> Any:
    """FFCV's loader of a file, which is mapped from now on: what takes the file's place later is not read."""
    ffcv = library()
    with _settings_kept(), _threads_kept(ffcv.numba):
        loader = ffcv.Loader(
            str(beton.file),
            batch_size=batch_size,
            num_workers=min(workers, _cores(ffcv.numba)),
            os_cache=True,
            seed=0,  # it would draw one from numpy's global generator; the order is not FFCV's
            pipelines={
                "image": [ffcv.images[beton.info.kind]()],
                "label": [ffcv.labels()],
            },
        )
        loader.memory_manager.context.__enter__()
    return loader


def _cores(numba: ModuleType) -> int:
    """The most threads that Numba takes."""
    return int(numba.config.NUMBA_NUM_THREADS)


@contextmanager
def _settings_kept() -> Iterator[None]:
    """What FFCV changes when it is imported and used: PyTorch's threads, and through OpenCV the environment."""
    threads, environment = torch.get_num_threads(), dict(os.environ)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


@contextmanager
def _threads_kept(numba: ModuleType) -> Iterator[None]:
    threads = numba.get_num_threads()
    try:
        yield
    finally:
        numba.set_num_threads(threads)
