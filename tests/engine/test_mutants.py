"""Plausible mistakes in the step, one at a time: the comparison with the oracle must see each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from oracles.compare import CASES, TOLERANCE, build, run_both
from torch import Tensor

from fastiseat import ISEAT
from fastiseat.engine import algorithm1 as engine
from fastiseat.engine.passes import Passes
from fastiseat.kernels import Segments
from fastiseat.kernels.stability_loss import reference as objective
from fastiseat.weights.optimizers import sgd as optimizer
from fastiseat.weights.perturbations import awp as perturbation


def detach_clean_logits(patch: pytest.MonkeyPatch) -> None:
    honest = ISEAT.objective
    patch.setattr(ISEAT, "objective", lambda self, at, y: honest(self, replace(at, clean=at.clean.detach()), y))


def decay_at_theta(patch: pytest.MonkeyPatch) -> None:
    honest = optimizer.sgd
    here = {"perturbation_grad": None, "ratio": None}
    patch.setattr(optimizer, "sgd", lambda *buffers, **others: honest(*buffers, **(others | here)))


def perturbation_pass_updates_statistics(patch: pytest.MonkeyPatch) -> None:
    honest = Passes.graph
    patch.setattr(Passes, "graph", lambda self, x, weights=None, *, scratch=None: honest(self, x, weights))


def reverse_ranks(patch: pytest.MonkeyPatch) -> None:
    honest = objective.rank_weights
    patch.setattr(objective, "rank_weights", lambda av: honest(-av))


def uniform_weights(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(objective, "rank_weights", torch.ones_like)


def perturb_vectors_too(patch: pytest.MonkeyPatch) -> None:
    honest = Segments.of
    patch.setattr(engine, "perturbable", dict)
    all_move = lambda sizes, *, perturbed, device: honest(sizes, perturbed=[True] * len(sizes), device=device)  # noqa: E731
    patch.setattr(Segments, "of", all_move)


def norms_over_everything(patch: pytest.MonkeyPatch) -> None:
    honest = perturbation.weight_perturb
    patch.setattr(
        perturbation, "weight_perturb", lambda *args, **others: honest(*args, **(others | {"norm": "global"}))
    )


def attack_scaled_by_gradient(patch: pytest.MonkeyPatch) -> None:
    loop = import_module("fastiseat.attacks.pgd")  # the package's name pgd is the function
    honest = loop.pgd_step

    def unsigned(images: Tensor, delta: Tensor, grad: Tensor, **scalars: float) -> tuple[Tensor, ...]:
        return honest(images, delta, torch.where(grad.abs() > 1e-3, grad, 0), **scalars)

    patch.setattr(loop, "pgd_step", unsigned)


def second_gradient_forgotten(patch: pytest.MonkeyPatch) -> None:
    honest = optimizer.sgd
    patch.setattr(optimizer, "sgd", lambda *args, **others: honest(*args, **(others | {"second_grad": None})))


def one_attack_step_less(patch: pytest.MonkeyPatch) -> None:
    honest = engine.pgd
    patch.setattr(engine, "pgd", lambda *a, steps, **scalars: honest(*a, steps=steps - 1, **scalars))


def nesterov(patch: pytest.MonkeyPatch) -> None:
    honest = optimizer.sgd

    def with_lookahead(*buffers, lr, momentum, **others) -> None:  # type: ignore[no-untyped-def]
        honest(*buffers, lr=lr * (1 + momentum), momentum=momentum, **others)

    patch.setattr(optimizer, "sgd", with_lookahead)


MUTANTS: list[Callable[[pytest.MonkeyPatch], None]] = [
    detach_clean_logits,
    decay_at_theta,
    perturbation_pass_updates_statistics,
    reverse_ranks,
    uniform_weights,
    perturb_vectors_too,
    norms_over_everything,
    attack_scaled_by_gradient,
    second_gradient_forgotten,
    one_attack_step_less,
    nesterov,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_oracle_sees(mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    try:
        difference = run_both(build("wrn-10-1"), *CASES["iseat"], m=5)
    except AssertionError:
        return  # the losses of a step already differ
    assert difference > 100 * TOLERANCE


def test_the_unchanged_engine_agrees() -> None:
    assert run_both(build("wrn-10-1"), *CASES["iseat"], m=5) <= TOLERANCE
