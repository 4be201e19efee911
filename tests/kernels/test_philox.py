"""``philox``: the published vectors, and a transcription of the paper's round in Python's own integers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles.philox import philox_oracle

from fastiseat.kernels.core.philox import below, philox

ONES = 0xFFFFFFFF

# Random123 (D. E. Shaw Research), tests/kat_vectors: philox4x32 10 <counter> <key> <words>
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]

WORDS = st.integers(0, ONES) | st.sampled_from([0, 1, 2**31 - 1, 2**31, ONES - 1, ONES])
COUNTERS = st.tuples(WORDS, WORDS, WORDS, WORDS)
KEYS = st.tuples(WORDS, WORDS)


def values(words: tuple[torch.Tensor, ...]) -> tuple[int, ...]:
    assert all(word.dtype == torch.int64 and word.shape == () for word in words)
    return tuple(int(word) for word in words)


def columns(rows: list[tuple[int, ...]]) -> tuple[torch.Tensor, ...]:
    return torch.tensor(rows).unbind(1)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_known_answers(counter, key, words):
    assert philox_oracle(counter, key) == words
    assert values(philox(counter, key)) == words
    assert values(philox(tuple(map(torch.tensor, counter)), tuple(map(torch.tensor, key)))) == words


def test_known_answers_as_one_batch():
    counters, keys, words = (columns(list(rows)) for rows in zip(*KNOWN_ANSWERS, strict=True))
    for actual, expected in zip(philox(counters, keys), words, strict=True):
        assert torch.equal(actual, expected)


@given(st.lists(st.tuples(COUNTERS, KEYS), min_size=1, max_size=20))
def test_any_batch(rows):
    counters, keys = zip(*rows, strict=True)
    expected = columns([philox_oracle(counter, key) for counter, key in rows])
    for actual, wanted in zip(philox(columns(counters), columns(keys)), expected, strict=True):
        assert torch.equal(actual, wanted)


@given(counter=st.tuples(*[st.integers(-(2**63), 2**63 - 1)] * 4), key=st.tuples(*[st.integers(0, 2**64 - 1)] * 2))
def test_the_low_32_bits_count(counter, key):
    low_counter, low_key = (tuple(word % 2**32 for word in words) for words in (counter, key))
    assert values(philox(counter, key)) == philox_oracle(low_counter, low_key)
    assert values(philox(tuple(map(torch.tensor, counter)), key)) == philox_oracle(low_counter, low_key)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_any_integer_dtype(dtype):
    counter = tuple(torch.tensor(word, dtype=dtype) for word in (0, 1, 100, 127))
    assert values(philox(counter, (5, 6))) == philox_oracle((0, 1, 100, 127), (5, 6))
    if dtype.is_signed:
        counter = tuple(torch.tensor(word, dtype=dtype) for word in (-1, -2, 0, 1))
        assert values(philox(counter, (5, 6))) == philox_oracle((ONES, ONES - 1, 0, 1), (5, 6))


def test_counter_and_key_broadcast():
    a, b, key = torch.tensor([[3], [4], [5]]), torch.tensor([6, 7, 8, 9]), torch.tensor([1, 2]).view(2, 1, 1)
    words = philox((a, b, 11, 12), (key, 13))
    assert [word.shape for word in words] == [(2, 3, 4)] * 4
    stacked = torch.stack(words, dim=-1)
    for i, j, k in [(0, 0, 0), (1, 2, 3), (1, 0, 2), (0, 2, 1)]:
        assert tuple(stacked[i, j, k].tolist()) == philox_oracle((3 + j, 6 + k, 11, 12), (1 + i, 13))


def test_a_tensor_of_any_one_word_shapes_all_four():
    for place in range(6):
        words = [7, 8, 9, 10, 11, 12]
        words[place] = torch.tensor([words[place]] * 3)
        drawn = philox(tuple(words[:4]), tuple(words[4:]))
        assert [word.tolist() for word in drawn] == [[word] * 3 for word in philox_oracle((7, 8, 9, 10), (11, 12))]


def test_no_argument_is_changed():
    counter, key = torch.arange(8).view(4, 2), torch.tensor([3, 4])
    philox(counter.unbind(0), key.unbind(0))
    assert torch.equal(counter, torch.arange(8).view(4, 2))
    assert torch.equal(key, torch.tensor([3, 4]))


def test_every_bit_is_set_half_the_time():
    n = 2**16
    for word in philox((torch.arange(n), 0, 0, 0), (0, 0)):
        bits = (word[:, None] >> torch.arange(32)) & 1
        assert (bits.sum(0) - n / 2).abs().max() < 4 * (n / 4) ** 0.5


def test_nothing_is_read_back():
    """A tensor on the device ``meta`` has no values: whatever asked for one would fail."""
    words = philox((torch.empty(5, dtype=torch.int64, device="meta"), 1, 2, 3), (4, 5))
    assert [(word.device.type, word.shape) for word in words] == [("meta", (5,))] * 4


@given(words=st.lists(WORDS, min_size=1, max_size=20), bound=st.integers(1, 2**31))
def test_below_is_the_high_word_of_the_product(words, bound):
    assert below(torch.tensor(words), bound).tolist() == [word * bound // 2**32 for word in words]


@pytest.mark.parametrize("bound", [1, 2, 3, 9, 255, 2**31])
def test_below_reaches_both_ends(bound):
    assert below(torch.tensor([0, ONES]), bound).tolist() == [0, bound - 1]
