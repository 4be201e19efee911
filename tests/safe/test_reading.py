import os
import signal
import socket
from pathlib import Path

import pytest

from fastiseat.safe import open_file, read_file


@pytest.fixture(autouse=True)
def no_waiting():
    """A reader that waits is interrupted and fails."""

    def stop(number, frame):
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def fifo(path):
    os.mkfifo(path)


def bound_socket(path):
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))


def device(path):
    path.symlink_to("/dev/zero")


def folder(path):
    path.mkdir()


@pytest.mark.parametrize("make", [fifo, bound_socket, device, folder])
def test_only_a_regular_file_is_read(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    path = tmp_path / "x"
    make(Path("x"))
    with pytest.raises(OSError, match="it is a") as raised:
        read_file(path)
    assert raised.value.filename == str(path)
    assert raised.value.strerror  # what callers quote


def test_a_file_is_no_longer_than_its_kind(tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(50 * 10**9)
    with pytest.raises(OSError, match=r"it has 50,000,000,000 bytes, and one of its kind at most 1,000"):
        open_file(path, most=1000)
    path.write_bytes(b"x" * 1000)
    assert read_file(path, most=1000) == b"x" * 1000


def test_a_file_that_tells_no_length_is_bounded_too():
    with pytest.raises(OSError, match="at most 10"):
        read_file(Path("/proc/self/maps"), most=10)


def test_links_are_followed_and_what_is_missing_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_file(tmp_path / "link") == b"content"
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "nothing")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        read_file(tmp_path / "loop")


def test_no_descriptor_is_left_open(tmp_path):
    os.mkfifo(tmp_path / "x")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(OSError, match="a named pipe"):
            open_file(tmp_path / "x")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
