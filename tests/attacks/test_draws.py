"""A sample's random numbers are its own, whoever else is in the batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastiseat.attacks.draws import draw, signs, splitmix, uniform


def words(
    index: list[int], *, round_: int = 0, clock: int = 0, seed: int = 0, stage: int = 0, count: int = 7
) -> Tensor:
    rows = torch.tensor(index)
    return draw(
        rows, torch.full_like(rows, round_), torch.full_like(rows, clock), seed=seed, stage=stage, count=count
    )


def test_splitmix_is_the_published_generator() -> None:
    """The first words of its stream 0, and of another, as the authors' reference implementation in C gives them."""
    first = splitmix(torch.arange(3), key=0)
    assert [word % 2**64 for word in first.tolist()] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]
    other = splitmix(torch.arange(2), key=torch.tensor(1234567))
    assert [word % 2**64 for word in other.tolist()] == [6457827717110365317, 3203168211198807973]


def test_the_words_are_the_samples_own() -> None:
    assert words([3, 8, 5])[1:2].equal(words([8]))
    places = torch.tensor([8, 8]), torch.tensor([2, 1]), torch.tensor([9, 4])
    both = draw(*places, seed=1, stage=1, count=6)
    assert both[0:1].equal(words([8], round_=2, clock=9, seed=1, stage=1, count=6))
    assert both[1:2].equal(words([8], round_=1, clock=4, seed=1, stage=1, count=6))


def test_more_words_begin_with_the_same() -> None:
    assert words([4], count=9)[:, :3].equal(words([4], count=3))


def test_every_place_has_words_of_its_own() -> None:
    changes = [
        {"index": [1]},
        {"index": [2]},
        {"index": [2**31]},
        {"round_": 1},
        {"round_": 8},
        {"clock": 1},
        {"clock": 8},
        {"clock": 5000},
        {"seed": 1},
        {"seed": 2**40},
        {"stage": 1},
        {"stage": 3},
        {"round_": 1, "clock": 1},
    ]
    found = {tuple(words(**({"index": [0]} | change)).flatten().tolist()) for change in changes}  # type: ignore[arg-type]
    found.add(tuple(words([0]).flatten().tolist()))
    assert len(found) == len(changes) + 1
    assert len(words([0], count=1000).unique()) > 990


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_are_uniform_and_below_one(dtype: torch.dtype) -> None:
    numbers = uniform(words(list(range(200)), count=500), dtype)
    assert numbers.dtype == dtype
    shares = torch.histc(numbers, 10, 0, 1) / numbers.numel()
    torch.testing.assert_close(shares, torch.full_like(shares, 0.1), atol=0.005, rtol=0)
    ends = uniform(torch.tensor([0, 2**32 - 1]), dtype)
    assert ends[0] == 0
    assert 0.99999 < ends[1] < 1


def test_signs_are_either_as_often() -> None:
    found = signs(words(list(range(100)), count=500), torch.float32)
    assert set(found.unique().tolist()) == {-1.0, 1.0}
    assert abs(found.mean()) < 0.02
