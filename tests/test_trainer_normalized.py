"""A run that starts from a network with a normalisation of its own trains, stores and evaluates that network."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import save_file

from fastiseat.config import Execution
from fastiseat.models import export_state_dict, load_model, metadata
from fastiseat.models.normalization import Normalization, Normalize
from fastiseat.trainer import Trainer


@pytest.fixture
def config(monkeypatch, tmp_path):
    """Fine-tunes the shipped network with (x - 0.3) / 0.4 before it."""
    tiny.install(monkeypatch)
    model = load_model("digits-iseat")
    model.normalize = Normalize(Normalization((0.3,), (0.4,))).float()
    save_file(export_state_dict(model), tmp_path / "w.safetensors", metadata=metadata(model.spec))
    base = tiny.config(epochs=2, attack={"steps": 2}, run={"final_steps": 0})
    return replace(base, network=replace(base.network, init=tmp_path / "w.safetensors"))


def run(out, config, *, engine="eager"):
    trainer = Trainer(
        config, out, device=tiny.CPU, observer=tiny.Watcher(), execution=Execution(engine=engine), loader="auto"
    )
    trainer.run()
    return trainer


def test_it_keeps_the_normalisation(tmp_path, config):
    trainer = run(tmp_path / "run", config)
    model = load_model(tmp_path / "run" / "weights" / "last.safetensors")
    assert tiny.same_weights(model.state_dict(), trainer.model.state_dict())
    assert model.normalize.mean.item() == pytest.approx(0.3)
    assert model.normalize.std.item() == pytest.approx(0.4)


def test_a_recording_computes_the_same(tmp_path, config):
    eager, tape = (run(tmp_path / engine, config, engine=engine) for engine in ("eager", "tape"))
    assert tiny.same_weights(eager.model.state_dict(), tape.model.state_dict())
    assert tiny.without_clocks(eager.rows) == tiny.without_clocks(tape.rows)


def test_it_resumes(tmp_path, config):
    whole = run(tmp_path / "whole", config)

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny.trainer(config, tmp_path / "parts", observer=tiny.Watcher(on_epoch=stop)).run()
    parts = tiny.trainer(config, tmp_path / "parts", resume=True)
    parts.run()
    assert tiny.same_weights(whole.model.state_dict(), parts.model.state_dict())


def test_amp(tmp_path, config):
    config = replace(config, run=replace(config.run, amp=True, amp_dtype="bf16"))
    assert all(tensor.isfinite().all() for tensor in run(tmp_path / "run", config).model.state_dict().values())


def test_a_run_starts_from_shipped_weights(tmp_path, config):
    config = replace(config, network=replace(config.network, init=Path("digits-iseat")))
    trainer = tiny.trainer(config, tmp_path / "run")
    assert torch.equal(trainer.model.conv1.weight.detach(), load_model("digits-iseat").conv1.weight)
