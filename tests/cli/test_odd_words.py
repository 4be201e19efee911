"""Words that no shell's script means: empty paths and numbers of no end, at every option that takes such."""

from pathlib import Path

import pytest
from command_options import options, takes

BEGINNINGS = {"eval": ["x"], "export": ["x", "--to", "onnx"], "bench": ["step"], "train": ["--dry-run"]}
NAMELESS = {"eval": ["eval", ""], "export": ["export", "", "--to", "onnx"]}
"""Commands about a path that has no option."""


PATHS = [(words, flag) for words, flag, hint in options(BEGINNINGS) if takes(hint, Path)]
NUMBERS = [(words, flag) for words, flag, hint in options(BEGINNINGS) if takes(hint, int)]


def test_they_are_found():
    assert {flag for _, flag in PATHS} >= {"--out", "--data-dir", "--config", "--init", "--source", "--results"}
    assert {flag for _, flag in NUMBERS} >= {
        "--epochs",
        "--seed",
        "--keep",
        "--rounds",
        "--image-size",
        "--subset",
    }


@pytest.mark.parametrize(("words", "flag"), PATHS)
def test_an_empty_path_is_not_the_current_folder(fastiseat, words, flag):
    told = f"{flag}: its path is empty: name one; the current folder is ."
    assert fastiseat(*words, *odd(flag)).complaint == told


def odd(flag: str) -> list[str]:
    """Either of the ways to write it, which the parser takes alike."""
    return [f"{flag}="] if len(flag) % 2 else [flag, ""]


@pytest.mark.parametrize("command", NAMELESS)
def test_neither_is_what_a_command_is_about(fastiseat, command):
    assert f"fastiseat {command}: its path is empty" in fastiseat(*NAMELESS[command]).complaint


def test_nor_is_a_run_to_resume(fastiseat, tmp_path):
    assert fastiseat("train", "--resume", "--out", "").complaint.startswith("--out: its path is empty")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("words", "flag"), NUMBERS)
def test_a_number_of_no_end(fastiseat, words, flag):
    complaint = fastiseat(*words, f"{flag}={10**23}").complaint
    assert f"{flag[2:].replace('-', '_')}=" in complaint
    assert len(complaint) < 200


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            ["train", "--arch", f"wrn-10-{10**18}"],
            "a Wide ResNet has depth 6n + 4 (10, 16, 22, 28, 34, ... 1000) and w",
        ),
        (["train", "--arch", f"wrn-{5000 * '9'}-1"], "a Wide ResNet has depth 6n + 4"),
        (["train", "--keep", -(10**23)], "keep=-100000000000000000000000: a whole number of at most 20 digits"),
        (["train", "--epochs", 10**4000], "epochs=0x"),
        (["train", "--crop-padding", 4097], "crop_padding=4097: must be at most 4,096"),
        (["train", "--epochs", 100_001, "--dry-run"], "epochs=100001: must be at most 100,000"),
        (["train", "--threads", 10**9], "threads=1000000000: must be at most 4,096"),
        (["train", "--steps", 10**9], "steps=1000000000: must be at most 1,000,000"),
        (
            ["train", "--batch-size", 2**63],
            "batch_size=9223372036854775808: must be at most 9,223,372,036,854,775,807",
        ),
        (["train", "--seed", 2**63], "seed=9223372036854775808: must lie in 0 … 2**63 - 1"),
        (["eval", "digits-iseat", "--seed", -1], "seed=-1: must lie in 0 … 2**63 - 1"),
        (["eval", "digits-iseat", "--attack", f"pgd-{10**25}"], "must be at most 1,000,000"),
        (["eval", "digits-iseat", "--attack", "cw-" + 5000 * "9"], "must be at most 1,000,000"),
        (["eval", "digits-iseat", "--restarts", 10**9], "restarts=1000000000: must be at most 1,000,000"),
    ],
)
def test_numbers_beyond_any_use(fastiseat, words, complaint):
    assert complaint in fastiseat(*words).complaint
