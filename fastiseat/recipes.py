"""Complete settings by name: one function a data set, and what each method changes in it. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from fastiseat.config import AWP, PGD, SGD, Config, Data, Network, Objective, Schedule
from fastiseat.errors import UserError, unknown

# Kinds of data set that are named with a path, as in imagefolder:DIR.
OWN_DATA = ("imagefolder", "npz")


def _unchanged(config: Config) -> Config:
    return config


@dataclass(frozen=True, kw_only=True)
class Ingredients:
    """A method in a few words, where its code is, and what its paper sets otherwise."""

    summary: str
    home: str
    """``package.module:Class``, a :class:`fastiseat.methods.Method`."""
    options: tuple[str, ...] = ()
    """The fields of :class:`fastiseat.config.Objective` that it reads."""
    needs: str = ""
    """The setting, one of ``NEEDED``, without which it can't be trained."""
    num_views: int = 1
    """How many augmentations of each image it compares."""
    awp: bool | None = False
    """Whether its recipe perturbs weights; None where it never may."""
    constants: Callable[[Config], Config] = _unchanged
    """Its own settings for any data set, whose ε, step and epochs stay."""
    published: Mapping[str, Callable[[Config], Config]] = field(default_factory=dict)
    """By data set, what its paper sets there beyond that."""
    units: int | None = None
    """Forward, input-gradient and weight-gradient passes of a step by its recipe, at K = 10: of all the
    networks that it asks, and for two views twice."""

    @property
    def stability(self) -> bool:
        """Whether it has the term that λ weights."""
        return "lam" in self.options


def _rice(config: Config) -> Config:
    """Rice et al., 2020: a random start, and a learning rate that is set for every step."""
    return replace(
        config,
        attack=replace(config.attack, random_start=True),
        schedule=replace(config.schedule, lr_per_step=True),
    )


def _reflected(config: Config) -> Config:
    return replace(config, data=replace(config.data, padding_mode="reflect"))


def _eval_attack(config: Config) -> Config:
    """The attack of TRADES and MART."""
    return replace(config, attack=replace(config.attack, bn_mode="eval", noise=0.001))


def _trades(config: Config) -> Config:
    """lr 0.1, a tenth of it from the 75th of 76 epochs on, weight decay 2e-4."""
    config = _eval_attack(config)
    return replace(
        config,
        optimizer=replace(config.optimizer, weight_decay=2e-4),
        schedule=replace(config.schedule, lr_drops=(74 / 76,), lam_from=0.0),
    )


def _trades_awp(config: Config) -> Config:
    """Wu et al., 2020: ν from the 10th of 200 epochs on, γ = 0.005, weight decay 5e-4, AT's learning rates."""
    config = _eval_attack(config)
    return replace(
        config, awp=replace(config.awp, gamma=0.005), schedule=replace(config.schedule, awp_from=9 / 200)
    )


def _mart(config: Config) -> Config:
    """ResNet-18: lr 0.01, weight decay 3.5e-3, β = 5; wide: 0.1, 7e-4, 6. Of 120 epochs, drops at 75, 90 and 100."""
    config = _eval_attack(config)
    wide = config.network.arch.startswith("wrn")
    scale = config.optimizer.lr / 0.1  # what a data set asks for, SVHN for one, it asks for here too
    return replace(
        config,
        objective=replace(config.objective, beta=6.0 if wide else 5.0),
        optimizer=replace(
            config.optimizer, lr=(0.1 if wide else 0.01) * scale, weight_decay=7e-4 if wide else 3.5e-3
        ),
        schedule=replace(config.schedule, lr_drops=(74 / 120, 89 / 120, 99 / 120)),
    )


def _mart_awp(config: Config) -> Config:
    config = _mart(config)
    return replace(config, awp=replace(config.awp, gamma=0.005))


def _ball(epochs: int) -> Callable[[Config], Config]:
    """The ball and steps of TRADES and MART on CIFAR-10, and how long they train."""

    def change(config: Config) -> Config:
        return replace(
            config,
            attack=replace(config.attack, eps=0.031, step_size=0.007),
            schedule=replace(config.schedule, epochs=epochs),
        )

    return change


def _mart_cifar10(config: Config) -> Config:
    """A wide network's 90 epochs end before the third drop; others take 120."""
    if not config.network.arch.startswith("wrn"):
        return _ball(120)(config)
    config = _ball(90)(config)
    return replace(config, schedule=replace(config.schedule, lr_drops=(74 / 90, 89 / 90)))


def _awp_wu(config: Config) -> Config:
    config = _rice(config)
    return replace(config, awp=replace(config.awp, gamma=0.01))


def _hat(config: Config) -> Config:
    """OneCycle up to lr 0.21 with Nesterov's momentum; ResNet-18 on CIFAR-10: 84.90% clean, 49.08% AutoAttack."""
    config = _eval_attack(config)
    scale = config.optimizer.lr / 0.1  # that SVHN asks for a tenth here too is inferred
    return replace(
        config,
        optimizer=replace(config.optimizer, lr=0.21 * scale, nesterov=True),
        schedule=replace(config.schedule, lr_shape="onecycle", lam_from=0.0),
    )


def _hat_epochs(config: Config) -> Config:
    return replace(config, schedule=replace(config.schedule, epochs=50))


def _hat_cifar10(config: Config) -> Config:
    """PreActResNet-18 is inferred for what the paper calls ResNet-18."""
    return _hat_epochs(replace(config, network=replace(config.network, arch="prn18")))


def _consistency(config: Config) -> Config:
    """PGD-10 from a uniform start in eval mode. That all else is as in AT is inferred; the authors' stronger set of
    augmentations is not here. Tiny ImageNet: 46.50% clean, 15.09% AutoAttack, with a stem of stride 2.
    """
    return replace(config, attack=replace(config.attack, random_start=True, bn_mode="eval"))


def _cropped(padding: int) -> Callable[[Config], Config]:
    """Of data that others do not augment: two views have to differ. Inferred."""

    def change(config: Config) -> Config:
        return replace(config, data=replace(config.data, crop_padding=padding))

    return change


def _rst(config: Config) -> Config:
    """Carmon et al., 2019: TRADES with β = 6 on half labelled, half extra images, cosine, Nesterov."""
    config = _eval_attack(config)
    return replace(
        config,
        optimizer=replace(config.optimizer, nesterov=True),
        schedule=replace(config.schedule, lr_shape="cosine", lam_from=0.0),
    )


def _rst_cifar10(config: Config) -> Config:
    """WRN-28-10: 89.69% clean, 59.53% AutoAttack, TRADES' ball.

    Batches are theirs, 128 and 128 images. Their epoch is 196 of them, in which each labelled image comes half a
    time on average; our loaders take all labelled images once, 390 batches. So 100 epochs here are their 200 (a number
    that is recalled, not read) but for 200 of 39,200 steps.
    """
    config = _ball(100)(config)
    return replace(config, network=replace(config.network, arch="wrn-28-10"))


NEEDED = {
    "standard": "it compares with a network without defence, in the file that --standard names; "
    "train one: fastiseat train --method none, which writes weights/best.safetensors",
    "extra": "it trains on extra images too, in the file that --extra names: RST's ti_500K_pseudo_labeled.pickle, or "
    "an npz with arrays image and label; without any take method trades",
}
"""Files that some methods can't do without, and how one comes by them."""

_ISEAT = ("lam", "weighting", "distance", "smoothness")

METHODS = {
    "none": Ingredients(
        summary="no defence: cross entropy on clean images",
        home="fastiseat.methods.standard:Standard",
        units=3,
        awp=None,
    ),
    "at": Ingredients(summary="adversarial training (PGD)", home="fastiseat.methods.at:AT", units=23, awp=None),
    "at-awp": Ingredients(
        summary="AT with weight perturbation", home="fastiseat.methods.at:AT", units=26, awp=True
    ),
    "lsi": Ingredients(
        summary="AT with weighted logit stability",
        home="fastiseat.methods.iseat:ISEAT",
        units=25,
        options=_ISEAT,
        awp=None,
    ),
    "iseat": Ingredients(
        summary="AT with both: the paper's method",
        home="fastiseat.methods.iseat:ISEAT",
        units=28,
        options=_ISEAT,
        awp=True,
    ),
    "at-rice": Ingredients(
        summary="AT of Rice et al., 2020: random start",
        home="fastiseat.methods.at:AT",
        units=23,
        constants=_rice,
        published={"cifar10": _reflected},
    ),
    "awp-wu": Ingredients(
        summary="AT-AWP of Wu et al., 2020",
        home="fastiseat.methods.at:AT",
        units=26,
        awp=True,
        constants=_awp_wu,
        published={"cifar10": _reflected},
    ),
    "trades": Ingredients(
        summary="TRADES (Zhang et al., 2019)",
        home="fastiseat.methods.trades:TRADES",
        units=27,
        options=("beta",),
        constants=_trades,
        published={"cifar10": _ball(76)},
    ),
    "trades-awp": Ingredients(
        summary="TRADES with weight perturbation (Wu et al., 2020)",
        home="fastiseat.methods.trades:TRADES",
        units=33,
        options=("beta",),
        awp=True,
        constants=_trades_awp,
    ),
    "mart": Ingredients(
        summary="MART (Wang et al., 2020)",
        home="fastiseat.methods.mart:MART",
        units=26,
        options=("beta",),
        constants=_mart,
        published={"cifar10": _mart_cifar10},
    ),
    "mart-awp": Ingredients(
        summary="MART with weight perturbation",
        home="fastiseat.methods.mart:MART",
        units=32,
        options=("beta",),
        awp=True,
        constants=_mart_awp,
        published={"cifar10": _mart_cifar10},
    ),
    "slore-mart": Ingredients(
        summary="MART with a term on the wrong classes' probabilities",
        home="fastiseat.methods.mart:SLOREMART",
        units=26,
        options=("beta",),
        constants=_mart,
        published={"cifar10": _ball(120)},
    ),
    "hat": Ingredients(
        summary="HAT (Rade & Moosavi-Dezfooli, 2022): helper images",
        home="fastiseat.methods.hat:HAT",
        units=31,
        options=("beta", "standard"),
        needs="standard",
        constants=_hat,
        published={"cifar10": _hat_cifar10, **dict.fromkeys(("cifar100", "svhn", "tinyimagenet"), _hat_epochs)},
    ),
    "consistency": Ingredients(
        summary="Consistency (Tack et al., 2022): two views of an image",
        home="fastiseat.methods.consistency:Consistency",
        units=46,
        num_views=2,
        constants=_consistency,
        published={"digits": _cropped(1), "svhn": _cropped(4)},
    ),
    "rst": Ingredients(
        summary="TRADES with extra data (Carmon et al., 2019)",
        home="fastiseat.methods.trades:TRADES",
        units=27,
        options=("beta",),
        needs="extra",
        constants=_rst,
        published={"cifar10": _rst_cifar10},
    ),
}
"""Every method by name; an entry more is all that one needs beside its own file."""


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


DATASETS: dict[str, Callable[[], Config]] = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "svhn": svhn,
    "tinyimagenet": tinyimagenet,
    "imagefolder": own_data,
    "npz": own_data,
}


def recipe(dataset: str = "digits", method: str = "iseat", arch: str | None = None) -> Config:
    """The complete config for a (data set, method) pair; :class:`UserError` for an unknown name.

    ``arch`` takes the place of the data set's own network, by which some methods choose their numbers.
    """
    kind, _, path = dataset.partition(":")
    if kind not in DATASETS:
        raise unknown("data set", dataset, DATASETS)
    if (kind in OWN_DATA) != bool(path):
        raise UserError(
            f"data set {dataset!r}: own data is named {' or '.join(f'{own}:PATH' for own in OWN_DATA)}"
        )
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    base, uses = DATASETS[kind](), METHODS[method]
    config = replace(
        base,
        data=replace(base.data, dataset=dataset),
        network=base.network if arch is None else replace(base.network, arch=arch),
        objective=Objective(method=method, lam=base.objective.lam if uses.stability else 0.0),
        awp=replace(base.awp, gamma=base.awp.gamma if uses.awp else 0.0),
    )
    return uses.published.get(kind, _unchanged)(uses.constants(config))


_OPTIONS = {"weighting": "linear", "distance": "l2", "smoothness": "lsiw", "beta": None, "standard": None}
"""What some methods have, and its value where nothing is said."""


def _check_needs(config: Config, uses: Ingredients) -> None:
    method, data = config.objective.method, config.data
    files = {"standard": config.objective.standard, "extra": data.extra}
    if uses.needs and files[uses.needs] is None:
        raise UserError(f"method {method}: {NEEDED[uses.needs]}")
    if uses.num_views > 1 and data.augment == "standard" and not (data.flip or data.crop_padding):
        raise UserError(
            f"method {method}: its views of an image are the same without augmentation; add --crop-padding 4, --flip "
            "or --augment"
        )


def _ablation(config: Config) -> Config:
    """Tables 7 to 9: 40 epochs, lr 0.01 and from half of them on 0.001, λ from the first."""
    return _fine_tuned(config, epochs=40)


def _eq7(config: Config) -> Config:
    """Eq. 7, whose η is λ: 10 epochs, lr 0.01 and from half of them on 0.001, on the 10% of the highest AV."""
    if config.objective.method != "lsi":
        raise UserError(
            f"fine-tune eq7: Eq. 7 is method lsi, without weight perturbation; not {config.objective.method}"
        )
    return _fine_tuned(replace(config, objective=replace(config.objective, weighting="top", lam=1.0)), epochs=10)


def _fine_tuned(config: Config, *, epochs: int) -> Config:
    plan = replace(config.schedule, epochs=epochs, lr_drops=(0.5,), lam_from=0.0, awp_from=0.0, warmup=0.0)
    return replace(config, optimizer=replace(config.optimizer, lr=0.01), schedule=plan)


FINE_TUNING = {"ablation": _ablation, "eq7": _eq7}
"""The ISEAT paper's studies that begin with an AT-trained network, over the recipe of their method."""


def check(config: Config) -> Config:
    """``config`` as it came, or :class:`UserError` where its fields contradict each other."""
    recipe(config.data.dataset, config.objective.method)
    objective, gamma = config.objective, config.awp.gamma
    method, uses, attack = objective.method, METHODS[objective.method], config.attack
    if objective.lam and not uses.stability:
        raise UserError(
            f"lam={objective.lam}: method {method} has no stability term; use lam 0, or method lsi or iseat"
        )
    if gamma and uses.awp is None:
        other = "iseat" if uses.stability else "at-awp"
        raise UserError(
            f"gamma={gamma}: method {method} has no weight perturbation; use awp-gamma 0, or method {other}"
        )
    _check_needs(config, uses)
    for option, default in _OPTIONS.items():
        value = getattr(objective, option)
        if value != default and option not in uses.options:
            having = ", ".join(name for name, other_method in METHODS.items() if option in other_method.options)
            raise UserError(f"{option}={value}: method {method} has no such option; methods {having} have")
    if attack.eps and not attack.step_size and method != "none":
        raise UserError(f"step_size=0 with eps={attack.eps:.4g}: the attack would never move; use eps/4 or so")
    return config
