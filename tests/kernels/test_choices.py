"""An argument that takes one of some words: whoever lacks a word refuses it, and never takes another for it."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fastiseat.bench.inputs import images_of
from fastiseat.bench.kernels.calls import calls
from fastiseat.errors import UserError
from fastiseat.kernels import ops
from fastiseat.kernels.augment import limits as augment
from fastiseat.kernels.core import native
from fastiseat.kernels.core.dispatch import VARIABLE, AnyOp
from fastiseat.kernels.core.signature import choices_of
from fastiseat.kernels.pgd_step import arrays as pgd_step
from fastiseat.kernels.stability_loss import limits as stability_loss
from fastiseat.kernels.weight_perturb import native as weight_perturb

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

CPU = torch.device("cpu")
HEADERS = Path(__file__).parents[2] / "kernels" / "csrc"
CODES: dict[tuple[str, str], dict[Any, int]] = {
    ("pgd_step", "norm"): pgd_step.NORMS,
    ("weight_perturb", "norm"): weight_perturb.NORMS,
    ("stability_loss", "weighting"): stability_loss.WEIGHTINGS,
    ("stability_loss", "distance"): stability_loss.DISTANCES,
    ("augment", "pad_mode"): augment.PAD_MODES,
}
"""By op and field: the numbers that the kernels know the words by."""


def call_of(op: AnyOp) -> Any:
    """A record that every backend serves."""
    return next(call.arguments for _, call in calls(op.name, images_of("digits"), 3, CPU))


CHOICES = [pytest.param(op, name, id=f"{op.name}-{name}") for op in ops() for name in choices_of(op.arguments)]


def test_every_choice_has_its_numbers():
    assert {(op.name, name) for op in ops() for name in choices_of(op.arguments)} == CODES.keys()
    for op in ops():
        for name, words in choices_of(op.arguments).items():
            assert CODES[op.name, name].keys() == set(words)


@pytest.mark.parametrize(
    ("found", "names"),
    [
        (pgd_step.NORMS, {"linf": "LINF", "l2": "L2"}),
        (weight_perturb.NORMS, {"tensor": "EACH_TENSOR", "global": "ALL_PERTURBED"}),
        (stability_loss.WEIGHTINGS, {"top": "TOP", "uniform": "TOP", "linear": "LINEAR"}),
        (stability_loss.DISTANCES, {"l2": "SQUARED_L2", "kl": "KL"}),
        (augment.PAD_MODES, {"zero": "PAD_ZERO", "reflect": "PAD_REFLECT"}),
        (augment.LAYOUTS, {torch.contiguous_format: "CONTIGUOUS", torch.channels_last: "CHANNELS_LAST"}),
        (native.DTYPES, {torch.float32: "FLOAT32", torch.bfloat16: "BFLOAT16", torch.float16: "FLOAT16"}),
    ],
)
def test_the_numbers_are_those_of_the_headers(found, names):
    text = "".join(path.read_text() for path in HEADERS.glob("*.h"))
    declared = dict(re.findall(r"FASTISEAT_(\w+) = (-?\d+)", text))
    assert found == {word: int(declared[name]) for word, name in names.items()}


@pytest.mark.parametrize(("op", "name"), CHOICES)
class TestAnUnknownWord:
    def test_no_implementation_takes_it_for_another(self, op, name, monkeypatch):
        call = replace(call_of(op), **{name: "taxicab"})
        with pytest.raises(UserError, match=f"unknown {name} 'taxicab'"):
            op.reference(call)
        for backend in op.backends:
            assert re.fullmatch(f"serves {name} .*, not 'taxicab'", backend.unfit(call))
            with pytest.raises((KeyError, ValueError), match="taxicab"):
                backend.run(call)
            monkeypatch.setenv(VARIABLE, backend.name)
            with pytest.raises(UserError, match="not 'taxicab'"):
                op(call)

    @pytest.mark.filterwarnings("ignore::RuntimeWarning")
    def test_a_kernel_refuses_a_number_without_a_name(self, op, name, monkeypatch):
        """As where Python learns a word before the kernels do."""
        monkeypatch.setitem(CODES[op.name, name], "taxicab", 7)
        for backend in op.backends:
            call = replace(call_of(op), **{name: "taxicab"})
            before = call.out.clone() if op.name == "weight_perturb" else None
            with pytest.raises(Exception, match=r"that it does not serve|no kernel for norm 'taxicab'"):
                backend.run(call)
            assert before is None or torch.equal(call.out, before)


@pytest.mark.parametrize("op", [op for op in ops() if op.backends], ids=lambda op: op.name)
def test_native_code_refuses_a_dtype_without_a_name(op, monkeypatch):
    monkeypatch.setattr(native, "DTYPES", dict.fromkeys(native.DTYPES, 9))
    backend = next(backend for backend in op.backends if backend.name == "native")
    with pytest.raises(RuntimeError, match="a dtype, size or choice that it does not serve"):
        backend.run(call_of(op))


def test_native_code_refuses_a_layout_without_a_name(monkeypatch):
    monkeypatch.setitem(augment.LAYOUTS, torch.channels_last, 5)
    op = next(op for op in ops() if op.name == "augment")
    backend = next(backend for backend in op.backends if backend.name == "native")
    with pytest.raises(RuntimeError, match="a dtype, size or choice that it does not serve"):
        backend.run(call_of(op))
