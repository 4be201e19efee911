"""float32 without TF32: whatever was set and by which of torch's two ways, off inside and as found afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from fastiseat.engine.precision import strict_float32

BACKENDS = torch.backends
KEYS = [("generic", "all")] + [
    (backend, op) for backend in ("cuda", "mkldnn") for op in ("all", "conv", "rnn", "matmul")
]
OLDER: dict[str, Callable[[], object]] = {
    "cudnn": lambda: BACKENDS.cudnn.allow_tf32,
    "cublas": lambda: BACKENDS.cuda.matmul.allow_tf32,
    "matmul": torch.get_float32_matmul_precision,
}
# Each on top of those before it, so that the two ways get mixed.
CHANGES: dict[str, Callable[[], None]] = {
    "as it comes": lambda: None,
    "older: cuDNN off": lambda: setattr(BACKENDS.cudnn, "allow_tf32", False),
    "older: cuDNN on": lambda: setattr(BACKENDS.cudnn, "allow_tf32", True),
    "older: bf16 products": lambda: torch.set_float32_matmul_precision("medium"),
    "older: cuBLAS off, oneDNN left": lambda: setattr(BACKENDS.cuda.matmul, "allow_tf32", False),
    "newer: everything": lambda: setattr(BACKENDS, "fp32_precision", "tf32"),
    "newer: convolutions follow": lambda: setattr(BACKENDS.cudnn.conv, "fp32_precision", "none"),
    "newer: CUDA off": lambda: setattr(BACKENDS.cudnn, "fp32_precision", "ieee"),
    "newer: products on": lambda: setattr(BACKENDS.cuda.matmul, "fp32_precision", "tf32"),
    "newer: everything bf16": lambda: setattr(BACKENDS, "fp32_precision", "bf16"),
    "older: cuDNN off at last": lambda: setattr(BACKENDS.cudnn, "allow_tf32", False),
}


def newer() -> dict[tuple[str, str], str]:
    return {key: torch._C._get_fp32_precision_getter(*key) for key in KEYS}


def older() -> dict[str, object]:
    """By name, with the type of what reading it raises where the newer ones contradict it."""
    found: dict[str, object] = {}
    for name, read in OLDER.items():
        try:
            found[name] = read()
        except RuntimeError as error:
            found[name] = type(error)
    return found


@pytest.fixture(autouse=True)
def as_it_comes() -> Iterator[None]:
    """What these tests set is taken back by hand: the block under test is not to be trusted with it."""
    yield
    for key in KEYS:
        torch._C._set_fp32_precision_setter(*key, "none")
    BACKENDS.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("highest")
    torch._C._set_fp32_precision_setter("cuda", "matmul", "none")
    torch._C._set_fp32_precision_setter("mkldnn", "matmul", "none")


def test_off_inside_and_as_found_afterwards() -> None:
    mixed = False
    for what, change in CHANGES.items():
        change()
        before = newer(), older()
        mixed |= RuntimeError in before[1].values()
        with strict_float32():
            assert not {"tf32", "bf16"} & set(newer().values()), what
            assert older() == {"cudnn": False, "cublas": False, "matmul": "highest"}, what
        assert (newer(), older()) == before, what
    assert mixed, "a mixture that torch refuses to read is among these"


def test_what_followed_another_setting_still_does() -> None:
    BACKENDS.cudnn.conv.fp32_precision = "none"
    BACKENDS.fp32_precision = "tf32"
    with strict_float32():
        assert BACKENDS.cudnn.conv.fp32_precision == "none"
    assert BACKENDS.cudnn.conv.fp32_precision == "tf32"
    BACKENDS.fp32_precision = "ieee"
    assert BACKENDS.cudnn.conv.fp32_precision == "ieee"


def test_put_back_after_an_error_and_from_within_itself() -> None:
    BACKENDS.cuda.matmul.allow_tf32 = True
    before = newer(), older()
    with strict_float32():
        with pytest.raises(KeyboardInterrupt), strict_float32():
            raise KeyboardInterrupt
        assert older() == {"cudnn": False, "cublas": False, "matmul": "highest"}
    assert (newer(), older()) == before


@pytest.mark.gpu
def test_a_product_is_in_float32() -> None:
    a, b = (torch.randn(512, 512, device="cuda") for _ in range(2))
    BACKENDS.cuda.matmul.allow_tf32 = True
    with strict_float32():
        found = a @ b
    exact = a.double() @ b.double()
    assert (found - exact).abs().max() < 1e-3 < (a @ b - exact).abs().max()
