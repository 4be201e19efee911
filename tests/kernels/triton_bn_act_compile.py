"""Compiles the Triton kernels of ``bn_act`` for cards that need not be there; run as a script.

In a process of its own, since Triton's interpreter, once chosen, takes the compiler's place.
"""

import warnings

# Triton remarks on the default of a setting; it concerns no result here.
warnings.simplefilter("ignore")

import triton  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from fastiseat.kernels.bn_act import triton_kernels as kernels  # noqa: E402

ROWS = {"IS_ROWS": True, "inner": 1, "BLOCK_R": 32, "BLOCK_C": 64}
PLANES = {"IS_ROWS": False, "BLOCK_R": 2048, "BLOCK_C": 1}
END = {"BLOCK_P": 64, "BLOCK_C": 16}
PIPELINED = "cp.async.cg"  # 16 bytes a thread, the only size that it has
CASES = [  # capability, dtype, kernel, and what it is compiled for
    (90, "bf16", kernels.moments_kernel, ROWS | {"HAS_B": True}),
    (90, "bf16", kernels.activate_kernel, ROWS | {"HAS_B": False, "b_ptr": None, "TRAIN": True}),
    (90, "bf16", kernels.gradients_kernel, ROWS | {"TRAIN": True}),
    (90, "bf16", kernels.differentiate_kernel, ROWS | {"HAS_DS": True, "TRAIN": True}),
    (80, "fp16", kernels.moments_kernel, PLANES | {"HAS_B": False, "b_ptr": None}),
    (80, "fp32", kernels.activate_kernel, PLANES | {"HAS_B": True, "TRAIN": False}),
    (80, "fp32", kernels.differentiate_kernel, PLANES | {"HAS_DS": False, "ds_ptr": None, "TRAIN": False}),
    (80, "fp32", kernels.finish_moments_kernel, END),
    (80, "fp32", kernels.finish_gradients_kernel, END | {"TRAIN": False}),
]
DATA = {"a_ptr", "b_ptr", "s_ptr", "y_ptr", "dy_ptr", "ds_ptr", "dx_ptr"}
MULTIPLES_OF_16 = {"num_rows", "channels", "inner", "rows_per_part"}


def source(kernel, dtype: str, constants: dict[str, object]) -> ASTSource:
    signature = {name: "*fp32" if name.endswith("_ptr") else "i32" for name in kernel.arg_names}
    signature |= dict.fromkeys(DATA & signature.keys(), f"*{dtype}") | {"eps": "fp32"}
    signature |= dict.fromkeys(constants, "constexpr")
    signature = {name: signature[name] for name in kernel.arg_names}
    divisible = [["tt.divisibility", 16]]
    attributes = {
        (position,): divisible
        for position, name in enumerate(kernel.arg_names)
        if name not in constants and (name.endswith("_ptr") or name in MULTIPLES_OF_16)
    }
    positions = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    return ASTSource(kernel, signature=signature, constexprs=positions, attrs=attributes)


def main() -> None:
    for capability, dtype, kernel, constants in CASES:
        compiled = triton.compile(
            source(kernel, dtype, constants),
            target=GPUTarget("cuda", capability, 32),
            options={"enable_fp_fusion": False},
        )
        assert len(compiled.asm["cubin"]) > 0
        assert constants.keys() >= END.keys() or PIPELINED in compiled.asm["ptx"], "tiles are waited for"
        print(capability, dtype, kernel.__name__)


if __name__ == "__main__":
    main()
