"""Which campaign is run on which deed, and how often."""

import io
import random
import shutil
import sys
import time
from argparse import Namespace
from contextlib import redirect_stdout, suppress
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import pytest
import tiny
import torch
from matplotlib.figure import Figure

from fastiseat.__main__ import main
from fastiseat.cli import COMMANDS
from fastiseat.safe import own_folder
from torture import campaigns
from torture.deeds import SHORT, by_turns, trainings
from torture.hosts import meet
from torture.tampering import tamper
from torture.trial import Tally, Trial

CAMPAIGNS = {
    "kills": (campaigns.kill, by_turns),
    "full disks": (campaigns.fill, by_turns),
    "poor machines": (campaigns.impoverish, by_turns),
    "tampering": (tamper, by_turns),
    "two hosts": (meet, trainings),
}
"""Each with the deeds that it is tried on."""


def carry_out(scratch: Path, asked: Namespace) -> list[Tally]:
    """``asked.tries`` of each campaign, ``asked.a_deed`` on one deed, then the next."""
    with pytest.MonkeyPatch.context() as patch:
        tiny.install(patch)
        patch.setattr(Figure, "savefig", _drawn)  # takes longer than all the rest; its file is what matters here
        if asked.careless:
            patch.setattr(own_folder, "write_atomically", lambda path, *parts: path.write_bytes(b"".join(parts)))
        _warm()
        finished = _finished_run(scratch)
        return [_campaign(name, finished, scratch, asked) for name in asked.only or CAMPAIGNS]


def _campaign(name: str, finished: Path, scratch: Path, asked: Namespace) -> Tally:
    campaign, deeds = CAMPAIGNS[name]
    tally, draw = Tally(name), random.Random(asked.seed)
    for deed in islice(deeds(finished), -(-asked.tries // asked.a_deed)):
        began = time.monotonic()
        campaign(Trial(deed, scratch), tally, asked.a_deed, draw)
        taken = time.monotonic() - began
        tally.seconds += taken
        counts = f"{tally.kills:5} kills {tally.inputs:5} inputs {len(tally.losses):3} losses"
        print(f"{name:<14}{counts} {taken:6.1f} s  {deed.name}", file=sys.stderr, flush=True)
    return tally


def _drawn(figure: Figure, file: BinaryIO, **how: object) -> None:
    file.write(b"a picture")


def _warm() -> None:
    """Import what commands need, in one thread: a fork copies no other."""
    torch.set_num_threads(1)
    for name in COMMANDS:
        import_module(f"fastiseat.cli.{name}")
    for library in ("ffcv", "nvidia.dali", "onnxruntime", "onnxscript"):
        with suppress(ImportError):
            import_module(library)


def _finished_run(scratch: Path) -> Path:
    """Trained here and not in a child, which leaves everything warm that training takes."""
    out = scratch / "finished"
    with redirect_stdout(io.StringIO()):
        assert main(["train", "--method", "none", *SHORT, "--out", str(out)]) == 0
        assert main(["eval", str(out), "--attack", "clean", "pgd-1", "--subset", "4", "--no-sanity"]) == 0
    shutil.rmtree(out / "evaluations")
    return out
