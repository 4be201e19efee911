"""``fastiseat list``. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from fastiseat.cli.console.flags import command_line
from fastiseat.cli.console.output import show_json
from fastiseat.cli.eval.flags import Eval
from fastiseat.config import pixels_in_words
from fastiseat.names import ALSO_CALLED, ATTACKS
from fastiseat.names.data import written
from fastiseat.names.networks import summaries, variants_of
from fastiseat.recipes import DATASETS, METHODS, OWN_DATA, recipe

if TYPE_CHECKING:
    from rich.table import Table

ListRow = dict[str, Any]
_PIXELS = ("eps", "step size")
"""Columns of lengths in pixel values."""


@dataclass(frozen=True, kw_only=True)
class List:
    """What the settings of ``fastiseat train`` and ``eval`` can be: methods, data sets, recipes, models or attacks."""

    what: Annotated[
        Literal["methods", "datasets", "recipes", "models", "attacks"],
        Positional,
        arg(metavar="methods|datasets|recipes|models|attacks"),
    ]
    """Methods; data sets; recipes, what each method trains with on one data set; networks; or eval's attacks."""
    dataset: str = "digits"
    """For recipes: of this data set."""
    augment: str = "standard"
    """For recipes: with this augmentation."""
    extra: FlagCreatePairsOff[bool] = False
    """For recipes: with extra images."""
    as_json: Annotated[FlagCreatePairsOff[bool], arg(name="json")] = False
    """Print JSON instead of a table."""


ARGUMENTS = List


def main(argv: list[str]) -> None:
    """List one kind of name."""
    arguments = command_line(ARGUMENTS, argv, prog="fastiseat list")
    rows = list(_rows(arguments))
    if arguments.as_json:
        show_json(rows)
        return
    from fastiseat.cli.console.terminal import Terminal

    Terminal().print(_table(_title(arguments), rows))


def _rows(arguments: List) -> Iterator[ListRow]:
    match arguments.what:
        case "methods":
            return _methods()
        case "datasets":
            return _datasets()
        case "recipes":
            return _recipes(arguments)
        case "models":
            return _models()
        case "attacks":
            return _attacks()


def _title(arguments: List) -> str:
    match arguments.what:
        case "methods":
            return "Methods; units are passes of the network a step, at 10 attack steps"
        case "datasets":
            return "Data sets, and what fastiseat train takes for each"
        case "recipes":
            named = [arguments.dataset] + [arguments.augment] * (arguments.augment != "standard")
            named += ["extra images"] * arguments.extra
            return f"What each method trains with on {', '.join(named)}; where no beta, its own default"
        case "models":
            return "Networks, and whose code's each can be"
        case "attacks":
            return "Attacks of fastiseat eval"


def _methods() -> Iterator[ListRow]:
    default = recipe().objective.method
    for name, entry in METHODS.items():
        yield {
            "method": name,
            "what it is": entry.summary,
            "options": [f"--{option.replace('_', '-')}" for option in entry.options],
            "units": entry.units,
            "default": name == default,
        }


def _datasets() -> Iterator[ListRow]:
    default = recipe().data.dataset
    for name, entry in DATASETS.items():
        config = recipe(f"{name}:PATH" if name in OWN_DATA else name)
        yield {
            "data set": written(name),
            "what it is": (entry.__doc__ or "").partition("\n")[0],
            "arch": config.network.arch,
            "eps": config.attack.eps,
            "epochs": config.schedule.epochs,
            "default": name == default,
        }


def _recipes(arguments: List) -> Iterator[ListRow]:
    extra = "FILE" if arguments.extra else None
    for name in METHODS:
        config = recipe(arguments.dataset, name, augment=arguments.augment, extra=extra)
        yield {
            "method": name,
            "eps": config.attack.eps,
            "step size": config.attack.step_size,
            "epochs": config.schedule.epochs,
            "lr": config.optimizer.lr,
            "weight decay": config.optimizer.weight_decay,
            "lr drops": list(config.schedule.lr_drops),
            "lam": config.objective.lam,
            "awp gamma": config.awp.gamma,
            "beta": config.objective.beta,
        }


def _models() -> Iterator[ListRow]:
    default = {f"{kind}:PATH" if kind in OWN_DATA else kind: kind for kind in DATASETS}
    for arch, words in summaries().items():
        yield {
            "arch": arch,
            "what it is": words,
            "variants": list(variants_of(arch)),
            "default for": [kind for name, kind in default.items() if recipe(name).network.arch == arch],
        }


def _attacks() -> Iterator[ListRow]:
    for name, words in ATTACKS.items():
        yield {
            "attack": name,
            "what it is": words,
            "also called": [other for other, meant in ALSO_CALLED.items() if meant == name],
            "default": name in Eval.attack,
        }


def _table(title: str, rows: list[ListRow]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.text import Text

    from fastiseat.cli.console.tables import titled_table

    table = titled_table(title)
    table.box, table.padding = SIMPLE_HEAD, (0, 1, 0, 0)  # ten columns of numbers fit a terminal of 80
    for name in rows[0]:
        table.add_column(name, no_wrap=name in ("method", "data set", "arch", "attack"), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_in_words(name, value)) for name, value in row.items()))
    return table


def _in_words(name: str, value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else ""
        case list():
            return " ".join(_in_words(name, each) for each in value)
        case float():
            return pixels_in_words(value) if name in _PIXELS else f"{value:.4g}"
    return str(value)
