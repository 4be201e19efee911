"""``bench attack``: AutoAttack by this library and by its authors' code."""
