"""Every setting is checked at its field, and the message names the value, the rule and the remedy."""

from dataclasses import FrozenInstanceError, fields, is_dataclass
from math import inf, nan

import pytest
import tyro

from fastiseat.config import AWP, PGD, SGD, Config, Data, Network, NoPixelsError, Objective, Pixels, Run, Schedule
from fastiseat.errors import UserError

GROUPS = (Data, Network, Objective, PGD, AWP, SGD, Schedule, Run)
FIELDS = [(group, field.name, type(field.default)) for group in GROUPS for field in fields(group)]
FLOATS = [(group, name) for group, name, kind in FIELDS if kind is float]
NUMBERS = [(group, name) for group, name, kind in FIELDS if kind in (float, int)]


@pytest.mark.parametrize(
    ("group", "setting", "rule"),
    [
        (Data, {"batch_size": 0}, "batch_size=0: must be at least 1"),
        (Data, {"val_split": 1.0}, "val_split=1.0: must lie in 0 … 1, 1 excluded"),
        (Network, {"variant": "relased"}, "variant=relased: is one of released, common, released-no-bn"),
        (Network, {"arch": "wrn-35-10"}, r"depth 6n \+ 4"),
        (Network, {"arch": "resnet"}, "unknown network 'resnet'"),
        (Objective, {"lam": -0.1}, "lam=-0.1: must be at least 0"),
        (Objective, {"beta": -0.1}, "beta=-0.1: must be at least 0"),
        (Objective, {"beta": nan}, "beta=nan"),
        (Objective, {"weighting": "tenth"}, "weighting=tenth: is one of linear, uniform, top"),
        (Objective, {"distance": "l1"}, "distance=l1: is one of l2, kl"),
        (Objective, {"smoothness": "awp"}, "smoothness=awp: is one of lsiw, trades-awp, lsi"),
        (PGD, {"noise": 1.5}, "noise=1.5: is beyond the pixel values"),
        (
            PGD,
            {"noise": 0.001, "random_start": True},
            "noise=0.001: excludes random_start: one start or the other",
        ),
        (PGD, {"eps": -0.1}, r"eps=-0.1: must be at least 0 \(the radius of the perturbation, in pixel values"),
        (PGD, {"eps": 8}, "eps=8: is beyond the pixel values, 0 … 1; 8 of 255 levels are written 8/255"),
        (PGD, {"step_size": 2}, "step_size=2: is beyond the pixel values"),
        (PGD, {"steps": 0}, "steps=0: must be at least 1"),
        (PGD, {"bn_mode": "both"}, "bn_mode=both: is one of train, eval"),
        (AWP, {"gamma": -1e-9}, "gamma=-1e-09: must be at least 0"),
        (AWP, {"norm": "layer"}, "norm=layer: is one of tensor, global"),
        (SGD, {"implementation": "appex"}, "implementation=appex: is one of own, apex"),
        (
            SGD,
            {"nesterov": True, "momentum": 0.0},
            "nesterov=True: looks ahead along the momentum, which is 0: give",
        ),
        (SGD, {"lr": -1.0}, "lr=-1.0: must be at least 0"),
        (SGD, {"momentum": 1.0}, "momentum=1.0: must lie in 0 … 1, 1 excluded"),
        (SGD, {"weight_decay": -1.0}, "weight_decay=-1.0: must be at least 0"),
        (Schedule, {"epochs": 0}, "epochs=0: must be at least 1"),
        (Schedule, {"lr_factor": 0.0}, "lr_factor=0.0: must lie in 0 … 1, 0 excluded"),
        (Schedule, {"lr_factor": 1.1}, "lr_factor=1.1: must lie in 0 … 1, 0 excluded"),
        (Schedule, {"lr_drops": (0.5, 1.5)}, "lr_drops=1.5: is a fraction of the run"),
        (Schedule, {"lr_drops": (100,)}, "lr_drops=100: is a fraction of the run and must lie in 0 … 1"),
        (Schedule, {"lr_shape": "onecicle"}, "lr_shape=onecicle: is one of steps, cosine, onecycle"),
        (
            Schedule,
            {"momentum_cycle": (0.9, 1.0)},
            "momentum_cycle=1.0: must lie in 0 … 1, both excluded; None turns",
        ),
        (Schedule, {"momentum_cycle": (0.0, 0.8)}, "momentum_cycle=0.0: must lie in 0 … 1, both excluded"),
        (Objective, {"reverse_from": 1.5}, "reverse_from=1.5: is a fraction of the run"),
        (Schedule, {"lr_warmup": 1.1}, "lr_warmup=1.1: is a fraction"),
        (Schedule, {"lr_stages": (0.1, 0.0)}, "lr_stages=0.0: must lie in 0 … 1, 0 excluded"),
        (Schedule, {"lr_stages": (0.1, nan)}, "lr_stages=nan: must lie in 0 … 1, 0 excluded"),
        (
            Schedule,
            {"lr_stages": (0.1,)},
            "lr_stages=0.1: one factor for each of lr_drops is needed, 2; give as many",
        ),
        (
            Schedule,
            {"lr_drops": (), "lr_stages": (0.5, 0.1)},
            "lr_stages=0.5 0.1: .* is needed, 0; .* or none for",
        ),
        (
            Schedule,
            {"lr_drops": (0.7, 0.6), "lr_stages": (0.1, 0.2)},
            "lr_drops=0.7 0.6: with lr_stages they must ascend",
        ),
        (Schedule, {"lam_from": 1.1}, "lam_from=1.1: is a fraction"),
        (Schedule, {"awp_from": -0.1}, "awp_from=-0.1: is a fraction"),
        (Schedule, {"warmup": 5}, "warmup=5: is a fraction"),
        (Run, {"seed": -1}, r"seed=-1: must lie in 0 … 2\*\*63 - 1"),
        (Run, {"seed": 2**63}, "must lie in 0"),
        (Run, {"final_steps": -1}, "final_steps=-1: must be at least 0"),
    ],
)
def test_a_wrong_value_is_named_with_its_rule(group, setting, rule):
    with pytest.raises(UserError, match=rule):
        group(**setting)


@pytest.mark.parametrize("value", [nan, inf, -inf])
@pytest.mark.parametrize(("group", "name"), FLOATS)
def test_no_setting_takes_what_is_not_finite(group, name, value):
    with pytest.raises(UserError, match=f"{name}={value}"):
        group(**{name: value})


@pytest.mark.parametrize(("group", "name"), NUMBERS)
def test_no_setting_is_negative(group, name):
    with pytest.raises(UserError, match=f"{name}=-1"):
        group(**{name: -1})


@pytest.mark.parametrize("value", [nan, inf])
def test_nor_is_a_drop_of_the_learning_rate(value):
    with pytest.raises(UserError, match="lr_drops"):
        Schedule(lr_drops=(0.5, value))


@pytest.mark.parametrize(
    "group",
    [
        PGD(eps=0, step_size=0, steps=1),
        PGD(eps=1, step_size=1),
        SGD(lr=0, momentum=0, weight_decay=0),
        Schedule(epochs=1, lr_drops=(), lr_factor=1, lam_from=0, awp_from=1, warmup=1),
        Schedule(lr_drops=(0.75, 0.5, 0.5)),
        Schedule(lr_drops=(0.5, 0.5), lr_stages=(0.1, 1.0)),
        Schedule(lr_shape="onecycle", lr_warmup=1.0),
        Data(batch_size=1, val_split=0),
        Run(seed=2**63 - 1, final_steps=0),
        Run(amp=True, amp_dtype="fp16"),
        Objective(lam=0),
        AWP(gamma=0, norm="global"),
    ],
)
def test_the_ends_of_each_range_are_allowed(group):
    assert is_dataclass(group)


def test_a_dtype_for_half_precision_needs_half_precision():
    with pytest.raises(UserError, match=r"amp_dtype=bf16: .*add --amp, or leave it out"):
        Run(amp_dtype="bf16")
    with pytest.raises(UserError, match="amp_dtype=fp8: is one of bf16, fp16"):
        Run(amp=True, amp_dtype="fp8")


def test_a_network_has_one_spelling():
    assert Network(arch="WRN34_10") == Network(arch="wrn-34-10")


def test_settings_are_frozen_and_named():
    with pytest.raises(FrozenInstanceError):
        Config().attack.eps = 0
    with pytest.raises(TypeError):
        PGD(8 / 255)


def test_the_defaults_are_the_papers_for_cifar10():
    config = Config()
    assert (config.data.batch_size, config.schedule.epochs, config.schedule.lr_drops) == (128, 200, (0.5, 0.75))
    assert (config.attack.eps, config.attack.step_size, config.attack.steps) == (8 / 255, 2 / 255, 10)
    assert (config.objective.lam, config.awp.gamma, config.schedule.lam_from) == (0.1, 0.007, 0.5)
    assert config.optimizer == SGD(lr=0.1, momentum=0.9, weight_decay=5e-4)
    assert not config.attack.random_start


@pytest.mark.parametrize(
    ("words", "value"),
    [("8/255", 8 / 255), ("0.031", 0.031), ("1", 1.0), (" 8 / 255 ", 8 / 255), ("5e-1/2", 0.25), ("0/255", 0.0)],
)
def test_a_length_in_pixel_values_is_a_number_or_a_fraction(words, value):
    assert tyro.cli(Pixels, args=[words]) == value


@pytest.mark.parametrize("words", ["1/0", "8/", "/255", "8/255/2", "", "a lot", "8:255", "0x8"])
def test_what_is_neither_is_a_usage_error(words):
    with pytest.raises(NoPixelsError, match="is no length in pixel values"):
        tyro.cli(Pixels, args=[words])
