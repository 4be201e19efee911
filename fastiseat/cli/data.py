"""``fastiseat data``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

from tyro.conf import FlagCreatePairsOff, Positional, arg, subcommand

from fastiseat.cli.console.flags import command_line
from fastiseat.cli.console.output import show
from fastiseat.errors import UserError
from fastiseat.names.data import prepared_in_help
from fastiseat.pipelines.data.locations import BUNDLED, roots
from fastiseat.pipelines.protocol.releases import verdict

if TYPE_CHECKING:
    from rich.table import Table

    from fastiseat.pipelines.protocol.base import DataSet
    from fastiseat.pipelines.protocol.progress import Progress
    from fastiseat.pipelines.stores.beton_format import Kind
    from fastiseat.pipelines.stores.store import Store


Format = Literal["resident", "jpeg", "ffcv", "ffcv-jpeg"]
Name = Annotated[str, Positional, arg(metavar="NAME")]


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Turn a data set's files into the arrays that training maps into memory, or do so anew where they have changed.

    NAME is {names}. Files are looked for in --data-dir,
    then $FASTISEAT_DATA, then ~/.cache/fastiseat, and the arrays written beside them, into prepared/.
    """

    name: Name
    """The data set."""
    source: Path | None = None
    """The release's archive or unpacked folder, where it lies elsewhere."""
    download: FlagCreatePairsOff[bool] = False
    """Fetch the release from its home, check its MD5, and go on where an earlier transfer broke off."""
    data_dir: Path | None = None
    """The folder that holds the archive or its content."""
    force: FlagCreatePairsOff[bool] = False
    """Prepare again what is prepared."""
    format: tuple[Format, ...] = ("resident",)
    """resident: the packed arrays, which every loader but ffcv reads and the others are made of. ffcv: a .beton of
    them. jpeg: the original files in one, for --images jpeg. ffcv-jpeg: a .beton of these."""
    image_size: int | None = None
    """For imagefolder: resize the shorter side to this (bilinear, antialiased) and cut out the centre."""


Prepare.__doc__ = (Prepare.__doc__ or "").format(names=prepared_in_help())


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Read the prepared arrays and their source again, and say whether they are intact, what their source still holds,
    and whether they are the official release.

    train, eval and prepare look at names, sizes and times in the source, and read files only where these differ: what
    changes a file and keeps its size and its time is found here alone.
    """

    name: Name
    """The data set."""
    data_dir: Path | None = None
    """The folder that holds it."""


@dataclass(frozen=True, kw_only=True)
class Info:
    """Show what a prepared data set is and where it lies."""

    name: Name
    """The data set."""
    data_dir: Path | None = None
    """The folder that holds it."""


ARGUMENTS = (
    Annotated[Prepare, subcommand(name="prepare")]
    | Annotated[Verify, subcommand(name="verify")]
    | Annotated[Info, subcommand(name="info")]
)


def main(argv: list[str]) -> None:
    """Prepare, verify or show a data set."""
    command = command_line(cast(type[Prepare | Verify | Info], ARGUMENTS), argv, prog="fastiseat data")
    match command:
        case Prepare():
            _prepare(command)
        case Verify():
            _verify(command)
        case Info():
            _info(command)


def _prepare(command: Prepare) -> None:
    from fastiseat.cli.console.progress import ConsoleProgress
    from fastiseat.pipelines.data.prepare import prepare
    from fastiseat.pipelines.data.prepare_encoded import encode
    from fastiseat.pipelines.stores.beton import PREPARED_AS

    with ConsoleProgress() as progress:
        if command.name in BUNDLED:
            show(f"{command.name} comes with {BUNDLED[command.name]}: its arrays are used from there")
        else:
            store = prepare(
                command.name,
                data_dir=command.data_dir,
                source=command.source,
                download=command.download,
                image_size=command.image_size,
                force=command.force,
                progress=progress,
            )
            show(_summary(store))
            if "jpeg" in command.format:
                encode(store, force=command.force, progress=progress)
        for images, form in PREPARED_AS.items():
            if form in command.format:
                _prepare_for_ffcv(command, images, progress)


def _prepare_for_ffcv(command: Prepare, images: Kind, progress: Progress) -> None:
    from fastiseat.pipelines.data import datasets
    from fastiseat.pipelines.loaders.choose import ensure_beton

    whole = datasets.load(command.name, data_dir=command.data_dir)
    beton = ensure_beton(whole, images, data_dir=command.data_dir, force=command.force, progress=progress)
    show(f"for FFCV: {beton.path}, {beton.info.samples:,} images, {images}")


def _verify(command: Verify) -> None:
    if command.name in BUNDLED:
        show(f"{command.name} comes with {BUNDLED[command.name]}: there is nothing to verify")
        return
    from fastiseat.cli.console.progress import ConsoleProgress
    from fastiseat.pipelines.data.freshness import examine, settle

    store = _store(command.name, command.data_dir)
    with ConsoleProgress() as progress:
        store.verify(progress)
        found = examine(store, thorough=True, progress=progress)
        if found.state == "unknown":
            found = settle(store, progress)
    if found.state == "changed":
        raise UserError(
            f"{store.path}: intact, but prepared from {found}, which is training or fastiseat data prepare "
            f"{shlex.quote(command.name)}"
        )
    show(f"intact: {_summary(store)}")
    show(f"prepared from {found}")


def _summary(store: Store) -> str:
    info = store.info
    return f"{info.name} in {store.path}, fingerprint {info.fingerprint}, {verdict(info.official, info.remark)}"


def _store(name: str, data_dir: Path | None) -> Store:
    from fastiseat.pipelines.data.prepare import find_store

    store = find_store(name, data_dir=data_dir)
    if store is None:
        looked = " or ".join(map(str, roots(data_dir)))
        raise UserError(
            f"{name} is not prepared in {looked}: run fastiseat data prepare {shlex.quote(name)}, with its --data-dir"
        )
    return store


def _info(command: Info) -> None:
    from fastiseat.cli.console.terminal import Terminal
    from fastiseat.pipelines.data import datasets

    store = None if command.name in BUNDLED else _store(command.name, command.data_dir)
    data = datasets.load(command.name) if store is None else store.open()
    Terminal().print(_table(data, store))


def _table(data: DataSet, store: Store | None) -> Table:
    from rich.text import Text

    from fastiseat.cli.console.tables import titled_table

    table = titled_table(data.name, show_header=False)
    for name, value in _facts(data, store).items():
        table.add_row(name, Text(value))  # Text: a path's brackets are no markup
    return table


def _facts(data: DataSet, store: Store | None) -> dict[str, str]:
    import numpy as np

    facts = {}
    for name, split in {"training": data.train, "test": data.test}.items():
        counts = np.bincount(split.labels, minlength=data.num_classes)
        height, width, channels = split.images.shape[1:]
        least, most = counts.min(), counts.max()
        each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        facts[f"{name} images"] = f"{len(split):,} of {width}×{height}×{channels}, {each} a class"
    facts["classes"] = f"{data.num_classes}: {', '.join(_some(data.class_names))}"
    facts["fingerprint"] = data.fingerprint
    return facts | (_facts_of_store(store) if store else {"where": BUNDLED[data.name]})


def _some(names: Sequence[str]) -> Sequence[str]:
    """All of a few names, else the first three and the last."""
    return names if len(names) <= 4 else (*names[:3], "…", names[-1])


def _forms_told(store: Store) -> str:
    """The names of ``--format`` that lie beside the packed arrays."""
    from fastiseat.pipelines.data.forms import is_current, other_forms

    forms = other_forms(store).items()
    told = [form if is_current(path, store) else f"{form} (of what was prepared before)" for form, path in forms]
    return ", ".join(told) or "nothing else; data prepare --format makes other forms"


def _facts_of_store(store: Store) -> dict[str, str]:
    from fastiseat.pipelines.data.freshness import examine
    from fastiseat.pipelines.stores.writer import in_bytes

    info, source = store.info, examine(store)
    return {
        "official": verdict(info.official, info.remark).removeprefix("official: "),
        "where": str(store.path),
        "on disk": in_bytes(store.size()),
        "also as": _forms_told(store),
        "prepared from": f"{source}" + (f", resized to {info.image_size}" if info.image_size else ""),
        "prepared at": f"{info.date}, in {info.seconds:g} s",
    }
