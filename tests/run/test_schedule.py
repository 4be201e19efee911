"""Learning rate and momentum that move within epochs: each step has its own, wherever the run was stopped between."""

import tempfile
from dataclasses import replace
from pathlib import Path
from signal import SIGTERM

import pytest
import tiny
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastiseat.config import Execution
from fastiseat.report import live
from fastiseat.run import epoch, loop
from fastiseat.run.signals import Stopped
from fastiseat.run.trainer import Trainer
from fastiseat.schedule import scalars_of_step

EPOCHS, STEPS = 3, 4
SHAPES = [
    {},
    {"lr_per_step": True},
    {"lr_shape": "cosine"},
    {"lr_shape": "cosine", "lr_per_step": True},
    {"lr_shape": "onecycle"},
    {"lr_shape": "onecycle", "momentum_cycle": None},
]


class Run:
    """Training only, on few digits, from start or checkpoint to the end or to a stop after ``stop`` steps."""

    def __init__(self, out, config, *, stop=None, resume=False, engine="eager"):
        self.rates = []
        watcher = tiny.Watcher(on_step=self.look)
        execution = Execution(engine=engine)
        self.trainer = Trainer(config, out, device=tiny.CPU, observer=watcher, resume=resume, execution=execution)
        self.stop = stop
        if stop is None:
            self.trainer.run()
        else:
            with pytest.raises(Stopped):
                self.trainer.run()

    def look(self, epoch, step):
        now = self.trainer.step.optimizer
        self.rates.append((now.lr, now.momentum))
        if self.stop == self.trainer.step.steps_taken:
            self.trainer.interruptions.requested = SIGTERM

    def same_end(self, other):
        """Equal rows, clocks aside, and equal weights to the last bit."""
        rows = [tiny.without_clocks(run.trainer.rows) for run in (self, other)]
        weights = [run.trainer.model.state_dict() for run in (self, other)]
        return rows[0] == rows[1] and tiny.same_weights(*weights)


def rates_of(config, epoch, step):
    now = scalars_of_step(config, epoch, step, STEPS)
    return now.lr, now.momentum


def config_of(shape, max_steps=None):
    config = tiny.config("none", epochs=EPOCHS, batch_size=25, run={"final_steps": 0})
    optimizer = replace(config.optimizer, nesterov=True)
    schedule = replace(config.schedule, lr_drops=(0.4, 0.75), max_steps=max_steps, **shape)
    return replace(config, optimizer=optimizer, schedule=schedule)


@pytest.fixture(autouse=True, scope="module")
def few_digits():
    with pytest.MonkeyPatch.context() as patch:
        tiny.install(patch)
        patch.setattr(live, "draw_curves", lambda path: None)
        patch.setattr(loop, "validate", lambda run: {"test_clean": 0.5, "test_pgd10": 0.5})
        patch.setattr(loop, "final", lambda run, which: {})
        yield


@pytest.mark.parametrize("shape", SHAPES)
def test_each_step_has_its_rates_and_the_row_the_last_ones(tmp_path, shape):
    config = config_of(shape)
    run = Run(tmp_path / "run", config)
    expected = [rates_of(config, epoch, step) for epoch in range(EPOCHS) for step in range(STEPS)]
    assert run.rates == expected
    moves = len({momentum for _, momentum in expected}) > 1
    assert moves == (shape == {"lr_shape": "onecycle"})
    for row, last in zip(run.trainer.rows, expected[STEPS - 1 :: STEPS], strict=True):
        assert (row["lr"], row.get("momentum")) == (last[0], last[1] if moves else None)


def test_of_an_epoch_cut_short_it_is_the_last_step_taken(tmp_path):
    config = config_of({"lr_shape": "onecycle"}, max_steps=STEPS + 2)
    run = Run(tmp_path / "run", config)
    last = run.trainer.rows[-1]
    assert (last["lr"], last["momentum"]) == run.rates[-1] == rates_of(config, 1, 1)


def test_where_it_is_one_an_epoch_no_step_sets_it(tmp_path, monkeypatch):
    calls = []
    honest = epoch.scalars_of
    monkeypatch.setattr(epoch, "scalars_of", lambda run, *place: calls.append(place) or honest(run, *place))
    Run(tmp_path / "run", config_of({}))
    assert calls == [(epoch, STEPS - 1) for epoch in range(EPOCHS)]


def test_a_recorded_step_follows_it(tmp_path):
    """One recording serves all learning rates and momenta, Nesterov and all."""
    config = config_of({"lr_shape": "onecycle"})
    eager, tape = (Run(tmp_path / engine, config, engine=engine) for engine in ("eager", "tape"))
    assert eager.rates == tape.rates
    assert tape.same_end(eager)
    assert len(tape.trainer.step.engine._recorder._recordings) == 1
    other = Run(tmp_path / "still", config_of({"lr_shape": "onecycle", "momentum_cycle": None}))
    assert not other.same_end(eager)


@settings(max_examples=8)
@given(st.sampled_from(SHAPES), st.integers(1, EPOCHS * STEPS - 1))
@example({"lr_shape": "onecycle"}, STEPS)
@example({"lr_per_step": True}, STEPS + 1)
def test_a_resumed_run_is_the_whole_run(shape, stop):
    config = config_of(shape)
    with tempfile.TemporaryDirectory() as folder:
        whole = Run(Path(folder, "whole"), config)
        first = Run(Path(folder, "run"), config, stop=stop)
        rest = Run(Path(folder, "run"), config, resume=True)
    assert first.rates + rest.rates == whole.rates
    assert rest.same_end(whole)
