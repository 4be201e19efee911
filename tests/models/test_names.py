"""Names of networks, and that checking them does not load torch."""

import subprocess
import sys

import pytest

from fastiseat.errors import UserError
from fastiseat.names.networks import (
    ARCHS,
    ModelSpec,
    canonical_arch,
    canonical_variant,
    wrn_size,
)


@pytest.mark.parametrize("name", ARCHS)
def test_canonical_names_stay(name):
    assert canonical_arch(name) == name


@pytest.mark.parametrize(
    ("spelt", "canonical"),
    [
        ("wrn34-10", "wrn-34-10"),
        ("WRN-34-10", "wrn-34-10"),
        ("WRN_28_10", "wrn-28-10"),
        ("WideResNet34-10", "wrn-34-10"),
        ("wide-resnet-28x10", "wrn-28-10"),
        ("wrn-70-16", "wrn-70-16"),
        ("wrn-010-1", "wrn-10-1"),
        ("preactresnet18", "prn18"),
        ("PreActResNet-18", "prn18"),
        ("preact_resnet18", "prn18"),
        ("prn-18", "prn18"),
        (" Small ", "small"),
    ],
)
def test_lenient_spellings(spelt, canonical):
    assert canonical_arch(spelt) == canonical


@pytest.mark.parametrize("name", ["wrn-30-10", "wrn-4-1", "wrn-28-0", "wrn35-10"])
def test_impossible_wide_resnets(name):
    with pytest.raises(UserError, match=r"6n \+ 4"):
        canonical_arch(name)


def test_an_unknown_network_gets_the_nearest_names():
    with pytest.raises(UserError, match=r"unknown network 'wrn-28'.*wrn-28-10"):
        canonical_arch("wrn-28")
    with pytest.raises(UserError, match=r"unknown network 'vit'.*known:.*prn18"):
        canonical_arch("vit")


def test_an_unknown_variant_is_refused():
    assert canonical_variant("common") == "common"
    with pytest.raises(UserError, match=r"unknown network variant 'comon'.*common"):
        canonical_variant("comon")


def test_wrn_size_reads_wide_resnets_only():
    assert wrn_size("wrn-34-10") == (34, 10)
    assert wrn_size("prn18") is None


@pytest.mark.parametrize("field", ["in_channels", "num_classes"])
def test_counts_below_one_are_refused(field):
    counts = {"in_channels": 3, "num_classes": 10, field: 0}
    with pytest.raises(UserError, match=f"{field} is 0"):
        ModelSpec(arch="prn18", variant="released", **counts)


def test_importing_the_package_does_not_import_torch():
    script = (
        "import sys, fastiseat.models as m; from fastiseat.names.networks import ARCHS; "
        "m.canonical_arch('wrn34-10'); dir(m); assert 'torch' not in sys.modules; "
        "m.build; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_every_public_name_resolves():
    from fastiseat import models

    assert all(getattr(models, name) is not None for name in models.__all__)
    assert dir(models) == sorted(models.__all__)
    with pytest.raises(AttributeError, match="no attribute 'biuld'"):
        models.biuld  # noqa: B018
