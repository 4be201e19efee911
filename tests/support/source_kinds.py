"""Every kind of data set that is read from files, tiny, and how its files change."""

import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.io
from tiny_releases import (
    CIFAR_FILES,
    WNIDS,
    cifar_batch,
    jpeg,
    pixels,
    python2_pickle,
    write_cifar,
    write_svhn,
    write_tiny_imagenet,
    zip_tree,
)

from fastiseat.names.data import own_kinds

CHANGES = ("content", "label", "added", "removed")
"""What may happen to the files: a pixel, a label, another class or image, a file less."""


def _cifar(name):
    def write(folder, change):
        write_cifar(folder, name, num_classes=3 if change == "added" else 2)
        first, key = CIFAR_FILES[name][0], "labels" if name == "cifar10" else "fine_labels"
        images, labels = pixels(4, seed=0), np.arange(4) % 2
        if change == "content":
            images[0, 0, 0, 0] ^= 1
        if change == "label":
            labels[0] = 1
        if change in ("content", "label"):
            (folder / first).write_bytes(python2_pickle(cifar_batch(images, labels, key)))
        if change == "removed":
            (folder / first).unlink()

    return write


def _svhn(folder, change):
    write_svhn(folder, train=30 if change == "added" else 20)
    file = folder / "train_32x32.mat"
    arrays = {name: scipy.io.loadmat(file)[name] for name in "Xy"}
    if change == "content":
        arrays["X"][0, 0, 0, 0] ^= 1
    if change == "label":
        arrays["y"][0] = 2
        arrays["y"][1] = 1
    if change in ("content", "label"):
        scipy.io.savemat(file, arrays, do_compression=True)
    if change == "removed":
        file.unlink()


def _tiny_imagenet(folder, change):
    write_tiny_imagenet(folder, wnids=WNIDS[:2])
    _images(folder / "train" / WNIDS[0] / "images", folder / "train" / WNIDS[1] / "images", change)
    if change == "added":
        (folder / "train" / WNIDS[2]).mkdir()
        (folder / "train" / WNIDS[2] / "a.JPEG").write_bytes(jpeg(seed=5))


def _image_folder(folder, change):
    for split in ("train", "test"):
        for place, name in enumerate(("cat", "dog", "owl")[: 3 if change == "added" else 2]):
            (folder / split / name).mkdir(parents=True)
            for number in range(2):
                content = jpeg(seed=10 * place + number, size=(16, 16))
                (folder / split / name / f"{number}.jpg").write_bytes(content)
    _images(folder / "train" / "cat", folder / "train" / "dog", change)


def _images(one, other, change):
    """Change the second of the JPEG files in ``one``, or move it to ``other``."""
    file = sorted(one.iterdir())[1]
    match change:
        case "content":
            file.write_bytes(jpeg(seed=77, size=(64, 64) if file.suffix == ".JPEG" else (16, 16)))
        case "label":
            file.rename(other / f"moved{file.suffix}")
        case "removed":
            file.unlink()


def _npz_arrays(change):
    splits = {"train": [pixels(6, 8, seed=1), np.arange(6) % 2], "test": [pixels(4, 8, seed=2), np.arange(4) % 2]}
    images, labels = splits["train"]
    if change == "content":
        images[0, 0, 0, 0] ^= 1
    if change == "label":
        labels[0] = 1
    if change == "added":
        labels[5] = 2
    if change == "removed":
        splits["train"] = [images[1:], labels[1:]]
    return splits


def _npz_folder(folder, change):
    folder.mkdir(parents=True)
    for split, (images, labels) in _npz_arrays(change).items():
        np.savez(folder / f"{split}.npz", image=images, label=labels)


def _npz_file(folder, change):
    folder.mkdir(parents=True)
    arrays = {
        f"{split}_{name}": array
        for split, pair in _npz_arrays(change).items()
        for name, array in zip(("images", "labels"), pair, strict=True)
    }
    np.savez(folder / "own.npz", **arrays)


@dataclass(frozen=True)
class Kind:
    """``write`` makes ``source`` below the root, or a folder that ``pack`` makes it of; ``jpeg``: of JPEG files."""

    name: str
    source: str
    write: Callable
    folder: str = ""
    pack: Callable | None = None
    jpeg: bool = False

    def place(self, root, change=None):
        """Put the data set into ``root``, changed or not, in place of what was there."""
        self.remove(root)
        if self.pack is None:
            self.write(root / self.source, change)
            return
        made = root.parent / "made" / self.folder
        made.parent.mkdir()
        self.write(made, change)
        self.pack(made, root / self.source)
        shutil.rmtree(made.parent)

    def remove(self, root):
        """Take all of it away."""
        source = root / self.source
        for file in source.glob("*.mat") if source == root else [source] if source.exists() else []:
            shutil.rmtree(file) if file.is_dir() else file.unlink()

    def touch(self, root):
        """Give every file another time."""
        source = root / self.source
        files = [source, *source.rglob("*")] if source.is_dir() else [source]
        for file in files:
            if "prepared" not in file.parts:
                os.utime(file, ns=(0, 10**9))

    def named(self, root):
        """What it is called."""
        return self.name.format(root=root)

    @property
    def readable_with_less(self):
        """Whether it can be read with an image less, rather than not at all: a release of arrays has all of them."""
        return self.jpeg or self.name.partition(":")[0] in own_kinds()

    @property
    def forms(self):
        """The names of ``--format`` that it has."""
        return ("resident", "ffcv", "jpeg", "ffcv-jpeg") if self.jpeg else ("resident", "ffcv")


def _tar(folder, target):
    with tarfile.open(target, "w:gz") as archive:
        archive.add(folder, folder.name)


CIFAR10, CIFAR100, TINY = "cifar-10-batches-py", "cifar-100-python", "tiny-imagenet-200"
KINDS = {
    "cifar10 tree": Kind("cifar10", CIFAR10, _cifar("cifar10")),
    "cifar10 archive": Kind("cifar10", "cifar-10-python.tar.gz", _cifar("cifar10"), CIFAR10, _tar),
    "cifar100 tree": Kind("cifar100", CIFAR100, _cifar("cifar100")),
    "cifar100 archive": Kind("cifar100", "cifar-100-python.tar.gz", _cifar("cifar100"), CIFAR100, _tar),
    "svhn": Kind("svhn", ".", _svhn),
    "tinyimagenet tree": Kind("tinyimagenet", TINY, _tiny_imagenet, jpeg=True),
    "tinyimagenet archive": Kind("tinyimagenet", f"{TINY}.zip", _tiny_imagenet, TINY, zip_tree, jpeg=True),
    "imagefolder": Kind("imagefolder:{root}/own", "own", _image_folder, jpeg=True),
    "npz folder": Kind("npz:{root}/own", "own", _npz_folder),
    "npz file": Kind("npz:{root}/own/own.npz", "own", _npz_file),
}
