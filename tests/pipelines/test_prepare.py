"""Preparing and loading by name: what is found, where it goes, and what is told when it isn't there."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from tiny_releases import (
    pixels,
    write_cifar,
    write_image_folder,
    write_svhn,
    write_tiny_imagenet,
    zip_tree,
)

from fastiseat.errors import UserError
from fastiseat.pipelines.data import datasets, prepare
from fastiseat.pipelines.data.prepare import find_store
from fastiseat.pipelines.data.prepare import prepare as prepare_
from fastiseat.pipelines.stores import writer


class Log:
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)

    def count(self, what, done, total):
        pass


def write_npz(folder):
    np.savez(folder / "a.npz", x_train=pixels(4), y_train=[0, 1, 0, 1], x_test=pixels(2), y_test=[0, 1])


MAKERS = {
    "cifar10": lambda root: write_cifar(root / "cifar-10-batches-py"),
    "cifar100": lambda root: write_cifar(root / "cifar-100-python", "cifar100"),
    "svhn": write_svhn,
    "tinyimagenet": lambda root: write_tiny_imagenet(root / "tiny-imagenet-200"),
    "imagefolder:{root}/own": lambda root: write_image_folder(root / "own"),
    "npz:{root}/a.npz": write_npz,
}


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def cifar(root):
    return write_cifar(root / "cifar-10-batches-py")


def refusal(name, **options):
    with pytest.raises(UserError) as caught:
        prepare_(name, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", MAKERS)
def test_load_prepares_what_it_finds(root, name):
    MAKERS[name](root)
    name = name.format(root=root)
    log = Log()
    data = datasets.load(name, data_dir=root, progress=log)
    assert data.name == name
    assert f"{name}, official: " in log.lines[0] and f"{name}: " in log.lines[1]
    store = find_store(name, data_dir=root)
    assert store.path.parent == root / "prepared" and store.info.name == name
    store.verify()
    again = datasets.load(name, data_dir=root, progress=log)
    assert again.fingerprint == data.fingerprint and len(log.lines) == 2
    assert np.array_equal(again.test.images, data.test.images)


def test_digits_need_no_folder():
    data = datasets.load("digits")
    assert data.official is True and data.fingerprint == "a1dcaa92acd8d9fb"


def test_names():
    assert datasets.DATASETS == ("digits", "cifar10", "cifar100", "svhn", "tinyimagenet")
    with pytest.raises(UserError, match="did you mean cifar10"):
        datasets.load("cifar-10")


def test_the_folders_are_tried_in_turn(tmp_path, home, monkeypatch):
    cache = home / ".cache" / "fastiseat"
    folders = {"given": tmp_path / "given", "named": tmp_path / "named", "cache": cache}
    for number, folder in enumerate(folders.values(), start=1):
        write_cifar(folder / "cifar-10-batches-py", per_batch=2 * number)
    monkeypatch.setenv("FASTISEAT_DATA", str(folders["named"]))
    # The last one first: what is prepared there must not win over files that lie before it.
    with monkeypatch.context() as patch:
        patch.delenv("FASTISEAT_DATA")
        assert len(datasets.load("cifar10").test) == 6
    assert len(datasets.load("cifar10").test) == 4
    assert find_store("cifar10", data_dir=folders["given"]) is None
    assert len(datasets.load("cifar10", data_dir=folders["given"]).test) == 2
    empty = tmp_path / "empty"
    empty.mkdir()
    assert len(datasets.load("cifar10", data_dir=empty).test) == 4


def test_missing_data_is_told_in_one_line(root, home, monkeypatch):
    monkeypatch.setenv("FASTISEAT_DATA", "/no/where")
    assert refusal("tinyimagenet", data_dir=root) == (
        f"tinyimagenet is not in {root} or /no/where or {home}/.cache/fastiseat: put tiny-imagenet-200.zip or the "
        "folder tiny-imagenet-200 there, name the folder that holds it with --data-dir or FASTISEAT_DATA, or run: "
        "fastiseat data prepare tinyimagenet --download"
    )
    assert "/no/data: no such file or folder; give what imagefolder:DIR is" in refusal("imagefolder:/no/data")
    assert not (home / ".cache").exists()


def test_the_tree_itself_may_be_the_data_folder(root):
    write_tiny_imagenet(root / "t")
    store = prepare_("tinyimagenet", data_dir=root / "t")
    assert store.path == root / "t" / "prepared" / "tinyimagenet"
    store.path.rename(root / "moved")
    assert prepare_("tinyimagenet", data_dir=root / "t").info.fingerprint == store.info.fingerprint


def test_a_zip_and_its_tree_give_the_same(root, tmp_path):
    tree = write_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    zip_tree(tree, root / "tiny-imagenet-200.zip")
    ours, theirs = (prepare_("tinyimagenet", data_dir=folder) for folder in (root, tmp_path))
    assert ours.info.fingerprint == theirs.info.fingerprint
    assert ours.info.source == str(root / "tiny-imagenet-200.zip") and ours.info.md5s.keys() == {
        "tiny-imagenet-200.zip"
    }
    assert sorted(path.name for path in root.iterdir()) == ["prepared", "tiny-imagenet-200.zip"]


def test_a_second_time_nothing_is_done(root, cifar, monkeypatch):
    first = prepare_("cifar10", data_dir=root)
    monkeypatch.setattr(prepare, "read_source", None)
    log = Log()
    assert prepare_("cifar10", data_dir=root, progress=log) == first
    assert log.lines == ["cifar10 is prepared already; --force makes it anew"]


def test_force_makes_it_anew(root, cifar):
    first = prepare_("cifar10", data_dir=root)
    inode = first.path.stat().st_ino
    assert prepare_("cifar10", data_dir=root) == first and first.path.stat().st_ino == inode
    assert prepare_("cifar10", data_dir=root, force=True).path == first.path
    assert first.path.stat().st_ino != inode
    assert {path.name for path in first.path.parent.iterdir()} == {"cifar10", ".cifar10.lock"}


def test_force_mends_a_damaged_description(root, cifar):
    store = prepare_("cifar10", data_dir=root)
    (store.path / "info.json").write_text("{")
    assert "prepare it again with --force" in refusal("cifar10", data_dir=root)
    assert prepare_("cifar10", data_dir=root, force=True).info.fingerprint == store.info.fingerprint


def test_force_needs_the_files(root, cifar):
    prepare_("cifar10", data_dir=root)
    (root / "cifar-10-batches-py").rename(root / "gone")
    assert datasets.load("cifar10", data_dir=root).num_classes == 2
    assert "cifar10 is not in" in refusal("cifar10", data_dir=root, force=True)


def test_a_named_source(root, home, tmp_path):
    write_cifar(tmp_path / "elsewhere" / "any-name")
    store = prepare_("cifar10", source=tmp_path / "elsewhere" / "any-name", data_dir=root)
    assert store.path == root / "prepared" / "cifar10"
    assert datasets.load("cifar10", data_dir=root).fingerprint == store.info.fingerprint
    assert prepare_("cifar10", source=tmp_path / "elsewhere" / "any-name", data_dir=root) == store
    write_cifar(tmp_path / "other")
    message = refusal("cifar10", source=tmp_path / "other", data_dir=root)
    assert f"cifar10 is prepared from {tmp_path}/elsewhere/any-name: add --force" in message
    prepare_("cifar10", source=tmp_path / "other", data_dir=root, force=True)
    default = prepare_("cifar10", source=tmp_path / "other")
    assert default.path == home / ".cache" / "fastiseat" / "prepared" / "cifar10"


def read_only(monkeypatch, *folders):
    """Let nothing be made below ``folders``, as on a read-only file system. Root may write anywhere else."""
    make = Path.mkdir

    def mkdir(path, *rest, **options):
        if any(path.is_relative_to(folder) for folder in folders):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        make(path, *rest, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)


def test_a_read_only_folder_has_its_arrays_in_the_cache(root, cifar, home, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        read_only(patch, root)
        store = prepare_("cifar10", data_dir=root)
        assert store.path.parent == home / ".cache" / "fastiseat" / "prepared"
        assert store.path.name.startswith("cifar10-") and not (root / "prepared").exists()
        assert prepare_("cifar10", data_dir=root) == store == find_store("cifar10", data_dir=root)
    other = tmp_path / "other"
    write_cifar(other / "cifar-10-batches-py", per_batch=6)
    assert find_store("cifar10", data_dir=other) is None
    assert len(datasets.load("cifar10", data_dir=other).test) == 6


def test_nowhere_to_write(root, cifar, home, monkeypatch):
    read_only(monkeypatch, root, home)
    message = refusal("cifar10", data_dir=root)
    assert message == f"cannot write {root}/prepared/cifar10: Read-only file system; choose another --data-dir"


def test_image_size(root):
    write_image_folder(root / "own", size=(12, 9))
    name = f"imagefolder:{root}/own"
    assert len(datasets.load(name, data_dir=root).train.images[0]) == 9
    assert "is prepared as it is: add --force to prepare it at size 6 instead" in refusal(
        name, data_dir=root, image_size=6
    )
    store = prepare_(name, data_dir=root, image_size=6, force=True)
    assert store.info.image_size == 6
    assert datasets.load(name, data_dir=root).train.images.shape == (4, 6, 6, 3)
    assert prepare_(name, data_dir=root) == prepare_(name, data_dir=root, image_size=6) == store
    assert "is prepared at size 6: add --force" in refusal(name, data_dir=root, image_size=7)


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("cifar10", {"image_size": 8}, "--image-size 8: cifar10 is used at its own size; leave it out"),
        ("imagefolder:/a", {"image_size": 0}, "--image-size 0: must lie in 1 … 4096"),
        ("imagefolder:/a", {"image_size": 4097}, "--image-size 4097: must lie in 1 … 4096"),
        ("imagefolder:/a", {"source": Path("/b")}, "imagefolder:/a: names its files itself; leave out --source"),
        ("npz:/a", {"download": True}, "npz:/a: names its files itself"),
        ("cifar10", {"download": True, "source": Path("/b")}, "--source and --download: the files come from one"),
        ("digits", {}, "digits comes with scikit-learn"),
        ("cifar10", {"data_dir": Path("/no/where")}, "--data-dir /no/where: no such folder"),
    ],
)
def test_options_that_do_not_go_together(name, options, complaint):
    assert complaint in refusal(name, **options)


def test_another_process_may_have_made_it_meanwhile(root, cifar, monkeypatch):
    """Who waits for the lock finds the store then, and does not make it again."""
    exclusive, reads = writer.exclusive, []

    def late(path, progress):
        monkeypatch.setattr(prepare, "exclusive", exclusive)
        prepare_("cifar10", data_dir=root)
        monkeypatch.setattr(prepare, "read_source", lambda *_: reads.append(1))
        return exclusive(path, progress)

    monkeypatch.setattr(prepare, "exclusive", late)
    assert prepare_("cifar10", data_dir=root).info.name == "cifar10"
    assert not reads
