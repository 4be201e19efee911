"""Algorithm 1 of ISEAT (Li & Spratling), transcribed: slow, with copied models, meant to be obviously right.

Written from the paper and the specification of the released code's step alone; it shares no code with the
engine it judges. θ are the weights, x the images in [0, 1], y the labels, m the batch size. A forward pass is
expected to be deterministic (no dropout) and to leave no state behind but BatchNorm's.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Algorithm1:
    """Trains `self.model`, a copy of `model`, one literal optimisation step at a time.

    The arguments become plain attributes; change them between steps to follow a schedule. γ = 0 turns the
    weight perturbation off, λ = 0 the stability term; with both off the step is plain adversarial training.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        nesterov: bool = False,
        eps: float,
        step_size: float,
        steps: int = 10,
        lam: float = 0.0,
        gamma: float = 0.0,
        awp_norm: str = "tensor",
        bn_mode: str = "train",
    ) -> None:
        """`awp_norm`: "tensor" (released code) or "global" (Eq. 11); `bn_mode`: the mode in the attack."""
        if awp_norm not in ("tensor", "global"):
            raise ValueError(f"awp_norm is 'tensor' or 'global', not {awp_norm!r}")
        if bn_mode not in ("train", "eval"):
            raise ValueError(f"bn_mode is 'train' or 'eval', not {bn_mode!r}")
        if steps < 1:
            raise ValueError(f"steps is at least 1, not {steps}: the clean pass is the first step's forward")
        self.model = copy.deepcopy(model)
        self.momentum_buffers: dict[str, Tensor] = {}
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.nesterov = nesterov
        self.eps = eps
        self.step_size = step_size
        self.steps = steps
        self.lam = lam
        self.gamma = gamma
        self.awp_norm = awp_norm
        self.bn_mode = bn_mode

    def step(self, x: Tensor, y: Tensor, start: Tensor | None = None) -> dict[str, Any]:
        """One iteration of Algorithm 1's outer loop; `start` is the δ that PGD starts from, None for 0.

        Returns detached tensors. `logits_clean` and `av` are None where no train-mode clean pass exists
        (eval-mode attack, λ = 0), `weights` is None where λ = 0, and `nu` is empty where γ = 0.
        """
        x = x.detach()
        delta_0 = torch.zeros_like(x) if start is None else start.detach()
        x_clean = (x + delta_0).clamp(0, 1)

        # δ_i = PGD(x_i, y_i). In train mode its first forward, on x_clean, is the clean pass that updates the
        # BN statistics.
        self.model.train(self.bn_mode == "train")
        delta, x_adv = self._pgd(x, y, delta_0)
        self.model.train()

        # f(x; θ), with its graph, on a copy at θ whose BN statistics are thrown away. After an eval-mode
        # attack the statistics have not seen the clean batch yet, so the model itself runs it once as well.
        clean_model, z_clean, loss_clean_per_sample = None, None, None
        if self.bn_mode == "eval" and self.lam != 0:
            with torch.no_grad():
                self.model(x_clean)
        if self.bn_mode == "train" or self.lam != 0:
            clean_model = copy.deepcopy(self.model)
            z_clean = clean_model(x_clean)
            loss_clean_per_sample = F.cross_entropy(z_clean, y, reduction="none")

        # ν, Eq. 11; from here on the model is at θ + ν.
        nu = self._weight_perturbation(x_adv, y) if self.gamma != 0 else {}
        with torch.no_grad():
            for name, perturbation in nu.items():
                self.model.get_parameter(name).add_(perturbation)

        # f(x + δ; θ + ν) and L(x + δ; θ + ν)
        z_adv = self.model(x_adv)
        loss_per_sample = F.cross_entropy(z_adv, y, reduction="none")
        loss_adversarial = loss_per_sample.mean()

        # AV_i, Eq. 13
        av = None
        if loss_clean_per_sample is not None:
            av = (loss_per_sample - loss_clean_per_sample).detach()

        # The first term of Eq. 17, through θ' = θ + ν, and the second, through θ; f(x; θ) is a constant to
        # the one and f(x + δ; θ') to the other. ∂θ'/∂θ is the identity: ν is a constant.
        if self.lam == 0:
            weights = None
            loss_stability = torch.zeros_like(loss_adversarial)
            grads = grads_perturbed = _gradients(loss_adversarial, self.model)
        else:
            assert av is not None and clean_model is not None and z_clean is not None
            weights = _rank_weights(av)
            loss_stability = self._stability(weights, z_adv, z_clean.detach())
            grads_perturbed = _gradients(loss_adversarial + loss_stability, self.model)
            grads_clean = _gradients(self._stability(weights, z_adv.detach(), z_clean), clean_model)
            grads = {name: grads_perturbed[name] + grads_clean[name] for name in grads_perturbed}

        # Eq. 18: θ ← (θ + ν) - l ∂L/∂θ - ν
        self._sgd(grads)
        with torch.no_grad():
            for name, perturbation in nu.items():
                self.model.get_parameter(name).sub_(perturbation)

        return {
            "loss": (loss_adversarial + loss_stability).detach(),
            "loss_adversarial": loss_adversarial.detach(),
            "loss_stability": loss_stability.detach(),
            "delta": delta,
            "x_adv": x_adv,
            "nu": nu,
            "av": av,
            "weights": weights,
            "logits_adv": z_adv.detach(),
            "logits_clean": None if z_clean is None else z_clean.detach(),
            "grads": grads,
            "grads_perturbed": grads_perturbed,
        }

    def _pgd(self, x: Tensor, y: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """δ and x': x' = clamp(x + δ, 0, 1) and δ ← x' - x, at the start and after each δ ← clamp(δ + α sign g, -ε, ε).

        No early stop.
        """
        x_adv = (x + delta).clamp(0, 1)
        delta = x_adv - x
        for _ in range(self.steps):
            xi = x_adv.clone().requires_grad_()
            (g,) = torch.autograd.grad(F.cross_entropy(self.model(xi), y), xi)
            delta = (delta + self.step_size * g.sign()).clamp(-self.eps, self.eps)
            x_adv = (x + delta).clamp(0, 1)
            delta = x_adv - x
        return delta, x_adv

    def _weight_perturbation(self, x_adv: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Eq. 11, one ascent step, for each trainable tensor with more than one dimension.

        The gradient is taken on a proxy copy, so the pass leaves no trace in the BN statistics.
        """
        proxy = copy.deepcopy(self.model)
        theta = {name: p for name, p in proxy.named_parameters() if p.requires_grad and p.ndim > 1}
        loss = F.cross_entropy(proxy(x_adv), y)
        # A tensor the loss does not depend on has gradient zero, hence ν_l = 0.
        gradients = torch.autograd.grad(loss, list(theta.values()), materialize_grads=True)
        g = dict(zip(theta, gradients, strict=True))

        nu = {}
        for name in theta:
            if self.awp_norm == "tensor":
                norm_theta = _norm([theta[name]])
                norm_g = _norm([g[name]])
            else:
                norm_theta = _norm(list(theta.values()))
                norm_g = _norm(list(g.values()))
            nu[name] = self.gamma * norm_theta / (norm_g + 1e-20) * g[name]
        return nu

    def _stability(self, weights: Tensor, z_adv: Tensor, z_clean: Tensor) -> Tensor:
        """The second term of Eq. 15: (λ/m) Σ w_i o_i with o_i = ‖z'_i - zc_i‖², summed over the classes."""
        m = len(weights)
        terms = []
        for i in range(m):
            o_i = ((z_adv[i] - z_clean[i]) ** 2).sum()
            terms.append(self.lam * weights[i] * o_i)
        return torch.stack(terms).sum() / m

    @torch.no_grad()
    def _sgd(self, grads: dict[str, Tensor]) -> None:
        """torch.optim.SGD's step at the weights the model has now, θ + ν: the decay sees ν as well."""
        for name, gradient in grads.items():
            p = self.model.get_parameter(name)
            d = gradient + self.weight_decay * p
            if self.momentum != 0:
                b = d
                if name in self.momentum_buffers:
                    b = self.momentum * self.momentum_buffers[name] + d
                self.momentum_buffers[name] = b
                d = d + self.momentum * b if self.nesterov else b
            p.sub_(self.lr * d)


def _rank_weights(av: Tensor) -> Tensor:
    """Eq. 14: w_i = 1 - r(AV_i)/m, rank 0 for the highest AV; of equal values the lower index ranks first."""
    values = av.tolist()
    m = len(values)
    weights = torch.zeros_like(av)
    for rank, i in enumerate(sorted(range(m), key=lambda i: (-values[i], i))):
        weights[i] = 1 - rank / m
    return weights


def _gradients(loss: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """∂ loss/∂θ by name; without the frozen parameters and those that get no gradient, which SGD skips."""
    theta = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, list(theta.values()), allow_unused=True)
    return {name: g for name, g in zip(theta, gradients, strict=True) if g is not None}


def _norm(tensors: list[Tensor]) -> Tensor:
    """The Euclidean norm of the tensors taken together as one vector."""
    return torch.cat([t.detach().flatten() for t in tensors]).norm()
