"""A command in a process of its own, forked from one that has everything imported: a start costs no second."""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fastiseat.pipelines.data.locations import ENVIRONMENT
from torture.shim import Machine, counted

PATIENCE = 60.0
"""Seconds after which a command hangs."""
KILLED = -signal.SIGKILL
HOME = "home"
"""Of whoever gives the command: a folder in the one that it is given in."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended: its exit code, a signal's as a negative number, None where it hung."""

    code: int | None
    errors: str
    operations: int
    stopped: int

    @property
    def refused(self) -> bool:
        """Whether it ended as one that can't be carried out has to: with exit code 2, and its last line says why."""
        *said, last = self.errors.splitlines() or [""]
        return (
            self.code == 2
            and last.startswith("fastiseat: error: ")
            and not any("Traceback" in line for line in said)
        )

    def __str__(self) -> str:
        return f"exit code {self.code}: {self.errors.strip()[-600:]}"


def run(
    words: tuple[str, ...],
    folder: Path,
    machine: Machine | None = None,
    *,
    poor: Callable[[], object] = lambda: None,
) -> Ended:
    """``fastiseat words`` on the ``machine``, whose luck is that of files in ``folder``.

    ``poor`` is called in the process first, and may take away what it has.
    """
    number = start(words, folder, machine or Machine(), poor)
    return end(number, folder)


def end(number: int, folder: Path) -> Ended:
    """How the process that :func:`start` began ends."""
    code = _wait(number)
    operations, stopped = counted()
    errors = _errors(folder).read_text(errors="replace")
    return Ended(code=code, errors=errors, operations=operations, stopped=stopped)


def start(
    words: tuple[str, ...],
    folder: Path,
    machine: Machine,
    poor: Callable[[], object] = lambda: None,
) -> int:
    """As :func:`run`, and don't wait; its process' number."""
    sys.stdout.flush()
    for file in (said(folder), _errors(folder)):  # what the one before said is nobody's to read now
        file.write_bytes(b"")
    number = os.fork()
    if number:
        return number
    try:
        code = _in_child(words, folder, machine, poor)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _in_child(words: tuple[str, ...], folder: Path, machine: Machine, poor: Callable[[], object]) -> int:
    from fastiseat.__main__ import main

    for stream, path in ((1, said(folder)), (2, _errors(folder))):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.environ["HOME"] = str(folder / HOME)
    os.environ.pop(ENVIRONMENT, None)
    poor()
    machine.begin(folder)
    try:
        code = main(list(words))
    except SystemExit as over:
        code = over.code if isinstance(over.code, int) else 1
    threading._shutdown()  # as Python does at its end: whatever still writes is waited for
    return code


def _wait(number: int) -> int | None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        done, status = os.waitpid(number, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    return None


def said(folder: Path) -> Path:
    """The file with what the last command in ``folder`` has printed."""
    return folder.with_name(f"{folder.name}.said")


def _errors(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.errors")
