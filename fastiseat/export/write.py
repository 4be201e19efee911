"""Write, read back, compare, and only then rename into place."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from fastiseat.errors import UserError
from fastiseat.export.card import card
from fastiseat.export.formats import FORMATS, Format, Forward
from fastiseat.export.killed import held, sweep
from fastiseat.export.source import Source
from fastiseat.fields import require_text
from fastiseat.safe import read_file
from fastiseat.safe.reading import TEXT
from fastiseat.safe.writing import flush_folder

BATCHES = (1, 2, 5)
"""Sizes of the batches that a file is compared on."""
TOLERANCE = 1e-4
"""Largest difference from the source, relative to the largest logit."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        files: the network's file, its card, and what loading needs beside them.
        difference: largest absolute difference of a logit from the source's.
        note: what a user has to know about this network in this format; may be empty.
    """

    files: tuple[Path, ...]
    difference: float
    note: str


def card_of(path: Path) -> Path:
    """Where the model card of a file is: one for each format of a name."""
    return path.with_name(f"{path.name}.md")


def export(source: Source, to: str, out: Path, *, force: bool = False) -> Exported:
    """Write ``source`` in the format ``to`` to ``out``, and its card beside it; all or nothing.

    Whatever kills it, no card lies beside a file that it does not speak of.

    Raises:
        UserError: a wrong suffix, a file that exists (unless ``force``), a folder that can't be written, a package
            that is missing, or a file that does not reproduce the source's numbers.
    """
    kind = FORMATS[to]
    beside = kind.beside(source)
    companion = out.with_name(beside.name) if beside else None
    _check_names(out, kind, to)
    sweep(out, card_of(out))
    if not force:
        _check_absent(out, companion, beside)
    with _workshop(out) as folder:
        file = folder / out.name
        content = kind.encode(source)
        _write(file, content)
        difference = _compare(source, kind.load(file, source))
        text = card(source, kind, out.name, digest=hashlib.sha256(content).hexdigest(), difference=difference)
        if not force:
            _check_card(card_of(out), text.encode())
        beside_it = {companion: read_file(beside)} if companion and beside else {}
        for path, more in {**beside_it, card_of(out): text.encode()}.items():
            _write(folder / path.name, more)
        _place(folder, *beside_it, card_of(out), out)
    files = (out, card_of(out), *([companion] if companion else []))
    return Exported(files=files, difference=difference, note=kind.note(source))


def _check_names(out: Path, kind: Format, to: str) -> None:
    require_text(out=out)
    if out.suffix != kind.suffix:
        raise UserError(f"--out {out}: a file of --to {to} ends in {kind.suffix}; name it {out.stem}{kind.suffix}")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}; make it, or choose another --out")


def _check_absent(out: Path, companion: Path | None, beside: Path | None) -> None:
    if out.exists():
        raise _exists(out)
    if companion and beside and companion.exists() and not _holds(companion, read_file(beside)):
        raise UserError(
            f"{companion} exists and is another one: choose another --out, or overwrite it with --force"
        )


def _check_card(path: Path, text: bytes) -> None:
    """The very same one may stand there, whose file was taken away."""
    if path.exists() and not _holds(path, text):
        raise _exists(path)


def _holds(path: Path, content: bytes) -> bool:
    try:
        return read_file(path, most=TEXT) == content
    except OSError:  # no file, or one that nobody may read
        return False


def _exists(path: Path) -> UserError:
    return UserError(f"{path} exists: choose another --out, or overwrite it with --force")


@contextmanager
def _workshop(out: Path) -> Iterator[Path]:
    """A hidden folder beside ``out``, which is gone afterwards, however the block ends."""
    try:
        with (
            tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent) as folder,
            held(Path(folder)),
        ):
            yield Path(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write {out}: {reason}; free space or choose another --out") from error


def _place(folder: Path, *files: Path) -> None:
    """Give the new files in ``folder`` their names, the card and then what it speaks of last: where that is, all is.

    In the place of another one the card comes last, and the old one goes before; what a kill leaves out of that, the
    next export makes up for.
    """
    *others, card, out = files
    order = [*others, card, out]
    if out.exists():
        card.unlink(missing_ok=True)
        flush_folder(out.parent)
        order = [*others, out, card]
    for file in order:
        (folder / file.name).replace(file)
    flush_folder(out.parent)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@torch.no_grad()
def _compare(source: Source, forward: Forward) -> float:
    """The largest difference on random images; :class:`UserError` beyond what another order of sums can do."""
    generator, differences, size = torch.Generator().manual_seed(0), [], 0.0
    for batch in BATCHES:
        shape = (batch, source.spec.in_channels, source.side, source.side)
        images = torch.rand(shape, generator=generator)
        expected = source.model(images.to(source.dtype)).double()
        differences.append(float((forward(images).double() - expected).abs().max()))
        size = max(size, float(expected.abs().max()))
    largest = max(differences)
    # Written so that a NaN anywhere, which max may pass over, is refused as well.
    if not all(difference <= TOLERANCE * size < float("inf") for difference in differences):
        raise UserError(
            f"the file's logits differ from the source's by {largest:.2g}, where the largest is {size:.2g}; nothing is "
            "written: the weights hold values that are not finite, or a package computes otherwise: update torch"
        )
    return largest
