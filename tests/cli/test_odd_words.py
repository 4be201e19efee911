"""Words that no shell's script means: empty paths and numbers of no end, at every option that takes such."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest

from fastiseat.cli import COMMANDS
from fastiseat.cli.flags import _kinds, _leaves, _names, _parts

BEGINNINGS = {"eval": ["x"], "export": ["x", "--to", "onnx"], "bench": ["step"], "train": ["--dry-run"]}
NAMELESS = {"eval": ["eval", ""], "export": ["export", "", "--to", "onnx"]}
"""Commands about a path that has no option."""


def leaves() -> Iterator[tuple[list[str], str, Any]]:
    """The words before each option of each command, the option, and what it takes."""
    for command in COMMANDS:
        kind = import_module(f"fastiseat.cli.{command}").ARGUMENTS
        parts = zip(_parts(kind), get_args(kind), strict=True) if _parts(kind) else [(None, kind)]
        for part, of in parts:
            words = [command, *([part, "digits"] if part else []), *BEGINNINGS.get(command, [])]
            for name, hint in _leaves(of):
                for flag in list(_names(name, hint))[:1]:
                    yield words, flag, hint


def takes(hint: Any, kind: type) -> bool:
    """Whether it takes one, or several."""
    return any(
        each is kind or (get_origin(each) is Annotated and get_args(each)[0] is kind) or kind in get_args(each)
        for each in _kinds(hint)
    )


PATHS = [(words, flag) for words, flag, hint in leaves() if takes(hint, Path)]
NUMBERS = [(words, flag) for words, flag, hint in leaves() if takes(hint, int)]


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
