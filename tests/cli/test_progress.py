"""What long work shows where there is no terminal, and in one."""

import io

from rich.console import Console

from fastiseat.cli.console import progress as module
from fastiseat.cli.console.progress import ConsoleProgress


def shown(monkeypatch):
    """On a clock that each look at it moves on by 20 seconds."""
    stream = io.StringIO()
    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(clock)))
    return stream, ConsoleProgress(Console(file=stream, force_terminal=False, width=100))


def test_lines_tell_how_it_goes_and_how_long_it_takes(monkeypatch):
    stream, progress = shown(monkeypatch)
    with progress:
        for done in (10, 20, 30):
            progress.count("apgd-t", done, 50, f"robust so far {100 - done}%")
    assert stream.getvalue().splitlines() == [
        "apgd-t: 10 of 50, robust so far 90%",
        "apgd-t: 20 of 50, robust so far 80%, 0:01:00 left",
        "apgd-t: 30 of 50, robust so far 70%, 0:00:40 left",
    ]


def test_a_bar_is_gone_afterwards():
    stream = io.StringIO()
    with ConsoleProgress(Console(file=stream, force_terminal=True, width=100)) as progress:
        progress.count("square", 1, 2, "robust so far 50.00%")
        progress.busy("sanity checks: fgsm")
        progress.forget()
    _, last = stream.getvalue().rsplit("\x1b[2K", 1)
    assert last == "\x1b[?25h\r", "nothing is left in the line but a cursor"
