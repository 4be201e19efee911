"""``fastiseat train``."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, arg

from fastiseat.config import Config
from fastiseat.recipes import check, recipe
from fastiseat.schedule import scalars_at


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a robust network.

    Defaults are the recipe of the chosen data set and method: `fastiseat train --dataset D --method M --help`
    shows them. A flag outranks --config, which outranks the recipe.
    """

    config: OmitArgPrefixes[Config] = field(default_factory=Config)
    config_file: Annotated[Path | None, arg(name="config")] = None
    """Take the settings of this file: a run's config.json, or any part of one."""
    out: Path | None = None
    """The run's directory; default: runs/DATASET-METHOD-sSEED-TIME. One that is not empty is refused."""
    resume: FlagCreatePairsOff[bool] = False
    """Continue the run in --out after its last finished epoch; starts afresh where the folder is empty."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto takes a GPU if there is one."""
    quiet: FlagCreatePairsOff[bool] = False
    """Print the result only."""
    dry_run: FlagCreatePairsOff[bool] = False
    """Print the resolved settings, the schedule of each epoch and the network's size as JSON, and stop."""


def parse(argv: list[str]) -> Train:
    """The command's arguments, over the recipe that they name; :class:`UserError` where they contradict."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--dataset", "--method", "--config"):
        first.add_argument(name)
    try:
        named, _ = first.parse_known_args(argv)
    except argparse.ArgumentError:
        named = argparse.Namespace(dataset=None, method=None, config=None)  # tyro words the error
    defaults = _defaults(named.dataset, named.method, named.config)
    arguments = tyro.cli(Train, prog="fastiseat train", args=argv, default=Train(config=defaults))
    check(arguments.config)
    return arguments


def _defaults(dataset: str | None, method: str | None, file: str | None) -> Config:
    if file is None:
        return recipe(dataset or "digits", method or "iseat")
    from fastiseat.cli.config_file import read_settings, settle

    settings = read_settings(Path(file))
    return settle(settings, dataset=dataset, method=method)


def main(argv: list[str]) -> None:
    """Train, or with ``--dry-run`` say what would be trained."""
    arguments = parse(argv)
    if arguments.dry_run:
        print(json.dumps(plan(arguments.config), indent=2))
        return
    from fastiseat.cli.display import Display, result_table
    from fastiseat.cli.machine import choose_device
    from fastiseat.trainer import Trainer

    config = arguments.config
    display = Display(quiet=arguments.quiet)
    trainer = Trainer(
        config,
        arguments.out or default_directory(config),
        device=choose_device(arguments.device, deterministic=config.run.deterministic),
        observer=display,
        resume=arguments.resume,
    )
    with display.showing(trainer):
        results = trainer.run()
    display.console.print(result_table(config, results))
    display.console.print(f"run: {trainer.directory.path}", soft_wrap=True, highlight=False)


def default_directory(config: Config) -> Path:
    """``runs/<dataset>-<method>-s<seed>-<time>``, below the current folder."""
    name = f"{config.data.dataset}-{config.objective.method}-s{config.run.seed}"
    return Path("runs", f"{name}-{datetime.now():%Y%m%d-%H%M%S}")


def plan(config: Config) -> dict[str, object]:
    """What ``--dry-run`` prints."""
    from fastiseat.checkpoint import as_json
    from fastiseat.pipelines import datasets
    from fastiseat.trainer import build_network

    data = datasets.load(config.data.dataset)
    model = build_network(config.network, data, seed=config.run.seed)
    return {
        "config": as_json(config),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "schedule": [
            {"epoch": epoch} | asdict(scalars_at(config, epoch)) for epoch in range(config.schedule.epochs)
        ],
    }
