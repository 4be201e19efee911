"""Compiles the Triton kernels of ``pgd_step`` for cards that need not be there; run as a script.

In a process of its own, since Triton's interpreter, once chosen, takes the compiler's place.
"""

import itertools
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastiseat.kernels.pgd_step.triton import BLOCK, pgd_step_l2, pgd_step_linf

CAPABILITIES = [80, 90]
SIZES = ("row_size", "blocks_per_row", "inner", "outer")
PLAIN = {"EPS": 0, "STEP_SIZE": 0, "GRAD_TURNED": False}
TURNED = {"EPS": 1, "STEP_SIZE": 2, "GRAD_TURNED": True}
CASES = [("bf16", PLAIN), ("fp16", TURNED)]


def type_of(name: str, half: str) -> str:
    if name in SIZES:
        return "i32"
    named = {"eps": "fp32", "step_size": "fp32", "nan_grad": "*u8", "grad": f"*{half}"}
    return named.get(name, "*fp32")


def source(kernel: Any, half: str, constants: dict[str, Any]) -> ASTSource:
    """With what Triton finds out at a launch: addresses and sizes that are multiples of 16."""
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else type_of(name, half) for name in names}
    round_ones = [name for name, kind in signature.items() if kind[0] == "*" or name == "row_size"]
    hints = {(names.index(name),): [["tt.divisibility", 16]] for name in round_ones if name != "nan_grad"}
    return ASTSource(kernel, signature, constants, hints)


def main() -> None:
    """Each kernel on each card; where nothing is turned, four floats are read and written at once."""
    for capability, kernel, case in itertools.product(CAPABILITIES, (pgd_step_linf, pgd_step_l2), CASES):
        half, choices = case
        compiled = triton.compile(
            source(kernel, half, choices | {"BLOCK": BLOCK}),
            target=GPUTarget("cuda", capability, 32),
            options={"enable_fp_fusion": False},
        )
        ptx = compiled.asm["ptx"]
        if half == "bf16":
            assert ptx.count("ld.global.v4") >= 2
            assert ptx.count("st.global.v4") >= 2
        print(capability, kernel.__name__, half, len(compiled.asm["cubin"]) > 0)


if __name__ == "__main__":
    main()
