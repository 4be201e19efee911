"""The oracle against simpler facts still: torch.optim.SGD, counts, norms, finite differences; in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oracles.algorithm1 import Algorithm1

EPS, STEP_SIZE = 8 / 255, 2 / 255
ISEAT = {"lr": 0.1, "eps": EPS, "step_size": STEP_SIZE, "lam": 0.1, "gamma": 0.007}


def make_net() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.SiLU(),
        nn.Conv2d(4, 5, 3),
        nn.BatchNorm2d(5),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(5 * 2 * 2, 3),
    )
    return net.double()


def make_batch(seed: int = 1, m: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(m, 3, 6, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (m,), generator=generator)


def random_start(x: Tensor) -> Tensor:
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    return (2 * noise - 1) * EPS


def attack(model: nn.Module, x: Tensor, y: Tensor, start: Tensor | None = None) -> Tensor:
    """PGD-10 as one would write it in a notebook."""
    delta = torch.zeros_like(x) if start is None else torch.clamp(x + start, 0, 1) - x
    for _ in range(10):
        image = torch.clamp(x + delta, 0, 1).detach().requires_grad_()
        nn.CrossEntropyLoss()(model(image), y).backward()
        delta = torch.clamp(delta + STEP_SIZE * image.grad.sign(), -EPS, EPS)
        delta = torch.clamp(x + delta, 0, 1) - x
    return torch.clamp(x + delta, 0, 1)


def assert_same_state(actual: nn.Module, expected: nn.Module, atol: float = 1e-12) -> None:
    torch.testing.assert_close(actual.state_dict(), expected.state_dict(), rtol=0, atol=atol)


def batch_counts(model: nn.Module) -> list[int]:
    return [bn.num_batches_tracked.item() for bn in model.modules() if isinstance(bn, nn.BatchNorm2d)]


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("bn_mode", ["train", "eval"])
def test_without_terms_it_is_adversarial_training(bn_mode: str, nesterov: bool) -> None:
    oracle = Algorithm1(make_net(), lr=0.1, nesterov=nesterov, eps=EPS, step_size=STEP_SIZE, bn_mode=bn_mode)
    model = make_net()
    numbers = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
    optimizer = torch.optim.SGD(model.parameters(), **numbers, nesterov=nesterov)
    for seed, lr in enumerate([0.1, 0.1, 0.01]):
        x, y = make_batch(seed)
        oracle.lr = optimizer.param_groups[0]["lr"] = lr
        out = oracle.step(x, y)

        model.train(bn_mode == "train")
        x_adv = attack(model, x, y)
        model.train()
        optimizer.zero_grad()
        loss = nn.CrossEntropyLoss()(model(x_adv), y)
        loss.backward()
        optimizer.step()

        assert_same_state(oracle.model, model)
        torch.testing.assert_close(out["loss"], loss.detach(), rtol=0, atol=1e-12)
        torch.testing.assert_close(out["delta"], x_adv - x, rtol=0, atol=1e-12)
        for name, p in model.named_parameters():
            expected = optimizer.state[p]["momentum_buffer"]
            torch.testing.assert_close(oracle.momentum_buffers[name], expected, rtol=0, atol=1e-12)
        assert (out["weights"], out["nu"], out["loss_stability"]) == (None, {}, 0)
        assert (out["av"] is None) == (out["logits_clean"] is None) == (bn_mode == "eval")


@pytest.mark.parametrize("lam", [0.0, 0.1])
@pytest.mark.parametrize("gamma", [0.0, 0.007])
@pytest.mark.parametrize("eps", [0.0, EPS])
@pytest.mark.parametrize("bn_mode", ["train", "eval"])
def test_batchnorm_update_count(lam: float, gamma: float, eps: float, bn_mode: str) -> None:
    settings = ISEAT | {"eps": eps, "lam": lam, "gamma": gamma}
    oracle = Algorithm1(make_net(), bn_mode=bn_mode, **settings)
    per_step = 11 if bn_mode == "train" else 2 if lam else 1
    for step in (1, 2):
        oracle.step(*make_batch())
        assert batch_counts(oracle.model) == [step * per_step] * 2


@pytest.mark.parametrize("bn_mode", ["train", "eval"])
def test_batchnorm_statistics_follow_the_passes_in_order(bn_mode: str) -> None:
    x, y = make_batch()
    start = random_start(x)
    oracle = Algorithm1(make_net(), bn_mode=bn_mode, **ISEAT)
    out = oracle.step(x, y, start)

    model = make_net()
    model.train(bn_mode == "train")
    x_adv = attack(model, x, y, start)
    model.train()
    x_clean = torch.clamp(x + start, 0, 1)
    torch.testing.assert_close(out["x_adv"], x_adv, rtol=0, atol=1e-12)
    z_clean = copy.deepcopy(model)(x_clean).detach()
    torch.testing.assert_close(out["logits_clean"], z_clean, rtol=0, atol=1e-12)
    if bn_mode == "eval":
        model(x_clean)
    for name, nu in out["nu"].items():
        model.get_parameter(name).data += nu
    torch.testing.assert_close(out["logits_adv"], model(x_adv).detach(), rtol=0, atol=1e-12)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(oracle.model.get_buffer(name), buffer, rtol=0, atol=1e-12)


def test_attack_stays_in_the_ball_and_in_the_image_range() -> None:
    x, y = make_batch()
    out = Algorithm1(make_net(), **ISEAT).step(x, y, random_start(x))
    assert out["x_adv"].min() >= 0 and out["x_adv"].max() <= 1
    assert 0 < out["delta"].abs().max() <= EPS + 1e-15


def test_weights_are_ranks_of_the_vulnerability() -> None:
    x, y = make_batch()
    out = Algorithm1(make_net(), **ISEAT).step(x, y)
    m = len(x)
    loss = F.cross_entropy(out["logits_adv"], y, reduction="none")
    loss_clean = F.cross_entropy(out["logits_clean"], y, reduction="none")
    torch.testing.assert_close(out["av"], loss - loss_clean)
    descending = torch.tensor([1 - rank / m for rank in range(m)], dtype=torch.float64)
    assert torch.equal(out["weights"].sort(descending=True).values, descending)
    assert torch.equal(out["weights"].argsort(descending=True), out["av"].argsort(descending=True))


def test_equal_vulnerabilities_rank_by_index() -> None:
    x, y = make_batch()
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, 3)).double()
    net[1].weight.data.zero_()
    out = Algorithm1(net, **ISEAT).step(x, torch.zeros_like(y))
    assert torch.equal(out["av"], torch.zeros_like(out["av"]))
    assert out["weights"].tolist() == [1 - rank / len(x) for rank in range(len(x))]


@pytest.mark.parametrize("awp_norm", ["tensor", "global"])
def test_weight_perturbation_has_its_norm_and_ascends(awp_norm: str) -> None:
    x, y = make_batch()
    net = make_net()
    theta = {name: p.detach() for name, p in net.named_parameters() if p.ndim > 1}
    out = Algorithm1(net, awp_norm=awp_norm, **ISEAT).step(x, y)
    nu = out["nu"]
    assert nu.keys() == theta.keys() == {"0.weight", "3.weight", "7.weight"}

    if awp_norm == "tensor":
        for name in theta:
            torch.testing.assert_close(nu[name].norm(), 0.007 * theta[name].norm())
    else:
        total_nu = sum(nu[name].square().sum() for name in nu)
        total_theta = sum(theta[name].square().sum() for name in theta)
        torch.testing.assert_close(total_nu, 0.007**2 * total_theta)

    probe = copy.deepcopy(net)
    loss = F.cross_entropy(probe(out["x_adv"]), y)
    loss.backward()
    slopes = []
    for name, direction in nu.items():
        gradient = probe.get_parameter(name).grad
        cosine = F.cosine_similarity(gradient.flatten(), direction.flatten(), dim=0)
        assert cosine.item() == pytest.approx(1.0)
        slopes.append((direction.norm() / gradient.norm()).item())
    if awp_norm == "global":
        assert slopes == pytest.approx([slopes[0]] * 3)
    assert out["loss_adversarial"] > loss


@pytest.mark.parametrize("gamma", [0.0, 0.007])
def test_gradient_of_equation_17_by_finite_differences(gamma: float) -> None:
    x, y = make_batch()
    net = make_net()
    out = Algorithm1(net, lr=0.1, eps=EPS, step_size=STEP_SIZE, lam=2.0, gamma=gamma).step(x, y)

    def objective(name: str, index: int, h: float) -> float:
        """Eq. 15 as a function of one coordinate of θ; δ, ν and w stay."""
        at_theta = copy.deepcopy(net)
        at_theta.get_parameter(name).data.view(-1)[index] += h
        at_perturbed = copy.deepcopy(at_theta)
        for perturbed_name, nu in out["nu"].items():
            at_perturbed.get_parameter(perturbed_name).data += nu
        z, z_clean = at_perturbed(out["x_adv"]), at_theta(x)
        stability = (out["weights"] * (z - z_clean).square().sum(1)).mean()
        return (F.cross_entropy(z, y) + 2.0 * stability).item()

    h = 1e-5
    assert objective("0.weight", 0, 0.0) == pytest.approx(out["loss"].item(), rel=1e-12)
    for name, gradient in out["grads"].items():
        for index in {0, gradient.numel() // 2, gradient.numel() - 1}:
            slope = (objective(name, index, h) - objective(name, index, -h)) / (2 * h)
            assert slope == pytest.approx(gradient.view(-1)[index].item(), rel=1e-6, abs=1e-9), (name, index)


def test_update_is_sgd_at_the_perturbed_weights() -> None:
    net = make_net()
    oracle = Algorithm1(net, weight_decay=0.1, **ISEAT)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for seed in range(3):
        out = oracle.step(*make_batch(seed))
        for name, p in net.named_parameters():
            p.grad = out["grads"][name]
            p.data += out["nu"].get(name, 0)
        optimizer.step()
        for name, p in net.named_parameters():
            p.data -= out["nu"].get(name, 0)
            torch.testing.assert_close(oracle.model.get_parameter(name), p, rtol=0, atol=1e-12)


def test_zero_learning_rate_leaves_the_parameters() -> None:
    net = make_net()
    oracle = Algorithm1(net, **(ISEAT | {"lr": 0.0}))
    for seed in range(2):
        oracle.step(*make_batch(seed))
    for name, p in net.named_parameters():
        torch.testing.assert_close(oracle.model.get_parameter(name), p, rtol=0, atol=1e-15)


class Awkward(nn.Module):
    """A frozen stem, a layer used twice under two names, and a layer that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3 * 6 * 6, 4)
        self.first = nn.Linear(4, 4)
        self.second = self.first
        self.unused = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)
        self.stem.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(torch.tanh(self.first(self.stem(x.flatten(1))))))


def test_frozen_tied_and_unused_parameters() -> None:
    torch.manual_seed(0)
    net = Awkward().double()
    oracle = Algorithm1(net, **ISEAT)
    for seed in range(2):
        theta = oracle.model.first.weight.detach().clone()
        out = oracle.step(*make_batch(seed))
        assert out["grads"].keys() == {"first.weight", "first.bias", "head.weight", "head.bias"}
        torch.testing.assert_close(out["nu"]["first.weight"].norm(), 0.007 * theta.norm())
        assert not out["nu"]["unused.weight"].any()
        assert "stem.weight" not in out["nu"]
    assert oracle.model.first is oracle.model.second
    for name in ("stem.weight", "stem.bias", "unused.weight", "unused.bias"):
        assert torch.equal(oracle.model.get_parameter(name), net.get_parameter(name))
        assert name not in oracle.momentum_buffers
