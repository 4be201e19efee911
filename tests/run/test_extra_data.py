"""Runs on extra data: 128 and 128 a batch, from any loader, and the same file afterwards."""

import json

import numpy as np
import pytest
import tiny
from tiny_releases import pixels

from fastiseat.errors import UserError
from fastiseat.pipelines.loaders.choose import LOADERS
from fastiseat.pipelines.loaders.mix import EXTRA_INDEX
from fastiseat.run.trainer import Trainer

pytestmark = pytest.mark.xdist_group("ffcv")


@pytest.fixture
def extra(tmp_path, monkeypatch):
    tiny.install(monkeypatch)
    path = tmp_path / "generated.npz"
    np.savez(path, image=pixels(70, 8, 1), label=np.arange(70) % 10)
    return path


def config(extra, **data):
    return tiny.config(epochs=2, batch_size=20, data={"extra": extra, "flip": True, **data})


def trainer(config, out, loader="auto", **more):
    return Trainer(config, out, device=tiny.CPU, observer=tiny.Watcher(), loader=loader, **more)


def test_every_batch_has_its_share_and_an_epoch_its_length(extra, tmp_path):
    run = trainer(config(extra, extra_ratio=0.2), tmp_path / "run")
    batches = list(run.loader.epoch(0))
    assert len(batches) == len(run.loader) == 5
    for batch in batches:
        assert [len(part) for part in batch.tensors] == [25, 25, 25]
        assert (batch.index[:20] < 100).all() and (batch.index[20:] >= EXTRA_INDEX).all()


def test_ranks_are_taken_over_the_whole_batch(extra, tmp_path):
    watcher = tiny.Watcher()
    seen = []
    watcher.step = lambda *, epoch, step, images, metrics: seen.append((images, len(metrics["av"])))
    Trainer(config(extra), tmp_path / "run", device=tiny.CPU, observer=watcher).run()
    assert set(seen) == {(40, 40)}


def weights(config, out, *loader, **more):
    """The bytes that a run ends with."""
    trainer(config, out, *loader, **more).run()
    return (out / "weights" / "last.safetensors").read_bytes()


def test_the_weights_are_the_same_file_from_every_loader(extra, tmp_path):
    found = {name: weights(config(extra), tmp_path / name, name, data_dir=tmp_path) for name in LOADERS}
    found["torch again"] = weights(config(extra), tmp_path / "again", "torch", data_dir=tmp_path)
    assert len(set(found.values())) == 1
    assert weights(config(None), tmp_path / "none") != found["torch"], "the extra images changed nothing"


def test_a_run_is_not_continued_on_other_extra_images(extra, tmp_path):
    out = tmp_path / "run"
    trainer(config(extra), out).run()
    assert json.loads((out / "config.json").read_text())["extra_fingerprint"]
    np.savez(extra, image=pixels(70, 8, 1, seed=9), label=np.arange(70) % 10)
    with pytest.raises(UserError, match="was trained on other extra images than are found now"):
        trainer(config(extra), out, resume=True)


def test_extra_images_of_one_class_are_told(extra, tmp_path):
    progress = tiny.Watcher()
    progress.count = lambda what, done, total: None
    np.savez(extra, image=pixels(70, 8, 1), label=np.full(70, 3))
    trainer(config(extra), tmp_path / "run", progress=progress)
    assert progress.said == [f"{extra}: all 70 extra images are of class '3', one of 10; are these their labels?"]


@pytest.mark.parametrize(
    ("shape", "labels", "complaint"),
    [
        ((70, 9, 9, 1), 10, "9×9"),
        ((70, 8, 8, 3), 10, "8×8×3"),
        ((70, 8, 8, 1), 11, "10"),
        ((5, 8, 8, 1), 5, r"extra_ratio=0\.5: 20 extra images join 20 others in each step, .* holds 5; lower"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(extra, tmp_path, shape, labels, complaint):
    n = shape[0]
    np.savez(extra, image=np.zeros(shape, dtype=np.uint8), label=np.arange(n) % labels)
    with pytest.raises(UserError, match=complaint):
        trainer(config(extra), tmp_path / "run")
    assert not (tmp_path / "run").exists()
