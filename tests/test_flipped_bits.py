"""One bit of what was prepared has flipped on the disk: nothing is trained on it, measured on it or recorded of it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tiny_releases import jpeg, pixels

from fastiseat.__main__ import main
from fastiseat.errors import UserError
from fastiseat.pipelines.stores.beton import Beton
from fastiseat.pipelines.stores.checksums import checksum
from fastiseat.pipelines.stores.encoded_store import EncodedStore

pytestmark = [  # FFCV compiles as it is first used
    pytest.mark.xdist_group("ffcv"),
    pytest.mark.filterwarnings("ignore:The distutils package:DeprecationWarning"),
]

SHORT = (
    *(
        "--method",
        "at",
        "--arch",
        "small",
        "--steps",
        "1",
        "--epochs",
        "1",
        "--max-steps",
        "1",
        "--batch-size",
        "4",
    ),
    *("--final-steps", "0", "--quiet", "--threads", "1"),
)
MARK = "images NOT compared with what was prepared"
CHOICES = {"arrays": (), "jpeg": ("--images", "jpeg", "--loader", "torch"), "ffcv": ("--loader", "ffcv")}


class World:
    """An own data set that is prepared in every form, and a run on it."""

    def __init__(self, root: Path) -> None:
        self.root, self.name = root, f"imagefolder:{root / 'own'}"
        for place in range(24):
            folder = root / "own" / ("train", "test")[place % 2] / ("cat", "dog")[place // 2 % 2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{place}.jpg").write_bytes(jpeg(size=(16, 16), seed=place))
        self.call("data", "prepare", self.name, "--format", "jpeg", "ffcv", "--data-dir", root)
        self.call("train", *self.training(root / "run"))
        self.prepared = next(
            path for path in (root / "prepared").iterdir() if path.suffix == "" and path.name[0] != "."
        )

    def training(self, out: Path) -> tuple[object, ...]:
        return (*SHORT, "--dataset", self.name, "--data-dir", self.root, "--out", out)

    def call(self, *words: object) -> None:
        assert main([str(word) for word in words]) == 0, words

    def files(self, suffix: str = "") -> list[Path]:
        """Of one form, all but what describes them."""
        folder = self.prepared.with_name(self.prepared.name + suffix)
        return [file for file in sorted(folder.iterdir()) if file.suffix != ".json"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("FASTISEAT_DATA", raising=False)
        yield World(tmp_path_factory.mktemp("flips"))


@contextmanager
def flipped(file: Path, place: int, bit: int = 0) -> Iterator[None]:
    """As a disk does it: sizes and times tell nothing."""
    content, times = file.read_bytes(), file.stat()
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    for written in (changed, None):
        file.write_bytes(content if written is None else written)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        if written is not None:
            try:
                yield
            except BaseException:
                file.write_bytes(content)
                raise


def refused(world: World, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    code, (_, complaint) = main([str(word) for word in words]), capsys.readouterr()
    assert code == 2
    assert "Traceback" not in complaint
    return complaint.splitlines()[-1]


@pytest.mark.parametrize("choice", CHOICES)
def test_train_records_nothing(
    world: World, choice: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out, suffix = tmp_path / "run", "" if choice == "arrays" else f".{choice}"
    for file in world.files(suffix):
        for place in (file.stat().st_size - 1, -2, file.stat().st_size // 2):
            with flipped(file, place, bit=place % 7):
                complaint = refused(world, capsys, "train", *world.training(out), *CHOICES[choice])
                assert f"{file if 'labels' not in file.name else file.parent}" in complaint
                assert "--force" in complaint
                assert not out.exists() or not [
                    path for path in out.rglob("*") if path.is_file() and path.name != ".lock"
                ]
    world.call("train", *world.training(out), *CHOICES[choice])
    assert json.loads((out / "config.json").read_bytes())["data_verified"] is True


def test_resume_goes_no_further(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    run = world.root / "run"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    with flipped(world.prepared / "train_images.npy", -5):
        complaint = refused(world, capsys, "train", "--resume", "--out", run, "--quiet")
    assert "damaged: it is not what was prepared" in complaint
    assert all(path.read_bytes() == content for path, content in before.items())


def test_eval_looks_at_the_split_that_it_is_asked_about(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("eval", world.root / "run", "--attack", "clean", "--no-sanity", "--json", "--device", "cpu")
    saved = world.root / "run" / "evaluations"
    for file in world.files():
        own, other = ("test", "train") if file.name.startswith("test") else ("train", "test")
        before = set(saved.glob("*"))
        with flipped(file, -8):
            assert str(file.parent) in refused(world, capsys, *asked, "--split", own)
            assert set(saved.glob("*")) == before
            world.call(*asked, "--split", other)
            assert json.loads(capsys.readouterr().out)["verified"] is True


def test_what_was_prepared_without_checksums_is_used_and_not_called_verified(
    world: World, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    described = [world.prepared.with_name(world.prepared.name + suffix) / "info.json" for suffix in ("", ".ffcv")]
    contents = [file.read_bytes() for file in described]
    try:
        for number, (file, content) in enumerate(zip(described, contents, strict=True)):
            told = {n: v for n, v in json.loads(content).items() if not n.startswith("checksum")}
            file.write_text(json.dumps(told))
            out = tmp_path / str(number)
            world.call("train", *world.training(out), *CHOICES["ffcv"])
            printed = capsys.readouterr()
            assert ("not verified" in printed.err) == (not number)
            assert MARK in " ".join(printed.out.split()), "above the accuracies of the run"
            world.call("eval", out, "--attack", "clean", "--no-sanity", "--device", "cpu")
            evaluated = " ".join(capsys.readouterr().out.split())
            assert (MARK in evaluated) == (not number), "eval reads the arrays alone"
            assert json.loads((out / "config.json").read_bytes())["data_verified"] is False
            file.write_bytes(content)
    finally:
        for file, content in zip(described, contents, strict=True):
            file.write_bytes(content)


def test_each_form_alone(world: World) -> None:
    held = EncodedStore.at(EncodedStore.beside(world.prepared)), Beton.at(world.files(".ffcv")[0].parent)
    for one in held:
        assert one is not None
        assert one.verified()
    with (
        flipped(world.files(".ffcv")[0], -1),
        pytest.raises(UserError, match="not what was written; run: fastiseat"),
    ):
        held[1].verified()  # type: ignore[union-attr]


@pytest.mark.parametrize("size", [0, 1, 7, 2**24 - 1, 2**24, 2**24 + 1])
def test_any_bit_is_seen(size: int) -> None:
    array = pixels(1, 1)[0, 0, 0, :1].repeat(size)
    first = checksum(array)
    assert checksum(array) == first
    for place in {0, size // 2, size - 1} if size else ():
        array[place] ^= 64
        assert checksum(array) != first
        array[place] ^= 64
    assert checksum(np.asfortranarray(array)) == first
