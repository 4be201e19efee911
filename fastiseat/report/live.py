"""The picture of a run while it goes on: drawn behind its back, and never a reason to end it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from types import TracebackType

from fastiseat.report.curves import draw_curves
from fastiseat.safe import plain

# Of the time may go into drawing, so that epochs of a second are not spent on pictures.
MOST_OF_THE_TIME = 0.05


class LiveCurves:
    """``figures/curves.png`` as of the last lines of ``metrics.jsonl``, within a ``with`` block.

    A thread of its own draws, while the caller's goes on. The block's end draws what is still missing, but for a
    KeyboardInterrupt, which is in a hurry. What goes wrong is told to ``say`` in a line, once, and never raised.
    """

    def __init__(self, run: Path, *, say: Callable[[str], None]) -> None:
        self._run, self._say = run, say
        self._failure = self._told = ""
        self._drawer: Thread | None = None
        self._behind = False  # of metrics.jsonl
        self._may_begin = 0.0

    def __enter__(self) -> LiveCurves:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawer is not None:
            self._drawer.join()
        if self._behind and kind is not KeyboardInterrupt:
            self._draw()
        self._tell()

    def update(self) -> None:
        """Draw the lines that are there now, unless the last picture was so costly that it is to last a while."""
        self._behind = True
        self._tell()
        busy = self._drawer is not None and self._drawer.is_alive()
        if not busy and time.monotonic() >= self._may_begin:
            self._behind = False
            self._drawer = Thread(target=self._draw, name="curves")
            self._drawer.start()

    def _draw(self) -> None:
        began = time.monotonic()
        try:
            draw_curves(self._run)
        except Exception as error:  # whatever a drawing library or a full disk raises
            self._failure = plain(" ".join(str(error).split())) or type(error).__name__
        now = time.monotonic()
        self._may_begin = now + (now - began) / MOST_OF_THE_TIME

    def _tell(self) -> None:
        """From the caller's thread, as whoever listens may expect."""
        if self._failure != self._told:
            self._told = self._failure
            self._say(f"no picture of the curves ({self._failure}); the run itself goes on")
