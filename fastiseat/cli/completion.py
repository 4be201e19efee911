"""``fastiseat completion``. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from importlib import import_module
from operator import or_
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg, subcommand

from fastiseat.cli import COMMANDS
from fastiseat.cli.console.flags import command_line, registry


@dataclass(frozen=True, kw_only=True)
class Completion:
    """Print the script by which a shell completes commands, options and choices.

    bash: fastiseat completion bash > ~/.local/share/bash-completion/completions/fastiseat

    zsh: fastiseat completion zsh > DIR/_fastiseat, DIR a folder of $fpath

    fish: fastiseat completion fish > ~/.config/fish/completions/fastiseat.fish
    """

    shell: Annotated[Literal["bash", "zsh", "fish"], Positional, arg(metavar="bash|zsh|fish")]
    """Whose."""


ARGUMENTS = Completion


def main(argv: list[str]) -> None:
    """Print the script; it holds the options of this version, so write it again after an update."""
    shell = command_line(ARGUMENTS, argv, prog="fastiseat completion").shell
    writing = ["--tyro-write-completion", shell, "-"]
    tyro.cli(_all_commands(), prog="fastiseat", args=writing, registry=registry(completing=True))


def _all_commands() -> Any:
    """The union of all commands."""
    kinds = {name: import_module(f"fastiseat.cli.{name}").ARGUMENTS for name in COMMANDS}
    return reduce(or_, [Annotated[kind, subcommand(name=name)] for name, kind in kinds.items()])
