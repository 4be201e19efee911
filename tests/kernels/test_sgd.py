"""``sgd``: the reference against ``torch.optim.SGD``, each backend against the reference, bit for bit."""

from __future__ import annotations

import itertools
import math

import flat_buffers as flat
import pytest
import torch
from flat_buffers import BACKENDS, DTYPES, PERTURBED
from torch import Tensor
from triton_compile import compile_elsewhere

from fastiseat.errors import UserError
from fastiseat.kernels import sgd, weight_perturb
from fastiseat.kernels.core import dispatch

# Triton's interpreter computes by numpy, which warns of what is meant here.
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")

NUMBERS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
ACTIVE = torch.tensor([True, True, True, False, True, True, False])
NOTHING = dict.fromkeys(["second_grad", "perturbation_grad", "ratio", "active", "skip", "ema"]) | {
    "ema_decay": 0.0,
    "nesterov": False,
}


by_reference = flat.reference_of("sgd")

# What is never left out by itself.
ALONE = ("ratio", "ema_decay", "nesterov")


def extras(dtype: torch.dtype, device: str) -> dict[str, Tensor | float]:
    """Everything that the op takes."""
    found = {
        "second_grad": flat.buffer(14, dtype),
        "perturbation_grad": flat.buffer(15, dtype),
        "ratio": torch.rand(len(PERTURBED), generator=torch.Generator().manual_seed(16)),
        "active": ACTIVE,
        "skip": torch.tensor(False),
        "ema": flat.buffer(17),
    }
    return {name: value.to(device) for name, value in found.items()} | {"ema_decay": 0.999}


def by_segment(buffer: Tensor) -> list[Tensor]:
    """The tensors that lie in a flat buffer, in float64."""
    return [flat.of(buffer, number).double().clone() for number in range(len(PERTURBED))]


def written(function, weights, momentum_buffer, grad, **settings) -> list[Tensor | None]:
    """θ, b and the average afterwards, on the CPU; the arguments stay."""
    table = flat.segments(device=weights.device.type)
    settings = NOTHING | NUMBERS | settings
    state = [None if x is None else x.clone() for x in (weights, momentum_buffer, settings.pop("ema"))]
    function(state[0], state[1], grad, table, ema=state[2], **settings)
    return [None if x is None else x.cpu() for x in state]


def same_bits(found: list[Tensor | None], expected: list[Tensor | None]) -> bool:
    """Equal bit for bit, one NaN like another."""

    def bits(x: Tensor) -> Tensor:
        return torch.where(x.isnan(), torch.full_like(x, math.nan), x).view(torch.int32)

    return all(
        (a is None and b is None) or torch.equal(bits(a), bits(b)) for a, b in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_reference_is_torch_optim_sgd(momentum):
    table = flat.segments()
    weights = flat.buffer(10, torch.float64)
    buffer = torch.zeros_like(weights)
    parameter = torch.nn.Parameter(weights.clone())
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=momentum, weight_decay=0.01)
    for step in range(3):
        grad = flat.buffer(20 + step, torch.float64)
        parameter.grad = grad.clone()
        optimizer.step()
        sgd(weights, buffer if momentum else None, grad, table, lr=0.1, momentum=momentum, weight_decay=0.01)
        torch.testing.assert_close(weights, parameter.detach(), rtol=1e-12, atol=1e-15)


class ByTorch:
    """``torch.optim.SGD`` with Nesterov on the tensors of a flat buffer, in float64, and their running average."""

    def __init__(self, weights: Tensor, average: Tensor, weight_decay: float) -> None:
        self.parameters = [torch.nn.Parameter(part) for part in by_segment(weights)]
        self.averages, self.weight_decay = by_segment(average), weight_decay
        numbers = NUMBERS | {"weight_decay": weight_decay}
        self.optimizer = torch.optim.SGD(self.parameters, nesterov=True, **numbers)

    def step(self, gradients: list[Tensor], ratio: Tensor, active: Tensor | None) -> None:
        moving = [True] * len(self.parameters) if active is None else active.tolist()
        parts = zip(self.parameters, moving, ratio, PERTURBED, *map(by_segment, gradients), strict=True)
        for parameter, moves, factor, perturbed, grad, second, towards in parts:
            nu = float(factor) * perturbed * towards
            parameter.grad = grad + second + self.weight_decay * nu if moves else None
        self.optimizer.step()
        for number in (number for number, moves in enumerate(moving) if moves):
            self.averages[number].lerp_(self.parameters[number].detach(), 0.1)


@pytest.mark.parametrize(("backend", "device"), [*BACKENDS, ("reference", "cpu")])
def test_nesterov_is_that_of_torch_optim_sgd(backend, device):
    """With all that the op takes; the reference to float64's precision, a kernel to float32's."""
    exact = backend == "reference"
    run = by_reference if exact else flat.run_of("sgd", backend, device)
    weights, average, ratio = flat.buffer(30), flat.buffer(31), torch.linspace(0, 1, len(PERTURBED))
    theirs = ByTorch(weights, average, weight_decay=0.05)
    settings = NUMBERS | {"weight_decay": 0.05, "ema_decay": 0.9, "nesterov": True}
    names = ("grad", "second_grad", "perturbation_grad")

    def moved(tensor: Tensor) -> Tensor:
        return tensor.to(device, torch.float64 if exact and tensor.is_floating_point() else tensor.dtype)

    ours = [weights, torch.zeros_like(weights), average]
    for number, (active, skip) in enumerate([(None, False), (ACTIVE, False), (None, True), (None, False)]):
        gradients = [flat.buffer(40 + 3 * number + each) for each in range(3)]
        given = dict(zip(names, gradients, strict=True)) | {"ratio": ratio, "skip": torch.tensor(skip)}
        given |= {"ema": ours[2]} | ({} if active is None else {"active": active})
        given = {name: moved(tensor) for name, tensor in given.items()}
        ours = written(run, moved(ours[0]), moved(ours[1]), given.pop("grad"), **given, **settings)
        if not skip:
            theirs.step(gradients, ratio, active)
    limits = {"rtol": 1e-12, "atol": 1e-14} if exact else {"rtol": 1e-5, "atol": 2e-6}
    for found, expected in ((ours[0], theirs.parameters), (ours[2], theirs.averages)):
        for one, other in zip(by_segment(found), expected, strict=True):
            torch.testing.assert_close(one, other.detach(), **limits)


def test_decay_is_taken_at_the_perturbed_weights():
    table, ones = flat.segments(), torch.ones(9216, dtype=torch.float64)
    weights, average = ones.clone(), ones * 5
    ratio = torch.full((len(PERTURBED),), 3.0, dtype=torch.float64)
    settings = {"lr": 0.5, "momentum": 0.9, "weight_decay": 0.25, "second_grad": ones, "ema": average}
    sgd(weights, None, ones, table, perturbation_grad=ones * 2, ratio=ratio, ema_decay=0.75, **settings)
    perturbed = flat.of(weights, 0)
    assert torch.equal(perturbed, torch.full_like(perturbed, 1 - 0.5 * (2 + 0.25 * 7)))
    plain = flat.of(weights, 2)
    assert torch.equal(plain, torch.full_like(plain, 1 - 0.5 * (2 + 0.25)))
    assert torch.equal(average, 0.75 * 5 + 0.25 * weights)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_backends(backend, device, dtype):
    run = flat.run_of("sgd", backend, device)
    weights, buffer = flat.buffer(11).to(device), flat.buffer(12).to(device)
    grad = flat.buffer(13, dtype).to(device)
    everything = extras(dtype, device)
    for left_out in ([], *([name] for name in NOTHING if name not in ALONE), list(NOTHING)):
        left_out = [*left_out, *(["ratio"] if "perturbation_grad" in left_out else [])]
        settings = {name: NOTHING[name] if name in left_out else value for name, value in everything.items()}
        for b, nesterov in ((buffer, False), (buffer, True), (None, False)):
            settings["nesterov"] = nesterov
            found = written(run, weights, b, grad, **settings)
            assert same_bits(found, written(by_reference, weights, b, grad, **settings))
            assert same_bits(
                found,
                written(
                    by_reference,
                    *(x if x is None else x.cpu() for x in (weights, b, grad)),
                    **{k: v.cpu() if isinstance(v, Tensor) else v for k, v in settings.items()},
                ),
            )


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_numbers_in_tensors(backend, device):
    run = flat.run_of("sgd", backend, device)
    weights, buffer, grad = (flat.buffer(seed).to(device) for seed in (1, 2, 3))
    average = flat.buffer(4).to(device)
    numbers = NUMBERS | {"ema_decay": 0.99}
    expected = written(run, weights, buffer, grad, ema=average, **numbers)
    for name, value in numbers.items():
        for tensor in (torch.tensor(value), torch.tensor([value])):
            found = written(run, weights, buffer, grad, ema=average, **numbers | {name: tensor.to(device)})
            assert same_bits(found, expected), name


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(("backend", "device"), [*BACKENDS, ("reference", "cpu")])
def test_momentum_that_moves_is_that_of_torch_optim_sgd(backend, device, nesterov):
    """Read from the device, as the learning rate is; the first step's b is d, whatever the number."""
    run = by_reference if backend == "reference" else flat.run_of("sgd", backend, device)
    weights, b = flat.buffer(60).to(device), torch.zeros(9216, device=device)
    parameters = [torch.nn.Parameter(part) for part in by_segment(weights)]
    theirs = torch.optim.SGD(parameters, lr=1.0, momentum=0.9, weight_decay=0.05, nesterov=nesterov)
    numbers = {name: torch.zeros((), device=device) for name in ("lr", "momentum")}
    for number, (lr, momentum) in enumerate([(0.01, 0.95), (0.1, 0.5), (0.3, 0.85), (0.05, 0.1)]):
        grad = flat.buffer(61 + number)
        numbers["lr"].fill_(lr), numbers["momentum"].fill_(momentum)
        weights, b, _ = (
            x if x is None else x.to(device)
            for x in written(run, weights, b, grad.to(device), **numbers, weight_decay=0.05, nesterov=nesterov)
        )
        theirs.param_groups[0].update(lr=lr, momentum=momentum)
        for parameter, part in zip(parameters, by_segment(grad), strict=True):
            parameter.grad = part
        theirs.step()
    for found, expected in zip(by_segment(weights.cpu()), parameters, strict=True):
        torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(("backend", "device"), [*BACKENDS, ("reference", "cpu")])
def test_what_is_skipped_or_inactive_keeps_its_bits(backend, device):
    run = by_reference if backend == "reference" else flat.run_of("sgd", backend, device)
    weights, buffer = flat.buffer(21).to(device), flat.buffer(22).to(device)
    flat.of(weights, 3)[:3] = torch.tensor([-0.0, math.inf, 1e-45], device=device)
    grad = torch.full_like(weights, math.nan)
    settings = extras(torch.float32, device)
    before = [weights.cpu(), buffer.cpu(), settings["ema"].cpu()]
    skipped = written(run, weights, buffer, grad, **settings | {"skip": torch.tensor(True, device=device)})
    assert same_bits(skipped, before)
    partly = written(run, weights, buffer, grad, **settings)
    for number, active in enumerate(ACTIVE):
        for found, old in zip(partly, before, strict=True):
            if active:
                assert flat.of(found, number).isnan().all()
            else:
                assert same_bits([flat.of(found, number)], [flat.of(old, number)])


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_special_values(backend, device):
    run = flat.run_of("sgd", backend, device)
    values = torch.tensor(
        [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-45, -1e-45, 1e-38, 3e38, -3e38, 1.0, 65504]
    )
    pairs = torch.cartesian_prod(values, values, values)[:1500]
    weights, buffer, grad = flat.buffer(1), flat.buffer(2), flat.buffer(3)
    for x, column in zip((weights, buffer, grad), pairs.unbind(1), strict=True):
        flat.of(x, 0)[: len(column)] = column
    moved = [x.to(device) for x in (weights, buffer, grad)]
    for ratio, nesterov in itertools.product((0.0, math.inf, math.nan), (False, True)):
        settings = {"perturbation_grad": grad, "ratio": torch.full((len(PERTURBED),), ratio)}
        on_device = {name: value.to(device) for name, value in settings.items()}
        expected = written(by_reference, weights, buffer, grad, nesterov=nesterov, **settings)
        assert same_bits(written(run, *moved, nesterov=nesterov, **on_device), expected)


@pytest.mark.parametrize("threads", [2, 5])
def test_bits_do_not_depend_on_threads(threads, monkeypatch):
    table = flat.segments([40_000, 3, 70_001], [True, False, True])
    weights, buffer, grad = torch.randn(3, table.num_elements)
    results = []
    for number in (threads, 1):
        monkeypatch.setattr(torch, "get_num_threads", lambda number=number: number)
        state = weights.clone(), buffer.clone()
        run = flat.run_of("sgd", "native", "cpu")
        run(*state, grad, table, **NUMBERS, **NOTHING)
        results.append(state)
    assert all(map(torch.equal, *results))


def test_torch_library():
    table = flat.segments()
    weights, buffer, average = (flat.buffer(seed) for seed in (1, 2, 3))
    grad = flat.buffer(4, torch.bfloat16)
    ratio = torch.rand(len(PERTURBED))
    op = torch.ops.fastiseat.sgd.default
    head = (weights, buffer, grad, *table, 0.1, 0.9, 5e-4)
    torch.library.opcheck(
        op, (*head, grad.clone(), grad.clone(), ratio, ACTIVE, torch.tensor(False), average, 0.9, True)
    )
    rest = (None, None, None, None, None, None, 0.0, False)
    torch.library.opcheck(op, (weights, None, *head[2:], *rest, torch.tensor(0.1)))

    def step(theta, b, g):
        sgd(theta, b, g, table, **NUMBERS, nesterov=True)
        return theta * 2

    pairs = [(weights.clone(), buffer.clone()) for _ in range(2)]
    expected = step(*pairs[0], grad)
    found = torch.compile(step, backend="aot_eager", fullgraph=True)(*pairs[1], grad)
    assert torch.equal(found, expected)
    assert all(map(torch.equal, *pairs))


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["native", "triton"])
def test_in_a_captured_graph(backend, monkeypatch):
    """Both ops; what a replay computes follows the numbers on the device."""
    flat.require(backend, "cuda")
    monkeypatch.setenv(dispatch.VARIABLE, backend)
    table = flat.segments(device="cuda")
    weights, buffer, grad = (flat.buffer(seed).cuda() for seed in (1, 2, 3))
    start, out, number = (weights.clone(), buffer.clone()), torch.empty_like(weights), torch.tensor(0.1).cuda()
    moving = {"lr": number, "momentum": number}

    def step(value: float) -> list[Tensor]:
        weights.copy_(start[0]), buffer.copy_(start[1]), number.fill_(value)
        run()
        return [weights.clone(), buffer.clone(), out.clone()]

    def eagerly() -> None:
        ratio = weight_perturb(weights, grad, table, gamma=number, norm="global", out=out)
        sgd(weights, buffer, grad, table, perturbation_grad=grad, ratio=ratio, **NUMBERS | moving)

    run = eagerly
    expected = [step(value) for value in (0.1, 0.5)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        eagerly()
    run = graph.replay
    for value, wanted in zip((0.1, 0.5), expected, strict=True):
        assert all(map(torch.equal, step(value), wanted))


ZEROS = torch.zeros(9216)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": torch.zeros(9216).bfloat16()}, "weights are torch.bfloat16; float32 or float64"),
        ({"momentum_buffer": torch.zeros(9216).double()}, "momentum_buffer is torch.float64; torch.float32"),
        ({"grad": torch.zeros(3)}, r"grad is of shape \(3,\); a contiguous buffer of \(9216,\)"),
        ({"second_grad": torch.zeros(9216).half()}, "second_grad is torch.float16; torch.float32 is needed"),
        ({"perturbation_grad": torch.zeros(9216)}, "give both, or neither"),
        ({"perturbation_grad": torch.zeros(9216), "ratio": torch.zeros(3)}, r"ratio is .* \(7,\) is needed"),
        ({"active": torch.zeros(7)}, "active is torch.float32 .* torch.bool"),
        ({"skip": torch.zeros(1, dtype=torch.bool)}, r"skip is torch.bool of shape \(1,\)"),
        ({"lr": torch.zeros(2)}, "lr is torch.float32 of shape"),
        ({"nesterov": True}, "nesterov=True: .* give a momentum_buffer, or nesterov False"),
        ({"ema": ZEROS, "momentum_buffer": ZEROS}, "is the memory of"),
        ({"weights": torch.zeros(9216, device="meta")}, "segments.block_segment lies on cpu, weights on meta"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = (
        {"weights": torch.zeros(9216), "momentum_buffer": None, "grad": torch.zeros(9216)} | NUMBERS | change
    )
    with pytest.raises(UserError, match=message):
        sgd(segments=flat.segments(), **arguments)


def test_triton_compiles_for_cards_that_are_not_here():
    buffers = ["weights", "momentum_buffer", "ema", "ratio"]
    gradients = ["grad", "second_grad", "perturbation_grad"]
    numbers = [*NUMBERS, "ema_decay"]
    everything = {
        **dict.fromkeys(buffers, "*fp32"),
        **dict.fromkeys(gradients, "*bf16"),
        **dict.fromkeys(["perturbed", "active", "skip"], "*u8"),
        **dict.fromkeys(numbers, "fp32"),
        **{f"{name}_tensor": "*fp32" for name in numbers},
        "block_segment": "*i32",
    }
    needed = ["weights", "grad", "block_segment", "perturbed", *numbers]
    least = {name: everything[name] for name in needed} | {"grad": "*fp32"}
    calls = [
        {"kernel": "_sgd", "types": types, "constants": {"BLOCK": 1024, "NESTEROV": nesterov}}
        for types, nesterov in ((everything, True), (everything, False), (least, False))
    ]
    for made in compile_elsewhere("fastiseat.kernels.sgd.triton", calls):
        assert made["cubin"]
        assert made["wide_accesses"] >= 3
        assert made["fused"] == 0
