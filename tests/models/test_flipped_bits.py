"""A bit that flips anywhere in a file of weights is an error that names the file, or changes nothing."""

import random
import warnings

import numpy as np
import pytest
import torch

from fastiseat.checkpoint import RunDirectory, weights_content
from fastiseat.checkpoint.fileformat import DamagedError
from fastiseat.checkpoint.store import Checkpoints
from fastiseat.errors import UserError
from fastiseat.models import ModelSpec, PreActResNet, metadata, read_weights
from fastiseat.models.files.entries import find
from fastiseat.models.files.torch_file import load
from fastiseat.pipelines.data.formats.extra import read_extra

SPEC = ModelSpec(arch="small", variant="released", in_channels=1, num_classes=2)
STATE = {"conv1.weight": torch.arange(24.0).reshape(2, 3, 4), "linear.bias": torch.ones(3, dtype=torch.float64)}


def flipped(content, *, seed=0, most=700):
    """``content`` with one bit changed, at each byte or at ``most`` of them."""
    draw = random.Random(seed)
    places = range(len(content)) if len(content) <= most else sorted(draw.sample(range(len(content)), most))
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << draw.randrange(8)
        yield place, bytes(damaged)


def same(found, expected):
    """Tensors by their bits, whatever else by its value."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, torch.Tensor):
        return found.dtype == expected.dtype and torch.equal(found, expected)
    return bool(found == expected)


def attempt(read, error):
    """What it gives, or what it complains."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read(), None
    except error as refusal:
        return None, str(refusal)


def outcomes(path, read, error=UserError, **sizes):
    """How many flips were refused and how many did nothing; anything else fails."""
    expected, counts = read(), {"refused": 0, "harmless": 0}
    for place, damaged in flipped(path.read_bytes(), **sizes):
        path.write_bytes(damaged)
        found, complaint = attempt(read, error)
        if complaint is None:
            assert same(found, expected), f"byte {place}"
        else:
            assert error is not UserError or complaint.startswith(str(path))
        counts["harmless" if complaint is None else "refused"] += 1
    return counts


def test_torch_files(tmp_path):
    path = tmp_path / "w.pt"
    torch.save({"state_dict": STATE, "epoch": 3, "name": "x"}, path)

    def read():
        try:
            found = find(load(path))
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        return {"state": found.state, "beside": found.beside}

    counts = outcomes(path, read, most=1500)
    assert counts["refused"] > counts["harmless"] > 0


def test_a_flipped_weight_of_a_network(tmp_path):
    """Through the whole reader, as a user meets it."""
    model, path = tiny_network(), tmp_path / "w.pt"
    torch.save(model.state_dict(), path)
    content = bytearray(path.read_bytes())
    content[content.find(model.conv1.weight.detach().numpy().tobytes()) + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=rf"{path}: damaged: 'w/data/\d+' in it does not have its checksum; fetch it"
    ):
        read_weights(path)


def tiny_network():
    return PreActResNet(SPEC, depths=(1, 1, 1), widths=(16, 32, 64))


def test_our_safetensors(tmp_path):
    model = tiny_network()
    path, told = tmp_path / "w.safetensors", metadata(model.spec, eps="0.1", dataset="digits")
    path.write_bytes(weights_content(model, told))
    size = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    header, rest = path.read_bytes()[:size], path.read_bytes()[size:]

    def read():
        weights = read_weights(path)
        # A changed name of the checksum makes it one more thing that is told, and means nothing.
        return {**weights.state, "told": {name: weights.metadata.get(name) for name in told}}

    assert outcomes(path, read, most=100)["harmless"] == 0  # nearly all are weights
    path.write_bytes(header + rest)
    expected, refused = read(), 0
    for place, damaged in flipped(header, most=300):
        path.write_bytes(damaged + rest)
        found, complaint = attempt(read, UserError)
        assert complaint or same(found, expected), f"byte {place}"
        refused += complaint is not None
    assert refused > 250


def test_a_checksum_is_no_part_of_what_is_told(tmp_path):
    model = tiny_network()
    RunDirectory(tmp_path).write_weights("best", model, metadata(model.spec, eps="0.1"))
    assert read_weights(tmp_path / "weights" / "best.safetensors").metadata == metadata(model.spec, eps="0.1")


def test_checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    checkpoints.save({"model": STATE}, step=3)
    checkpoints.close()
    [path] = checkpoints.folder.iterdir()
    from fastiseat.checkpoint.fileformat import read

    assert outcomes(path, lambda: read(path)[0], DamagedError)["harmless"] == 0


def test_checkpoints_of_an_earlier_version(tmp_path):
    from fastiseat.checkpoint.fileformat import read_unchecked

    path = tmp_path / "last.pt"
    torch.save({"model": STATE}, path)
    counts = outcomes(path, lambda: read_unchecked(path), DamagedError)
    assert counts["refused"] > counts["harmless"]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_images_in_npz(tmp_path, save):
    path = tmp_path / "extra.npz"
    images = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3), dtype=np.uint8)
    save(path, image=images, label=np.arange(4))

    def read():
        split = read_extra(path, image_shape=(4, 4, 3), num_classes=4)
        return {"images": torch.tensor(np.array(split.images)), "labels": torch.tensor(np.array(split.labels))}

    counts = outcomes(path, read)
    assert counts["refused"] > counts["harmless"]
