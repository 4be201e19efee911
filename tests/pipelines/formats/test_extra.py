"""Extra data: RST's pickle and generated images in an .npz file, read without executing or believing anything."""

import contextlib
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from tiny_releases import pixels, python2_pickle

from fastiseat.errors import UserError
from fastiseat.pipelines.data.formats.extra import read_extra

IMAGES, LABELS = pixels(6), np.array([3, 0, 9, 1, 1, 2])


class Call:
    """Unpickled, it makes a folder."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


def read(path, image_shape=(32, 32, 3), num_classes=10):
    return read_extra(path, image_shape=image_shape, num_classes=num_classes)


def refusal(path, **options):
    with pytest.raises(UserError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message


def write_pickle(path, dump=pickle.dumps, **changes):
    content = {"data": IMAGES, "extrapolated_targets": LABELS} | changes
    path.write_bytes(dump({key: value for key, value in content.items() if value is not None}))
    return path


def write_npz(path, save=np.savez, **changes):
    content = {"image": IMAGES, "label": LABELS} | changes
    with path.open("wb") as file:  # savez adds an ending to a name without
        save(file, **{key: value for key, value in content.items() if value is not None})
    return path


def assert_read(path):
    split = read(path)
    assert split.images.dtype == np.uint8 and split.labels.dtype == np.int64
    assert np.array_equal(split.images, IMAGES) and np.array_equal(split.labels, LABELS)
    taken = split.take(np.array([4, 0]))
    assert np.array_equal(taken.images, IMAGES[[4, 0]]) and type(taken.images) is np.ndarray


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("labels", [LABELS, LABELS.tolist(), list(LABELS), LABELS.astype(np.uint8)])
def test_a_pickle(tmp_path, protocol, labels):
    path = write_pickle(
        tmp_path / "a", lambda content: pickle.dumps(content, protocol), extrapolated_targets=labels
    )
    assert_read(path)


@pytest.mark.parametrize("labels", [LABELS, LABELS.tolist()])
def test_a_pickle_of_python_2(tmp_path, labels):
    assert_read(write_pickle(tmp_path / "a", python2_pickle, extrapolated_targets=labels))


def test_a_pickle_in_fortrans_order(tmp_path):
    path = write_pickle(tmp_path / "a", data=np.asfortranarray(IMAGES))
    assert_read(path)
    assert read(path).images.flags.c_contiguous


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("name", ["a.npz", "a.pickle"])
@pytest.mark.parametrize("labels", [LABELS, LABELS[:, None], LABELS.astype(">u2")])
def test_an_npz_by_its_content(tmp_path, save, name, labels):
    assert_read(write_npz(tmp_path / name, save, label=labels, other=np.arange(3)))


def test_images_of_an_uncompressed_npz_are_mapped(tmp_path):
    split = read(write_npz(tmp_path / "a"))
    assert not split.images.flags.writeable
    kept = split.images
    while kept.base is not None and not isinstance(kept, np.memmap):
        kept = kept.base
    assert isinstance(kept, np.memmap)


def test_an_npz_that_other_tools_zipped(tmp_path):
    """The header before a member may be longer than the one in the directory; a comment may follow."""
    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        archive.comment = b"a comment"
        for name, array in (("label", LABELS), ("image", IMAGES)):
            buffer = io.BytesIO()
            np.save(buffer, array)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                member.write(buffer.getvalue())
    assert_read(tmp_path / "a")


@pytest.mark.parametrize("shape", [(6, 8, 8), (6, 8, 8, 1)])
def test_grey_images(tmp_path, shape):
    grey = pixels(6, 8, channels=1).reshape(shape)
    for path in (write_npz(tmp_path / "a", image=grey), write_pickle(tmp_path / "b", data=grey)):
        assert np.array_equal(read(path, image_shape=(8, 8, 1)).images, grey.reshape(6, 8, 8, 1))
        assert "images of 8×8×1, the data set has 8×8×3" in refusal(path, image_shape=(8, 8, 3))


def test_no_such_file(tmp_path):
    assert "No such file or directory; extra data is RST's pickle" in refusal(tmp_path / "nowhere.npz")
    assert "it is a folder, and a file is needed; extra data is" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"\x89HDF\r\n", b"\x1f\x8b\x08", b"hello", b"\x93NUMPY"])
def test_neither_format(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    assert "neither a pickle nor an .npz file; extra data is" in refusal(tmp_path / "a.npz")


def test_an_empty_file(tmp_path):
    (tmp_path / "a.npz").touch()
    assert "an empty file; extra data is" in refusal(tmp_path / "a.npz")


@pytest.mark.parametrize("missing", ["data", "extrapolated_targets"])
def test_a_pickle_without_a_key(tmp_path, missing):
    message = refusal(write_pickle(tmp_path / "a", **{missing: None}, x=1))
    (left,) = {"data", "extrapolated_targets"} - {missing}
    assert f"holds '{left}', 'x'; 'data' and 'extrapolated_targets' are needed; extra data is" in message


@pytest.mark.parametrize("missing", ["image", "label"])
def test_an_npz_without_an_array(tmp_path, missing):
    message = refusal(write_npz(tmp_path / "a", **{missing: None}, x=np.arange(2)))
    (left,) = {"image", "label"} - {missing}
    assert f"holds '{left}', 'x'; 'image' and 'label' are needed; extra data is" in message


def test_of_many_keys_some_are_named(tmp_path):
    (tmp_path / "a").write_bytes(pickle.dumps({f"key{number}\n": number for number in range(1000)}))
    assert "'key104\\n' …; 'data' and" in refusal(tmp_path / "a")
    (tmp_path / "a").write_bytes(pickle.dumps({}))
    assert "holds nothing; 'data' and" in refusal(tmp_path / "a")
    assert "holds nothing; 'image' and" in refusal(write_npz(tmp_path / "a", image=None, label=None))


@pytest.mark.parametrize(
    ("images", "complaint"),
    [
        (IMAGES.astype(np.float32), "float32 (6, 32, 32, 3); uint8 (n, 32, 32, 3) is needed"),
        (IMAGES.astype(np.int8), "int8 (6, 32, 32, 3); uint8"),
        (IMAGES.reshape(6, -1), "uint8 (6, 3072); uint8 (n, 32, 32, 3) is needed"),
        (np.uint8(3), "uint8 (); uint8"),
        (pixels(6, 64), "images of 64×64×3, the data set has 32×32×3; extra images need that size"),
        (np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2)), "images of 3×32×32, the data set has 32×32×3"),
        (IMAGES[:0], "holds no images; train without extra data, or add some"),
        (IMAGES[:5], "5 images, 6 labels; one label an image is needed"),
    ],
)
def test_wrong_images(tmp_path, images, complaint):
    assert complaint in refusal(write_pickle(tmp_path / "a", data=np.asarray(images)))
    assert complaint in refusal(write_npz(tmp_path / "b", image=images))


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        (LABELS + 7, "label 10 is out of range: the data set's labels lie in 0 … 9; use extra data of the same"),
        (LABELS - 1, "label -1 is out of range"),
        (np.full(6, 2**64 - 1, dtype=np.uint64), "is out of range"),
        (LABELS[:5], "6 images, 5 labels"),
        (LABELS[:0], "6 images, 0 labels"),
        (LABELS.astype(float), "labels are float64 (6,); one whole number an image is needed"),
        (LABELS > 0, "labels are bool (6,)"),
        (np.eye(6, dtype=np.int64), "int64 (6, 6); "),
        (np.int64(3), "int64 (); "),
    ],
)
def test_wrong_labels(tmp_path, labels, complaint):
    message = refusal(write_pickle(tmp_path / "a", extrapolated_targets=np.asarray(labels)))
    assert complaint in message
    assert complaint in refusal(write_npz(tmp_path / "b", label=labels))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"data": [1, 2]}, "'data' is a list; an array is needed"),
        ({"data": "text"}, "'data' is a str"),
        ({"extrapolated_targets": [2**70] * 6}, "labels are object (6,)"),
        ({"extrapolated_targets": [[1], [2, 3]]}, "labels are object"),
        ({"extrapolated_targets": "text"}, "labels are <U4 ()"),
        ({"data": np.array([None])}, "more than arrays and plain containers"),
    ],
)
def test_what_only_a_pickle_can_hold(tmp_path, changes, complaint):
    assert complaint in refusal(write_pickle(tmp_path / "a", **changes))


def test_a_pickle_of_no_dict(tmp_path):
    (tmp_path / "a").write_bytes(pickle.dumps([IMAGES, LABELS]))
    assert "holds a list, not a dict" in refusal(tmp_path / "a")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("key", ["data", "extrapolated_targets", "x"])
def test_nothing_is_executed(tmp_path, protocol, key):
    made = tmp_path / "made"
    path = write_pickle(tmp_path / "a", lambda content: pickle.dumps(content, protocol), **{key: Call(made)})
    assert "nothing in it was executed" in refusal(path)
    assert not made.exists()


@pytest.mark.parametrize("name", ["image", "label"])
def test_objects_in_an_npz_are_not_unpickled(tmp_path, name):
    made = tmp_path / "made"
    path = write_npz(tmp_path / "a", **{name: np.array([Call(made)] * 6)})
    assert f"{name}: holds objects, which are never unpickled" in refusal(path)
    assert not made.exists()


@pytest.mark.parametrize("keep", [3, 30, 300, 0.5, 0.99, -1])
@pytest.mark.parametrize("write", [write_pickle, write_npz])
def test_truncated(tmp_path, write, keep):
    path = write(tmp_path / "a")
    raw = path.read_bytes()
    path.write_bytes(raw[: int(keep * len(raw)) if isinstance(keep, float) else keep])
    assert "damaged" in refusal(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_pixel_is_noticed(tmp_path, save):
    path = write_npz(tmp_path / "a", save)
    raw = bytearray(path.read_bytes())
    raw[9000] ^= 1
    path.write_bytes(raw)
    assert "image: damaged, truncated" in refusal(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_anywhere_is_told_and_never_a_crash(tmp_path, save):
    path = write_npz(tmp_path / "a", save, image=pixels(6, 2))
    raw, random = path.read_bytes(), np.random.default_rng(0)
    for place in range(len(raw)):
        damaged = bytearray(raw)
        damaged[place] ^= int(random.integers(1, 256))
        path.write_bytes(damaged)
        with contextlib.suppress(UserError):
            split = read(path, image_shape=(2, 2, 3))
            assert np.array_equal(split.images, pixels(6, 2)) and np.array_equal(split.labels, LABELS)


@pytest.mark.parametrize("count", [5, 7, 10**12])
def test_a_header_that_lies_is_refused(tmp_path, count):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (count, 32, 32, 3)}
    )
    path = write_npz(tmp_path / "a", image=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("image.npy", header.getvalue() + IMAGES.tobytes())
    assert "is not the size of what it holds" in refusal(path)


def test_images_that_fit_in_no_memory(tmp_path, monkeypatch):
    def full(*_):
        raise MemoryError("Unable to allocate 9.1 TiB")

    monkeypatch.setattr("fastiseat.pipelines.data.formats.saved_arrays.np.empty", full)
    message = refusal(write_npz(tmp_path / "a", np.savez_compressed))
    assert "Unable to allocate 9.1 TiB; save it with numpy.savez, uncompressed" in message
