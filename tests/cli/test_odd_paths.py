"""Paths that nobody means: each at every option that takes one is told in a line, and at once."""

import os
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny
from command_options import options, takes

from fastiseat import __file__ as package
from fastiseat.bench.inputs import training_split
from fastiseat.errors import UserError
from fastiseat.safe import expanded, resolved

SECONDS = 20
BEGINNINGS = {
    "bench": ["step", "--json"],
    "eval": ["digits-iseat", "--attack", "clean", "--no-sanity"],
    "export": ["digits-iseat", "--to", "safetensors"],
    "train": ["--arch", "small", "--method", "at", *map(str, tiny.SHORT)],
}
FLAGS = [(words, flag) for words, flag, hint in options(BEGINNINGS) if takes(hint, Path)]
NEEDED = {"--standard": ["--method", "hat"]}
"""What has an option looked at."""
NAMED = [
    ["eval", "PATH"],
    ["export", "PATH", "--to", "onnx"],
    ["eval", "digits-iseat", "--dataset", "npz:PATH"],
    *(["data", part, f"{kind}:PATH"] for part in ("prepare", "info", "verify") for kind in ("imagefolder", "npz")),
    *(
        ["train", *dry, "--dataset", f"{kind}:PATH"]
        for dry in ([], ["--dry-run"])
        for kind in ("imagefolder", "npz")
    ),
]
"""Commands about a path that has no option."""


def link(to):
    return lambda path: path.symlink_to(to)


ODD = {
    "a circle of links": ("circle", link("circle")),
    "below it": ("circle/x", lambda path: path.parent.symlink_to("circle")),
    "a link to nothing": ("link", link("nowhere")),
    "a pipe": ("pipe", os.mkfifo),
    "below it too": ("pipe/x", lambda path: os.mkfifo(path.parent)),
    "a device": ("device", link("/dev/zero")),
    "too long": (300 * "n", lambda path: None),
    "no home": ("~nobody-of-that-name/x", lambda path: None),
    "no UTF-8": (os.fsdecode(b"caf\xe9"), lambda path: None),
}
TAKEN = {"~nobody-of-that-name/x", os.fsdecode(b"caf\xe9")}
"""Names that a file or a folder to write may have."""
FOLLOWED = {("link", "--out")}
"""A folder to write may be a link, to one that is made."""
odd = pytest.mark.parametrize(("path", "make"), ODD.values(), ids=ODD)


@pytest.fixture(autouse=True)
def nothing_prepared(monkeypatch, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("FASTISEAT_DATA", raising=False)


@pytest.fixture(autouse=True)
def nothing_measured(monkeypatch):
    monkeypatch.setattr("fastiseat.bench.suite.measure", _measure)


def _measure(parts, selection, plan):
    if selection.cases:
        training_split(selection.cases[0].dataset, 1, plan.data_dir)
    versions = {"commit": "0123456789", "fastiseat": "1"}
    return {"machine": {"device": "none", "versions": versions}}


@contextmanager
def at_once():
    def stop(number, frame):
        raise AssertionError("it waits, or reads for ever")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def told(result, path, *, may_be_taken):
    """It ends with one line that names the path; or it has done what was asked."""
    if may_be_taken and result.code == 0:
        return
    told = result.complaint
    name = path.split("/")[0].encode("utf-8", "backslashreplace").decode()
    assert {"link": "nowhere", "device": "zero"}.get(name, name) in told or name in told


@odd
@pytest.mark.parametrize(("words", "flag"), FLAGS, ids=lambda each: each if isinstance(each, str) else each[0])
def test_every_option_that_takes_a_path(fastiseat, tmp_path, words, flag, path, make):
    make(tmp_path / path)
    place = f"{path}/net.safetensors" if words[0] == "export" else path
    if flag in ("--data-dir", "--source"):
        words = ["cifar10" if word == "digits" else word for word in words]
        words += ["--dataset", "cifar10"] * (words[0] != "data")
    words = ["attack" if flag == "--weights" and word == "step" else word for word in words]
    words += NEEDED.get(flag, [])
    with at_once():
        result = fastiseat(*words, f"{flag}={place}")
    told(result, place, may_be_taken=path in TAKEN or (path, flag) in FOLLOWED)


@odd
@pytest.mark.parametrize("words", NAMED, ids=" ".join)
def test_every_path_without_an_option(fastiseat, tmp_path, words, path, make):
    make(tmp_path / path)
    with at_once():
        result = fastiseat(*(word.replace("PATH", path) for word in words))
    told(result, path, may_be_taken=False)


@odd
def test_the_folder_of_the_environment(fastiseat, monkeypatch, tmp_path, path, make):
    make(tmp_path / path)
    monkeypatch.setenv("FASTISEAT_DATA", path)
    with at_once():
        assert fastiseat("data", "info", "cifar10").complaint


def test_nothing_is_evaluated_for_a_folder_that_can_not_be_written(fastiseat, tmp_path, monkeypatch):
    (tmp_path / "out").write_bytes(b"")
    monkeypatch.setattr("fastiseat.cli.eval.attacker.Attacker._run", None)
    assert "cannot write" in fastiseat("eval", "digits-iseat", "--attack", "clean", "--out", "out").complaint


def test_nothing_is_measured_for_a_folder_that_can_not_be_written(fastiseat, tmp_path, monkeypatch):
    (tmp_path / "out").symlink_to("out")
    monkeypatch.setattr("fastiseat.bench.suite.measure", None)
    assert fastiseat("bench", "step", "--results", "out").complaint.startswith("cannot write out")


def test_where_a_place_is(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert resolved("link/missing") == tmp_path.resolve() / "real" / "missing"
    assert resolved("~/x") == expanded("~/x").resolve()
    for circle in ("circle", "circle/x"):
        (tmp_path / "circle").unlink(missing_ok=True)
        (tmp_path / "circle").symlink_to("circle")
        with pytest.raises(UserError, match=rf"^{circle}: Too many levels of symbolic links; name another"):
            resolved(circle)
    with pytest.raises(UserError, match="null byte"):
        resolved("a\0b")
    with pytest.raises(UserError, match="no home folder is known for that: set HOME"):
        expanded("~nobody-of-that-name/x")


def test_no_home_is_known(fastiseat, monkeypatch):
    """As in a container that runs under a number that nobody has."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    assert "set HOME" in fastiseat("data", "info", "cifar10").complaint


def test_users_paths_go_through_these_alone():
    sources = [path for folder in _sources() for path in folder.rglob("*.py")]
    assert len(sources) > 100
    for path in sources:
        if path.name == "paths.py" and path.parent.name == "safe":
            continue
        text = path.read_text().replace("Path(__file__).resolve()", "")
        assert ".resolve()" not in text and ".expanduser()" not in text and "realpath" not in text, path


def _sources():
    root = Path(package).parents[1]
    return [root / name for name in ("fastiseat", "pipelines", "bench", "kernels")]
