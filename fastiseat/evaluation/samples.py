"""The samples of an evaluation, wherever they lie, by their rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastiseat.pipelines.protocol.base import Split

Ints = npt.NDArray[np.int64]


class Samples:
    """Images uint8 (n, H, W, C), or floats (n, C, H, W) in [0, 1], with labels int64 (n,)."""

    def __init__(self, images: Tensor | npt.NDArray[np.uint8], labels: Tensor | npt.NDArray[np.int64]) -> None:
        self._images, self._labels = images, labels

    @classmethod
    def of(cls, split: Split) -> Samples:
        """Those of a data set's split, in memory or mapped."""
        return cls(split.images, split.labels)

    def __len__(self) -> int:
        return len(self._labels)

    def take(self, rows: Ints, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images and labels of ``rows``, as they are but on ``device``."""
        return _rows(self._images, rows).to(device), _rows(self._labels, rows).to(device)


def _rows(array: Tensor | npt.NDArray[np.generic], rows: Ints) -> Tensor:
    if isinstance(array, Tensor):
        return array.detach().index_select(0, torch.from_numpy(rows).to(array.device))
    return torch.from_numpy(np.ascontiguousarray(array[rows]))
