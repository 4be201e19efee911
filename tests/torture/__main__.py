"""``python -m torture --tries 200``: all campaigns, a table of them, and exit code 1 where anything was lost."""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torture import shim

sys.path.append(str(Path(__file__).parents[1] / "support"))  # where pytest's setting has it
HEAD = f"{'campaign':<16}{'kills':>7}{'inputs':>8}{'losses':>8}{'bits lost':>11}{'seconds':>9}"


def main() -> int:
    """Run the campaigns that the command line asks for."""
    parser = argparse.ArgumentParser(prog="torture", description=__doc__)
    parser.add_argument("--tries", type=int, default=200, help="of each campaign")
    parser.add_argument("--a-deed", type=int, default=5, help="of them on one command, then comes the next")
    parser.add_argument("--seed", type=int, default=0, help="which of them")
    parser.add_argument("--only", nargs="*", default=[], help="campaigns; all of them by default")
    parser.add_argument("--careless", action="store_true", help="write in place, to see that losses are found")
    asked = parser.parse_args()
    with _scratch() as folder:
        shim.load(folder)
        from torture.plan import carry_out  # imports torch, which the program that only begins again does not need

        tallies = carry_out(folder, asked)
    return _report(tallies, asked.seed)


def _report(tallies, seed: int) -> int:
    print(f"\nseed {seed}\n{HEAD}")
    for each in tallies:
        print(
            f"{each.name:<16}{each.kills:>7}{each.inputs:>8}{len(each.losses):>8}{each.bits:>11}{each.seconds:>9.0f}"
        )
    return int(any(tally.losses for tally in tallies))


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for everything, the same one for the program that begins again with the shim in it."""
    folder = Path(os.environ.get(shim.LOADED) or tempfile.mkdtemp(prefix="torture-"))
    try:
        yield folder.resolve()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
