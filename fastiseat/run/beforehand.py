"""What a run is refused for before it looks at an image, in one list, which a dry run goes through too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from fastiseat.checkpoint import RunDirectory
from fastiseat.checkpoint.cadence import Every
from fastiseat.config import Config, Run
from fastiseat.engine.precision import precision_for_amp
from fastiseat.engine.recording.engines import chosen_engine
from fastiseat.errors import UserError, unknown
from fastiseat.kernels import check_choice
from fastiseat.pipelines.loaders import choose as loaders
from fastiseat.safe import OwnFolder
from fastiseat.weights.optimizers import rule_of

ON_NAN = ("stop", "rollback")


def check(
    config: Config,
    out: Path | None,
    *,
    device: torch.device,
    engine: str,
    loader: str,
    checkpoint_every: str,
    keep: int,
    on_nan: str,
    resume: bool,
    anyway: bool,
) -> None:
    """:class:`UserError` for options that say nothing, and for what this machine or ``out`` can't give; writes nothing.

    ``out`` is None where the run is to choose a new folder itself.
    """
    if on_nan not in ON_NAN:
        raise unknown("value of --on-nan", on_nan, ON_NAN)
    if keep < 1:
        raise UserError(f"--keep {keep}: at least 1 checkpoint is needed to go on from")
    Every.parse(checkpoint_every)
    check_choice(device)
    rule = rule_of(config.optimizer)
    rule.check(device)
    chosen_engine(engine, device, unrecordable=rule.unrecordable)
    loaders.check(loader, dataset=config.data.dataset, images=config.data.images)
    if out is not None:
        RunDirectory.open(out, config, resume=resume, anyway=anyway)
        OwnFolder(out).require_writable()


def precision_of(run: Run, device: torch.device, say: Callable[[str], None]) -> str:
    """``full``, ``bf16`` or ``fp16``; ``say`` is told in a line where the device would emulate what is asked."""
    if not run.amp:
        return "full"
    natural = precision_for_amp(device)
    if natural == "full" and run.amp_dtype is None:
        say("--amp: this CPU has no bf16 instructions and would emulate them; training in float32")
    elif natural == "full":
        say(f"--amp-dtype {run.amp_dtype}: this CPU would emulate it, slowly; float32 needs no --amp")
    return run.amp_dtype or natural
