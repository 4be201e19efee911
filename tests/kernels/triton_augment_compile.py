"""Compiles the Triton kernel of ``augment`` for cards that need not be there; run as a script.

In a process of its own, since Triton's interpreter, once chosen, takes the compiler's place.
"""

import itertools
import warnings

# Triton remarks on the default of a setting; no product and sum are fused here.
warnings.simplefilter("ignore")

import triton  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from fastiseat.kernels.augment.triton import augment_kernel  # noqa: E402

TYPES = {"images": "*u8", "index": "*i64", "rows": "*i64", "epoch_at": "*i64"}
NUMBERS = ["num_images", "seed_low", "seed_high", "epoch"]
SIZES = {"HEIGHT": 32, "WIDTH": 30, "CHANNELS": 3, "PAD": 4, "NUM_BLOCKS": 3, "BLOCK": 1024}
FLAGS = ["HAS_ROWS", "HAS_EPOCH", "FLIP", "PAD_MODE", "LAYOUT"]
CAPABILITIES = [80, 90]


def source(dtype: str, flags: dict[str, int]) -> ASTSource:
    constants = SIZES | flags
    signature = (
        TYPES | {"out": f"*{dtype}"} | dict.fromkeys(NUMBERS, "i32") | dict.fromkeys(constants, "constexpr")
    )
    return ASTSource(augment_kernel, signature=signature, constexprs=constants)


def main() -> None:
    """Each flag on and off, each dtype, each card."""
    for dtype, capability, on in itertools.product(("fp32", "bf16", "fp16"), CAPABILITIES, (False, True)):
        kernel = source(dtype, dict.fromkeys(FLAGS, int(on)))
        ptx = triton.compile(kernel, target=GPUTarget("cuda", capability, 32)).asm["ptx"]
        assert "div." not in ptx, "a division is slow, or not rounded correctly"
        print(dtype, capability, on)


if __name__ == "__main__":
    main()
