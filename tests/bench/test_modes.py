"""Modes of our own step: at the cost that their table states, held to a reference of their kind."""

import copy
from dataclasses import replace

import pytest
import torch
from bench_case import CASE, images_and_labels, network
from pass_units import Units

from fastiseat.bench.steps.modes import MODES, PLAIN, modes_named
from fastiseat.bench.steps.subjects import EngineSubject
from fastiseat.bench.steps.variants import NECESSARY, VARIANTS, chosen, name_of
from fastiseat.bench.steps.verify import Gate, WrongResultError
from fastiseat.bench.steps.wasteful import wasteful_attacks
from fastiseat.engine import algorithm1
from fastiseat.engine.passes import InputGradient
from fastiseat.errors import UserError

# On a CPU there is one stream, which a step says of itself.
pytestmark = pytest.mark.filterwarnings("ignore:overlap changes nothing:RuntimeWarning")

# Nothing counts what goes through the halves of a batch, or is recomputed within a block.
COUNTED = [mode for name, mode in MODES.items() if name not in ("half-batch", "checkpoint-blocks")]
OFFERED = [(mode, method) for mode in COUNTED for method in mode.units]


@pytest.fixture(scope="module")
def gate():
    return Gate(network(), CASE.config(), *images_and_labels())


def subject(mode, engine="eager"):
    return EngineSubject(network(), CASE.config(), engine=engine, precision="full", mode=mode)


def check(gate, variant, method="iseat"):
    return gate.check(variant, variant.build(copy.deepcopy(gate.model), gate.config), method)


@pytest.mark.parametrize(("mode", "method"), OFFERED, ids=lambda value: getattr(value, "name", value) or "plain")
def test_units_are_those_of_the_table(mode, method):
    found = subject(mode)
    x, y = images_and_labels()
    found.step(method, x, y)  # the first call looks at the network besides
    with Units(found.model) as units:
        found.step(method, x, y)
    assert units.total() == VARIANTS[name_of("eager", "full", mode.name)].units[method]


@pytest.mark.parametrize("mode", MODES.values(), ids=lambda mode: mode.name or "plain")
@pytest.mark.parametrize("engine", ["eager", "tape"])
def test_every_mode_passes_the_gate(gate, engine, mode):
    deviations = check(gate, VARIANTS[name_of(engine, "full", mode.name)])
    assert deviations["exact"] < 1e-10


@pytest.mark.parametrize("mode", [mode for mode in MODES.values() if mode.approximate], ids=lambda mode: mode.name)
def test_an_approximation_is_no_exact_step(gate, mode):
    honest = VARIANTS[name_of("eager", "full", mode.name)]
    for kind in ("exact", *(other.awp_gradient for other in MODES.values() if other.approximate)):
        if kind != mode.awp_gradient:
            with pytest.raises(WrongResultError, match="off the reference"):
                check(gate, replace(honest, mode=replace(mode, awp_gradient=kind)))


def test_approximations_are_offered_where_weights_are_perturbed():
    for name, mode in MODES.items():
        expected = {"at-awp", "iseat"} if mode.approximate else set(NECESSARY)
        assert set(VARIANTS[name_of("graph", "bf16", name)].units) == expected


def test_the_spent_units_are_the_published_ones():
    units = {name: VARIANTS[name_of("graph", "bf16", name)].units["iseat"] for name in MODES}
    assert units == {
        "": 28, "recompute": 29, "last-attack-step": 26, "half-batch": 26.5, "previous-step": 25,
        "checkpoint-blocks": 41, "overlap": 28, "wasteful": 39,
    }  # fmt: skip
    assert VARIANTS["fastiseat-graph-bf16-wasteful"].units["at"] == 33
    assert VARIANTS["fastiseat-compile-full"].units == {"at": 23, "at-awp": 26, "lsi": 26, "iseat": 29}


def test_blocks_are_told_to_keep_their_input_alone():
    assert subject(MODES["checkpoint-blocks"]).model.checkpoint_blocks
    assert not getattr(subject(PLAIN).model, "checkpoint_blocks", False)


def test_waste_ends_with_its_block():
    with wasteful_attacks():
        assert algorithm1.InputGradient is not InputGradient
    assert algorithm1.InputGradient is InputGradient


def test_a_method_alone_holds_no_other_one_s_buffers():
    found = subject(PLAIN)
    found.step("at", *images_and_labels())
    assert list(found._steps) == ["at"]


def test_a_start_over_forgets_the_last_gradients():
    found = subject(MODES["previous-step"])
    x, y = images_and_labels()
    state = copy.deepcopy(found.model.state_dict())
    first = found.step("iseat", x, y)["loss"]
    assert not torch.equal(found.step("iseat", x, y)["loss"], first)
    found.start_over(state)
    assert torch.equal(found.step("iseat", x, y)["loss"], first)


@pytest.mark.parametrize(
    ("words", "modes"),
    [
        ({}, [""]),
        ({"clean_graph": ("keep", "recompute")}, ["", "recompute"]),
        ({"clean_graph": ("recompute",)}, ["recompute"]),
        ({"awp_gradient": ("half-batch",)}, ["half-batch"]),
        ({"awp_gradient": ("exact", "previous-step"), "wasteful": True}, ["", "previous-step", "wasteful"]),
        ({"checkpoint_blocks": True}, ["", "checkpoint-blocks"]),
    ],
)
def test_words_name_modes(words, modes):
    assert modes_named(**words) == tuple(modes)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"clean_graph": ("auto",)}, "unknown clean_graph 'auto'"),
        ({"awp_gradient": ("none",)}, "unknown awp_gradient 'none'"),
    ],
)
def test_unknown_words_are_refused(words, complaint):
    with pytest.raises(UserError, match=complaint):
        modes_named(**words)


def test_a_compiled_network_has_no_modes():
    found = chosen(("graph", "compile"), ("bf16",), (), ("", "recompute"))
    names = [variant.name for variant in found]
    assert names == ["fastiseat-graph-bf16", "fastiseat-graph-bf16-recompute", "fastiseat-compile-bf16"]
