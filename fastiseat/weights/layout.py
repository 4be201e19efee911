"""Where each parameter lies in the arena's flat buffers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import torch
import torch.utils.dlpack
from torch import Tensor, nn

from fastiseat.errors import UserError
from fastiseat.kernels import Segments
from fastiseat.kernels.core.segments import BLOCK

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


class Place(NamedTuple):
    """One parameter's elements in a flat buffer."""

    offset: int
    shape: torch.Size
    stride: tuple[int, ...]

    def of(self, buffer: Tensor, start: int = 0) -> Tensor:
        """The parameter's part of a buffer whose first element is element ``start`` of the arena."""
        return buffer.as_strided(self.shape, self.stride, buffer.storage_offset() + self.offset - start)

    def alone(self, buffer: Tensor) -> Tensor:
        """The same memory as a tensor with a storage of its own, so that a file of it holds nothing else.

        Writing a tensor writes its whole storage; what goes through DLPack gets one of its own size.
        """
        part = torch.utils.dlpack.from_dlpack(buffer[self.offset : self.offset + self.shape.numel()])
        return part.as_strided(self.shape, self.stride)


class Layout(NamedTuple):
    """The order of the parameters: those that may be kept in half precision, then the others."""

    places: dict[str, Place]
    split: int
    """Elements in the first part."""
    segments: Segments
    dtype: torch.dtype

    @classmethod
    def of(
        cls, weights: Mapping[str, nn.Parameter], full_precision: Collection[str], *, channels_last: bool
    ) -> Layout:
        """A segment for each of ``weights``; :class:`UserError` unless they are of one dtype and device."""
        first = weights[next(iter(weights))]
        for name, weight in weights.items():
            if (weight.dtype, weight.device) != (first.dtype, first.device):
                raise UserError(
                    f"{name} is {weight.dtype} on {weight.device}, others {first.dtype} on {first.device}; move the "
                    "model to one device and dtype"
                )
        names = sorted(weights, key=lambda name: name in full_precision)  # a stable sort
        segments = Segments.of(
            [weights[name].numel() for name in names],
            perturbed=[weights[name].dim() > 1 for name in names],
            device=first.device,
        )
        blocks = [-(-weights[name].numel() // BLOCK) for name in names]
        # Each weight begins at a block's beginning: kernels then look up a weight a block, not one an element.
        places = {
            name: Place(
                sum(blocks[:number]) * BLOCK,
                weights[name].shape,
                _stride(weights[name], channels_last=channels_last),
            )
            for number, name in enumerate(names)
        }
        num_first = sum(name not in full_precision for name in names)
        return cls(places, sum(blocks[:num_first]) * BLOCK, segments, first.dtype)

    def views(self, first: Tensor, rest: Tensor) -> dict[str, Tensor]:
        """Each parameter's part of a buffer in two pieces, by name."""
        return {
            name: place.of(first) if place.offset < self.split or not len(rest) else place.of(rest, self.split)
            for name, place in self.places.items()
        }

    def fits(self, weights: Mapping[str, Tensor]) -> bool:
        """Whether ``weights`` are parameters of these names, shapes, dtype and device."""
        device = self.segments.perturbed.device
        return weights.keys() == self.places.keys() and all(
            weight.shape == self.places[name].shape and weight.dtype == self.dtype and weight.device == device
            for name, weight in weights.items()
        )


def _stride(weight: Tensor, *, channels_last: bool) -> tuple[int, ...]:
    """Its own where it fills its memory; those of channels_last for 4 dimensions where that is wanted."""
    wanted = torch.channels_last if channels_last and weight.dim() == 4 else torch.preserve_format
    return torch.empty_like(weight, device="meta", memory_format=wanted).stride()


def require_fit(kind: str, found: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """:class:`UserError` where ``found``, a ``kind`` by weight, has a name or a shape that ``weights`` have not."""
    for name, tensor in found.items():
        if name not in weights or tensor.shape != weights[name].shape:
            raise UserError(f"{kind} of {name} does not fit the model: the state is another network's")


def full_precision_names(model: nn.Module) -> set[str]:
    """The parameters that stay in full precision: of normalisations, and of the last ``nn.Linear``, the head."""
    modules = list(model.modules())
    heads = [module for module in modules if isinstance(module, nn.Linear)][-1:]
    kept = _identities(module for module in modules if isinstance(module, _NORMS)) | _identities(heads)
    return {name for name, weight in model.named_parameters() if id(weight) in kept}


def _identities(modules: Iterable[nn.Module]) -> set[int]:
    return {id(weight) for module in modules for weight in module.parameters(recurse=False)}
