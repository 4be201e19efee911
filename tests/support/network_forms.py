"""Every network there is: each variant of an architecture, from the one table of them."""

import pytest

from fastiseat.names.networks import variants_of

BLOCKS = ("released", "common")
"""Variants that have every kind of residual block between them."""


def pairs(*archs):
    """(arch, variant) for each variant that the architectures have."""
    return [(arch, variant) for arch in archs for variant in variants_of(arch)]


def networks(*archs):
    """Have a test walk :func:`pairs`."""
    return pytest.mark.parametrize(("arch", "variant"), pairs(*archs))
