"""The weights that come with the package: by name, as good as they say, and never in a file's place."""

import json

import pytest
import torch

import fastiseat
from fastiseat.cli.eval import command as cli_eval
from fastiseat.errors import UserError
from fastiseat.models import build, load_model, read_weights
from fastiseat.models.files.shipped import ASSETS, names


def test_the_names_and_their_size():
    assert names() == ["digits-iseat"]
    assert all(path.stat().st_size < 1.5e6 for path in ASSETS.iterdir())


def test_what_the_file_says_of_itself():
    said = read_weights("digits-iseat").metadata
    assert (said["dataset"], said["method"], float(said["eps"])) == ("digits", "iseat", 0.15)
    assert {"epoch", "epochs", "seed", "version"} <= said.keys()


def test_it_is_as_robust_as_when_it_was_trained(capsys):
    """350 and 324 of 355 there; another CPU may round to another count."""
    cli_eval.main(["digits-iseat", "--attack", "clean", "pgd", "--steps", "10", "--json"])
    clean, pgd = json.loads(capsys.readouterr().out)["attacks"]
    assert clean["accuracy"] == pytest.approx(350 / 355, abs=0.01)
    assert pgd["accuracy"] == pytest.approx(324 / 355, abs=0.01)


def test_a_file_of_that_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fastiseat.load_model("digits-iseat").spec.in_channels == 1
    model = build("small")
    torch.save(model.state_dict(), "digits-iseat")
    assert load_model("digits-iseat", variant="released").spec.in_channels == 3
    (tmp_path / "digits-iseat").unlink()
    (tmp_path / "digits-iseat").mkdir()
    with pytest.raises(UserError, match="digits-iseat: a folder; give a file in it"):
        load_model("digits-iseat")


def test_no_path_stands_for_a_name(tmp_path):
    for path in (tmp_path / "digits-iseat", "digits-iseat.safetensors", "./models/digits-iseat", ""):
        with pytest.raises(UserError, match=r"no such file; check it|a folder"):
            load_model(path)


@pytest.mark.parametrize(("name", "near"), [("digits_iseat", True), ("Digits-ISEAT", True), ("w.pt", False)])
def test_an_unknown_name_is_told_the_near_ones(name, near):
    with pytest.raises(UserError, match="no such file; check it") as caught:
        load_model(name)
    assert ("did you mean digits-iseat, which comes with fastiseat?" in str(caught.value)) == near
