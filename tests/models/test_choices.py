"""Where a file leaves a choice, one line says what was taken, what else is there, and how to have it."""

import re

import pytest
import torch
import zoo_forms
from safetensors.torch import save_file
from torch import nn

from fastiseat.errors import UserError
from fastiseat.models import build, export_state_dict, init_from, load_model, metadata
from fastiseat.names.networks import variants_of


def net(seed, *, num_classes=10):
    torch.manual_seed(seed)
    return zoo_forms.trained(zoo_forms.PlainWRN(num_classes))


def is_net(found, module):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        return bool((found(images) - module(images)).abs().max() < 1e-12)


RAW, EMA = net(1), net(2)
SD, SD_EMA = RAW.state_dict(), EMA.state_dict()


def prefixed(**parts):
    return {f"{name}.{key}": tensor for name, state in parts.items() for key, tensor in state.items()}


FILES = {
    # content, what is taken, the other's entry
    "state_dict beside ema_state_dict": (
        {"state_dict": SD, "ema_state_dict": SD_EMA},
        "state_dict",
        "ema_state_dict",
    ),
    "state_dict beside state_dict_ema": (
        {"state_dict_ema": SD_EMA, "state_dict": SD},
        "state_dict",
        "state_dict_ema",
    ),
    "model beside model_ema": ({"model": SD, "model_ema": SD_EMA, "epoch": 3}, "model", "model_ema"),
    "net beside swa, deeper": ({"net": SD, "swa": {"state_dict": SD_EMA}}, "net", "swa"),
    "one level down": ({"checkpoint": {"model": SD, "teacher": SD_EMA}}, "model", "teacher"),
    "the file itself beside ema": ({**SD, "ema": SD_EMA}, "the file's own level", "ema"),
    "prefixes": (prefixed(model=SD, ema=SD_EMA), "model", "ema"),
    "prefixes in a dict": ({"state_dict": prefixed(module=SD, model_ema=SD_EMA)}, "module", "model_ema"),
    "a prefix beside none": ({**SD, **prefixed(teacher=SD_EMA)}, "the file's own level", "teacher"),
    "a deeper prefix": (
        prefixed(model=SD, ema={f"module.{k}": v for k, v in SD_EMA.items()}),
        "model",
        "ema.module",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_weights_beside_others(tmp_path, name):
    content, taken, other = FILES[name]
    path = tmp_path / "w.pt"
    torch.save(content, path)
    lines = []
    assert is_net(load_model(path, say=lines.append), RAW)
    [line] = lines
    assert re.fullmatch(
        rf"{path}: weights taken from '?{taken}'?, others are in '{other}': entry='{other}' takes those", line
    )
    assert is_net(load_model(path, entry=other, say=lines.append), EMA)
    assert len(lines) == 1  # who says which needs no line
    with pytest.warns(RuntimeWarning, match="others are in") as caught:
        load_model(path)
    assert caught[0].filename == __file__
    target = build("wrn-10-1", variant="common").double().eval()
    init_from(target, path, say=lines.append)
    assert lines[1:] == [line] and is_net(target, RAW)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": SD, "best": dict(SD)},
        {"state_dict": SD, "optimizer": {"state": {0: {"momentum_buffer": SD["conv1.weight"]}}}, "epoch": 3},
        prefixed(model=SD, ema=SD),
        nn.DataParallel(zoo_forms.robustness(RAW)).state_dict(),
    ],
)
def test_copies_and_what_is_no_network_are_no_choice(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    expected = zoo_forms.robustness(RAW) if "module.model.conv1.weight" in content else RAW
    assert is_net(load_model(tmp_path / "w.pt"), expected)


@pytest.mark.parametrize(
    "odd",
    [
        torch.zeros(1).expand(10**12),  # would never be compared to the end
        torch.zeros(3).to_sparse(),
        torch.zeros(3, device="meta"),
        torch.zeros(3).to(torch.float8_e4m3fn),
        torch.tensor(float("nan")),
    ],
)
def test_tensors_that_are_not_easily_compared(tmp_path, odd):
    """The file is refused for what the tensor is, or what it does not belong to."""
    torch.save({"state_dict": {**SD, "odd": odd}, "ema": {**SD, "odd": odd}}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="odd"):
        load_model(tmp_path / "w.pt")


def test_prefixes_in_safetensors(tmp_path):
    path, lines = tmp_path / "w.safetensors", []
    save_file(prefixed(model=SD, ema=SD_EMA), path)
    assert is_net(load_model(path, say=lines.append), RAW)
    assert "entry='ema' takes those" in lines[0]
    assert is_net(load_model(path, entry="ema"), EMA)
    with pytest.raises(UserError, match="entry='emma': it holds no dict under that name; it has ema, model"):
        load_model(path, entry="emma")
    save_file(SD, path)
    with pytest.raises(UserError, match="entry='ema': it holds no dict under that name; leave it out"):
        load_model(path, entry="ema")


def test_a_normalisation_before_two_networks_belongs_to_both(tmp_path):
    norm = zoo_forms.Norm()
    torch.save(zoo_forms.Holder(normalize=norm, model=RAW, ema=EMA).state_dict(), tmp_path / "w.pt")
    assert is_net(load_model(tmp_path / "w.pt", entry="ema"), nn.Sequential(norm.double(), EMA))


def test_an_entry_deeper_than_the_first_level(tmp_path):
    torch.save({"checkpoint": {"last": SD, "best": SD_EMA}}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="it holds weights under 'last', 'best'; say which: entry='last'"):
        load_model(tmp_path / "w.pt")
    assert is_net(load_model(tmp_path / "w.pt", entry="best"), EMA)


@pytest.mark.parametrize("variant", variants_of("prn18"))
def test_a_variant_that_the_file_does_not_tell(tmp_path, variant):
    model = build("prn18", variant=variant, num_classes=7)
    path, lines = tmp_path / "w.pt", []
    torch.save(model.state_dict(), path)
    found = load_model(path, say=lines.append)
    [line] = lines
    taken = found.spec.variant
    assert f"it does not tell the variant of prn18 and is taken for {taken!r} (" in line
    others = re.findall(r"variant='([a-z0-9-]+)'", line.partition("else say")[2])
    assert variant in (taken, *others)
    for other in others:
        assert load_model(path, variant=other).spec.variant == other


def test_our_own_files_leave_no_choice(tmp_path):
    """Warnings are errors here."""
    for variant in variants_of("prn18"):
        model = build("prn18", variant=variant)
        save_file(export_state_dict(model), tmp_path / "w.safetensors", metadata(model.spec))
        assert load_model(tmp_path / "w.safetensors").spec == model.spec
