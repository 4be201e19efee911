"""Clean, FGSM and PGD accuracy of a network in eval mode, sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastiseat.attacks import pgd, random_start
from fastiseat.config import PGD
from fastiseat.engine.accept import as_network_input
from fastiseat.engine.borrow import counter_seed, modes_restored
from fastiseat.errors import UserError, unknown
from fastiseat.pipelines.base import Split

ATTACKS = ("clean", "fgsm", "pgd")


@dataclass(frozen=True, kw_only=True)
class Attack:
    """L∞ attack on the cross entropy: ``steps`` of ``step_size`` in a ball of ``eps``; 0 steps is no attack.

    The first restart starts at δ = 0, further ones at U(-ε, ε). A sample counts as robust where the last
    iterate of every restart is classified correctly.
    """

    name: str
    eps: float = 0.0
    step_size: float = 0.0
    steps: int = 0
    restarts: int = 1

    def __post_init__(self) -> None:
        PGD(eps=self.eps, step_size=self.step_size)  # the one place that knows which ε and α are allowed
        for field, value, least in (("steps", self.steps, 0), ("restarts", self.restarts, 1)):
            if not value >= least:
                raise UserError(f"{field}={value}: must be at least {least}")
        if self.steps and self.eps and not self.step_size:
            raise UserError(f"step_size=0 with eps={self.eps:.4g}: the attack would never move; use eps/4 or so")


def attack_named(
    name: str, *, eps: float, steps: int = 10, step_size: float | None = None, restarts: int = 1
) -> Attack:
    """``clean``; ``fgsm``, one step of ε; ``pgd``, whose step is ε/4 by default (the paper's validation)."""
    if name == "clean":
        return Attack(name="clean")
    if name == "fgsm":
        return Attack(name="fgsm", eps=eps, step_size=eps, steps=1)
    if name == "pgd":
        if steps < 1:
            raise UserError(f"steps={steps}: must be at least 1; the attack of no steps is called clean")
        step = eps / 4 if step_size is None else step_size
        return Attack(name=f"pgd-{steps}", eps=eps, step_size=step, steps=steps, restarts=restarts)
    raise unknown("attack", name, ATTACKS)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for the block; each submodule's own flag afterwards."""
    with modes_restored(model):
        model.eval()
        yield


def correct_under(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, *, seed: int = 0) -> Tensor:
    """bool (m,): which of images ``x`` (m, C, H, W) the model, in the mode it is in, still gets right."""

    def gradient(adversarial: Tensor) -> Tensor:
        adversarial = adversarial.detach().requires_grad_()
        with torch.enable_grad():
            loss = F.cross_entropy(model(adversarial), y, reduction="sum")
        return torch.autograd.grad(loss, adversarial)[0]

    correct = torch.ones_like(y, dtype=torch.bool)
    for restart in range(attack.restarts):
        start = torch.zeros_like(x)
        if restart:
            generator = torch.Generator(x.device).manual_seed(counter_seed(seed, restart))
            start = random_start(x, eps=attack.eps, generator=generator)
        found = pgd(gradient, x, start, eps=attack.eps, step_size=attack.step_size, steps=attack.steps)
        with torch.no_grad():
            correct &= model(found.x_adv).argmax(1) == y
    return correct


def evaluate_split(
    model: nn.Module,
    split: Split,
    attack: Attack,
    *,
    batch_size: int = 512,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> npt.NDArray[np.bool_]:
    """bool (n,): the verdict on every sample of ``split``; ``progress`` is told how many are done."""
    weight = next(model.parameters())
    verdicts = []
    with evaluating(model):
        for first in range(0, len(split), batch_size):
            part = split.take(np.arange(first, min(first + batch_size, len(split))))
            x = as_network_input(torch.from_numpy(part.images).to(weight.device), weight)
            y = torch.from_numpy(part.labels).to(weight.device)
            verdicts.append(correct_under(model, x, y, attack, seed=counter_seed(seed, first)))
            progress(first + len(part))
    return torch.cat(verdicts).cpu().numpy()
