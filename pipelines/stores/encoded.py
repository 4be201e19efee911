"""Images as the JPEG files that they came in: what a loader that decodes at every epoch reads from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class EncodedSplit:
    """JPEG files of one size, one after the other, and their labels; in memory or mapped.

    Attributes:
        data: uint8, the content of all files.
        offsets: int64 (n + 1,): file i is ``data[offsets[i] : offsets[i + 1]]``.
        labels: int64 (n,).
        height: of every image, in pixels.
        width: likewise.
    """

    data: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.labels)

    def file(self, index: int) -> npt.NDArray[np.uint8]:
        """The content of one file, uint8, not copied."""
        return self.data[self.offsets[index] : self.offsets[index + 1]]
