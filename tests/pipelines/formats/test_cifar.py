"""CIFAR-10 and CIFAR-100 from their archives and unpacked folders; whatever is wrong with them is one line."""

import io
import pickle
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from tiny_releases import CIFAR_FILES, arrays_of, cifar_batch, pixels, python2_pickle, write_cifar

from fastiseat.errors import UserError
from fastiseat.pipelines.data.formats import cifar
from fastiseat.pipelines.protocol.releases import RELEASES

FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
BOTH = pytest.mark.parametrize("name", FOLDERS)


def content(name, path):
    """Training images and labels, test images and labels, as the reader gives them."""
    with cifar.read(name, path) as source:
        return arrays_of(source)


def refusal(path, name="cifar10"):
    with pytest.raises(UserError) as caught, cifar.read(name, path):
        pass
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def archive(folder, target):
    with tarfile.open(target, "w:gz") as tar:
        tar.add(folder, folder.name)
    return target


@pytest.fixture(params=FOLDERS)
def release(request, tmp_path):
    folder = tmp_path / FOLDERS[request.param]
    return request.param, folder, write_cifar(folder, request.param)


def test_a_folder(release):
    name, folder, written = release
    for read, expected in zip(content(name, folder), written, strict=True):
        assert read.dtype == (np.uint8 if expected.ndim == 4 else np.int64)
        assert np.array_equal(read, expected)


def test_an_archive(release, tmp_path):
    name, folder, written = release
    path = archive(folder, tmp_path / RELEASES[name].archive)
    for read, expected in zip(content(name, path), written, strict=True):
        assert np.array_equal(read, expected)


LABELS = np.array([1, 1, 0, 1])


def test_python_3_wrote_it_again(tmp_path):
    folder = tmp_path / "f"
    *_, test_images, _ = write_cifar(folder)
    for protocol in (2, pickle.HIGHEST_PROTOCOL):
        batch = {key.encode(): value for key, value in cifar_batch(test_images, LABELS).items()}
        (folder / "test_batch").write_bytes(pickle.dumps(batch, protocol))
        images, labels = content("cifar10", folder)[2:]
        assert np.array_equal(images, test_images) and labels.tolist() == LABELS.tolist()


def test_fine_labels_are_read_where_there_are_coarse_ones(tmp_path):
    write_cifar(tmp_path / "f", "cifar100")
    batch = cifar_batch(pixels(3), [1, 0, 1], "fine_labels") | {"coarse_labels": [0, 0, 0]}
    (tmp_path / "f" / "test").write_bytes(python2_pickle(batch))
    assert content("cifar100", tmp_path / "f")[3].tolist() == [1, 0, 1]


def test_what_is_not_the_release_is_marked(release):
    name, folder, _ = release
    with cifar.read(name, folder) as source:
        assert source.official is False
        assert "has MD5" in source.remark and source.md5s.keys() == set(CIFAR_FILES[name])
        assert source.class_names == ("class0", "class1")


def test_the_release_is_known_by_its_files(release, monkeypatch, tmp_path):
    name, folder, _ = release
    with cifar.read(name, folder) as source:
        monkeypatch.setitem(RELEASES, name, replace(RELEASES[name], members=source.md5s))
    for path in (folder, archive(folder, tmp_path / "any.tar.gz")):
        with cifar.read(name, path) as source:
            assert source.official is True


@BOTH
def test_missing_files(name, tmp_path):
    for file in CIFAR_FILES[name]:
        folder = tmp_path / file / FOLDERS[name]
        write_cifar(folder, name)
        (folder / file).unlink()
        assert f"{folder / file}: No such file" in refusal(folder, name)
        assert f"holds no {file}" in refusal(archive(folder, tmp_path / file / "a.tar.gz"), name)


@pytest.mark.parametrize(
    ("batch", "complaint"),
    [
        ({"labels": [0, 1]}, "'data' is NoneType; uint8 (n, 3072) is needed"),
        ({"data": [1, 2], "labels": [0, 1]}, "'data' is list"),
        ({"data": np.zeros((2, 3072), np.float32), "labels": [0, 1]}, "'data' is float32 (2, 3072)"),
        ({"data": np.zeros((2, 3071), np.uint8), "labels": [0, 1]}, "'data' is uint8 (2, 3071)"),
        ({"data": np.zeros(3072, np.uint8), "labels": [0]}, "'data' is uint8 (3072,)"),
        ({"data": np.zeros((2, 3072), np.uint8)}, "holds no 'labels'"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, "2 images, 1 labels"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": ["0", "1"]}, "one whole number an image"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0.0, 1.0]}, "labels are float64 (2,)"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [[0], [0, 1]]}, "one whole number an image"),
        (
            {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 2]},
            "test label 2 is out of range: labels lie in 0 … 1",
        ),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, -1]}, "test label -1 is out of range"),
        ({"data": np.zeros((0, 3072), np.uint8), "labels": []}, "there are no test images"),
    ],
)
def test_bad_batches(tmp_path, batch, complaint):
    write_cifar(tmp_path / "f")
    (tmp_path / "f" / "test_batch").write_bytes(pickle.dumps(batch, 4))
    assert complaint in refusal(tmp_path / "f")


@pytest.mark.parametrize("names", [None, [], "class0", [0, 1]])
def test_bad_names_of_classes(tmp_path, names):
    write_cifar(tmp_path / "f")
    (tmp_path / "f" / "batches.meta").write_bytes(pickle.dumps({"label_names": names}, 2))
    assert "holds no names of classes under 'label_names'" in refusal(tmp_path / "f")


def test_a_class_without_images(tmp_path):
    write_cifar(tmp_path / "f")
    names = python2_pickle({"label_names": ["cat", "dog", "owl"]})
    (tmp_path / "f" / "batches.meta").write_bytes(names)
    assert "class 2 (owl) has no training image" in refusal(tmp_path / "f")


def test_a_truncated_batch(tmp_path):
    write_cifar(tmp_path / "f")
    batch = tmp_path / "f" / "data_batch_3"
    batch.write_bytes(batch.read_bytes()[:-100])
    assert f"{batch}: damaged or truncated" in refusal(tmp_path / "f")


def test_a_batch_with_code(tmp_path):
    write_cifar(tmp_path / "f")
    (tmp_path / "f" / "data_batch_3").write_bytes(b"cos\nsystem\n(S'touch made'\ntR.")
    assert "data_batch_3: a pickle of more than arrays and plain containers (os.system)" in refusal(tmp_path / "f")


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 0.999])
def test_truncated_archives(tmp_path, keep):
    write_cifar(tmp_path / FOLDERS["cifar10"])
    path = archive(tmp_path / FOLDERS["cifar10"], tmp_path / "a.tar.gz")
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    assert "truncated, or no tar.gz archive" in refusal(path)


def test_what_is_no_archive(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(b"<html>not found</html>")
    assert "truncated, or no tar.gz archive" in refusal(tmp_path / "a.tar.gz")


def test_an_unsafe_archive(tmp_path):
    write_cifar(tmp_path / FOLDERS["cifar10"])
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / FOLDERS["cifar10"], FOLDERS["cifar10"])
        tar.addfile(tarfile.TarInfo("../../evil"), io.BytesIO())
    assert "unsafe name '../../evil'" in refusal(tmp_path / "a.tar.gz")


def test_labels_that_would_fill_the_memory(tmp_path):
    """The file holds each list once."""
    labels = [0] * 30
    for _ in range(8):
        labels = [labels] * 30
    write_cifar(tmp_path / "f")
    batch = {"data": np.zeros((2, 3072), np.uint8), "labels": labels}
    (tmp_path / "f" / "test_batch").write_bytes(pickle.dumps(batch, 4))
    assert "one whole number an image" in refusal(tmp_path / "f")
