"""Hooks that somebody has put on parameters: they see the gradient of a whole loss, as in a backward of their own."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


def without_hooks(weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """``weights``, or leaves of the same memory where one has hooks: these would see each pass's gradient alone."""
    if not any(weight._backward_hooks for weight in weights.values()):
        return weights
    return {name: weight.detach().requires_grad_() for name, weight in weights.items()}


def through_hooks(model: nn.Module, *groups: Mapping[str, Tensor]) -> list[Mapping[str, Tensor]]:
    """Gradients at two places, such as θ+ν and θ, as they are; with hooks on a parameter their sum, changed by them."""
    weights = dict(model.named_parameters())
    hooked = [name for name, weight in weights.items() if weight._backward_hooks]
    if not hooked:
        return list(groups)
    total: dict[str, Tensor] = {}
    for name, gradient in (pair for group in groups for pair in group.items()):
        # A user's hook sees what a backward would give it: the parameter's own dtype.
        gradient = gradient.to(weights[name].dtype)
        total[name] = total[name] + gradient if name in total else gradient
    for name in total.keys() & set(hooked):
        for hook in list((weights[name]._backward_hooks or {}).values()):
            changed = hook(total[name])
            total[name] = total[name] if changed is None else changed
    return [total, *[{} for _ in groups[1:]]]
