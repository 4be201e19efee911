"""Each exit code as a shell sees it, from a process of its own."""

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

from fastiseat import __main__ as cli
from fastiseat.checkpoint import RunDirectory

COMMAND = [sys.executable, "-m", "fastiseat"]
# With a buffer, an output that nobody takes shows at the end only, where it is easily lost.
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def test_done_is_0(process):
    assert process("--version").code == 0
    assert process("train", "--help").code == 0
    result = process("train", "--dry-run", "--method", "none")
    assert (result.code, result.err) == (0, "")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["tarin"], "unknown command 'tarin'; did you mean train?"),
        (["evaluate"], "unknown command 'evaluate'; did you mean eval?"),
        (["--versoin"], "unknown command '--versoin'"),
        (["train", "--method", "isaet"], "unknown method 'isaet'; did you mean iseat"),
        (["eval", "nowhere"], "nowhere: no such file; check it"),
    ],
)
def test_something_to_mend_is_2_in_one_line_on_the_error_stream(process, words, complaint):
    result = process(*words)
    assert result.out == ""
    assert complaint in result.complaint


def test_usage_errors_are_2(process):
    result = process("train", "--epochs", "many")
    assert (result.code, result.out) == (2, "")
    assert "Error parsing --epochs" in result.err
    assert "Traceback" not in result.err


def test_a_defect_is_1_with_a_traceback():
    code = (
        "import sys, fastiseat.cli.train.command as train, fastiseat.__main__ as cli\n"
        "train.parse = lambda *given: 1 / 0\n"
        "sys.exit(cli.main(['train']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "ZeroDivisionError" in result.stderr


def test_an_interrupt_is_130_and_leaves_a_run_that_can_be_resumed(tmp_path):
    out = tmp_path / "run"
    words = ["train", "--method", "none", "--epochs", "1000", "--batch-size", "700", "--out", str(out)]
    with subprocess.Popen(COMMAND + words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        deadline = time.monotonic() + 60
        while not (out / "metrics.jsonl").exists():
            assert run.poll() is None, run.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        output, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    going_on = f"fastiseat train --out {shlex.quote(str(out))} --resume"
    assert errors == f"fastiseat: stopped by SIGINT after a checkpoint; go on with: {going_on}\n"
    assert "epoch 1/1000" in output
    state = RunDirectory(out).checkpoints.latest().state
    assert len(state["rows"]) >= 1
    assert not list(out.rglob("*.tmp"))


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 138)])
def test_a_signal_that_stops_a_run_after_a_checkpoint_has_a_code_of_its_own(name, code):
    program = (
        "import os, signal, sys, fastiseat.cli.train as train, fastiseat.__main__ as cli\n"
        "from fastiseat.run.signals import Interruptions, Stopped\n"
        "def main(arguments):\n"
        "    with Interruptions() as stop:\n"
        f"        os.kill(os.getpid(), signal.{name})\n"
        "        raise Stopped(stop.requested, 'in good order')\n"
        "train.main = main\n"
        "sys.exit(cli.main(['train']))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == code
    assert result.stderr == f"fastiseat: stopped by {name} in good order\n"
    assert f" {code}" in cli.EXIT_CODES and name in cli.EXIT_CODES


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["train", "--dry-run", "--epochs", "2000"]])
def test_a_reader_that_leaves_early_is_no_traceback(words):
    """As in ``fastiseat train --help | head -1``."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        result = subprocess.run(COMMAND + words, stdout=closed, stderr=subprocess.PIPE, text=True, env=BUFFERED)
    assert (result.returncode, result.stderr) == (1, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110 (at import)
@pytest.mark.parametrize("words", [["--help"], ["train", "--dry-run"]])
def test_a_full_disk_behind_the_output_is_2(words):
    with open("/dev/full", "w") as full:  # noqa: PTH123 (no file of ours)
        result = subprocess.run(COMMAND + words, stdout=full, stderr=subprocess.PIPE, text=True, env=BUFFERED)
    assert result.returncode == 2
    assert result.stderr == "fastiseat: error: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_output_without_greek_letters_gets_question_marks(process, encoding):
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    assert "?" in process("train", "--help", env=environment, encoding=encoding).out  # latin-1 has ² and no λ
    error = process("train", "--eps", "2", env=environment)
    assert "is beyond the pixel values, 0 ? 1" in error.complaint


def test_called_from_python_the_streams_stay_as_they_are(capsys, monkeypatch):
    monkeypatch.setattr(cli, "_print_what_can_be_printed", lambda: pytest.fail("touched"))
    assert cli.main(["--version"]) == 0
