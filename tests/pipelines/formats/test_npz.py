"""Arrays from .npz files, read without unpickling and without holding all pixels."""

import io
import os
import zipfile

import numpy as np
import pytest
from tiny_releases import arrays_of, pixels

from fastiseat.errors import UserError
from fastiseat.pipelines.data.formats import npz

LABELS = np.array([0, 1, 2, 1])


def content(path):
    with npz.read(path) as source:
        return arrays_of(source)


def refusal(path):
    with pytest.raises(UserError) as caught:
        content(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def write(folder, changes=None, save=np.savez, names=("image", "label")):
    folder.mkdir(exist_ok=True)
    for seed, split in enumerate(("train", "test")):
        arrays = dict(zip(names, (pixels(4, 8, seed=seed), LABELS), strict=True))
        save(folder / f"{split}.npz", **arrays | (changes or {}))
    return folder


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("names", [("image", "label"), ("images", "labels")])
def test_a_folder(tmp_path, save, names):
    train, train_labels, test, test_labels = content(write(tmp_path / "a", None, save, names))
    assert np.array_equal(train, pixels(4, 8, seed=0)) and np.array_equal(test, pixels(4, 8, seed=1))
    assert np.array_equal(train_labels, LABELS) and test_labels.dtype == np.int64


@pytest.mark.parametrize("names", ["{}_images {}_labels", "{}_image {}_label", "x_{} y_{}"])
def test_one_file(tmp_path, names):
    arrays = {}
    for seed, split in enumerate(("train", "test")):
        image, label = names.format(split, split).split()
        arrays |= {image: pixels(4, 8, seed=seed), label: LABELS[:, None].astype(np.uint8)}
    np.savez(tmp_path / "a.npz", **arrays, val_images=np.zeros(3))
    train, train_labels, test, _ = content(tmp_path / "a.npz")
    assert np.array_equal(train, pixels(4, 8, seed=0)) and np.array_equal(test, pixels(4, 8, seed=1))
    assert np.array_equal(train_labels, LABELS)


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 8, 8, 1)])
def test_grey_images_have_one_channel(tmp_path, shape):
    grey = pixels(4, 8, channels=1).reshape(shape)
    assert np.array_equal(content(write(tmp_path / "a", {"image": grey}))[0], pixels(4, 8, channels=1))


def test_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("fastiseat.pipelines.protocol.source.BLOCK_BYTES", 3 * 8 * 8 * 3)
    with npz.read(write(tmp_path / "a", None, np.savez_compressed)) as source:
        assert source.class_names == ("0", "1", "2") and source.official is None
        for _ in range(2):
            blocks = list(source.train.blocks())
            assert [len(block) for block in blocks] == [3, 1]
            assert np.array_equal(np.concatenate(blocks), pixels(4, 8, seed=0))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"image": pixels(4, 8).astype(np.float32)}, "image: float32 (4, 8, 8, 3); uint8 (n, height, width, 3)"),
        ({"image": pixels(4, 8).astype(np.int8)}, "int8 (4, 8, 8, 3)"),
        ({"image": pixels(4, 8).reshape(4, -1)}, "uint8 (4, 192)"),
        ({"image": pixels(4, 3, channels=8)}, "uint8 (4, 3, 3, 8)"),
        ({"image": pixels(0, 8)}, "uint8 (0, 8, 8, 3)"),
        ({"image": np.asfortranarray(pixels(4, 8))}, "image: saved in Fortran's order"),
        ({"label": LABELS[:3]}, "label: int64 (3,); whole numbers (4,) are needed"),
        ({"label": LABELS.astype(float)}, "label: float64 (4,)"),
        ({"label": np.eye(4, dtype=int)}, "label: int64 (4, 4)"),
        ({"label": np.array(["a"] * 4)}, "label: <U1 (4,)"),
        ({"label": LABELS - 1}, "training label -1 is out of range"),
        ({"label": LABELS + 10**9}, "label 1000000002, but 4 training images; labels count from 0"),
        ({"label": LABELS + 1}, "class 0 (0) has no training image"),
        ({"label": LABELS * 0}, "holds one class, '0', of which any network is right that always says so"),
    ],
)
def test_wrong_arrays(tmp_path, changes, complaint):
    assert complaint in refusal(write(tmp_path / "a", changes))


class Payload:
    """An object whose unpickling makes a folder."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("name", ["image", "label"])
def test_objects_are_not_unpickled(tmp_path, name):
    objects = np.array([Payload(tmp_path / "made")] * 4)
    assert f"train.npz: {name}: holds objects, which are never unpickled" in refusal(
        write(tmp_path / "a", {name: objects})
    )
    assert not (tmp_path / "made").exists()


def test_missing_files_and_arrays(tmp_path):
    folder = write(tmp_path / "a")
    np.savez(folder / "test.npz", image=pixels(4, 8))
    assert "test.npz: holds no array label or labels; the layout is" in refusal(folder)
    (folder / "test.npz").unlink()
    assert "test.npz: no such file; the layout is" in refusal(folder)
    assert "train.npz: holds no array train_image or train_images or x_train" in refusal(folder / "train.npz")
    assert "no such file" in refusal(tmp_path / "nowhere.npz")


def test_a_test_split_of_one_class(tmp_path):
    folder = write(tmp_path / "a")
    np.savez(folder / "test.npz", image=pixels(4, 8), label=[1] * 4)
    assert "all 4 test images are of class 1 (1): accuracy on them tells nothing" in refusal(folder)


def test_images_of_two_sizes(tmp_path):
    folder = write(tmp_path / "a")
    np.savez(folder / "test.npz", image=pixels(4, 9), label=LABELS)
    assert "training images are 8×8×3, test images 9×9×3" in refusal(folder)


@pytest.mark.parametrize("keep", [0, 0.5, -1])
def test_truncated(tmp_path, keep):
    folder = write(tmp_path / "a")
    raw = (folder / "test.npz").read_bytes()
    (folder / "test.npz").write_bytes(raw[: int(keep * len(raw)) if isinstance(keep, float) else keep])
    assert f"{folder / 'test.npz'}: damaged, truncated or not saved by numpy" in refusal(folder)


def test_a_damaged_array_is_named(tmp_path):
    folder = write(tmp_path / "a")
    raw = bytearray((folder / "train.npz").read_bytes())
    raw[300] ^= 255
    (folder / "train.npz").write_bytes(raw)
    assert "train.npz: image: damaged, truncated" in refusal(folder)


@pytest.mark.parametrize("shape", [(10**6, 1000, 1000, 3), (5, 8, 8, 3), (3, 8, 8, 3)])
def test_a_header_that_lies_is_refused(tmp_path, shape):
    header, folder = io.BytesIO(), write(tmp_path / "a")
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(folder / "train.npz", "w") as archive:
        archive.writestr("image.npy", header.getvalue() + pixels(4, 8).tobytes())
    np.savez(label := folder / "label.npz", label=LABELS)
    with zipfile.ZipFile(folder / "train.npz", "a") as archive, zipfile.ZipFile(label) as other:
        archive.writestr("label.npy", other.read("label.npy"))
    assert "is not the size of what it holds" in refusal(folder)
