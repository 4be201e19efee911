"""The training step as one would write it from the papers, with PyTorch's defaults and none of this library's engine.

The weight perturbation is taken on a proxy copy of the model and added to the weights in place, as in the AWP
paper's code; the clean logits are computed once more on the copy, because the weights have moved by then.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastiseat.engine.precision import strict_float32

# fp16 alone: the attack and ν depend on a gradient's direction only, so a fixed factor is scaler enough.
FP16_SCALE = 8192.0


class EagerBaseline:
    """AT (λ = γ = 0), AT-AWP (γ alone), LSI (λ alone) or ISEAT; trains ``model`` itself, in train mode throughout.

    ``lam``, ``gamma``, ``eps`` and ``step_size`` are plain attributes and may change between steps, the learning
    rate is in ``optimizer``. Process-wide settings (cuDNN's benchmark mode, TF32) are left to the caller.
    """

    # Whether the attack's first graph, which is the clean pass's, may live on while θ stays where it is.
    keeps_clean_graph = True

    def __init__(
        self,
        model: nn.Module,
        *,
        eps: float,
        step_size: float,
        steps: int = 10,
        lam: float = 0.0,
        gamma: float = 0.0,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        attack_weight_gradients: bool = False,
        amp_dtype: torch.dtype | None = None,
        channels_last: bool = False,
        strict: bool = False,
    ) -> None:
        """``attack_weight_gradients``: the attack calls ``backward()`` and drops what it did not want.

        ``strict``: no TF32, whatever the process allows.
        """
        device = next(model.parameters()).device
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        if channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = model
        self.proxy = copy.deepcopy(self.model)
        self.eps, self.step_size, self.steps = eps, step_size, steps
        self.lam, self.gamma = lam, gamma
        self.attack_weight_gradients = attack_weight_gradients
        self.strict = strict
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay
        )
        self.amp_dtype = amp_dtype
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp_dtype is torch.float16)
        # How the three kinds of pass call a network; the compiled baselines replace these.
        self.run_model: Callable[[Tensor], Any] = self.model
        self.run_proxy: Callable[[Tensor], Any] = self.proxy
        self.run_attack: Callable[[Tensor], Any] = self.model

    def step(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Train on images (m, C, H, W) in [0, 1] and labels (m,); losses, ``x_adv`` and, where λ ≠ 0, ``av``."""
        with strict_float32() if self.strict else nullcontext():
            return self._step(x, y)

    def _step(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        x = x.contiguous(memory_format=self.memory_format)
        self.model.train()
        self.proxy.train()
        self.optimizer.zero_grad()
        x_adv, z_clean = self._attack(x, y)
        if self.gamma != 0 or (self.lam != 0 and z_clean is None):
            self.proxy.load_state_dict(self.model.state_dict())
        nu = self._weight_perturbation(x_adv, y) if self.gamma != 0 else []
        self.proxy.zero_grad()
        if self.lam != 0 and z_clean is None:
            z_clean = self._logits(self.run_proxy, x)

        self._move_weights(nu, +1)
        z_adv = self._logits(self.run_model, x_adv)
        losses = F.cross_entropy(z_adv, y, reduction="none")
        metrics = {"x_adv": x_adv, "loss_adversarial": losses.mean()}
        loss = metrics["loss_adversarial"]
        if z_clean is not None:
            metrics["av"] = losses.detach() - F.cross_entropy(z_clean.detach(), y, reduction="none")
            metrics["loss_stability"] = self.lam * _stability(metrics["av"], z_adv, z_clean)
            loss = loss + metrics["loss_stability"]
        metrics["loss"] = loss

        self.scaler.scale(loss).backward()
        self._add_gradients_of_proxy()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._move_weights(nu, -1)
        return {name: value.detach() for name, value in metrics.items()}

    def _logits(self, run: Callable[[Tensor], Any], x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None):
            logits: Tensor = run(x)
        return logits.to(x.dtype)

    def _attack(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
        """x' of PGD from δ = 0, and the clean logits with their graph where that is still good at the end."""
        keep = self.keeps_clean_graph and self.lam != 0 and self.gamma == 0
        delta, x_adv, z_clean = torch.zeros_like(x), x, None
        for k in range(self.steps):
            g, logits = self._input_gradient(x_adv, y, keep_graph=keep and k == 0)
            if keep and k == 0:
                z_clean = logits
            delta = (delta + self.step_size * g.sign()).clamp(-self.eps, self.eps)
            x_adv = (x + delta).clamp(0, 1)
            delta = x_adv - x
        return x_adv, z_clean

    def _input_gradient(self, x: Tensor, y: Tensor, *, keep_graph: bool) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        logits = self._logits(self.run_attack, x)
        loss = self._scaled(F.cross_entropy(logits, y))
        if self.attack_weight_gradients:
            loss.backward(retain_graph=keep_graph)
            self.model.zero_grad()
            assert x.grad is not None
            return self._finite(x.grad), logits
        (g,) = torch.autograd.grad(loss, x, retain_graph=keep_graph)
        return self._finite(g), logits

    def _weight_perturbation(self, x_adv: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(weight, ν) for each weight with more than one dimension; ν = γ ‖θ‖ g / ‖g‖, norms per tensor."""
        self.proxy.zero_grad()
        self._scaled(F.cross_entropy(self._logits(self.run_proxy, x_adv), y)).backward()
        return self._nu([of_proxy.grad for of_proxy in self.proxy.parameters()])

    def _nu(self, gradients: Sequence[Tensor | None]) -> list[tuple[Tensor, Tensor]]:
        nu: list[tuple[Tensor, Tensor]] = []
        for weight, gradient in zip(self.model.parameters(), gradients, strict=True):
            if gradient is not None and weight.dim() > 1:
                g = self._finite(gradient)
                nu.append((weight, self.gamma * weight.detach().norm() / (g.norm() + 1e-20) * g))
        return nu

    @torch.no_grad()
    def _move_weights(self, nu: list[tuple[Tensor, Tensor]], sign: int) -> None:
        for weight, perturbation in nu:
            weight.add_(perturbation, alpha=sign)

    def _add_gradients_of_proxy(self) -> None:
        """∂L/∂θ through the clean logits, where these were the proxy's."""
        for weight, of_proxy in zip(self.model.parameters(), self.proxy.parameters(), strict=True):
            if weight.grad is not None and of_proxy.grad is not None:
                weight.grad.add_(of_proxy.grad)

    def _scaled(self, loss: Tensor) -> Tensor:
        return loss * FP16_SCALE if self.scaler.is_enabled() else loss

    def _finite(self, g: Tensor) -> Tensor:
        return g.nan_to_num(0.0, 0.0, 0.0) if self.scaler.is_enabled() else g


def _stability(av: Tensor, z_adv: Tensor, z_clean: Tensor) -> Tensor:
    """Mean of w_i ‖z'_i - zc_i‖², where w falls from 1 to 1/m with the rank of AV, highest first."""
    ranks = av.argsort(descending=True, stable=True).argsort()
    weights = 1 - ranks.to(av.dtype) / len(av)
    return (weights * (z_adv - z_clean).square().sum(dim=1)).mean()
