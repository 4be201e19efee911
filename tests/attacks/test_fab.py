"""FAB beside the authors' own: every image that the network is asked about, and which ones are within ε."""

from __future__ import annotations

import pytest
import torch
from pyautoattack.fab_pt import FABAttack_PT
from searching import NORMS, advance, begin, curved, given_to, images_of, in_float64, inputs_of
from torch import Tensor

from fastiseat.attacks.search.fab import FAB

COUNT = 15


def length(norm: str, delta: Tensor) -> Tensor:
    flat = delta.flatten(1)
    return flat.abs().amax(1) if norm == "linf" else flat.norm(dim=1)


def theirs(norm: str, images: Tensor, labels: Tensor, *, nth: int, n_iter: int) -> tuple[Tensor, Tensor]:
    """Images that the network was asked about, and the nearest one that it was wrong about, or the image itself."""
    model = curved()
    attack = FABAttack_PT(model, norm=NORMS[norm], n_iter=n_iter, eps=1.0, targeted=True)
    attack.target_class = nth + 1
    asked = inputs_of(model)
    with in_float64():
        nearest = attack.attack_single_run(images, labels, is_targeted=True)
    return torch.stack(asked[2:]), nearest  # two passes tell the label and the target


def compare(*, norm: str, nth: int = 1, iterations: int = 60) -> None:
    """AssertionError where they differ."""
    search, model, images = FAB(norm=norm, iterations=iterations), curved(), images_of(COUNT)
    given = given_to(model, images, eps=1.0, nth=nth)
    asked = inputs_of(model)
    advance(search, begin(search, given), model)
    expected, nearest = theirs(norm, images, given["labels"], nth=nth, n_iter=iterations)
    torch.testing.assert_close(torch.stack(asked), expected, atol=1e-7, rtol=0)
    distances = length(norm, nearest - images)
    broken = distances > 0
    assert broken.sum() > COUNT // 2
    assert len(distances[broken].unique()) > COUNT // 2
    middle = float(distances[broken].sort().values[broken.sum() // 2])
    for eps in (middle * 1.0001, middle * 0.9999):
        end = advance(search, begin(search, given | {"eps": torch.tensor(eps)}), curved())
        assert end["found"].equal(broken & (distances <= eps))


@pytest.mark.parametrize("nth", [1, 3])
@pytest.mark.parametrize("norm", NORMS)
def test_it_is_the_authors(norm: str, nth: int) -> None:
    compare(norm=norm, nth=nth)


@pytest.mark.parametrize("norm", NORMS)
def test_what_is_found_is_within_reach(norm: str) -> None:
    model, images, eps = curved(), images_of(30), {"linf": 0.06, "l2": 0.3}[norm]
    given = given_to(model, images, eps=eps)
    end = advance(FAB(norm=norm, iterations=30), begin(FAB(norm=norm), given), model)
    found = end["found"]
    assert 3 < found.sum() < 27
    assert (model(end["x_adv"]).argmax(1) != given["labels"]).equal(found)
    assert (length(norm, end["x_adv"] - images) <= eps).all()
    assert end["x_adv"].min() >= 0 and end["x_adv"].max() <= 1


@pytest.mark.parametrize("norm", NORMS)
def test_leaving_early_changes_nothing_for_the_others(norm: str) -> None:
    model, given = curved(), given_to(curved(), images_of(10), eps=0.1)
    search = FAB(norm=norm, iterations=20)
    state = advance(search, begin(search, given), model, 8)
    left = {name: tensor[3:7] if tensor.dim() else tensor for name, tensor in state.items()}
    whole, part = (advance(search, some, model, 12) for some in (state, left))
    for name in ("x", "x_adv"):
        torch.testing.assert_close(part[name], whole[name][3:7], atol=1e-9, rtol=0)
    assert part["found"].equal(whole["found"][3:7])


@pytest.mark.parametrize("norm", NORMS)
def test_a_network_without_a_slope_is_left_alone(norm: str) -> None:
    """No NaN comes of a plane that can't be reached."""
    model = curved()
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].weight[:, :3] = 1e-3
    given = given_to(model, images_of(6), eps=0.1)
    end = advance(FAB(norm=norm, iterations=5), begin(FAB(norm=norm), given), model)
    assert end["x"].isfinite().all()
    assert not end["found"].any()
