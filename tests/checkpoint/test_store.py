"""The store of checkpoints: what it reads back, whatever happened to the files or to the process that wrote them."""

import errno
import os
import pickle
import resource
import subprocess
import sys
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from devices import DEVICES

from fastiseat.checkpoint import store as module
from fastiseat.checkpoint.fileformat import DamagedError, read
from fastiseat.checkpoint.store import Checkpoints
from fastiseat.errors import UserError
from fastiseat.safe import OwnFolder
from fastiseat.safe.writing import LEFT_OVER

SAVE = (
    "import sys, torch; from pathlib import Path; from fastiseat.checkpoint.store import Checkpoints\n"
    "store = Checkpoints(Path(sys.argv[1]))\n"
)


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


def name(step):
    return f"step-{step:09d}.ckpt"


def failing(number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


def saved(folder, *steps, keep=2):
    """A store in which each of ``steps`` was saved; its state says which."""
    checkpoints = Checkpoints(folder, keep=keep)
    for step in steps:
        checkpoints.save({"step": step, "w": torch.full((1000,), float(step))}, step=step)
    checkpoints.close()
    return checkpoints


@pytest.mark.parametrize("device", DEVICES)
def test_a_state_comes_back_as_it_was(tmp_path, device):
    tensors = [
        torch.randn(3, 4, 5, 6).to(memory_format=torch.channels_last),
        torch.randn(10, 10)[::2, 3],
        torch.tensor(7),
        torch.zeros(0, 3, dtype=torch.bfloat16),
        torch.nn.Parameter(torch.ones(2)),
    ]
    tensors = [tensor.to(device) for tensor in tensors]
    state = OrderedDict(model=OrderedDict(w=tensors[0]), list=[1, 2.5, "a", None, True, {3: tensors}])
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(state, step=12)
    found = checkpoints.latest()
    assert (found.step, found.path, found.skipped) == (12, tmp_path / "checkpoints" / name(12), ())
    assert found.state["list"][:-1] == [1, 2.5, "a", None, True]
    read_back = found.state["list"][-1][3]
    assert all(map(torch.equal, read_back, [tensor.cpu() for tensor in tensors]))
    assert [(each.dtype, each.device.type) for each in read_back] == [(each.dtype, "cpu") for each in tensors]
    assert found.state["model"]["w"].is_contiguous(memory_format=torch.channels_last)
    assert found.path.stat().st_size < 10_000, "a slice is stored without what lies around it"


@pytest.mark.parametrize("part", [(1, 2), np.float64(1), object(), {(1, 2): 3}])
def test_what_would_not_be_read_again_is_not_written(tmp_path, part):
    with pytest.raises(AssertionError):
        Checkpoints(tmp_path).save({"list": [part]}, step=1)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("device", DEVICES)
def test_a_state_may_change_as_soon_as_save_returns(tmp_path, monkeypatch, device):
    goes_on, write = threading.Event(), OwnFolder.write
    monkeypatch.setattr(OwnFolder, "write", lambda *args: goes_on.wait() and write(*args))
    weights, rows = torch.ones(1_000_000, device=device), [{"loss": 1.0}]
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"w": weights, "rows": rows}, step=1)
    weights.zero_()
    rows[0]["loss"] = 0.0
    rows.append({})
    goes_on.set()
    state = checkpoints.latest().state
    assert state["w"].eq(1).all()
    assert state["rows"] == [{"loss": 1.0}]


def test_one_snapshot_is_pending_at_a_time(tmp_path, monkeypatch):
    events = []
    encode, snapshot = module.encode, module.Snapshot
    monkeypatch.setattr(
        module, "encode", lambda *args, **more: (encode(*args, **more), events.append("written"))[0]
    )
    monkeypatch.setattr(module, "Snapshot", lambda state: (events.append("copied"), snapshot(state))[1])
    saved(tmp_path, 1, 2, 3)
    assert events == ["copied", "written"] * 3
    assert not [thread for thread in threading.enumerate() if thread.name == "checkpoint"]


def test_the_last_few_are_kept(tmp_path):
    for keep in (1, 2, 3):
        checkpoints = saved(tmp_path / str(keep), 5, 10, 1_000_000_000, 1_000_000_001, keep=keep)
        kept = [10, 1_000_000_000, 1_000_000_001][-keep:]
        assert files_in(tmp_path / str(keep)) == sorted(map(name, kept))
        assert checkpoints.latest().step == 1_000_000_001
        assert checkpoints.size() == sum((tmp_path / str(keep) / name(step)).stat().st_size for step in kept)


def test_an_older_one_is_removed_only_when_the_new_one_is_durable(tmp_path, monkeypatch):
    seen, fsync = [], os.fsync
    saved(tmp_path, 1, keep=1)
    monkeypatch.setattr(os, "fsync", lambda file: (seen.append(files_in(tmp_path)), fsync(file)))
    saved(tmp_path, 2, keep=1)
    (temporary, first), durable = seen
    assert LEFT_OVER.fullmatch(temporary) and temporary.startswith(f".{name(2)}.")
    assert (first, durable) == (name(1), [name(1), name(2)])
    assert files_in(tmp_path) == [name(2)]


def test_nothing_there_is_none(tmp_path):
    (tmp_path / "notes.txt").touch()
    (tmp_path / f".{name(3)}.99.tmp").touch()
    for folder in (tmp_path, tmp_path / "missing"):
        assert Checkpoints(folder).latest() is None
        assert Checkpoints(folder).size() == 0
    assert not (tmp_path / "missing").exists()


def test_leftovers_go_when_the_store_is_written_and_not_before(tmp_path):
    saved(tmp_path, 1)
    (tmp_path / f".{name(2)}.99.tmp").touch()
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest().step == 1
    assert len(files_in(tmp_path)) == 2
    checkpoints.save({}, step=3)
    checkpoints.flush()
    assert files_in(tmp_path) == [name(1), name(3)]


def damaged_at(content, place):
    return content[:place] + bytes([content[place] ^ 0x20]) + content[place + 1 :]


def test_a_flipped_bit_is_found_wherever_it_is(tmp_path):
    saved(tmp_path, 0)
    path = tmp_path / name(1)
    content = b"".join(module.encode({"w": torch.randn(50_000), "rows": [{"loss": 0.5}]}, step=1))
    header = content.index(b"\n") + 1
    for place in [
        *range(header + 1),
        *range(header, len(content), 1024),
        *range(len(content) - 100, len(content)),
    ]:
        path.write_bytes(damaged_at(content, place))
        with pytest.raises(DamagedError):
            read(path)
    assert Checkpoints(tmp_path).latest().step == 0
    path.write_bytes(content)
    assert Checkpoints(tmp_path).latest().step == 1


def test_a_wrong_length_is_found(tmp_path):
    saved(tmp_path, 1, 2)
    path = tmp_path / name(2)
    content = path.read_bytes()
    for length in [*range(200), *range(200, len(content), 37), *range(len(content) - 20, len(content))]:
        path.write_bytes(content[:length])
        with pytest.raises(DamagedError):
            read(path)
    path.write_bytes(content + b"\0")
    found = Checkpoints(tmp_path).latest()
    assert (found.step, found.state["step"]) == (1, 1)
    length = len(content) - content.index(b"\n") - 1
    assert found.skipped == (f"{path} is damaged: it holds {length + 1:,} bytes of {length:,}",)


def test_a_header_that_lies_takes_no_memory(tmp_path):
    for claim in (10**15, 10**17):
        (tmp_path / name(1)).write_bytes(
            f"fastiseat checkpoint, format 1, step 1, {claim} bytes, sha256 {'0' * 64}\n".encode() + bytes(100)
        )
        with pytest.raises(UserError, match=f"it holds 100 bytes of {claim:,}; remove {tmp_path} to start afresh"):
            Checkpoints(tmp_path).latest()
    (tmp_path / name(1)).write_bytes(bytes(100_000))
    with pytest.raises(UserError, match="it does not begin as a checkpoint"):
        Checkpoints(tmp_path).latest()


def test_another_format_is_said_to_be_one(tmp_path):
    saved(tmp_path, 1)
    (tmp_path / name(2)).write_bytes(b"fastiseat checkpoint, format 2, and whatever that says\n")
    assert Checkpoints(tmp_path).latest().skipped == (
        f"{tmp_path / name(2)} is damaged: it has format 2, and this fastiseat reads format 1",
    )


def test_a_run_that_went_on_before_a_damaged_one_leaves_it_behind(tmp_path):
    """Else it would hide the newer checkpoints for ever, or push them out."""
    saved(tmp_path, 1, 2, 3)
    (tmp_path / name(3)).write_bytes(b"")
    saved(tmp_path, 2, keep=1)
    assert files_in(tmp_path) == [name(2)]


class Malice:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("payload", ["torch", "pickle", "checksummed"])
def test_nothing_in_a_file_is_executed(tmp_path, payload):
    folder, target = tmp_path / "checkpoints", tmp_path / "executed"
    saved(folder)
    folder.mkdir()
    if payload == "checksummed":
        line, content = module.encode({"model": Malice(target)}, step=1)
        (folder / name(1)).write_bytes(line + bytes(content))
    elif payload == "torch":
        torch.save({"model": Malice(target)}, folder / "last.pt")
    else:
        (folder / "last.pt").write_bytes(pickle.dumps({"model": Malice(target)}))
    with pytest.raises(UserError, match=r"is damaged: its content cannot be read \(\w+\)"):
        Checkpoints(folder).latest()
    assert not target.exists()


def test_tuples_within_tuples_do_not_crash_the_process(tmp_path):
    (tmp_path / "last.pt").write_bytes(b"\x80\x02}N" + b"\x85" * 10**6 + b"Ns.")
    with pytest.raises(UserError, match="tuples within tuples"):
        Checkpoints(tmp_path).latest()


def test_the_file_of_an_earlier_version_is_the_last_resort(tmp_path):
    torch.save({"rows": [1]}, tmp_path / "last.pt")
    found = Checkpoints(tmp_path).latest()
    assert (found.state, found.step, found.path) == ({"rows": [1]}, None, tmp_path / "last.pt")
    saved(tmp_path, 1)
    assert files_in(tmp_path) == ["last.pt", name(1)]
    assert Checkpoints(tmp_path).latest().step == 1
    (tmp_path / name(1)).write_bytes(b"damaged")
    assert Checkpoints(tmp_path).latest().state == {"rows": [1]}
    saved(tmp_path, 2, 3)
    assert files_in(tmp_path) == [name(2), name(3)]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02.", b"nothing of the kind"])
def test_a_damaged_file_of_an_earlier_version_is_refused(tmp_path, content):
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"last.pt is damaged: .* \(\w+\); remove .* to start afresh"):
        Checkpoints(tmp_path).latest()


def test_an_unreadable_one_is_not_called_damaged(tmp_path, monkeypatch):
    """Following the advice to remove it would lose the run. Root may read anything, so that modes show nothing."""
    saved(tmp_path, 1)
    monkeypatch.setattr(os, "open", failing(errno.EACCES))
    with pytest.raises(UserError, match=rf"{name(1)} cannot be read: Permission denied; mend that"):
        Checkpoints(tmp_path).latest()


@pytest.mark.parametrize("end", [Checkpoints.flush, Checkpoints.close, lambda store: store.save({}, step=3)])
@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_write_that_failed_is_told_by_the_next_call_and_once(tmp_path, monkeypatch, number, end):
    checkpoints = saved(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", failing(number))
        checkpoints.save({}, step=2)
        with pytest.raises(UserError, match=f"cannot write .*{name(2)}: {os.strerror(number)}; free space"):
            end(checkpoints)
    checkpoints.close()
    assert files_in(tmp_path) == [name(1)]
    assert checkpoints.latest().step == 1


def test_a_disk_that_fills_up(tmp_path):
    """A limit on a file's size stands for the disk: the write stops half-way."""
    saved(tmp_path, 1, keep=1)
    code = SAVE + "store.keep = 1; store.save({'w': torch.zeros(100_000)}, step=2); store.close()"
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
        capture_output=True,
        text=True,
    )
    assert f"UserError: cannot write {tmp_path / name(2)}: File too large" in result.stderr
    assert files_in(tmp_path) == [name(1)]
    assert Checkpoints(tmp_path).latest().step == 1


KILLED = """
import os, random, signal, time
torch.set_num_threads(1)  # threads do not survive a fork
draws, reported = random.Random(0), 0
for number in range(20):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        found = store.latest()
        step = found.step if found else 0
        os.write(writer, b"!")
        while True:
            step += 1
            store.save({"step": step, "w": torch.full((300_000,), float(step))}, step=step)
            store.flush()
            os.write(writer, b"%d " % step)
    os.close(writer)
    os.read(reader, 1)  # it has begun
    time.sleep(draws.uniform(0, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    reported = max([reported, *map(int, os.read(reader, 1 << 20).split())])
    left = len(list(store.folder.glob(".*.tmp")))
    found = store.latest()
    intact = found is None or found.state["step"] == found.step and bool((found.state["w"] == found.step).all())
    print(left, reported, found.step if found else 0, int(intact), len(found.skipped) if found else 0)
    os.close(reader)
"""


def test_a_process_killed_while_it_saves_leaves_an_intact_state(tmp_path):
    result = subprocess.run([sys.executable, "-c", SAVE + KILLED, str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    rounds = [list(map(int, line.split())) for line in result.stdout.splitlines()]
    assert len(rounds) == 20
    for left, reported, found, intact, skipped in rounds:
        assert intact and not skipped
        assert found >= reported, "what flush() promised is there"
        assert left <= 1, "a new process removes what the one before left"
    assert any(left for left, *_ in rounds), "no kill came in the middle of a write"
    assert rounds[-1][2] > 20
