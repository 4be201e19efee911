"""Two runs, one directory: the second is refused by name, and a dead run's lock is nobody's."""

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from fastiseat import lock
from fastiseat.checkpoint import RunDirectory
from fastiseat.errors import UserError
from fastiseat.lock import LOCK, locked
from fastiseat.recipes import recipe

HERE = socket.gethostname()
HOLDING = "import sys, pathlib, fastiseat.lock as lock\nwith lock.locked(pathlib.Path(sys.argv[1])):\n"


def left(folder, *, host, seconds_ago):
    """What a holder wrote, and touched last that long ago."""
    folder.mkdir(exist_ok=True)
    path = folder / LOCK
    path.write_text(json.dumps({"pid": 77, "host": host, "since": "2026-01-01T00:00:00+00:00"}))
    moment = time.time() - seconds_ago
    os.utime(path, (moment, moment))
    return path


def taken(folder):
    said = []
    with locked(folder, say=said.append):
        assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()
    assert (folder / LOCK).read_bytes() == b""
    return said


def refusal(folder):
    content = (folder / LOCK).read_bytes()
    with pytest.raises(UserError) as refused, locked(folder, say=lambda line: pytest.fail(line)):
        pass
    assert (folder / LOCK).read_bytes() == content
    return str(refused.value)


def without_flock(monkeypatch, number):
    def flock(file, operation):
        if operation != lock.fcntl.LOCK_UN:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "flock", flock)


def test_the_second_is_told_who_holds_the_directory(tmp_path):
    run = tmp_path / "runs" / "x"
    with locked(run):
        expected = (
            f"{re.escape(str(run))} is being trained by process {os.getpid()} on {HERE}, "
            r"since 20\d\d-\d\d-\d\dT\S+: wait for it, or choose another --out"
        )
        assert re.fullmatch(expected, refusal(run))
        RunDirectory.open(run, recipe(), resume=False)  # still counts as empty
    assert taken(run) == []
    RunDirectory.open(run, recipe(), resume=False)


def test_an_error_in_the_block_frees_it(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        1 / 0  # noqa: B018
    assert taken(tmp_path) == []


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    code = HOLDING + "    print('held', flush=True)\n    input()"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        assert f"process {other.pid} on {HERE}" in refusal(tmp_path)
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert b"pid" in (tmp_path / LOCK).read_bytes()
    assert taken(tmp_path) == []


def test_a_forked_process_that_lives_on_does_not_hold_it(tmp_path):
    child = "    child = os.fork()\n    if not child:\n        os.close(1)\n        time.sleep(60)\nprint(child)"
    code = f"import os, time\n{HOLDING}{child}"
    output = subprocess.run([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, timeout=30)
    try:
        assert taken(tmp_path) == []
    finally:
        os.kill(int(output.stdout), signal.SIGKILL)


def test_another_machine_holds_it_as_long_as_it_shows_signs_of_life(tmp_path):
    left(tmp_path, host="elsewhere", seconds_ago=100)
    message = "is being trained by process 77 on elsewhere, since 2026-01-01T00:00:00+00:00: wait for it, or"
    assert message in refusal(tmp_path)
    left(tmp_path, host="elsewhere", seconds_ago=130)
    (line,) = taken(tmp_path)
    assert re.search("took over the lock of process 77 on elsewhere, .*no sign of life for 13. s", line)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_flock_the_content_alone_counts(tmp_path, monkeypatch, number):
    without_flock(monkeypatch, number)
    with locked(tmp_path):
        assert f"process {os.getpid()} on {HERE}" in refusal(tmp_path)
    assert taken(tmp_path) == []
    left(tmp_path, host=HERE, seconds_ago=100)
    assert f"process 77 on {HERE}" in refusal(tmp_path)
    left(tmp_path, host=HERE, seconds_ago=130)
    assert len(taken(tmp_path)) == 1


def test_what_makes_no_sense_holds_nothing(tmp_path):
    for content in (b"\xff", b"{", b"[]", b"{}", b"5", b"[" * 4000, b'{"pid": 1e999, "host": "a", "since": "b"}'):
        (tmp_path / LOCK).write_bytes(content)
        assert taken(tmp_path) == []
    left(tmp_path, host="a\n\x1b[2J", seconds_ago=0)
    assert taken(tmp_path) == []


def test_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    threads = threading.active_count()
    with locked(tmp_path):
        os.utime(tmp_path / LOCK, (0, 0))
        deadline = time.monotonic() + 10
        while (tmp_path / LOCK).stat().st_mtime < time.time() - 100:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert threading.active_count() == threads


def test_who_was_taken_over_leaves_the_new_holder_alone(tmp_path):
    with locked(tmp_path):
        path = left(tmp_path, host="elsewhere", seconds_ago=0)
    assert b"elsewhere" in path.read_bytes()


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"cannot write .*file: File exists; mend"),
        locked(tmp_path / "file"),
    ):
        pass

    def denied(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(lock.os, "open", denied)
    with pytest.raises(UserError, match=r".lock: Read-only file system; mend that, or"), locked(tmp_path):
        pass
