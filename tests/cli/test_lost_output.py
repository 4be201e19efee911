"""A training outlasts its log, wherever that goes: it ends with all its files, and exit code 0."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import SHORT

WORDS = [
    "train",
    "--method",
    "none",
    *map(str, SHORT),
    "--limit-train",
    "100",
    "--limit-test",
    "20",
    "--out",
    "run",
]
TOLD = "the work goes on, and its files are whole"
COMMAND = [sys.executable, "-m", "fastiseat"]

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def closed_pipe() -> int:
    read, write = os.pipe()
    os.close(read)
    return write


def closed_terminal() -> int:
    master, terminal = os.openpty()
    os.close(master)
    return terminal


OUTPUTS = [full, closed_pipe, closed_terminal]


def train(tmp_path, *, stdout=subprocess.PIPE, stderr=subprocess.PIPE, buffered=True, words=WORDS):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    environment |= {"OMP_NUM_THREADS": "1"} | ({} if buffered else {"PYTHONUNBUFFERED": "1"})
    return subprocess.run(
        COMMAND + words, stdout=stdout, stderr=stderr, text=True, cwd=tmp_path, env=environment, timeout=60
    )


def require_whole(run: Path) -> None:
    assert {row["weights"] for row in json.loads((run / "results.json").read_text())} == {"best", "last"}
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1
    assert (run / "figures" / "curves.png").stat().st_size


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_training_goes_on_without_its_output(tmp_path, output):
    result = train(tmp_path, stdout=output(), buffered=output is not full)
    require_whole(tmp_path / "run")
    assert result.returncode == 0
    assert result.stderr.startswith("fastiseat: the output takes no more (")
    assert result.stderr.count(TOLD) == 1 and result.stderr.count("\n") == 1


def test_a_training_goes_on_without_any_output(tmp_path):
    result = train(tmp_path, stdout=full(), stderr=full(), words=[*WORDS, "--amp"])
    require_whole(tmp_path / "run")
    assert result.returncode == 0


def test_a_full_disk_behind_the_errors_alone_changes_nothing_else(tmp_path):
    result = train(tmp_path, stderr=full(), words=["train", "--eps", "8"])
    assert (result.returncode, result.stdout) == (2, "")


def test_other_commands_say_that_their_output_is_lost(tmp_path):
    """It is all that they are for."""
    result = train(tmp_path, stdout=full(), words=["list", "methods"])
    assert (result.returncode, result.stderr) == (2, "fastiseat: error: [Errno 28] No space left on device\n")


def test_output_comes_back_once_the_disk_has_space(tmp_path, monkeypatch, capsys):
    from fastiseat.outlasting import outlasting

    class Disk:
        lines, full = "", True

        def write(self, text):
            if self.full:
                raise OSError(28, "No space left on device")
            self.lines += text

        def flush(self):
            pass

    monkeypatch.setattr(sys, "stdout", disk := Disk())
    with outlasting("stdout"):
        print("lost")
        disk.full = False
        print("kept")
    assert disk.lines.strip() == "kept"
    assert capsys.readouterr().err.count(TOLD) == 1
    assert sys.stdout is disk
