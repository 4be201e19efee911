"""The one exception that a user's input can raise, and the sentence for a misspelt name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the caller can mend: the message names the value, the rule and the remedy.

    The command line prints it as one line without a traceback and exits with code 2. It is no ``ValueError``,
    because parsers of flags and files catch those and bury them in texts of their own.
    """


def unknown(kind: str, name: object, known: Iterable[str], *, otherwise: str = "") -> UserError:
    """The error for a name that is not among ``known``: the nearest ones; ``otherwise``, or else all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name).lower(), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else otherwise or f"known: {', '.join(names)}"
    return UserError(f"unknown {kind} {name!r}; {hint}")
