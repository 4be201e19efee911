"""What commands print without rich: lines, and JSON."""

from __future__ import annotations

import json
import sys
from typing import Any, TextIO

from fastiseat.safe import lines, one_line


def show(*words: object, file: TextIO | None = None) -> None:
    """Print one line, with whatever files say in it as text."""
    print(one_line(" ".join(map(str, words))), file=file)


def show_text(text: str) -> None:
    """Print several lines, the end of the last one with them."""
    sys.stdout.write(lines(text))


def show_json(content: Any, *, indent: int = 2, ensure_ascii: bool = True) -> None:
    """Print JSON; what is no visible character is written as JSON escapes it, also where others are not."""
    text = json.dumps(content, indent=indent, ensure_ascii=ensure_ascii)
    print("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))
