"""The command ``fastiseat``."""

from __future__ import annotations

import io
import sys
from importlib import import_module

from fastiseat.cli import COMMANDS
from fastiseat.cli.console.help import wrapped
from fastiseat.errors import UserError, unknown
from fastiseat.outlasting import forget, outlasting, tell
from fastiseat.run.signals import Stopped
from fastiseat.shortage import is_shortage
from fastiseat.version import __version__
from fastiseat.waiting import wait_briefly

HELP = """\
usage: fastiseat COMMAND [OPTIONS]

Adversarial training by ISEAT and the methods it is compared with.

commands:
{commands}

options:
  --help       this text; after a command, its options
  --version    the version

{exit_codes}
"""
EXIT_CODES = (
    "exit codes: 0 done, a training also where nobody took its log; 1 a defect in fastiseat, with a traceback, or in "
    "silence nobody left to read the output; 2 something to mend in the command, its input or its surroundings, said "
    "in one line; 130 interrupted; 130, 143 or 138 stopped by SIGINT, SIGTERM or SIGUSR1 after a checkpoint, which "
    "--resume goes on from"
)


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    if argv is None:
        _print_what_can_be_printed()
        wait_briefly()
    try:
        try:
            with outlasting("stderr"):
                return _command(sys.argv[1:] if argv is None else argv)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # a full disk or a reader that has left shows here, not at exit
    except BrokenPipeError:
        code = 1  # head or less has read enough; rich exits with 1 too
    except (UserError, OSError) as error:  # an OSError is the surroundings': it names the file and what is wrong
        tell(f"fastiseat: error: {error}")
        code = 2
    except Stopped as stopped:
        tell(f"fastiseat: {stopped}")
        code = stopped.exit_code
    except KeyboardInterrupt:
        tell("fastiseat: interrupted")
        code = 130
    except BaseException as error:  # a library's panic is no Exception
        if not is_shortage(error):
            raise
        told = " ".join(str(error).split())[:200] or type(error).__name__
        tell(f"fastiseat: error: out of memory ({told}): free some, or give this process more")
        code = 2
    forget(sys.stdout)
    forget(sys.stderr)
    return code


def _command(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help(), end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"fastiseat {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        raise unknown("command", arguments[0], COMMANDS)
    import_module(f"fastiseat.cli.{arguments[0]}").main(arguments[1:])
    return 0


def _help() -> str:
    """What there is, wrapped at the terminal's width."""
    commands = (wrapped(f"  {name:<11}{summary}", indent=13) for name, summary in COMMANDS.items())
    return HELP.format(commands="\n".join(commands), exit_codes=wrapped(EXIT_CODES))


def _print_what_can_be_printed() -> None:
    """In a terminal that has no ε, print a question mark instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


if __name__ == "__main__":
    sys.exit(main())
