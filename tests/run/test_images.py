"""A run finds its images from any folder, goes on with no others, and says when there are others."""

import json
import os
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import safetensors.torch
import tiny
from tiny_releases import pixels, write_cifar

from fastiseat import recipe
from fastiseat.__main__ import main
from fastiseat.checkpoint import RunDirectory, RunImages, absolute
from fastiseat.checkpoint.placed import PATHS, absolute_json
from fastiseat.cli.eval import target as eval_target
from fastiseat.config import Config
from fastiseat.pipelines.data.prepare import find_store
from fastiseat.run.trainer import Trainer

SHORT = (
    *("--method", "at", "--arch", "small", "--steps", "1", "--epochs", "2", "--max-steps", "2"),
    *("--batch-size", "4", "--final-steps", "0", "--quiet"),
)


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("FASTISEAT_DATA", raising=False)
    monkeypatch.setattr(os, "fsync", lambda file: None)
    monkeypatch.setattr("fastiseat.report.live.draw_curves", lambda *rest, **more: None)
    return folder


def write_npz(path, seed=0):
    labels = np.arange(8) % 2
    np.savez(path, x_train=pixels(8, 8, 1, seed), y_train=labels, x_test=pixels(4, 8, 1, 9), y_test=labels[:4])


class Own:
    """A folder with an own data set, and the commands in it or in another one."""

    def __init__(self, root, capsys, monkeypatch):
        self.root, self.elsewhere, self._capsys, self._chdir = (
            root,
            root.parent / "else",
            capsys,
            monkeypatch.chdir,
        )
        root.mkdir()
        self.elsewhere.mkdir()
        write_npz(root / "own.npz")

    def call(self, *words, there=False):
        self._chdir(self.elsewhere if there else self.root)
        code = main([str(word) for word in words])
        out, err = self._capsys.readouterr()
        return code, out, err

    def train(self, *words, there=False):
        return self.call("train", *SHORT, *words, there=there)

    def evaluate(self, *words, there=False):
        return self.call("eval", *words, "--attack", "clean", "--json", there=there)


@pytest.fixture
def own(tmp_path, capsys, monkeypatch):
    return Own(tmp_path / "root", capsys, monkeypatch)


@pytest.fixture
def trained(own):
    code, _, err = own.train("--dataset", "npz:own.npz", "--out", "run")
    assert code == 0, err
    return own.root / "run"


def test_every_setting_that_is_a_path_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = replace(recipe(), data=replace(recipe().data, dataset="imagefolder:own"))
    for group, name in PATHS:
        config = replace(config, **{group: replace(getattr(config, group), **{name: Path("a/b")})})
    placed = absolute(config)
    assert placed.data.dataset == f"imagefolder:{tmp_path}/own"
    hinted = {
        (group.name, name)
        for group in fields(Config)
        for name, hint in get_type_hints(type(getattr(Config(), group.name))).items()
        if "Path" in str(hint)
    }
    assert {("data", "extra"), ("network", "init"), ("objective", "standard")} <= hinted == set(PATHS)
    for group, name in hinted:
        assert getattr(getattr(placed, group), name) == tmp_path / "a" / "b"
    as_json = json.loads(json.dumps({name: vars(group) for name, group in vars(config).items()}, default=str))
    assert absolute_json(as_json)["data"] == json.loads(json.dumps(vars(placed.data), default=str))
    assert absolute(recipe()) == recipe()


@pytest.mark.parametrize("content", [{}, {"config": 3}, {"config": {"data": []}, "data_prepared": 1}])
def test_a_record_that_tells_nothing(content):
    assert RunImages.told(content) == RunImages()


def test_the_record(trained, own):
    stored = json.loads((trained / "config.json").read_text())
    name = f"npz:{own.root}/own.npz"
    store = find_store(name)
    assert stored["config"]["data"]["dataset"] == name
    assert (stored["data_prepared"], stored["data_fingerprint"]) == (str(store.path), store.info.fingerprint)
    assert RunDirectory(trained).images() == RunImages(
        name=name, prepared=store.path, fingerprint=store.info.fingerprint
    )


@pytest.mark.parametrize("target", ["", "weights/best.safetensors"])
def test_own_data_is_found_from_another_folder(trained, own, target):
    (code, here, _), (there_code, there, err) = (
        own.evaluate(trained / target, there=there) for there in (False, True)
    )
    assert code == there_code == 0, err
    assert [json.loads(each)["dataset"] for each in (here, there)] == [f"npz:{own.root}/own.npz"] * 2


def test_a_run_is_repeated_and_resumed_from_another_folder(trained, own):
    code, _, err = own.call(
        "train", "--config", trained / "config.json", "--out", own.root / "again", "--quiet", there=True
    )
    assert code == 0, err
    for name in ("best", "last"):
        file = f"weights/{name}.safetensors"
        assert (own.root / "again" / file).read_bytes() == (trained / file).read_bytes()
    words = ("--config", trained / "config.json", "--out", trained, "--resume", "--quiet")
    assert own.call("train", *words, there=True)[0] == 0


def test_a_release_is_found_where_it_was_though_nobody_says_so(own):
    write_cifar(own.root / "data" / "cifar-10-batches-py")
    code, _, err = own.train("--dataset", "cifar10", "--data-dir", "data", "--out", "run")
    assert code == 0, err
    run = own.root / "run"
    for words in (
        ("eval", run, "--attack", "clean", "--json"),
        ("train", "--config", run / "config.json", "--out", own.root / "again", "--quiet"),
        ("train", "--config", run / "config.json", "--out", run, "--resume", "--quiet"),
    ):
        code, _, err = own.call(*words, there=True)
        assert code == 0, err
    shutil.rmtree(own.root / "data" / "prepared")
    assert own.evaluate(run, there=True)[0] == 0
    shutil.rmtree(own.root / "data")
    code, _, err = own.evaluate(run, there=True)
    assert code == 2 and "cifar10 is not in" in err


def test_a_run_is_not_resumed_on_a_changed_source(trained, own):
    write_npz(own.root / "own.npz", seed=3)
    store = find_store(f"npz:{own.root}/own.npz")
    words = ("--dataset", "npz:own.npz", "--out", "run", "--resume")
    code, _, err = own.train(*words)
    assert code == 2
    assert (
        f"own.npz has changed (1 altered: own.npz) since the run's images, of the fingerprint {store.info.fingerprint}"
        in err
    )
    (own.root / "own.npz").rename(own.root / "away.npz")
    assert own.train(*words)[0] == 0


def test_a_run_is_not_resumed_on_images_that_were_prepared_anew(trained, own):
    before = find_store(f"npz:{own.root}/own.npz").info.fingerprint
    write_npz(own.root / "own.npz", seed=3)
    code, _, err = own.train("--dataset", "npz:own.npz", "--out", "other")
    assert code == 0 and "own.npz has changed since it was prepared (1 altered: own.npz); preparing it anew" in err
    store = find_store(f"npz:{own.root}/own.npz")
    code, _, err = own.train("--dataset", "npz:own.npz", "--out", "run", "--resume")
    assert code == 2
    assert err.splitlines()[-1] == (
        f"fastiseat: error: run was trained on other npz:{own.root}/own.npz images than are found now in {store.path}: "
        f"their fingerprint was {before}, it is {store.info.fingerprint}; bring those back, or choose another --out"
    )


def test_a_run_is_evaluated_on_its_own_images_unless_others_are_meant(trained, own):
    name, loose = f"npz:{own.root}/own.npz", own.root / "loose.safetensors"
    before = find_store(name).info.fingerprint
    shutil.copy(trained / "weights" / "best.safetensors", loose)
    write_npz(own.root / "own.npz", seed=3)
    code, _, err = own.evaluate(trained)
    assert code == 2 and "has changed (1 altered: own.npz) since the run's images" in err
    assert find_store(name).info.fingerprint == before
    code, out, err = own.evaluate(trained, "--dataset", name)
    after = find_store(name).info.fingerprint
    assert code == 0 and f"trained on images of {name} with the fingerprint {before}; those in" in err
    assert json.loads(out)["fingerprint"] == after != before
    code, _, err = own.evaluate(trained)
    assert code == 2 and f"have {after}: bring those back, or say by --dataset or --data-dir that these" in err
    code, out, err = own.evaluate(loose, "--dataset", name)
    assert code == 0 and f"with the fingerprint {before}; those in" in err


def test_weights_of_a_data_set_that_nobody_knows_are_evaluated_on_a_named_one(trained, own, monkeypatch):
    file = trained / "weights" / "best.safetensors"
    told = eval_target.trained_on(file, {})
    monkeypatch.setattr(eval_target, "trained_on", lambda *_: replace(told, name="cifar-11"))
    code, _, err = own.evaluate(trained, "--dataset", "npz:own.npz")
    assert code == 0 and "was trained on cifar-11, and is evaluated on npz:" in err


def test_a_run_on_other_images_than_the_one_it_repeats_says_so(trained, own):
    before = find_store(f"npz:{own.root}/own.npz").info.fingerprint
    write_npz(own.root / "own.npz", seed=3)
    words = ("train", "--config", trained / "config.json", "--out")
    code, out, err = own.call(*words, "again")
    assert code == 0 and f"was trained on images with the fingerprint {before}, this one is on" in out + err


def test_an_earlier_run_with_relative_paths_goes_on(trained, own):
    stored = json.loads((trained / "config.json").read_text())
    stored["config"]["data"]["dataset"] = "npz:own.npz"
    (trained / "config.json").write_text(json.dumps(stored))
    assert own.train("--dataset", "npz:own.npz", "--out", "run", "--resume")[0] == 0


def test_first_weights_are_told_apart(tmp_path, monkeypatch):
    tiny.install(monkeypatch)
    config = tiny.config("none", epochs=1)
    first = tiny.trainer(config, tmp_path / "first")
    first.run()
    assert RunDirectory(tmp_path / "first").stored()["init_fingerprint"] is None
    init = tmp_path / "first" / "weights" / "last.safetensors"
    config = replace(config, network=replace(config.network, init=init))
    second = tiny.trainer(config, tmp_path / "second")
    second.run()
    found = RunDirectory(tmp_path / "second").stored()["init_fingerprint"]
    assert found == Trainer(config, tmp_path / "third", device=tiny.CPU, observer=tiny.Watcher()).init_fingerprint
    shutil.copy(tmp_path / "second" / "weights" / "last.safetensors", init)
    other = Trainer(config, tmp_path / "third", device=tiny.CPU, observer=tiny.Watcher())
    assert other.init_fingerprint not in (None, found)


def test_a_plan_prepares_nothing_anew(own):
    write_cifar(own.root / "data" / "cifar-10-batches-py", per_batch=4)
    own.call("data", "prepare", "cifar10", "--data-dir", "data")
    words = ("--dataset", "cifar10", "--data-dir", "data", "--dry-run")
    assert json.loads(own.train(*words)[1])["steps_per_epoch"] == 5
    shutil.rmtree(own.root / "data" / "cifar-10-batches-py")
    write_cifar(own.root / "data" / "cifar-10-batches-py", per_batch=8)
    store = find_store("cifar10", data_dir=own.root / "data")
    assert json.loads(own.train(*words)[1])["steps_per_epoch"] is None
    assert find_store("cifar10", data_dir=own.root / "data") == store


def test_the_standard_network_of_a_resumed_run_takes_no_other_images(trained, own):
    write_npz(own.root / "own.npz", seed=3)
    before = find_store(f"npz:{own.root}/own.npz")
    words = ("--dataset", "npz:own.npz", "--out", "run", "--method", "hat", "--resume-anyway")
    code, _, err = own.train(*words)
    assert code == 2 and "since the run's images, of the fingerprint" in err.splitlines()[-1]
    assert find_store(f"npz:{own.root}/own.npz") == before


def listed(*folders):
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*")}


@pytest.mark.parametrize("kind", ["npz:{}/own.npz", "imagefolder:{}"])
def test_a_weights_file_from_elsewhere_chooses_no_place(trained, own, home, kind):
    """Neither what is opened, nor where arrays are written."""
    name = kind.format(own.root)
    spec = {"arch": "small", "variant": "released", "dataset": name, "eps": "0.1", "in_channels": "1"}
    tensors = safetensors.torch.load_file(trained / "weights" / "best.safetensors")
    safetensors.torch.save_file(tensors, own.elsewhere / "w.safetensors", spec)
    shutil.rmtree(home / ".cache" / "fastiseat" / "prepared")
    before = listed(home, own.root)
    for words in ((), ("--data-dir", own.root)):
        code, _, err = own.evaluate("w.safetensors", *words, there=True)
        assert code == 2
        assert (
            f"was trained on {name}, which a weights file alone can't choose: if that is what you mean, say" in err
        )
    assert listed(home, own.root) == before
    assert own.evaluate("w.safetensors", "--dataset", f"npz:{own.root}/own.npz", there=True)[0] == 0


def test_a_run_from_elsewhere_has_nothing_prepared(trained, own, home):
    """Its folder names a place that may be anything here; what its own user prepared is not here."""
    shutil.rmtree(home / ".cache" / "fastiseat" / "prepared")
    before = listed(home, own.root)
    code, _, err = own.evaluate(trained)
    assert code == 2 and "of which nothing is prepared: if it is to be, say so by --dataset" in err
    assert listed(home, own.root) == before
    assert own.evaluate(trained, "--dataset", f"npz:{own.root}/own.npz")[0] == 0


def test_a_run_that_was_prepared_in_an_odd_place(trained, own):
    stored = json.loads((trained / "config.json").read_text())
    for prepared in ("/", "", "a", "/a"):
        (trained / "config.json").write_text(json.dumps({**stored, "data_prepared": prepared}))
        assert own.evaluate(trained)[0] == 2
