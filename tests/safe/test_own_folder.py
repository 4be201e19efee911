import os

import pytest

from fastiseat.errors import UserError
from fastiseat.safe import OwnFolder, write_atomically


@pytest.fixture
def mine(tmp_path):
    """A file outside, which nobody may change."""
    path = tmp_path / "mine"
    path.write_bytes(b"precious")
    yield path
    assert path.read_bytes() == b"precious"
    assert not path.is_symlink()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    return OwnFolder(tmp_path / "run")


def test_a_link_in_a_files_place_is_replaced(folder, mine):
    (folder.path / "config.json").symlink_to(mine)
    folder.write("config.json", b"new")
    assert not (folder.path / "config.json").is_symlink()
    assert (folder.path / "config.json").read_bytes() == b"new"


@pytest.mark.parametrize("below", ["weights", "a/b"])
def test_a_link_in_a_folders_place_is_refused(folder, tmp_path, below):
    outside = tmp_path / "outside"
    outside.mkdir()
    link = folder.path / below
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside)
    with pytest.raises(UserError, match=f"{below} is a symbolic link, and nothing is written through one"):
        folder.write(f"{below}/best.safetensors", b"new")
    assert not list(outside.iterdir())


def test_what_links_to_nowhere_is_not_made(folder, tmp_path):
    (folder.path / "weights").symlink_to(tmp_path / "new")
    with pytest.raises(UserError):
        folder.write("weights/best", b"new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("target", ["mine", "new"])
def test_a_lock_is_no_link(folder, mine, tmp_path, target):
    (folder.path / ".lock").symlink_to(tmp_path / target)
    with pytest.raises(UserError, match="is a symbolic link"):
        folder.open_lock(".lock")
    assert not (tmp_path / "new").exists()


def test_a_lock_is_a_file(folder):
    os.mkfifo(folder.path / ".lock")
    with pytest.raises(UserError, match="is no file: remove it"):
        folder.open_lock(".lock")


def test_the_folder_itself_may_be_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    OwnFolder(tmp_path / "link").write("weights/best", b"new")
    assert (tmp_path / "real" / "weights" / "best").read_bytes() == b"new"


def test_a_temporary_name_can_not_be_guessed(tmp_path, mine, monkeypatch):
    """Where it could, a link of that name would be written through."""
    names = set()
    rename = type(tmp_path).replace

    def note(path, target):
        names.add(path.name)
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask()
        return rename(path, target)

    monkeypatch.setattr(type(tmp_path), "replace", note)
    for _ in range(20):
        write_atomically(tmp_path / "file", b"x")
    assert len(names) == 20
    assert not any(str(os.getpid()) == name.split(".")[-2] for name in names)


def umask():
    found = os.umask(0)
    os.umask(found)
    return found


def test_a_temporary_file_is_made_anew(tmp_path, mine, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 16)
    (tmp_path / f".file.{'0' * 16}.tmp").symlink_to(mine)
    with pytest.raises(UserError, match="cannot write"):
        write_atomically(tmp_path / "file", b"x")


def test_a_sweep_takes_left_overs_and_nothing_else(folder, tmp_path, mine):
    outside = tmp_path / "outside"
    outside.mkdir()
    left = ".best.safetensors.0123456789abcdef.tmp"
    for place in (folder.path, folder.folder("weights"), outside):
        for name in (left, ".results.json.4711.tmp", ".lock", "x.tmp", ".notes.tmp"):
            (place / name).write_bytes(b"")
    (folder.path / "linked").symlink_to(outside)
    (folder.path / ".link.0000000000000000.tmp").symlink_to(mine)
    for name in ("", "weights", "linked", "missing"):
        folder.sweep(name)
    kept = {".lock", "x.tmp", ".notes.tmp"}
    assert {path.name for path in (folder.path / "weights").iterdir()} == kept
    assert {path.name for path in folder.path.iterdir()} == kept | {
        "weights",
        "linked",
        ".link.0000000000000000.tmp",
    }
    assert len(list(outside.iterdir())) == 5


def test_a_killed_write_leaves_what_a_sweep_takes(folder, monkeypatch):
    """The name that is written under is one that is swept."""
    monkeypatch.setattr(type(folder.path), "replace", lambda *paths: os._exit(0))
    child = os.fork()
    if not child:
        folder.write("weights/best", b"new")
    os.waitpid(child, 0)
    assert len(folder.sweep("weights")) == 1
    assert not list((folder.path / "weights").iterdir())


def test_whether_it_can_be_written_is_found_out_without_a_trace(tmp_path):
    folder = OwnFolder(tmp_path / "run")
    for name in ("", "weights", "a/b"):
        folder.require_writable(name)
        assert not list(tmp_path.iterdir())
    folder.folder()
    for obstacle in (lambda path: path.write_bytes(b""), lambda path: path.symlink_to(tmp_path)):
        obstacle(folder.path / "weights")
        with pytest.raises(UserError, match=r"weights(: Not a directory| is a symbolic link)"):
            folder.require_writable("weights")
        (folder.path / "weights").unlink()
    assert not list(folder.path.iterdir())
