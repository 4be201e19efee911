"""The DALI loader: NVIDIA's library moves packed images to the device, or decodes JPEG files there.

On a CPU its pixels of JPEG files are Pillow's, bit for bit: of all of Tiny ImageNet, and of all kinds that the tests
try. On a GPU nvJPEG decodes, whose rounding is its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastiseat.errors import UserError
from fastiseat.pipelines.loaders.jpeg import decode_file
from fastiseat.pipelines.protocol.base import Batch, Split
from fastiseat.pipelines.protocol.order import Order
from fastiseat.pipelines.stores.encoded import EncodedSplit
from fastiseat.pipelines.stores.store import AGAIN

Rows = npt.NDArray[np.int64]
# Batches under way in DALI's threads; more of them smooth nothing that training would notice.
_AHEAD = 2


class DaliLoader:
    """Batches of ``data`` on ``device``, in ``order``, from a DALI pipeline that lives for one epoch.

    Packed images are gathered by one indexing operation a batch. Of JPEG files DALI takes a list of views, one a
    file: the only work in Python that grows with the batch.

    Args:
        rows: int64 (order.size,), the row in ``data`` of each sample; the samples are the rows if None.
        workers: DALI's threads on the CPU.

    Raises:
        UserError: DALI is not installed.
    """

    def __init__(
        self,
        data: Split | EncodedSplit,
        order: Order,
        *,
        device: torch.device,
        rows: Rows | None = None,
        workers: int = 2,
    ) -> None:
        self.data, self.order, self.device = data, order, device
        self.rows, self.workers = rows, workers
        self._dali = library()

    def __len__(self) -> int:
        return len(self.order)

    def epoch(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, counted from 0, from step ``first`` on."""
        steps = self.order.epoch(epoch, first=first)
        stored = steps if self.rows is None else self.rows[steps]
        pipeline = self._pipeline(iter(map(self._content, stored)))
        try:
            for number, (index, rows) in enumerate(zip(steps, stored, strict=True)):
                images = self._run(pipeline, stored[number : number + 1 + _AHEAD])
                labels = torch.from_numpy(self.data.labels[rows])
                yield Batch(images, labels.to(self.device), torch.from_numpy(index).to(self.device))
        finally:
            del pipeline  # ends its threads: nothing else holds it

    def _content(self, rows: Rows) -> npt.NDArray[np.uint8] | list[npt.NDArray[np.uint8]]:
        """What DALI is given of a batch: its pixels, or its files."""
        if isinstance(self.data, Split):
            return self.data.images[rows]
        return [self.data.file(row) for row in rows.tolist()]

    def _pipeline(self, source: Iterator[Any]) -> Any:
        fn, uint8 = self._dali.fn, self._dali.types.UINT8
        cuda, encoded = self.device.type == "cuda", isinstance(self.data, EncodedSplit)
        pipeline = self._dali.Pipeline(
            batch_size=self.order.share,
            num_threads=self.workers,
            device_id=_number(self.device) if cuda else None,
            prefetch_queue_depth=_AHEAD,
        )
        with pipeline:
            content = fn.external_source(source, batch=True, dtype=uint8, ndim=1 if encoded else 3)
            if encoded:
                content = self._decoded(content, "mixed" if cuda else "cpu")
            pipeline.set_outputs(content.gpu() if cuda and not encoded else content)
        pipeline.build()
        return pipeline

    def _decoded(self, files: Any, device: str) -> Any:
        """As Pillow decodes: exact inverse DCT, smooth chroma, grey as RGB, no turning by a camera's note."""
        return self._dali.fn.decoders.image(
            files,
            device=device,
            output_type=self._dali.types.RGB,
            adjust_orientation=False,
            jpeg_fancy_upsampling=True,
            use_fast_idct=False,
        )

    def _run(self, pipeline: Any, under_way: Rows) -> Tensor:
        """The next images, (m, H, W, C), in memory of torch's own."""
        stream = torch.cuda.current_stream(self.device) if self.device.type == "cuda" else None
        try:
            # On a GPU, work on the stream waits for the pipeline, and the pipeline's memory for the stream's copy.
            (images,) = pipeline.run(stream)
            # torch's own memory, since DALI writes its next batch over its own.
            batch = torch.empty((self.order.share, *self._image_shape()), dtype=torch.uint8, device=self.device)
            if any(shape != batch.shape[1:] for shape in images.shape()):
                raise RuntimeError("decoding failed to give images of one size")
        except RuntimeError as error:
            del pipeline  # whoever keeps the exception would keep DALI's threads
            raise self._explained(error, under_way) from error.with_traceback(None)
        self._dali.feed_ndarray(images.as_tensor(), batch, cuda_stream=stream)
        return batch

    def _image_shape(self) -> tuple[int, ...]:
        data = self.data
        return data.images.shape[1:] if isinstance(data, Split) else (data.height, data.width, 3)

    def _explained(self, error: RuntimeError, under_way: Rows) -> UserError:
        """Which file DALI could not decode, found by decoding those that were under way once more."""
        if isinstance(self.data, EncodedSplit):
            for row in under_way.ravel().tolist():
                try:
                    decode_file(self.data, row)
                except UserError as damaged:
                    return damaged
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        told = next((line for line in lines if "ailed" in line or "ailure" in line), lines[0])
        files = ", ".join(map(str, under_way[0].tolist()[:3]))
        return UserError(f"DALI failed at the training images {files}, …: {told}; {AGAIN}, or use --loader torch")


def _number(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def library() -> Any:
    """DALI, imported only where it is used: it takes half a second, and few install it.

    :class:`UserError` where it is not installed.
    """
    try:
        from nvidia.dali import Pipeline, fn, types
        from nvidia.dali.plugin.pytorch import feed_ndarray
    except ImportError as error:
        raise UserError(
            f"--loader dali needs NVIDIA DALI, which is not installed ({error}): pip install fastiseat[dali], or with "
            "a driver for CUDA 13 nvidia-dali-cuda130; plain nvidia-dali is empty"
        ) from error
    return SimpleNamespace(Pipeline=Pipeline, fn=fn, types=types, feed_ndarray=feed_ndarray)
