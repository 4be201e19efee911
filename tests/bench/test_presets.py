"""Which card is measured how."""

import pytest

from fastiseat.bench.presets import PRESETS, cases, preset
from fastiseat.bench.steps.suite import Case
from fastiseat.bench.steps.variants import chosen
from fastiseat.bench.suite import Selection
from fastiseat.errors import UserError


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("Tesla V100-SXM2-16GB", "v100"),
        ("NVIDIA GeForce RTX 3080 Ti", "3080ti"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h200"),
    ],
)
def test_auto_knows_the_cards(device, name):
    assert preset("auto", device_name=device, kind="cuda") is PRESETS[name]


def test_auto_on_a_cpu_and_on_any_other_card():
    assert preset("auto", device_name="Some CPU", kind="cpu") is PRESETS["cpu"]
    assert preset("auto", device_name="NVIDIA L4", kind="cuda") is PRESETS["3080ti"]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_selection(name):
    found = PRESETS[name]
    variants = chosen(found.engines, found.precisions, found.baselines)
    assert not {"tape", "compile"} & set(found.engines), "one is a proof, the other takes minutes"
    assert ("graph" in found.engines) == (name != "cpu")
    cases = tuple(Case(arch=arch, dataset=dataset, batch_size=size) for arch, dataset, size in found.cases)
    selection = Selection(cases=cases, variants=tuple(variants), methods=found.methods)
    assert all(case.config().data.batch_size == case.batch_size for case in selection.cases)
    assert ("bf16" in {variant.precision for variant in variants}) == (name not in ("v100", "cpu"))


def test_lists_make_all_combinations_and_the_rest_is_the_first_case_s():
    assert cases(PRESETS["h200"], (), (), ()) == PRESETS["h200"].cases
    assert cases(PRESETS["h200"], ("small", "wrn-10-1"), (), (4, 8)) == (
        ("small", "cifar10", 4), ("small", "cifar10", 8), ("wrn-10-1", "cifar10", 4), ("wrn-10-1", "cifar10", 8),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"engines": ("warp",)}, "unknown engine 'warp'"),
        ({"engines": ("auto",)}, "unknown engine 'auto'"),
        ({"precisions": ("fp8",)}, "unknown precision 'fp8'"),
        ({"baselines": ("egaer",)}, "unknown baseline 'egaer'"),
        ({"baselines": ("fastiseat-eager-full",)}, "unknown baseline"),
    ],
)
def test_unknown_names_are_refused(words, complaint):
    with pytest.raises(UserError, match=complaint):
        chosen(**{"engines": ("eager",), "precisions": ("full",), "baselines": ()} | words)


def test_unknown_presets_are_refused():
    with pytest.raises(UserError, match="unknown preset 'h300'"):
        preset("h300", device_name="", kind="cuda")
