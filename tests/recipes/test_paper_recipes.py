"""Every number of the paper's settings, against its tables written out here; and each method's share of them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from fastiseat import UserError
from fastiseat.methods import from_config
from fastiseat.recipes import METHODS, check, recipe, recipe_of
from fastiseat.schedule import moving, progress, scalars_at, scalars_of_step

# data set: (network, λ, γ) as in the paper's section 6 and its released code
SETTINGS = {
    "cifar10": ("wrn-34-10", 0.1, 0.007),
    "cifar100": ("prn18", 0.1, 0.005),
    "svhn": ("prn18", 0.1, 0.009),
    "tinyimagenet": ("prn18", 0.01, 0.005),
}
# method: (has λ, has γ)
PARTS = {"none": (0, 0), "at": (0, 0), "at-awp": (0, 1), "lsi": (1, 0), "iseat": (1, 1)}


@pytest.mark.parametrize("method", PARTS)
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


# Of other papers, on CIFAR-10: network, ε, α and their unit, epochs, lr, weight decay, β, γ, the epochs of the drops
# from 0.
OTHERS = {
    "at-rice": ("prn18", 8, 2, 255, 200, 0.1, 5e-4, None, 0.0, (100, 150)),
    "awp-wu": ("prn18", 8, 2, 255, 200, 0.1, 5e-4, None, 0.01, (100, 150)),
    "trades": ("wrn-34-10", 31, 7, 1000, 76, 0.1, 2e-4, None, 0.0, (74,)),
    "trades-awp": ("wrn-34-10", 8, 2, 255, 200, 0.1, 5e-4, None, 0.005, (99, 149)),
    "mart": ("wrn-34-10", 31, 7, 1000, 90, 0.1, 7e-4, 6.0, 0.0, (74, 89)),
    "mart-awp": ("wrn-34-10", 31, 7, 1000, 90, 0.1, 7e-4, 6.0, 0.005, (74, 89)),
    "slore-mart": ("wrn-34-10", 31, 7, 1000, 90, 0.1, 7e-4, 6.0, 0.0, (74, 89)),
}
# Attacked in eval mode from a start that is normally distributed.
NOISY = ("trades", "trades-awp", "mart", "mart-awp", "slore-mart")
REFLECTED = ("at-rice", "awp-wu")


@pytest.mark.parametrize("method", OTHERS)
def test_the_numbers_of_other_papers_on_cifar10(method: str) -> None:
    arch, eps, step_size, unit, epochs, lr, decay, beta, gamma, drops = OTHERS[method]
    config = recipe("cifar10", method)
    attack, optimizer, plan = config.attack, config.optimizer, config.schedule
    assert check(config) is config
    assert (config.network.arch, config.data.batch_size, plan.epochs) == (arch, 128, epochs)
    assert (attack.eps, attack.step_size, attack.steps) == pytest.approx((eps / unit, step_size / unit, 10))
    assert (attack.bn_mode, attack.noise) == (("eval", 0.001) if method in NOISY else ("train", 0.0))
    assert (attack.random_start, plan.lr_per_step) == ((True, True) if method in REFLECTED else (False, False))
    assert config.data.padding_mode == ("reflect" if method in REFLECTED else "zero")
    assert (optimizer.lr, optimizer.momentum, optimizer.nesterov) == (lr, 0.9, False)
    assert (optimizer.weight_decay, config.objective.beta, config.objective.lam) == (decay, beta, 0.0)
    assert (config.awp.gamma, config.awp.norm, config.awp.gradient) == (gamma, "tensor", "exact")
    limits = [0, *drops, epochs]
    stages = [0.1**n for n, (a, b) in enumerate(pairwise(limits)) for _ in range(b - a)]
    rates = [scalars_of_step(config, epoch, 0, 391).lr for epoch in range(epochs)]
    assert rates == pytest.approx([lr * stage for stage in stages])


# By data set: what Rice et al.'s and Wu et al.'s codes subtract and divide by.
NORMALIZED = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar100": (
        (0.5070751592371323, 0.48654887331495095, 0.4409178433670343),
        (0.2673342858792401, 0.2564384629170883, 0.27615047132568404),
    ),
    "svhn": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


@pytest.mark.parametrize("arch", [None, "prn18", "wrn-28-10"])
@pytest.mark.parametrize("dataset", SETTINGS)
@pytest.mark.parametrize("method", METHODS)
def test_each_paper_has_its_own_network(dataset: str, method: str, arch: str | None) -> None:
    """The ISEAT authors' own, or the common ones, whose Wide ResNets begin as He et al. draw them."""
    network = recipe(dataset, method, arch).network
    assert arch in (None, network.arch)
    ours = method in PARTS
    wide = network.arch.startswith("wrn")
    stride = "-stride-2" if dataset == "tinyimagenet" else ""
    common = f"consistency{stride}" if method == "consistency" and not wide else "common"
    assert network.variant == ("released" if ours else common)
    assert network.initialization == ("he" if wide and not ours else "torch")
    normalized = NORMALIZED.get(dataset, ((), ())) if method in REFLECTED else ((), ())
    assert (network.mean, network.std) == normalized


@pytest.mark.parametrize(
    ("method", "arch"), [("at-rice", "prn18"), ("consistency", "prn18"), ("hat", "prn18"), ("rst", "wrn-28-10")]
)
def test_the_networks_of_other_papers_on_cifar10(method: str, arch: str) -> None:
    assert recipe("cifar10", method).network.arch == arch
    assert recipe("cifar10", method, "wrn-16-4").network.arch == "wrn-16-4"  # what is asked for outranks it


@pytest.mark.parametrize("method", METHODS)
def test_with_extra_images_all_train_the_same_network(method: str) -> None:
    assert recipe("cifar10", method, extra=Path("x.npz")).network.arch == "wrn-28-10"
    assert recipe("cifar10", method, "prn18", extra=Path("x.npz")).network.arch == "prn18"
    assert recipe("svhn", method, extra=Path("x.npz")).network.arch == "prn18"


# (data set, augmentation, extra images): λ, γ, epochs of ISEAT and of AT.
VARIED = {
    ("cifar10", "standard", False): (0.1, 0.007, 200, 200),
    ("cifar10", "idbh-cifar10-weak", False): (0.1, 0.005, 400, 200),
    ("cifar10", "idbh-cifar10-strong", False): (0.1, 0.005, 400, 200),
    ("cifar10", "standard", True): (0.01, 0.005, 200, 200),
    ("cifar10", "idbh-cifar10-strong", True): (0.01, 0.005, 400, 200),
    ("imagefolder:x", "idbh-cifar10-strong", False): (0.1, 0.005, 400, 200),
    ("npz:x", "standard", True): (0.01, 0.005, 200, 200),
    ("svhn", "idbh-svhn", False): (0.1, 0.009, 200, 200),
    ("cifar100", "standard", True): (0.1, 0.005, 200, 200),
    ("digits", "standard", True): (0.1, 0.007, 20, 20),
}


@pytest.mark.parametrize(("dataset", "augment", "with_extra"), VARIED)
def test_augmentation_and_extra_images_choose_the_numbers(dataset: str, augment: str, with_extra: bool) -> None:
    lam, gamma, epochs, epochs_of_at = VARIED[dataset, augment, with_extra]
    file = Path("x.npz") if with_extra else None
    config, at = (recipe(dataset, method, augment=augment, extra=file) for method in ("iseat", "at"))
    assert (config.objective.lam, config.awp.gamma, config.schedule.epochs) == (lam, gamma, epochs)
    assert (at.objective.lam, at.awp.gamma, at.schedule.epochs) == (0, 0, epochs_of_at)
    assert (config.data.augment, config.data.extra) == (augment, file)
    assert recipe_of(config) == config
    assert check(config) is config


@pytest.mark.parametrize("method", REFLECTED)
def test_rices_learning_rate_drops_one_step_before_its_epoch(method: str) -> None:
    config = recipe("cifar10", method)
    assert moving(config.schedule) == ("lr",)
    rates = [scalars_of_step(config, epoch, step, 391).lr for epoch, step in ((99, 389), (99, 390), (149, 390))]
    assert rates == pytest.approx([0.1, 0.01, 0.001])


@pytest.mark.parametrize("dataset", SETTINGS)
def test_trades_awp_perturbs_weights_from_the_10th_epoch_on(dataset: str) -> None:
    plan = [scalars_at(recipe(dataset, "trades-awp"), epoch) for epoch in range(200)]
    assert [s.gamma for s in plan] == [0.0] * 9 + [0.005] * 191


@pytest.mark.parametrize(
    ("arch", "last"), [("wrn-34-10", [0] * 89), ("prn18", [0] * 98 + [-1] * 21)], ids=["wide", "narrow"]
)
def test_slore_has_its_term_in_the_first_epoch_and_narrow_networks_from_the_100th_on(arch: str, last: list[int]):
    config = recipe("cifar10", "slore-mart", arch)
    method = from_config(config.objective)
    stages = [method.at_progress(progress(epoch, len(last) + 1)) for epoch in range(config.schedule.epochs)]
    assert [stage.sign for stage in stages] == [1, *last]
    assert {stage.beta for stage in stages} == {6.0 if arch == "wrn-34-10" else 5.0}


def test_hat_cycles_momentum() -> None:
    config = recipe("cifar10", "hat")
    ends = [scalars_of_step(config, *place, 390).momentum for place in ((0, 0), (12, 194), (49, 389))]
    assert ends == pytest.approx([0.95, 0.85, 0.95])
    assert moving(config.schedule) == ("lr", "momentum")


@pytest.mark.parametrize("dataset", ["cifar100", "svhn", "tinyimagenet"])
@pytest.mark.parametrize("method", OTHERS)
def test_elsewhere_a_method_takes_the_ball_and_the_epochs_of_the_data_set(dataset: str, method: str) -> None:
    own, theirs = recipe(dataset, method), recipe(dataset, "at")
    assert check(own) is own
    assert (own.attack.eps, own.attack.step_size) == (theirs.attack.eps, theirs.attack.step_size)
    assert own.schedule.epochs == theirs.schedule.epochs
    assert own.data == theirs.data


@pytest.mark.parametrize(("dataset", "lr"), [("cifar100", 0.01), ("svhn", 0.001)])
def test_mart_on_a_narrow_network(dataset: str, lr: float) -> None:
    """ResNet-18's numbers; drops at the same fractions of the run."""
    config = recipe(dataset, "mart")
    numbers = (config.optimizer.lr, config.optimizer.weight_decay, config.objective.beta)
    assert numbers == pytest.approx((lr, 3.5e-3, 5.0))
    assert config.schedule.lr_drops == pytest.approx((74 / 120, 89 / 120, 99 / 120))


def test_rice_and_wu_have_no_warm_start_and_wu_begins_late_on_svhn():
    for method, awp_from in (("at-rice", 0.0), ("awp-wu", 0.025)):
        schedule = recipe("svhn", method).schedule
        assert (schedule.warmup, schedule.awp_from) == (0.0, awp_from)
    assert recipe("svhn", "iseat").schedule.warmup == 0.025
