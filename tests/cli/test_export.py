"""``fastiseat export``: of a run, of a file, and of what is neither."""

import pytest
import torch
from safetensors.torch import load_file

from fastiseat.cli.export import _SUFFIXES
from fastiseat.export import FORMATS
from fastiseat.models import build, export_state_dict, load_model


@pytest.mark.parametrize("to", FORMATS)
def test_a_run_becomes_a_file_with_a_card(fastiseat, finished, tmp_path, to):
    result = fastiseat("export", finished, "--to", to)
    assert (result.code, result.err) == (0, ""), result
    name = f"run-best{_SUFFIXES[to]}"
    network, written, read_back, *_ = result.out.splitlines()
    assert network == "small (released variant, 1 channels, 10 classes)"
    assert written.startswith(f"written: {name} {name}.md")
    assert read_back.startswith("read back: logits differ by at most ")
    assert ("note: RobustBench has no class for small" in result.out) == (to == "robustbench")
    card = (tmp_path / f"{name}.md").read_text(encoding="utf-8")
    assert "| pgd-2 |" in card
    assert "epoch 1 of 2" in card


def test_suffixes_are_known_without_torch():
    assert {name: kind.suffix for name, kind in FORMATS.items()} == _SUFFIXES


def test_exported_weights_are_evaluated_as_the_run(fastiseat, finished):
    assert fastiseat("export", finished, "--to", "safetensors", "--weights", "last").code == 0
    assert "digits" in fastiseat("eval", "run-last.safetensors", "--attack", "clean").out
    ours, theirs = load_file("run-last.safetensors"), load_file(finished / "weights" / "last.safetensors")
    assert all(ours[name].equal(theirs[name]) for name in theirs)


def test_a_file_goes_into_a_folder(fastiseat, finished, tmp_path):
    (tmp_path / "out").mkdir()
    result = fastiseat("export", finished / "weights" / "last.safetensors", "--to", "torch-export", "--out", "out")
    assert result.code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"last.pt2", "last.pt2.md"}


def test_a_second_time_wants_force(fastiseat, finished):
    words = ("export", finished, "--to", "safetensors", "--out", "net.safetensors")
    assert fastiseat(*words).code == 0
    assert fastiseat(*words).complaint.startswith("net.safetensors exists: ")
    assert fastiseat(*words, "--force").code == 0


def test_the_variant_of_a_file_that_does_not_tell(fastiseat):
    torch.save(export_state_dict(build("small")), "untold.pt")
    assert "does not tell its variant" in fastiseat("export", "untold.pt", "--to", "safetensors").complaint
    assert fastiseat("export", "untold.pt", "--to", "safetensors", "--variant", "common").code == 0
    assert load_model("untold.safetensors").spec.variant == "common"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("nowhere --to onnx", "nowhere: no such file; check it"),
        (". --to onnx", ". holds no weights/best.safetensors: give a run that finished an epoch, or a file"),
        ("garbage.pt --to onnx", "garbage.pt: not a weight file"),
        ("RUN --to onnx --out net.pt", "a file of --to onnx ends in .onnx; name it net.onnx"),
        ("RUN --to onnx --out a/net.onnx", "there is no folder a; make it, or choose another --out"),
        ("RUN --to onnx --out garbage.pt/net.onnx", "there is no folder garbage.pt; make it"),
        ("RUN --to robustbench --variant common", "which variant='common' contradicts"),
    ],
)
def test_what_can_not_be_exported(fastiseat, finished, tmp_path, words, complaint):
    (tmp_path / "garbage.pt").write_bytes(b"garbage")
    assert complaint in fastiseat("export", *words.replace("RUN", str(finished)).split()).complaint
    assert [path.name for path in tmp_path.iterdir()] == ["garbage.pt"]


@pytest.mark.parametrize(
    ("words", "named"), [("--to onx", "onnx"), ("", "--to"), ("--to onnx --forse", "--force")]
)
def test_usage_errors_name_what_is_near(fastiseat, finished, words, named):
    result = fastiseat("export", finished, *words.split())
    assert result.code == 2
    assert named in result.err


def test_help_tells_what_robustbench_can_load(fastiseat):
    text = " ".join(fastiseat("export", "--help").out.replace("│", " ").split())
    for words in (
        "its Wide ResNet computes something else than the released variant",
        "fastiseat[onnx]",
        "FILE.md",
    ):
        assert words in text
