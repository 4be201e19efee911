"""Other people's attacks run on what load_model returns, as on any module of PyTorch's own layers."""

import foolbox
import pytest
import torch
import torchattacks
import zoo_forms
from torch import nn

from fastiseat import load_model
from fastiseat.pipelines.data import datasets

EPS = 0.15
COUNT = 24


@pytest.fixture(scope="module")
def digits():
    """Images in [0, 1], float32, and labels."""
    split = datasets.load("digits").test
    images = torch.as_tensor(split.images[:COUNT]).permute(0, 3, 1, 2).float() / 255
    return images.contiguous(), torch.as_tensor(split.labels[:COUNT]).long()


@pytest.fixture
def model():
    return load_model("digits-iseat")


class Plain(nn.Module):
    """A network of PyTorch's layers alone, which shows how a library leaves modules."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
        )

    def forward(self, x):
        return self.net(x)


def foolbox_attack(attack):
    def run(model, images, labels):
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        return attack(wrapped, images, labels, epsilons=EPS)[1]

    return run


ATTACKS = {
    "foolbox FGSM": foolbox_attack(foolbox.attacks.FGSM()),
    "foolbox LinfPGD": foolbox_attack(foolbox.attacks.LinfPGD(steps=5)),
    "foolbox DeepFool": foolbox_attack(foolbox.attacks.LinfDeepFoolAttack(steps=5)),
    "torchattacks FGSM": lambda model, *batch: torchattacks.FGSM(model, eps=EPS)(*batch),
    "torchattacks PGD": lambda model, *batch: torchattacks.PGD(model, eps=EPS, alpha=EPS / 4, steps=5)(*batch),
    "torchattacks APGD": lambda model, *batch: torchattacks.APGD(model, eps=EPS, steps=5, seed=0)(*batch),
    "torchattacks APGDT": lambda model, *batch: torchattacks.APGDT(model, eps=EPS, steps=5, seed=0)(*batch),
    "torchattacks FAB": lambda model, *batch: torchattacks.FAB(model, eps=EPS, steps=3, seed=0)(*batch),
    "torchattacks Square": lambda model, *batch: torchattacks.Square(model, eps=EPS, n_queries=20, seed=0)(*batch),
}


def traces(model):
    """All of a module that an attack could leave otherwise than it found it."""
    return (
        {m.training for m in model.modules()},
        {parameter.requires_grad for parameter in model.parameters()},
        {parameter.grad is None for parameter in model.parameters()},
    )


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_run_and_leave_the_module_as_they_leave_any(model, digits, name, training):
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    if name.startswith("foolbox") and training:
        model, plain = model.train(), Plain().train()
        with pytest.warns(UserWarning, match="model is in training mode"):
            ATTACKS[name](model, *digits)
        with pytest.warns(UserWarning, match="model is in training mode"):
            ATTACKS[name](plain, *digits)
    else:
        model, plain = model.train(training), Plain().train(training)
        adversarial = ATTACKS[name](model, *digits)
        ATTACKS[name](plain, *digits)
        assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
        assert (adversarial - digits[0]).abs().max() <= EPS + 1e-6
        assert adversarial.shape == digits[0].shape
        assert adversarial.min() >= 0 and adversarial.max() <= 1
    assert traces(model) == traces(plain)


def accuracy(model, images, labels):
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())


@pytest.mark.parametrize("name", ["foolbox LinfPGD", "torchattacks PGD", "torchattacks APGD"])
def test_attacks_find_what_there_is_to_find(model, digits, name):
    """At its own ε the robust network mostly stands; one that was never trained gives way."""
    images, labels = digits
    assert accuracy(model, images, labels) >= 0.9
    assert accuracy(model, ATTACKS[name](model, images, labels), labels) >= 0.7
    undefended = Plain().eval()
    own = undefended(images).argmax(1)
    assert accuracy(undefended, ATTACKS[name](undefended, images, own), own) < 0.9


def test_at_three_times_its_eps_the_network_falls(model, digits):
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(steps=20, rel_stepsize=0.1)
    success = attack(wrapped, *digits, epsilons=3 * EPS)[2]
    assert success.float().mean() >= 0.8


def short_autoattack(model, images, labels):
    attack = torchattacks.AutoAttack(model, eps=EPS, seed=0)
    for piece in attack._autoattack._attacks.values():
        piece.steps, piece.n_queries = 2, 5
    return attack(images, labels)


def test_torchattacks_autoattack_as_one(model, digits):
    images, labels = digits[0][:4], digits[1][:4]
    adversarial = short_autoattack(model, images, labels)
    assert (adversarial - images).abs().max() <= EPS + 1e-6
    plain = Plain().eval()
    short_autoattack(plain, images, plain(images).argmax(1))
    assert traces(model) == traces(plain)


def test_a_normalised_network_is_attacked_in_pixels(tmp_path):
    """What a library does to images in [0, 1] stays so: the network normalises them itself."""
    torch.save(zoo_forms.sequential(zoo_forms.PlainWRN()).state_dict(), tmp_path / "w.pt")
    model, images = load_model(tmp_path / "w.pt"), torch.rand(4, 3, 16, 16)
    labels = model(images).argmax(1)
    for name in ("foolbox LinfPGD", "torchattacks PGD"):
        adversarial = ATTACKS[name](model, images, labels)
        assert EPS / 2 < (adversarial - images).abs().max() <= EPS + 1e-6
        assert adversarial.min() >= 0 and adversarial.max() <= 1
