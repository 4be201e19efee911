"""Prepared data is compared with its source: every kind of files, every form, every change."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from source_kinds import CHANGES, KINDS
from tiny_releases import jpeg

from fastiseat.errors import UserError
from fastiseat.pipelines.data import datasets, freshness, listing
from fastiseat.pipelines.data import prepare as prepare_module
from fastiseat.pipelines.data.locations import OWN
from fastiseat.pipelines.data.prepare import current_store, find_store, prepare
from fastiseat.pipelines.data.prepare_encoded import encode
from fastiseat.pipelines.data.readers import read_source
from fastiseat.pipelines.loaders.choose import ensure_beton
from fastiseat.pipelines.protocol.releases import RELEASES
from fastiseat.pipelines.stores import writer
from fastiseat.pipelines.stores.beton import PREPARED_AS
from fastiseat.pipelines.stores.store import Store
from fastiseat.safe import open_lock


class Log:
    def __init__(self):
        self.lines, self.read = [], 0

    def say(self, line):
        self.lines.append(line)

    def count(self, what, done, total):
        self.read += what == "source files compared"


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def every_form(kind, root):
    """Make all forms of it, and say which fingerprint each is of."""
    log = Log()
    whole = datasets.load(kind.named(root), data_dir=root, progress=log)
    found = {"resident": whole.fingerprint}
    if kind.jpeg:
        found["jpeg"] = encode(Store.at(whole.prepared)).info.fingerprint
    for images, form in PREPARED_AS.items():
        if form in kind.forms:
            found[form] = ensure_beton(whole, images, data_dir=root).info.fingerprint
    return found, log


def test_the_kinds_are_all_that_there_are():
    assert {kind.name.partition(":")[0] for kind in KINDS.values()} == {*RELEASES, *OWN}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_reaches_every_form(kind, root, change):
    kind.place(root)
    before, _ = every_form(kind, root)
    store = find_store(kind.named(root), data_dir=root)
    assert set(before) == set(kind.forms) and set(before.values()) == {store.info.fingerprint}
    kind.place(root, change)
    if change == "removed" and not kind.readable_with_less:
        with pytest.raises(UserError) as caught:
            every_form(kind, root)
        assert f"({store.path} still holds what was prepared" in str(caught.value)
        assert Store.at(store.path) == store
        return
    after, log = every_form(kind, root)
    assert set(after.values()) == {Store.at(store.path).info.fingerprint}
    first, *rest = log.lines
    source = freshness.examine(store).source
    assert first.startswith(f"{kind.named(root)}: {source} has changed since it was prepared (")
    assert first.endswith("; preparing it anew")
    for form in kind.forms[1:]:
        assert any(f"removed {store.path}.{form}: " in line for line in rest)
    assert _fresh_fingerprint(kind, root) in after.values() and store.info.fingerprint not in after.values()
    assert every_form(kind, root)[1].lines == []


def _fresh_fingerprint(kind, root):
    """Of the changed files, prepared where nothing is prepared yet."""
    other = root.parent / "other"
    other.mkdir()
    source = None if ":" in kind.name else root / kind.source
    return prepare(kind.named(root), data_dir=other, source=source).info.fingerprint


def test_touched_files_are_read_once_and_nothing_is_prepared_again(kind, root):
    kind.place(root)
    before, _ = every_form(kind, root)
    inodes = [path.stat().st_ino for path in (root / "prepared").iterdir()]
    kind.touch(root)
    after, log = every_form(kind, root)
    assert after == before and log.lines == [] and log.read > 0
    assert [path.stat().st_ino for path in (root / "prepared").iterdir()] == inodes
    assert every_form(kind, root)[1].read == 0


def test_an_unchanged_source_is_not_read(kind, root):
    kind.place(root)
    before, _ = every_form(kind, root)
    after, log = every_form(kind, root)
    assert after == before and log.lines == [] and log.read == 0


def test_a_source_that_is_gone_altogether_is_no_change(kind, root):
    kind.place(root)
    before, _ = every_form(kind, root)
    kind.remove(root)
    after, log = every_form(kind, root)
    assert after == before and log.lines == []


def test_what_keeps_size_and_time_is_found_by_a_thorough_look_alone(kind, root):
    kind.place(root)
    store = prepare(kind.named(root), data_dir=root)
    source = freshness.examine(store).source
    file = max((path for path in (source, *source.rglob("*")) if path.is_file() and "prepared" not in path.parts),
               key=lambda path: path.stat().st_size)  # fmt: skip
    found, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert freshness.examine(store).state == "same"
    thorough = freshness.examine(store, thorough=True)
    assert thorough.state == "changed" and thorough.changes.altered[0].endswith(file.name)


def test_a_store_that_does_not_tell_is_compared_once(kind, root):
    kind.place(root)
    store = prepare(kind.named(root), data_dir=root)
    (store.path / freshness.FILE).unlink()
    inode, log = store.path.stat().st_ino, Log()
    assert current_store(kind.named(root), data_dir=root, progress=log) == store
    (line,) = log.lines
    assert line.startswith(f"{store.path}: does not tell what ") and line.endswith(
        " held; comparing all images, once"
    )
    again = Log()
    assert current_store(kind.named(root), data_dir=root, progress=again) == store
    assert again.lines == [] and store.path.stat().st_ino == inode
    (store.path / freshness.FILE).write_text("{")
    kind.place(root, "label")
    assert current_store(kind.named(root), data_dir=root).info.fingerprint != store.info.fingerprint
    (store.path / freshness.FILE).unlink()
    kind.remove(root)
    assert current_store(kind.named(root), data_dir=root, progress=again) and again.lines == []


_opened: list[str] | None = None


def _hear(event, arguments):
    if event == "open" and _opened is not None and isinstance(arguments[0], str | bytes | os.PathLike):
        _opened.append(os.fsdecode(arguments[0]))


sys.addaudithook(_hear)


def test_the_listing_has_every_file_that_the_reader_opens(kind, root, monkeypatch):
    """A reader that comes to read another file must have it listed, or a change in it would go unseen."""
    kind.place(root)
    name = kind.named(root)
    source = freshness.examine(prepare(name, data_dir=root)).source
    listed = {
        str(source if source.is_file() else source / file) for file in listing.scan(_kind(name), source).files()
    }
    monkeypatch.setattr(sys.modules[__name__], "_opened", [])
    with read_source(_kind(name), source, None) as content:
        for split in (content.train, content.test):
            list(split.blocks())
    inside = {path for path in _opened if Path(path).is_relative_to(source) and not Path(path).is_dir()}
    assert inside and inside == listed


def _kind(name):
    return name.partition(":")[0]


@pytest.fixture
def cifar(root):
    KINDS["cifar10 tree"].place(root)
    return KINDS["cifar10 tree"]


@pytest.fixture
def own(root):
    KINDS["imagefolder"].place(root)
    return root / "own"


def changed(root, name):
    log = Log()
    current_store(name, data_dir=root, progress=log)
    return log.lines[0].partition("prepared (")[2].removesuffix("); preparing it anew") if log.lines else ""


def test_what_changed_is_told(root, own):
    name = f"imagefolder:{own}"
    prepare(name, data_dir=root)
    (own / "train/cat/1.jpg").rename(own / "train/dog/9.jpg")
    assert changed(root, name) == "1 added, 1 removed: train/dog/9.jpg, train/cat/1.jpg"
    for number in range(4):
        (own / f"train/dog/x{number}.jpg").write_bytes(jpeg(seed=number, size=(16, 16)))
    assert changed(root, name) == "4 added: train/dog/x0.jpg, train/dog/x1.jpg, train/dog/x2.jpg, …"
    (own / "train/cat/0.jpg").write_bytes(jpeg(seed=50, size=(16, 16)))
    assert changed(root, name) == "1 altered: train/cat/0.jpg"


def test_what_is_not_read_is_no_change(root, own):
    name = f"imagefolder:{own}"
    prepare(name, data_dir=root)
    (own / "train/cat/notes.txt").write_text("x")
    (own / "train/.cache").mkdir()
    (own / "train/cat/.hidden.jpg").write_bytes(b"")
    (own / "val/cat").mkdir(parents=True)
    (own / "val/cat/0.jpg").write_bytes(b"")
    assert changed(root, name) == ""


def test_a_new_class_without_images_is_told_by_the_reader(root, own):
    name = f"imagefolder:{own}"
    store = prepare(name, data_dir=root)
    (own / "train/owl").mkdir()
    with pytest.raises(UserError, match=r"owl.*still holds what was prepared of .*own before it changed"):
        current_store(name, data_dir=root)
    assert Store.at(store.path) == store


def test_a_renamed_class_is_prepared_anew_with_its_name(root, own):
    name = f"imagefolder:{own}"
    prepare(name, data_dir=root)
    for split in ("train", "test"):
        (own / split / "dog").rename(own / split / "hound")
    assert current_store(name, data_dir=root).info.class_names == ("cat", "hound")


def test_resized_images_keep_their_size(root, own):
    name = f"imagefolder:{own}"
    prepare(name, data_dir=root, image_size=6)
    (own / "train/cat/1.jpg").unlink()
    store = current_store(name, data_dir=root)
    assert store.info.train_shape == (3, 6, 6, 3) and store.info.image_size == 6


def test_a_folder_that_moved_or_was_copied_with_its_arrays(root, cifar, tmp_path):
    store = prepare("cifar10", data_dir=root)
    shutil.copytree(root, tmp_path / "copy")
    assert freshness.read_record(store.path).where == cifar.source
    cifar.place(tmp_path / "copy", "content")
    assert changed(tmp_path / "copy", "cifar10") == "1 altered: data_batch_1"
    assert changed(root, "cifar10") == ""
    root.rename(tmp_path / "moved")
    assert changed(tmp_path / "moved", "cifar10") == ""
    cifar.place(tmp_path / "moved", "content")
    assert changed(tmp_path / "moved", "cifar10") == "1 altered: data_batch_1"


def test_a_link_that_points_elsewhere_now(root, cifar, tmp_path):
    (root / cifar.source).rename(tmp_path / "one")
    cifar.place(root, "content")
    (root / cifar.source).rename(tmp_path / "other")
    (root / cifar.source).symlink_to(tmp_path / "one")
    prepare("cifar10", data_dir=root)
    (root / cifar.source).unlink()
    (root / cifar.source).symlink_to(tmp_path / "other")
    assert changed(root, "cifar10") == "1 altered: data_batch_1"


def test_a_named_source_is_compared_where_it_lies(root, cifar, tmp_path):
    (root / cifar.source).rename(tmp_path / "elsewhere")
    prepare("cifar10", data_dir=root, source=tmp_path / "elsewhere")
    cifar.place(root, "content")
    assert changed(root, "cifar10") == ""
    shutil.rmtree(tmp_path / "elsewhere")
    (root / cifar.source).rename(tmp_path / "elsewhere")
    assert changed(root, "cifar10") == "1 altered: data_batch_1"


def test_an_archive_that_was_unpacked_and_deleted_is_gone(root):
    KINDS["cifar10 archive"].place(root)
    prepare("cifar10", data_dir=root)
    KINDS["cifar10 archive"].remove(root)
    KINDS["cifar10 tree"].place(root, "content")
    assert changed(root, "cifar10") == ""


def test_a_stale_store_that_cannot_be_written_gives_way_to_one_in_the_cache(root, cifar, home, monkeypatch):
    stale = prepare("cifar10", data_dir=root)
    cifar.place(root, "content")

    def refuse(path):
        if path.is_relative_to(root):
            raise PermissionError(13, "Permission denied")
        return open_lock(path)

    monkeypatch.setattr(writer, "open_lock", refuse)
    log = Log()
    fresh = current_store("cifar10", data_dir=root, progress=log)
    assert fresh.path.parent == home / ".cache" / "fastiseat" / "prepared" and "has changed" in log.lines[0]
    assert fresh.info.fingerprint != stale.info.fingerprint and Store.at(stale.path) == stale
    again = Log()
    assert current_store("cifar10", data_dir=root, progress=again) == fresh and again.lines == []
    hinted = current_store("cifar10", prepared=stale.path, progress=again)
    assert hinted.info.fingerprint == fresh.info.fingerprint


def test_two_processes_that_see_the_change_prepare_it_once(root, cifar, monkeypatch):
    prepare("cifar10", data_dir=root)
    cifar.place(root, "content")
    exclusive, made = writer.exclusive, []

    def late(path, progress):
        monkeypatch.setattr(prepare_module, "exclusive", exclusive)
        made.append(current_store("cifar10", data_dir=root))
        monkeypatch.setattr(prepare_module, "write", None)
        return exclusive(path, progress)

    monkeypatch.setattr(prepare_module, "exclusive", late)
    assert [current_store("cifar10", data_dir=root)] == made


def test_a_failure_while_preparing_anew_keeps_the_old_arrays(root, cifar, monkeypatch):
    store = prepare("cifar10", data_dir=root)
    before = store.open().train.images.copy()
    cifar.place(root, "content")
    monkeypatch.setattr(writer, "write_whole", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(UserError, match="No space left"):
        current_store("cifar10", data_dir=root)
    assert Store.at(store.path) == store and np.array_equal(store.open().train.images, before)


def test_a_file_that_changes_while_it_is_read_is_noticed_next_time(root, cifar, monkeypatch):
    real = read_source

    def changing(*arguments):
        cifar.place(root, "content")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "read_source", changing)
        prepare("cifar10", data_dir=root)
    assert freshness.examine(find_store("cifar10", data_dir=root)).state == "changed"


def test_arrays_that_are_replaced_while_they_are_opened(root, cifar):
    store = prepare("cifar10", data_dir=root)
    cifar.place(root, "content")
    prepare("cifar10", data_dir=root)
    with pytest.raises(UserError, match="another process has just prepared it anew; give the command again"):
        store.open()


def test_expected_arrays_are_never_made_anew(root, cifar):
    store = prepare("cifar10", data_dir=root)
    cifar.place(root, "content")
    with pytest.raises(UserError) as caught:
        datasets.load("cifar10", data_dir=root, expected=store.info.fingerprint)
    assert str(caught.value) == (
        f"{root}/{cifar.source} has changed (1 altered: data_batch_1) since the run's images, of the fingerprint "
        f"{store.info.fingerprint}, were prepared from it: bring it back, move it away to use what is still in "
        f"{store.path}, or take what it holds now (train: another --out; eval: --dataset)"
    )
    assert Store.at(store.path) == store
    cifar.remove(root)
    assert datasets.load("cifar10", data_dir=root, expected=store.info.fingerprint).prepared == store.path


def test_a_store_is_found_by_its_place(root, cifar, home):
    store = prepare("cifar10", data_dir=root)
    assert datasets.load("cifar10", prepared=store.path).prepared == store.path
    shutil.rmtree(store.path)
    assert datasets.load("cifar10", prepared=store.path).prepared == store.path
    with pytest.raises(UserError, match="cifar10 is not in"):
        datasets.load("cifar10", prepared=home / "prepared" / "cifar10")
    with pytest.raises(UserError, match="cifar100 is not in"):
        datasets.load("cifar100", prepared=store.path)


def test_names_for_every_folder(root, monkeypatch):
    monkeypatch.chdir(root)
    assert datasets.absolute("imagefolder:own") == f"imagefolder:{root}/own"
    assert [datasets.absolute(name) for name in datasets.DATASETS] == list(datasets.DATASETS)
