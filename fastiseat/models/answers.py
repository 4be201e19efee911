"""What a module's forward returns, and the logits in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fastiseat.errors import UserError


def logits_of(answer: Any) -> Tensor:
    """The tensor that a module returned, or ``logits`` of the dict or output object that it did.

    Other tensors in there are left out: a loss that the model computed itself, the logits of auxiliary heads.

    Raises:
        UserError: neither; of a tuple nobody knows which entry is meant.
    """
    if isinstance(answer, Tensor):
        return answer
    found = answer.get("logits") if isinstance(answer, Mapping) else getattr(answer, "logits", None)
    if not isinstance(found, Tensor):
        raise UserError(
            f"the model returned {type(answer).__name__}: logits of shape (m, classes) are needed, or a dict or an "
            "output object with such logits; wrap it in a module whose forward returns them"
        )
    return found
