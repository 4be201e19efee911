"""Signals that end a run in good order: after the step that is under way, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 138}
"""What the command exits with when one of the signals has stopped it and the checkpoint is written."""


class Stopped(Exception):  # noqa: N818 (it is no error)
    """A signal has ended the work in good order; ``how`` says what is left of it, and how to go on."""

    def __init__(self, number: signal.Signals, how: str) -> None:
        super().__init__(f"stopped by {number.name} {how}")
        self.signal = number

    @property
    def exit_code(self) -> int:
        """The command's."""
        return EXIT_CODES[self.signal]


class Interruptions:
    """In its block, SIGINT (Ctrl-C), SIGTERM and SIGUSR1 (Slurm's warning) are noted, not obeyed.

    The second SIGINT raises :class:`KeyboardInterrupt` at once. A signal that the process ignores, as under nohup,
    stays ignored. Outside the main thread, where Python takes no handlers, nothing is ever noted.

    Attributes:
        requested: the first signal that came, or None.
    """

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self._interrupted = False
        self._found: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruptions:
        if threading.current_thread() is threading.main_thread():
            for number in EXIT_CODES:
                # None is a handler that was not set from Python, and could not be put back.
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._found[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        while self._found:
            signal.signal(*self._found.popitem())

    def _note(self, number: int, frame: FrameType | None) -> None:
        # Of Ctrl-C alone the second one counts: whoever sends SIGTERM again means no more by it.
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted |= number == signal.SIGINT
        self.requested = self.requested or signal.Signals(number)


@contextmanager
def raised_at_once(how: str) -> Iterator[None]:
    """In the block SIGTERM raises :class:`Stopped` wherever the program is, as Ctrl-C raises KeyboardInterrupt.

    For work that can be left at any instant. An ignored signal stays ignored, as in :class:`Interruptions`.
    """
    found = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or found in (signal.SIG_IGN, None):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(signal.Signals(number), how)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, found)
