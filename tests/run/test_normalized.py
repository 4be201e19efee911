"""A run that starts from a network with a normalisation of its own trains, stores and evaluates that network."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import save_file

from fastiseat import UserError
from fastiseat.config import Execution, Network
from fastiseat.models import export_state_dict, load_model, metadata
from fastiseat.models.normalization import Normalization, Normalize
from fastiseat.run.trainer import Trainer


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


def test_a_run_normalises_as_its_settings_say(tmp_path, config):
    """From the first weights on, one number for all colour planes; the attack stays in pixel values."""
    network = replace(config.network, init=None, mean=(0.3,), std=(0.4,))
    trainer = run(tmp_path / "run", replace(config, network=network))
    assert trainer.step.attack.eps == config.attack.eps
    best, plain = load_model(tmp_path / "run" / "weights" / "best.safetensors"), load_model("digits-iseat")
    assert best.normalize.mean.item() == pytest.approx(0.3)
    assert plain.normalize is None
    images = torch.rand(4, 1, 8, 8)
    raw = load_model(tmp_path / "run" / "weights" / "best.safetensors")
    raw.normalize = None
    assert torch.allclose(best(images), raw((images - 0.3) / 0.4), atol=1e-5)


def test_numbers_that_contradict_the_file_are_refused(tmp_path, config):
    other = replace(config, network=replace(config.network, mean=(0.5,), std=(0.5,)))
    with pytest.raises(UserError, match=r"holds mean=\(0.3\), std=\(0.4\), which mean=\(0.5\).* contradicts"):
        tiny.trainer(other, tmp_path / "run")
    without = replace(other, network=replace(other.network, init=Path("digits-iseat")))
    with pytest.raises(UserError, match=r"holds mean=\(0\), std=\(1\), which .* contradicts"):
        tiny.trainer(without, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("given", "message"), [("mean", "mean=0.5: says no"), ("std", "std=0.5: says no")])
def test_one_number_alone_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        Network(**{given: (0.5,)})


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
