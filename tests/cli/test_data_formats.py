"""``data prepare --format``, and training from every form of a data set of JPEG files."""

import json

import pytest
from tiny_releases import write_tiny_imagenet

from fastiseat.pipelines.loaders import choose as loaders
from fastiseat.pipelines.stores.encoded_store import EncodedStore

pytestmark = pytest.mark.xdist_group("ffcv")
EVERY = ("resident", "jpeg", "ffcv", "ffcv-jpeg")
SHORT = ("--arch", "small", "--epochs", 1, "--batch-size", 3, "--final-steps", 0, "--steps", 1)


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FASTISEAT_DATA", raising=False)
    write_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    return tmp_path


def test_all_forms_are_prepared_beside_each_other(fastiseat, images):
    result = fastiseat("data", "prepare", "tinyimagenet", "--data-dir", images, "--format", *EVERY)
    assert result.code == 0
    prepared = images / "prepared"
    names = {path.name for path in prepared.iterdir() if not path.name.startswith(".")}
    assert names == {"tinyimagenet", *(f"tinyimagenet.{form}" for form in EVERY[1:])}
    told = json.loads((prepared / "tinyimagenet" / "info.json").read_text())
    for form in EVERY[1:]:
        info = json.loads((prepared / f"tinyimagenet.{form}" / "info.json").read_text())
        assert info["fingerprint"] == told["fingerprint"]
    again = fastiseat("data", "prepare", "tinyimagenet", "--data-dir", images, "--format", *EVERY)
    assert again.code == 0
    assert "prepared already" in again.err


def test_force_makes_every_form_anew(fastiseat, images):
    fastiseat("data", "prepare", "tinyimagenet", "--data-dir", images, "--format", *EVERY)
    store = EncodedStore.at(images / "prepared" / "tinyimagenet.jpeg")
    content = images / "prepared" / "tinyimagenet.ffcv" / "train.beton"
    whole = content.read_bytes()
    content.write_bytes(whole[:-1])
    (store.path / "train_files.npy").write_bytes(b"")
    words = ("data", "prepare", "tinyimagenet", "--data-dir", images, "--format", *EVERY)
    assert (
        "it is truncated or not of this folder; run: fastiseat data prepare tinyimagenet --format ffcv --force"
        in (fastiseat(*words).err)
    )
    assert fastiseat(*words, "--force").code == 0
    assert content.read_bytes() == whole
    assert EncodedStore.at(store.path).open().data.size == store.info.bytes


def test_a_data_set_without_files_has_no_such_form(fastiseat):
    result = fastiseat("data", "prepare", "digits", "--format", "ffcv-jpeg", "--data-dir", ".")
    assert "digits has no JPEG files" in result.err


@pytest.mark.parametrize("loader", ["torch", "dali", "ffcv"])
def test_training_from_the_original_files(fastiseat, images, loader):
    result = fastiseat(
        "train", "--dataset", "tinyimagenet", "--data-dir", images, "--images", "jpeg", "--loader", loader, *SHORT,
        "--out", "run",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert f"loader: {loader}" in result.out


def test_pillow_and_dali_train_what_packed_images_train(fastiseat, images, tmp_path):
    weights = {}
    for name, words in {
        "packed": ("--loader", "resident"),
        "pillow": ("--images", "jpeg", "--loader", "torch"),
        "dali": ("--images", "jpeg", "--loader", "dali"),
    }.items():
        fastiseat("train", "--dataset", "tinyimagenet", "--data-dir", images, *words, *SHORT, "--out", name)
        content = (tmp_path / name / "weights" / "last.safetensors").read_bytes()
        weights[name] = content[8 + int.from_bytes(content[:8], "little") :]  # the header tells whose run it was
    assert len(set(weights.values())) == 1


def test_idbh_by_its_flag(fastiseat, images):
    words = ("train", "--dataset", "tinyimagenet", "--data-dir", images, *SHORT, "--out", "run")
    assert fastiseat(*words, "--augment", "idbh-cifar10-strong").code == 0
    refused = fastiseat("train", *SHORT, "--augment", "idbh-svhn", "--out", "digits")
    assert refused.code == 2
    assert "1" in refused.err.splitlines()[-1] and "Traceback" not in refused.err


def test_an_unknown_loader_is_one_line(fastiseat):
    assert "unknown loader 'ressident'; did you mean resident" in (
        fastiseat("train", *SHORT, "--loader", "ressident").complaint
    )


def test_auto_without_decoders_says_what_is_lost(fastiseat, images, monkeypatch):
    monkeypatch.setattr(loaders, "_installed", lambda library: False)
    result = fastiseat(
        "train", "--dataset", "tinyimagenet", "--data-dir", images, "--images", "jpeg", *SHORT, "--out", "run"
    )
    lines = [line for line in result.out.splitlines() if "pip install" in line]
    assert lines == [
        "loader: torch: Pillow decodes the JPEG files; FFCV is several times as fast: pip install 'fastiseat[ffcv]'"
    ]
