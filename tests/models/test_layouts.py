"""Renaming between the released and the common Wide ResNet keys."""

import pytest
import torch

from fastiseat.errors import UserError
from fastiseat.models import build, export_state_dict
from fastiseat.models.files.layouts import layout_of, to_common, to_layout, to_released


@pytest.fixture(scope="module")
def released():
    return build("wrn-16-2").state_dict()


def same(found, expected):
    """The same keys in the same order, with the very same tensors."""
    return list(found) == list(expected) and all(found[key] is expected[key] for key in expected)


def test_common_names_are_the_specified_ones(released):
    common = to_common(released)
    parts = {"bn1", "conv1", "bn2", "conv2"}
    blocks = {f"block{stage}.layer.{index}" for stage in (1, 2, 3) for index in (0, 1)}
    expected = {f"{block}.{part}" for block in blocks for part in parts}
    expected |= {f"block{stage}.layer.0.convShortcut" for stage in (1, 2, 3)} | {"conv1", "bn1", "fc"}
    assert {key.rpartition(".")[0] for key in common} == expected
    assert common["fc.bias"] is released["fc0.bias"]
    assert common["block2.layer.0.convShortcut.weight"] is released["layer2.block0.shortcut.0.weight"]


def test_round_trip(released):
    common = to_common(released)
    assert (layout_of(released), layout_of(common)) == ("released", "common")
    assert same(to_released(common), released)
    assert same(to_common(common), common)
    assert same(to_released(released), released)


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model."])
def test_round_trip_with_prefixes_and_leftovers(released, prefix):
    common = {prefix + key: tensor for key, tensor in to_common(released).items()}
    common[prefix + "sub_block1.layer.0.conv1.weight"] = torch.zeros(1)
    assert same(to_released(common), released)
    assert same(to_released({prefix + key: tensor for key, tensor in released.items()}), released)


def test_blocks_counted_from_one_are_renumbered():
    released = build("wrn-28-1").state_dict()
    # Backwards, so that block3 does not become block4 twice.
    from_one = released
    for index in (3, 2, 1, 0):
        from_one = {key.replace(f"block{index}.", f"block{index + 1}."): t for key, t in from_one.items()}
    assert "layer1.block4.bn1.weight" in from_one
    assert "layer1.block0.bn1.weight" not in from_one
    assert same(to_released(from_one), released)


@pytest.mark.parametrize("arch", ["prn18", "small"])
def test_preact_resnets_pass_unchanged(arch):
    with torch.device("meta"):
        state = build(arch).state_dict()
    assert layout_of(state) is None
    assert same(to_common(state), state)
    assert same(to_released({f"module.{key}": tensor for key, tensor in state.items()}), state)


@pytest.mark.parametrize("layout", ["released", "common"])
def test_export_is_bit_for_bit_and_independent(layout):
    model = build("wrn-10-1").to(memory_format=torch.channels_last)
    exported = export_state_dict(model, layout)
    assert layout_of(exported) == layout
    state = model.state_dict()
    for key, tensor in to_released(exported).items():
        assert torch.equal(tensor, state[key])
        assert tensor.is_contiguous()
        assert not tensor.requires_grad
        assert tensor.data_ptr() != state[key].data_ptr()


def test_colliding_keys_are_refused(released):
    with pytest.raises(UserError, match=r"differ only in a 'module.' or 'model.' prefix"):
        to_released({**released, "module.conv1.weight": torch.zeros(1)})


def test_an_unknown_layout_is_refused(released):
    with pytest.raises(UserError, match="unknown key layout 'robustbench'"):
        to_layout(released, "robustbench")
