"""The network without defence that HAT compares with: trained first, and once, where none is given."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fastiseat.checkpoint import WEIGHTS, RunDirectory, RunImages, as_json
from fastiseat.checkpoint.recorded import require_recorded
from fastiseat.cli.console.display import Display
from fastiseat.cli.console.progress import ConsoleProgress
from fastiseat.cli.train.trainer import trainer_for
from fastiseat.config import Config
from fastiseat.pipelines.protocol.progress import Progress
from fastiseat.recipes import METHODS, standard_for
from fastiseat.run.data import RunData, load_run_data
from fastiseat.run.signals import Stopped
from fastiseat.safe import resolved

if TYPE_CHECKING:
    from fastiseat.cli.train.flags import Train


def with_standard(arguments: Train, out: Path, *, device: torch.device, repeated: RunImages) -> Config:
    """The command's config, in which ``standard`` names a file where its method needs one.

    It is the best weights of a run in the folder ``standard`` beside ``out``, whose name has the settings and the
    data in it: one that is finished is taken, one that was interrupted goes on.
    """
    config = arguments.config
    if METHODS[config.objective.method].needs != "standard" or config.objective.standard is not None:
        return config
    plain = standard_for(config)
    with ConsoleProgress() as progress:
        data = _images(arguments, plain, out, repeated, progress)
    folder = resolved(out).parent / "standard" / _name(plain, data.whole.fingerprint)
    weights, display = folder / WEIGHTS["best"], Display(quiet=arguments.quiet)
    if (folder / "results.json").exists():
        require_recorded(weights)
        display.say(f"standard network: {weights}, trained before")
    else:
        display.say(f"standard network: none is given (--standard), so one is trained first, in {folder}")
        _train(arguments, plain, folder, device=device, display=display, repeated=repeated)
    return replace(config, objective=replace(config.objective, standard=weights))


def _images(arguments: Train, plain: Config, out: Path, repeated: RunImages, progress: Progress) -> RunData:
    """What the run in ``out`` is trained on, which a resumed one has been before."""
    own = RunDirectory(out).images() if arguments.resume or arguments.resume_anyway else RunImages()
    prepared = own.prepared or (repeated.prepared if arguments.data_dir is None else None)
    return load_run_data(
        plain, data_dir=arguments.data_dir, prepared=prepared, expected=own.fingerprint, progress=progress
    )


def _name(plain: Config, data_fingerprint: str) -> str:
    told = json.dumps([as_json(plain), data_fingerprint], sort_keys=True)
    digest = hashlib.blake2b(told.encode(), digest_size=6).hexdigest()
    kind = plain.data.dataset.partition(":")[0]
    return f"{kind}-{plain.network.arch}-s{plain.run.seed}-{digest}"


def _train(
    arguments: Train,
    plain: Config,
    folder: Path,
    *,
    device: torch.device,
    display: Display,
    repeated: RunImages,
) -> None:
    trainer = trainer_for(arguments, plain, folder, device=device, display=display, repeated=repeated, resume=True)
    try:
        trainer.choose_threads()
        with display.showing(trainer):
            trainer.run()
    except Stopped as stopped:
        how = "in the standard network's training, after a checkpoint; the same command goes on from there"
        raise Stopped(stopped.signal, how) from None
