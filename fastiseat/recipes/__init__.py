"""Complete settings by name: one function a data set, and what each method changes in it. Imports no torch."""

from __future__ import annotations

from dataclasses import replace

from fastiseat.config import Config, Objective
from fastiseat.errors import UserError, unknown
from fastiseat.recipes.datasets import DATASETS
from fastiseat.recipes.fine_tuning import FINE_TUNING
from fastiseat.recipes.papers import unchanged
from fastiseat.recipes.table import METHODS, NEEDED, Ingredients

__all__ = ["DATASETS", "FINE_TUNING", "METHODS", "NEEDED", "OWN_DATA", "Ingredients", "check", "recipe"]

# Kinds of data set that are named with a path, as in imagefolder:DIR.
OWN_DATA = ("imagefolder", "npz")


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
    return uses.published.get(kind, unchanged)(uses.constants(config))


# What some methods have and others have not.
_OPTIONS = ("weighting", "distance", "smoothness", "beta", "standard")


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
    for option in _OPTIONS:
        value = getattr(objective, option)
        if value != getattr(Objective(), option) and option not in uses.options:
            having = ", ".join(name for name, other_method in METHODS.items() if option in other_method.options)
            raise UserError(f"{option}={value}: method {method} has no such option; methods {having} have")
    if attack.eps and not attack.step_size and method != "none":
        raise UserError(f"step_size=0 with eps={attack.eps:.4g}: the attack would never move; use eps/4 or so")
    return config
