"""Several ranks are refused, by the commands and by the step, until there are some that share their gradients."""

import pytest
import torch
import torch.distributed
from torch import nn

from fastiseat import TrainStep
from fastiseat.__main__ import COMMANDS, main
from fastiseat.errors import UserError

# What a command needs to come as far as its work, and the commands that do none that ranks would share.
WORK = {"train": [], "eval": ["digits-iseat"], "bench": ["all"]}
NO_WORK = {"data", "export", "list", "doctor", "completion"}


def test_every_command_is_of_one_kind():
    assert set(COMMANDS) - NO_WORK == set(WORK)


@pytest.mark.parametrize("command", WORK)
def test_a_command_under_torchrun_is_refused_in_one_line(monkeypatch, capsys, tmp_path, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert main([command, *WORK[command]]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(
        f"fastiseat: error: WORLD_SIZE=4: fastiseat {command} runs on one device, not over ranks; "
    )
    assert "without torchrun" in err and "--device cuda:N or CUDA_VISIBLE_DEVICES" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", ["1", "", "many"])
def test_one_process_is_none_of_several(monkeypatch, capsys, size):
    monkeypatch.setenv("WORLD_SIZE", size)
    assert main(["train", "--method", "none", "--device", "gpu"]) == 2
    assert "device 'gpu'" in capsys.readouterr().err


def test_a_dry_run_refuses_what_the_run_would(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", "--method", "none", "--dry-run"]) == 2


@pytest.fixture
def group_of(monkeypatch):
    """Pretend a process group of that size."""

    def pretend(size):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: size)

    return pretend


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


def test_a_step_in_a_process_group_is_refused(group_of):
    group_of(2)
    with pytest.raises(UserError, match=r"world size of 2: a step does not average its gradient over ranks"):
        TrainStep(linear())


def test_a_process_group_that_comes_later_is_noticed(group_of):
    model = linear()
    step, batch = TrainStep(model), (torch.rand(2, 1, 2, 2), torch.tensor([0, 1]))
    step(*batch)
    before = model[1].weight.clone()
    group_of(2)
    with pytest.raises(UserError, match="world size of 2"):
        step(*batch)
    assert model[1].weight.equal(before)


def test_a_group_of_one_trains(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        TrainStep(linear())(torch.rand(2, 1, 2, 2), torch.tensor([0, 1]))
    finally:
        torch.distributed.destroy_process_group()
