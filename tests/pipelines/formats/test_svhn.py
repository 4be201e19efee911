"""SVHN from its MATLAB files: 10 is the digit 0, and whatever is wrong with them is one line."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from tiny_releases import pixels, write_svhn

from fastiseat.errors import UserError
from fastiseat.pipelines.data.formats import svhn
from fastiseat.pipelines.protocol.releases import RELEASES, md5_of


def refusal(folder):
    with pytest.raises(UserError) as caught, svhn.read(folder):
        pass
    message = str(caught.value)
    assert message.startswith(str(folder)) and "\n" not in message
    return message


def test_pixels_and_labels(tmp_path):
    written = write_svhn(tmp_path)
    with svhn.read(tmp_path) as source:
        read = []
        for split in (source.train, source.test):
            read += [np.concatenate(list(split.blocks())), split.labels]
        assert source.class_names == tuple("0123456789")
        assert source.official is False and "train_32x32.mat has MD5" in source.remark
    for found, expected in zip(read, written, strict=True):
        assert found.dtype == (np.uint8 if expected.ndim == 4 else np.int64)
        assert np.array_equal(found, expected)
    assert read[1].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0] * 2


def test_the_release_is_known_by_its_files(tmp_path, monkeypatch):
    write_svhn(tmp_path)
    files = tuple(replace(file, md5=md5_of(tmp_path / file.name)) for file in RELEASES["svhn"].files)
    monkeypatch.setitem(RELEASES, "svhn", replace(RELEASES["svhn"], files=files))
    with svhn.read(tmp_path) as source:
        assert source.official is True


@pytest.mark.parametrize("missing", ["train_32x32.mat", "test_32x32.mat"])
def test_missing_files(tmp_path, missing):
    write_svhn(tmp_path)
    (tmp_path / missing).unlink()
    assert f"{missing}: no such file; SVHN needs both" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"y": np.ones((4, 1), np.uint8)}, "truncated, or holds no X"),
        ({"X": np.zeros((32, 32, 3, 4), np.uint8)}, "holds no y"),
        ({"X": np.zeros((4, 32, 32, 3), np.uint8), "y": np.ones((4, 1), np.uint8)}, "X is (4, 32, 32, 3)"),
        ({"X": np.zeros((32, 32, 3), np.uint8), "y": np.ones((4, 1), np.uint8)}, "X is (32, 32, 3)"),
        (
            {"X": np.zeros((32, 32, 3, 4), np.uint8), "y": scipy.sparse.csc_matrix(np.ones((4, 1)))},
            "y is of class sparse; whole numbers are needed",
        ),
        ({"X": np.zeros((32, 32, 3, 4)), "y": np.ones((4, 1), np.uint8)}, "X is float64; uint8 is needed"),
        ({"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.ones((3, 1), np.uint8)}, "4 images, (3, 1) labels"),
        ({"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.ones((4, 1))}, "labels are float64"),
        ({"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.zeros((4, 1), np.uint8)}, "label 0 is out of range"),
        ({"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.full((4, 1), 11)}, "label 11 is out of range"),
        ({"X": np.array(["text"]), "y": np.ones((4, 1), np.uint8)}, "a part of type 16"),
        ({"X": np.zeros((32, 32, 3, 0), np.uint8), "y": np.ones((0, 1), np.uint8)}, "there are no test images"),
    ],
)
def test_bad_content(tmp_path, content, complaint):
    write_svhn(tmp_path)
    scipy.io.savemat(tmp_path / "test_32x32.mat", content)
    assert complaint in refusal(tmp_path)


def test_a_digit_without_training_images(tmp_path):
    write_svhn(tmp_path)
    scipy.io.savemat(tmp_path / "train_32x32.mat", {"X": pixels(9).transpose(1, 2, 3, 0), "y": np.arange(1, 10)})
    assert "class 0 (0) has no training image" in refusal(tmp_path)


@pytest.mark.parametrize("keep", [0, 100, 1000, -1])
def test_truncated_files(tmp_path, keep):
    write_svhn(tmp_path)
    file = tmp_path / "train_32x32.mat"
    file.write_bytes(file.read_bytes()[:keep])
    assert f"{file}: " in refusal(tmp_path) and "truncated" in refusal(tmp_path)


def test_what_is_no_matlab_file(tmp_path):
    write_svhn(tmp_path)
    (tmp_path / "test_32x32.mat").write_bytes(b"<html>" + bytes(1000))
    assert "fetch it again" in refusal(tmp_path)


def test_version_73_is_told(tmp_path):
    write_svhn(tmp_path)
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    (tmp_path / "test_32x32.mat").write_bytes(header + bytes(400))
    assert "a MATLAB file of version 7.3" in refusal(tmp_path)


def test_numbers_of_a_type_that_does_not_exist(tmp_path):
    """Scipy looks their number up in a table without end, and crashes."""
    write_svhn(tmp_path)
    path = tmp_path / "test_32x32.mat"
    scipy.io.savemat(path, {"X": pixels(10).transpose(1, 2, 3, 0), "y": np.ones((10, 1), np.uint8)})
    content = bytearray(path.read_bytes())
    assert content[184:188] == b"\2\0\0\0"
    content[185] = 8
    path.write_bytes(content)
    assert "a part of type 2050" in refusal(tmp_path)
