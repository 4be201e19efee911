"""A copy of a run's state that no later training step changes, taken while the caller waits as little as possible."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_PLAIN = (type(None), bool, int, float, str)


class Snapshot:
    """Copies of all tensors of ``state`` in the CPU's memory. The state is nested dictionaries and lists of tensors,
    numbers, strings and None.

    Copies from a GPU run behind what its current stream already holds, and before what is queued on it later:
    :meth:`wait` before the values are looked at.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._devices: set[torch.device] = set()
        self._state = {name: self._copy(value) for name, value in state.items()}
        self._copied = [_event(device) for device in self._devices]

    def wait(self) -> dict[str, Any]:
        """The state, once all of it has arrived."""
        for event in self._copied:
            event.synchronize()
        return self._state

    def _copy(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._copy_tensor(value.detach())
        if isinstance(value, Mapping):
            assert all(type(name) in _PLAIN for name in value), f"names: {list(value)}"
            return {name: self._copy(each) for name, each in value.items()}
        if isinstance(value, list):
            return [self._copy(each) for each in value]
        # Exactly these types: a NumPy number would be written, but not read again.
        assert type(value) in _PLAIN, f"no part of a checkpoint: {type(value).__name__}"
        return value

    def _copy_tensor(self, tensor: Tensor) -> Tensor:
        if tensor.device.type != "cuda":
            return tensor.to("cpu", copy=True)
        try:
            pinned = torch.empty_like(tensor, device="cpu", pin_memory=True)
        except RuntimeError:  # the system lends no more of it
            return tensor.cpu()
        self._devices.add(tensor.device)
        return pinned.copy_(tensor, non_blocking=True)


def _event(device: torch.device) -> torch.cuda.Event:
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event
