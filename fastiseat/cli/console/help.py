"""Help that wraps between words, at the terminal's width."""

from __future__ import annotations

import io
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def wrapped_output() -> Iterator[None]:
    """Wrap what the block prints. The parser does so within its boxes, and leaves the paragraphs above them long."""
    found, held = sys.stdout, _Held()
    try:
        with redirect_stdout(held):
            yield
    finally:
        for line in held.getvalue().splitlines():
            print(wrapped(line) if line[:1].isalpha() else line, file=found)


def wrapped(line: str, indent: int = 0) -> str:
    """``line`` as lines of the terminal's width, but for the first ``indent`` characters in."""
    width = shutil.get_terminal_size().columns
    return textwrap.fill(
        line, width, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False
    )


class _Held(io.StringIO):
    """Looks like the stream that it stands for, by which the parser chooses colours and lines."""

    def __init__(self) -> None:
        super().__init__()
        self._stream = sys.stdout

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream."""
        return self._stream.encoding

    def isatty(self) -> bool:
        """Whether a terminal reads it in the end."""
        return self._stream.isatty()
