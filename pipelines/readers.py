"""The reader of each kind of files."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from fastiseat.pipelines.source import Source


def read_source(kind: str, path: Path, image_size: int | None) -> AbstractContextManager[Source]:
    """The files of ``kind`` at ``path``. Their reader is imported only now: some bring large libraries."""
    match kind:
        case "cifar10" | "cifar100":
            from fastiseat.pipelines.formats import cifar

            return cifar.read(kind, path)
        case "svhn":
            from fastiseat.pipelines.formats import svhn

            return svhn.read(path)
        case "tinyimagenet":
            from fastiseat.pipelines.formats import tiny_imagenet

            return tiny_imagenet.read(path)
        case "npz":
            from fastiseat.pipelines.formats import npz

            return npz.read(path)
    assert kind == "imagefolder"
    from fastiseat.pipelines.formats import image_folder

    return image_folder.read(path, side=image_size)
