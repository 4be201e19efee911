"""``fastiseat train``: flags, settings from files, where a run begins, and the standard network of HAT."""

from fastiseat.cli.train.command import ARGUMENTS, main

__all__ = ["ARGUMENTS", "main"]
