"""Whatever happens while a run's file is written, it is complete or absent, and nothing else is left behind."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from fastiseat.checkpoint import write_atomically
from fastiseat.errors import UserError
from fastiseat.safe.writing import LEFT_OVER


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


def failing(number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


def test_a_write_replaces_the_whole_content(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    for content in (b"a long first version", b"short", b""):
        write_atomically(path, content)
        assert path.read_bytes() == content
        assert files_in(path.parent) == ["file"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_content_and_no_temporary_file(tmp_path, monkeypatch, where, number):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[where], failing(number))
    with pytest.raises(UserError, match=f"cannot write {path}: {os.strerror(number)}; .* choose another --out"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert files_in(tmp_path) == ["file"]


def test_an_interrupt_during_a_write_does_the_same(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert files_in(tmp_path) == ["file"]


def test_the_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(files_in(tmp_path)))
    write_atomically(tmp_path / "file", b"content")
    (temporary,), named = seen
    assert LEFT_OVER.fullmatch(temporary)
    assert named == ["file"]


def test_a_disk_that_fills_up(tmp_path):
    """A limit on a file's size stands for the disk: the write stops half-way."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = (
        "import sys; from pathlib import Path; from fastiseat.checkpoint import write_atomically\n"
        "write_atomically(Path(sys.argv[1]), bytes(100_000))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
        capture_output=True,
        text=True,
    )
    assert f"UserError: cannot write {path}: File too large" in result.stderr
    assert path.read_bytes() == b"old"
    assert files_in(tmp_path) == ["file"]


@pytest.mark.parametrize("where", ["/proc/no/file", "{tmp}/a-file/sub/file", "{tmp}/" + 300 * "a"])
def test_a_place_that_can_not_be_written(tmp_path, where):
    (tmp_path / "a-file").touch()
    with pytest.raises(UserError, match=r"cannot write .*; free space or choose another --out"):
        write_atomically(Path(where.format(tmp=tmp_path)), b"content")


def test_a_folder_without_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "open", failing(errno.EACCES))  # root may write anywhere
    with pytest.raises(UserError, match=r"cannot write .*: Permission denied"):
        write_atomically(tmp_path / "file", b"content")
