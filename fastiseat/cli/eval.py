"""``fastiseat eval``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from fastiseat.cli.target import weights_file
from fastiseat.config import Pixels
from fastiseat.errors import UserError

if TYPE_CHECKING:
    from fastiseat.evaluation import Attack
    from fastiseat.models import Network


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Accuracy of a run's network, or of one in a weights file, clean and under attack.

    The network is in eval mode. A sample counts as robust where the last iterate of every restart is classified
    correctly.
    """

    target: Positional[Path]
    """A run's directory, or a file: .safetensors, the authors' .pt or RobustBench's."""
    attack: tuple[Literal["clean", "fgsm", "pgd"], ...] = ("clean", "fgsm", "pgd")
    """Which attacks, in the L∞ ball: fgsm is one step of ε from the image itself."""
    steps: int = 50
    """Steps of pgd."""
    step_size: Pixels | None = None
    """Length of a step of pgd; default: ε/4, as in the paper's validation."""
    restarts: int = 1
    """Runs of pgd on each image: the first starts at the image, further ones at random in the ball."""
    eps: Pixels | None = None
    """ε; default: what the network was trained with, as its file says."""
    weights: Literal["best", "last"] = "best"
    """Which weights of a run."""
    variant: Literal["released", "common"] | None = None
    """What the network's blocks are, for a file that does not tell."""
    dataset: str | None = None
    """Data set; default: what the network was trained on, as its file says."""
    data_dir: Path | None = None
    """The folder that holds the data set; default: $FASTISEAT_DATA, then ~/.cache/fastiseat."""
    subset: int | None = None
    """Evaluate on this many images only, of all classes alike."""
    split: Literal["test", "train"] = "test"
    """Which part of it."""
    batch_size: int = 512
    """Images at a time."""
    seed: int = 0
    """Seed of the random starts."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto takes a GPU if there is one."""
    as_json: Annotated[FlagCreatePairsOff[bool], arg(name="json")] = False
    """Print the result as JSON instead of a table."""


def main(argv: list[str]) -> None:
    """Evaluate and print."""
    arguments = tyro.cli(Eval, prog="fastiseat eval", args=argv)
    result = evaluate(arguments)
    if arguments.as_json:
        print(json.dumps(result, indent=2))
        return
    from rich.console import Console

    Console().print(_table(result))


def evaluate(arguments: Eval) -> dict[str, Any]:
    """What ``--json`` prints: the network, the data and for each attack its parameters and accuracy."""
    from fastiseat import models
    from fastiseat.cli.machine import choose_device, memory_hint
    from fastiseat.evaluation import evaluate_split
    from fastiseat.pipelines import datasets
    from fastiseat.rundata import limited

    file = weights_file(arguments.target, arguments.weights)
    metadata = models.read_weights(file).metadata
    model = models.load_model(file, variant=arguments.variant)
    attacks = _attacks(arguments, metadata.get("eps"))
    data = datasets.load(_told("dataset", arguments.dataset, metadata.get("dataset")), data_dir=arguments.data_dir)
    _check_fit(model, data.num_channels, data.num_classes, f"{file} is for", data.name)
    split = limited(data.test if arguments.split == "test" else data.train, arguments.subset)
    model = model.to(choose_device(arguments.device))
    rows = []
    for attack in attacks:
        with memory_hint(arguments.batch_size), _progress(attack.name, len(split)) as progress:
            verdicts = evaluate_split(
                model, split, attack, batch_size=arguments.batch_size, seed=arguments.seed, progress=progress
            )
        rows.append(_row(attack, int(verdicts.sum()), len(verdicts)))
    return {
        "weights": str(file),
        "network": str(model.spec),
        "dataset": data.name,
        "split": arguments.split,
        "official": data.official,
        "seed": arguments.seed,
        "attacks": rows,
    }


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A counter on a terminal's error stream, wiped away afterwards, however the block ends."""
    shown = sys.stderr.isatty()

    def progress(done: int) -> None:
        if shown:
            print(f"\r{name} {done}/{total} ", end="", file=sys.stderr, flush=True)

    try:
        yield progress
    finally:
        if shown:
            print(end="\r\x1b[K", file=sys.stderr, flush=True)


def _attacks(arguments: Eval, trained_eps: str | None) -> list[Attack]:
    from fastiseat.evaluation import attack_named

    for name, count in {"batch_size": arguments.batch_size, "subset": arguments.subset}.items():
        if count is not None and count < 1:
            raise UserError(f"{name}={count}: must be at least 1")
    if not arguments.attack:
        raise UserError("--attack: name one or more of clean, fgsm and pgd")
    eps = 0.0
    if set(arguments.attack) != {"clean"}:
        eps = _number(_told("eps", arguments.eps, trained_eps))
    return [
        attack_named(
            name, eps=eps, steps=arguments.steps, step_size=arguments.step_size, restarts=arguments.restarts
        )
        for name in arguments.attack
    ]


def _told(name: str, flag: Any, metadata: str | None) -> Any:
    if flag is None and metadata is None:
        raise UserError(f"the weights file does not tell {name}: give --{name}")
    return metadata if flag is None else flag


def _number(eps: float | str) -> float:
    try:
        return float(eps)
    except ValueError:
        raise UserError(f"the weights file tells eps {eps!r}, which is no number: give --eps") from None


def _check_fit(model: Network, channels: int, classes: int, what: str, dataset: str) -> None:
    spec = model.spec
    if (spec.in_channels, spec.num_classes) != (channels, classes):
        raise UserError(
            f"{what} {spec.in_channels} channels and {spec.num_classes} classes, {dataset} has {channels} and "
            f"{classes}: give the network's own data set with --dataset"
        )


def _row(attack: Attack, correct: int, total: int) -> dict[str, Any]:
    return {
        "attack": attack.name,
        "eps": attack.eps,
        "steps": attack.steps,
        "step_size": attack.step_size,
        "restarts": attack.restarts,
        "correct": correct,
        "total": total,
        "accuracy": correct / total,
    }


def _table(result: dict[str, Any]) -> Any:
    from fastiseat.cli.tables import titled_table
    from fastiseat.report.marks import data_mark

    mark = data_mark(result["official"])
    table = titled_table(
        f"{result['network']}\n{result['weights']} on {result['dataset']}, {result['split']}{mark}"
    )
    for name in ("attack", "ε", "steps", "step size", "restarts", "correct", "accuracy"):
        table.add_column(name, justify="left" if name == "attack" else "right")
    for row in result["attacks"]:
        attacked = row["steps"] > 0
        table.add_row(
            row["attack"],
            *(
                [f"{row['eps']:.4g}", str(row["steps"]), f"{row['step_size']:.4g}", str(row["restarts"])]
                if attacked
                else ["-"] * 4
            ),
            f"{row['correct']}/{row['total']}",
            f"{100 * row['accuracy']:.2f}%",
        )
    return table
