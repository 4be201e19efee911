"""How a command shows long work: a bar in a terminal, a line now and then elsewhere, all of it on stderr."""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from fastiseat.cli.console.terminal import Terminal, print_line

# Seconds between two lines where there is no terminal.
_INTERVAL = 10.0


class _Task(NamedTuple):
    bar: TaskID
    began: float
    first: int


class ConsoleProgress:
    """A :class:`fastiseat.pipelines.protocol.progress.Progress` for people, within a ``with`` block."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Terminal(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        self._tasks: dict[str, _Task] = {}
        self._shown = time.perf_counter()

    def __enter__(self) -> ConsoleProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        """Print the line, above the bar in a terminal."""
        print_line(self.console, line)

    def count(self, what: str, done: int, total: int, detail: str = "") -> None:
        """Move the bar, or print a line once an interval; ``detail`` is how the work goes."""
        now = time.perf_counter()
        if what not in self._tasks:
            self._tasks[what] = _Task(self._bar.add_task(what), now, done)
        task = self._tasks[what]
        described = f"{what}, {detail}" if detail else what
        self._bar.update(task.bar, completed=done, total=total, description=described)
        if not self.console.is_terminal and now - self._shown >= _INTERVAL:
            self._shown = now
            left = time_left(done - task.first, total - done, now - task.began)
            self.say(", ".join(filter(None, (f"{what}: {done:,} of {total:,}", detail, left))))

    def busy(self, what: str) -> None:
        """A bar alone, for work of a length that nobody knows."""
        self.forget()
        self._tasks[what] = _Task(self._bar.add_task(what, total=None), time.perf_counter(), 0)

    def forget(self) -> None:
        """Take the bars of ended work away; the same names may begin again."""
        for task in self._tasks.values():
            self._bar.remove_task(task.bar)
        self._tasks.clear()


def time_left(done: int, left: int, seconds: float) -> str:
    """As ``0:01:00 left``, if the ``left`` goes as the ``done`` went in so many seconds; nothing before any is done."""
    return f"{timedelta(seconds=round(seconds / done * left))} left" if done > 0 else ""
