"""One table a kind, with the words for help and lists: networks, data, attacks, and more. Imports no torch.

An entry is what a name means wherever it is read; where code belongs to it, the entry names the module that holds it,
which is imported when it is first used.
"""

from __future__ import annotations

from fastiseat.names.attacks import (
    ALSO_CALLED,
    ATTACKS,
    AUTOATTACK,
    ENSEMBLES,
    SEARCHES,
    attack_called,
    unknown_attack,
)

__all__ = ["ALSO_CALLED", "ATTACKS", "AUTOATTACK", "ENSEMBLES", "SEARCHES", "attack_called", "unknown_attack"]
