import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastiseat.safe import plain


@given(st.text())
def test_foreign_text_is_one_printable_line(text):
    shown = plain(text)
    assert shown.isprintable()
    assert len(shown) <= 200


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("CIFAR-10 ε", "CIFAR-10 ε"),
        ("a\nfastiseat: error: b", "a\\nfastiseat: error: b"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\udc80", "\\udc80"),
        (b"x", "b'x'"),
        (None, "None"),
    ],
)
def test_what_is_shown(text, shown):
    assert plain(text) == shown


def test_it_is_cut():
    assert plain("x" * 1000, longest=10) == "x" * 9 + "…"
