"""Models that return more than logits, write to their input or have no gradient; and pixels that were rounded."""

from __future__ import annotations

import copy
import math
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastiseat
from fastiseat import AWP, PGD, TrainStep, UserError
from fastiseat.engine.passes import Passes


class Answer(OrderedDict):  # type: ignore[type-arg]
    """An output object as other libraries have them: a dict with attributes."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class Heads:
    """One with attributes alone, such as a named tuple."""

    def __init__(self, logits: Tensor) -> None:
        self.aux, self.logits = logits * 2, logits


WRAPPED: dict[str, Callable[[Tensor], Any]] = {
    "dict": lambda logits: {"loss": logits.sum(), "logits": logits},
    "output object": lambda logits: Answer(loss=logits.sum(), logits=logits),
    "attributes": Heads,
}
REFUSED: dict[str, Callable[[Tensor], Any]] = {
    "tuple": lambda logits: (logits, logits),
    "list": lambda logits: [logits],
    "dict": lambda logits: {"scores": logits},
    "NoneType": lambda logits: None,
}


class Model(nn.Module):
    """A small network; ``first`` is what it does to its input, ``last`` to its logits."""

    def __init__(
        self,
        first: Callable[[Tensor], Tensor],
        last: Callable[[Tensor], Any],
        classes: int = 4,
        between: Callable[[Tensor], Tensor] = F.relu,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn, self.head = nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Linear(8, classes)
        self.first, self.last, self.between = first, last, between

    def forward(self, x: Tensor) -> Any:
        return self.last(self.head(self.between(self.bn(self.conv(self.first(x)))).flatten(1)))


def same(x: Any) -> Any:
    return x


def batch(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(6, 3, 4, 4, generator=generator).to(dtype), torch.randint(4, (6,), generator=generator)


def trained(model: nn.Module, *, engine: str = "eager", **parts: Any) -> dict[str, Tensor]:
    step = TrainStep(model, engine=engine, awp=AWP(), attack=PGD(steps=3, eps=0.1, step_size=0.05), **parts)
    for _ in range(2):
        step(*batch())
    return dict(model.state_dict())


def robust(model: nn.Module, attack: str = "pgd-4") -> list[bool]:
    """Of each image and each label that it could have."""
    x, found = batch()[0], []
    for label in range(4):
        y = torch.full((6,), label)
        found += fastiseat.evaluate(model, x, y, attack, eps=0.2)[attack].robust.tolist()
    return found


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("engine", ["eager", "tape"])
@pytest.mark.parametrize("last", WRAPPED.values(), ids=list(WRAPPED))
def test_the_logits_of_what_is_returned_are_taken(last: Callable[[Tensor], Any], engine: str) -> None:
    def plain(last: Callable[[Tensor], Any]) -> Model:
        return Model(same, last, between=F.silu)  # nothing to fuse, which rounds otherwise

    assert equal(trained(plain(last), engine=engine), trained(plain(same)))
    assert robust(plain(last)) == robust(plain(same))


@pytest.mark.parametrize(("kind", "last"), REFUSED.items(), ids=list(REFUSED))
def test_anything_else_is_refused(kind: str, last: Callable[[Tensor], Any]) -> None:
    for use in (trained, robust):
        with pytest.raises(
            UserError, match=rf"the model returned {kind}: logits of shape \(m, classes\) are needed"
        ):
            use(Model(same, last))


# Each writes to its input; beside it what does the same and does not.
WRITING: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "scales": (lambda x: x.mul_(2).sub_(1), lambda x: x * 2 - 1),
    "rectifies": (nn.ReLU(inplace=True), nn.ReLU()),
    "writes a pixel": (
        lambda x: x.index_copy_(3, x.new_zeros(1).long(), x[..., :1] / 2),
        lambda x: torch.cat([x[..., :1] / 2, x[..., 1:]], 3),
    ),
}


@pytest.mark.parametrize("engine", ["eager", "tape"])
@pytest.mark.parametrize(("writes", "computes"), WRITING.values(), ids=list(WRITING))
def test_a_model_that_writes_to_its_input(
    writes: Callable[[Tensor], Tensor], computes: Callable[[Tensor], Tensor], engine: str
) -> None:
    assert equal(trained(Model(writes, same), engine=engine), trained(Model(computes, same)))
    assert robust(Model(writes, same)) == robust(Model(computes, same))


@pytest.mark.parametrize("writes", [pair[0] for pair in WRITING.values()], ids=list(WRITING))
def test_the_images_are_their_callers(writes: Callable[[Tensor], Tensor]) -> None:
    x, y = batch()
    given, start = x.clone(), torch.zeros_like(x)
    step = TrainStep(Model(writes, same), attack=PGD(steps=2))
    step(given, y), step(given, y, start), step(given, y, start=start)
    fastiseat.evaluate(Model(writes, same), given, y, ["clean", "pgd-2", "aa"], eps=0.5)
    assert torch.equal(given, x)
    assert not start.any()


@pytest.mark.parametrize("writes", [pair[0] for pair in WRITING.values()], ids=list(WRITING))
def test_nor_does_a_compiled_one_write_to_them(writes: Callable[[Tensor], Tensor]) -> None:
    passes = Passes(Model(writes, same), precision="full", device=torch.device("cpu"))
    passes.compile(backend="eager")
    x = batch()[0].requires_grad_()
    before = x.detach().clone()
    with passes.at(dict(passes.model.named_parameters())):
        logits = passes.graph(x).logits
    (gradient,) = torch.autograd.grad(logits.square().sum(), x)
    assert gradient.any()
    assert torch.equal(x, before)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_callers_mode_does_not_matter(mode: Any) -> None:
    model, other = Model(same, same), Model(same, same)
    expected = robust(other)
    assert sum(expected) < sum(robust(other, "clean")) == 6  # the attack has a gradient
    with mode():
        x, y = batch()
        step = TrainStep(model, awp=AWP(), attack=PGD(steps=3, eps=0.1, step_size=0.05))
        for _ in range(2):
            step(x, y)
        state = step.state_dict()
        assert robust(other) == expected
    assert equal(dict(model.state_dict()), trained(Model(same, same)))
    step.load_state_dict(state)
    step(*batch())


def quantised() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Linear(8, 4))
    model[1] = torch.ao.nn.quantized.dynamic.Linear(48, 8)
    return model


def lazy() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(4))


def of_inference() -> nn.Module:
    with torch.inference_mode():
        return Model(same, same)


@pytest.mark.filterwarnings("ignore:.*quantized.*", "ignore:Lazy modules:UserWarning")
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            quantised,
            "1 is a torch.ao.nn.quantized.dynamic.*Linear: quantised layers have no gradient; pass the module",
        ),
        (lazy, "parameter 1.weight has no shape yet"),
        (of_inference, "parameter conv.weight was made in torch.inference_mode, which forbids gradients"),
        (
            lambda: Model(same, same).to("meta"),
            r"parameter conv.weight lies on the meta device, .* model.to_empty",
        ),
        (lambda: Model(same, same, classes=1), "the model returned 1 logits an image: two classes at least"),
    ],
)
def test_modules_that_cannot_be_had(build: Callable[[], nn.Module], message: str) -> None:
    for use in (trained, robust):
        with pytest.raises(UserError, match=message) as refused:
            use(build())
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("where", ["first", "last"])
def test_a_model_without_an_input_gradient_is_not_trained(where: str) -> None:
    model = Model(same, same)
    setattr(model, where, torch.Tensor.detach)
    before = copy.deepcopy(dict(model.named_parameters()))
    with pytest.raises(
        UserError, match="the model's logits have no gradient for its input: take what cuts it out of"
    ):
        trained(model)
    assert equal(dict(model.named_parameters()), before)


TAKEN = [0.0, 1.0, 1 + 1e-7, 1 + 1e-6, -1e-7, -1e-6]
BEYOND = {
    1 + 2e-6: "1.000002",
    1 + 1.1e-6: "1.000001",
    -2e-6: "-2e-06",
    1.5: "1.5",
    -0.25: "-0.25",
    math.nan: "nan",
}


def with_pixel(value: float, dtype: torch.dtype) -> Tensor:
    x = batch(dtype)[0]
    x[2, 1, 3, 0] = value
    return x


def uses(model: nn.Module, x: Tensor) -> list[Callable[[], Any]]:
    y = batch()[1]
    return [
        lambda: TrainStep(model, attack=PGD(steps=2))(x, y),
        lambda: fastiseat.evaluate(model, x, y, ["clean", "pgd-2", "aa"], eps=0.5),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", TAKEN)
def test_pixels_that_rounding_left_beyond_the_range_are_taken(value: float, dtype: torch.dtype) -> None:
    seen: list[Tensor] = []
    model = Model(same, same).to(dtype)
    model.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().clone()))
    for use in uses(model, with_pixel(value, dtype)):
        use()
    low, high = torch.stack([x.amin() for x in seen]).min(), torch.stack([x.amax() for x in seen]).max()
    assert low >= min(0, value) - 1e-12 and high <= max(1, value) + 2e-7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("value", "told"), BEYOND.items())
def test_pixels_beyond_that_are_refused_with_the_digits_that_tell(
    value: float, told: str, dtype: torch.dtype
) -> None:
    for use in uses(Model(same, same).to(dtype), with_pixel(value, dtype)):
        with pytest.raises(
            UserError, match=rf"images reach from .*{re.escape(told)}.*: pixel values lie in 0 … 1"
        ):
            use()
