"""All methods by name: what each is, where its code lies, and what its paper sets. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from fastiseat.config import Config, Objective
from fastiseat.fields import only
from fastiseat.names.networks import Variant
from fastiseat.recipes.papers import (
    awp_wu,
    awp_wu_svhn,
    ball,
    consistency,
    cropped,
    hat,
    hat_epochs,
    mart,
    mart_awp,
    mart_cifar10,
    reflected,
    rice,
    rst,
    rst_cifar10,
    slore_cifar10,
    trades,
    trades_awp,
    unchanged,
)


@dataclass(frozen=True, kw_only=True)
class Ingredients:
    """A method in a few words, where its code is, and what its paper sets otherwise."""

    summary: str
    home: str
    """``package.module:Class``, a :class:`fastiseat.methods.Method`."""
    variant: Variant = "released"
    """Of its networks: those of the ISEAT authors' code, or the ``common`` ones of nearly all others."""
    options: tuple[str, ...] = ()
    """The fields of :class:`fastiseat.config.Objective` that it reads; in the table here those whose notes name it."""
    needs: str = ""
    """The setting, one of ``NEEDED``, without which it can't be trained."""
    num_views: int = 1
    """How many augmentations of each image it compares."""
    awp: bool | None = False
    """Whether its recipe perturbs weights; None where it never may."""
    constants: Callable[[Config], Config] = unchanged
    """Its own settings for any data set, whose ε, step and epochs stay."""
    networks: Mapping[str, str] = field(default_factory=dict)
    """By data set, what its authors train there where that is not the data set's own."""
    published: Mapping[str, Callable[[Config], Config]] = field(default_factory=dict)
    """By data set, what its paper sets there beyond that."""
    units: int | None = None
    """Forward, input-gradient and weight-gradient passes of a step by its recipe, at K = 10: of all the
    networks that it asks, and for two views twice."""

    @property
    def stability(self) -> bool:
        """Whether it has the term that λ weights."""
        return "lam" in self.options


NEEDED = {
    "standard": "it compares with a network without defence, in the file that --standard names; "
    "train one: fastiseat train --method none, which writes weights/best.safetensors",
    "extra": "it trains on extra images too, in the file that --extra names: RST's ti_500K_pseudo_labeled.pickle, or "
    "an npz with arrays image and label; without any take method trades",
}
"""Files that some methods can't do without, and how one comes by them."""

_TABLE = {
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
        awp=None,
    ),
    "iseat": Ingredients(
        summary="AT with both: the paper's method",
        home="fastiseat.methods.iseat:ISEAT",
        units=28,
        awp=True,
    ),
    "at-rice": Ingredients(
        summary="AT of Rice et al., 2020: random start",
        home="fastiseat.methods.at:AT",
        variant="common",
        units=23,
        constants=rice,
        networks={"cifar10": "prn18"},
        published={"cifar10": reflected},
    ),
    "awp-wu": Ingredients(
        summary="AT-AWP of Wu et al., 2020",
        home="fastiseat.methods.at:AT",
        variant="common",
        units=26,
        awp=True,
        constants=awp_wu,
        networks={"cifar10": "prn18"},
        published={"cifar10": reflected, "svhn": awp_wu_svhn},
    ),
    "trades": Ingredients(
        summary="TRADES (Zhang et al., 2019)",
        home="fastiseat.methods.trades:TRADES",
        variant="common",
        units=27,
        constants=trades,
        published={"cifar10": ball(76)},
    ),
    "trades-awp": Ingredients(
        summary="TRADES with weight perturbation (Wu et al., 2020)",
        home="fastiseat.methods.trades:AdversarialFirst",
        variant="common",
        units=33,
        awp=True,
        constants=trades_awp,
    ),
    "mart": Ingredients(
        summary="MART (Wang et al., 2020)",
        home="fastiseat.methods.mart:MART",
        variant="common",
        units=26,
        constants=mart,
        published={"cifar10": mart_cifar10},
    ),
    "mart-awp": Ingredients(
        summary="MART with weight perturbation",
        home="fastiseat.methods.mart:MART",
        variant="common",
        units=32,
        awp=True,
        constants=mart_awp,
        published={"cifar10": mart_cifar10},
    ),
    "slore-mart": Ingredients(
        summary="MART with a term on the wrong classes' probabilities",
        home="fastiseat.methods.mart:SLOREMART",
        variant="common",
        units=26,
        constants=mart,
        published={"cifar10": slore_cifar10},
    ),
    "hat": Ingredients(
        summary="HAT (Rade & Moosavi-Dezfooli, 2022): helper images",
        home="fastiseat.methods.hat:HAT",
        variant="common",
        units=31,
        needs="standard",
        constants=hat,
        networks={"cifar10": "prn18"},
        published=dict.fromkeys(("cifar10", "cifar100", "svhn", "tinyimagenet"), hat_epochs),
    ),
    "consistency": Ingredients(
        summary="Consistency (Tack et al., 2022): two views of an image",
        home="fastiseat.methods.consistency:Consistency",
        variant="common",
        units=46,
        num_views=2,
        constants=consistency,
        networks={"cifar10": "prn18"},
        published={"digits": cropped(1), "svhn": cropped(4)},
    ),
    "rst": Ingredients(
        summary="TRADES with extra data (Carmon et al., 2019)",
        home="fastiseat.methods.trades:AdversarialFirst",
        variant="common",
        units=27,
        needs="extra",
        constants=rst,
        networks={"cifar10": "wrn-28-10"},
        published={"cifar10": rst_cifar10},
    ),
}


def _with_options(name: str, entry: Ingredients) -> Ingredients:
    return replace(entry, options=tuple(option for option, methods in only(Objective).items() if name in methods))


METHODS = {name: _with_options(name, entry) for name, entry in _TABLE.items()}
"""Every method by name; an entry more is all that one needs beside its own file."""
_unknown = {method for methods in only(Objective).values() for method in methods} - METHODS.keys()
assert not _unknown, f"options are of methods {_unknown}, which there are not"
