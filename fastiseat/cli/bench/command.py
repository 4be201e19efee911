"""``fastiseat bench``."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from fastiseat.cli.bench.attack import AttackOptions
from fastiseat.cli.console.flags import command_line
from fastiseat.cli.console.output import show_json, show_text
from fastiseat.distributed import refuse_ranks
from fastiseat.errors import UserError, unknown
from fastiseat.names.data import named_sets
from fastiseat.names.networks import in_help
from fastiseat.safe import OwnFolder

if TYPE_CHECKING:
    import torch

    from fastiseat.bench.attack.suite import Attacks
    from fastiseat.bench.presets import Preset
    from fastiseat.bench.steps.variants import Variant
    from fastiseat.bench.suite import Selection
    from fastiseat.bench.words import Table

Words = tuple[str, ...]
_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Bench(AttackOptions):
    """Measure this machine: training steps against baselines, kernels, loaders, the data of an epoch, AutoAttack.

    Variants take turns in one process; each is first held to a reference, and one that computes something else gets
    no figure. Lists (--arch a b) are measured in all combinations; what is not given is the preset's.
    """

    what: Annotated[
        Positional[Literal["step", "loaders", "kernels", "epoch", "attack", "all"]], arg(metavar="PART")
    ]
    """step, loaders, kernels, epoch, attack, or all of them."""
    preset: str = "auto"
    """a100, v100, 3080ti, h200, cpu; auto takes the one for the device at hand."""
    arch: Annotated[Words, arg(help=f"{in_help()}.")] = ()
    dataset: Annotated[
        Words, arg(help=f"Whose images' shape, classes and recipe: {', '.join(named_sets())}.")
    ] = ()
    batch_size: tuple[int, ...] = ()
    """Images a step."""
    method: Words = ()
    """at, at-awp, lsi, iseat."""
    precision: Words = ()
    """full, bf16, fp16: of this library's steps; in attack, of what finds adversarial images before the full one."""
    engine: Words = ()
    """This library's engines: eager, graph (on a GPU), compile (minutes), tape (on a CPU: a proof, not for speed)."""
    clean_graph: Words = ("keep",)
    """keep, recompute: of this library's steps. Each mode other than keep and exact is a row of its own, combined with
    no other one; engine compile recomputes anyway, and has no other mode."""
    awp_gradient: Words = ("exact",)
    """exact, last-attack-step, half-batch, previous-step: likewise; all but exact are approximate."""
    checkpoint_blocks: FlagCreatePairsOff[bool] = False
    """Also with residual blocks that keep their input alone."""
    overlap: FlagCreatePairsOff[bool] = False
    """Also with the clean pass on a second stream, by engine graph."""
    wasteful: FlagCreatePairsOff[bool] = False
    """Also with an attack that computes weight gradients and drops them, 39 units: what overhead is often told of."""
    baseline: Words = ()
    """eager, eager-strict, eager-wasteful, eager-bf16, eager-fp16, compile-naive, compile-careful, these two with
    -fp16; none for none. Of attack: pyautoattack or none."""
    backend: Words = ()
    """Of kernels: native, triton, torch (PyTorch's own backward passes), compile (torch.compile of the reference: on
    a CPU only where it is named, as it takes a minute); the reference is always there."""
    loader: Words = ()
    """Loaders to compare."""
    images: int | None = None
    """Training images that loaders read."""
    rounds: int | None = None
    """How often each variant has its turn; at least 5 for a spread that means something, which is the default but for
    attack: 1."""
    seconds: float = 0.2
    """Of each turn, about; a step that takes longer is taken once."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto takes a GPU if there is one."""
    data_dir: Path | None = None
    """Train on the data set that lies here; without it on random images of its shape."""
    results: Path | None = None
    """Also write DEVICE-COMMIT.json into this folder."""
    as_json: Annotated[FlagCreatePairsOff[bool], arg(name="json")] = False
    """Print JSON instead of tables."""
    markdown: FlagCreatePairsOff[bool] = False
    """Print the tables as Markdown."""


ARGUMENTS = Bench


def main(argv: list[str]) -> None:
    """Measure and print."""
    arguments = command_line(ARGUMENTS, argv, prog="fastiseat bench")
    _check(arguments)
    refuse_ranks("bench")
    if arguments.results is not None:
        OwnFolder(arguments.results).require_writable()
    from fastiseat.bench.results import save
    from fastiseat.bench.steps.suite import Plan
    from fastiseat.bench.suite import PARTS, measure
    from fastiseat.cli.console.progress import ConsoleProgress
    from fastiseat.cli.machine import choose_device, memory_hint

    device = choose_device(arguments.device)
    selection = _selection(arguments, device)
    with ConsoleProgress() as progress:
        plan = Plan(
            device=device,
            rounds=arguments.rounds or _ROUNDS,
            seconds=arguments.seconds,
            data_dir=arguments.data_dir,
            progress=progress,
        )
        with memory_hint(selection.largest_batch):
            document = measure(PARTS if arguments.what == "all" else (arguments.what,), selection, plan)
        if arguments.results is not None:
            progress.say(f"written: {save(document, arguments.results)}")
    _print(document, arguments)


def _check(arguments: Bench) -> None:
    if arguments.rounds is not None and arguments.rounds < 1:
        raise UserError(f"--rounds {arguments.rounds}: at least 1 is needed, 5 for a spread")
    if not 0 < arguments.seconds < 3600:
        raise UserError(f"--seconds {arguments.seconds}: must lie in 0 … 3600, both excluded")
    if arguments.images is not None and arguments.images < 1:
        raise UserError(f"--images {arguments.images}: at least 1 is needed")
    if arguments.as_json and arguments.markdown:
        raise UserError("--json and --markdown: one of them")


def _selection(arguments: Bench, device: torch.device) -> Selection:
    from fastiseat.bench.machine import device_name
    from fastiseat.bench.presets import cases, preset
    from fastiseat.bench.steps.suite import Case
    from fastiseat.bench.suite import Selection

    base = preset(arguments.preset, device_name=device_name(device), kind=device.type)
    attacks = _attacks(arguments, base)
    if arguments.what == "attack":
        return Selection(cases=(), variants=(), methods=(), attacks=attacks)
    found = cases(base, arguments.arch, arguments.dataset, arguments.batch_size)
    return Selection(
        cases=tuple(Case(arch=arch, dataset=dataset, batch_size=size) for arch, dataset, size in found),
        variants=_variants(arguments, base),
        methods=arguments.method or base.methods,
        alone=arguments.batch_size or (base.alone,),
        loaders=arguments.loader,
        backends=arguments.backend,
        images=arguments.images or base.images,
        attacks=attacks,
    )


def _attacks(arguments: Bench, base: Preset) -> Attacks:
    """Other parts' engines and precisions are not those of an evaluation, unless it is all that is asked for."""
    from fastiseat.bench.attack.inputs import require_network
    from fastiseat.evaluation.ensemble.official import PACKAGE, package_version

    variants: tuple[tuple[str, str], ...] = (("auto", "full"),)
    baseline = arguments.baseline
    if arguments.what == "attack":
        if unknown_ones := set(baseline) - {PACKAGE, "none"}:
            raise unknown("baseline of attack", min(unknown_ones), (PACKAGE, "none"))
        if baseline != ("none",):
            package_version()
        variants = tuple(product(arguments.engine or ("auto",), arguments.precision or ("full",)))
    attacks = arguments.attacks(
        base,
        datasets=arguments.dataset,
        batch_sizes=arguments.batch_size,
        variants=variants,
        official=baseline != ("none",),
        rounds=arguments.rounds or 1,
    )
    if arguments.what == "attack" or (arguments.what == "all" and arguments.weights is not None):
        for case in attacks.cases:
            require_network(case)
    return attacks


def _variants(arguments: Bench, base: Preset) -> tuple[Variant, ...]:
    from fastiseat.bench.steps.modes import modes_named
    from fastiseat.bench.steps.variants import chosen

    baselines = () if arguments.baseline == ("none",) else arguments.baseline or base.baselines
    modes = modes_named(
        clean_graph=arguments.clean_graph,
        awp_gradient=arguments.awp_gradient,
        checkpoint_blocks=arguments.checkpoint_blocks,
        overlap=arguments.overlap,
        wasteful=arguments.wasteful,
    )
    engines, precisions = arguments.engine or base.engines, arguments.precision or base.precisions
    return tuple(chosen(engines, precisions, baselines, modes))


def _print(document: dict[str, Any], arguments: Bench) -> None:
    if arguments.as_json:
        show_json(document, indent=1, ensure_ascii=False)
        return
    from fastiseat.bench.tables import markdown, tables

    found = tables(document)
    if arguments.markdown:
        show_text(markdown(found, level=2))
    else:
        _draw(found)


def _draw(found: list[Table]) -> None:
    from rich.text import Text

    from fastiseat.bench.tables import remarks
    from fastiseat.cli.console.tables import titled_table
    from fastiseat.cli.console.terminal import Terminal

    console = Terminal()
    for table in found:
        drawn = titled_table(table.title)
        for number, column in enumerate(table.columns):
            drawn.add_column(column, overflow="fold", justify="left" if number == 0 else "right")
        for row in table.rows:
            drawn.add_row(*map(Text, row))
        console.print(drawn)
        for remark in remarks(table):
            console.print(remark, highlight=False)
        console.print()
