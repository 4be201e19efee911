"""Tables as all commands print them."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

# A longer title is wrapped: a table must not outgrow a terminal.
_WIDEST_TITLE = 79


def titled_table(title: str, *, show_header: bool = True) -> Table:
    """A table at least as wide as its title, which is printed as it is: a path's brackets are no markup."""
    width = min(max(map(len, title.splitlines())), _WIDEST_TITLE)
    return Table(title=Text(title), min_width=width, show_header=show_header)
