"""Tiny ImageNet: JPEG files by class for training, in one folder with a table of labels for validation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath

import numpy as np

from fastiseat.errors import UserError
from fastiseat.pipelines.data.archives import Files, is_image, open_files
from fastiseat.pipelines.data.formats.images import decoded, image_shape, undecoded
from fastiseat.pipelines.protocol.releases import RELEASES, md5_of
from fastiseat.pipelines.protocol.source import Source, SourceSplit, released

ANNOTATIONS = "val/val_annotations.txt"
_WNID = re.compile(r"n\d{8}")


def read_source(kind: str, path: Path, image_size: int | None) -> AbstractContextManager[Source]:
    """:func:`read`, as all readers are called."""
    return read(path)


@contextmanager
def read(path: Path) -> Iterator[Source]:
    """The zip archive, without unpacking it, or its unpacked folder.

    Labels are the places of the sorted WordNet ids. The validation images are the test split, in the order of
    their file names, labelled by ``val_annotations.txt`` or by the class folders that somebody sorted them into.
    """
    release = RELEASES["tinyimagenet"]
    with open_files(path) as files:
        wnids = files.folders("train")
        training = _training(files, path)
        validation = _validation(files, wnids)
        yield released(
            release,
            where=str(path),
            class_names=_class_names(files, wnids),
            train=_split(files, [*training], [*training.values()], wnids),
            test=_split(files, [*validation], [*validation.values()], wnids),
            md5s={} if path.is_dir() else {release.archive: md5_of(path)},
        )


def _training(files: Files, path: Path) -> dict[str, str]:
    """The class of each training image."""
    classes = {name: name.split("/")[1] for name in files.below("train") if is_image(name)}
    if not classes:
        raise UserError(f"{path}: holds no train/<WordNet id>/images; fetch the official archive")
    for name, wnid in classes.items():
        if not _WNID.fullmatch(wnid):
            below = files.folders(f"train/{wnid}")
            if any(map(_WNID.fullmatch, below)):
                raise UserError(
                    f"{files.where(f'train/{wnid}')}: holds {', '.join(below[:3])}{' …' if len(below) > 3 else ''}: a "
                    "level too many; the class folders lie in train itself"
                )
            raise UserError(
                f"{files.where(name)}: {wnid!r} is no WordNet id like n01443537; own images are read as imagefolder:DIR"
            )
    return classes


def _validation(files: Files, wnids: Sequence[str]) -> dict[str, str]:
    """The class of each validation image, in the order of file names."""
    names = [name for name in files.below("val") if is_image(name)]
    if not names:
        raise UserError(f"{files.where('val')}: holds no images; the validation images are the test split")
    names.sort(key=lambda name: (PurePosixPath(name).name, name))
    table = _annotations(files) if files.has(ANNOTATIONS) else {}
    classes = {name: _class_folder(name) for name in names}
    flat = [name for name in names if not classes[name]]
    if len(flat) == len(names):
        classes = _classes_by_table(files, names, table)
    elif flat:
        raise UserError(
            f"{files.where(flat[0])}: lies in no class folder, as other validation images do; sort all or none"
        )
    for name, wnid in classes.items():
        told = table.get(PurePosixPath(name).name, wnid)
        if told != wnid:
            raise UserError(f"{files.where(name)}: lies in the folder of {wnid}, but {ANNOTATIONS} says {told}")
        if wnid not in wnids:
            raise UserError(f"{files.where(name)}: its class {wnid} has no folder in train; bring both in line")
    return classes


def _class_folder(name: str) -> str:
    """The class folder that a validation image lies in, or empty: ``val/<wnid>[/images]``, ``val/images[/<wnid>]``."""
    return "/".join(part for part in PurePosixPath(name).parts[1:-1] if part != "images")


def _classes_by_table(files: Files, names: Sequence[str], table: Mapping[str, str]) -> dict[str, str]:
    if not table:
        raise UserError(
            f"{files.where(ANNOTATIONS)}: missing or empty, and the validation images lie in no class folders, so "
            "nothing tells their labels; fetch it"
        )
    classes: dict[str, str] = {}
    for name in names:
        file = PurePosixPath(name).name
        if file not in table:
            raise UserError(f"{files.where(name)}: has no line in {ANNOTATIONS}; fetch the official archive")
        classes[name] = table[file]
    if missing := sorted(table.keys() - {PurePosixPath(name).name for name in names}):
        raise UserError(f"{files.where(ANNOTATIONS)}: names {missing[0]}, which is not in val/images; fetch it")
    return classes


def _annotations(files: Files) -> dict[str, str]:
    """File name to WordNet id; the lines may be in any order."""
    table: dict[str, str] = {}
    for number, line in enumerate(files.read(ANNOTATIONS).decode(errors="replace").splitlines(), start=1):
        file, *rest = line.split("\t")
        if not line.strip():
            continue
        if not rest or not _WNID.fullmatch(rest[0]):
            raise UserError(
                f"{files.where(ANNOTATIONS)}:{number}: {line!r}; a file, a tab and its WordNet id are needed"
            )
        if table.setdefault(file, rest[0]) != rest[0]:
            raise UserError(f"{files.where(ANNOTATIONS)}:{number}: {file} has another label in an earlier line")
    return table


def _split(files: Files, names: Sequence[str], labels: Sequence[str], wnids: Sequence[str]) -> SourceSplit:
    place = {wnid: number for number, wnid in enumerate(wnids)}
    return SourceSplit(
        labels=np.array([place[wnid] for wnid in labels], dtype=np.int64),
        image_shape=image_shape(files, names[0]),
        blocks=decoded(files, names),
        files=undecoded(files, names),
    )


def _class_names(files: Files, wnids: Sequence[str]) -> tuple[str, ...]:
    """``n01443537 goldfish``: the WordNet id and, where words.txt is there, the first word for it."""
    if not files.has("words.txt"):
        return tuple(wnids)
    lines = files.read("words.txt").decode(errors="replace").splitlines()
    words = {wnid: text.split(",")[0].strip() for wnid, _, text in (line.partition("\t") for line in lines)}
    return tuple(f"{wnid} {words.get(wnid, '')}".rstrip() for wnid in wnids)
