"""The campaign of ``make torture``, in short: tests/torture has all of it. Each kind of command has its turn in it."""

import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
from source_kinds import KINDS
from torture import deeds, settings

from fastiseat.export.formats import FORMATS
from fastiseat.kernels.idbh.policies import POLICIES
from fastiseat.names import ATTACKS
from fastiseat.pipelines.loaders.choose import LOADERS
from fastiseat.recipes import METHODS

HERE = Path(__file__).parent
SHORT = ("--tries", "4", "--a-deed", "2")


def torture(*words, home):
    """The exit code, and what was printed; nothing may come into the user's own ``home``."""
    ended = subprocess.run(
        [sys.executable, "-m", "torture", *words],
        cwd=HERE,
        env=os.environ | {"PYTHONPATH": str(HERE), "HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert not (home / ".cache" / "fastiseat").exists()
    return ended.returncode, ended.stdout + ended.stderr


def test_nothing_is_lost_by_kills_and_full_disks(tmp_path):
    code, said = torture(*SHORT, "--only", "kills", "full disks", home=tmp_path)
    assert code == 0, said


@pytest.fixture
def turns(tmp_path, monkeypatch):
    """Deeds of a round, where every training takes any choice."""
    monkeypatch.setattr(settings, "takes", lambda *_: True)
    return list(islice(deeds.by_turns(tmp_path / "run"), deeds.in_a_round()))


def test_everything_has_its_turn_in_a_round(turns):
    wanted = {
        **{f"train {method} by": 1 for method in METHODS},
        **{f"eval {attack}": 1 for attack in ATTACKS},
        **{f"export --to {name}": 1 for name in FORMATS},
        **{f"data prepare {kind}": 1 for kind in KINDS},
    }
    names = [deed.name for deed in turns]
    assert {beginning: sum(_begins(name, beginning) for name in names) for beginning in wanted} == wanted
    assert len(names) == len(wanted)
    for words in (*(f" by {loader}," for loader in LOADERS), *map(" ".join, settings.FILES)):
        assert any(words in name for name in names)


def _begins(name, beginning):
    return f"{name} ".startswith(f"{beginning} ")


def test_every_choice_of_the_config_has_its_turn_in_a_round(turns):
    names = " ".join(f"{deed.name} " for deed in turns)
    offered = list(settings.choices())
    assert {"amp", "flip", "augment", "variant", "gradient", "lr_shape"} <= {name for _, name, _ in offered}
    assert [choice for choice in offered if f" {choice[1]}={choice[2]} " not in names] == []


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The distutils package:DeprecationWarning")  # which FFCV imports
def test_what_choices_no_training_of_digits_takes(tmp_path):
    """They need coloured images, JPEG files or a GPU."""
    words = [("train", "--method", method, *deeds.SHORT) for method in METHODS]
    left = {
        f"{choice[1]}={choice[2]}"
        for choice in settings.choices()
        if not any(settings.takes(each, settings.with_needs(choice), tmp_path / "file") for each in words)
    }
    assert left == {"images=jpeg", "implementation=apex", *(f"augment=idbh-{policy}" for policy in POLICIES)}, left


@pytest.mark.long
@pytest.mark.timeout(900)
def test_nothing_is_lost(tmp_path):
    """By any of the campaigns, in half a round."""
    code, said = torture("--tries", str(deeds.in_a_round() // 2), "--a-deed", "1", home=tmp_path)
    assert code == 0, said


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_write_in_place_is_found(tmp_path):
    code, said = torture("--tries", "8", "--a-deed", "4", "--only", "kills", "--careless", home=tmp_path)
    assert code == 1 and "eval clean, killed at operation" in said, said
