"""``fastiseat train``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from datetime import datetime
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from fastiseat.cli.console.flags import command_line
from fastiseat.cli.console.output import show, show_json
from fastiseat.cli.train.flags import Train
from fastiseat.cli.train.start import Say, read_start, with_runs_weights
from fastiseat.config import Augment, Config
from fastiseat.distributed import refuse_ranks
from fastiseat.errors import UserError
from fastiseat.outlasting import outlasting
from fastiseat.recipes import FINE_TUNING, METHODS, check, origin, recipe, recipe_of, standard_for
from fastiseat.schedule import as_row, moving, scalars_at, scalars_of_step

if TYPE_CHECKING:
    import torch

    from fastiseat.checkpoint import RunImages


ARGUMENTS = Train


def parse(argv: list[str], say: Say = lambda line: None) -> Train:
    """The command's arguments, over the recipe that they name or the run that they resume; :class:`UserError` where
    they contradict.

    ``say`` is told in a line what the weights decide that ``--init`` names.
    """
    arguments = command_line(ARGUMENTS, argv, prog="fastiseat train", default=_defaults(_named(argv), say))
    arguments = replace(arguments, config=with_runs_weights(arguments.config, say))
    check(arguments.config)
    if arguments.fine_tune and arguments.config.network.init is None:
        raise UserError(
            f"--fine-tune {arguments.fine_tune}: say which trained network to begin with by --init FILE"
        )
    if (arguments.resume or arguments.resume_anyway) and arguments.out is None:
        raise UserError("--resume: say which run to continue with --out DIR")
    return arguments


# What chooses the defaults of all the other flags.
_CHOOSING = (*signature(recipe).parameters, "config", "fine_tune", "init", "variant", "out")


def _named(argv: list[str]) -> dict[str, Any]:
    """Those of the choosing flags that are given; none where one lacks its value, for which tyro has the words."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in _CHOOSING:
        first.add_argument(f"--{name.replace('_', '-')}")
    for name in ("--resume", "--resume-anyway"):
        first.add_argument(name, dest="resume", action="store_true")
    try:
        named = vars(first.parse_known_args(argv)[0])
    except argparse.ArgumentError:
        named = vars(first.parse_args([]))
    named = {name: value or None for name, value in named.items()}  # what is empty is refused by the parser
    if named["augment"] not in get_args(Augment):  # which the parser refuses
        named["augment"] = None
    return named


def _defaults(named: dict[str, Any], say: Say) -> Train:
    """A resumed run's own settings and options; in their place those of --config, or else the recipe's."""
    out, resume = named.pop("out"), named.pop("resume")
    own, options = None, {}
    if out is not None and resume:
        from fastiseat.cli.train.resume import own_config, own_options

        own, options = own_config(Path(out)), own_options(Path(out), Train)
    study = FINE_TUNING.get(named["fine_tune"] or "")
    found = own if own is not None and named["config"] is None else _chosen(**named, say=say)
    return Train(config=found if study is None else study.change(found), **options)


def _chosen(
    *,
    config: str | None,
    fine_tune: str | None,
    init: str | None,
    variant: str | None,
    say: Say,
    **named: str | None,
) -> Config:
    """The recipe that the names choose, with a file's settings over it, for the network of ``init``."""
    study = FINE_TUNING.get(fine_tune or "")
    settings = {} if config is None else _settings(Path(config))
    start = read_start(settings, init=init, arch=named["arch"], variant=variant)
    names = {name: value for name, value in (named | {"arch": named["arch"] or start.arch}).items() if value}
    fallback = {} if study is None else {"method": study.method}
    defaults = recipe(**fallback | names) if config is None else _settled(settings, names, fallback)
    if str(start):
        say(str(start))
    return start.of_network(defaults)


def _settings(config: Path) -> dict[str, Any]:
    from fastiseat.cli.train.config_file import read_settings

    return read_settings(config)


def _settled(settings: dict[str, Any], names: dict[str, str], fallback: dict[str, str]) -> Config:
    from fastiseat.cli.train.config_file import settle

    return settle(settings, names, fallback=fallback)


def main(argv: list[str]) -> None:
    """Train, or with ``--dry-run`` say what would be trained."""
    taken = list[str]()
    arguments = _absolute(parse(argv, taken.append))
    refuse_ranks("train")
    if arguments.dry_run:
        planned = _planned(arguments, taken.append)
        for line in taken:
            show(line, file=sys.stderr)
        show_json(planned, ensure_ascii=False)
        return
    with outlasting("stdout"):
        _train(arguments, taken)


def _train(arguments: Train, taken: list[str]) -> None:
    from fastiseat.cli.console.display import Display, result_table
    from fastiseat.cli.console.terminal import print_line
    from fastiseat.cli.machine import choose_device, memory_hint
    from fastiseat.cli.train.resume import noted
    from fastiseat.cli.train.standard import with_standard
    from fastiseat.cli.train.trainer import trainer_for
    from fastiseat.pipelines.stores.writer import in_bytes

    config = arguments.config
    display = Display(quiet=arguments.quiet)
    for line in taken:
        display.say(line)
    out = arguments.out or default_directory(config)
    device = choose_device(arguments.device, deterministic=config.run.deterministic)
    with memory_hint(config.data.batch_size, remedies=_remedies(arguments)):
        repeated = _repeated(arguments.config_file)
        config = with_standard(arguments, out, device=device, repeated=repeated)
        trainer = trainer_for(
            arguments,
            config,
            out,
            device=device,
            display=display,
            repeated=repeated,
            resume=arguments.resume or arguments.resume_anyway,
            resume_anyway=arguments.resume_anyway,
            options=noted(arguments),
        )
        if (arguments.resume or arguments.resume_anyway) and not trainer.step.steps_taken:
            display.say(f"{out} holds no checkpoint yet: the run starts at its beginning")
        trainer.choose_threads(repeated=_threads(arguments.config_file))
        with display.showing(trainer):
            results = trainer.run()
    display.console.print(result_table(trainer, results))
    if not arguments.quiet:
        peak = max(row["peak_memory_bytes"] for row in trainer.rows)
        print_line(display.console, f"peak memory: {in_bytes(peak)}")
        print_line(display.console, f"checkpoints: {in_bytes(trainer.directory.checkpoints.size())} on the disk")
    print_line(display.console, f"run: {trainer.directory.path}")


def _planned(arguments: Train, say: Say) -> dict[str, object]:
    """What ``--dry-run`` prints; refused what the run would be, in its words. Nothing is written."""
    from fastiseat.cli.machine import choose_device
    from fastiseat.run.beforehand import check, precision_of

    config, anyway = arguments.config, arguments.resume_anyway
    device = choose_device(arguments.device)
    check(
        config,
        arguments.out,
        device=device,
        engine=arguments.execution.engine,
        loader=arguments.loader,
        checkpoint_every=arguments.checkpoint_every,
        keep=arguments.keep,
        on_nan=arguments.on_nan,
        resume=arguments.resume or anyway,
        anyway=anyway,
    )
    precision_of(config.run, device, say)
    resident = device if arguments.loader == "resident" else None
    blocks = arguments.execution.checkpoint_blocks
    return plan(config, arguments.data_dir, say, resident=resident, checkpoint_blocks=blocks)


def _absolute(arguments: Train) -> Train:
    """With absolute paths: what is printed and kept of the settings holds in every working directory."""
    from fastiseat.checkpoint import absolute

    return replace(arguments, config=absolute(arguments.config))


def _repeated(config_file: Path | None) -> RunImages:
    """The images of the run that ``--config`` repeats."""
    from fastiseat.checkpoint import RunImages
    from fastiseat.cli.train.config_file import read_images

    return RunImages() if config_file is None else read_images(config_file)


def _threads(config_file: Path | None) -> int | None:
    """The threads of the run that ``--config`` repeats."""
    from fastiseat.cli.train.config_file import read_threads

    return None if config_file is None else read_threads(config_file)


def _remedies(arguments: Train) -> list[str]:
    """What takes less memory and is not on yet, the cheapest first."""
    from fastiseat.models.factory import has_blocks

    config, execution = arguments.config, arguments.execution
    off = {
        "--amp": not config.run.amp,
        "--clean-graph recompute": bool(config.objective.lam) and execution.clean_graph == "keep",
        "--checkpoint-blocks": not execution.checkpoint_blocks and has_blocks(config.network.arch),
    }
    return [flag for flag, is_off in off.items() if is_off]


def default_directory(config: Config) -> Path:
    """``runs/<dataset>-<method>-s<seed>-<time>``, below the current folder."""
    kind, _, own = config.data.dataset.partition(":")
    dataset = f"{kind}-{Path(own).stem}" if own else kind
    name = f"{dataset}-{config.objective.method}-s{config.run.seed}"
    return Path("runs", f"{name}-{datetime.now():%Y%m%d-%H%M%S}")


def plan(
    config: Config,
    data_dir: Path | None = None,
    say: Say = lambda line: None,
    *,
    resident: torch.device | None = None,
    checkpoint_blocks: bool = False,
) -> dict[str, object]:
    """What ``--dry-run`` prints; ``say`` is told in a line what was taken where a file leaves a choice.

    ``resident``: the device that is to hold all images; ``checkpoint_blocks``: the run's.
    """
    from fastiseat.checkpoint import as_json, changes
    from fastiseat.methods import from_config
    from fastiseat.run.networks import build_network, load_standard

    in_channels, num_classes, steps = _sizes(config, data_dir, resident)
    model = build_network(
        config.network,
        in_channels=in_channels,
        num_classes=num_classes,
        seed=config.run.seed,
        checkpoint_blocks=checkpoint_blocks,
        say=say,
    )
    file, standard = config.objective.standard, model  # one of its shape, where it is trained first
    if file is not None:
        standard = load_standard(file, in_channels=in_channels, num_classes=num_classes, say=say)
    from_config(config.objective, standard=standard).require_start(config.attack)
    settings = as_json(config)
    first = METHODS[config.objective.method].needs == "standard" and config.objective.standard is None
    return {
        "recipe": origin(config),
        "changed": changes(as_json(recipe_of(config)), settings),
        "config": settings,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "steps_per_epoch": steps,
        "schedule": [_row(config, epoch, steps) for epoch in range(config.schedule.epochs)],
    } | ({"trained_first": as_json(standard_for(config))} if first else {})


def _row(config: Config, epoch: int, steps: int | None) -> dict[str, float]:
    """An epoch's scalars; those that move within it are its last step's, as in its metrics, and its first one's."""
    plan = config.schedule
    if not steps:
        return {"epoch": epoch} | as_row(scalars_at(config, epoch), plan)
    first, last = (as_row(scalars_of_step(config, epoch, step, steps), plan) for step in (0, steps - 1))
    return {"epoch": epoch} | last | {f"{name}_first": first[name] for name in moving(plan)}


def _sizes(config: Config, data_dir: Path | None, resident: torch.device | None) -> tuple[int, int, int | None]:
    """Colour planes, classes and steps an epoch; of a release that is not prepared here the last is unknown."""
    from fastiseat.pipelines.data.formats.extra import read_extra
    from fastiseat.pipelines.data.freshness import examine
    from fastiseat.pipelines.data.prepare import find_store
    from fastiseat.pipelines.loaders.choose import require_room
    from fastiseat.pipelines.protocol.order import Order
    from fastiseat.pipelines.protocol.releases import RELEASES
    from fastiseat.run.data import load_run_data

    release = RELEASES.get(config.data.dataset)
    if release is not None:
        store = find_store(release.name, data_dir=data_dir)
        if store is None or not examine(store).usable:
            if config.data.extra is not None and config.data.extra.exists():
                shape = (release.side, release.side, 3)
                read_extra(config.data.extra, image_shape=shape, num_classes=release.num_classes)
            return 3, release.num_classes, None  # a plan needs no data, and must not prepare any
    data = load_run_data(config, data_dir=data_dir)
    order = Order(size=len(data.training), batch_size=config.data.batch_size, seed=config.run.seed)
    if resident is not None:
        require_room(data.training, resident)
    return data.whole.num_channels, data.whole.num_classes, len(order)
