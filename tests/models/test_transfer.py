"""Networks from files: which file fits which network, and what is left untouched."""

import pytest
import torch
from safetensors.torch import save_file

from fastiseat.errors import UserError
from fastiseat.models import build, export_state_dict, init_from, load_model, metadata


def write(model, path):
    save_file(export_state_dict(model), path, metadata=metadata(model.spec))
    return path


def test_init_from_copies_everything(tmp_path):
    source, target = build("small", in_channels=1), build("small", in_channels=1).double()
    with torch.no_grad():
        source(torch.rand(4, 1, 8, 8))
    init_from(target, write(source, tmp_path / "w.safetensors"))
    assert target.training
    for key, tensor in target.state_dict().items():
        assert tensor.dtype == (torch.float64 if tensor.is_floating_point() else torch.int64)
        assert torch.equal(tensor, source.state_dict()[key].to(tensor.dtype))


@pytest.mark.parametrize(
    ("settings", "differing"),
    [
        ({"arch": "wrn-10-1"}, "arch"),
        ({"variant": "common"}, "variant"),
        ({"in_channels": 1}, "in_channels"),
        ({"num_classes": 100}, "num_classes"),
        ({"arch": "wrn-10-1", "num_classes": 100}, "arch, num_classes"),
    ],
)
def test_init_from_refuses_another_network(tmp_path, settings, differing):
    path = write(build("small"), tmp_path / "w.safetensors")
    model = build(**{"arch": "small", **settings})
    before = export_state_dict(model)
    with pytest.raises(UserError) as caught:
        init_from(model, path)
    assert str(caught.value) == (
        f"{path} holds small (released variant, 3 channels, 10 classes), but the model is {model.spec}; they "
        f"must agree in {differing}: build the model to match, or give another file"
    )
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("arch", ["small", "prn18"])
@pytest.mark.parametrize("variant", ["released", "common"])
def test_init_from_takes_a_file_that_does_not_tell_its_variant_for_the_models(tmp_path, arch, variant):
    source, target = build(arch), build(arch, variant=variant)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    lines = []
    init_from(target, tmp_path / "w.pt", say=lines.append)
    assert torch.equal(target.linear.weight, source.linear.weight)
    [line] = lines
    other = "common" if variant == "released" else "released"
    assert f"does not tell the variant of {arch} and is taken for {variant!r}" in line
    assert f"else say variant={other!r}" in line
    init_from(target, tmp_path / "w.pt", variant=variant, say=lines.append)
    assert len(lines) == 1


def test_init_from_refuses_a_variant_that_the_keys_exclude(tmp_path):
    torch.save(build("prn18", variant="consistency").state_dict(), tmp_path / "w.pt")
    with pytest.raises(UserError, match="they must agree in variant"):
        init_from(build("prn18"), tmp_path / "w.pt")


def test_load_model_asks_for_the_variant_where_nothing_tells(tmp_path):
    save_file(export_state_dict(build("small")), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"w\.safetensors: small, and the file does not tell its variant; say"):
        load_model(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "reader", [load_model, lambda path, variant: init_from(build("small"), path, variant=variant)]
)
def test_a_told_variant_cannot_be_overridden(tmp_path, reader):
    path = write(build("small"), tmp_path / "w.safetensors")
    reader(path, variant="released")
    with pytest.raises(UserError, match="the released variant of small, which variant='common' contradicts"):
        reader(path, variant="common")
    with pytest.raises(UserError, match="unknown network variant 'theirs'"):
        reader(path, variant="theirs")


@pytest.mark.parametrize(
    ("stored", "loaded"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_load_model_computes_in_float32_or_better(tmp_path, stored, loaded):
    model = build("small").to(stored)
    found = load_model(write(model, tmp_path / "w.safetensors"))
    assert found.conv1.weight.dtype == loaded
    assert torch.equal(found.conv1.weight, model.conv1.weight.to(loaded))


def test_load_model_draws_no_random_number_and_outlives_its_file(tmp_path):
    path = write(build("small"), tmp_path / "w.safetensors")
    before = torch.get_rng_state()
    model = load_model(path)
    assert torch.equal(torch.get_rng_state(), before)
    expected = export_state_dict(model)
    path.write_bytes(bytes(path.stat().st_size))
    assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_metadata_is_all_strings_and_keeps_the_spec(tmp_path):
    spec = build("wrn-10-1", variant="common").spec
    assert metadata(spec, eps=8 / 255, epoch=3) == {
        "arch": "wrn-10-1",
        "variant": "common",
        "in_channels": "3",
        "num_classes": "10",
        "eps": repr(8 / 255),
        "epoch": "3",
    }
    with pytest.raises(AssertionError):
        metadata(spec, arch="prn18")
