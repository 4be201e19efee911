"""Scikit-learn's bundled handwritten digits: 1,797 grey images of 8×8 pixels, 10 classes (UCI, Alpaydin)."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from fastiseat.pipelines.protocol.base import DataSet, Split


def read() -> DataSet:
    """1,442 training and 355 test images; the 17 grey levels are spread over 0 … 255.

    The split is fixed and stratified, and needs no random numbers: every fifth image of a class is for testing.
    """
    raw = load_digits()
    images = np.rint(raw.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = raw.target.astype(np.int64)
    rank_in_class = np.zeros_like(labels)
    for label in range(10):
        members = labels == label
        rank_in_class[members] = np.arange(members.sum())
    both, test = Split(images=images, labels=labels), rank_in_class % 5 == 4
    return DataSet(
        name="digits",
        num_classes=10,
        official=True,
        train=both.take(np.flatnonzero(~test)),
        test=both.take(np.flatnonzero(test)),
    )
