"""``fastiseat eval``: flags, targets, the evaluation of each, and what is printed."""

from fastiseat.cli.eval.command import ARGUMENTS, main

__all__ = ["ARGUMENTS", "main"]
