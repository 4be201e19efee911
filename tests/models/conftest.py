"""Lets networks be built on the meta device although ``tests/conftest.py`` poisons ``torch.empty``."""

import torch

# The first use of a device context makes torch note which functions create tensors. It has to note the real
# torch.empty: after the session's poisoning it would note the wrapper and build on the CPU.
with torch.device("meta"):
    torch.empty(0)
