"""Work that outlasts its log: a full disk or a closed pipe behind an output is told once, and ends nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, TextIO

from fastiseat.safe import one_line

_CALLED = {"stdout": "the output", "stderr": "the error output"}


@contextmanager
def outlasting(name: Literal["stdout", "stderr"]) -> Iterator[None]:
    """In the block, what can't be written to ``sys.stdout`` or ``sys.stderr`` is lost, and each write tried anew.

    That is told once on the error output, if it can be.
    """
    found = getattr(sys, name)
    if found is None:  # as in a program without a console
        yield
        return
    setattr(sys, name, log := _Log(found, _CALLED[name]))
    try:
        yield
    finally:
        log.flush()
        if log.failed:
            forget(found)
        setattr(sys, name, found)


def tell(line: str) -> None:
    """One line on the error output, unless it takes none; what files say in it is shown as text."""
    with suppress(OSError):
        print(one_line(line), file=sys.stderr, flush=True)


def forget(stream: TextIO | None) -> None:
    """Drop what ``stream`` holds and can't write; else Python tries again at exit, and says so in its own words."""
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Log:
    """A stream whose failing writes raise nothing; it is the stream in all else."""

    def __init__(self, stream: TextIO, called: str) -> None:
        self._stream, self._called = stream, called
        self.failed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._note(error)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._note(error)

    def _note(self, error: OSError) -> None:
        if not self.failed:
            self.failed = True
            tell(
                f"fastiseat: {self._called} takes no more ({error.strerror}); the work goes on, and its files are whole"
            )
