"""NVIDIA Apex in place of the own update: its norms of many tensors at once, and its SGD at θ+ν.

Apex is built from source, https://github.com/NVIDIA/apex; what the package index calls apex is another project.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastiseat.errors import UserError
from fastiseat.kernels.weight_perturb.reference import TINY

DEVICES = ("cuda",)
"""Where Apex has kernels."""
OWN = "or take optimizer own"
REMEDY = f"build it from source with its CUDA code, https://github.com/NVIDIA/apex, {OWN}"


class Modules(NamedTuple):
    """What is used of Apex."""

    applier: Any
    """``multi_tensor_applier(op, flag, tensor_lists, *arguments)``."""
    l2norm: Any
    """``amp_C.multi_tensor_l2norm``: (norm over all (1,), norms by tensor (n,)), both float32."""
    sgd: Any
    """``apex.optimizers.FusedSGD``."""


def modules() -> Modules:
    """Import Apex; :class:`UserError` where it is missing, another package or without its CUDA code."""
    if problem := _problem():
        raise UserError(f"optimizer=apex: {problem}")
    try:
        return Modules(
            applier=import_module("apex.multi_tensor_apply").multi_tensor_applier,
            l2norm=import_module("amp_C").multi_tensor_l2norm,
            sgd=import_module("apex.optimizers").FusedSGD,
        )
    except (ImportError, AttributeError) as error:
        raise UserError(f"optimizer=apex: Apex cannot be imported ({error}); {REMEDY}") from error


def _problem() -> str:
    """What is wrong with the installed Apex, found without running what may be anybody's code."""
    spec = find_spec("apex")
    if spec is None or spec.origin is None:
        return f"Apex is not installed; {REMEDY}"
    if not (Path(spec.origin).parent / "optimizers" / "fused_sgd.py").exists():
        return f"the installed apex is another package, not NVIDIA's; pip uninstall apex, then {REMEDY}"
    if find_spec("amp_C") is None:
        return f"Apex was built without its CUDA code (no amp_C); {REMEDY}"
    return ""


def require_apex(device: torch.device) -> None:
    """:class:`UserError` where it can't serve float32 weights on ``device``."""
    _require_device(device)
    modules()


def _require_device(device: torch.device) -> None:
    if device.type not in DEVICES:
        raise UserError(f"optimizer=apex: it needs a CUDA device, the weights lie on {device}; {OWN}")


class Apex:
    """:func:`fastiseat.weights.weight_perturbation` and :func:`fastiseat.weights.sgd_step` by Apex's kernels.

    For float32 weights on a CUDA device. Its learning rate and momentum are numbers of the host, which a captured graph
    would freeze.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        """:class:`UserError` where Apex or its like cannot serve these weights."""
        tensors = [weight.detach() for weight in weights.values()]
        for tensor in tensors:
            _require_device(tensor.device)
            if tensor.dtype != torch.float32:  # which its SGD would pass over in silence
                raise UserError(f"optimizer=apex: it serves float32, the weights are {tensor.dtype}; {OWN}")
        self._modules = modules()
        self._flag = torch.zeros(1, dtype=torch.int32, device=tensors[0].device)
        self._sgd = self._modules.sgd(tensors, lr=0.0)
        self._forget()

    @torch.no_grad()
    def weight_perturbation(
        self, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor], *, gamma: float, norm: str
    ) -> dict[str, Tensor]:
        """ν = γ ‖θ‖ / ‖g‖ · g by name, as the function of that name has it."""
        gradients_norm, by_gradient = self._norms(list(gradients.values()))
        if norm == "global":
            ratio = gamma * self._norms(list(weights.values()))[0] / (gradients_norm + TINY)
            return {name: ratio * gradient for name, gradient in gradients.items()}
        by_weight = self._norms([weights[name] for name in gradients])[1]
        ratios = (gamma * by_weight / (by_gradient + TINY)).unbind()
        return {name: r * gradient for r, (name, gradient) in zip(ratios, gradients.items(), strict=True)}

    @torch.no_grad()
    def sgd_step(
        self,
        weights: Mapping[str, Tensor],
        perturbed: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        momentum_buffers: dict[str, Tensor],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        nesterov: bool = False,
    ) -> None:
        """Step at θ+ν and take ν off again, as the function of that name does; ``perturbed`` is used up."""
        moving = {name: perturbed[name].detach() for name in gradients}
        moved = [name for name in gradients if perturbed[name] is not weights[name]]
        # Kept apart, as Apex steps in place at θ+ν.
        nu = [moving[name] - weights[name].detach() for name in moved]
        for name, theta in moving.items():
            theta.grad = _laid_out_as(theta, gradients[name])
            if momentum:
                # A buffer of zeros first: Apex asks only one tensor of all whether this is the first step.
                buffer = momentum_buffers.get(name)
                buffer = torch.zeros_like(theta) if buffer is None else _laid_out_as(theta, buffer)
                self._sgd.state[theta]["momentum_buffer"] = momentum_buffers[name] = buffer
        (group,) = self._sgd.param_groups
        group.update(params=list(moving.values()), lr=lr, momentum=momentum, weight_decay=weight_decay)
        group["nesterov"] = nesterov
        self._sgd.step()
        self._forget()
        if moved:
            torch._foreach_sub_([moving[name] for name in moved], nu)
            torch._foreach_copy_([weights[name] for name in moved], [moving[name] for name in moved])

    def _norms(self, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        dense = [tensor.detach() for tensor in tensors]
        found: tuple[Tensor, Tensor] = self._modules.applier(self._modules.l2norm, self._flag, [dense], True)
        return found

    def _forget(self) -> None:
        """Hold nothing of a step: its tensors are another's at the next one."""
        for tensor in self._sgd.param_groups[0]["params"]:
            tensor.grad = None
        self._sgd.param_groups[0]["params"] = []
        self._sgd.state.clear()


def _laid_out_as(like: Tensor, tensor: Tensor) -> Tensor:
    """``tensor`` with the strides of ``like``: Apex pairs elements by their place in memory."""
    return tensor if tensor.stride() == like.stride() else torch.empty_like(like).copy_(tensor)
