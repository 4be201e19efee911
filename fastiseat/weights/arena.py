"""All parameters of a network in one flat buffer, and beside it what an update needs of the same layout."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastiseat.errors import UserError
from fastiseat.kernels import Segments
from fastiseat.weights.layout import Layout

WEIGHTS, SHADOW = "weights", "shadow"


class Arena:
    """Adopts parameters: their values move into one buffer, of which ``param.data`` become views.

    Parameters stay what they are to everyone else. Each has a storage of its own size, so that ``torch.save``
    writes it alone; ``copy.deepcopy`` of the module makes a module outside of the arena; ``zero_grad`` touches
    nothing here. What moves a parameter's data elsewhere (``module.to``, ``load_state_dict(assign=True)``,
    ``param.data = ...``) is noticed and taken back in by :meth:`refresh`.

    Buffers have a name: ``weights`` (θ), those that :meth:`hold` is given, and those that :meth:`flat`, :meth:`split`
    and :meth:`shadow` make on demand, zeros at first: nothing that outlives a step may lie in these. Their memory
    stays where it is until :meth:`refresh` says otherwise.
    """

    # Of one layout; a copy has none but these and how it was asked for.
    _layout: Layout
    _flats: dict[str, Tensor]
    _pieces: dict[str, tuple[Tensor, Tensor]]
    _views: dict[str, dict[str, Tensor]]
    _active: dict[frozenset[str], Tensor]
    _homes: dict[str, Tensor]
    _addresses: dict[str, int]

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        *,
        full_precision: Collection[str] = (),
        channels_last: bool = False,
    ) -> None:
        """Args:
            weights: the parameters by name, each once, of one device and dtype, float32 or float64.
            full_precision: names that no half-precision buffer holds; they lie after all others.
            channels_last: give weights of 4 dimensions the strides of that format; else they keep theirs.

        Raises:
            UserError: for parameters of several dtypes or devices, of another dtype, or none at all.
        """
        self._full_precision = frozenset(full_precision)
        self._channels_last = channels_last
        self._lay_out(weights)

    @property
    def weights(self) -> Tensor:
        """θ, (P,)."""
        return self._flats[WEIGHTS]

    @property
    def segments(self) -> Segments:
        """Which parameter an element is of; ν moves those of more than one dimension."""
        return self._layout.segments

    @property
    def names(self) -> list[str]:
        """The parameters in their order here, which is that of the segments."""
        return list(self._layout.places)

    def hold(self, name: str, buffer: Tensor) -> None:
        """Know ``buffer``, (P,), by ``name`` from now on."""
        # A second one would leave views and recordings with the first.
        assert name not in self._pieces, f"{name} stands twice"
        self._flats[name], self._pieces[name] = buffer, self._in_two(buffer)

    def flat(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """The buffer ``name``, (P,), of ``dtype`` or that of θ; zeros when it is first asked for."""
        if name not in self._flats:
            self.hold(name, torch.zeros_like(self.weights, dtype=dtype))
        buffer = self._flats[name]
        assert dtype in (None, buffer.dtype), f"{name} is {buffer.dtype}"
        return buffer

    def split(self, name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The buffer ``name`` in two pieces: (Q,) of ``dtype``, then (P - Q,) of the dtype of θ, which may be empty."""
        if name not in self._pieces:
            first, rest = self._in_two(self.weights)
            self._pieces[name] = torch.zeros_like(first, dtype=dtype), torch.zeros_like(rest)
        pieces = self._pieces[name]
        assert pieces[0].dtype == dtype, f"{name} is {pieces[0].dtype}"
        return pieces

    def shadow(self, dtype: torch.dtype) -> Tensor:
        """θ rounded to ``dtype``, (Q,), as of now: one copy into the same memory at each call.

        ``views("shadow")`` are these, and θ itself for the parameters in full precision.
        """
        first, rest = self._in_two(self.weights)
        if SHADOW not in self._pieces:
            self._pieces[SHADOW] = torch.zeros_like(first, dtype=dtype), rest
        return self._pieces[SHADOW][0].copy_(first)

    def views(self, name: str) -> dict[str, Tensor]:
        """Each parameter's part of the buffer ``name``, with its shape and strides; made once."""
        if name not in self._views:
            self._views[name] = self._layout.views(*self._pieces[name])
        return self._views[name]

    def alone(self, buffer: Tensor) -> dict[str, Tensor]:
        """Each parameter's part of ``buffer``, (P,), as a tensor that a file holds alone; the same memory."""
        return {name: place.alone(buffer) for name, place in self._layout.places.items()}

    @torch.no_grad()
    def gather(self, gradients: Mapping[str, Tensor | None], into: str) -> Tensor:
        """Copy gradients into the buffer ``into`` at one go; zeros for parameters that are absent or None.

        Returns which parameters have one, bool (S,) on the device; allocated once for each set of names.
        """
        found = {name: gradient for name, gradient in gradients.items() if gradient is not None}
        names = frozenset(found)
        if unknown := names - self._layout.places.keys():
            raise UserError(f"gradients of {', '.join(sorted(unknown))}: the arena holds no such parameters")
        if into not in self._pieces:
            self.flat(into)
        views = self.views(into)
        if found:
            torch._foreach_copy_([views[name] for name in found], list(found.values()))
        # The buffer is used again by every step: what is absent now may have had a gradient in the last one.
        if absent := [view for name, view in views.items() if name not in names]:
            torch._foreach_zero_(absent)
        # Kept by set of names: a list made a tensor is a copy from the host, which no step may wait for and no
        # recording repeats.
        if names not in self._active:
            active = [name in names for name in self._layout.places]
            self._active[names] = torch.tensor(active, device=self.weights.device)
        return self._active[names]

    def tensors(self) -> list[Tensor]:
        """All of its memory so far: the buffers, and the tables that tell what lies where."""
        pieces = [piece for pair in self._pieces.values() for piece in pair]
        return [*self._flats.values(), *pieces, *self._active.values(), *self.segments]

    def adopted(self, weights: Mapping[str, Tensor]) -> bool:
        """Whether ``weights`` are the arena's parameters, and their data its own."""
        return weights.keys() == self._addresses.keys() and all(map(self._is_in, weights, weights.values()))

    @torch.no_grad()
    def refresh(self, weights: Mapping[str, nn.Parameter]) -> bool:
        """Take in again what has left since; ``weights`` are the module's parameters now.

        Returns whether buffers are new, because parameters, their shapes, dtype or device changed: then views and
        captured graphs of the old ones are stale, and all buffers but θ are gone.
        """
        if self.adopted(weights):
            return False
        # The buffers stay where they are, and views and state with them: only values are copied.
        if self._layout.fits(weights):
            self._take_in(weights)
            return False
        self._lay_out(weights)
        return True

    @torch.no_grad()
    def clear_padding(self) -> None:
        """Make it zeros again in all buffers: a step of infinite or NaN gradients may have spoilt it."""
        places = list(self._layout.places.values())
        ends = [*(place.offset for place in places[1:]), self.segments.num_elements]
        for flat in self._flats.values():
            for place, end in zip(places, ends, strict=True):
                flat[place.offset + place.shape.numel() : end].zero_()

    def __deepcopy__(self, memo: dict[int, Any]) -> Arena:
        """An arena of the same values in memory of its own, which the copied parameters move into by ``refresh``."""
        # Not by copy.deepcopy of the attributes, where each view would become a tensor of its own.
        copy = object.__new__(Arena)
        copy._full_precision, copy._channels_last = self._full_precision, self._channels_last
        copy._allocate(self._layout)
        copy.weights.copy_(self.weights)
        for name in self._flats.keys() - {WEIGHTS}:
            copy.hold(name, self._flats[name].clone())
        return copy

    @torch.no_grad()
    def _lay_out(self, weights: Mapping[str, nn.Parameter]) -> None:
        """New buffers for ``weights``, which they move into."""
        if not weights:
            raise UserError("there is no parameter to adopt; unfreeze one")
        layout = Layout.of(weights, self._full_precision, channels_last=self._channels_last)
        if layout.dtype not in (torch.float32, torch.float64):
            raise UserError(f"parameters are {layout.dtype}; convert the model to float32 or float64")
        self._allocate(layout)
        self._take_in(weights)

    def _allocate(self, layout: Layout) -> None:
        self._layout = layout
        device, length = self.segments.perturbed.device, self.segments.num_elements
        self._flats, self._pieces = {}, {}
        self.hold(WEIGHTS, torch.zeros(length, dtype=layout.dtype, device=device))
        self._views, self._active = {}, {}
        self._homes = self.alone(self.weights)
        self._addresses = {name: home.data_ptr() for name, home in self._homes.items()}

    def _take_in(self, weights: Mapping[str, nn.Parameter]) -> None:
        """Copy the values in, all of them before the first parameter is moved: one may lie in another's place."""
        moved = {
            name: weight.detach().clone() for name, weight in weights.items() if not self._is_in(name, weight)
        }
        for name, value in moved.items():
            self._homes[name].copy_(value)
            # By .data, so that the Parameter is the same object to optimizers, hooks and whoever else holds it.
            weights[name].data = self._homes[name]

    def _is_in(self, name: str, weight: Tensor) -> bool:
        # Nothing else lies there: the buffer holds the memory for as long as the arena lives.
        return weight.data_ptr() == self._addresses[name] and weight.stride() == self._homes[name].stride()

    def _in_two(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        return flat[: self._layout.split], flat[self._layout.split :]
