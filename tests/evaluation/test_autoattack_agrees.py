"""AutoAttack's verdicts beside those of the authors' code on digits, and on linear networks of known robustness."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from pyautoattack import AutoAttack
from searching import NORMS
from torch import Tensor, nn

import fastiseat
from fastiseat import PGD, SGD, TrainStep
from fastiseat.attacks.search.square import Square
from fastiseat.evaluation import EnsembleAttack, EnsembleState, Evaluator
from fastiseat.evaluation.ensemble.ensembles import Ensemble, ensemble_named
from fastiseat.evaluation.samples import Samples
from fastiseat.methods.at import AT
from fastiseat.pipelines.data import datasets

IMAGES = 80
EPS = {"linf": 0.12, "l2": 0.7}


class Trained(NamedTuple):
    """A network with digits that it was not trained on."""

    model: nn.Module
    images: Tensor
    labels: Tensor


@functools.cache
def trained(eps: float) -> Trained:
    """Against attacks of this ε."""
    data = datasets.load("digits")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    attack = PGD(eps=eps, step_size=eps / 2, steps=4)
    step = TrainStep(model, method=AT(), attack=attack, optimizer=SGD(lr=0.1), engine="eager")
    images, labels = (torch.from_numpy(np.array(array)) for array in (data.train.images, data.train.labels))
    for epoch in range(10):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(64):
            step(images[rows], labels[rows])
    tested = torch.from_numpy(np.array(data.test.images[:IMAGES])).permute(0, 3, 1, 2) / 255
    return Trained(model.eval(), tested.contiguous(), torch.from_numpy(np.array(data.test.labels[:IMAGES])))


def shorter(norm: str, queries: int, *, targets: int = 9, classes: int = 10) -> Ensemble:
    """The standard with fewer queries of Square, and maybe fewer targets."""
    ensemble = ensemble_named("aa", norm=norm, num_classes=classes)
    *others, square = (replace(part, rounds=min(part.rounds, targets)) for part in ensemble.parts)
    search = Square(norm=norm, queries=queries, stage=3)
    return replace(ensemble, parts=(*others, replace(square, search=search)))


def ours(net: Trained, norm: str, queries: int, targets: int, *, eps: float) -> np.ndarray:
    ensemble_state = EnsembleState.fresh(len(net.labels))
    attack = EnsembleAttack(name="aa", eps=eps, norm=norm)  # type: ignore[arg-type]
    Evaluator(net.model).run_ensemble(
        Samples(net.images, net.labels), attack, shorter(norm, queries, targets=targets), ensemble_state
    )
    return ensemble_state.unbroken


def theirs(net: Trained, norm: str, queries: int, targets: int, *, eps: float) -> np.ndarray:
    attack = AutoAttack(net.model, norm=NORMS[norm], eps=eps, seed=0)
    attack.square.n_queries = queries
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
    x_adv, _ = attack.run_standard_evaluation(net.images, net.labels, batch_size=IMAGES)
    with torch.no_grad():
        return (net.model(x_adv).argmax(1) == net.labels).numpy()


@pytest.mark.parametrize(
    ("norm", "queries", "targets", "trained_for"),
    [("linf", 200, 9, 0.12), ("l2", 50, 3, 0.12), ("linf", 50, 2, 0.001)],
)
def test_the_authors_code_says_the_same(norm: str, queries: int, targets: int, trained_for: float) -> None:
    """And no attack of fewer or plainer steps finds more than this one."""
    net = trained(trained_for)
    mine, official = (judge(net, norm, queries, targets, eps=EPS[norm]) for judge in (ours, theirs))
    names = ["clean", "fgsm", "pgd-10", "pgd-50"]
    weaker = fastiseat.evaluate(*net, names, eps=EPS[norm], norm=norm)  # type: ignore[arg-type]
    accuracies = [*(weaker[name].accuracy for name in names), mine.mean()]
    assert (mine != official).sum() <= 2
    assert mine.sum() <= official.sum() + 1
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] - 0.1 > accuracies[-1] > 0.05


def linear(classes: int) -> nn.Module:
    """On 32 numbers, in float64."""
    return nn.Sequential(nn.Flatten(), nn.Linear(32, classes)).double()


def slack(model: nn.Module, images: Tensor, labels: Tensor, eps: float, norm: str) -> Tensor:
    """min over k ≠ y of (z_y - z_k) - ε ‖w_y - w_k‖ in the dual norm: positive where nothing within ε breaks it."""
    weight = model[1].weight.detach()  # type: ignore[index,union-attr]
    logits = model(images).detach()
    reach = torch.linalg.vector_norm(weight[labels][:, None] - weight, ord=1 if norm == "linf" else 2, dim=2)
    left = logits.gather(1, labels[:, None]) - logits - eps * reach
    return left.scatter(1, labels[:, None], torch.inf).amin(1)


@pytest.mark.parametrize(("norm", "eps", "classes"), [("linf", 0.02, 10), ("l2", 0.1, 10), ("l2", 0.1, 3)])
def test_a_linear_networks_robustness_is_found_exactly(norm: str, eps: float, classes: int) -> None:
    model = linear(classes)
    images = 0.2 + 0.6 * torch.rand(60, 2, 4, 4, dtype=torch.float64)
    labels = model(images).argmax(1)
    labels[::9] = (labels[::9] + 1) % classes
    left = slack(model, images, labels, eps, norm)
    clear = (left.abs() > 1e-6).numpy()
    ensemble_state, attack = EnsembleState.fresh(60), EnsembleAttack(name="aa", eps=eps, norm=norm)  # type: ignore[arg-type]
    ensemble = shorter(norm, 20, targets=4, classes=classes)
    Evaluator(model).run_ensemble(Samples(images, labels), attack, ensemble, ensemble_state)
    robust = (left > 0).numpy()
    assert clear.sum() > 57
    assert 5 < robust.sum() < 50, "a test in which every verdict is the same shows little"
    assert np.array_equal(ensemble_state.unbroken[clear], robust[clear])
