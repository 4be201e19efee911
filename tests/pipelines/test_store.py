"""The prepared arrays: mapped and read-only, complete or absent, and damage is noticed."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from tiny_releases import pixels

from fastiseat import lock
from fastiseat.errors import UserError
from fastiseat.pipelines.loaders.torch import TorchLoader
from fastiseat.pipelines.protocol.base import Split, fingerprint
from fastiseat.pipelines.protocol.order import Order
from fastiseat.pipelines.protocol.progress import SILENT
from fastiseat.pipelines.protocol.source import Source, SourceSplit, in_blocks
from fastiseat.pipelines.stores import store as store_module
from fastiseat.pipelines.stores import writer
from fastiseat.pipelines.stores.store import Store
from fastiseat.pipelines.stores.writer import exclusive, first_writable, write

LABELS = np.arange(12) % 3


def source(seed=0, blocks=None, side=8, channels=3):
    splits = {}
    for number, split in enumerate(("train", "test")):
        images = pixels(12, side, channels, seed=10 * seed + number)
        splits[split] = SourceSplit(
            labels=LABELS, image_shape=images.shape[1:], blocks=blocks or in_blocks(images)
        )
    return Source(
        where="/some/folder",
        class_names=("cat", "dog", "owl"),
        **splits,
        official=False,
        remark="made up",
        md5s={"a.zip": "0"},
    )


def prepare(path, content=None, progress=SILENT):
    path.parent.mkdir(exist_ok=True)
    with exclusive(path, progress):
        return write(
            path, content or source(), name="mine", image_size=None, began=time.perf_counter(), progress=progress
        )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "prepared" / "mine"


def entries(path):
    """What lies beside the store, but for the lock."""
    return {entry.name for entry in path.parent.iterdir()} - {f".{path.name}.lock"}


class Log:
    """A Progress that remembers, and does something at its first count."""

    def __init__(self, act=lambda: None):
        self.lines, self.counts, self.act = [], [], act

    def say(self, line):
        self.lines.append(line)

    def count(self, what, done, total):
        self.counts.append((what, done, total))
        self.act()


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_written_is_read(path, channels):
    content = source(channels=channels)
    prepare(path, content)
    assert entries(path) == {"mine"}
    data = Store.at(path).open()
    for number, split in enumerate((data.train, data.test)):
        assert np.array_equal(split.images, pixels(12, 8, channels, seed=number))
        assert np.array_equal(split.labels, LABELS)
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int64)
    assert (data.name, data.num_classes, data.official) == ("mine", 3, False)
    assert data.class_names == ("cat", "dog", "owl")
    assert data.fingerprint == fingerprint(data.train, data.test)


def test_arrays_are_mapped_and_read_only(path):
    prepare(path)
    split = Store.at(path).open().train
    for array in (split.images, split.labels):
        base = array
        while not isinstance(base, np.memmap):
            base = base.base
        assert base.mode == "r"
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_training_can_use_them(path):
    """What is gathered from the maps is memory of its own: torch would warn of an array that it must not write."""
    prepare(path)
    train = Store.at(path).open().train
    loader = TorchLoader(train, Order(size=len(train), batch_size=5, seed=0))
    for batch in loader.epoch(0):
        batch.images.add_(1)
        assert batch.images.dtype == torch.uint8


def test_the_description(path):
    made = prepare(path)
    info = json.loads((path / "info.json").read_text())
    assert info["format"] == 1 and info["train_shape"] == [12, 8, 8, 3] and info["source"] == "/some/folder"
    assert info["md5s"] == {"a.zip": "0"} and info["remark"] == "made up" and info["official"] is False
    assert Store.at(path) == made
    assert made.size() == sum(file.stat().st_size for file in path.iterdir())


def test_progress_tells_space_and_counts(path):
    log = Log()
    prepare(path, progress=log)
    (line,) = log.lines
    assert line.startswith("mine: 12 training and 12 test images of 8×8 in 3 classes; 4.8 kB on the disk, of ")
    assert log.counts[:2] == [("train images", 12, 12), ("test images", 12, 12)]
    assert log.counts[-1] == ("images checked", 24, 24)


@pytest.mark.parametrize("name", ["train_images", "train_labels", "test_images", "test_labels"])
def test_a_changed_bit_is_found(path, name):
    prepare(path)
    file = path / f"{name}.npy"
    content = bytearray(file.read_bytes())
    content[-8] ^= 1
    file.write_bytes(content)
    found = Store.at(path)
    with pytest.raises(UserError, match=r"damaged: its fingerprint is .*; prepare it again with --force"):
        found.verify()


def test_what_is_intact_is_verified(path):
    prepare(path)
    log = Log()
    Store.at(path).verify(log)
    assert log.counts[-1] == ("images checked", 24, 24)


@pytest.mark.parametrize("keep", [0, 50, -1])
@pytest.mark.parametrize("name", ["train_images", "test_labels"])
def test_truncated_arrays(path, name, keep):
    prepare(path)
    file = path / f"{name}.npy"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=f"{name}.npy: missing, truncated or unreadable"):
        Store.at(path).open()
    file.unlink()
    with pytest.raises(UserError, match=f"{name}.npy: missing, truncated or unreadable"):
        Store.at(path).open()


@pytest.mark.parametrize(
    "array", [np.zeros((12, 8, 8, 3), np.int8), np.zeros((11, 8, 8, 3), np.uint8), np.array([None])]
)
def test_other_arrays(path, array):
    prepare(path)
    np.save(path / "train_images.npy", array)
    with pytest.raises(UserError, match=r"train_images.npy: .*; prepare it again with --force"):
        Store.at(path).open()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"format": 1}', '{"format": 1, "name": 3}', "\udc80", "[" * 10**5]
)
def test_a_damaged_description(path, content):
    prepare(path)
    (path / "info.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"info.json: damaged .*; prepare it again with --force"):
        Store.at(path)


def test_another_format(path, monkeypatch):
    prepare(path)
    monkeypatch.setattr(store_module, "FORMAT", 2)
    with pytest.raises(
        UserError, match="written in format 1, this version reads 2; prepare it again with --force"
    ):
        Store.at(path)


def test_no_store(path):
    assert Store.at(path) is None
    path.mkdir(parents=True)
    assert Store.at(path) is None


def test_a_store_is_replaced(path):
    prepare(path)
    before = Store.at(path).open()
    prepare(path, source(seed=1))
    assert entries(path) == {"mine"}
    after = Store.at(path).open()
    assert before.fingerprint != after.fingerprint
    assert np.array_equal(before.train.images, pixels(12, 8))  # whoever has the old one open keeps it


def failing():
    yield pixels(5, 8)
    raise UserError("a.jpg: cannot be decoded")


def test_a_reader_that_fails_leaves_nothing(path):
    with pytest.raises(UserError, match=r"a.jpg: cannot be decoded"):
        prepare(path, source(blocks=failing))
    assert entries(path) == set()
    prepare(path)
    with pytest.raises(UserError, match=r"a.jpg"):
        prepare(path, source(seed=1, blocks=failing))
    assert np.array_equal(Store.at(path).open().train.images, pixels(12, 8))


def test_an_interrupt_leaves_nothing(path):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(path, progress=Log(interrupt))
    assert entries(path) == set()


# Writes the store argv[1] from the file argv[2], after the code of a test.
CHILD = """
import os, resource, signal, sys
from pathlib import Path
from fastiseat.errors import UserError
from fastiseat.pipelines.data.formats import npz
from fastiseat.pipelines.protocol.progress import Silent
from fastiseat.pipelines.stores.writer import exclusive, write
path, progress = Path(sys.argv[1]), Silent()
{}
try:
    with npz.read(Path(sys.argv[2])) as source, exclusive(path, progress):
        write(path, source, name="mine", image_size=None, began=0, progress=progress)
except UserError as error:
    print(error)
"""


def in_a_child(path, code):
    folder = path.parent
    folder.mkdir()
    arrays = {"x_train": pixels(12, 8), "y_train": LABELS, "x_test": pixels(12, 8), "y_test": LABELS}
    np.savez(folder.parent / "a.npz", **arrays)
    # From another folder: in the checkout's own, the folder fastiseat would stand before the installed package.
    command = [sys.executable, "-c", CHILD.format(code), path, folder.parent / "a.npz"]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def test_a_killed_process_leaves_nothing_that_looks_finished(path):
    done = in_a_child(path, "progress.count = lambda *_: os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert entries(path) == {".mine.unfinished"} and Store.at(path) is None
    prepare(path)
    assert entries(path) == {"mine"}


@pytest.mark.parametrize("place", [writer._temporary, writer._replaced])
def test_a_link_in_the_place_of_what_was_left_is_not_followed(path, tmp_path, place):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis").touch()
    path.parent.mkdir(parents=True, exist_ok=True)
    place(path).symlink_to(tmp_path / "precious")
    prepare(path)
    assert entries(path) == {"mine"} and (tmp_path / "precious" / "thesis").exists()


def test_a_full_disk(path):
    done = in_a_child(path, "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))")
    assert not done.stderr
    assert done.stdout == f"cannot write {path}: File too large; free space or choose another --data-dir\n"
    assert entries(path) == set()


def test_a_process_killed_while_it_replaces_loses_nothing(path):
    prepare(path)
    path.rename(writer._replaced(path))
    with exclusive(path, SILENT):
        assert Store.at(path) is not None
    assert entries(path) == {"mine"}


def test_too_little_space_is_told_before_anything_is_written(path, monkeypatch):
    usage = writer.shutil.disk_usage("/")
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"4.8 kB are needed and 1.0 kB are free; free space or choose another"):
        prepare(path)
    assert entries(path) == set()


def test_a_second_process_waits(path, monkeypatch):
    path.parent.mkdir()
    monkeypatch.setattr(lock, "POLL", 0.01)
    log, release, held = Log(), threading.Event(), threading.Event()

    def hold():
        with exclusive(path, SILENT):
            held.set()
            release.wait(10)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(10)
    log.say = lambda line: (log.lines.append(line), release.set())
    with exclusive(path, log):
        # While the other one names itself, and while it gives up, it is another process.
        who = rf"(process {os.getpid()} on \S+, since \S+|another process)"
        said = rf"{path} is being prepared by {who}: waiting for it to end"
        assert log.lines and all(re.fullmatch(said, line) for line in log.lines)
    other.join()


def test_the_first_writable_place_is_taken(tmp_path):
    (tmp_path / "file").touch()
    stores = [tmp_path / "file" / "prepared" / "a", tmp_path / "b" / "prepared" / "a"]
    assert first_writable(stores) == stores[1]
    with pytest.raises(
        UserError, match=r"cannot write .*file/prepared/a: Not a directory; choose another --data-dir"
    ):
        first_writable(stores[:1])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE])
def test_a_disk_that_is_full_is_not_avoided(tmp_path, monkeypatch, number):
    """Else what was asked for lies somewhere else, and is found by nobody who looks where the files are."""

    def full(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(writer, "open_lock", full)
    with pytest.raises(UserError, match=rf"cannot write {tmp_path}/a/x: {os.strerror(number)}; choose another"):
        first_writable([tmp_path / "a" / "x", tmp_path / "b" / "x"])
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_flock_the_named_holder_is_waited_for(path, monkeypatch, number):
    def flock(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    path.parent.mkdir()
    log = Log()
    file = path.with_name(f".{path.name}.lock")
    file.write_text(json.dumps({"pid": 77, "host": "elsewhere", "since": "today"}))
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: os.utime(file, (0, 0)))
    with exclusive(path, log):
        assert json.loads(file.read_bytes())["pid"] == os.getpid()
    assert file.read_bytes() == b""
    assert "is being prepared by process 77 on elsewhere" in log.lines[0] and "took over" in log.lines[1]


def test_a_fingerprint_of_maps_is_that_of_arrays(path):
    prepare(path)
    splits = [Split(images=pixels(12, 8, seed=seed), labels=LABELS) for seed in (0, 1)]
    assert Store.at(path).info.fingerprint == fingerprint(*splits)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"shape", b"sh(pe"), (b"{'descr'", b"{'des\0r'"), (b"(12, ", b"(92, "), (b"\x93NUMPY", b"PK\3\4PY\0")],
)
def test_damaged_headers(path, old, new):
    prepare(path)
    file = path / "train_images.npy"
    file.write_bytes(file.read_bytes().replace(old, new, 1))
    with pytest.raises(UserError, match=r"train_images.npy: missing, truncated or unreadable"):
        Store.at(path).open()


def test_an_archive_in_place_of_an_array(path):
    prepare(path)
    with (path / "train_images.npy").open("wb") as file:
        np.savez(file, a=1)
    with pytest.raises(UserError, match=r"train_images.npy: missing, truncated or unreadable"):
        Store.at(path).open()
