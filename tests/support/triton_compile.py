"""Compiles Triton kernels for cards that this machine may not have.

A process of its own, without TRITON_INTERPRET: the interpreter replaces what there would be to compile.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

CAPABILITIES = (80, 90)
ALIGNED = [["tt.divisibility", 16]]


def compile_elsewhere(module: str, calls: list[dict]) -> list[dict]:
    """Compile ``calls`` ({"kernel", "types", "constants"}) of ``module`` in another process; what came of each."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    job = json.dumps({"module": module, "calls": calls})
    command = [sys.executable, str(Path(__file__)), job]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _compile(module, call: dict, capability: int) -> dict:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(module, call["kernel"])
    types = call["types"] | dict.fromkeys(call["constants"], "constexpr")
    constants = call["constants"] | {name: None for name in kernel.arg_names if name not in types}
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    aligned = {(place,): ALIGNED for place, name in enumerate(kernel.arg_names) if signature[name].startswith("*")}
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=aligned)
    options = {"enable_fp_fusion": False}
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    ptx = made.asm["ptx"]
    return {
        "kernel": call["kernel"],
        "fused": ptx.count("fma.rn.f32"),
        "wide_accesses": ptx.count(".v4.b32"),
        "cubin": len(made.asm["cubin"]),
    }


def main() -> None:
    from importlib import import_module

    job = json.loads(sys.argv[1])
    module = import_module(job["module"])
    print(json.dumps([_compile(module, call, card) for card in CAPABILITIES for call in job["calls"]]))


if __name__ == "__main__":
    main()
