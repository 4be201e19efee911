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
from pathlib import Path

import pytest

from fastiseat import lock
from fastiseat import mounts as mounts_of
from fastiseat.checkpoint import RunDirectory
from fastiseat.errors import UserError
from fastiseat.lock import LOCK, locked
from fastiseat.mounts import is_local, kind_of
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
            r"since 20\d\d-\d\d-\d\dT\S+: wait for it, which --wait does, or choose another --out"
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


@pytest.fixture
def shared(monkeypatch):
    """The folder lies where other machines may write too."""
    monkeypatch.setattr(lock, "is_local", lambda folder: False)


def test_another_machine_holds_it_as_long_as_it_shows_signs_of_life(tmp_path, shared):
    left(tmp_path, host="elsewhere", seconds_ago=100)
    told = (
        "is being trained by process 77 on elsewhere, since 2026-01-01T00:00:00+00:00; its last sign of life is 100 s "
        "old, and at 120 s it counts as gone: wait for it, which --wait does, or choose another --out"
    )
    assert told in refusal(tmp_path)
    left(tmp_path, host="elsewhere", seconds_ago=130)
    (line,) = taken(tmp_path)
    assert re.search("took over the lock of process 77 on elsewhere, .*no sign of life for 13. s", line)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_under_another_name_on_a_file_system_of_this_machine_it_is_free_at_once(tmp_path):
    """A container that is started again has another name."""
    assert is_local(tmp_path) or not Path("/proc/self/mountinfo").exists()
    for seconds_ago in (0, 100, -(10**6)):
        left(tmp_path, host="elsewhere", seconds_ago=seconds_ago)
        assert taken(tmp_path) == []


def test_who_holds_it_under_another_name_still_holds_it(tmp_path, monkeypatch):
    with locked(tmp_path), monkeypatch.context() as patch:
        patch.setattr(lock.socket, "gethostname", lambda: "elsewhere")
        assert f"process {os.getpid()} on {HERE}" in refusal(tmp_path)


def test_a_sign_of_life_of_the_future_is_none(tmp_path, shared):
    left(tmp_path, host="elsewhere", seconds_ago=-100)  # a clock a little wrong
    assert "on elsewhere" in refusal(tmp_path)
    left(tmp_path, host="elsewhere", seconds_ago=-(10**6))
    (line,) = taken(tmp_path)
    assert line.endswith(
        "took over the lock of process 77 on elsewhere, since 2026-01-01T00:00:00+00:00, which shows "
        "one of the future"
    )


def test_signs_of_life_are_dated_by_the_file_servers_clock(tmp_path, shared, monkeypatch):
    left(tmp_path, host="elsewhere", seconds_ago=10)
    now = time.time()
    for skew in (-1000, 1000):
        monkeypatch.setattr(lock.time, "time", lambda skew=skew: now + skew)
        assert "sign of life is 10 s old" in refusal(tmp_path)


def test_waiting_begins_when_the_holder_ends_and_says_for_whom(tmp_path, shared, monkeypatch):
    left(tmp_path, host="elsewhere", seconds_ago=0)
    looks = []

    def look(seconds):
        looks.append(seconds)
        left(tmp_path, host="elsewhere", seconds_ago=130 if len(looks) == 3 else 0)

    monkeypatch.setattr(lock.time, "sleep", look)
    said = []
    with locked(tmp_path, say=said.append, wait=True):
        pass
    assert looks == [lock.POLL] * 3
    assert re.fullmatch(
        r".* is being trained by process 77 on elsewhere, since \S+: waiting for it to end", said[0]
    )
    assert "took over" in said[1] and len(said) == 2


def test_waiting_can_be_interrupted_and_leaves_the_holder_alone(tmp_path, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(lock.time, "sleep", interrupt)
    with locked(tmp_path):
        with pytest.raises(KeyboardInterrupt), locked(tmp_path, wait=True):
            pass
        assert f"process {os.getpid()} on {HERE}" in refusal(tmp_path)
    assert taken(tmp_path) == []


@pytest.mark.parametrize(
    ("mounts", "kind"),
    [
        ("1 0 {device} / / rw - ext4 /dev/sda1 rw", "ext4"),
        ("1 0 {device} / / rw shared:1 master:2 - nfs4 server:/home rw", "nfs4"),
        ("1 0 9:9 / / rw - ext4 a rw\n2 1 9:8 / {parent} rw - btrfs b rw", "btrfs"),  # a part of one
        ("1 0 {device} / / rw - ext4 a rw\n2 1 {device} / {folder} rw - lustre b rw", "lustre"),
        ("1 0 {device} / {folder} rw - ext4 a rw\n2 1 {device} / {folder} rw - fuse.sshfs b rw", "fuse.sshfs"),
        (
            "2 1 9:9 / {folder} rw - ext4 a rw\n1 0 {device} / {parent} rw - nfs b rw",
            "nfs",
        ),  # hidden by the later one
        ("1 0 {device} / /else rw - ext4 a rw", None),
        ("", None),
        ("nonsense\n1 2 3 - \n- -", None),
    ],
)
def test_the_kind_of_a_file_system(tmp_path, monkeypatch, mounts, kind):
    folder = tmp_path / "a folder"
    folder.mkdir()
    device = folder.stat().st_dev
    told = mounts.format(
        device=f"{os.major(device)}:{os.minor(device)}",
        parent=str(tmp_path),
        folder=str(folder).replace(" ", "\\040"),
    )
    monkeypatch.setattr(mounts_of, "MOUNTS", tmp_path / "mountinfo")
    (tmp_path / "mountinfo").write_text(told)
    assert kind_of(folder) == kind
    assert is_local(folder) == (kind in ("ext4", "btrfs"))
    (tmp_path / "mountinfo").unlink()
    assert kind_of(folder) is None and not is_local(folder)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_flock_the_content_alone_counts(tmp_path, monkeypatch, number):
    """Whatever the file system is."""
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
