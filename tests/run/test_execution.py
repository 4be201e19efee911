"""How a machine computes the step is a choice of its own: the same training, and the run says which it was."""

import json
from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
import tiny
import torch

from fastiseat.config import Execution
from fastiseat.engine.algorithm1 import Algorithm1
from fastiseat.engine.recording.engines import ENGINES
from fastiseat.engine.step import CLEAN_GRAPHS
from fastiseat.errors import UserError
from fastiseat.run.trainer import Trainer

AUGMENTED = {"flip": True, "crop_padding": 1}


def run(out, config, *, observer=None, loader="auto", **execution):
    trainer = Trainer(
        config,
        out,
        device=tiny.CPU,
        observer=observer or tiny.Watcher(),
        execution=Execution(**execution),
        loader=loader,
    )
    trainer.run()
    return trainer


def stored(trainer):
    return json.loads((trainer.directory.path / "config.json").read_text())


@pytest.fixture
def config(monkeypatch):
    """λ comes on in the second epoch: a recording more."""
    tiny.install(monkeypatch)
    return tiny.config(epochs=2, data=AUGMENTED, attack={"random_start": True, "steps": 2})


@pytest.mark.parametrize("loader", ["resident", "torch"])
def test_a_run_by_tape_is_the_eager_run(tmp_path, config, loader):
    eager = run(tmp_path / "eager", config, engine="eager")
    tape = run(tmp_path / "tape", config, engine="tape", loader=loader)
    assert tiny.same_weights(eager.model.state_dict(), tape.model.state_dict())
    assert tiny.without_clocks(eager.rows) == tiny.without_clocks(tape.rows)
    assert stored(tape)["execution"]["engine"] == "tape"


def test_a_run_goes_on_with_another_engine(tmp_path, config):
    def stop(row):
        raise KeyboardInterrupt

    whole = run(tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", config, observer=tiny.Watcher(on_epoch=stop), engine="tape")
    resumed = tiny.trainer(config, tmp_path / "run", resume=True)
    resumed.run()
    assert tiny.same_weights(whole.model.state_dict(), resumed.model.state_dict())


@pytest.mark.parametrize("execution", [{"clean_graph": "recompute"}, {"checkpoint_blocks": True}])
def test_less_memory_is_the_same_training(tmp_path, config, execution):
    usual, thrifty = run(tmp_path / "usual", config), run(tmp_path / "thrifty", config, **execution)
    assert tiny.same_weights(usual.model.state_dict(), thrifty.model.state_dict())
    assert thrifty.model.checkpoint_blocks == execution.get("checkpoint_blocks", False)
    assert (
        stored(thrifty)["execution"]
        == {
            "engine": "eager",
            "clean_graph": "auto",
            "overlap": False,
            "checkpoint_blocks": False,
            "threads": None,
        }
        | execution
    )


def test_a_step_that_cannot_keep_two_graphs_says_so_and_goes_on(tmp_path, config, monkeypatch):
    honest, failed = Algorithm1._step, []

    def step(self, *arguments):
        if self.settings.needs_clean and not self.recompute_clean:
            failed.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return honest(self, *arguments)

    monkeypatch.setattr(Algorithm1, "_step", step)
    watcher = tiny.Watcher()
    run(tmp_path / "run", config, observer=watcher)
    assert len(failed) == 1
    assert watcher.said == ["clean_graph=auto takes recompute: two graphs do not fit into memory at once"]


def test_what_is_approximate_is_called_so(tmp_path, config):
    assert stored(run(tmp_path / "exact", config))["approximations"] == []
    config = replace(config, awp=replace(config.awp, gradient="previous-step"))
    assert stored(run(tmp_path / "run", config))["approximations"] == ["awp-gradient previous-step"]


def test_each_epoch_tells_the_peak_of_memory(tmp_path, config):
    peaks = [row["peak_memory_bytes"] for row in run(tmp_path / "run", config).rows]
    assert peaks == sorted(peaks)
    assert 10**7 < peaks[0] < 10**11


@pytest.mark.parametrize("engine", ["graph", "compiled"])
def test_an_engine_that_is_not_for_this_device_or_unknown(tmp_path, config, engine):
    with pytest.raises(
        UserError, match=r"engine=graph: it records on a cuda device|engine=compiled: is one of auto, eager"
    ):
        run(tmp_path / "run", config, engine=engine)
    assert not (tmp_path / "run").exists()


def test_the_names_are_those_of_the_engine():
    hints = get_type_hints(Execution)
    assert get_args(hints["engine"]) == ENGINES
    assert get_args(hints["clean_graph"]) == CLEAN_GRAPHS
