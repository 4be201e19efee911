"""One training step, in the order of the paper's Algorithm 1. The engine ``eager`` is the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastiseat.attacks import pgd, random_start
from fastiseat.config import AWP, PGD, SGD
from fastiseat.engine import accept
from fastiseat.engine.borrow import counter_seed, modes_restored, own_randomness
from fastiseat.engine.passes import InputGradient, Passes
from fastiseat.engine.precision import LossScale, autocast
from fastiseat.errors import UserError, unknown
from fastiseat.methods import ISEAT, Method
from fastiseat.weights import perturbable, update

ENGINES = ("eager",)
# Which value each scalar of :meth:`TrainStep.set` belongs to.
SCALARS = {"lr": "optimizer", "eps": "attack", "step_size": "attack", "lam": "method", "gamma": "awp"}


class TrainStep:
    """Attack, weight perturbation, objective and update for any ``nn.Module`` that returns logits.

    ``step(images, labels)`` trains on one batch and returns metrics as device tensors: ``loss`` and
    ``loss_<term>`` (scalars), ``accuracy_adversarial`` if the method attacks, ``nan_gradient`` (bool) if this step
    did so, except in fp16, and where the clean logits are at hand ``accuracy_clean``, ``loss_clean`` and ``av``, the
    per-sample AV of Eq. 13 (m,).

    The module's parameters must all be float32 or all float64; each submodule's train/eval flag, the global
    random state and the frozen parameters are left as found, and θ+ν is never written into the module.
    BatchNorm's running statistics are updated by the clean pass, by each further attack pass and by the final
    one, in this order (11 times at K = 10; released code). With ``attack.bn_mode="eval"`` the whole attack
    runs on the running statistics that the step found, and the clean pass of a method that needs one follows
    it, in train mode.

    Raises :class:`fastiseat.errors.UserError` for a module or batch that it can't take, saying why. Pixel and
    label ranges are checked at every call on a CPU, at the first one on a GPU, where the check has to wait.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        method: Method | None = None,
        attack: PGD | None = None,
        awp: AWP | None = None,
        optimizer: SGD | None = None,
        precision: str = "full",
        engine: str = "eager",
        seed: int = 0,
    ) -> None:
        """``None`` takes the default: ``ISEAT()``, ``PGD()``, no weight perturbation, ``SGD()``.

        ``precision`` is ``full`` (the parameters' own), ``bf16`` or ``fp16``: our own networks run on a copy of
        the weights that is rounded once a step, others by autocast, which rounds them alike.
        Parameters, δ, losses and ranks stay in full precision.
        """
        if engine not in ENGINES:
            raise unknown("engine", engine, ENGINES)
        self.model = model
        self.weights = accept.trainable(model)
        self.method = ISEAT() if method is None else method
        self.attack = PGD() if attack is None else attack
        self.awp = AWP(gamma=0) if awp is None else awp
        self.optimizer = SGD() if optimizer is None else optimizer
        self.seed = seed
        self.steps_taken = 0
        self.num_classes: int | None = None  # known from the first call on
        self._device = next(iter(self.weights.values())).device
        self._generator = torch.Generator(self._device)
        self._passes = Passes(model, precision=precision, device=self._device)
        self._loss_scale = LossScale(enabled=precision == "fp16")
        self._update = update(
            self.optimizer.implementation, self.weights, full_precision=self._passes.full_precision
        )

    @property
    def momentum_buffers(self) -> dict[str, Tensor]:
        """The momentum by parameter name, of those that have been updated with any."""
        return self._update.momentum_buffers

    def set(self, **scalars: float) -> None:
        """Change lr, eps, step_size, lam or gamma from the next call on; all of them or, on an error, none."""
        changed: dict[str, Any] = {}
        for name, value in scalars.items():
            if name not in SCALARS:
                raise unknown("scalar", name, SCALARS)
            owner = SCALARS[name]
            current = changed.get(owner, getattr(self, owner))
            if name not in current.__dataclass_fields__:
                raise UserError(f"{name}={value}: method {type(current).__name__} has no {name}")
            changed[owner] = replace(current, **{name: value})
        for owner, value in changed.items():
            setattr(self, owner, value)

    def __call__(
        self, images: Tensor, labels: Tensor, delta: Tensor | None = None, *, start: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Train on ``images`` (m, C, H, W) in [0, 1], or uint8 (m, H, W, C), and ``labels`` (m,) int64.

        ``delta`` is a finished perturbation, which takes the place of the attack; ``start`` the first one,
        which the attack then climbs from.
        """
        self.weights = accept.trainable(self.model)
        self._update.refresh(self.weights, half=self._passes.half())
        x = accept.as_network_input(images, next(iter(self.weights.values())))
        accept.check_batch(x, labels, delta, start)
        self._admit(x, labels)
        seed = counter_seed(self.seed, self.steps_taken)
        self._generator.manual_seed(seed)
        with (
            modes_restored(self.model),
            own_randomness(self._device, seed),
            torch.enable_grad(),
            autocast("full", self._device),  # backwards run outside of the passes' own
            self._passes.at(self._update.theta()),
        ):
            self.model.train()
            metrics = self._step(x, labels, delta, start)
        self.steps_taken += 1
        return metrics

    def _step(self, x: Tensor, y: Tensor, delta: Tensor | None, start: Tensor | None) -> dict[str, Tensor]:
        x_adv, clean_logits, nan_gradient = self._attack(x, y, delta, start)  # δ_i = PGD(x_i, y_i)
        theta_nu = self._weight_perturbation(x_adv, y)  # θ+ν, ν = γ ‖θ‖ g / ‖g‖
        logits = self._passes(x_adv, theta_nu)  # f(x+δ; θ+ν)
        terms = self.method.objective(logits, clean_logits if self.method.needs_clean else None, y)
        loss = torch.stack(list(terms.values())).sum()  # L
        # Those at θ+ν and at θ are added (Eq. 17); of the same leaves one backward gives the sum.
        theta = self._passes.theta if self.method.needs_clean and theta_nu is not self._passes.theta else {}
        at_theta_nu, at_theta = self._loss_scale.gradients(loss, theta_nu, theta)
        if self._loss_scale.accept([*at_theta_nu.values(), *at_theta.values()]):
            self._update.descend(at_theta_nu, at_theta, self.optimizer)  # θ ← (θ+ν) - l ∇L - ν
        metrics = {"loss": loss.detach()} | {f"loss_{name}": term.detach() for name, term in terms.items()}
        if nan_gradient is not None and not self._loss_scale.enabled:  # in fp16 a scaled gradient may overflow
            metrics["nan_gradient"] = nan_gradient
        if not self.method.attacked:
            return metrics | {"accuracy_clean": _accuracy(logits, y)}
        return metrics | _attack_metrics(logits, clean_logits, y)

    def _attack(
        self, x: Tensor, y: Tensor, delta: Tensor | None, start: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(x', logits of the clean images or None, whether a gradient of the attack was NaN or None).

        The clean logits have their graph where the method needs it.
        """
        if not self.method.attacked:
            return x, None, None
        if delta is not None:
            clean = self._passes(x) if self.method.needs_clean else None
            return (x + delta.detach()).clamp(0, 1), clean, None
        start = self._start(x) if start is None else start.detach()
        attack = self.attack
        train_mode = attack.bn_mode == "train"
        gradient = InputGradient(self._passes, self.method, y, keep_graph=train_mode and self.method.needs_clean)
        self.model.train(train_mode)
        _, x_adv, nan = pgd(gradient, x, start, eps=attack.eps, step_size=attack.step_size, steps=attack.steps)
        if train_mode:
            return x_adv, gradient.first_logits, nan
        # An eval-mode graph would not survive the update of the running statistics: a pass of its own.
        self.model.train()
        return x_adv, self._passes((x + start).clamp(0, 1)) if self.method.needs_clean else None, nan

    def _start(self, x: Tensor) -> Tensor:
        if self.attack.random_start:
            return random_start(x, eps=self.attack.eps, generator=self._generator)
        return torch.zeros_like(x)

    def _weight_perturbation(self, x_adv: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        """θ+ν by name, θ itself where γ = 0. Its pass leaves no trace in BatchNorm's running statistics."""
        weights = perturbable(self._passes.theta)
        if self.awp.gamma == 0 or not weights:
            return self._update.theta()
        loss = F.cross_entropy(self._passes(x_adv, trace=False), y)
        (gradients,) = self._loss_scale.gradients(loss, weights)
        gradients = self._loss_scale.finite_or_zero(gradients)
        return self._update.perturbed(gradients, gamma=self.awp.gamma, norm=self.awp.norm)

    def _admit(self, x: Tensor, labels: Tensor) -> None:
        """Check the values of a batch; on the first call try the network on it, leaving no trace."""
        if self.num_classes is None:
            with modes_restored(self.model), own_randomness(self._device, self.seed), torch.no_grad():
                self.model.train()
                logits = self._passes.raw(x, trace=False)
            self.num_classes = accept.count_classes(logits, len(labels))
        elif self._device.type != "cpu":
            return
        accept.check_values(x, labels, self.num_classes)

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on beside the module and the arguments: momentum, step count, loss scale."""
        return {
            "momentum_buffers": self.momentum_buffers,
            "steps_taken": self.steps_taken,
            "loss_scale": self._loss_scale.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as the step that ``state_dict`` was taken of; :class:`UserError` if weights don't match."""
        self._update.load_momentum(state["momentum_buffers"])
        self.steps_taken = state["steps_taken"]
        self._loss_scale.load_state_dict(state["loss_scale"])


def _accuracy(logits: Tensor, y: Tensor) -> Tensor:
    return (logits.argmax(1) == y).to(logits.dtype).mean()


@torch.no_grad()
def _attack_metrics(logits: Tensor, clean_logits: Tensor | None, y: Tensor) -> dict[str, Tensor]:
    metrics = {"accuracy_adversarial": _accuracy(logits, y)}
    if clean_logits is not None:
        clean_losses = F.cross_entropy(clean_logits, y, reduction="none")
        metrics["loss_clean"] = clean_losses.mean()
        metrics["accuracy_clean"] = _accuracy(clean_logits, y)
        metrics["av"] = F.cross_entropy(logits, y, reduction="none") - clean_losses
    return metrics
