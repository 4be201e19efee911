"""Who wants to know when a kernel starts that PyTorch does not see."""

from __future__ import annotations

from collections.abc import Callable

watchers: list[Callable[[str], None]] = []
"""Each is called with the kernel's name, in the thread and at the time of the launch."""


def announce(name: str) -> None:
    """A kernel called ``name`` is about to start."""
    for watcher in watchers:
        watcher(name)
