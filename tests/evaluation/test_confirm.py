"""Half precision looks first, and spares nobody."""

import numpy as np
from trials import small, split_of

from fastiseat.evaluation import Evaluator, any_attack_named, attack_named
from fastiseat.evaluation.verdicts.confirm import confirmed, gains_from_half


class Sparing:
    """Finds what it is told to, whatever the attack."""

    def __init__(self, broken):
        self._broken = broken

    def __call__(self, split, attack, *, seed):
        return ~self._broken


def test_whatever_half_precision_finds_nobody_is_spared():
    model = small()
    split, attack = split_of(model, 40), attack_named("pgd", eps=0.06, steps=4)
    full = Evaluator(model, batch_size=16)
    alone = full(split, attack)
    assert 0 < alone.sum() < len(alone)
    for broken in (np.zeros(40, dtype=bool), ~alone, np.arange(40) % 2 == 0, np.ones(40, dtype=bool)):
        told = []
        found = confirmed(full, Sparing(broken), split, attack, seed=0, progress=told.append)
        assert np.array_equal(found, alone & ~broken)
        assert told == sorted(told) and told[-1] == 40


def test_which_attacks_it_is_for():
    for name, restarts, gains in (("clean", 1, False), ("pgd", 1, True), ("pgd", 2, False), ("aa", 1, True)):
        assert gains_from_half(any_attack_named(name, eps=0.1, restarts=restarts)) is gains
