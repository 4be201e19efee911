"""Every reader of files that others made, fed damaged ones: it reads them or refuses them, and does nothing else.

The damage is the same on every machine. Memory is limited meanwhile, so that a size that a file merely claims shows.
"""

import gzip
import json
import os
import pickle
import random
import resource
import tarfile
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path

import betons
import numpy as np
import pytest
import scipy.io
import torch
import zoo_forms
from PIL import Image
from tiny_releases import (
    arrays_of,
    pixels,
    write_cifar,
    write_image_folder,
    write_svhn,
    write_tiny_imagenet,
    zip_tree,
)

from fastiseat.checkpoint import WEIGHTS, RunDirectory
from fastiseat.cli.train.config_file import read_settings, settle
from fastiseat.errors import UserError
from fastiseat.models import build, load_model, metadata
from fastiseat.pipelines.data.formats.extra import read_extra
from fastiseat.pipelines.data.freshness import examine
from fastiseat.pipelines.data.prepare import prepare, read_source
from fastiseat.pipelines.data.prepare_encoded import prepare_encoded
from fastiseat.pipelines.loaders.jpeg import decode_file
from fastiseat.pipelines.stores.beton import Beton
from fastiseat.pipelines.stores.encoded_store import EncodedStore
from fastiseat.pipelines.stores.store import Store
from fastiseat.recipes import recipe
from fastiseat.report.reader import read_metrics

ROUNDS = 60
MEMORY = 3 * 2**30
NASTY = [
    b"\0",
    b"\xff" * 4,
    b"\xff" * 8,
    b"\x7f" + b"\xff" * 7,
    b"-1",
    b"99999999999999",
    b"1e999",
    b"null",
    b"[[",
    b"{}",
]


@pytest.fixture(autouse=True)
def little_memory():
    """Beyond what the process has already."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    found = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, found[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, found)


def damaged(content, draw):
    """``content`` with one to three things wrong, of which half lie where headers do."""
    content = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        end = len(content) if draw.random() < 0.5 else min(len(content), 256)
        at = draw.randrange(end + 1)
        match draw.randrange(6):
            case 0 if at < len(content):
                content[at] ^= 1 << draw.randrange(8)
            case 1 if at < len(content):
                content[at] = draw.choice([0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)])
            case 2:
                nasty = draw.choice(NASTY)
                content[at : at + len(nasty)] = nasty
            case 3:
                content[at:at] = draw.choice([*NASTY, draw.randbytes(8)])
            case 4:
                del content[at : at + draw.choice([1, 4, 100, 5000])]
            case 5:
                del content[draw.choice([at, len(content) - min(at, 64)]) :]
    return bytes(content)


def files_below(folder):
    return {path: path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


def try_all(folder, files, read, *, rounds=ROUNDS, repack=lambda content: content, unpack=lambda content: content):
    """``read`` what is damaged in one of ``files`` after the other; as it is, it must be readable."""
    read()
    outside = files_below(folder)
    for place, file in enumerate(files):
        valid = file.read_bytes()
        for number in range(rounds):
            content = repack(damaged(unpack(valid), random.Random(f"{place} {number}")))
            file.write_bytes(content)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    read()
            except UserError:
                pass
            except BaseException as error:
                raise AssertionError(f"{file.name}, damage {place} {number}: {type(error).__name__}") from error
        file.write_bytes(valid)
    assert files_below(folder) == outside


@pytest.mark.parametrize("member", [None, "config"])
def test_settings(tmp_path, member):
    path = tmp_path / "config.json"
    run = RunDirectory(tmp_path)
    run.write_config(recipe(), {"data_fingerprint": "f"})
    if member:
        path.write_text(json.dumps(json.loads(path.read_text())[member]))
    try_all(tmp_path, [path], lambda: settle(read_settings(path)), rounds=300)


def test_a_runs_config(tmp_path):
    RunDirectory(tmp_path).write_config(recipe(), {"data_fingerprint": "f"})
    try_all(
        tmp_path,
        [tmp_path / "config.json"],
        lambda: RunDirectory.open(tmp_path, recipe(), resume=True),
        rounds=300,
    )


def test_metrics(tmp_path):
    RunDirectory(tmp_path).write_metrics([{"epoch": 0, "loss": 0.1}, {"epoch": 1, "loss": 1e-9}])

    def read():
        assert all(isinstance(row, dict) for row in read_metrics(tmp_path))

    try_all(tmp_path, [tmp_path / "metrics.jsonl"], read, rounds=300)


STATE = {"rows": [{"epoch": 1}], "model": build("small").state_dict(), "step": {"a": 1}}


def test_checkpoints(tmp_path):
    checkpoints = RunDirectory(tmp_path).checkpoints
    checkpoints.save(STATE, step=7)
    checkpoints.close()
    try_all(tmp_path, list(checkpoints.folder.iterdir()), checkpoints.latest, rounds=100)


def test_checkpoints_of_an_earlier_version(tmp_path):
    checkpoints = RunDirectory(tmp_path).checkpoints
    checkpoints.folder.mkdir()
    torch.save(STATE, checkpoints.folder / "last.pt")
    try_all(tmp_path, [checkpoints.folder / "last.pt"], checkpoints.latest, rounds=100)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_weights(tmp_path, kind):
    model = build("small")
    path = tmp_path / "w.pt"
    if kind == "safetensors":
        RunDirectory(tmp_path).write_weights("last", model, metadata(model.spec, eps="0.1"))
        path = tmp_path / WEIGHTS["last"]
    else:
        torch.save({"state_dict": model.state_dict()}, path, _use_new_zipfile_serialization=kind == "zip")
    try_all(tmp_path, [path], lambda: load_model(path, variant="released"), rounds=120)


@pytest.mark.parametrize("is_zip", [True, False])
def test_weights_of_the_model_zoo(tmp_path, is_zip):
    """A normalisation beside the network, copies of both, and an optimizer's state beside the weights."""
    module = torch.nn.DataParallel(zoo_forms.robustness(zoo_forms.PlainWRN()))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    content = {"model": module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 7}
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=is_zip)
    try_all(tmp_path, [tmp_path / "w.pt"], lambda: load_model(tmp_path / "w.pt"), rounds=150)


@pytest.mark.parametrize("number", range(60))
def test_state_dicts_with_other_names_and_shapes(tmp_path, number):
    """Such as only a hand could make: the names of a valid one exchanged, nested and cut."""
    draw = random.Random(number)
    state = zoo_forms.robustness(zoo_forms.PlainWRN()).state_dict()
    words = ["model", "mean", "std", "mu", "0", "1", "", "ema", "conv1", "weight", "normalize", "a\n"]
    for key in draw.sample(sorted(state), 4):
        tensor = state.pop(key)
        parts = key.split(".")
        parts[draw.randrange(len(parts))] = draw.choice(words)
        dtype = draw.choice([torch.float32, torch.int64, torch.bool, torch.float8_e4m3fn])
        state[".".join(parts)] = draw.choice([tensor, tensor[:0] if tensor.dim() else tensor, tensor.to(dtype)])
    content = {draw.choice(["state_dict", "model", *words]): state, draw.choice(words): {}, "ema": state}
    torch.save(draw.choice([state, content, {"x": content}]), tmp_path / "w.pt")
    with suppress(UserError):
        load_model(tmp_path / "w.pt")


def read_release(kind, path):
    with read_source(kind, path, None) as source:
        return arrays_of(source)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_folders(tmp_path, name):
    folder = tmp_path / "cifar"
    write_cifar(folder, name)
    files = [
        folder / file for file in (("data_batch_2", "batches.meta") if name == "cifar10" else ("test", "meta"))
    ]
    try_all(tmp_path, files, lambda: read_release(name, folder), rounds=100)


@pytest.mark.parametrize("inside", [False, True])
def test_cifar_archives(tmp_path, inside):
    folder, path = tmp_path / "cifar", tmp_path / "cifar.tar.gz"
    write_cifar(folder, "cifar100", per_batch=2)
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, "cifar-100-python")
    change = {"repack": lambda tar: gzip.compress(tar, 1), "unpack": gzip.decompress} if inside else {}
    try_all(tmp_path, [path], lambda: read_release("cifar100", path), rounds=200, **change)


@pytest.mark.parametrize("compressed", [False, True])
def test_svhn(tmp_path, compressed):
    write_svhn(tmp_path)
    for path in tmp_path.iterdir():
        content = {name: value for name, value in scipy.io.loadmat(path).items() if name in "Xy"}
        scipy.io.savemat(path, content, do_compression=compressed)
    try_all(tmp_path, [tmp_path / "test_32x32.mat"], lambda: read_release("svhn", tmp_path), rounds=200)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
    for split in ("train", "test"):
        save(tmp_path / f"{split}.npz", image=pixels(6, 8), label=np.arange(6) % 3)
    try_all(tmp_path, [tmp_path / "test.npz"], lambda: read_release("npz", tmp_path), rounds=200)


@pytest.mark.parametrize("kind", ["pickle", "npz", "compressed"])
def test_extra_data(tmp_path, kind):
    path, images, labels = tmp_path / "extra", pixels(6, 8), np.arange(6) % 3
    with path.open("wb") as file:
        if kind == "pickle":
            file.write(pickle.dumps({"data": images, "extrapolated_targets": labels}, 4))
        else:
            (np.savez if kind == "npz" else np.savez_compressed)(file, image=images, label=labels)
    try_all(tmp_path, [path], lambda: read_extra(path, image_shape=(8, 8, 3), num_classes=3), rounds=200)


def test_prepared_arrays(tmp_path):
    folder, stores = write_image_folder(tmp_path / "own"), tmp_path / "data"
    stores.mkdir()
    path = prepare(f"imagefolder:{folder}", data_dir=stores).path

    def read():
        if store := Store.at(path):
            store.open()
            store.verify()
            examine(store)

    files = [path / name for name in ("info.json", "source.json", "train_images.npy", "test_labels.npy")]
    try_all(tmp_path, files, read, rounds=100)


def test_prepared_jpeg_files(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_tiny_imagenet(tmp_path / "tiny-imagenet-200", per_class=1, val=3)
    prepare("tinyimagenet", data_dir=tmp_path)
    path = prepare_encoded("tinyimagenet", data_dir=tmp_path).path

    def read():
        if store := EncodedStore.at(path):
            split = store.open()
            for row in range(len(split)):
                decode_file(split, row)

    try_all(tmp_path, [path / "info.json", *sorted(path.glob("*.npy"))], read, rounds=80)


@pytest.mark.parametrize("kind", ["packed", "jpeg"])
def test_betons(tmp_path, kind):
    train = betons.split(n=6) if kind == "packed" else betons.encoded([betons.smooth_jpeg(n) for n in range(6)])
    beton = betons.write(tmp_path / "beton", train)

    def read():
        if found := Beton.at(beton.path):
            found.check(name="mine", fingerprint=betons.PRINT, kind=kind)

    try_all(tmp_path, [beton.path / "info.json"], read, rounds=200)
    # All but the header and the rows of 8 MiB and more is zeros.
    valid = beton.file.read_bytes()
    for number in range(40):
        head = damaged(valid[:4096], random.Random(number))
        with beton.file.open("r+b") as file:
            file.write((head + bytes(4096))[:4096])
        with suppress(UserError):  # zeros between rows and pages are nobody's
            read()
    beton.file.write_bytes(valid)


def test_tiny_imagenet(tmp_path):
    root = write_tiny_imagenet(tmp_path / "tiny-imagenet-200", per_class=1, val=3)
    images = sorted(root.glob("*/*/*/*.JPEG")) + sorted(root.glob("val/*/*.JPEG"))
    files = [root / "val" / "val_annotations.txt", root / "words.txt", images[0], images[-1]]
    try_all(tmp_path, files, lambda: read_release("tinyimagenet", root), rounds=60)


def test_tiny_imagenet_as_a_zip_archive(tmp_path):
    root = write_tiny_imagenet(tmp_path / "tiny-imagenet-200", per_class=1, val=3)
    path = zip_tree(root, tmp_path / "tiny.zip")
    try_all(tmp_path, [path], lambda: read_release("tinyimagenet", path), rounds=150)
    directory = path.read_bytes().rindex(b"PK\1\2", 0, path.read_bytes().index(b"PK\1\2") + 4)
    head = path.read_bytes()[:directory]
    # What stands in the directory at the end decides what is read.
    try_all(
        tmp_path,
        [path],
        lambda: read_release("tinyimagenet", path),
        rounds=150,
        unpack=lambda content: content[directory:],
        repack=lambda content: head + content,
    )


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "ppm", "webp", "tif", "gif"])
def test_images(tmp_path, suffix):
    folder = write_image_folder(tmp_path / "own", per_class=1)
    for path in folder.rglob("*.png"):
        Image.open(path).convert("P" if suffix == "gif" else "RGB").save(path.with_suffix(f".{suffix}"))
        if suffix != "png":
            path.unlink()
    (file,) = folder.glob("train/cat/*")
    try_all(tmp_path, [file], lambda: read_release("imagefolder", folder), rounds=80)


class Bomb:
    """A pickle that makes a folder when it is executed."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize(
    "save", [pickle.dump, torch.save, lambda bomb, file: np.savez(file, image=bomb, label=bomb)]
)
@pytest.mark.parametrize(
    "read",
    [
        lambda path: read_extra(path, image_shape=(8, 8, 3), num_classes=3),
        load_model,
        lambda path: read_release("npz", path),
        lambda path: read_release("cifar100", path.parent),
        lambda path: read_release("svhn", path.parent),
        lambda path: RunDirectory(path.parent.parent).checkpoints.latest(),
        lambda path: Store.at(path.parent).open(),
    ],
)
def test_no_reader_executes_what_is_in_a_file(tmp_path, save, read):
    folder, target = tmp_path / "checkpoints", tmp_path / "executed"
    folder.mkdir()
    (folder / "info.json").write_text(STORE)
    for name in (
        "bomb.npz",
        "train",
        "test",
        "meta",
        "train_32x32.mat",
        "test_32x32.mat",
        "last.pt",
        "train_images.npy",
    ):
        with (folder / name).open("wb") as file:
            save(Bomb(target), file)
    with pytest.raises(UserError):
        read(folder / "bomb.npz")
    assert not target.exists()


STORE = json.dumps(
    {
        "format": 1,
        "name": "own",
        "class_names": ["a"],
        "train_shape": [1, 8, 8, 3],
        "test_shape": [1, 8, 8, 3],
        "fingerprint": "",
        "official": None,
        "remark": "",
        "source": "",
        "md5s": {},
        "image_size": None,
        "date": "",
        "seconds": 0.0,
        "versions": {},
    }
)


@pytest.mark.parametrize("number", range(30))
def test_archives_with_names_that_lead_out_of_them(tmp_path, number):
    draw, folder = random.Random(number), tmp_path / "in"
    folder.mkdir()
    parts = ["..", ".", "", "/", "\\", "train", "test", "meta", "n01443537", "C:", "\u202e", "a\nb", "~"]
    names = ["/".join(draw.choices(parts, k=draw.randint(1, 6))) or "a" for _ in range(8)]
    with zipfile.ZipFile(folder / "a.zip", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            archive.writestr(name, b"evil")
    with tarfile.open(folder / "a.tar.gz", "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.type = draw.choice([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
            member.linkname = draw.choice(names)
            archive.addfile(member)
    before = files_below(tmp_path)
    for kind, path in (("tinyimagenet", folder / "a.zip"), ("cifar100", folder / "a.tar.gz")):
        with pytest.raises(UserError):
            read_release(kind, path)
    assert files_below(tmp_path) == before
