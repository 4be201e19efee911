"""A start on several ranks: fastiseat has none yet, and would do the whole work once a process without a word."""

from __future__ import annotations

import os

from fastiseat.errors import UserError

# How torchrun and every launcher in its manner tell a process that it is one of several.
WORLD_SIZE = "WORLD_SIZE"


def refuse_ranks(command: str) -> None:
    """:class:`UserError` where a launcher has started this process as one of several. Imports no torch."""
    found = os.environ.get(WORLD_SIZE, "").strip()
    if not found.isdecimal() or int(found) <= 1:
        return
    raise UserError(
        f"{WORLD_SIZE}={found}: fastiseat {command} runs on one device, not over ranks; start it without torchrun, and "
        "choose a GPU by --device cuda:N or CUDA_VISIBLE_DEVICES. Several runs can go side by side, one a GPU"
    )
