"""A network whose logits on the images themselves are no numbers has no accuracy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fastiseat.errors import UserError


class NotFiniteError(UserError):
    """Logits on images that nobody attacked are NaN or infinite; ``finding`` says on how many."""

    def __init__(self, finding: str) -> None:
        super().__init__(
            f"{finding}: such an answer is neither right nor wrong; look at the weights, the range of their dtype and "
            "what the network normalises by, or leave these images out"
        )
        self.finding = finding


def require_answers(answered: Tensor, rows: npt.NDArray[np.int64] | None = None) -> None:
    """:class:`NotFiniteError` unless all of ``answered``, bool (n,), are; waits for the device.

    ``rows``, int64 (n,), are the numbers of the images, where they are not 0 … n - 1.
    """
    lost = np.flatnonzero(~answered.cpu().numpy())
    if len(lost):
        first = int(lost[0] if rows is None else rows[lost[0]])
        raise NotFiniteError(
            f"the network's logits are not finite numbers on {len(lost)} of {len(answered)} images, the first of them "
            f"image {first}, counted from 0"
        )
