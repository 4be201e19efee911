"""Every command: help that wraps, options that are known by name, and errors that name the nearest."""

import subprocess
import sys
from collections import Counter
from importlib import import_module

import pytest

from fastiseat.cli import COMMANDS
from fastiseat.cli.console.flags import options, unexpected
from fastiseat.cli.console.hints import FLAG, HINTS

KINDS = {name: import_module(f"fastiseat.cli.{name}").ARGUMENTS for name in COMMANDS}
PARTS = [[name] for name in COMMANDS if name != "data"] + [
    ["data", part] for part in ("prepare", "verify", "info")
]
# What a command needs before it can look at an option.
NEEDED = {
    "eval": ["x"],
    "export": ["x", "--to", "onnx"],
    "bench": ["step"],
    "list": ["models"],
    "completion": ["bash"],
}


def shown(text):
    """The options of a help text."""
    return {word for line in text.splitlines() for word in FLAG.findall(line) if line.lstrip("│ ").startswith("-")}


@pytest.mark.parametrize("command", PARTS, ids=" ".join)
def test_help_wraps_at_the_terminals_width_and_nowhere_else(fastiseat, monkeypatch, command):
    texts = {}
    for width in (60, 110, 1000):
        monkeypatch.setenv("COLUMNS", str(width))
        texts[width] = fastiseat(*command, "--help").out
        assert max(map(len, texts[width].splitlines())) <= width
    said = {width: Counter(filter(str.isalnum, text)) for width, text in texts.items()}
    assert said[60] == said[110] == said[1000], "something is lost"
    inside = [line.strip("│ ") for line in texts[1000].splitlines() if line.startswith("│  " + " " * 8)]
    assert all(line.endswith((")", "exit")) for line in inside), "a help text goes on in a line of its own"


@pytest.mark.parametrize("command", PARTS, ids=" ".join)
def test_every_default_is_told(fastiseat, command):
    assert "(default: )" not in fastiseat(*command, "--help").out.replace("\n", " ").replace("│", "")


@pytest.mark.parametrize("name", KINDS)
def test_the_options_are_those_that_help_shows(fastiseat, name):
    texts = [fastiseat(*command, "--help").out for command in PARTS if command[0] == name]
    assert {"--help", *options(KINDS[name])} == set().union(*map(shown, texts))


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_that_there_is_not_is_told_the_nearest(fastiseat, name):
    known = set(options(KINDS[name]))
    for option in known:
        complaint = str(unexpected(f"{option}x", f"fastiseat {name}", known))
        assert complaint.startswith(f"unknown option '{option}x'; did you mean ")
        assert option in complaint
    words = ["data", "info", "digits"] if name == "data" else [name, *NEEDED.get(name, [])]
    assert fastiseat(*words, "--no-such-thing").complaint.startswith("unknown option '--no-such-thing'; ")


def test_hints_are_of_options_that_there_are_not():
    every = {option for kind in KINDS.values() for option in options(kind)}
    assert not every & HINTS.keys()
    for option, hint in HINTS.items():
        assert set(FLAG.findall(hint)) <= set(options(KINDS["train"])), option


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("train --lambda 0.1", "unknown option --lambda; λ is --lam"),
        ("train --learning-rate=0.1", "unknown option --learning-rate; it is --lr"),
        ("train --learning_rate 0.1", "unknown option --learning-rate; it is --lr"),
        ("train --gpus 2", "unknown option --gpus; a run uses one device: --device cuda:1 chooses it"),
        ("train --wandb", "unknown option --wandb; " + HINTS["--wandb"]),
        ("eval x --epsilon 0.1", "unknown option --epsilon; ε is --eps"),
        ("doctor --lambda 1", "unknown option '--lambda'; fastiseat doctor --help lists all"),
        ("train --eps 1/0", "--eps '1/0' is no length in pixel values: write it as 0.031 or 8/255"),
        ("eval x --eps=8/255/3", "--eps '8/255/3' is no length in pixel values: write it as 0.031 or 8/255"),
        ("train --extra-ratio 0.3", "extra_ratio=0.3: there are no extra images; name their file by --extra"),
        ("train --dataset svhn --augment idbh-svhn --crop-padding 8",
         "crop_padding=8: augment idbh-svhn takes the place of it; leave it out, or take augment standard"),
        ("train cifar10", "unexpected 'cifar10': fastiseat train --help tells what may stand there"),
        ("train --augment idbh", "unknown --augment 'idbh'; did you mean idbh-svhn?"),
        ("train --amp_dtype=bf", "unknown --amp-dtype 'bf'; did you mean bf16?"),
        ("list --json method", "unknown choice 'method'; did you mean methods or models?"),
        ("data prepare digits --format=ffcv x", "unknown --format 'x'; known: ffcv, ffcv-jpeg, jpeg, resident"),
        ("list method", "unknown choice 'method'; did you mean methods or models?"),
        ("bench stp", "unknown choice 'stp'; did you mean step?"),
        ("data prepre x", "unknown part of fastiseat data 'prepre'; did you mean prepare?"),
        ("export x --to onx", "unknown --to 'onx'; did you mean onnx?"),
        ("completion bsh", "unknown choice 'bsh'; did you mean bash or zsh or fish?"),
    ],
)  # fmt: skip
def test_words_of_other_tools_and_misspelt_ones(fastiseat, words, complaint):
    assert fastiseat(*words.split()).complaint == complaint


def test_eps_is_shown_in_levels(fastiseat):
    text = " ".join(fastiseat("train", "--dataset", "cifar10", "--help").out.replace("│", "").split())
    assert "Paper: 8/255. (default: 8/255)" in text
    assert "SVHN 1/255. (default: 2/255)" in text
    assert "8/255" in fastiseat("list", "recipes", "--dataset", "cifar10").out


COMPLETED = [
    ("tr", "train"),
    ("train --augm", "--augment"),
    ("train --augment idbh-c", "idbh-cifar10-weak idbh-cifar10-strong"),
    ("data ver", "verify"),
    ("data prepare --for", "--force --format"),
    ("export x --to on", "onnx"),
    ("completion --he", "--help"),
]


def test_bash_completes_every_command(fastiseat, tmp_path):
    script = tmp_path / "fastiseat.bash"
    script.write_text(fastiseat("completion", "bash").out)
    tries = COMPLETED + [(name, name) for name in COMMANDS]
    lines = [
        f"COMP_WORDS=(fastiseat {words}); COMP_CWORD=${{#COMP_WORDS[@]}}; COMP_CWORD=$((COMP_CWORD-1)); "
        "_tyro_fastiseat; echo ${COMPREPLY[*]}"
        for words, _ in tries
    ]
    found = subprocess.run(
        ["bash", "-c", "\n".join([f"source {script}", f"PATH={sys.exec_prefix}/bin:$PATH", *lines])],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.splitlines() == [expected for _, expected in tries]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_every_command(fastiseat, shell):
    script = fastiseat("completion", shell).out
    assert all(name in script for name in COMMANDS)
