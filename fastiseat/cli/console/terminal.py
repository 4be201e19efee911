"""Rich's console, which shows whatever a file or a server says as text."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from fastiseat.safe import lines, one_line


class Terminal(Console):
    """A console that knows no markup, and passes no terminal's commands on but rich's own.

    Names in files could else move the cursor, make links, or colour what they want to be taken for.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does, with every text as it may be shown."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else lines(text), style, control)


def print_line(console: Console, text: str) -> None:
    """Print one line as it is, and unwrapped: brackets and colons of a path are no markup of rich's."""
    console.print(one_line(text), markup=False, emoji=False, highlight=False, soft_wrap=True)
