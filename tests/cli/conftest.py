"""The commands as functions, on a few digits."""

import json
import shutil
import subprocess
import sys
import types
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import tiny
import torch

from fastiseat.__main__ import main
from fastiseat.attacks.search.apgd import APGD
from fastiseat.attacks.search.fab import FAB
from fastiseat.attacks.search.square import Square
from fastiseat.evaluation.ensemble import ensembles


class Result(NamedTuple):
    """What a command leaves."""

    code: int
    out: str
    err: str

    @property
    def complaint(self):
        """The one line of an error that the user can mend, without its prefix."""
        assert self.code == 2, self
        assert self.err.startswith("fastiseat: error: "), self
        assert self.err.count("\n") == 1, self
        return self.err.removeprefix("fastiseat: error: ").rstrip()


@pytest.fixture(autouse=True)
def few_digits(monkeypatch, tmp_path):
    """In an empty folder, with an output that is no terminal and 120 columns wide."""
    tiny.install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))  # no run measures which count is faster
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fastiseat(capsys):
    """The command ``fastiseat`` within this process."""

    def run(*words):
        try:
            code = main([str(word) for word in words])
        except SystemExit as stopped:  # the parser's way out
            code = stopped.code or 0
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def process(tmp_path):
    """The command ``fastiseat`` as a process of its own."""

    def run(*words, **more):
        command = [sys.executable, "-m", "fastiseat", *map(str, words)]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, **more)
        return Result(result.returncode, result.stdout, result.stderr)

    return run


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it, for commands that write into a run: ``run`` in the current folder."""
    return shutil.copytree(finished, tmp_path / "run")


@dataclass
class Check:
    """What the checks find about a network."""

    name: str
    finding: str
    suspicious: bool


@pytest.fixture(autouse=True)
def sanity(monkeypatch):
    """In place of the checks: one suspicious finding of two, and a list of what they were called with."""
    calls = []

    def sanity_checks(evaluator, samples, **more):
        more.pop("progress")("fgsm")
        calls.append({"samples": len(samples), **more})
        return [Check("gradients", "they are there", False), Check("square", "it breaks what PGD spares", True)]

    module = types.ModuleType("fastiseat.evaluation.sanity.signs")
    module.sanity_checks = sanity_checks
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


@pytest.fixture
def short(monkeypatch):
    """Ensembles of the same parts, of 10 steps, 2 targets and 30 queries."""
    monkeypatch.setattr(ensembles, "APGD", lambda **words: APGD(**words | {"iterations": 10}))
    monkeypatch.setattr(ensembles, "FAB", lambda **words: FAB(**words | {"iterations": 10}))
    monkeypatch.setattr(ensembles, "Square", lambda **words: Square(**words, queries=30))
    monkeypatch.setattr(ensembles, "_STANDARD_TARGETS", 2)


@pytest.fixture
def evaluate(fastiseat):
    """What ``eval --json`` prints."""

    def command(*words):
        result = fastiseat("eval", *words, "--json")
        assert result.code == 0, result
        return json.loads(result.out)

    return command


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The directory of a finished run of two epochs; not to be changed."""
    out = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        tiny.install(patch)
        tiny.trainer(tiny.config("at", epochs=2), out).run()
    return out
