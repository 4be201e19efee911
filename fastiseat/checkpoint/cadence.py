"""When a run writes a checkpoint: every so many epochs, steps or minutes."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

from fastiseat.errors import UserError
from fastiseat.fields import whole_number

_UNITS = {"e": "epoch", "s": "step", "m": "minute"}
_PATTERN = re.compile(r"\s*(\d+)\s*(e|epochs?|s|steps?|m|min|minutes?)\s*")


@dataclass(kw_only=True)
class Every:
    """``count`` of ``unit``, which is ``epoch``, ``step`` or ``minute``; asked after each step and each epoch."""

    count: int
    unit: str
    _last: float = field(default_factory=time.monotonic)

    @classmethod
    def parse(cls, text: str) -> Every:
        """``1 epoch``, ``500 steps``, ``10 minutes``, or short: ``1e``, ``500s``, ``10m``."""
        match = _PATTERN.fullmatch(text)
        count = 0 if match is None else whole_number(match[1])
        if match is None or count == 0:
            raise UserError(
                f"--checkpoint-every {text!r}: a number from 1 on and a unit is needed, such as 1epoch, 500steps or "
                "10minutes"
            )
        return cls(count=count, unit=_UNITS[match[2][0]])

    def after_step(self, steps_taken: int) -> bool:
        """Whether one is due after that many steps of the run."""
        if self.unit == "step":
            return steps_taken % self.count == 0
        return self.unit == "minute" and time.monotonic() - self._last >= 60 * self.count

    def after_epoch(self, epochs_done: int) -> bool:
        """Whether one is due after that many epochs of the run; always, where epochs are not what counts."""
        return self.unit != "epoch" or epochs_done % self.count == 0

    def written(self) -> None:
        """One has been written."""
        self._last = time.monotonic()
