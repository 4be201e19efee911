"""The picture while a run goes on: after every epoch, from a thread, and never the end of a run."""

import errno
import os
import threading
import time

import matplotlib as mpl
import pytest
import tiny

from fastiseat.errors import UserError
from fastiseat.report import curves, live
from fastiseat.report.live import LiveCurves
from fastiseat.report.reader import read_metrics
from fastiseat.run.trainer import Trainer

pytestmark = pytest.mark.usefixtures("drawn_pictures")


@pytest.fixture(autouse=True)
def few_digits(monkeypatch):
    tiny.install(monkeypatch)


@pytest.fixture
def drawn(monkeypatch):
    """In place of drawings: how many epochs each had, and in which thread it was made."""
    made = []

    def draw(run):
        made.append((len(read_metrics(run)), threading.current_thread().name))

    monkeypatch.setattr(live, "draw_curves", draw)
    return made


def patient(row):
    """Until the epoch's picture is there: what is drawn while another is, is drawn later."""
    deadline = time.monotonic() + 20
    while any(thread.name == "curves" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def run(out, *, epochs=3, **more):
    watcher = more.pop("watcher", None) or tiny.Watcher(on_epoch=patient)
    trainer = Trainer(tiny.config("none", epochs=epochs), out, device=tiny.CPU, observer=watcher, **more)
    trainer.run()
    return watcher


def test_every_epoch_has_its_picture_behind_the_runs_back(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(live, "MOST_OF_THE_TIME", 1e9)
    run(tmp_path / "run")
    assert [count for count, _ in drawn] == [1, 2, 3]
    assert {thread for _, thread in drawn} == {"curves"}


def test_the_picture_is_there_before_the_run_ends(tmp_path):
    seen = []

    def look(row):
        patient(row)
        seen.append((tmp_path / "run" / "figures" / "curves.png").exists())

    run(tmp_path / "run", watcher=tiny.Watcher(on_epoch=look))
    assert seen == [True, True, True]


def test_costly_pictures_are_drawn_seldom_and_the_last_one_always(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(live, "MOST_OF_THE_TIME", 1e-9)
    run(tmp_path / "run", epochs=4)
    assert [count for count, _ in drawn] == [1, 4]


def test_a_stopped_run_has_its_picture_and_a_resumed_one_too(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(live, "MOST_OF_THE_TIME", 1e-9)

    def stop(epoch, step):
        if (epoch, step) == (2, 0):
            raise UserError("stopped")

    with pytest.raises(UserError, match="stopped"):
        run(tmp_path / "run", watcher=tiny.Watcher(on_step=stop))
    assert [count for count, _ in drawn] == [1, 2]
    run(tmp_path / "run", resume=True)
    assert [count for count, _ in drawn] == [1, 2, 2, 3]


def test_an_interrupt_waits_for_no_further_picture(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(live, "MOST_OF_THE_TIME", 1e-9)

    def stop(epoch, step):
        if (epoch, step) == (2, 0):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", watcher=tiny.Watcher(on_step=stop))
    assert [count for count, _ in drawn] == [1]


def test_after_a_rollback_files_and_picture_are_of_the_epochs_that_count(tmp_path, drawn, monkeypatch):
    from fastiseat.run.metrics import DivergedError

    monkeypatch.setattr(live, "MOST_OF_THE_TIME", 1e9)
    failures = iter([DivergedError("no number.")])

    def fail_once(epoch, step):
        if (epoch, step) == (3, 0) and (error := next(failures, None)):
            raise error

    watcher = tiny.Watcher(on_step=fail_once, on_epoch=patient)
    run(tmp_path / "run", epochs=4, watcher=watcher, on_nan="rollback", checkpoint_every="2epochs")
    assert sum("back to step 4" in line for line in watcher.said) == 1
    assert [count for count, _ in drawn][:4] == [1, 2, 3, 2]
    assert len(read_metrics(tmp_path / "run")) == 4


@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), MemoryError(), RuntimeError("odd\nfont")]
)
def test_a_drawing_that_fails_is_told_once_and_loses_nothing(tmp_path, monkeypatch, failure):
    def fail(*_):
        raise failure

    run(tmp_path / "whole")
    monkeypatch.setattr(live, "MOST_OF_THE_TIME", 1e9)
    monkeypatch.setattr(live, "draw_curves", fail)
    watcher = run(tmp_path / "run")
    (told,) = watcher.said
    why = " ".join(str(failure).split()) or type(failure).__name__
    assert told == f"no picture of the curves ({why}); the run itself goes on"
    for name in ("weights/last.safetensors", "results.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_full_disk_leaves_the_old_picture_whole(tmp_path, monkeypatch):
    run(tmp_path / "run", epochs=1)
    picture = tmp_path / "run" / "figures" / "curves.png"
    before, said = picture.read_bytes(), []
    honest = os.fsync

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with LiveCurves(tmp_path / "run", say=said.append) as pictures:
        pictures.update()
    monkeypatch.setattr(os, "fsync", honest)
    assert picture.read_bytes() == before
    assert [path.name for path in picture.parent.iterdir()] == ["curves.png"]
    assert len(said) == 1 and "No space left on device; free space" in said[0]


def test_no_thread_and_no_state_of_matplotlib_is_left(tmp_path):
    before, backend = dict(mpl.rcParams), mpl.get_backend(auto_select=False)
    threads = threading.active_count()
    run(tmp_path / "run", epochs=1)
    assert threading.active_count() == threads
    assert dict(mpl.rcParams) == before and mpl.get_backend(auto_select=False) == backend


def test_the_write_is_the_atomic_one(tmp_path, monkeypatch):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 0, "lr": 0.1}\n')
    written = []
    monkeypatch.setattr(curves.OwnFolder, "write", lambda folder, name, *parts: written.append(str(name)))
    curves.draw_curves(tmp_path)
    assert written == ["figures/curves.png"]
