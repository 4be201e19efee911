"""Files of every origin, written here and read back."""

import os
import resource
from contextlib import nullcontext

import pytest
import torch
from network_forms import networks
from safetensors.torch import save_file

from fastiseat.errors import UserError
from fastiseat.models import build, export_state_dict, load_model, metadata, read_weights
from fastiseat.models.files.layouts import to_common


def trained(arch, variant, **sizes):
    """A network in eval mode whose BatchNorm statistics have seen data."""
    torch.manual_seed(11)
    model = build(arch, variant=variant, **sizes)
    with torch.no_grad():
        model(torch.rand(4, model.spec.in_channels, 16, 16))
    return model.eval()


def assert_same_network(found, expected):
    images = torch.rand(2, expected.spec.in_channels, 16, 16)
    assert found.spec == expected.spec
    assert not found.training
    with torch.no_grad():
        assert torch.equal(found(images), expected(images))


@pytest.mark.parametrize("layout", ["released", "common"])
@networks("small", "wrn-10-1")
def test_our_own_safetensors(tmp_path, arch, variant, layout):
    model = trained(arch, variant, in_channels=1, num_classes=7)
    path = tmp_path / "best.safetensors"
    written = metadata(model.spec, dataset="digits", eps=8 / 255)
    save_file(export_state_dict(model, layout), path, metadata=written)
    weights = read_weights(path)
    assert weights.metadata == written
    assert float(weights.metadata["eps"]) == 8 / 255
    assert (weights.arch, weights.variant, weights.variant_told) == (arch, variant, True)
    assert (weights.in_channels, weights.num_classes) == (1, 7)
    assert weights.state.keys() == model.state_dict().keys()
    assert_same_network(load_model(path), model)


@pytest.mark.parametrize("arch", ["prn18", "wrn-10-1"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_the_authors_checkpoints(tmp_path, arch, is_zip):
    model = trained(arch, "released")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    checkpoint = {
        "state_dict": model.state_dict(),
        "epoch": 199,
        "best_acc1": 82.37,
        "best_pgd": torch.tensor(51.76),
        "best_fgsm": 57.0,
        "optimizer": optimizer.state_dict(),
    }
    path = tmp_path / "model_best.pth"
    torch.save(checkpoint, path, _use_new_zipfile_serialization=is_zip)
    weights = read_weights(path)
    assert (weights.arch, weights.variant, weights.variant_told) == (arch, "released", True)
    assert weights.metadata == {"epoch": "199", "best_acc1": "82.37", "best_fgsm": "57.0"}
    assert_same_network(load_model(path), model)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model."])
@pytest.mark.parametrize("is_wrapped", [True, False])
def test_robustbench_wide_resnets(tmp_path, prefix, is_wrapped):
    model = trained("wrn-16-2", "common")
    state = {prefix + key: tensor for key, tensor in to_common(model.state_dict()).items()}
    state[f"{prefix}sub_block1.layer.0.bn1.weight"] = torch.ones(16)
    path = tmp_path / "Someone2020Linf.pt"
    torch.save({"state_dict": state, "arch": "WRN", "epoch": 3} if is_wrapped else state, path)
    weights = read_weights(path)
    assert (weights.arch, weights.variant, weights.variant_told) == ("wrn-16-2", "common", True)
    assert_same_network(load_model(path), model)


def test_robustbench_prn18_is_taken_for_common_unless_told_otherwise(tmp_path):
    path = tmp_path / "prn18.pt"
    common = trained("prn18", "common", num_classes=100)
    torch.save(common.state_dict(), path)
    weights = read_weights(path)
    assert (weights.arch, weights.variant, weights.variant_told) == ("prn18", "common", False)
    with pytest.warns(RuntimeWarning, match="does not tell the variant of prn18 and is taken for 'common'"):
        assert_same_network(load_model(path), common)
    released = build("prn18", num_classes=100).eval()
    released.load_state_dict(common.state_dict())
    assert_same_network(load_model(path, variant="released"), released)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("variant", ["released", "common"])
def test_a_wide_resnet_under_our_own_keys_alone_may_be_of_either_variant(tmp_path, name, variant):
    model = trained("wrn-10-1", variant)
    path = tmp_path / name
    if name.endswith("pt"):
        torch.save(model.state_dict(), path)
    else:
        save_file(export_state_dict(model), path)
    weights = read_weights(path)
    assert (weights.variant, weights.variant_told) == ("released", False)
    released = build("wrn-10-1").eval()
    released.load_state_dict(model.state_dict())
    with pytest.warns(RuntimeWarning, match="does not tell the variant of wrn-10-1 and is taken for 'released'"):
        assert_same_network(load_model(path), released)
    assert_same_network(load_model(path, variant=variant), model)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_a_preact_resnet_may_leave_the_variant_open(tmp_path, name):
    model = trained("small", "common")
    path = tmp_path / name
    if name.endswith("pt"):
        torch.save(model.state_dict(), path)
    else:
        save_file(export_state_dict(model), path)
    weights = read_weights(str(path))
    assert (weights.arch, weights.variant, weights.variant_told) == ("small", None, False)
    assert_same_network(load_model(path, variant="common"), model)


def test_files_without_batchnorm_counters(tmp_path):
    model = trained("wrn-10-1", "common")
    state = {k: v for k, v in to_common(model.state_dict()).items() if "num_batches_tracked" not in k}
    torch.save(state, tmp_path / "old.pt")
    assert_same_network(load_model(tmp_path / "old.pt"), model)


def test_shapes_tell_the_sizes(tmp_path):
    with torch.device("meta"):
        shapes = {key: t.shape for key, t in build("wrn-28-4", in_channels=1, num_classes=3).state_dict().items()}
    torch.save({key: torch.zeros(shape, dtype=torch.bfloat16) for key, shape in shapes.items()}, tmp_path / "w.pt")
    weights = read_weights(tmp_path / "w.pt")
    assert (weights.arch, weights.in_channels, weights.num_classes) == ("wrn-28-4", 1, 3)


@pytest.fixture
def few_descriptors():
    """Let the process open ``spare`` files more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def leave(spare):
        taken = [os.dup(0) for _ in range(spare + 1)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1], hard))
        for number in taken:
            os.close(number)

    yield leave
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("spare", [0, 1, 2, 3])
def test_too_few_descriptors_are_told_in_a_line(tmp_path, few_descriptors, spare):
    network = build("small", variant="released", in_channels=1, num_classes=10)
    save_file(export_state_dict(network), tmp_path / "net.safetensors", metadata(network.spec))
    few_descriptors(spare)
    with pytest.raises(UserError, match="cannot be read") if spare < 3 else nullcontext():
        read_weights(tmp_path / "net.safetensors")
