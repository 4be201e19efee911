"""What a killed write leaves is removed by the next write into its folder, whoever writes there."""

import os
from contextlib import suppress
from pathlib import Path

import pytest
import tiny
from source_kinds import KINDS

from fastiseat import __file__ as package
from fastiseat.bench.results import save
from fastiseat.evaluation.verdicts import records
from fastiseat.evaluation.verdicts.ensemble_state import EnsembleState
from fastiseat.pipelines.data.prepare import current_store

LEFT = ".left.0123456789abcdef.tmp"
LONG_AGO = 1_000_000_000


@pytest.fixture(autouse=True)
def few_digits(monkeypatch):
    tiny.install(monkeypatch)


def a_run(folder):
    """The first time broken off in its second epoch; then the rest of it."""
    out, begun = folder / "run", (folder / "run").exists()

    def stop(epoch, step):
        if epoch and not begun:
            raise KeyboardInterrupt

    trainer = tiny.trainer(tiny.config("none"), out, resume=begun, observer=tiny.Watcher(on_step=stop))
    with suppress(KeyboardInterrupt):
        trainer.run()


def verdicts(folder):
    facts = {"dataset": "digits", "split": "test", "samples": 3, "attack": {"name": "clean", "norm": "", "eps": 0}}
    path, _ = records.place(folder / "evaluations", facts, "best", print)
    records.Record(facts=facts, made={}, parts=("clean",), ensemble_state=EnsembleState.fresh(3)).save(path)


def measurements(folder):
    versions = {"commit": "c" * 40, "fastiseat": "1"}
    machine = {"device": "A Card", "argv": [], "versions": versions}
    alike = {"format": 1, "rounds": 1, "data": "none", "ceiling": {"flops": {}}, "clocks": None}
    save({"machine": machine, **alike}, folder)


def prepared(folder):
    source = folder / "source.npz"
    if not source.exists():
        KINDS["npz file"].write(folder / "made", None)
        (folder / "made" / "own.npz").rename(source)
    os.utime(source)  # what was touched is read, and noted
    current_store(f"npz:{source}", data_dir=folder)


WRITERS = {
    "fastiseat/checkpoint/directory.py": a_run,
    "fastiseat/checkpoint/store.py": a_run,
    "fastiseat/report/curves.py": a_run,
    "fastiseat/evaluation/verdicts/records.py": verdicts,
    "bench/results.py": measurements,
    "pipelines/data/freshness.py": prepared,
}
NO_WRITERS = {
    "fastiseat/lock.py": "locks",
    "fastiseat/run/beforehand.py": "asks whether one could",
    "fastiseat/cli/bench/command.py": "asks whether one could",
}


def test_all_that_write_are_here():
    """Through the one door, :class:`fastiseat.safe.OwnFolder`, which alone writes files one by one."""
    root = Path(package).parents[1]
    found = {
        path.relative_to(root).as_posix(): path.read_text()
        for folder in ("fastiseat", "pipelines", "bench")
        for path in (root / folder).rglob("*.py")
        if path.parent.name != "safe"
    }
    assert {name for name, text in found.items() if "OwnFolder(" in text} == WRITERS.keys() | NO_WRITERS.keys()
    assert not [name for name, text in found.items() if "write_atomically(" in text]


@pytest.mark.parametrize("write", sorted(set(WRITERS.values()), key=lambda each: each.__name__))
def test_the_next_writer_removes_what_is_left(tmp_path, write):
    write(tmp_path)
    written = {path.parent for path in tmp_path.rglob("*") if path.is_file()}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    left = [folder / LEFT for folder in written]
    for file in left:
        file.write_bytes(bytes(1000))
        os.utime(file, (LONG_AGO, LONG_AGO))
    write(tmp_path)
    changed = {
        path.parent
        for path in tmp_path.rglob("*")
        if path.is_file() and before.get(path) != path.stat().st_mtime_ns and path.name not in (LEFT, "source.npz")
    }
    assert changed, "nothing was written"
    assert not [file for file in left if file.exists() and file.parent in changed]
