"""What a data set says of itself."""

import hashlib

import numpy as np
import pytest
from tiny_releases import pixels

from fastiseat.errors import UserError
from fastiseat.pipelines.protocol import base
from fastiseat.pipelines.protocol.base import DataSet, Split, fingerprint

TRAIN = Split(images=pixels(6, 4, seed=0), labels=np.array([0, 1, 2, 0, 1, 2]))
TEST = Split(images=pixels(3, 4, seed=1), labels=np.array([2, 1, 0]))


def make(**changes):
    return DataSet(**{"name": "mine", "num_classes": 3, "train": TRAIN, "test": TEST} | changes)


def test_defaults():
    data = make()
    assert data.fingerprint == fingerprint(TRAIN, TEST)
    assert data.official is None and data.class_names == ("0", "1", "2") and data.num_channels == 3


def test_what_is_given_is_kept():
    data = make(fingerprint="f", official=False, class_names=("a", "b", "c"))
    assert (data.fingerprint, data.official, data.class_names) == ("f", False, ("a", "b", "c"))
    with pytest.raises(UserError, match="mine: 2 names of 3 classes"):
        make(class_names=("a", "b"))


@pytest.mark.parametrize("at_once", [1, 4, 1024])
def test_the_fingerprint_is_a_hash_of_all(monkeypatch, at_once):
    monkeypatch.setattr(base, "_HASHED_AT_ONCE", at_once)
    digest = hashlib.sha256()
    for array in (TRAIN.images, TRAIN.labels, TEST.images, TEST.labels):
        digest.update(f"({array.shape}, {array.dtype.str!r})".encode())
        digest.update(array.tobytes())
    assert fingerprint(TRAIN, TEST) == digest.hexdigest()[:16]


def test_the_fingerprint_sees_a_bit_and_a_label_and_the_split():
    other = TRAIN.images.copy()
    other[5, 3, 3, 2] ^= 1
    variants = [
        (TRAIN, TEST),
        (Split(images=other, labels=TRAIN.labels), TEST),
        (Split(images=TRAIN.images, labels=TRAIN.labels[::-1]), TEST),
        (Split(images=TRAIN.images.transpose(0, 2, 1, 3), labels=TRAIN.labels), TEST),
        (TEST, TRAIN),
    ]
    assert len({fingerprint(*splits) for splits in variants}) == len(variants)
