"""Modules in half precision: the ball stays float32's, theirs is what they read, and float64 stays float64."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from searching import in_float64
from torch import Tensor, nn
from trials import small, split_of
from unanswered import short  # noqa: F401 (a fixture)

import fastiseat
from fastiseat import models
from fastiseat.attacks.losses import losses_of
from fastiseat.evaluation import ATTACKS, Evaluator, evaluate_split, sanity_checks
from fastiseat.evaluation.attack import attack_named
from fastiseat.evaluation.ensemble.batched_search import BatchedSearch
from fastiseat.evaluation.ensemble.official import Official
from fastiseat.evaluation.passes import EvaluationPasses, pixels_of
from fastiseat.evaluation.samples import Samples
from fastiseat.evaluation.verdicts.ensemble_state import EnsembleState

HALVES = [torch.float16, torch.bfloat16]
EPS = {"linf": 0.1, "l2": 2.0}
SPLIT = split_of(small(), 6)
IMAGES = torch.from_numpy(SPLIT.images)
LABELS = torch.from_numpy(SPLIT.labels)
X = IMAGES.permute(0, 3, 1, 2) / 255


class Mixed(nn.Module):
    """bfloat16 features and a head in float32."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1).bfloat16()
        self.head = nn.Linear(8, 5)
        with torch.no_grad():  # no class ahead of the others
            self.head.bias -= self(X.bfloat16()).mean(0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().mean((2, 3)).float())


def subject(kind: torch.dtype | str) -> tuple[nn.Module, Tensor]:
    """A module, and what it says of the images but for the first."""
    model = Mixed() if kind == "mixed" else small().to(kind)
    labels = EvaluationPasses(model=model.eval()).logits(X).argmax(1)
    labels[0] = (labels[0] + 1) % 5
    return model, labels


@contextmanager
def seen(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[list[Tensor]]:
    """All x' that the passes get, or of FAB, whose search leaves the ball, those that a verdict is asked of."""
    found: list[Tensor] = []
    forward, confirmed = EvaluationPasses.forward, BatchedSearch._confirmed

    def passing(self: EvaluationPasses, x: Tensor) -> Tensor:
        found.append(x.detach().clone())
        return forward(self, x)

    def confirming(self: BatchedSearch, places: object) -> object:
        found.append(self._state["x_adv"].clone())
        return confirmed(self, places)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        if name.startswith(("aa", "fab")):
            patch.setattr(BatchedSearch, "_confirmed", confirming)
        else:
            patch.setattr(EvaluationPasses, "forward", passing)
        yield found


def furthest(found: list[Tensor], norm: str) -> float:
    """The greatest distance of an x' from the image that is nearest to it."""
    images = X.flatten(1).double()
    lengths = [(x.flatten(1).double()[:, None] - images) for x in found]
    order = torch.inf if norm == "linf" else 2
    return max(float(torch.linalg.vector_norm(delta, order, dim=2).amin(1).max()) for delta in lengths)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("kind", [*HALVES, "mixed"])
@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "clean"])
def test_the_ball_is_that_of_float32(
    name: str, norm: str, kind: torch.dtype | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding x + δ to half precision makes 0.1 up to 0.1005, and 8/255 up to 8.47/255."""
    model, labels = subject(kind)
    with seen(monkeypatch, name) as found:
        fastiseat.evaluate(model, IMAGES, labels, [name], eps=EPS[norm], norm=norm, restarts=2, batch_size=4)
    assert found
    assert {x.dtype for x in found} == {torch.float32}
    # FAB's are as near as it finds them, and the ball is no end that it goes to.
    least = 0 if name == "fab-t" else 0.8 * EPS[norm]
    assert least < furthest(found, norm) <= EPS[norm] + 1e-6


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64])
def test_what_a_module_reads_is_of_its_own_dtype(dtype: torch.dtype) -> None:
    model, read = small().to(dtype), set()
    model.register_forward_pre_hook(lambda _, inputs: read.add(inputs[0].dtype))
    for images in (IMAGES, X.to(dtype), *([X] if dtype in HALVES else [])):
        fastiseat.evaluate(model, images, LABELS, ["clean", "pgd-2"], eps=8 / 255, sanity=False)
    evaluate_split(model, SPLIT, attack_named("fgsm", eps=0.1), engine="tape", batch_size=3)
    sanity_checks(Evaluator(model), Samples(IMAGES[:2], LABELS[:2]), eps=0.1, norm="linf", num_classes=5)
    assert read == {dtype}


@pytest.mark.parametrize("kind", [*HALVES, "mixed"])
def test_verdicts_are_mostly_those_of_float32(kind: torch.dtype | str) -> None:
    model, _ = subject(kind)
    split = split_of(model, 40)
    images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)
    names = ("clean", "fgsm", "pgd-5")
    ours, theirs = (
        fastiseat.evaluate(network, images, labels, names, eps=0.03) for network in (model, copy.deepcopy(model))
    )
    assert all(ours[name].robust.equal(theirs[name].robust) for name in names)
    if kind == "mixed":
        model.conv.float()  # type: ignore[union-attr, operator]
    wide = fastiseat.evaluate(model.float(), images, labels, names, eps=0.03)
    for name in names:
        assert int((ours[name].robust != wide[name].robust).sum()) <= 4, name


class Line(nn.Module):
    """One logit is ``slope`` times the sum of the pixels and ``offset``, the other 0; float16."""

    def __init__(self, slope: float, offset: float) -> None:
        super().__init__()
        self.slope, self.offset = nn.Parameter(torch.tensor(slope)), offset

    def forward(self, x: Tensor) -> Tensor:
        lead = (self.slope * x).flatten(1).sum(1) + self.offset
        return torch.stack((lead, torch.zeros_like(lead)), 1)


@pytest.mark.parametrize(
    ("slope", "offset", "loss"),
    [(0.05, -12.0, "ce"), (100.0, -900.0, "margin")],
    ids=["less than float16 tells from 0", "more than the scale leaves room for"],
)
def test_gradients_of_a_float16_module(slope: float, offset: float, loss: str) -> None:
    """The cross entropy's of a confident network are 1e-7, and a large slope times the scale is infinite."""
    model = Line(slope, offset).half()
    x = torch.full((2, 1, 4, 4), 0.5) if loss == "margin" else torch.full((2, 1, 32, 32), 0.5)
    labels = torch.zeros(2, dtype=torch.int64)
    half, wide = (
        EvaluationPasses(model=network).ascent(x, lambda z: losses_of(loss, z, labels, labels)).gradient
        for network in (model, Line(slope, offset))
    )
    assert wide.lt(0).all() and half.dtype == torch.float32
    torch.testing.assert_close(half, wide, rtol=0.05, atol=0)


def test_a_confident_float16_module_is_attacked() -> None:
    images, labels = torch.full((2, 1, 32, 32), 0.5), torch.zeros(2, dtype=torch.int64)
    found = fastiseat.evaluate(Line(0.05, -12.0).half(), images, labels, ["clean", "fgsm", "pgd"], eps=0.4)
    assert [verdicts.accuracy for verdicts in found.values()] == [1, 0, 0]


@pytest.mark.parametrize("dtype", [*HALVES, torch.float64])
def test_the_authors_code_on_any_dtype(dtype: torch.dtype) -> None:
    """Its images, too, are float32; in float64 it is run by the tests alone."""
    model, read = small().to(dtype), set()
    model.register_forward_pre_hook(lambda _, inputs: read.add(inputs[0].dtype))
    attack = Official(model, eps=0.2, norm="linf", num_classes=5, batch_size=4, seed=0, say=lambda _: None)
    theirs = attack._attack
    theirs.apgd.n_iter = theirs.apgd_targeted.n_iter = theirs.fab.n_iter = 4
    theirs.square.n_queries = 8
    ensemble_state = EnsembleState.fresh(6)
    with in_float64() if dtype == torch.float64 else nullcontext():
        attack.run_ensemble(Samples(IMAGES, LABELS), ensemble_state)
    assert read == {dtype}
    assert (ensemble_state.broken_by > 0).any()


@pytest.mark.parametrize("dtype", HALVES)
def test_a_file_in_half_precision_is_a_network_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    """So ``fastiseat eval`` computes in float32; who wants the file's dtype asks for it."""
    model = small().to(dtype)
    save_file(models.export_state_dict(model), tmp_path / "half.safetensors", models.metadata(model.spec))  # type: ignore[arg-type]
    network = models.load_model(tmp_path / "half.safetensors")
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}
    assert pixels_of(network).dtype == pixels_of(network.to(dtype)).dtype == torch.float32
    found = fastiseat.evaluate(network, IMAGES, LABELS, ["clean"])["clean"]
    assert found.robust.equal(fastiseat.evaluate(model, IMAGES, LABELS, ["clean"])["clean"].robust)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_half_precision_is_searched_in_no_other_one(dtype: torch.dtype) -> None:
    model, labels = subject(dtype)
    own, other = ("fp16", "bf16") if dtype == torch.float16 else ("bf16", "fp16")
    fastiseat.evaluate(model, X, labels, "pgd-2", eps=0.1, precision=own)
    with pytest.raises(
        fastiseat.UserError, match=f"^precision={other}: the model is in {dtype}, half precision too"
    ):
        fastiseat.evaluate(model, X, labels, "pgd-2", eps=0.1, precision=other)
