"""Every number of the paper's settings, against its tables written out here; and each method's share of them."""

from __future__ import annotations

import pytest

from fastiseat import UserError
from fastiseat.recipes import METHODS, check, recipe
from fastiseat.schedule import scalars_at

# data set: (network, λ, γ) as in the paper's section 6 and its released code
SETTINGS = {
    "cifar10": ("wrn-34-10", 0.1, 0.007),
    "cifar100": ("prn18", 0.1, 0.005),
    "svhn": ("prn18", 0.1, 0.009),
    "tinyimagenet": ("prn18", 0.01, 0.005),
}
# method: (has λ, has γ)
PARTS = {"none": (0, 0), "at": (0, 0), "at-awp": (0, 1), "lsi": (1, 0), "iseat": (1, 1)}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dataset", SETTINGS)
def test_the_numbers_of_section_6(dataset: str, method: str) -> None:
    arch, lam, gamma = SETTINGS[dataset]
    has_lam, has_gamma = PARTS[method]
    config = recipe(dataset, method)
    svhn = dataset == "svhn"
    assert (config.data.dataset, config.objective.method) == (dataset, method)
    assert (config.network.arch, config.network.variant, config.network.init) == (arch, "released", None)
    assert (config.objective.lam, config.awp.gamma) == (has_lam * lam, has_gamma * gamma)
    assert config.awp.norm == "tensor"
    assert (config.data.batch_size, config.schedule.epochs, config.data.val_split) == (128, 200, 0.0)
    assert (config.data.flip, config.data.crop_padding) == ((False, 0) if svhn else (True, 4))
    assert config.data.padding_mode == "zero"
    assert config.attack.eps == 8 / 255
    assert config.attack.step_size == (1 if svhn else 2) / 255
    assert (config.attack.steps, config.attack.random_start, config.attack.bn_mode) == (10, False, "train")
    optimizer = config.optimizer
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (0.01 if svhn else 0.1, 0.9, 5e-4)
    assert (config.schedule.lr_drops, config.schedule.lr_factor) == ((0.5, 0.75), 0.1)
    assert check(config) is config


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "tinyimagenet"])
def test_stability_comes_with_the_first_drop(dataset: str) -> None:
    _, lam, gamma = SETTINGS[dataset]
    plan = [scalars_at(recipe(dataset), epoch) for epoch in range(200)]
    assert [s.lam for s in plan] == [0.0] * 100 + [lam] * 100
    assert [s.gamma for s in plan] == [gamma] * 200
    assert [s.lr for s in plan] == pytest.approx([0.1] * 100 + [0.01] * 50 + [0.001] * 50)
    assert {s.eps for s in plan} == {8 / 255}


def test_svhn_starts_warm_and_has_stability_from_then_on() -> None:
    plan = [scalars_at(recipe("svhn"), epoch) for epoch in range(200)]
    assert [s.eps for s in plan[:6]] == pytest.approx([8 / 255 * e / 5 for e in range(6)])
    assert [s.step_size for s in plan[:6]] == pytest.approx([1 / 255 * e / 5 for e in range(6)])
    assert [(s.lam, s.gamma) for s in plan] == [(0.0, 0.0)] * 5 + [(0.1, 0.009)] * 195
    assert [s.lr for s in plan] == pytest.approx([0.01] * 100 + [0.001] * 50 + [0.0001] * 50)


@pytest.mark.parametrize("dataset", ["imagefolder:/some/where", "npz:a.npz"])
def test_own_data_has_a_recipe_of_its_own_name(dataset: str) -> None:
    config = recipe(dataset)
    assert config.data.dataset == dataset
    assert (config.network.arch, config.data.flip) == ("prn18", True)


@pytest.mark.parametrize("dataset", ["imagefolder", "npz:", "cifar10:/data"])
def test_a_path_where_none_belongs_and_none_where_one_does(dataset: str) -> None:
    with pytest.raises(UserError, match="own data is named imagefolder:PATH or npz:PATH"):
        recipe(dataset)
