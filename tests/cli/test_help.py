"""Help is quick and true, and the flags are those that scripts rely on."""

import re
import subprocess
import sys

import pytest
from cpu_time import children_seconds

from fastiseat import __version__
from fastiseat.__main__ import COMMANDS

# A change here is a change of the public interface: it belongs into CHANGELOG.md.
TRAIN_FLAGS = """
--help --config --out --resume --wait --data-dir --device --quiet --dry-run
--fine-tune --engine --clean-graph --overlap --no-overlap --checkpoint-blocks --no-checkpoint-blocks --threads
--loader --resume-anyway --checkpoint-every --keep --on-nan
--dataset --batch-size --val-split --flip --no-flip --crop-padding --padding-mode --augment --images
--extra --extra-ratio --limit-train --limit-test
--arch --variant --initialization --init --mean --std
--method --standard --lam --weighting --distance --smoothness --beta
--eps --step-size --steps --random-start --no-random-start --noise --norm --attack-bn
--awp-gamma --awp-norm --awp-gradient
--lr --momentum --nesterov --no-nesterov --weight-decay --optimizer
--epochs --max-steps --lr-shape --lr-drops --lr-factor --lr-stages --lr-per-step --no-lr-per-step --lr-warmup
--momentum-cycle --reverse-from
--lam-from --awp-from --warmup
--seed --amp --no-amp --amp-dtype --tf32 --no-tf32 --deterministic --no-deterministic --final-steps
"""
EVAL_FLAGS = """
--help --attack --norm --steps --step-size --restarts --eps --weights --variant --mean --std --entry --dataset
--data-dir --subset --split --tf32
--batch-size --seed --amp --engine --backend --no-sanity --compare --out --fresh
--device --json
"""
EXPORT_FLAGS = "--help --to --out --weights --variant --mean --std --entry --force"
BENCH_FLAGS = """
--help --preset --arch --dataset --batch-size --method --precision --engine --clean-graph --awp-gradient
--checkpoint-blocks --overlap --wasteful --baseline --backend --loader --images
--weights --eps --norm --subset --unbroken --part
--rounds --seconds --device --data-dir --results --json --markdown
"""
DOCTOR_FLAGS = "--help --json"
LIST_FLAGS = "--help --dataset --augment --extra --json"


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("train", TRAIN_FLAGS),
        ("eval", EVAL_FLAGS),
        ("export", EXPORT_FLAGS),
        ("bench", BENCH_FLAGS),
        ("doctor", DOCTOR_FLAGS),
        ("list", LIST_FLAGS),
    ],
)
def test_the_flags_of_a_command_are_frozen(fastiseat, command, flags):
    """Also: each flag that a help text mentions exists."""
    result = fastiseat(command, "--help")
    assert result.code == 0
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", result.out)) == set(flags.split())


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"]])
@pytest.mark.parametrize("width", [70, 80, 200])
def test_help_names_the_commands_and_the_exit_codes(fastiseat, monkeypatch, words, width):
    monkeypatch.setenv("COLUMNS", str(width))
    result = fastiseat(*words)
    assert (result.code, result.err) == (0, "")
    in_one_line = " ".join(result.out.split())
    for name, summary in COMMANDS.items():
        assert f"\n  {name}" in result.out
        assert f"{name} {summary}" in in_one_line
    for code in ("0 done", "1 a defect", "2 something to mend", "130 interrupted"):
        assert code in in_one_line
    assert max(map(len, result.out.splitlines())) <= width


def test_version(fastiseat):
    assert fastiseat("--version") == (0, f"fastiseat {__version__}\n", "")


def test_without_a_command_help_is_an_error(fastiseat):
    result = fastiseat()
    assert result.code == 2
    assert "commands:" in result.out


def default(help_text, flag):
    """The default that ``--help`` shows for a flag."""
    text = " ".join(help_text.replace("│", " ").split())
    return re.search(rf"{flag} [A-Z]{{2,}}.*?\(default: (.*?)\)", text)[1]


@pytest.mark.parametrize(
    ("words", "defaults"),
    [
        ([], {"--method": "iseat", "--lam": "0.1", "--awp-gamma": "0.007", "--eps": "0.15", "--epochs": "20"}),
        (["--method", "at"], {"--method": "at", "--lam": "0.0", "--awp-gamma": "0.0"}),
        (["--method=lsi"], {"--method": "lsi", "--lam": "0.1", "--awp-gamma": "0.0"}),
        (["--method", "at", "--method", "at-awp"], {"--method": "at-awp", "--lam": "0.0", "--awp-gamma": "0.007"}),
    ],
)
def test_help_shows_the_recipe_of_the_chosen_method(fastiseat, words, defaults):
    text = fastiseat("train", *words, "--help").out
    assert {flag: default(text, flag) for flag in defaults} == defaults


def test_help_shows_units_and_the_papers_values(fastiseat):
    text = " ".join(fastiseat("train", "--help").out.replace("│", " ").split())
    for words in ("FLOAT|A/B", "in units of pixel values in [0, 1]. Paper: 8/255.", "Paper: 0.1, SVHN 0.01."):
        assert words in text


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["eval", "--help"],
        ["export", "--help"],
        ["doctor", "--help"],
    ],
)
def test_help_is_quick(words):
    """In seconds of work: on a clock, whatever else the machine does would count too."""
    times = []
    for _ in range(3):
        began = children_seconds()
        subprocess.run([sys.executable, "-m", "fastiseat", *words], check=True, capture_output=True)
        times.append(children_seconds() - began)
    assert min(times) < 0.5


@pytest.mark.parametrize(
    "words",
    [
        ["--version"],
        ["train", "--help"],
        ["eval", "--help"],
        ["export", "--help"],
        ["export", "run", "--to", "onx"],
        ["doctor", "--help"],
        ["train", "--epochs", "x"],
        ["tarin"],
    ],
)
def test_help_and_usage_errors_load_no_torch(words):
    code = (
        "import sys\nfrom fastiseat.__main__ import main\n"
        f"try:\n    main({words})\nexcept SystemExit:\n    pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
