"""How work that takes a while tells where it stands."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Who is told what a long task does."""

    def say(self, line: str) -> None:
        """A fact worth a line."""

    def count(self, what: str, done: int, total: int) -> None:
        """``done`` of ``total`` images or bytes of ``what``; often called, and once with ``done == total``."""


class Silent:
    """A :class:`Progress` that keeps it to itself."""

    def say(self, line: str) -> None:
        """Nothing."""

    def count(self, what: str, done: int, total: int) -> None:
        """Nothing."""


SILENT = Silent()
