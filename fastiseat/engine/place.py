"""Other tensors in a module's place for a while: weights for its own, and copies of its buffers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fastiseat.errors import UserError
from fastiseat.fusion.undo import refill


@contextmanager
def weights_in_place(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """``weights``, by name, are the module's for the block, a tied one everywhere; its own are back afterwards.

    Raises:
        UserError: it is not the module's own code that reads them there, or that has put another tensor in one's place
            or written to it: then it did not compute at these weights.
    """
    # By identity: named_parameters tells one name of a tied parameter, and each of its places has to change.
    names = {id(weight): name for name, weight in model.named_parameters()} if weights else {}
    places = [
        (module._parameters, key, name)
        for module in (model.modules() if weights else ())
        for key, weight in dict(module._parameters).items()
        if isinstance(module._parameters, dict) and (name := names.get(id(weight), "")) in weights
    ]
    if missing := weights.keys() - {name for *_, name in places}:
        raise UserError(
            f"parameter {min(missing)} can't be replaced, as TorchScript's can't: pass the eager module"
        )
    # Noted before anything is replaced, and put back whatever ends the block.
    own = [parameters[key] for parameters, key, _ in places]
    # A write in place leaves the identity as it was; autograd's counter of versions tells of it.
    before = _versions(weights.values())
    try:
        for parameters, key, name in places:
            parameters[key] = weights[name]  # type: ignore[assignment]  # as torch.func.functional_call does
        yield
        replaced = [name for parameters, key, name in places if parameters.get(key) is not weights[name]]
    finally:
        for (parameters, key, _), weight in zip(places, own, strict=True):
            parameters[key] = weight
    after = _versions(weights.values())
    replaced += [name for name, was, now in zip(weights, before, after, strict=True) if was != now]
    if replaced:
        raise UserError(
            f"the model replaces or overwrites its parameter {replaced[0]} while it runs, where perturbed weights are "
            "in its place: do so between steps, or train with gamma=0"
        )


def _versions(tensors: Iterable[Tensor]) -> list[tuple[int, int]]:
    """Where the values lie, and how often they were written."""
    return [(tensor.data_ptr(), tensor._version) for tensor in tensors]


class Buffers:
    """A module's buffers as they are now, to be put into their place again later on."""

    def __init__(self, model: nn.Module) -> None:
        # TorchScript's are no dicts, and what is compiled does not run anew.
        self._found = [(m._buffers, dict(m._buffers)) for m in model.modules() if isinstance(m._buffers, dict)]
        tensors = {id(b): b for _, found in self._found for b in found.values() if b is not None}
        self._values = dict(zip(tensors, copies(list(tensors.values())), strict=True))

    @torch.no_grad()
    def restore(self) -> None:
        """The module's own are what they were, in the memory where they were."""
        for buffers, found in self._found:
            # Into the same dicts: fused modules and the guards of recordings know them by identity.
            refill(buffers, found)
            for buffer in found.values():
                if buffer is not None:
                    buffer.copy_(self._values[id(buffer)])

    @contextmanager
    def in_place(self, *, last: bool = False) -> Iterator[None]:
        """The module has copies of them for the block, and then its own again; ``last`` spares the copies."""
        # Copies, since a recomputation writes to what it is given, and another backward may need the same again.
        values = list(self._values.values())
        fresh = dict(zip(self._values, values if last else copies(values), strict=True))
        own = [dict(buffers) for buffers, _ in self._found]
        try:
            for buffers, found in self._found:
                refill(buffers, {name: None if b is None else fresh[id(b)] for name, b in found.items()})
            yield
        finally:
            for (buffers, _), mine in zip(self._found, own, strict=True):
                refill(buffers, mine)


@torch.no_grad()
def copies(tensors: list[Tensor]) -> list[Tensor]:
    """Of each, by one launch a dtype."""
    dense = [tensor.layout == torch.strided for tensor in tensors]
    found = [torch.empty_like(t) if plain else t.clone() for t, plain in zip(tensors, dense, strict=True)]
    by_dtype: dict[tuple[torch.dtype, torch.device], list[tuple[Tensor, Tensor]]] = {}
    for copy, tensor, plain in zip(found, tensors, dense, strict=True):
        if plain:
            by_dtype.setdefault((tensor.dtype, tensor.device), []).append((copy, tensor))
    for pairs in by_dtype.values():
        torch._foreach_copy_([copy for copy, _ in pairs], [tensor for _, tensor in pairs])
    return [copy.requires_grad_(tensor.requires_grad) for copy, tensor in zip(found, tensors, strict=True)]
