"""numpy's values beside a state dict do no harm and are read; objects are refused, with the way out."""

import argparse
import pickle
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
import zoo_forms

from fastiseat.errors import UserError
from fastiseat.models import read_weights
from fastiseat.models.files.entries import find
from fastiseat.models.files.torch_file import load

STATE = zoo_forms.PlainWRN().state_dict()
KINDS = sorted(set(np.sctypeDict.values()) - {np.object_}, key=lambda kind: kind.__name__)
SPECIAL = {
    np.str_: ["abß", "", "x" * 300],
    np.bytes_: [b"ab\xff", b""],
    np.void: [b"abc"],
    np.datetime64: [("2026-12-01", "25s"), (5, "ns"), ("NaT",)],
    np.timedelta64: [(3, "ms"), (4,)],
}


def values(kind):
    """Some of a scalar type."""
    return [kind(*(told if isinstance(told, tuple) else (told,))) for told in SPECIAL.get(kind, [0, 1])]


def written(path, content, *, is_zip=True):
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    return path


def as_numpy_1(path):
    """The file as numpy 1 would have written it, whose module has another name; the letters' count changes none of a
    zip's sizes in the legacy format.
    """
    content = path.read_bytes()
    assert b"numpy._core.multiarray" in content
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    return path


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_scalar_type_and_its_dtype(tmp_path, kind, is_zip):
    found = values(kind)
    content = {"state_dict": STATE, "values": found, "dtype": found[0].dtype, "array": np.array(found[:1])}
    beside = find(load(written(tmp_path / "w.pt", content, is_zip=is_zip))).beside
    for value, expected in zip(beside["values"], found, strict=True):
        assert value.dtype == expected.dtype
        assert value.tobytes() == expected.tobytes() or value == expected
    assert beside["dtype"] == found[0].dtype
    assert np.array_equal(beside["array"], content["array"], equal_nan=kind is np.datetime64)


def test_types_that_were_noted(tmp_path):
    found = find(load(written(tmp_path / "w.pt", {"state_dict": STATE, "dtype": np.float32, "kind": np.int64})))
    assert (found.beside["dtype"], found.beside["kind"]) == (np.float32, np.int64)


def test_scalars_are_metadata_like_other_numbers(tmp_path):
    content = {"state_dict": STATE, "acc": np.float32(0.5), "epoch": np.int64(3), "on": np.bool_(True)}
    path = written(tmp_path / "w.pt", content | {"name": np.str_("x"), "losses": np.arange(3.0)})
    assert read_weights(path).metadata == {"acc": "0.5", "epoch": "3", "on": "True", "name": "x"}


@pytest.mark.skipif(int(np.__version__.split(".")[0]) < 2, reason="needs numpy 2, to rename what it writes")
def test_files_of_numpy_1(tmp_path):
    path = as_numpy_1(written(tmp_path / "w.pt", {"state_dict": STATE, "acc": np.float64(0.5)}, is_zip=False))
    assert read_weights(path).metadata == {"acc": "0.5"}


def test_what_a_caller_has_allowed_stays_as_it_was(tmp_path):
    path = written(tmp_path / "w.pt", {"state_dict": STATE, "acc": np.float64(0.5)})
    scalar = np.float64(0.5).__reduce__()[0]
    with torch.serialization.safe_globals([scalar, np.dtype, argparse.Namespace]):
        before = torch.serialization.get_safe_globals()
        assert read_weights(path).metadata == {"acc": "0.5"}
        assert set(torch.serialization.get_safe_globals()) == set(before)
        written(path, {"state_dict": STATE, "args": argparse.Namespace(lr=1)})
        assert read_weights(path).arch == "wrn-10-1"
    with pytest.raises(UserError, match=r"argparse\.Namespace"):
        read_weights(path)


class Hostile:
    """Pickles as a call of its own choice."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


SCALAR = np.float64(0).__reduce__()[0]


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()], dtype=object),
        Hostile(SCALAR, (np.dtype("O"), b"\1" * 8)),
        Hostile(SCALAR, (np.dtype([("a", "i4")]), b"\1" * 4)),
        np.zeros(1, dtype=[("a", "i4"), ("b", "O")]),
        Hostile(np.dtype, ("O8", False, True)),
        Hostile(np.dtype, ("f8,O", False, True), (3, "|", None, None, None, -1, -1, 63)),
        Hostile(np.void, (10**12,)),
        Hostile(np.load, ("w.npy",)),
        Hostile(np.frombuffer, (b"12345678",)),
        Hostile(print, ("executed",)),
    ],
)
def test_what_could_do_harm_is_refused(tmp_path, capsys, value):
    path = tmp_path / "w.pt"
    torch.save({"state_dict": STATE, "x": value}, path)
    with pytest.raises(UserError, match=rf"{path}: (a pickle of more than|not a weight file)"):
        read_weights(path)
    assert capsys.readouterr().out == ""


def test_a_dtype_that_claims_to_hold_objects_is_one_of_numbers(tmp_path):
    """A state's flags are not believed: bytes never become pointers."""
    state = (3, "<", None, None, None, -1, -1, 63)
    claimed = Hostile(np.dtype, ("f8", False, True), state)
    written(tmp_path / "w.pt", {"state_dict": STATE, "x": Hostile(SCALAR, (claimed, b"\1" * 8))})
    found = find(load(tmp_path / "w.pt")).beside["x"]
    assert found.dtype == np.dtype("f8") and not found.dtype.hasobject


def command_of(message):
    """The words of the command that a message ends with."""
    return shlex.split(message[message.index("python -c") :])


@pytest.mark.parametrize("name", ["w.pt", "it's a file.pt"])
@pytest.mark.parametrize("beside", [{"args": argparse.Namespace(lr=0.1)}, {}])
def test_the_way_out_for_who_trusts_a_file(tmp_path, name, beside):
    """The command in the message, as it stands, makes a file that loads."""
    path = tmp_path / name
    content = {"state_dict": STATE, **beside} if beside else torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    torch.save(content, path)
    with pytest.raises(UserError, match="if you trust its maker") as caught:
        read_weights(path)
    _, *words = command_of(str(caught.value))
    subprocess.run([sys.executable, *words], check=True, timeout=120)
    plain = path.with_name(f"{path.stem}-plain.pt")
    found = find(load(plain)).state
    assert found.keys() == (STATE if beside else content.state_dict()).keys()
    assert re.search(r"nothing in it was executed", str(caught.value))


def test_pickles_alone_are_no_weights(tmp_path):
    (tmp_path / "w.pt").write_bytes(pickle.dumps(np.float64(1), 2))
    with pytest.raises(UserError):
        read_weights(tmp_path / "w.pt")
