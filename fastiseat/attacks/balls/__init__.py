"""The balls that attacks stay in, one file each; :data:`fastiseat.names.balls.BALLS` lists them."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from importlib import import_module

from fastiseat.attacks.balls.base import Ball
from fastiseat.errors import UserError
from fastiseat.names.balls import BALLS, ball_words

__all__ = ["BALLS", "Ball", "ball_named", "require_served"]


def ball_named(name: str) -> Ball:
    """:class:`UserError` for an unknown one."""
    return _made(ball_words(name).home)


@cache
def _made(home: str) -> Ball:
    module, _, name = home.partition(":")
    ball: Ball = getattr(import_module(module), name)()
    return ball


def require_served(attack: str, norm: str, served: Collection[str]) -> None:
    """:class:`UserError` for a ball that ``attack`` is not defined in: another one's is no attack in it."""
    if ball_words(norm).home and norm not in served:
        known = " and ".join(BALLS[name].sign for name in served)
        raise UserError(
            f"norm={norm}: {attack} is defined in the {known} balls alone; take pgd, cw or apgd-ce, which climb in any"
        )
