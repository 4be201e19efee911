"""Runs that are killed at any moment end as if they never had been."""

import json
import os
import random
import signal
import time

import pytest
import tiny
from killed_run import kill_again_and_again, result, start, train

from fastiseat.checkpoint import RunDirectory
from fastiseat.report.reader import read_metrics

# Each part draws moments of its own.
PARTS = [
    (0, 3),
    *(pytest.param(part, int(os.environ.get("KILLS", "80")) // 4, marks=pytest.mark.long) for part in range(4)),
]

# One worker for all, so that the unbroken run is trained once.
pytestmark = pytest.mark.xdist_group("killed-runs")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken") / "run"
    train(out)
    return out


def rows(out):
    return [{name: value for name, value in row.items() if name not in tiny.CLOCKS} for row in read_metrics(out)]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("part", "kills"), PARTS)
def test_a_run_that_was_killed_is_the_unbroken_one(tmp_path, unbroken, part, kills):
    draw = random.Random(part)
    survived = 0
    number = 0
    while survived < kills:
        out = tmp_path / f"run-{number}"
        survived += kill_again_and_again(out, kills - survived, lambda: draw.randrange(1, 40))
        assert result(out) == result(unbroken)
        assert rows(out) == rows(unbroken)
        number += 1


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(one, marks=pytest.mark.long) for one in (signal.SIGUSR1, signal.SIGINT))],
)
def test_a_signal_stops_after_the_step_and_loses_nothing(tmp_path, unbroken, number):
    out = tmp_path / "run"
    with start(out) as run:
        while not list(out.glob("checkpoints/*.ckpt")):
            assert run.poll() is None
            time.sleep(0.01)
        run.send_signal(number)
        _, errors = run.communicate(timeout=60)
    codes = {signal.SIGTERM: 143, signal.SIGUSR1: 138, signal.SIGINT: 130}
    assert run.returncode == codes[number]
    told = f"fastiseat: stopped by {number.name} after a checkpoint; go on with: "
    assert errors == f"{told}fastiseat train --out {out} --resume\n"
    assert RunDirectory(out).checkpoints.latest().step >= 1
    train(out, "--resume")
    assert result(out) == result(unbroken)
    assert rows(out) == rows(unbroken)


def test_two_runs_do_not_share_a_directory(tmp_path):
    out = tmp_path / "run"
    with start(out, "--epochs", "1000") as run:
        while not (out / "config.json").exists():
            assert run.poll() is None
            time.sleep(0.01)
        holder = json.loads((out / ".lock").read_text())
        assert holder["pid"] == run.pid
        with start(out, "--epochs", "1000", "--resume") as second:
            _, errors = second.communicate(timeout=60)
        assert second.returncode == 2
        assert str(run.pid) in errors and errors.startswith("fastiseat: error: ") and errors.count("\n") == 1
        run.kill()
        run.communicate()
