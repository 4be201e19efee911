"""Foreign text as it may be shown: no line break, no terminal's command, and not too much of it."""

from __future__ import annotations

_LONGEST = 200


def plain(text: object, *, longest: int = _LONGEST) -> str:
    """As :func:`one_line`, and cut where it is longer than ``longest`` characters: for a part of a message."""
    shown = one_line(text)
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def one_line(text: object) -> str:
    """``text`` with whatever a terminal would not print as one visible line written as Python escapes it.

    Whatever is printed or quotes a file, an archive or a server goes through here: such text could else move the
    cursor, rewrite earlier lines or pass for a line of ours.
    """
    shown = str(text)
    return shown if shown.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in shown)


def lines(text: str) -> str:
    """The same of each line of a text that has several."""
    return "\n".join(map(one_line, text.split("\n")))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
