"""The trainer that ``fastiseat train`` asks for, of the run itself or of the standard network before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fastiseat.checkpoint import RunImages
from fastiseat.cli.console.display import Display
from fastiseat.cli.console.progress import ConsoleProgress
from fastiseat.cli.train.flags import Train
from fastiseat.config import Config
from fastiseat.run.trainer import Trainer


def trainer_for(
    arguments: Train,
    config: Config,
    out: Path,
    *,
    device: torch.device,
    display: Display,
    repeated: RunImages,
    resume: bool,
    **more: Any,
) -> Trainer:
    """Of ``config`` into ``out``, by the command's options; ``more`` is what only one of the two runs is given."""
    with ConsoleProgress() as progress:
        return Trainer(
            config,
            out,
            device=device,
            observer=display,
            resume=resume,
            checkpoint_every=arguments.checkpoint_every,
            keep=arguments.keep,
            on_nan=arguments.on_nan,
            loader=arguments.loader,
            execution=arguments.execution,
            data_dir=arguments.data_dir,
            progress=progress,
            repeated=repeated,
            wait=arguments.wait,
            **more,
        )
