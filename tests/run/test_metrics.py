"""An epoch's statistics against numpy, and the guard against runs that diverge."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fastiseat.errors import UserError
from fastiseat.run.metrics import (
    DivergedError,
    EpochMeter,
    caveats,
    require_finite,
    require_finite_network,
    require_life,
    vulnerability_statistics,
)


def by_hand(av):
    ordered, tenth = sorted(av), max(1, round(len(av) / 10))
    return {
        "mean": np.mean(av),
        "sd": np.sqrt(np.mean((av - np.mean(av)) ** 2)),
        "top10": np.mean(ordered[-tenth:]),
        "bottom10": np.mean(ordered[:tenth]),
        "ge1": sum(value >= 1 for value in av) / len(av),
        "le0": sum(value <= 0 for value in av) / len(av),
    }


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=200))
def test_vulnerability_statistics_by_hand(values):
    av = np.array(values)
    assert vulnerability_statistics(torch.from_numpy(av)) == pytest.approx(by_hand(av), abs=1e-9)


def test_vulnerability_statistics_of_twenty_known_samples():
    av = torch.tensor([-1.0, 0.0, *[0.5] * 15, 1.0, 2.0, 4.0])[torch.randperm(20)]
    found = vulnerability_statistics(av)
    assert found["top10"] == 3.0
    assert found["bottom10"] == -0.5
    assert (found["ge1"], found["le0"]) == (pytest.approx(3 / 20), pytest.approx(2 / 20))
    assert found["mean"] == pytest.approx(13.5 / 20)


@pytest.mark.parametrize("value", [-1.0, 0.0, 2.5])
def test_a_single_sample_has_no_spread(value):
    found = vulnerability_statistics(torch.tensor([value]))
    assert found == {
        "mean": value,
        "sd": 0,
        "top10": value,
        "bottom10": value,
        "ge1": float(value >= 1),
        "le0": float(value <= 0),
    }


def test_shares_are_exact():
    """In float32, 3/7 is another number."""
    assert vulnerability_statistics(torch.tensor([1.0] * 3 + [0.0] * 4))["ge1"] == 3 / 7


def test_the_statistics_leave_their_input_alone():
    av = torch.tensor([3.0, 1.0, 2.0])
    vulnerability_statistics(av)
    assert av.tolist() == [3.0, 1.0, 2.0]


def test_the_meter_averages_steps_and_pools_the_vulnerability_of_all():
    meter = EpochMeter()
    for loss, av in ((1.0, [0.0, 1.0]), (2.0, [2.0, 3.0]), (6.0, [4.0, 5.0])):
        meter.add({"loss": torch.tensor(loss), "av": torch.tensor(av)})
    row = meter.row()
    assert row["train_loss"] == 3.0
    assert row["av_step_mean"] == 2.5
    assert row["av_step_sd"] == pytest.approx(np.std(range(6)))
    assert row.pop("train_loss_parts") == [1.0, 2.0, 6.0]
    statistics = {f"av_step_{name}" for name in by_hand(np.zeros(1))}
    assert all(type(row[name]) is float for name in {"train_loss", *statistics})
    assert set(row) == {"train_loss", *statistics, "train_accuracy_clean", "train_loss_clean"}


def test_what_takes_clean_logits_is_null_without_them_and_said_to_be():
    meter = EpochMeter()
    meter.add({"loss": torch.tensor(1.0)})
    row = meter.row()
    nulls = {f"av_step_{name}" for name in by_hand(np.zeros(1))} | {"train_accuracy_clean", "train_loss_clean"}
    assert {name for name, value in row.items() if value is None} == nulls
    assert set(row) == {"train_loss", "train_loss_parts", *nulls}
    for from_start in (False, True):
        (said,) = caveats(row, from_start=from_start)
        assert all(name in said for name in nulls)


def test_a_row_with_all_of_it_needs_no_caveat_but_that_of_a_random_start():
    meter, one = EpochMeter(), torch.tensor(1.0)
    meter.add({"loss": one, "loss_clean": one, "accuracy_clean": one, "av": torch.ones(3)})
    assert caveats(meter.row(), from_start=False) == []
    (said,) = caveats(meter.row(), from_start=True)
    assert "av_step: of x + the attack's random start" in said


def test_the_meter_keeps_no_graph_and_reads_nothing_early():
    meter = EpochMeter()
    kept = torch.tensor(1.0)
    meter.add({"loss": kept})
    kept.fill_(5.0)  # a tensor that was read when it was added would still count as 1
    assert meter.row()["train_loss"] == 5.0


@pytest.mark.parametrize(("steps", "parts"), [(1, 1), (20, 20), (21, 11), (40, 20), (1000, 20)])
def test_an_epochs_curve_has_twenty_points_at_most_in_order(steps, parts):
    meter = EpochMeter()
    for step in range(steps):
        meter.add({"loss": torch.tensor(float(step))})
    curve = meter.row()["train_loss_parts"]
    assert len(curve) == parts
    assert curve == sorted(curve)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_no_number_stops_the_run(value):
    with pytest.raises(UserError, match=f"the loss is {value} in epoch 3, step 1: training diverged; lower --lr"):
        require_finite(torch.tensor(value), epoch=2, step=0)


def test_an_ordinary_loss_passes():
    require_finite(torch.tensor(1e30), epoch=0, step=0)
    require_finite(torch.tensor(1e30), torch.tensor(False), epoch=0, step=0)


def test_so_does_an_attack_that_met_nan():
    found = torch.tensor(True)
    with pytest.raises(DivergedError, match="a gradient that is NaN in epoch 3, by step 7: training diverged"):
        require_finite(torch.tensor(1.0), found, epoch=2, step=6)
    with pytest.raises(DivergedError, match="the loss is nan"):
        require_finite(torch.tensor(torch.nan), found, epoch=2, step=6)
    model = nn.Linear(1, 1)
    require_finite_network(model, ~found, epoch=0)
    with pytest.raises(DivergedError, match="a gradient that is NaN in epoch 1: training diverged"):
        require_finite_network(model, found, epoch=0)


def test_the_meter_remembers_one_nan_among_many_steps_and_puts_it_in_no_row():
    meter = EpochMeter()
    assert meter.nan_gradient is None
    for found in (False, True, False):
        meter.add({"loss": torch.tensor(1.0), "nan_gradient": torch.tensor(found)})
    assert meter.nan_gradient
    assert not {name for name in meter.row() if "nan" in name}
    assert set(meter.state_dict()) == {"loss"}


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_so_does_a_network_with_such_a_number(name, value):
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    require_finite_network(model, epoch=0)
    with torch.no_grad():
        getattr(model[1], name)[1] = value
    with pytest.raises(UserError, match="not finite after epoch 1: training diverged"):
        require_finite_network(model, epoch=0)


@pytest.mark.parametrize(
    ("largest_share", "advice"),
    [
        (0.3, "predicts one class for everything; lower --lr or lengthen --warmup, then start anew; the last"),
        (
            0.9,
            "90.00% of the images that it is validated on are of one class: give the others more images, or lower",
        ),
    ],
)
def test_the_advice_is_of_what_can_be_mended(largest_share, advice):
    rows = [{"val_clean": largest_share, "val_pgd10": largest_share}] * 3
    with pytest.raises(UserError, match=advice):
        require_life(rows, "val", largest_share=largest_share, chance=0.1)
    require_life(
        [*rows[1:], {"val_clean": 0.95, "val_pgd10": 0.9}], "val", largest_share=largest_share, chance=0.1
    )
