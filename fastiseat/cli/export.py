"""``fastiseat export``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from fastiseat.cli.console.flags import command_line
from fastiseat.cli.console.output import show
from fastiseat.cli.target import weights_file
from fastiseat.names.networks import Variant
from fastiseat.safe import resolved

if TYPE_CHECKING:
    from fastiseat.export import Exported, Source

_SUFFIXES = {"safetensors": ".safetensors", "robustbench": ".pt", "torch-export": ".pt2", "onnx": ".onnx"}


@dataclass(frozen=True, kw_only=True)
class Export:
    """A run's network, or one in a weights file, as a file for others, with a model card beside it.

    The file is read back and compared with the network before it appears: logits on random images must agree.

    safetensors is fastiseat's own format, with all that is known of the network. robustbench is a torch file with a
    state_dict: RobustBench's own classes load common Wide ResNets and PreActResNet-18 of any variant but consistency,
    for images of 3×32×32; its Wide ResNet computes something else than the released variant, so that for the others
    plain_networks.py, plain PyTorch, is put beside the file. torch-export (.pt2) and onnx hold the whole network in
    float32, for batches and images of any size, and need no fastiseat; onnx needs pip install 'fastiseat[onnx]'.
    """

    target: Positional[Path]
    """A run's directory, or a file: .safetensors, the authors' .pt or RobustBench's."""
    to: Annotated[
        Literal["safetensors", "robustbench", "torch-export", "onnx"],
        arg(metavar="safetensors|robustbench|torch-export|onnx"),
    ]
    """The format."""
    out: Path | None = None
    """The file, or a folder for it; default: here, named after the run or the weights file. The card is FILE.md."""
    weights: Literal["best", "last"] = "best"
    """Which weights of a run."""
    variant: Variant | None = None
    """Whose code's network it is, for a file that does not tell: as in fastiseat train."""
    mean: tuple[float, ...] | None = None
    """What the network's own code subtracts from images in [0, 1], one number or one a colour, for a file of others
    that does not hold it; with --std."""
    std: tuple[float, ...] | None = None
    """What it divides them by."""
    entry: str | None = None
    """The name of the state dict in a torch file that holds several, or the prefix of its keys."""
    force: FlagCreatePairsOff[bool] = False
    """Overwrite files that exist."""


ARGUMENTS = Export


def main(argv: list[str]) -> None:
    """Export and say what was written."""
    arguments = command_line(ARGUMENTS, argv, prog="fastiseat export")
    file = weights_file(arguments.target, arguments.weights)
    out = _out(arguments)
    from fastiseat.export import export, read_source

    run = arguments.target if arguments.target.is_dir() else None
    source = read_source(
        file,
        run=run,
        which=arguments.weights,
        variant=arguments.variant,
        mean=arguments.mean,
        std=arguments.std,
        entry=arguments.entry,
        say=lambda line: show(f"note: {line}"),
    )
    _say(source, export(source, arguments.to, out, force=arguments.force))


def _out(arguments: Export) -> Path:
    target, suffix = arguments.target, _SUFFIXES[arguments.to]
    name = f"{resolved(target).name}-{arguments.weights}" if target.is_dir() else target.stem
    if arguments.out is None:
        return Path(f"{name}{suffix}")
    return arguments.out / f"{name}{suffix}" if arguments.out.is_dir() else arguments.out


def _say(source: Source, exported: Exported) -> None:
    from fastiseat.export import BATCHES

    batches = " ".join(map(str, BATCHES))
    show(f"{source.spec}")
    show("written:", *exported.files)
    show(f"read back: logits differ by at most {exported.difference:.2g}, on batches of {batches} random images")
    if exported.note:
        show(f"note: {exported.note}")
