"""The store of JPEG files: the release's own bytes in the order of the packed arrays, complete or absent."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from tiny_releases import jpeg, write_cifar, write_image_folder, write_tiny_imagenet, zip_tree

from fastiseat.errors import UserError
from fastiseat.pipelines.data.prepare import find_store, prepare
from fastiseat.pipelines.data.prepare_encoded import encode, find_encoded, prepare_encoded
from fastiseat.pipelines.loaders.jpeg import decode_file
from fastiseat.pipelines.stores.encoded_store import EncodedStore

NAME = "tinyimagenet"


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    write_tiny_imagenet(folder / "tiny-imagenet-200")
    return folder


def jpeg_folder(root, content=jpeg):
    """An image folder of JPEG files, named as a data set."""
    for split in ("train", "test"):
        for place, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for number in range(2):
                (root / split / name / f"{number}.jpg").write_bytes(content(seed=10 * place + number))
    return f"imagefolder:{root}"


def refusal(act, *args, **options):
    with pytest.raises(UserError) as caught:
        act(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def assert_agrees(store, packed):
    """Rows mean the same in both stores, and decoding gives the packed pixels bit for bit."""
    split, train = store.open(), packed.open().train
    assert len(split) == len(train) and np.array_equal(split.labels, train.labels)
    assert (split.data.dtype, split.offsets.dtype, split.labels.dtype) == (np.uint8, np.int64, np.int64)
    for row, image in enumerate(train.images):
        assert np.array_equal(decode_file(split, row), image)


@pytest.mark.parametrize("zipped", [False, True])
def test_tiny_imagenet(root, zipped):
    tree = root / "tiny-imagenet-200"
    files = [path.read_bytes() for path in sorted(tree.glob("train/*/images/*.JPEG"))]
    if zipped:
        zip_tree(tree, root / "tiny-imagenet-200.zip")
    store = prepare_encoded(NAME, data_dir=root)
    packed = find_store(NAME, data_dir=root)
    assert store.path == packed.path.with_name("tinyimagenet.jpeg") == EncodedStore.beside(packed.path)
    assert store == find_encoded(NAME, data_dir=root) == EncodedStore.at(store.path)
    assert_agrees(store, packed)
    assert [store.open().file(row).tobytes() for row in range(9)] == files
    store.check(name=NAME, fingerprint=packed.info.fingerprint)


def test_an_image_folder(tmp_path):
    name = jpeg_folder(tmp_path / "own")
    store = prepare_encoded(name, data_dir=tmp_path)
    assert_agrees(store, find_store(name, data_dir=tmp_path))


def test_the_description_and_the_files(root):
    store = prepare_encoded(NAME, data_dir=root)
    info = json.loads((store.path / "info.json").read_text())
    assert (info["format"], info["name"], info["samples"]) == (1, NAME, 9)
    assert (info["height"], info["width"]) == (64, 64)
    assert info["source"] == str(root / "tiny-imagenet-200")
    names = {"train_files.npy", "train_offsets.npy", "train_labels.npy", "info.json"}
    assert {file.name for file in store.path.iterdir()} == names
    assert store.size() == sum((store.path / name).stat().st_size for name in names)
    content = np.load(store.path / "train_files.npy")
    assert content.shape == (info["bytes"],) and content.dtype == np.uint8


def test_it_is_mapped_and_read_only(root):
    split = prepare_encoded(NAME, data_dir=root).open()
    for array in (split.data, split.offsets, split.labels, split.file(0)):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_it_is_made_once(root):
    store = prepare_encoded(NAME, data_dir=root)
    inode = store.path.stat().st_ino
    assert prepare_encoded(NAME, data_dir=root) == store
    assert store.path.stat().st_ino == inode
    prepare_encoded(NAME, data_dir=root, force=True)
    assert store.path.stat().st_ino != inode


def test_it_is_made_anew_with_other_arrays(root):
    before = prepare_encoded(NAME, data_dir=root)
    (root / "tiny-imagenet-200/train/n01443537/images/n01443537_1.JPEG").write_bytes(jpeg(seed=77))
    packed = prepare(NAME, data_dir=root, force=True)
    assert find_encoded(NAME, data_dir=root) is None
    message = refusal(before.check, name=NAME, fingerprint=packed.info.fingerprint)
    assert before.info.fingerprint in message and packed.info.fingerprint in message
    assert message.endswith("; prepare it again with --force")
    assert_agrees(prepare_encoded(NAME, data_dir=root), packed)


def test_the_files_of_another_data_set(root):
    store = prepare_encoded(NAME, data_dir=root)
    message = refusal(store.check, name="imagefolder:/own", fingerprint=store.info.fingerprint)
    assert message == (
        f"{store.path}: holds JPEG files of tinyimagenet, not of imagefolder:/own; prepare it again with --force"
    )


def test_files_that_changed_since(root):
    packed = prepare(NAME, data_dir=root)
    file = root / "tiny-imagenet-200/train/n01629819/images/n01629819_2.JPEG"
    file.write_bytes(jpeg(seed=77))
    expected = f"{file}: is not what {packed.path} was prepared from; prepare it again with --force"
    assert refusal(encode, packed) == expected
    assert find_encoded(NAME, data_dir=root) is None
    (root / "tiny-imagenet-200").rename(root / "elsewhere")
    assert "gone, but" in refusal(encode, packed)


def test_data_without_jpeg_files(tmp_path):
    write_cifar(tmp_path / "cifar-10-batches-py")
    assert refusal(prepare_encoded, "cifar10", data_dir=tmp_path) == (
        "cifar10 has no JPEG files: its images lie in arrays; leave out --format jpeg"
    )
    assert not (tmp_path / "prepared").exists()
    own = write_image_folder(tmp_path / "own")
    message = refusal(prepare_encoded, f"imagefolder:{own}", data_dir=tmp_path)
    assert message.startswith(f"{own}/train/cat/0.png: PNG with pixels of mode RGB; --format jpeg needs")
    assert message.endswith("leave it out")


def test_other_colours_than_decoders_agree_on(tmp_path):
    name = jpeg_folder(tmp_path / "own", lambda seed: jpeg(mode="CMYK", seed=seed))
    assert "0.jpg: JPEG with pixels of mode CMYK; --format" in refusal(prepare_encoded, name, data_dir=tmp_path)


def test_resized_images(tmp_path):
    name = jpeg_folder(tmp_path / "own")
    prepare(name, data_dir=tmp_path, image_size=16)
    assert "is prepared at size 16, which its" in refusal(prepare_encoded, name, data_dir=tmp_path)


@pytest.mark.parametrize("file", ["train_files", "train_offsets", "train_labels"])
@pytest.mark.parametrize("keep", [0, 50, -1])
def test_truncated_arrays(root, file, keep):
    store = prepare_encoded(NAME, data_dir=root)
    path = store.path / f"{file}.npy"
    path.write_bytes(path.read_bytes()[:keep])
    assert f"{file}.npy: missing, truncated or unreadable" in refusal(store.open)


def test_offsets_that_do_not_ascend(root):
    store = prepare_encoded(NAME, data_dir=root)
    offsets = np.load(store.path / "train_offsets.npy")
    np.save(store.path / "train_offsets.npy", offsets[[0, 2, 1, *range(3, 10)]])
    assert "train_offsets.npy: damaged: no ascending offsets; prepare it again" in refusal(store.open)


@pytest.mark.parametrize("content", ["", "[]", '{"format": 1}', '{"format": 2}'])
def test_a_damaged_description(root, content):
    store = prepare_encoded(NAME, data_dir=root)
    (store.path / "info.json").write_text(content)
    assert refusal(EncodedStore.at, store.path).endswith("; prepare it again with --force")


def test_a_damaged_file_leaves_nothing(root):
    prepare(NAME, data_dir=root)
    file = root / "tiny-imagenet-200/train/n01629819/images/n01629819_2.JPEG"
    file.write_bytes(file.read_bytes()[:200])
    assert refusal(prepare_encoded, NAME, data_dir=root).startswith(f"{file}: cannot be decoded")
    assert not [path for path in (root / "prepared").iterdir() if "unfinished" in path.name]


def test_no_name_without_a_store(root):
    assert find_encoded(NAME, data_dir=root) is None


# Gathers the files below argv[1] where no file may be longer than the arrays' descriptions.
CHILD = """
import resource, sys
from pathlib import Path
from fastiseat.errors import UserError
from fastiseat.pipelines.data.prepare_encoded import prepare_encoded
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    prepare_encoded("tinyimagenet", data_dir=Path(sys.argv[1]))
except UserError as error:
    print(error)
"""


def test_a_full_disk(root):
    store = EncodedStore.beside(prepare(NAME, data_dir=root).path)
    done = subprocess.run([sys.executable, "-c", CHILD, root], capture_output=True, text=True, cwd=root)
    assert done.stdout == f"cannot write {store}: File too large; free space or choose another --data-dir\n"
    assert not done.stderr
    assert {path.name for path in store.parent.iterdir() if not path.name.endswith(".lock")} == {"tinyimagenet"}


def test_pillow_reads_the_files(root, tmp_path):
    """They are the release's files, whole."""
    split = prepare_encoded(NAME, data_dir=root).open()
    (tmp_path / "0.jpg").write_bytes(split.file(0).tobytes())
    with Image.open(tmp_path / "0.jpg") as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "L", (64, 64))
