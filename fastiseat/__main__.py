"""The command ``fastiseat``."""

from __future__ import annotations

import sys
from importlib import import_module

from fastiseat.errors import UserError, unknown
from fastiseat.version import __version__

COMMANDS = {
    "train": "train a robust network; without arguments ISEAT on handwritten digits",
    "eval": "accuracy of a run or a weights file, clean and under attack",
}
HELP = f"""\
usage: fastiseat COMMAND [OPTIONS]

Adversarial training by ISEAT and the methods it is compared with.

commands:
{"".join(f"  {name:<8}{summary}{chr(10)}" for name, summary in COMMANDS.items())}
options:
  --help     this text; after a command, its options
  --version  the version

exit codes: 0 done; 1 a defect in fastiseat, with a traceback; 2 something to mend in the command, its input
or its surroundings, said in one line; 130 interrupted
"""


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"fastiseat {__version__}")
        return 0
    try:
        if arguments[0] not in COMMANDS:
            raise unknown("command", arguments[0], COMMANDS)
        command = import_module(f"fastiseat.cli.{arguments[0]}")
        command.main(arguments[1:])
    except UserError as error:
        print(f"fastiseat: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fastiseat: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
