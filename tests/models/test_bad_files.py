"""Every unusable file gets one line with its path, the rule and the remedy."""

import io
import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from fastiseat.errors import UserError
from fastiseat.models import build, export_state_dict, metadata, read_weights


def refusal(path):
    with pytest.raises(UserError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.fixture
def state():
    return export_state_dict(build("wrn-10-1"))


def saved(content, path):
    torch.save(content, path)
    return path


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_missing_files_and_folders(tmp_path, name):
    assert "no such file; check" in refusal(tmp_path / name)
    (tmp_path / name).mkdir()
    assert "a folder; give a file in it" in refusal(tmp_path / name)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_garbage(tmp_path, name, seed):
    generator = torch.Generator().manual_seed(seed)
    content = torch.randint(256, (37 * seed,), dtype=torch.uint8, generator=generator)
    (tmp_path / name).write_bytes(bytes(content.tolist()))
    # Bytes that happen to open like a pickle may be called one.
    assert any(words in refusal(tmp_path / name) for words in ("not a", "refused by weights_only"))


@pytest.mark.parametrize("keep", [0.01, 0.5, 0.999])
@pytest.mark.parametrize("is_zip", [True, False])
def test_truncated_torch_files(tmp_path, state, is_zip, keep):
    path = tmp_path / "w.pt"
    torch.save(state, path, _use_new_zipfile_serialization=is_zip)
    os.truncate(path, int(keep * path.stat().st_size))
    assert "not a weight file, or a truncated one; give" in refusal(path)


@pytest.mark.parametrize("keep", [0.0001, 0.01, 0.5, 0.999])
def test_truncated_safetensors(tmp_path, state, keep):
    path = tmp_path / "w.safetensors"
    save_file(state, path)
    os.truncate(path, int(keep * path.stat().st_size))
    message = refusal(path)
    assert "not a safetensors file, or a truncated one" in message
    assert "fetch it or export it again" in message


class Malice:
    """A pickle that writes a file when it is executed."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_a_pickle_with_code_is_not_executed(tmp_path, state, how):
    trap, path = tmp_path / "executed", tmp_path / "w.pt"
    content = {"state_dict": state, "extra": Malice(trap)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(Malice(trap)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    message = refusal(path)
    assert "refused by weights_only=True: nothing in it was executed; have its maker" in message
    assert how == "pickle" or "posix.mkdir" in message
    assert not trap.exists()


def test_a_pickled_module_is_refused_by_name(tmp_path):
    assert "Linear" in refusal(saved(torch.nn.Linear(2, 2), tmp_path / "w.pt"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "holds a list; it must hold a state dict"),
        (torch.zeros(3), "holds a Tensor; it must hold a state dict"),
        ({"model": {"conv1.weight": torch.zeros(1)}}, "its keys (conv1.weight) are those of no known network"),
        ({"model": {"weight": torch.zeros(1)}}, "holds a dict under 'model'"),
        ({"state_dict": {"conv1.weight": 3}}, "holds a int under 'conv1.weight'"),
        ({"state_dict": {0: torch.zeros(1)}}, "holds a Tensor under 0"),
        ({}, "its keys (none) are those of no known network"),
    ],
)
def test_torch_files_without_a_state_dict(tmp_path, content, words):
    assert words in refusal(saved(content, tmp_path / "w.pt"))


def test_keys_of_no_known_network(tmp_path):
    layers = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)).state_dict()
    message = refusal(saved(layers, tmp_path / "w.pt"))
    assert "its keys (0.weight, 0.bias, 1.weight and 1 more) are those of no known network; known:" in message
    assert "wrn-34-10" in message


@pytest.mark.parametrize(
    ("arch", "drop", "add", "words"),
    [
        ("wrn-10-1", "bn1.bias", None, "wrn-10-1 is the nearest known network, but missing keys: bn1.bias;"),
        ("wrn-10-1", None, "nu", "missing keys: none; unexpected keys: nu; give"),
        ("wrn-10-1", None, "a\n\x1b[2J", r"missing keys: none; unexpected keys: a\n\x1b[2J; give"),
        ("small", "bn.weight", "bn.wait", "missing keys: bn.weight; unexpected keys: bn.wait;"),
        ("wrn-10-1", "conv1.weight", None, "lacks the key conv1.weight"),
        ("wrn-10-1", "fc0.weight", None, "lacks the key fc0.weight"),
        ("wrn-10-1", "layer1.block0.conv1.weight", None, "lacks the key layer1.block0.conv1.weight"),
    ],
)
def test_keys_missing_and_left_over(tmp_path, arch, drop, add, words):
    state = build(arch).state_dict()
    if drop:
        del state[drop]
    if add:
        state[add] = torch.zeros(1)
    assert words in refusal(saved(state, tmp_path / "w.pt"))


@pytest.mark.parametrize(
    ("key", "shape", "words"),
    [
        (
            "layer2.block0.conv2.weight",
            (32, 32, 1, 1),
            "has shape (32, 32, 1, 1), but (32, 32, 3, 3) in wrn-10-1",
        ),
        (
            "fc0.bias",
            (9,),
            "fc0.bias has shape (9,), but (10,) in wrn-10-1 with 3 input channels and 10 classes",
        ),
        ("conv1.weight", (16,), "conv1.weight has shape (16,)"),
        ("layer1.block0.conv1.weight", (24, 16, 3, 3), "24 channels; a Wide ResNet's are a multiple of 16"),
        ("layer1.block0.conv1.weight", (0, 16, 3, 3), "width 1 to 1000"),
        ("conv1.weight", (16, 0, 3, 3), "in_channels is 0"),
    ],
)
def test_shapes_that_disagree(tmp_path, state, key, shape, words):
    state[key] = torch.zeros(shape)
    assert words in refusal(saved(state, tmp_path / "w.pt"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"arch": "prn18"}, "its metadata says arch prn18, its tensors say wrn-10-1; export it again"),
        ({"num_classes": "100"}, "its metadata says num_classes 100, its tensors say 10"),
        ({"variant": "theirs"}, "unknown network variant 'theirs'"),
    ],
)
def test_metadata_that_contradicts_the_tensors(tmp_path, state, change, words):
    path = tmp_path / "w.safetensors"
    save_file(state, path, metadata=metadata(build("wrn-10-1").spec) | change)
    assert words in refusal(path)


@pytest.mark.parametrize("how", ["zip", "legacy"])
def test_tuples_so_deep_that_python_would_crash(tmp_path, how):
    """Their hash, which a key of a dict needs, is computed on the stack."""
    deep, path = b"\x80\x02}N" + b"\x85" * 10**6 + b"Ns.", tmp_path / "w.pt"
    torch.save({}, path, _use_new_zipfile_serialization=how == "zip")
    content = io.BytesIO(path.read_bytes())
    if how == "zip":
        with zipfile.ZipFile(content) as valid, zipfile.ZipFile(path, "w") as archive:
            for name in valid.namelist():
                archive.writestr(name, deep if name.endswith("data.pkl") else valid.read(name))
    else:
        for _ in range(3):
            pickle.load(content)
        path.write_bytes(content.getvalue()[: content.tell()] + deep)
    assert "not a weight file" in refusal(path)


@pytest.mark.parametrize(
    "make",
    [
        lambda bias: torch.zeros(1).expand(10**12),
        lambda bias: bias.to_sparse(),
        lambda bias: bias.to("meta"),
    ],
)
def test_tensors_whose_numbers_are_not_in_the_file(tmp_path, state, make):
    state["fc0.bias"] = make(state["fc0.bias"])
    assert "fc0.bias is no plain tensor with numbers of its own" in refusal(saved(state, tmp_path / "w.pt"))


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_complex_weights(tmp_path, state, name):
    state["fc0.bias"] = state["fc0.bias"].to(torch.complex64)
    (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)
    assert "fc0.bias holds complex numbers" in refusal(tmp_path / name)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool])
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_weights_of_whole_numbers(tmp_path, state, name, dtype):
    """Cast in silence they would be a network that nobody trained."""
    state["fc0.bias"] = state["fc0.bias"].to(dtype)
    (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)
    told = f"fc0.bias holds {str(dtype)[6:]}; a network's weights are floating-point numbers"
    assert told in refusal(tmp_path / name)
