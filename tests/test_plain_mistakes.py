"""The whole public interface under arguments of wrong types and values: each is taken, or refused in one line."""

from __future__ import annotations

import copy
import inspect
import math
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastiseat
from fastiseat import AWP, EMA, PGD, SGD, TrainStep, UserError, config
from fastiseat.engine.settings import SCALARS
from fastiseat.evaluation import Attack, EnsembleAttack
from fastiseat.methods import Method
from fastiseat.pipelines.protocol.augmentation import Augmentation

OBJECT = object()
WRONG: dict[str, Any] = {
    "None": None,
    "text": "no such value",
    "empty text": "",
    "list": [1, 2],
    "nothing": [],
    "dict": {"a": 1},
    "tuple of texts": ("a",),
    "object": OBJECT,
    "class": PGD,
    "NaN": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "-1": -1,
    "-0.5": -0.5,
    "True": True,
    "array": np.array([0.5, 0.5]),
    "tensor": torch.tensor([0.5, 0.5]),
    "function": print,
}
wrong = pytest.mark.parametrize("value", WRONG.values(), ids=list(WRONG))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4))


def batch(m: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(m, 3, 4, 4, generator=generator), torch.randint(4, (m,), generator=generator)


def taken(call: Callable[[], Any]) -> bool:
    """Whether it is taken; if not, the one line says what to do."""
    try:
        call()
    except UserError as error:
        line = str(error)
        assert "\n" not in line
        assert len(line) < 400
        return False
    return True


def methods(kind: type[Method] = Method) -> Iterator[type[Method]]:
    for below in kind.__subclasses__():
        if below.__module__.startswith("fastiseat."):
            yield below
        yield from methods(below)


SECTIONS = [
    kind for kind in vars(config).values() if is_dataclass(kind) and kind.__module__.startswith(config.__name__)
]
DATACLASSES: list[type[Any]] = [*SECTIONS, Augmentation, Attack, EnsembleAttack, EMA, *sorted(methods(), key=repr)]
NEEDED = {"name": "pgd-3", "eps": 0.1, "standard": network()}
FIELDS = [(kind, field.name) for kind in DATACLASSES for field in fields(kind) if field.init]


def made(kind: type[Any], **values: Any) -> Any:
    required = [field.name for field in fields(kind) if field.default is field.default_factory is MISSING]
    return kind(**({name: NEEDED[name] for name in required} | values))


def annotation(kind: type[Any], name: str) -> str:
    return next(str(field.type) for field in fields(kind) if field.name == name)


def choices(kind: Any) -> tuple[Any, ...]:
    """The values of the ``Literal`` in an annotation."""
    within = (
        (choice for each in get_args(kind) for choice in choices(each)) if get_origin(kind) is not Literal else ()
    )
    return get_args(kind) if get_origin(kind) is Literal else tuple(within)


def is_of(value: Any, kinds: str) -> bool:
    """Whether what is taken can be what the annotation says."""
    if value is None:
        return "None" in kinds
    if isinstance(value, bool):
        return "bool" in kinds
    if isinstance(value, str):
        return bool(re.search(r"\bstr\b|Path", kinds))
    return not isinstance(value, dict | type) and type(value) is not object


def test_the_walk_is_a_long_one() -> None:
    assert len(FIELDS) > 80
    assert {"TRADES", "HAT", "MART", "Consistency", "ISEAT"} <= {kind.__name__ for kind in DATACLASSES}


@wrong
def test_every_field_of_every_setting(value: Any) -> None:
    for kind, name in FIELDS:
        if taken(lambda kind=kind, name=name: made(kind, **{name: copy.copy(value)})):  # type: ignore[misc]
            assert is_of(value, annotation(kind, name)), (kind, name, value)
            assert not isinstance(value, float) or math.isfinite(value), (kind, name, value)


def test_choices_are_told() -> None:
    for kind, name in FIELDS:
        if choices(get_type_hints(kind)[name]):
            assert not taken(lambda kind=kind, name=name: made(kind, **{name: "no such value"})), (kind, name)  # type: ignore[misc]


def test_what_means_the_same_is_the_same() -> None:
    eps = 8 / 255
    for same in ("8/255", " 8 / 255 ", np.float64(eps), torch.tensor(eps, dtype=torch.float64)):
        assert PGD(eps=same) == PGD(eps=eps)
    assert type(SGD(lr=torch.tensor(0.5)).lr) is float
    assert PGD(steps=np.int64(3)).steps == 3
    assert config.Schedule(lr_drops=[0.5]).lr_drops == (0.5,)  # type: ignore[arg-type]
    assert config.Network(init="weights.pt").init == Path("weights.pt")  # type: ignore[arg-type]
    assert SGD(lr=1).lr == 1


ARGUMENTS = [name for name in inspect.signature(TrainStep).parameters if name != "model"]


@pytest.mark.filterwarnings("ignore:overlap changes nothing:RuntimeWarning")
@pytest.mark.parametrize("name", ["model", *ARGUMENTS])
def test_every_argument_of_a_step(name: str) -> None:
    model = network()
    for value in WRONG.values():
        taken(lambda value=value: TrainStep(**({"model": model} | {name: value})))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "optimizer",
            torch.optim.SGD(network().parameters()),
            "optimizer=SGD .*: a fastiseat.config.Optimizer is needed, not",
        ),
        (
            "method",
            fastiseat.AT,
            "method=<class .*AT'>: a fastiseat.methods.Method or a text or None is needed",
        ),
        ("method", "tards", "unknown method 'tards'; did you mean trades"),
        ("attack", AWP(), r"attack=AWP\(.*: a fastiseat.config.PGD is needed, not a fastiseat.config.AWP"),
        ("awp", 0.007, "awp=0.007: a fastiseat.config.AWP is needed, not a float"),
        ("attack", PGD, "attack=<class .*PGD'>: a fastiseat.config.PGD is needed"),
        ("seed", 0.5, "seed=0.5: a whole number is needed"),
        ("say", 3, "say=3: a function of one line is needed, such as print"),
    ],
)
def test_what_a_step_says_of_arguments(name: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainStep(network(), **{name: value})


@pytest.fixture(scope="module")
def one() -> TrainStep:
    return TrainStep(network(), attack=PGD(steps=2))


def everything(one: TrainStep) -> dict[str, Tensor]:
    """All that the next step, and the caller, go on from."""
    tensors = {**one.model.state_dict(), **{f"momentum.{n}": buffer for n, buffer in one.momentum_buffers.items()}}
    flags = torch.tensor([module.training for module in one.model.modules()])
    python = torch.tensor(random.getstate()[1])
    numbers = {"steps": torch.tensor(one.steps_taken), "torch": torch.get_rng_state(), "python": python}
    return {name: tensor.clone() for name, tensor in (tensors | numbers | {"flags": flags}).items()}


def as_found(one: TrainStep, before: dict[str, Tensor]) -> bool:
    now = everything(one)
    return now.keys() == before.keys() and all(torch.equal(tensor, before[name]) for name, tensor in now.items())


X, Y = batch()
GIVEN: dict[str, dict[str, Any]] = {
    "images": {
        "array": X.numpy(),
        "list": X.tolist(),
        "none": None,
        "NHWC": X.permute(0, 2, 3, 1),
        "bytes NCHW": torch.zeros(5, 3, 8, 8, dtype=torch.uint8),
        "sparse": X.to_sparse(),
        "meta": X.to("meta"),
        "double": X.double(),
        "half": X.half(),
        "int": X.int(),
        "complex": X.to(torch.complex64),
        "no rows": X[:0],
        "nested": torch.nested.nested_tensor([X[0], X[1]], layout=torch.jagged),
        "no pixels": X[..., :0],
        "one": X[0],
        "five": X[None],
        "parameter": nn.Parameter(X.clone()),
        "normalised": (X - 0.5) / 0.25,
        "levels": 255 * X,
        "NaN": X / X.new_zeros(()).masked_fill(X.new_ones(()).bool(), math.nan),
    },
    "labels": {
        "array": Y.numpy(),
        "list": Y.tolist(),
        "none": None,
        "int": Y.int(),
        "float": Y.float(),
        "one hot": nn.functional.one_hot(Y),
        "column": Y[:, None],
        "few": Y[:2],
        "beyond": Y + 9,
        "below": Y - 9,
        "meta": Y.to("meta"),
    },
    "delta": {
        "array": X.numpy(),
        "number": 0.1,
        "double": X.double(),
        "few": X[:2],
        "NaN": X * math.nan,
        "one NaN": torch.zeros_like(X).index_fill(0, torch.tensor(2), math.nan),
        "infinite": X - math.inf,
        "beyond": 0 * X - 0.04,
        "barely beyond": 0 * X + 8 / 255 + 3e-6,
        "sparse": X.to_sparse(),
        "meta": X.to("meta"),
        "parameter": nn.Parameter(0 * X),
    },
    "start": {
        "array": X.numpy(),
        "number": 0.1,
        "double": X.double(),
        "half": X.half(),
        "few": X[:2],
        "NaN": X * math.nan,
        "beyond": 0 * X + 0.04,
    },
    "index": {"array": Y.numpy(), "floats": X, "number": 3, "right": Y},
    "rows": {"array": Y.numpy(), "floats": X, "number": 3, "right": Y},
}


@pytest.mark.parametrize("name", GIVEN)
def test_every_argument_of_a_call(one: TrainStep, name: str) -> None:
    for kind, value in GIVEN[name].items():
        before = everything(one)
        if taken(lambda value=value: one(**({"images": X, "labels": Y} | {name: value}))):  # type: ignore[misc]
            assert kind == "parameter"
            assert value.requires_grad and value.grad is None
        else:
            assert as_found(one, before), kind
            fresh = TrainStep(network(), attack=PGD(steps=2))  # whose first call looks at the module too
            before = everything(fresh)
            assert not taken(
                lambda value=value, fresh=fresh: fresh(**({"images": X, "labels": Y} | {name: value}))
            )  # type: ignore[misc]
            assert as_found(fresh, before), kind


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"images": X.numpy()},
            r"images=array.*: a tensor is needed, .* torch.from_numpy\(images\) is one",
        ),
        ({"labels": Y.tolist()}, r"labels=\[.*: a tensor is needed, not a list; torch.tensor\(labels\) is one"),
        ({"labels": Y.int()}, r"labels are torch.int32 of shape \(5,\): int64 .* is needed; labels.long\(\) is"),
        ({"labels": Y.float()}, "class numbers, no probabilities: labels.long"),
        (
            {"images": X.permute(0, 2, 3, 1)},
            r"which look like NHWC: floats are NCHW, images.permute\(0, 3, 1, 2\)",
        ),
        (
            {"images": GIVEN["images"]["bytes NCHW"]},
            r"look like NCHW: bytes are NHWC, images.permute\(0, 2, 3, 1\)",
        ),
        ({"images": X.to_sparse()}, r"images is torch.sparse_coo: a dense tensor is needed, images.to_dense\(\)"),
        ({"images": X[:0], "labels": Y[:0]}, "no images: give one at least"),
        ({"delta": X.double()}, "delta is torch.float64 on cpu, the model torch.float32 on cpu"),
        ({"start": X * math.nan}, "start has entries that are no finite numbers"),
        (
            {"delta": 0 * X + 0.04},
            r"delta reaches 0.04, beyond the attack's eps=0.03137: clamp it, or .* PGD\(eps=",
        ),
        ({"images": GIVEN["images"]["nested"]}, "images is a nested tensor: one of a single shape is needed"),
    ],
)
def test_what_a_call_says(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainStep(network(), attack=PGD(steps=1))(**({"images": X, "labels": Y} | given))


def test_a_perturbation_on_the_edge_is_taken(one: TrainStep) -> None:
    for sign in (-1, 1):
        clipped = (X + sign * 8 / 255).clamp(0, 1) - X
        assert taken(lambda clipped=clipped: one(X, Y, clipped))  # type: ignore[misc]
        assert taken(lambda clipped=clipped: one(X, Y, start=clipped))  # type: ignore[misc]
    assert taken(lambda: TrainStep(network(), attack=PGD(eps=0.5, steps=1))(X, Y, 0 * X + 0.5))


class Writes(nn.Module):
    """It writes to its input, before or after it was read."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self.body, self.when = network(), when

    def forward(self, x: Tensor) -> Tensor:
        if self.when == "before":
            x.sub_(0.5)
        z: Tensor = self.body(x)
        if self.when == "after":
            x.zero_()
        return z


@pytest.mark.parametrize("engine", ["eager", "tape"])
@pytest.mark.parametrize("images", [X, (255 * X).byte().permute(0, 2, 3, 1).contiguous()], ids=["floats", "bytes"])
def test_a_module_that_writes_to_its_input(engine: str, images: Tensor) -> None:
    found = images.clone()
    for when, is_taken in {"before": True, "after": False}.items():
        one = TrainStep(Writes(when), attack=PGD(steps=2), awp=AWP(), engine=engine)
        before = everything(one)
        assert taken(lambda one=one: one(images, Y)) == is_taken  # type: ignore[misc]
        assert is_taken or as_found(one, before)
        assert (
            taken(lambda when=when: fastiseat.evaluate(Writes(when), images, Y, attacks="pgd-2", eps=0.1))
            == is_taken
        )  # type: ignore[misc]
        assert torch.equal(images, found)


class Fails(nn.Module):
    """In a pass of its choice, behind a BatchNorm whose statistics that pass and those before have moved."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.left = network(), 10**9

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.body(x)
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        return z


@pytest.mark.parametrize("passes", range(1, 5))
def test_a_step_that_is_broken_off_leaves_no_trace(passes: int) -> None:
    one = TrainStep(Fails(), attack=PGD(steps=2), awp=AWP(), engine="eager")
    one(X, Y)
    before = everything(one)
    one.model.left = passes
    with pytest.raises(KeyboardInterrupt):
        one(X, Y)
    assert as_found(one, before)


@wrong
def test_numbers_that_change(one: TrainStep, value: Any) -> None:
    for name in [*SCALARS, "beta"]:
        before = one.settings
        if not taken(lambda name=name: one.set(**{name: value})):  # type: ignore[misc]
            assert one.settings is before
        one.settings = before
    taken(lambda: one.come_to(value))


@pytest.mark.parametrize(
    "numbers",
    [{"epoch": -1}, {"epoch": 2**32}, {"epoch": True}, {"lr": True}, {"lr": 0.5, "epoch": -1}, {"lrs": 1}],
)
def test_no_number_changes_where_one_is_wrong(one: TrainStep, numbers: dict[str, float]) -> None:
    before = one.settings
    assert not taken(lambda: one.set(**numbers))
    assert one.settings is before


@wrong
def test_every_entry_of_a_state(one: TrainStep, value: Any) -> None:
    good = one.state_dict()
    taken(lambda: one.load_state_dict(value))
    for name in good:
        taken(lambda name=name: one.load_state_dict(good | {name: value}))  # type: ignore[misc]
        assert not taken(lambda name=name: one.load_state_dict({k: v for k, v in good.items() if k != name}))  # type: ignore[misc]
    for name in good["loss_scale"]:
        taken(lambda name=name: one.load_state_dict(good | {"loss_scale": good["loss_scale"] | {name: value}}))  # type: ignore[misc]
    assert not taken(lambda: one.load_state_dict(good | {"momentum_buffers": {"0.weight": value}}))
    one.load_state_dict(good)


QUESTIONS = [name for name in inspect.signature(fastiseat.evaluate).parameters if name not in ("images", "labels")]


def ask(**given: Any) -> Any:
    usual = {"model": network(), "images": X, "labels": Y, "attacks": ["pgd-2"], "eps": 0.1}
    return fastiseat.evaluate(**(usual | given))


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_argument_of_an_evaluation(name: str) -> None:
    for kind, value in WRONG.items():
        if (name, kind) != ("sanity", "True"):  # which is meant
            taken(lambda value=value: ask(**{name: value}))  # type: ignore[misc]


@pytest.mark.parametrize("name", ["images", "labels"])
def test_images_and_labels_of_an_evaluation(name: str) -> None:
    for kind, value in GIVEN[name].items():
        if taken(lambda value=value: ask(**{name: value})):  # type: ignore[misc]
            assert kind == "parameter"
            assert value.requires_grad and value.grad is None


def test_what_an_evaluation_takes_and_says() -> None:
    assert ask(eps="8/255")["pgd-2"].robust.equal(ask(eps=8 / 255)["pgd-2"].robust)
    assert list(ask(attacks="pgd-2")) == ["pgd-2"]
    assert list(ask(attacks=Attack(name="mine", eps=0.1, step_size=0.1, steps=1))) == ["mine"]
    for given, message in [
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"eps": "8:255"}, "eps='8:255': a number or a fraction such as 8/255 or None is needed"),
        ({"attacks": [PGD()]}, "attacks=PGD"),
        ({"model": nn.Linear}, "model is a type: a torch.nn.Module is needed"),
    ]:
        with pytest.raises(UserError, match=message):
            ask(**given)


class Halved(nn.Module):
    """Answers for one image of two, and so looks right on one."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, too few of them."""
        return self.inner(x)[: (len(x) + 1) // 2]


@pytest.mark.parametrize("attack", ["clean", "fgsm", "pgd-2", "cw-2", "aa"])
def test_answers_for_too_few_images(attack: str) -> None:
    with pytest.raises(
        UserError, match=r"the model returned \(\d, \d+\): logits of shape \(\d, classes\) are needed"
    ):
        ask(model=Halved(), attacks=[attack])


@wrong
def test_names_of_recipes_and_weights(value: Any) -> None:
    for name in ("dataset", "method", "arch"):
        taken(lambda name=name: fastiseat.recipe(**{name: value}))  # type: ignore[misc]
    assert not taken(lambda: fastiseat.load_model(value))
    for name in ("variant", "mean", "std", "entry"):
        taken(lambda name=name: fastiseat.load_model("digits-iseat", **{name: value}))  # type: ignore[misc]


WALKED = {"TrainStep", "evaluate", "recipe", "load_model"} | {kind.__name__ for kind in DATACLASSES}


def test_all_that_is_public_is_walked() -> None:
    assert set(fastiseat.__all__) - WALKED == {"Method", "UserError", "__version__"}
