"""The flags of ``fastiseat train``. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, arg

from fastiseat.config import Config, Execution


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a robust network.

    Defaults are the recipe of the chosen data set and method: `fastiseat train --dataset D --method M --help`
    shows them. A flag outranks --config, which outranks the recipe.
    """

    config: OmitArgPrefixes[Config] = field(default_factory=Config)
    config_file: Annotated[Path | None, arg(name="config")] = None
    """Take the settings of this file: a run's config.json, or any part of one, as JSON or TOML."""
    out: Path | None = None
    """The run's directory; default: runs/DATASET-METHOD-sSEED-TIME. One that is not empty is refused."""
    resume: FlagCreatePairsOff[bool] = False
    """Continue the run in --out at the step of its last checkpoint, with its own settings and options; starts afresh
    where the folder is empty."""
    resume_anyway: FlagCreatePairsOff[bool] = False
    """Continue with the run's settings and those that are given here in their place."""
    wait: FlagCreatePairsOff[bool] = False
    """Where another process trains into --out, wait until it ends; without it such a folder is refused."""
    checkpoint_every: str = "1epoch"
    """Epochs, steps or minutes between checkpoints: 1epoch, 500steps, 10minutes. SIGTERM, SIGINT and SIGUSR1 write
    one too, after the step under way."""
    keep: int = 2
    """Checkpoints kept; the weights of the best epoch are kept besides."""
    on_nan: str = "stop"
    """Where a loss or a weight is no finite number: stop, or rollback to the last checkpoint with the images in
    another order, at most 3 times."""
    data_dir: Path | None = None
    """The folder that holds the data set's archive or its content; default: $FASTISEAT_DATA, then
    ~/.cache/fastiseat. What is not prepared yet is prepared first."""
    fine_tune: Literal["ablation", "eq7"] | None = None
    """Defaults of the ISEAT paper's studies on an AT-trained network, given by --init: ablation, Tables 7 to 9 (40
    epochs at lr 0.01, a tenth of it from half of them on, λ from the first); eq7, Eq. 7 (10 epochs, method lsi, λ its
    η)."""
    execution: OmitArgPrefixes[Execution] = field(default_factory=Execution)
    loader: str = "auto"
    """resident (all images in the device's memory), ffcv, dali or torch; all yield the same batches. auto takes
    resident where a quarter of the free memory holds the images, else torch; for --images jpeg the fastest installed
    decoder."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto takes a GPU if there is one."""
    quiet: FlagCreatePairsOff[bool] = False
    """Print the result only."""
    dry_run: FlagCreatePairsOff[bool] = False
    """Print the recipe and what was changed of it, the resolved settings, the schedule of each epoch and the network's
    size as JSON, and stop. A released data set need not be there, nor images beside it;
    steps_per_epoch is null until it is prepared."""
