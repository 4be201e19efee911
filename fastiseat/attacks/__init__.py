"""Perturbations of the input: where an attack starts, and the one loop that it climbs in."""

from fastiseat.attacks.pgd import Attacked, pgd, random_start

__all__ = ["Attacked", "pgd", "random_start"]
