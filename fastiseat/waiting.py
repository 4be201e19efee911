"""How the threads of a parallel loop wait for its next one: a moment awake, then asleep. Imports no torch.

A runtime of OpenMP keeps its threads spinning between loops, libgomp for some milliseconds. Where other work wants the
cores too, a spinning thread uses up its turn, and is not there when it is needed: each loop waits for the scheduler.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

# Measured on two cores (bench/NOTES.md): as fast as spinning where they are idle, near sleeping where they are not.
BRIEFLY = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
"""Of GNU's runtime, which PyTorch's wheels bring, in turns of a loop; of LLVM's and Intel's in milliseconds."""
CHOICES = ("OMP_WAIT_POLICY", *BRIEFLY)
"""The variables by which a user decides."""


def wait_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Have OpenMP's threads wait so, unless the user has said how; to be called before torch is imported."""
    if not any(name in environment for name in CHOICES):
        environment.update(BRIEFLY)


def in_words(environment: Mapping[str, str] = os.environ) -> str:
    """How threads wait here, as the variables say that decide."""
    said = ", ".join(f"{name}={environment[name]}" for name in CHOICES if name in environment)
    return said or "as OpenMP's runtime does by default: awake for some milliseconds"
