"""Each objective and its gradients for the logits against the formula, on batches that formulas trip over."""

from __future__ import annotations

import pytest
import torch
from method_cases import BATCHES, CASES, EQUATION_7, Case, Logits
from oracles.losses import ce, kl
from oracles.method_step import Nets
from torch import Tensor

from fastiseat import AT
from fastiseat.methods import MART, SLOREMART, TRADES, Outputs
from fastiseat.schedule import progress

X, X_ADV = torch.zeros(1), torch.ones(1)


def by_method(case: Case, logits: Logits) -> Tensor:
    at = Outputs(
        x=X,
        x_adv=X_ADV,
        perturbed=lambda images: logits.clean_nu if images is X else logits.adversarial_nu,
        unperturbed=lambda images: logits.clean if images is X else logits.adversarial,
        clean=logits.clean if case.method.needs_clean else None,
    )
    return sum(case.method.objective(at, logits.labels).values())


def by_formula(case: Case, logits: Logits) -> Tensor:
    nets = Nets(
        theta=lambda images: logits.clean if images is X else logits.adversarial,
        theta_nu=lambda images: logits.clean_nu if images is X else logits.adversarial_nu,
    )
    return case.loss(nets, X, X_ADV, logits.labels.tolist())


def assert_alike(case: Case, batch: Logits) -> None:
    found, expected = [], []
    for results, compute in ((found, by_method), (expected, by_formula)):
        leaves = [z.clone().requires_grad_() for z in batch[:4]]
        loss = compute(case, Logits(*leaves, batch.labels))
        results += [loss.detach(), *torch.autograd.grad(loss, leaves, materialize_grads=True)]
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("case", CASES)
def test_an_objective_is_its_formula(case: str, batch: str) -> None:
    assert_alike(CASES[case], BATCHES[batch])


@pytest.mark.parametrize("batch", BATCHES)
def test_equation_7(batch: str) -> None:
    assert_alike(EQUATION_7, BATCHES[batch])


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(("batch", "group"), [("all-correct", 1), ("all-wrong", -1)])
def test_an_empty_group_of_slore_counts_nothing(batch: str, group: int, sign: float) -> None:
    logits = BATCHES[batch]
    at = Outputs(x=X, x_adv=X_ADV, perturbed=lambda images: logits.clean, unperturbed=lambda images: logits.clean)
    found = SLOREMART(sign=sign).objective(at, logits.labels)["distribution"]
    assert group * sign * float(found) > 0
    assert set(SLOREMART().objective(at, logits.labels)) == {"adversarial", "stability", "distribution"}


@pytest.mark.parametrize(("epochs", "turn"), [(120, 99), (200, 165), (20, 17), (2, 1), (1, 1)])
def test_slore_has_its_term_in_the_first_epoch_and_reversed_from_the_100th_of_120_on(
    epochs: int, turn: int
) -> None:
    """The stage of each epoch, by the epochs that the authors' code names (from 1), of shorter runs in proportion."""
    stages = [SLOREMART(beta=5.0).at_progress(progress(epoch, epochs)) for epoch in range(epochs)]
    between, last = stages[1:turn], stages[turn:]
    assert stages[0].reduced() == SLOREMART(beta=5.0)
    assert [stage.reduced() for stage in between] == [MART(beta=5.0)] * (turn - 1)
    assert last == [SLOREMART(beta=5.0, sign=-1.0)] * (epochs - turn)
    assert stages[-1].at_progress(0.0) == SLOREMART(beta=5.0)
    assert MART().at_progress(1.0) == MART()


def test_slore_of_a_wide_networks_90_epochs_never_turns() -> None:
    stages = [SLOREMART(reverse_from=1.0).at_progress(progress(epoch, 90)) for epoch in range(90)]
    assert [stage.sign for stage in stages] == [1.0] + [0.0] * 89


@pytest.mark.parametrize("batch", BATCHES)
def test_what_the_attacks_climb(batch: str) -> None:
    logits, labels = BATCHES[batch].adversarial, BATCHES[batch].labels
    clean = BATCHES[batch].clean
    divergence = sum(kl(clean[i], logits[i]) for i in range(len(labels)))
    cross_entropy = sum(ce(logits[i], int(labels[i])) for i in range(len(labels)))
    torch.testing.assert_close(TRADES().inner_loss(logits, labels, clean), divergence, rtol=1e-9, atol=1e-12)
    for method in (AT(), MART(), SLOREMART()):
        assert not method.needs_reference
        torch.testing.assert_close(method.inner_loss(logits, labels, None), cross_entropy, rtol=1e-9, atol=1e-12)
