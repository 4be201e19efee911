"""PGD's verdicts on linear networks, whose robustness to an L∞ attack is known in closed form."""

import numpy as np
import pytest
import torch
from torch import nn

from fastiseat.evaluation import attack_named, evaluate_split
from fastiseat.pipelines.protocol.base import Split

EPS = 0.03


def interior(n, classes, *, seed=0):
    """Images so far from black and white that no attack of size EPS is clipped, and labels at random."""
    generator = np.random.default_rng(seed)
    images = generator.integers(30, 226, size=(n, 4, 4, 2), dtype=np.uint8)
    return Split(images=images, labels=generator.integers(0, classes, size=n))


def linear(classes, *, disjoint):
    """A linear network on 32 numbers in float64; ``disjoint`` classes look at pixels of their own."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, classes)).double()
    if disjoint:
        with torch.no_grad():
            model[1].weight *= torch.arange(32) % classes == torch.arange(classes)[:, None]
    return model


def exact_slack(model, split, eps):
    """min over k ≠ y of (z_y - z_k) - ε ‖w_y - w_k‖₁, which an L∞ attack can't change the sign of (n,)."""
    weight, y = model[1].weight, torch.from_numpy(split.labels)
    logits = model(torch.from_numpy(split.images).permute(0, 3, 1, 2).double() / 255)
    margins = logits.gather(1, y[:, None]) - logits
    reach = eps * (weight[y][:, None] - weight[None]).abs().sum(2)
    return (margins - reach).scatter(1, y[:, None], torch.inf).min(1).values.detach().numpy()


@pytest.mark.parametrize(("classes", "disjoint"), [(2, False), (2, True), (3, True), (10, True)])
@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_a_linear_networks_robustness_is_found_exactly(classes, disjoint, name):
    """Where two classes, or classes on separate pixels, compete, one direction is the worst for all of them."""
    model, split = linear(classes, disjoint=disjoint), interior(500, classes)
    with torch.no_grad():
        slack = exact_slack(model, split, EPS)
    clear = np.abs(slack) > 1e-9
    verdicts = evaluate_split(model, split, attack_named(name, eps=EPS))
    assert clear.sum() > 450
    assert 10 < (slack > 0).sum() < 490, "a test in which every verdict is the same shows little"
    assert np.array_equal(verdicts[clear], slack[clear] > 0)


def test_a_certified_sample_is_never_lost():
    model, split = linear(10, disjoint=False), interior(500, 10)
    certified = exact_slack(model, split, 0.01) > 1e-9
    verdicts = evaluate_split(model, split, attack_named("pgd", eps=0.01, steps=20, restarts=3))
    assert certified.sum() > 5
    assert verdicts[certified].all()


def test_clean_is_what_the_network_says():
    model, split = linear(10, disjoint=False), interior(300, 10)
    correct = exact_slack(model, split, 0.0) > 0
    for attack in (attack_named("clean", eps=EPS), attack_named("pgd", eps=0), attack_named("fgsm", eps=0)):
        assert np.array_equal(evaluate_split(model, split, attack), correct), attack
