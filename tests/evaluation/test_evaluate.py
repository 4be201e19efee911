"""``fastiseat.evaluate``: what it asks the network, what it refuses, and what it leaves as found."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from searching import curved, images_of
from torch import Tensor, nn
from trials import small, split_of, watch

import fastiseat
from fastiseat.attacks.search.square import Square
from fastiseat.errors import UserError
from fastiseat.evaluation import Attack, EnsembleAttack, EnsembleState, Evaluator
from fastiseat.evaluation.ensemble.ensembles import ensemble_named
from fastiseat.evaluation.samples import Samples


class Constant(nn.Module):
    """Of one answer; its gradient is nothing."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.arange(classes).flip(0).double())

    def forward(self, x: Tensor) -> Tensor:
        return self.logits + 0 * x.flatten(1).sum(1, keepdim=True)


def zeros(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.int64)


def test_what_a_robust_sample_costs() -> None:
    """Each start, iteration and query is one pass, FAB's iterations two; two passes tell classes and clean verdicts."""
    model = Constant()
    gradients = watch(model, lambda x: x.requires_grad)
    verdicts = fastiseat.evaluate(model, images_of(1, shape=(1, 3, 3)), zeros(1), ["aa"], eps=0.1)["aa"]
    assert verdicts.accuracy == 1
    assert verdicts.broken_by == ("",)
    assert len(gradients) == 2 + 101 + 9 * 101 + 9 * 200 + 5001
    assert sum(map(bool, gradients)) == 101 + 9 * 101 + 9 * 100


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes(classes: int) -> None:
    """A linear network that looks at a pixel for each class; the image lies 0.2 from the border in every pixel."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(classes, classes, bias=False)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(classes))
    images = torch.full((2, 1, 1, classes), 0.5, dtype=torch.float64)
    images[:, 0, 0, 0] = torch.tensor([0.7, 0.9], dtype=torch.float64)
    ensemble = ensemble_named("aa", norm="linf", num_classes=classes)
    *others, square = ensemble.parts
    ensemble = replace(ensemble, parts=(*others, replace(square, search=Square(queries=50))))
    for parts in (ensemble.parts, ensemble.parts[1:], ensemble.parts[2:]):
        ensemble_state = EnsembleState.fresh(2)
        attack = EnsembleAttack(name="aa", eps=0.15)
        Evaluator(model).run_ensemble(
            Samples(images, zeros(2)), attack, replace(ensemble, parts=parts), ensemble_state
        )
        assert ensemble_state.broken_by.tolist() == [1, -1]


def call(**changes: Any) -> Any:
    model = curved()
    usual = {"model": model, "images": images_of(4), "labels": zeros(4), "attacks": ["clean"], "eps": 0.1}
    given = usual | changes
    return fastiseat.evaluate(given.pop("model"), given.pop("images"), given.pop("labels"), **given)


class Answering(nn.Module):
    """With any logits, from the second image on."""

    def __init__(self, value: float, shape: tuple[int, ...] = (5,)) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.value, self.shape = value, shape

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.zeros(len(x), *self.shape, dtype=torch.float64)
        logits[1:] = self.value
        return logits + self.weight * x.sum()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model": nn.Flatten()}, "the model has no parameter"),
    ({"images": torch.zeros(0, 2, 5, 5, dtype=torch.float64), "labels": zeros(0)}, "no images: give one at least"),
    ({"images": 2 * images_of(4)}, "images reach from 0 to 2: pixel values lie in 0 … 1"),
    ({"images": images_of(4) - 1}, "images reach from -1 to 0: pixel values lie in 0 … 1"),
    ({"images": images_of(4) + math.nan}, "images reach from nan to nan"),
    ({"images": images_of(4).float()}, "images are torch.float32, the model torch.float64"),
    ({"images": images_of(4)[0]}, r"images have shape \(2, 5, 5\): NCHW"),
    ({"labels": zeros(4) + 5}, "label 5 is out of range: the model has 5 classes"),
    ({"labels": zeros(4) - 1}, "label -1 is out of range"),
    ({"labels": zeros(3)}, r"labels are torch.int64 of shape \(3,\): int64 of shape \(4,\) is needed"),
    ({"labels": zeros(4).int()}, "labels are torch.int32 of shape"),
    ({"attacks": ["clean", "ao"]}, "unknown attack 'ao'; did you mean aa"),
    ({"attacks": ["aa"], "eps": None}, "attacks=aa: it needs an ε: give eps"),
    ({"attacks": ["pgd-20"], "eps": None}, "attacks=pgd-20: it needs an ε"),
    ({"attacks": ["aa"], "eps": -1.0}, "eps=-1.0: must be at least 0"),
    ({"attacks": ["aa"], "eps": 8}, "eps=8: is beyond the pixel values"),
    ({"attacks": ["aa"], "eps": math.inf, "norm": "l2"}, "eps=inf: must be a finite number"),
    ({"attacks": ["aa"], "norm": "l1"}, "norm=l1: is one of linf, l2"),
    ({"precision": "half"}, "unknown precision 'half'"),
    ({"engine": "graph"}, "engine=graph: it records on a cuda device"),
    (
        {"model": Answering(math.nan), "attacks": ["aa"]},
        "logits are not finite numbers on 3 of 4 images, the first",
    ),
    (
        {"model": Answering(math.inf), "attacks": ["aa"]},
        "logits are not finite numbers on 3 of 4 images, the first",
    ),
    ({"model": Answering(0.0, shape=(5, 2))}, r"the model returned \(1, 5, 2\): logits of shape \(1, classes\)"),
    (
        {"model": Answering(0.0, shape=(1,)), "attacks": ["aa"]},
        "the model returned 1 logits an image: two classes",
    ),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[message[:30] for _, message in REFUSED])
def test_what_can_not_be_meant_is_refused_in_a_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        call(**changes)
    assert "\n" not in str(refused.value)


def test_all_is_left_as_found() -> None:
    model = small()
    for number, part in enumerate(model.modules()):
        part.training = number % 2 == 0
    frozen = next(model.parameters())
    frozen.requires_grad_(False)
    other = list(model.parameters())[1]
    other.grad = torch.ones_like(other)
    modes = [part.training for part in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    split, threads = split_of(model, 6), torch.get_num_threads()
    for part, training in zip(model.modules(), modes, strict=True):
        part.training = training
    random, images = torch.get_rng_state(), torch.from_numpy(split.images)
    before = images.clone()
    attack = Attack(name="pgd-3", eps=0.05, step_size=0.02, steps=3, restarts=2)
    # Of a large ε, which breaks everybody soon.
    ensembles = [
        EnsembleAttack(name="aa-torchattacks", eps=1.0),
        EnsembleAttack(name="aa-torchattacks", eps=20.0, norm="l2"),
    ]
    for some in ([attack], ensembles):
        fastiseat.evaluate(model, images, torch.from_numpy(split.labels), some, batch_size=4)
    assert [part.training for part in model.modules()] == modes
    assert torch.get_rng_state().equal(random)
    assert torch.get_num_threads() == threads
    assert all(tensor.equal(state[name]) for name, tensor in model.state_dict().items())
    assert not frozen.requires_grad and other.requires_grad
    assert other.grad.eq(1).all() and frozen.grad is None
    assert images.equal(before)


def test_bytes_and_floats_are_the_same_images() -> None:
    model = small().double()
    split = split_of(model, 20)
    labels, bytes_ = torch.from_numpy(split.labels), torch.from_numpy(split.images)
    floats = bytes_.permute(0, 3, 1, 2).double() / 255
    found = [fastiseat.evaluate(model, images, labels, eps=0.2) for images in (bytes_, floats)]
    assert list(found[0]) == ["clean", "fgsm", "pgd-50"]
    for name, verdicts in found[0].items():
        assert verdicts.robust.equal(found[1][name].robust)
        assert verdicts.robust.device.type == "cpu" and verdicts.robust.dtype == torch.bool
    assert found[0]["clean"].accuracy > found[0]["pgd-50"].accuracy


def test_the_seed_is_that_of_all_random_numbers() -> None:
    model, images = curved(), images_of(30)
    with torch.no_grad():
        labels = model(images).argmax(1)
    attack = [Attack(name="noise", eps=0.05, restarts=3)]
    robust = [fastiseat.evaluate(model, images, labels, attack, seed=seed)["noise"].robust for seed in (1, 1, 2)]
    assert robust[0].equal(robust[1])
    assert not robust[0].equal(robust[2])
