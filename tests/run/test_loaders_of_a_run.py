"""A run's weights do not tell which loader fed it."""

import json

import pytest
import tiny

from fastiseat.errors import UserError
from fastiseat.pipelines.loaders.choose import LOADERS
from fastiseat.run.trainer import Trainer

pytestmark = pytest.mark.xdist_group("ffcv")


def trained(out, loader, monkeypatch, **data):
    tiny.install(monkeypatch)
    config = tiny.config(epochs=2, data={"flip": True, "crop_padding": 1, **data})
    Trainer(config, out, device=tiny.CPU, observer=tiny.Watcher(), loader=loader, data_dir=out.parent).run()
    return (out / "weights" / "last.safetensors").read_bytes()


@pytest.mark.parametrize("data", [{}, {"limit_train": 77}, {"val_split": 0.2}])
def test_the_weights_are_the_same_file_from_every_loader(tmp_path, monkeypatch, data):
    files = {name: trained(tmp_path / name, name, monkeypatch, **data) for name in LOADERS}
    assert len(set(files.values())) == 1


def test_a_run_says_which_loader_fed_it_and_goes_on_with_another(tmp_path, monkeypatch):
    tiny.install(monkeypatch)

    def stop(row):
        raise KeyboardInterrupt

    config, out = tiny.config(epochs=2), tmp_path / "run"
    watcher = tiny.Watcher(on_epoch=stop)
    with pytest.raises(KeyboardInterrupt):
        Trainer(config, out, device=tiny.CPU, observer=watcher, loader="torch").run()
    assert json.loads((out / "config.json").read_text())["loader"] == "torch"
    Trainer(config, out, device=tiny.CPU, observer=tiny.Watcher(), loader="resident", resume=True).run()
    unbroken = tmp_path / "unbroken"
    Trainer(config, unbroken, device=tiny.CPU, observer=tiny.Watcher(), loader="torch").run()
    last = "weights/last.safetensors"
    assert (out / last).read_bytes() == (unbroken / last).read_bytes()


def test_digits_have_no_jpeg_files(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--images jpeg: digits has no JPEG files"):
        trained(tmp_path / "run", "auto", monkeypatch, images="jpeg")
    assert not (tmp_path / "run").exists()
