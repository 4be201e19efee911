"""Data set pickles: what Python 2 and 3 wrote is read, and nothing that a pickle asks for is ever executed."""

import collections
import contextlib
import io
import os
import pickle
import pickletools
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_releases import python2_pickle

from fastiseat.errors import UserError
from fastiseat.safe.unpickle import read_pickle

ROWS = np.arange(24, dtype=np.uint8).reshape(4, 6)
CONTENT = {"data": ROWS, "labels": [3, 1, 2, 0], "names": ["a", "b"]}


def same(read):
    assert read.keys() == CONTENT.keys()
    assert np.array_equal(read["data"], ROWS) and read["data"].dtype == np.uint8
    assert read["labels"] == CONTENT["labels"] and read["names"] == CONTENT["names"]
    assert not read["data"].flags.writeable


def refusal(content):
    with pytest.raises(UserError) as caught:
        read_pickle(content, "some/file")
    message = str(caught.value)
    assert message.startswith("some/file: ") and "\n" not in message
    return message


def test_python_2():
    content = python2_pickle(CONTENT)
    assert b"numpy.core.multiarray" in content
    same(read_pickle(content, "file"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_python_3(protocol):
    same(read_pickle(pickle.dumps(CONTENT, protocol), "file"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_keys_of_bytes(protocol):
    content = {key.encode(): value for key, value in CONTENT.items()}
    same(read_pickle(pickle.dumps(content, protocol), "file"))


@pytest.mark.parametrize("dtype", ["<i8", ">i4", "u1", "<f4", "?", ">u2"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_of_numbers_and_their_scalars(dtype, protocol):
    array = np.asfortranarray(np.arange(6).reshape(2, 3).astype(dtype))
    read = read_pickle(pickle.dumps({"array": array, "scalars": list(array.ravel())}, protocol), "file")
    assert np.array_equal(read["array"], array) and read["array"].dtype == array.dtype
    assert read["scalars"] == list(array.ravel())


class Call:
    """Pickled as a call of ``function``."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def named(module, name, argument="x"):
    """A pickle, protocol 2, that calls ``module.name(argument)``, whether there is such a thing or not."""
    raw = argument.encode()
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"U" + bytes([len(raw)]) + raw + b"\x85R."


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_is_not_executed(tmp_path, protocol):
    target = str(tmp_path / "made")
    for payload in (
        Call(os.system, f"touch {target}"),
        Call(os.mkdir, target),
        Call(eval, f"open({target!r}, 'w')"),
    ):
        for content in (payload, {"data": payload}, [payload], {"data": ROWS, "labels": [payload]}):
            assert "nothing in it was executed" in refusal(pickle.dumps(content, protocol))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("posix", "system"),
        ("os", "system"),
        ("nt", "system"),
        ("subprocess", "Popen"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("builtins", "getattr"),
        ("builtins", "__import__"),
        ("__builtin__", "eval"),
        ("builtins", "set"),
        ("copyreg", "_reconstructor"),
        ("copy_reg", "_reconstructor"),
        ("copyreg", "add_extension"),
        ("collections", "OrderedDict"),
        ("pickle", "loads"),
        ("functools", "partial"),
        ("operator", "attrgetter"),
        ("codecs", "decode"),
        ("_codecs", "decode"),
        ("numpy", "load"),
        ("numpy", "fromfile"),
        ("numpy", "memmap"),
        ("numpy", "save"),
        ("numpy", "array"),
        ("numpy", "ndarray.tofile"),
        ("numpy", "dtype.__class__"),
        ("numpy.core.multiarray", "_reconstruct.__globals__"),
        ("numpy.core.multiarray", "fromfile"),
        ("numpy.core.records", "fromfile"),
        ("numpy.lib.npyio", "load"),
        ("numpy.lib._npyio_impl", "NpzFile"),
        ("numpy.testing._private.utils", "runstring"),
        ("numpy.core", "multiarray._reconstruct"),
        ("fastiseat.safe.unpickle", "read_pickle"),
        ("no_such_module", "x"),
    ],
)
def test_only_the_names_of_numbers_are_known(module, name):
    assert f"({module}.{name})" in refusal(named(module, name))


def test_stack_global_is_refused_the_same_way():
    content = b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R."
    assert "(os.system)" in refusal(content)


def test_codecs_encode_knows_latin1_alone():
    call = b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00xX\x04\x00\x00\x00zlib\x86R."
    assert "'zlib'" in refusal(call)


@pytest.mark.parametrize(
    "array",
    [
        np.array([object(), None]),
        np.array([[1], "text"], dtype=object),
        np.array(["text"]),
        np.array([b"raw"]),
        np.zeros(2, dtype=[("a", "u1"), ("b", "O")]),
        np.zeros(2, dtype="V8"),
        np.array(["2020-01-01"], dtype="M8[D]"),
        np.array([1j]),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_of_anything_but_numbers_are_refused(array, protocol):
    assert "more than arrays and plain containers" in refusal(pickle.dumps({"data": array}, protocol))


def test_a_dtype_that_claims_to_hold_objects_is_refused():
    """Believed, its state would make numpy take the raw bytes for pointers."""
    content = python2_pickle({"data": np.zeros(8, np.uint8)})
    state = b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    assert state in content
    for planted in (
        b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb",
        b"NNNJ\x08\x00\x00\x00J\x08\x00\x00\x00K\x00tb",
        b"NU\x01a\x85}U\x01aK\x00sJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
    ):
        assert "more than plain numbers" in refusal(content.replace(state, planted))


def test_an_array_larger_than_its_content_is_refused():
    content = python2_pickle({"data": np.zeros(8, np.uint8)})
    assert "damaged or truncated" in refusal(content.replace(struct.pack("<i", 8), struct.pack("<i", 2**30), 1))


def test_claims_on_memory_are_refused():
    assert "place 4294967295 of its memo" in refusal(b"\x80\x02}r\xff\xff\xff\xff.")
    assert "damaged or truncated" in refusal(b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.")
    assert "damaged or truncated" in refusal(b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.")


@pytest.mark.parametrize("content", [[1, 2], "text", 3, None, ROWS])
def test_anything_but_a_dict_is_refused(content):
    assert "not a dict" in refusal(pickle.dumps(content, 2))


def test_subclasses_of_containers_are_refused():
    assert "collections.OrderedDict" in refusal(pickle.dumps(collections.OrderedDict(a=1), 2))


@given(keep=st.integers(0, 400))
def test_truncated(keep):
    content = python2_pickle(CONTENT)
    assert keep >= len(content) or "damaged or truncated" in refusal(content[:keep])


@given(changes=st.dictionaries(st.integers(0, 400), st.integers(0, 255), min_size=1, max_size=4))
def test_damage_is_told_and_never_a_crash(changes):
    content = bytearray(python2_pickle(CONTENT))
    for place, value in changes.items():
        content[place % len(content)] = value
    with contextlib.suppress(UserError):
        assert isinstance(read_pickle(bytes(content), "file"), dict)


def test_nothing_that_a_pickle_sets_outlives_it():
    """A state may be set on whatever a name stands for, so each pickle gets things of its own."""
    poisoned = b"\x80\x02cnumpy\ndtype\nN}U\x0c__defaults__)s\x86b0}."
    pickletools.dis(poisoned, io.StringIO())  # well-formed
    for _ in range(2):
        read_pickle(poisoned, "file")
        same(read_pickle(python2_pickle(CONTENT), "file"))


def test_tuples_so_deep_that_python_would_crash_are_refused():
    """Their hash, which a key of a dict needs, is computed on the stack."""
    assert "more than 20,000 tuples" in refusal(b"\x80\x02}N" + b"\x85" * 10**6 + b"Ns.")
