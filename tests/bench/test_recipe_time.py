"""Hours of a recipe from seconds a step."""

from dataclasses import replace

import pytest

from fastiseat.bench.steps.recipe_time import hours, mode
from fastiseat.recipes import recipe

UNITS = {"at": 23, "at-awp": 26, "lsi": 25, "iseat": 28}


def test_the_modes_of_the_paper_s_schedule():
    config = recipe("cifar10", "iseat")
    assert [mode(config, epoch) for epoch in (0, 99, 100, 199)] == ["at-awp", "at-awp", "iseat", "iseat"]
    assert {mode(recipe("cifar10", "at"), epoch) for epoch in (0, 199)} == {"at"}
    assert mode(recipe("svhn", "iseat"), 0) == "at"


def test_hours_are_steps_and_validation():
    config = recipe("cifar10", "iseat")
    steps = {"at-awp": 2.6, "iseat": 2.8}
    training = 390 * (100 * 2.6 + 100 * 2.8)
    validation = 200 * 10_000 / 128 * 2.2
    assert hours(config, steps, UNITS, num_images=(50_000, 10_000)) == pytest.approx(
        (training + validation) / 3600
    )


def test_a_mode_that_was_not_timed_is_reckoned_by_its_units():
    config = recipe("cifar10", "iseat")
    both = hours(config, {"at-awp": 2.6, "iseat": 2.8}, UNITS, num_images=(50_000, 10_000))
    assert hours(config, {"iseat": 2.8}, UNITS, num_images=(50_000, 10_000)) == pytest.approx(both)


def test_a_larger_batch_takes_fewer_steps():
    config = recipe("cifar10", "at")
    wide = replace(config, data=replace(config.data, batch_size=256))
    sizes = {"num_images": (51_200, 0)}
    assert hours(wide, {"at": 1.0}, UNITS, **sizes) == pytest.approx(
        hours(config, {"at": 1.0}, UNITS, **sizes) / 2
    )
