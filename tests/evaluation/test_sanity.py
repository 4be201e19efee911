"""Networks with masked gradients are told, each by the check that is meant for it; honest ones are not."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from maskers import Change, Masked, Misled, Reversed, convolutional, levels, linear, ripples, trained
from torch import Tensor, nn
from trials import watch

from fastiseat import evaluate
from fastiseat.evaluation import Check, Evaluator, attack_named, sanity_checks
from fastiseat.evaluation.pgd_trace import PGDTrace
from fastiseat.evaluation.sanity import signs as sanity
from fastiseat.evaluation.sanity.chance import beyond, outnumber
from fastiseat.evaluation.sanity.masking import Evidence, checks_of
from fastiseat.pipelines.data import datasets
from fastiseat.pipelines.protocol.base import Split

EPS = 0.12
DIGITS = datasets.load("digits")
# Some are enough for the networks that are masked on purpose.
FEW = DIGITS.test.take(np.arange(60))
Networks = dict[str, nn.Module]


@pytest.fixture(scope="module")
def networks() -> Networks:
    torch.manual_seed(0)
    return {
        "plain": trained(convolutional(), DIGITS.train, eps=0, epochs=5),
        "robust": trained(convolutional(), DIGITS.train, eps=EPS, epochs=6),
        "linear": trained(linear(), DIGITS.train, eps=0, epochs=10),
        "robust linear": trained(linear(), DIGITS.train, eps=EPS, epochs=10),
    }


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what Square says nothing about."""
    monkeypatch.setattr(sanity, "QUERIES", 20)


def checked(
    network: nn.Module, split: Split = FEW, *, eps: float = EPS, norm: str = "linf", seed: int = 0
) -> list[Check]:
    evaluator = Evaluator(network, engine="eager")
    return sanity_checks(evaluator, split, eps=eps, norm=norm, num_classes=10, seed=seed)  # type: ignore[arg-type]


def suspicious(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.finding for check in checks if check.suspicious}


@pytest.mark.parametrize("name", ["plain", "robust", "linear", "robust linear"])
@pytest.mark.parametrize(("eps", "norm", "seed"), [(EPS, "linf", 0), (0.6, "l2", 1)])
def test_no_false_alarm(networks: Networks, name: str, eps: float, norm: str, seed: int) -> None:
    found = checked(networks[name], DIGITS.test, eps=eps, norm=norm, seed=seed)
    assert not suspicious(found)
    assert len(found) == 9


@pytest.mark.parametrize(("eps", "broken"), [(0.4, True), (0.01, False)])
def test_an_undefended_network_that_everything_breaks_or_nothing(
    networks: Networks, eps: float, broken: bool
) -> None:
    found = checked(networks["plain"], eps=eps)
    assert not suspicious(found)
    black_box = next(check.finding for check in found if check.name == "black box")
    assert ("PGD-50 on cross entropy or margin 0/" in black_box) is broken


MASKS: dict[str, tuple[dict[str, Change], set[str]]] = {
    "rounded logits": ({"logits": torch.round}, {"gradients", "larger ε", "unbounded", "black box"}),
    "grey levels": ({"images": levels}, {"gradients", "larger ε", "unbounded", "black box"}),
    "saturated": ({"logits": lambda z: z * 1000}, {"gradients", "unbounded"}),
    "softmax": ({"logits": lambda z: (z / 0.01).softmax(1)}, {"logits"}),
    "dropout": ({"images": lambda x: F.dropout(x, 0.2)}, {"deterministic"}),
    "noise": ({"images": lambda x: x + 0.1 * torch.randn_like(x)}, {"deterministic"}),
    "batch statistics": ({"logits": lambda z: z - z.mean(0)}, {"deterministic"}),
    "ripples": ({"images": ripples}, {"one step", "black box"}),
    "misled": ({"images": Misled.apply}, {"black box"}),
    "reversed": ({"images": Reversed.apply}, {"black box", "larger ε", "unbounded"}),
}


@pytest.mark.parametrize("name", MASKS)
def test_masked_gradients_are_told(networks: Networks, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changes, tells = MASKS[name]
    if "black box" not in tells:
        monkeypatch.setattr(sanity, "QUERIES", 20)
    found = suspicious(checked(Masked(networks["plain"], **changes)))
    assert tells <= found.keys(), found


class FlatAtData(nn.Module):
    """Images as they come from the data set, shades of 1/255, have no gradient; all others do."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        shades = x.detach() * 255
        flat = ((shades - shades.round()).abs() < 1e-3).flatten(1).all(1).view(-1, 1, 1, 1)
        logits: Tensor = self.network(torch.where(flat, x.detach(), x))
        return logits


@pytest.mark.usefixtures("hasty")
def test_what_a_random_start_escapes_from(networks: Networks) -> None:
    found = suspicious(checked(FlatAtData(networks["plain"])))
    assert found.keys() >= {"gradients", "random start", "larger ε", "unbounded"}
    assert re.fullmatch(r"zero or no number at (\d+) of \1 images", found["gradients"])


def climb(robust: int, *, size: int = 60, early: int | None = None) -> PGDTrace:
    """Of which so many samples are robust, and after ten steps ``early``."""
    left, ten = (np.arange(size) < count for count in (robust, robust if early is None else early))
    return PGDTrace(early=ten, robust=left, spared=left & ten, useless=np.zeros(size, bool), losses=1.0 - left)


def evidence(**climbs: PGDTrace) -> Evidence:
    usual = {"clean": climb(60), "fgsm": climb(40), "at_image": climb(30), "at_random": climb(30)}
    rest = {"on_margin": climb(30), "larger": climb(0), "unbounded": climb(0)}
    return Evidence(eps=EPS, queries=500, square=np.arange(60) < 35, **usual | rest | climbs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("climbs", "tells"),
    [
        ({}, set()),
        ({"at_image": climb(30, early=24)}, set()),
        ({"at_image": climb(30, early=23)}, {"more steps"}),
        ({"fgsm": climb(24)}, set()),
        ({"fgsm": climb(23)}, {"one step"}),
        ({"at_random": climb(24)}, set()),
        ({"at_random": climb(23)}, {"random start"}),
        ({"unbounded": climb(7)}, set()),
        ({"unbounded": climb(8)}, {"unbounded"}),
        ({"larger": climb(29)}, {"larger ε"}),
        ({"larger": climb(37)}, {"larger ε"}),
    ],
)
def test_each_rule_allows_for_chance(climbs: dict[str, PGDTrace], tells: set[str]) -> None:
    assert suspicious(checks_of(evidence(**climbs))).keys() == tells


@pytest.mark.usefixtures("hasty")
def test_a_constant_answer_is_suspicious() -> None:
    network = linear()
    with torch.no_grad():
        network[1].weight.zero_()  # type: ignore[index]
    assert {"gradients", "unbounded"} <= suspicious(checked(network, DIGITS.test)).keys()


@pytest.mark.usefixtures("hasty")
def test_findings_are_lines_with_their_numbers(networks: Networks) -> None:
    found = {check.name: check.finding for check in checked(networks["robust"])}
    assert list(found) == [
        *("deterministic", "logits", "gradients", "black box", "more steps", "one step", "random start"),
        *("larger ε", "unbounded"),
    ]
    assert all(any(mark.isdigit() for mark in line) or "same logits" in line for line in found.values())
    assert not any("\n" in line for line in found.values())


@pytest.mark.usefixtures("hasty")
def test_the_numbers_are_the_evaluators(networks: Networks) -> None:
    network = networks["robust"]
    evaluator = Evaluator(network, engine="eager")
    clean, *robust = (
        int(evaluator(FEW, attack_named(name, eps=EPS)).sum()) for name in ("clean", "pgd-10", "pgd-50", "fgsm")
    )
    found = {check.name: check.finding for check in checked(network)}
    ten, fifty, one = (f"{count}/{clean}" for count in robust)
    assert f"PGD-10 {ten} robust, PGD-50 {fifty}" in found["more steps"]
    assert f"FGSM {one} robust, PGD-50 {fifty}" in found["one step"]
    assert f"; {fifty} and " in found["larger ε"]


@pytest.mark.usefixtures("hasty")
def test_the_seed_alone_decides(networks: Networks) -> None:
    network = Masked(networks["plain"], images=lambda x: F.dropout(x, 0.2))
    found = []
    for number in range(2):
        torch.manual_seed(number)
        before = torch.get_rng_state()
        found.append(checked(network, seed=5))
        assert torch.get_rng_state().equal(before)
    assert found[0] == found[1] != checked(network, seed=6)


@pytest.mark.usefixtures("hasty")
def test_all_is_left_as_found_recordings_too() -> None:
    torch.manual_seed(0)
    network = convolutional().train()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    evaluator = Evaluator(network, engine="tape", batch_size=30, say=pytest.fail)
    attack = attack_named("fgsm", eps=EPS)
    passes = watch(network, lambda x: None)
    before = evaluator(FEW, attack)
    sanity_checks(evaluator, FEW, eps=EPS, norm="linf", num_classes=10)
    assert network.training
    assert all(tensor.equal(state[name]) for name, tensor in network.state_dict().items())
    assert all(weight.grad is None for weight in network.parameters())
    made = len(passes)
    assert np.array_equal(evaluator(FEW, attack), before)
    assert len(passes) == made, "replays of the recording alone"


def test_where_there_is_nothing_to_check() -> None:
    evaluator = Evaluator(linear(), engine="eager")
    none = FEW.take(np.arange(0))
    for split, eps, num_classes in ((FEW, 0.0, 10), (FEW, EPS, 1), (none, EPS, 10)):
        assert sanity_checks(evaluator, split, eps=eps, norm="linf", num_classes=num_classes) == []


def test_where_no_image_is_classified_correctly() -> None:
    network = linear()
    with torch.no_grad():
        network[1].bias += torch.tensor([1e3] + [0.0] * 9)  # type: ignore[index]
    others = FEW.take(np.flatnonzero(FEW.labels))
    *_, last = checked(network, others)
    assert last == Check(
        "samples", f"0 of {len(others)} images are classified correctly: there is nothing to attack", False
    )


@pytest.mark.usefixtures("hasty")
def test_a_ball_that_holds_everything_has_no_larger_one(networks: Networks) -> None:
    assert {"larger ε", "unbounded"}.isdisjoint(check.name for check in checked(networks["plain"], eps=0.5))


@pytest.mark.usefixtures("hasty")
def test_the_library_warns_once_and_only_where_asked(networks: Networks) -> None:
    images, labels = (torch.from_numpy(array) for array in (FEW.images, FEW.labels))
    masked = Masked(networks["plain"], images=levels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(masked, images, labels, ("clean", "fgsm"), eps=EPS)
        evaluate(masked, images, labels, ("clean",), sanity=True)
        evaluate(networks["robust"], images, labels, ("fgsm",), eps=EPS, sanity=True)
    with pytest.warns(RuntimeWarning) as warned:
        evaluate(masked, images, labels, ("clean", "fgsm"), eps=EPS, sanity=True)
    (line,) = (str(warning.message) for warning in warned)
    assert line.startswith("gradients may be masked, and these accuracies too high: gradients at ε = 0.12 (zero")
    assert "unbounded" in line
    assert "\n" not in line
    assert warned[0].filename == __file__


def test_what_chance_does() -> None:
    assert outnumber(7, 0)
    assert not outnumber(6, 0)
    assert not outnumber(20, 15)
    assert not outnumber(0, 0)
    assert beyond(8, 128, 0.02)
    assert not beyond(7, 128, 0.02)
    assert not beyond(0, 128, 0.02)
    assert beyond(128, 128, 0.05)
