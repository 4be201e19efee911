"""The ISEAT paper's settings for each data set, complete. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fastiseat.config import AWP, PGD, SGD, Config, Data, Network, Objective, Schedule
from fastiseat.names.data import DATA


def digits() -> Config:
    """Scikit-learn's 1,797 handwritten digits, 8×8 grey: robust on a laptop.

    ``fastiseat train`` trains it in under 90 s on 2 cores; ε = 0.15 leaves an undefended network below 20% on
    average.
    """
    return Config(
        data=Data(dataset="digits"),
        network=Network(arch="small"),
        attack=PGD(eps=0.15, step_size=0.0375),
        objective=Objective(lam=0.1),
        awp=AWP(gamma=0.007),
        optimizer=SGD(lr=0.1),
        schedule=Schedule(epochs=20),
    )


def cifar10() -> Config:
    """CIFAR-10, WRN-34-10: accuracy 86.02%, AutoAttack 56.54% (paper, Table 2).

    ``fastiseat train --dataset cifar10 --amp``; PRN18 (``--arch prn18``) reaches 82.37% and 51.76% (Table 5).
    """
    return _paper("cifar10", arch="wrn-34-10", lam=0.1, gamma=0.007)


def cifar100() -> Config:
    """CIFAR-100, PreActResNet-18: accuracy 53.19%, AutoAttack 28.17% (paper, Table 3).

    ``fastiseat train --dataset cifar100 --amp``
    """
    return _paper("cifar100", arch="prn18", lam=0.1, gamma=0.005)


def svhn() -> Config:
    """SVHN, PreActResNet-18: accuracy 91.08%, AutoAttack 54.04% (paper, Table 3).

    ``fastiseat train --dataset svhn --amp``. No augmentation, a tenth of the learning rate, half the step, λ from
    the start, and a warm start of 5 epochs.
    """
    base = _paper("svhn", arch="prn18", lam=0.1, gamma=0.009)
    return replace(
        base,
        data=replace(base.data, flip=False, crop_padding=0),
        attack=replace(base.attack, step_size=1 / 255),
        optimizer=replace(base.optimizer, lr=0.01),
        schedule=replace(base.schedule, lam_from=0.0, warmup=5 / 200),
    )


def tinyimagenet() -> Config:
    """Tiny ImageNet at 64×64, PreActResNet-18: accuracy 48.26%, AutoAttack 20.55% (best weights; paper, Table 4).

    ``fastiseat train --dataset tinyimagenet --amp``
    """
    return _paper("tinyimagenet", arch="prn18", lam=0.01, gamma=0.005)


def own_data() -> Config:
    """A user's own images: the CIFAR-10 numbers on PreActResNet-18. No published result."""
    return _paper("imagefolder", arch="prn18", lam=0.1, gamma=0.007)


def _paper(dataset: str, *, arch: str, lam: float, gamma: float) -> Config:
    """Section 6's setting: 200 epochs of batches of 128, lr 0.1 divided by 10 at 50% and 75%, ε = 8/255, α = 2/255,
    10 steps, momentum 0.9, weight decay 5e-4, flip and crop with 4 pixels of zeros; λ with the first drop.
    """
    return Config(
        data=Data(dataset=dataset, batch_size=128, flip=True, crop_padding=4),
        network=Network(arch=arch),
        attack=PGD(eps=8 / 255, step_size=2 / 255, steps=10),
        objective=Objective(lam=lam),
        awp=AWP(gamma=gamma),
        optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=5e-4),
        schedule=Schedule(epochs=200, lr_drops=(0.5, 0.75), lr_factor=0.1, lam_from=0.5),
    )


_PUBLISHED = {each.__name__: each for each in (digits, cifar10, cifar100, svhn, tinyimagenet)}
DATASETS: dict[str, Callable[[], Config]] = {kind: _PUBLISHED.get(kind, own_data) for kind in DATA}
"""By data set, the settings that its recipes begin with."""
