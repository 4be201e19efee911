"""Complete settings by name: one function a data set, and what augmentation, extra images and each method change in it.

Imports no torch.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fastiseat.config import AWP, Config, Network, Objective
from fastiseat.errors import UserError, unknown
from fastiseat.fields import typed
from fastiseat.names.data import own_kinds
from fastiseat.names.networks import Initialization, Variant, family_of
from fastiseat.recipes.datasets import DATASETS
from fastiseat.recipes.fine_tuning import FINE_TUNING
from fastiseat.recipes.options import check_ball, check_images, check_options, check_parts, check_shape
from fastiseat.recipes.papers import unchanged
from fastiseat.recipes.standard import standard_for
from fastiseat.recipes.table import METHODS, NEEDED, Ingredients
from fastiseat.recipes.variations import NETWORKS_WITH_EXTRA, variations, varied

__all__ = [
    "DATASETS",
    "FINE_TUNING",
    "METHODS",
    "NEEDED",
    "OWN_DATA",
    "Ingredients",
    "check",
    "origin",
    "recipe",
    "recipe_of",
    "standard_for",
    "step_parts",
]

# Kinds of data set that are named with a path, as in imagefolder:DIR.
OWN_DATA = own_kinds()


def recipe(
    dataset: str = "digits",
    method: str = "iseat",
    arch: str | None = None,
    *,
    augment: str | None = None,
    extra: Path | str | None = None,
) -> Config:
    """The complete config for a (data set, method, augmentation, extra images); :class:`UserError` for an unknown name.

    ``augment`` and ``extra`` are :class:`~fastiseat.config.Data`'s, by default standard and none. ``arch`` takes the
    place of the network that the recipe names; some methods choose their numbers by it.
    """
    for name, text in {"dataset": dataset, "method": method}.items():
        typed(name, text, str)
    kind, uses = _kind(dataset), _ingredients(method)
    base = DATASETS[kind]()
    data = replace(base.data, dataset=dataset, extra=extra)  # type: ignore[arg-type]  # a path in words becomes one
    base = replace(
        base,
        data=data if augment is None else replace(data, augment=augment),  # type: ignore[arg-type]  # it checks
        network=_network(base.network, _arch(kind, uses, extra) if arch is None else arch, uses.variant),
        objective=replace(base.objective, method=method),
    )
    config = varied(base)
    config = replace(
        config,
        objective=Objective(method=method, lam=config.objective.lam if uses.stability else 0.0),
        awp=replace(config.awp, gamma=config.awp.gamma if uses.awp else 0.0),
    )
    return uses.published.get(kind, unchanged)(uses.constants(config))


def recipe_of(config: Config) -> Config:
    """The recipe that ``config`` began with, by its data set, method, network, augmentation and extra images."""
    data = config.data
    return recipe(
        data.dataset, config.objective.method, config.network.arch, augment=data.augment, extra=data.extra
    )


def origin(config: Config) -> str:
    """Which recipe that is and where its numbers are from, in a line."""
    data, method = config.data, config.objective.method
    parts = [f"{method} on {data.dataset} with {config.network.arch}"]
    parts += [data.augment] if data.augment != "standard" else []
    parts += ["extra images"] if data.extra is not None else []
    theirs = METHODS[method].constants
    changes = [*variations(config), *([] if theirs is unchanged else [theirs])]
    said = [" ".join((change.__doc__ or "").partition("\n\n")[0].split()) for change in changes]
    return " ".join([f"{', '.join(parts)}: the data set's recipe.", *said])


def _kind(dataset: str) -> str:
    kind, _, path = dataset.partition(":")
    if kind not in DATASETS:
        raise unknown("data set", dataset, DATASETS)
    if (kind in OWN_DATA) != bool(path):
        raise UserError(
            f"data set {dataset!r}: own data is named {' or '.join(f'{own}:PATH' for own in OWN_DATA)}"
        )
    return kind


def _ingredients(method: str) -> Ingredients:
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    return METHODS[method]


def _network(own: Network, arch: str | None, variant: Variant) -> Network:
    """As the method's authors build it, where theirs is one of its variants; ``small`` is nobody's but ours."""
    name = own.arch if arch is None else typed("arch", arch, str)
    family = family_of(name)
    if variant not in family.variants or family.drawn is None:
        variant = family.variants[0]
    drawn: Initialization = "torch" if variant == "released" else family.drawn or "torch"
    return replace(own, arch=name, variant=variant, initialization=drawn)


def _arch(kind: str, uses: Ingredients, extra: Path | str | None) -> str | None:
    """The network that others have trained there, where it is not the data set's own."""
    return (NETWORKS_WITH_EXTRA.get(kind) if extra else None) or uses.networks.get(kind)


def step_parts(method: str) -> Config:
    """What a method is by its name alone, without a data set: its attack's start and its weight perturbation.

    All else is as in ``Config()``: ε and the steps are the user's, and so is what his loop does with the learning rate.
    """
    uses = _ingredients(method)
    base = Config(
        objective=Objective(method=method, lam=Objective().lam if uses.stability else 0.0),
        awp=AWP(gamma=AWP().gamma if uses.awp else 0.0),
    )
    theirs = uses.constants(base)
    return replace(base, attack=theirs.attack, awp=theirs.awp)


def _check_needs(config: Config, uses: Ingredients) -> None:
    method, data = config.objective.method, config.data
    if uses.needs == "extra" and data.extra is None:  # a standard network can be trained first
        raise UserError(f"method {method}: {NEEDED['extra']}")
    if uses.num_views > 1 and data.augment == "standard" and not (data.flip or data.crop_padding):
        raise UserError(
            f"method {method}: its views of an image are the same without augmentation; add --crop-padding 4, --flip "
            "or --augment"
        )


def check(config: Config) -> Config:
    """``config`` as it came, or :class:`UserError` where its fields contradict each other."""
    recipe(config.data.dataset, config.objective.method)
    objective, gamma = config.objective, config.awp.gamma
    method, uses, attack = objective.method, METHODS[objective.method], config.attack
    if objective.lam and not uses.stability:
        having = " or ".join(name for name, other in METHODS.items() if other.stability)
        raise UserError(
            f"lam={objective.lam}: method {method} has no stability term; use lam 0, or method {having}"
        )
    if gamma and uses.awp is None:
        other = "iseat" if uses.stability else "at-awp"
        raise UserError(
            f"gamma={gamma}: method {method} has no weight perturbation; use awp-gamma 0, or method {other}"
        )
    _check_needs(config, uses)
    check_options(objective)
    check_parts(config)
    began = recipe_of(config)
    check_images(config.data, began.data)
    check_shape(config, began)
    check_ball(config, began)
    if attack.eps and not attack.step_size and method != "none":
        raise UserError(f"step_size=0 with eps={attack.eps:.4g}: the attack would never move; use eps/4 or so")
    return config
