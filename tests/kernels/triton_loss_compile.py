"""Compiles the Triton kernel of ``stability_loss`` for cards that need not be there; run as a script.

In a process of its own, since Triton's interpreter, once chosen, takes the compiler's place.
"""

import warnings

# Triton remarks on the default of a setting; it concerns no result here.
warnings.simplefilter("ignore")

import triton  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from fastiseat.kernels.stability_loss.triton import TILE, _stability_loss  # noqa: E402

CASES = [  # capability, dtype, whether λ lies in a tensor, and what else a kernel is compiled for
    (80, "fp32", False, {"WEIGHTING": 1, "DISTANCE": 0, "BLOCK_M": 256, "BLOCK_C": 16}),
    (80, "fp16", True, {"WEIGHTING": 0, "DISTANCE": 1, "BLOCK_M": 4, "BLOCK_C": 1024}),
    (90, "bf16", True, {"WEIGHTING": 1, "DISTANCE": 1, "BLOCK_M": 128, "BLOCK_C": 16}),
    (90, "fp32", False, {"WEIGHTING": 0, "DISTANCE": 0, "BLOCK_M": 4, "BLOCK_C": 1024}),
]


def source(dtype: str, lam_tensor: bool, **choices: int) -> ASTSource:
    signature = {name: "*fp32" if name.endswith("_pointer") else "i32" for name in _stability_loss.arg_names}
    signature |= {"lam": "fp32", "m_as_float": "fp32", "labels_pointer": "*i64"}
    signature |= {"logits_pointer": f"*{dtype}", "clean_logits_pointer": f"*{dtype}"}
    constants: dict[str, object] = {"HAS_LAM_TENSOR": lam_tensor, **choices}
    if not lam_tensor:
        constants["lam_pointer"] = None
    signature |= dict.fromkeys(constants, "constexpr")
    positions = {(_stability_loss.arg_names.index(name),): value for name, value in constants.items()}
    return ASTSource(_stability_loss, signature=signature, constexprs=positions)


def main() -> None:
    for capability, dtype, lam_tensor, choices in CASES:
        compiled = triton.compile(
            source(dtype, lam_tensor, BLOCK_J=TILE // choices["BLOCK_M"], **choices),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": 8, "num_stages": 1},
        )
        barriers = ("gpu.barrier", "ttg.barrier")
        assert any(barrier in compiled.asm["ttgir"] for barrier in barriers), "the phases are not kept apart"
        assert len(compiled.asm["cubin"]) > 0
        print(capability, dtype, choices)


if __name__ == "__main__":
    main()
