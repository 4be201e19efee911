"""The gate lets right results through and stops wrong ones, at every precision."""

import copy
from dataclasses import replace

import pytest
import torch
from bench_case import CASE, changed, images_and_labels, network, planted

from fastiseat.bench.deviation import relative
from fastiseat.bench.steps.variants import NECESSARY, VARIANTS
from fastiseat.bench.steps.verify import Gate, WrongResultError

MUTANTS = {
    "a larger ball": changed("attack", eps=0.18),
    "shorter steps": changed("attack", step_size=0.03),
    "one step fewer": changed("attack", steps=9),
    "no weight perturbation": changed("awp", gamma=0.0),
    "a larger weight perturbation": changed("awp", gamma=0.008),
    "a norm over all weights": changed("awp", norm="global"),
    "no stability term": changed("objective", lam=0.0),
    "a larger stability term": changed("objective", lam=0.11),
    "no weight decay": changed("optimizer", weight_decay=0.0),
}


@pytest.fixture(scope="module")
def gate():
    return Gate(network(), CASE.config(), *images_and_labels())


def check(gate, variant, method):
    return gate.check(variant, variant.build(copy.deepcopy(gate.model), gate.config), method)


@pytest.mark.parametrize("method", NECESSARY)
@pytest.mark.parametrize(
    "name",
    ["fastiseat-eager-full", "fastiseat-eager-bf16", "eager", "eager-wasteful", "eager-strict", "eager-bf16"],
)
def test_right_variants_pass(gate, name, method):
    deviations = check(gate, VARIANTS[name], method)
    assert set(deviations) >= {"loss", "statistics", "update"}
    assert deviations["exact"] < 1e-10


@pytest.mark.parametrize("precision", ["full", "bf16"])
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_step_that_is_a_little_wrong_is_stopped(gate, mutant, precision):
    with pytest.raises(WrongResultError, match="off the reference"):
        check(gate, planted(MUTANTS[mutant], precision=precision), "iseat")


@pytest.mark.parametrize("mutant", ["one step fewer", "no weight perturbation", "no stability term"])
def test_what_is_wrong_in_half_precision_alone_is_stopped_if_it_is_gross(gate, mutant):
    variant = replace(planted(MUTANTS[mutant], precision="bf16"), twin=None)
    with pytest.raises(WrongResultError, match="off the reference"):
        check(gate, variant, "iseat")


def test_a_result_that_is_no_number_is_stopped(gate):
    def build(model, config):
        subject = VARIANTS["fastiseat-eager-full"].build(model, config)
        honest = subject.step
        subject.step = lambda *args: {name: value * torch.nan for name, value in honest(*args).items()}
        return subject

    with pytest.raises(WrongResultError, match="loss is nan off the reference"):
        check(gate, replace(planted(), build=build), "at")


def test_a_check_does_not_depend_on_the_ones_before(gate):
    """All methods of a variant train one network; each check starts from the same weights and no momentum."""
    variant = VARIANTS["eager"]
    subject = variant.build(copy.deepcopy(gate.model), gate.config)
    first = gate.check(variant, subject, "at")
    gate.check(variant, subject, "iseat")
    assert gate.check(variant, subject, "at") == first


def test_the_network_of_the_gate_stays_as_it_is(gate):
    before = copy.deepcopy(gate.model.state_dict())
    check(gate, VARIANTS["eager"], "iseat")
    assert all(torch.equal(value, before[name]) for name, value in gate.model.state_dict().items())


def test_nothing_differs_from_nothing():
    assert relative(torch.zeros(0), torch.zeros(0)) == 0
