"""The model card says what is known, and nothing else."""

import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import save_file

from fastiseat.checkpoint import as_json
from fastiseat.errors import UserError
from fastiseat.export import FORMATS, card_facts, export, read_source
from fastiseat.models import build, export_state_dict, metadata
from fastiseat.recipes import recipe

ROOT = Path(__file__).parents[2]


def front_matter(card):
    _, matter, _ = card.split("---\n", 2)
    return yaml.safe_load(matter)


@pytest.fixture
def card(source):
    """The card of a file, whose source tells this."""

    def make(to="safetensors", **told):
        out = Path(f"net{FORMATS[to].suffix}")
        export(source(**told), to, out, force=True)
        return Path(f"{out}.md").read_text(encoding="utf-8")

    return make


def test_a_file_that_tells_nothing(card):
    text = card()
    assert front_matter(text) == {
        "library_name": "fastiseat",
        "pipeline_tag": "image-classification",
        "tags": ["adversarial-training", "adversarial-robustness", "preact-resnet", "fastiseat"],
        "metrics": ["accuracy"],
    }
    for words in ("The weights file tells nothing of it.", "Not evaluated", "values in [0, 1]", "C = 1", "77,562"):
        assert words in text


def test_a_file_that_tells_its_training(card):
    text = card("robustbench", dataset="cifar10", method="iseat", eps=repr(8 / 255), epoch="99")
    matter = front_matter(text)
    assert (matter["datasets"], matter["library_name"]) == (["uoft-cs/cifar10"], "pytorch")
    assert "iseat" in matter["tags"]
    for words in ("ISEAT on cifar10", "ε = 8/255", "after epoch 100", "the paper's method", "Not evaluated"):
        assert words in text


def test_a_file_of_others_may_tell_anything(card):
    """Such as an epoch that is counted otherwise."""
    text = card(epoch="99", spec="x", state_dict="y", name="z")
    assert "after epoch" not in text
    assert "Not evaluated" in text


def test_what_a_file_tells_is_text_and_no_markup(card):
    text = card(dataset="a|b\n---\n# <b>", method='"]: {x', eps="</td>")
    matter = front_matter(text)
    assert matter["tags"][-1] == '"]: {x'
    assert "\n# \\<b\\>" not in text
    assert "<b>" not in text.replace("\\<b\\>", "")
    assert "</td>" not in text


def test_where_a_users_own_images_lie_is_not_published(card):
    text = card(dataset="npz:/home/me/secret.npz", method="at", eps="0.1")
    assert "secret" not in text
    assert "on npz" in text


@pytest.fixture
def run(tmp_path):
    """A run's directory as training leaves it; its best weights are of epoch 7."""
    config = recipe("cifar10", "iseat")
    model = build("small", in_channels=3)
    told = metadata(model.spec, dataset="cifar10", method="iseat", eps=repr(config.attack.eps), epoch="7")
    (tmp_path / "run" / "weights").mkdir(parents=True)
    save_file(export_state_dict(model), tmp_path / "run" / "weights" / "best.safetensors", told)
    versions = {"fastiseat": "0.1.0", "torch": "2.13.0", "commit": "abc"}
    content = {"config": as_json(config), "versions": versions, "data_official": True, "argv": ["/home/me/x"]}
    (tmp_path / "run" / "config.json").write_text(json.dumps({**content, "approximations": ["awp of half"]}))
    row = {"weights": "best", "epoch": 7, "accuracy": {"clean": 0.86, "pgd-50": 0.5}}
    (tmp_path / "run" / "results.json").write_text(json.dumps([row]))
    return tmp_path / "run"


@pytest.fixture
def card_of_run(run, source):
    def make():
        found = read_source(run / "weights" / "best.safetensors", run=run)
        export(found, "safetensors", Path("net.safetensors"), force=True)
        return Path("net.safetensors.md").read_text(encoding="utf-8")

    source()  # goes to the empty folder
    return make


@pytest.mark.parametrize("told", [True, False])
def test_what_a_run_was_trained_on_is_told_with_its_doubts(run, card_of_run, told):
    content = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(content | {"data_verified": told}))
    assert ("cifar10 (not compared with what was prepared)" in card_of_run()) == (not told)


def test_a_run_tells_settings_versions_and_accuracies(card_of_run):
    text = card_of_run()
    (entry,) = front_matter(text)["model-index"]
    (result,) = entry["results"]
    assert result["dataset"] == {"name": "cifar10", "type": "uoft-cs/cifar10", "split": "test"}
    assert [(metric["type"], metric["value"]) for metric in result["metrics"]] == [
        ("accuracy", 86),
        ("accuracy", 50),
    ]
    for words in (
        "| clean | 86.00 |",
        "| pgd-50 | 50.00 |",
        "the whole test set of cifar10",
        "ε = 8/255, 10 steps, step = 2/255, λ = 0.1, γ = 0.007",
        "best after epoch 8 of 200",
        "learning rate 0.1, momentum 0.9, weight decay 0.0005, batches of 128",
        "| seed | 0 |",
        "fastiseat 0.1.0, torch 2.13.0, commit `abc`",
        "AutoAttack",
        "chosen by PGD-10 on the test set itself",
        "approximation: awp of half",
    ):
        assert words in text
    assert "/home/me" not in text


def test_results_of_other_weights_are_not_told(card_of_run, run):
    """As of a run that was resumed after its end."""
    path = run / "results.json"
    path.write_text(path.read_text().replace('"epoch": 7', '"epoch": 6'))
    assert "Not evaluated" in card_of_run()


def test_a_run_without_its_papers_is_a_file(card_of_run, run):
    for name in ("config.json", "results.json"):
        (run / name).unlink()
    text = card_of_run()
    assert "Not evaluated" in text
    assert "after epoch 8" in text


@pytest.mark.parametrize("content", ["[", "3", '[{"weights": "best"}]', "[[]]"])
def test_results_that_can_not_be_read_are_named(card_of_run, run, content):
    (run / "results.json").write_text(content)
    with pytest.raises(UserError, match=r"results.json can't be read"):
        card_of_run()


def test_settings_of_older_runs_may_lack_some(card_of_run, run):
    (run / "config.json").write_text('{"config": {"attack": {"eps": 0.1}, "data": 3}}')
    assert "ε = 0.1" in card_of_run()


def test_the_citation_is_the_repositorys(card):
    (paper,) = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["references"]
    text = card()
    assert f"{{{paper['title']}}}" in text
    assert " and ".join(f"{who['family-names']}, {who['given-names']}" for who in paper["authors"]) in text


@pytest.mark.parametrize(
    ("value", "words"), [(8 / 255, "8/255"), ("0.15", "0.15"), ("inf", "inf"), ("x|", "x\\|")]
)
def test_pixels(value, words):
    assert card_facts._pixels(value) == words
