"""Saved verdicts as a file: what is read is what was written, or nothing."""

import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastiseat.evaluation import EnsembleState
from fastiseat.evaluation.verdicts.records import Record, UntrustedError, decode, encode, file_name, place


def record(samples=4):
    attack = {"name": "aa", "eps": 8 / 255, "norm": "linf"}
    facts = {"dataset": "npz:/there/my data", "split": "test", "samples": samples, "attack": attack}
    ensemble_state = EnsembleState.fresh(samples)
    ensemble_state.broken_by[:2] = 0, 2
    ensemble_state.part[3] = 2
    return Record(
        facts=facts, made={"official": None}, parts=("one", "two"), ensemble_state=ensemble_state, notes=("ε",)
    )


def test_what_is_written_is_read():
    written = record()
    found = decode(encode(written))
    for name in ("facts", "made", "parts", "notes", "seconds", "sanity"):
        assert getattr(found, name) == getattr(written, name)
    for name in ("broken_by", "part", "round"):
        assert np.array_equal(getattr(found.ensemble_state, name), getattr(written.ensemble_state, name))
    assert (found.left, found.begun, found.robust.tolist()) == (1, True, [False, False, True, True])


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_no_changed_byte_is_believed(place, byte):
    text = bytearray(encode(record()))
    place %= len(text)
    changed = bytes(text[:place]) + bytes([byte]) + bytes(text[place + 1 :])
    try:
        found = decode(changed)
    except UntrustedError:
        return
    assert encode(found) == bytes(text)  # a space for a line break


@pytest.mark.parametrize("text", [b"", b"{}", b"[1]", b"null", b"\xff", b'"format"', b"[" * 100_000])
def test_other_files_are_refused(text):
    with pytest.raises(UntrustedError):
        decode(text)


def test_a_verdict_is_needed_for_each_sample():
    harmed = record()
    harmed.ensemble_state.part = harmed.ensemble_state.part[:3]
    with pytest.raises(UntrustedError, match="a verdict for each sample"):
        decode(encode(harmed))


def test_the_file_is_json_with_a_line_a_field():
    text = encode(record(1000)).decode()
    assert json.loads(text)["facts"]["samples"] == 1000
    assert len(text.splitlines()) == len(json.loads(text)) + 2


def test_its_name_is_one_of_a_file():
    name = file_name(record().facts, "best")
    assert name.startswith("best-npz_there_my_data-test-aa-linf-0.03137-")
    other = record().facts | {"seed": 1}
    assert file_name(other, "best")[:-8] == name[:-8] and file_name(other, "best") != name


def test_what_a_killed_evaluation_left_is_swept_and_what_another_is_writing_stays(tmp_path):
    folder = tmp_path / "evaluations"
    folder.mkdir()
    old, young = (folder / f".best.json.{digit * 16}.tmp" for digit in "01")
    for file in (old, young):
        file.write_bytes(b"{")
    os.utime(old, (0, 0))
    assert place(folder, record().facts, "best", print)[1] is None
    assert not old.exists() and young.exists()
