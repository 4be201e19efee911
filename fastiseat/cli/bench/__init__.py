"""``fastiseat bench``."""

from fastiseat.cli.bench.command import ARGUMENTS, main

__all__ = ["ARGUMENTS", "main"]
