"""Fetching from a home: checked, resumed, and never half a file under the final name. Loopback only."""

import hashlib
import os
import shutil
import socket
from pathlib import Path

import pytest
from home_server import serving

from fastiseat.errors import UserError
from fastiseat.pipelines.data import download
from fastiseat.pipelines.data.download import fetch
from fastiseat.pipelines.protocol.progress import SILENT
from fastiseat.pipelines.protocol.releases import File

CONTENT = bytes(range(256)) * 1000
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "_CHUNK", 10_000)


@pytest.fixture
def home_server():
    with serving({"/a.zip": CONTENT}) as server:
        yield server


@pytest.fixture
def file(home_server):
    return File(name="a.zip", url=f"{home_server.url}/a.zip", md5=MD5)


def refusal(file, folder):
    with pytest.raises(UserError) as caught:
        fetch(file, folder, SILENT)
    message = str(caught.value)
    assert "\n" not in message
    return message


def names(folder):
    return {path.name for path in folder.iterdir()}


class Log:
    def __init__(self):
        self.lines, self.counts = [], []

    def say(self, line):
        self.lines.append(line)

    def count(self, what, done, total):
        self.counts.append((done, total))


def test_a_file_is_fetched(tmp_path, file):
    log = Log()
    assert fetch(file, tmp_path / "new", log) == tmp_path / "new" / "a.zip"
    assert (tmp_path / "new" / "a.zip").read_bytes() == CONTENT and names(tmp_path / "new") == {"a.zip"}
    assert log.lines == [f"fetching {file.url} into {tmp_path / 'new'}"]
    assert log.counts[0] == (10_000, 256_000) and log.counts[-1] == (256_000, 256_000)


def test_what_is_here_is_not_fetched_again(tmp_path, file, home_server):
    fetch(file, tmp_path, SILENT)
    log = Log()
    fetch(file, tmp_path, log)
    assert len(home_server.requests) == 1 and log.lines == [f"{tmp_path / 'a.zip'} is here already"]


def test_another_file_of_the_name_is_kept(tmp_path, file, home_server):
    (tmp_path / "a.zip").write_bytes(b"mine")
    assert "a.zip is not the official file: move it away, or leave out --download" in refusal(file, tmp_path)
    assert (tmp_path / "a.zip").read_bytes() == b"mine" and not home_server.requests


def test_a_transfer_that_breaks_off_is_taken_up_again(tmp_path, file, home_server):
    home_server.drops = [100_000, 50_000]
    fetch(file, tmp_path, SILENT)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert [wanted for _, wanted in home_server.requests] == [None, "bytes=100000-", "bytes=150000-"]


def test_the_next_call_goes_on(tmp_path, file, home_server):
    home_server.drops = [100_000, 0]
    message = refusal(file, tmp_path)
    assert (
        "the connection broke off after 100,000 of 256,000 bytes; the same command goes on from there" in message
    )
    assert names(tmp_path) == {"a.zip.part"}
    fetch(file, tmp_path, SILENT)
    assert home_server.requests[-1] == ("/a.zip", "bytes=100000-")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT and names(tmp_path) == {"a.zip"}


def test_a_server_without_ranges_sends_all(tmp_path, file, home_server):
    (tmp_path / "a.zip.part").write_bytes(b"x" * 1000)
    home_server.ranges = False
    fetch(file, tmp_path, SILENT)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_part_that_is_whole_already(tmp_path, file):
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    fetch(file, tmp_path, SILENT)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("part", [b"x" * 1000, CONTENT + b"x"])
def test_a_part_of_another_file(tmp_path, file, part):
    (tmp_path / "a.zip.part").write_bytes(part)
    assert f"the release's has {MD5}; it was removed: try again" in refusal(file, tmp_path)
    assert names(tmp_path) == set()
    fetch(file, tmp_path, SILENT)


def test_a_wrong_md5(tmp_path, file, home_server):
    home_server.content["/a.zip"] = b"<html>moved</html>"
    found = hashlib.md5(b"<html>moved</html>").hexdigest()
    assert f"what came has MD5 {found}, the release's has {MD5}; it was removed" in refusal(file, tmp_path)
    assert names(tmp_path) == set()


def test_a_server_that_tells_no_length(tmp_path, file, home_server):
    home_server.tells_length = False
    log = Log()
    fetch(file, tmp_path, log)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT and log.counts[-1] == (256_000, 256_000)
    home_server.drops = [1000]
    (tmp_path / "a.zip").unlink()
    assert "what came has MD5" in refusal(file, tmp_path)


@pytest.mark.parametrize(("status", "words"), [(404, "404 Not Found"), (503, "503 Service Unavailable")])
def test_a_server_that_refuses(tmp_path, file, home_server, status, words):
    home_server.status = status
    assert refusal(file, tmp_path) == f"{file.url}: the server answers {words}; try again later"


def test_nobody_listens(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/a.zip"
    message = refusal(File(name="a.zip", url=url, md5=MD5), tmp_path)
    assert (
        message.startswith(f"{url}: the connection failed after 0 bytes (")
        and f"put it into {tmp_path}" in message
    )


def test_a_silent_server(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.zip"
        assert "timed out" in refusal(File(name="a.zip", url=url, md5=MD5), tmp_path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to(path.with_name("mine")), Path.mkdir])
def test_what_is_no_file_is_not_written_to(tmp_path, file, make):
    (tmp_path / "mine").write_bytes(b"precious")
    make(tmp_path / "a.zip.part")
    assert "a.zip.part" in refusal(file, tmp_path)
    assert (tmp_path / "mine").read_bytes() == b"precious"
    assert names(tmp_path) == {"mine", "a.zip.part"}


def test_a_disk_without_the_space(tmp_path, file, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert "256,000 bytes are to come and 1,000 are free; free space" in refusal(file, tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path, file):
    (tmp_path / "file").touch()
    assert f"cannot write {tmp_path / 'file' / 'x'}: " in refusal(file, Path(tmp_path, "file", "x"))
