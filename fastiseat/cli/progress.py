"""How a command shows long work: a bar in a terminal, a line now and then elsewhere, all of it on stderr."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

# Seconds between two lines where there is no terminal.
_INTERVAL = 10.0


class ConsoleProgress:
    """A :class:`fastiseat.pipelines.progress.Progress` for people, within a ``with`` block."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
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
        self.console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def count(self, what: str, done: int, total: int) -> None:
        """Move the bar, or print a line once an interval."""
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what)
        self._bar.update(self._tasks[what], completed=done, total=total)
        now = time.perf_counter()
        if not self.console.is_terminal and now - self._shown >= _INTERVAL:
            self._shown = now
            self.say(f"{what}: {done:,} of {total:,}")
