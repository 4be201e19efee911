"""What a run refuses, before or while it trains, and the split that it holds out."""

import errno
import os
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file

from fastiseat.config import SGD, Network
from fastiseat.errors import UserError
from fastiseat.models import build, export_state_dict, load_model, metadata
from fastiseat.run.metrics import DivergedError
from fastiseat.run.networks import build_network


@pytest.fixture(autouse=True)
def few_digits(monkeypatch):
    tiny.install(monkeypatch)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_run_that_diverges_says_so(tmp_path):
    config = replace(tiny.config(epochs=3, batch_size=10), optimizer=SGD(lr=1e9))
    with pytest.raises(UserError, match=r"the loss is (nan|inf) in epoch 1, step \d+: training diverged"):
        tiny.trainer(config, tmp_path / "run").run()
    assert [path.name for path in contents(tmp_path)] == ["config.json"]


@pytest.mark.parametrize(
    ("step", "found"), [(0, "the loss is nan in epoch 2, step 2"), (1, "values that are not finite after epoch 2")]
)
def test_nan_in_a_later_epoch_leaves_what_the_earlier_wrote(tmp_path, step, found):
    out = tmp_path / "run"
    before = {}

    def poison(epoch, number):
        if (epoch, number) == (1, step):
            trainer.curves._drawer.join()  # the picture of the first epoch, in the background
            before.update(contents(out))
            with torch.no_grad():
                trainer.model.conv1.weight[0] = torch.nan

    trainer = tiny.trainer(tiny.config(epochs=3), out, observer=tiny.Watcher(on_step=poison))
    with pytest.raises(UserError, match=f"{found}.*what earlier epochs wrote is intact"):
        trainer.run()
    assert contents(out) == before
    for which in ("best", "last"):
        state = load_model(out / "weights" / f"{which}.safetensors").state_dict()
        assert all(tensor.isfinite().all() for tensor in state.values())
    assert len(tiny.trainer(tiny.config(epochs=3), out, resume=True).rows) == 1


def test_a_network_whose_answers_overflow_in_validation_has_diverged(tmp_path):
    """Its weights are finite numbers, and the step that made them was the epoch's last."""

    def overflow(epoch, number):
        if (epoch, number) == (1, 1):
            with torch.no_grad():
                trainer.model.linear.weight.fill_(3e38)

    trainer = tiny.trainer(tiny.config(epochs=3), tmp_path / "run", observer=tiny.Watcher(on_step=overflow))
    found = (
        "logits are not finite numbers on 60 of 60 images, the first of them image 0, counted from 0, in epoch 2's"
    )
    with pytest.raises(DivergedError, match=f"{found} validation: training diverged; lower --lr"):
        trainer.run()
    assert len(tiny.trainer(tiny.config(epochs=3), tmp_path / "run", resume=True).rows) == 1


def test_a_full_disk_stops_the_run_and_keeps_the_last_epoch(tmp_path, monkeypatch):
    out, config = tmp_path / "run", tiny.config("none", epochs=3)

    def fill(row):
        if row["epoch"] == 0:
            fault = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(fault))

    with pytest.raises(UserError, match=r"cannot write .*: No space left on device; free space"):
        tiny.trainer(config, out, observer=tiny.Watcher(on_epoch=fill)).run()
    monkeypatch.undo()
    tiny.install(monkeypatch)
    trainer = tiny.trainer(config, out, resume=True)
    assert [row["epoch"] for row in trainer.rows] == [0]
    trainer.run()
    assert [row["epoch"] for row in trainer.rows] == [0, 1, 2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 101}, "batch_size=101: there are 100 training images; use at most that"),
        ({"data": {"val_split": 0.5}, "batch_size": 80}, "batch_size=80: there are 48 training images"),
        ({"data": {"val_split": 0.001}}, "val_split=0.001: holds out none of 100 training images"),
    ],
)
def test_data_that_do_not_suffice(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        tiny.trainer(tiny.config(**settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_batch_of_all_images_and_one_of_a_single_one(tmp_path, monkeypatch):
    tiny.trainer(tiny.config(epochs=1, batch_size=100), tmp_path / "all").run()
    tiny.install(monkeypatch, train=5)
    tiny.trainer(tiny.config(epochs=1, batch_size=1), tmp_path / "one").run()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_validation_split_is_stratified_disjoint_and_fixed_by_the_seed(tmp_path, monkeypatch, seed):
    monkeypatch.undo()
    config = tiny.config(data={"val_split": 0.1}, run={"seed": seed})
    one, again = (tiny.trainer(config, tmp_path / "run") for _ in range(2))
    assert one.data.selection_name == "val"
    assert np.array_equal(one.data.selection.images, again.data.selection.images)
    whole, held, kept = one.data.whole.train, one.data.selection, one.data.training
    assert len(held) + len(kept) == len(whole)
    for label in range(10):
        members = int((whole.labels == label).sum())
        assert int((held.labels == label).sum()) == round(0.1 * members)
    pixels = [sorted(map(bytes, split.images)) for split in (held, kept, whole)]
    assert sorted(pixels[0] + pixels[1]) == pixels[2]


def test_another_seed_holds_out_other_images(tmp_path):
    configs = [tiny.config(data={"val_split": 0.3}, run={"seed": seed}) for seed in (0, 1)]
    chosen = [tiny.trainer(config, tmp_path / "run").data.selection.images for config in configs]
    assert not np.array_equal(*chosen)


def test_selection_on_held_out_images_never_sees_the_test_set(tmp_path):
    watcher = tiny.Watcher()
    tiny.trainer(tiny.config(epochs=1, data={"val_split": 0.2}), tmp_path / "run", observer=watcher).run()
    assert {"val_clean", "val_pgd10"} < watcher.rows[0].keys()
    assert not any(name.startswith("test") for name in watcher.rows[0])


def test_fine_tuning_starts_from_the_file(tmp_path):
    source = build("small", in_channels=1)
    save_file(export_state_dict(source), tmp_path / "w.safetensors", metadata(source.spec))
    model = build_network(
        Network(arch="small", init=tmp_path / "w.safetensors"), in_channels=1, num_classes=10, seed=9
    )
    assert tiny.same_weights(model.state_dict(), source.state_dict())


@pytest.mark.parametrize(
    ("arch", "channels", "message"),
    [("wrn-10-1", 1, "they must agree in arch"), ("small", 3, "they must agree in in_channels")],
)
def test_a_file_of_another_network_is_refused_before_anything_is_written(tmp_path, arch, channels, message):
    other = build(arch, in_channels=channels)
    save_file(export_state_dict(other), tmp_path / "w.safetensors", metadata(other.spec))
    network = Network(arch="small", init=tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=message):
        tiny.trainer(replace(tiny.config(), network=network), tmp_path / "run")
    assert not (tmp_path / "run").exists()
