"""All loaders of a run yield the same batches, whatever the world, the subset and the step they start at."""

import builtins

import numpy as np
import pytest
import torch
from tiny_releases import pixels

from fastiseat.errors import UserError
from fastiseat.pipelines.loaders import choose as loaders
from fastiseat.pipelines.loaders.choose import LOADERS, Training, choose, ensure_beton, load
from fastiseat.pipelines.protocol.base import DataSet, Split
from fastiseat.pipelines.protocol.order import Order

CPU = torch.device("cpu")
pytestmark = pytest.mark.xdist_group("ffcv")


def data_set(n=40, channels=3):
    """Digits in name: a data set that comes with a package, so that no files are looked for."""
    labels = np.arange(n) % 10
    train = Split(images=pixels(n, 8, channels), labels=labels)
    return DataSet(name="digits", num_classes=10, train=train, test=train.take(np.arange(4)))


@pytest.fixture
def training(tmp_path):
    whole = data_set()
    return Training(whole=whole, split=whole.train, data_dir=tmp_path)


def part(training, rows):
    return Training(
        whole=training.whole, split=training.whole.train.take(rows), rows=rows, data_dir=training.data_dir
    )


def batches(name, training, *, epoch=2, first=0, rank=0, world_size=1, **order):
    order = Order(size=len(training.split), seed=5, rank=rank, world_size=world_size, **{"batch_size": 8} | order)
    found = load(name, training, order, device=CPU)
    assert found.name == name
    return [batch.gathered() for batch in found.loader.epoch(epoch, first=first)]


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("images", "labels", "index"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("name", [name for name in LOADERS if name != "torch"])
def test_every_loader_yields_the_reference_s_batches_on_every_rank(training, name, world_size):
    for rank in range(world_size):
        where = {"rank": rank, "world_size": world_size}
        assert_same(batches(name, training, **where), batches("torch", training, **where))


@pytest.mark.parametrize("name", LOADERS)
def test_a_resume_in_mid_epoch_yields_the_rest_of_it(training, name):
    whole = batches("torch", training)
    for first in (0, 2, len(whole) - 1, len(whole)):
        assert_same(batches(name, training, first=first), whole[first:])


@pytest.mark.parametrize("name", LOADERS)
def test_a_subset_is_read_from_the_stored_whole(training, name):
    rows = np.array([3, 4, 8, 11, 12, 17, 20, 21, 22, 30, 31, 39])
    found = batches(name, part(training, rows), batch_size=4)
    assert_same(found, batches("torch", part(training, rows), batch_size=4))
    for batch in found:
        assert np.array_equal(batch.images, training.whole.train.images[rows[batch.index]])


@pytest.mark.parametrize("name", LOADERS)
def test_grey_images(tmp_path, name):
    whole = data_set(channels=1)
    training = Training(whole=whole, split=whole.train, data_dir=tmp_path)
    assert_same(batches(name, training), batches("torch", training))


def test_a_beton_is_written_once_and_anew_for_other_data(training):
    first = ensure_beton(training.whole, "packed", data_dir=training.data_dir)
    written = first.file.stat().st_mtime_ns
    again = ensure_beton(training.whole, "packed", data_dir=training.data_dir)
    assert again.file.stat().st_mtime_ns == written
    other = data_set(n=44)
    assert ensure_beton(other, "packed", data_dir=training.data_dir).info.samples == 44
    inode = first.path.stat().st_ino
    assert ensure_beton(other, "packed", data_dir=training.data_dir, force=True).path.stat().st_ino != inode


def test_auto_takes_resident_where_it_fits_and_says_the_bytes(training, monkeypatch):
    needed = 40 * (8 * 8 * 3 + 8)
    monkeypatch.setattr(loaders, "free_bytes", lambda device: 4 * needed)
    assert choose(training.split, images="packed", device=CPU) == (
        "resident",
        "resident, 8.0 kB in the device's memory",
    )
    monkeypatch.setattr(loaders, "free_bytes", lambda device: 4 * needed - 4)
    name, why = choose(training.split, images="packed", device=CPU)
    assert (name, why.split(":")[0]) == ("torch", "torch")
    assert "8.0 kB of images are more than a quarter of the 32.0 kB that are free on cpu" in why


@pytest.mark.parametrize(
    ("installed", "name", "words"),
    [
        ({"ffcv", "nvidia.dali"}, "ffcv", "decodes JPEG"),
        ({"nvidia.dali"}, "dali", "decodes JPEG"),
        (set(), "torch", "FFCV is several times as fast: pip install 'fastiseat[ffcv]'"),
    ],
)
def test_auto_takes_the_fastest_decoder_that_is_installed(training, monkeypatch, installed, name, words):
    monkeypatch.setattr(loaders, "_installed", installed.__contains__)
    found, why = choose(training.split, images="jpeg", device=CPU)
    assert found == name
    assert words in why


def test_resident_images_that_do_not_fit_are_refused(training, monkeypatch):
    monkeypatch.setattr(loaders, "free_bytes", lambda device: 1000)
    with pytest.raises(UserError, match=r"--loader resident: 8\.0 kB of images do not fit into the 1\.0 kB"):
        batches("resident", training)


@pytest.mark.parametrize(("name", "library"), [("ffcv", "ffcv"), ("dali", "nvidia.dali")])
def test_a_missing_library_is_one_line(training, monkeypatch, name, library):
    honest = builtins.__import__

    def refuse(module, *rest, **more):
        if module.split(".")[0] in ("ffcv", "nvidia"):
            raise ImportError(f"No module named {module!r}")
        return honest(module, *rest, **more)

    import sys

    for loaded in [module for module in sys.modules if module.split(".")[0] in ("ffcv", "nvidia")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=f"--loader {name} needs .*pip install '?fastiseat"):
        batches(name, training)


def test_unknown_loaders_and_impossible_wishes_are_refused(training):
    order = Order(size=40, batch_size=8, seed=0)
    with pytest.raises(UserError, match="unknown loader 'residnet'; did you mean resident"):
        load("residnet", training, order, device=CPU)
    with pytest.raises(UserError, match="--loader resident holds decoded images: take --images packed"):
        load("resident", training, order, images="jpeg", device=CPU)
    for name in ("torch", "dali", "ffcv", "auto"):
        with pytest.raises(UserError, match="--images jpeg: digits has no JPEG files; leave it out"):
            load(name, training, order, images="jpeg", device=CPU)


def test_a_loader_for_a_gpu_fetches_ahead(training):
    loader = loaders.TorchLoader(training.split, Order(size=40, batch_size=8, seed=0))
    assert loaders.on_device(CPU, loader) is loader
    assert isinstance(loaders.on_device(torch.device("cuda"), loader), loaders.Prefetched)
