"""Foreign text as it may be shown: no line break, no terminal's command, and not too much of it."""

from __future__ import annotations

_LONGEST = 200


def plain(text: object, *, longest: int = _LONGEST) -> str:
    """``text`` with whatever a terminal would not print as one visible line written as Python escapes it.

    Everything that a message quotes from a file, an archive or a server goes through here: such text could else move
    the cursor, rewrite earlier lines or pass for a line of ours.
    """
    shown = "".join(each if each.isprintable() else _escaped(each) for each in str(text))
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
