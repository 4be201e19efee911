"""State dicts of the model zoo's modules: what load_model returns computes the module's own logits."""

import pytest
import torch
import zoo_forms
from safetensors.torch import save_file
from torch import nn

from fastiseat.errors import UserError
from fastiseat.models import build, export_state_dict, init_from, load_model, metadata, read_weights
from fastiseat.models.factory import needs_no_autocast

MEAN, STD = zoo_forms.MEAN, zoo_forms.STD


def saved(module, path, **beside):
    torch.save({"state_dict": module.state_dict(), **beside} if beside else module.state_dict(), path)
    return path


def assert_same_logits(found, module):
    images = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(found(images), module(images), rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", zoo_forms.FORMS)
def test_wide_resnets(tmp_path, form):
    module = zoo_forms.trained(zoo_forms.FORMS[form](zoo_forms.PlainWRN(sub_block1=True)))
    model = load_model(saved(module, tmp_path / "w.pt"))
    assert (model.spec.arch, model.spec.variant) == ("wrn-10-1", "common")
    assert_same_logits(model, module)


@pytest.mark.parametrize("form", ["bare", "mu and sigma inside, in parallel", "robustness in parallel"])
@pytest.mark.parametrize("reads_input", [True, False])
def test_preact_resnets(tmp_path, form, reads_input):
    net = zoo_forms.PlainPRN18(100, reads_input=reads_input)
    module = zoo_forms.trained(zoo_forms.FORMS[form](net))
    model = load_model(saved(module, tmp_path / "w.pt"), variant="released" if reads_input else "common")
    assert (model.spec.arch, model.spec.num_classes) == ("prn18", 100)
    assert_same_logits(model, module)


@pytest.mark.parametrize("form", zoo_forms.HARDCODED)
def test_a_normalisation_that_the_file_does_not_hold_is_said_by_the_caller(tmp_path, form):
    module = zoo_forms.trained(zoo_forms.HARDCODED[form](zoo_forms.PlainWRN()))
    path = saved(module, tmp_path / "w.pt")
    rounded = [torch.tensor(numbers).tolist() for numbers in (MEAN, STD)]  # as the module has them
    assert_same_logits(load_model(path, mean=rounded[0], std=rounded[1]), module)


def test_a_normalisation_that_a_file_speaks_of_must_be_said(tmp_path):
    net = zoo_forms.trained(zoo_forms.PlainWRN())
    hidden = saved(zoo_forms.HARDCODED["Sequential without buffers"](net), tmp_path / "sequential.pt")
    noted = saved(net, tmp_path / "noted.pt", normalize_input=True)
    resized = saved(nn.Sequential(nn.Identity(), nn.Identity(), net), tmp_path / "third.pt")
    cases = (hidden, "is '1' of a Sequential"), (resized, "is '2' of"), (noted, "normalize_input is True")
    for path, words in cases:
        assert read_weights(path).normalization is None
        with pytest.raises(UserError, match=rf"{path.name}: .*{words}.*; say mean= and std= \(0 and 1 if"):
            load_model(path)
        assert_same_logits(load_model(path, mean=0, std=1), net)
    assert_same_logits(load_model(saved(net, tmp_path / "no.pt", normalize_input=False)), net)


def test_a_normalisation_told_may_not_be_all_that_comes_first(tmp_path):
    net = zoo_forms.trained(zoo_forms.PlainWRN())
    path = saved(nn.Sequential(nn.Upsample(scale_factor=2), zoo_forms.Norm(), net), tmp_path / "w.pt")
    assert read_weights(path).normalization is not None
    with pytest.raises(UserError, match="the file does not hold all that comes before; say mean="):
        load_model(path)


def test_two_normalisations_must_be_said(tmp_path):
    net = zoo_forms.Wong(zoo_forms.PlainWRN(), mean=0.5, std=0.5, shape=(1, 1, 1))
    module = zoo_forms.trained(nn.Sequential(zoo_forms.Norm(mean=0.25, std=0.5, shape=(1,)), net))
    path = saved(module, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"2 normalisations \(0.mean, 1.mu\); say mean="):
        load_model(path)
    assert_same_logits(load_model(path, mean=0.5, std=0.25), module)


def test_what_the_caller_says_may_not_contradict_the_file(tmp_path):
    module = zoo_forms.trained(zoo_forms.sequential(zoo_forms.PlainWRN()))
    path = saved(module, tmp_path / "w.pt")
    assert_same_logits(load_model(path, mean=MEAN, std=STD), module)
    with pytest.raises(UserError, match=r"holds mean=\(0.4914, .*, which mean=\(0.5, 0.5, 0.5\).* contradicts"):
        load_model(path, mean=0.5, std=0.5)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"mean": 0.5}, "mean alone says no normalisation"),
        ({"std": 0.5}, "std alone says no normalisation"),
        ({"mean": (0.5, 0.5), "std": 0.5}, "mean has 2 numbers; give one, or one for each of 3 channels"),
        ({"mean": 125.3, "std": 63.0}, "mean=125.3: it must lie between 0 and 1, for images in"),
        ({"mean": 0.5, "std": 0}, "std=0: it must lie between 0.001 and 1"),
        ({"mean": float("nan"), "std": 1}, "mean=nan"),
    ],
)
def test_what_is_no_normalisation_to_say(tmp_path, said, words):
    path = saved(zoo_forms.PlainWRN(), tmp_path / "w.pt")
    with pytest.raises(UserError, match=words):
        load_model(path, **said)


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ([0.5] * 3, [0.0, 0.2, 0.2], "its normalisation: std=0: it must lie between 0.001 and 1"),
        ([0.5] * 3, [float("inf")] * 3, "its normalisation: std=inf"),
        ([125.3] * 3, [63.0] * 3, "its normalisation: mean=125.3"),
        ([0.5] * 2, [0.2] * 2, r"its normalisation's mean has shape \(2,\), for images of 3 channels"),
        ([[0.5] * 3], [[0.2] * 3], r"mean has shape \(1, 3\)"),
        ([[[0.5] * 3]], [[[0.2] * 3]], r"mean has shape \(1, 1, 3\)"),
        ([], [], r"mean has shape \(0,\)"),
        ([1] * 3, [1] * 3, "mean is of torch.int64"),
        ([0.5] * 3, None, "holds normalize.mean, but no normalize.std or the like beside it"),
        (None, [0.5] * 3, "unexpected keys: normalize.std; give"),
    ],
)
def test_what_is_no_normalisation_in_a_file(tmp_path, mean, std, words):
    parts = {name: torch.tensor(v) for name, v in (("mean", mean), ("std", std)) if v is not None}
    module = zoo_forms.Holder(normalize=zoo_forms.Holder(**parts), model=zoo_forms.PlainWRN())
    path = saved(module, tmp_path / "w.pt")
    with pytest.raises(UserError, match=rf"w\.pt: .*{words}"):
        read_weights(path)


def test_what_is_understood_is_left_out_and_what_is_not_is_refused(tmp_path):
    net = zoo_forms.trained(zoo_forms.PlainWRN())
    copy = zoo_forms.trained(zoo_forms.PlainWRN())
    assert_same_logits(load_model(saved(zoo_forms.Holder(ema=copy), tmp_path / "only.pt")), copy)
    two = saved(zoo_forms.Holder(left=net, right=copy), tmp_path / "two.pt")
    with pytest.raises(
        UserError, match=r"2 networks, under the prefixes 'left\.', 'right\.'; say which: entry='left'"
    ):
        load_model(two)
    assert_same_logits(load_model(two, entry="right"), copy)
    with pytest.raises(UserError, match=r"unexpected keys: extra\.weight, extra\.bias; give"):
        load_model(saved(zoo_forms.Holder(model=net, extra=nn.Linear(2, 2)), tmp_path / "more.pt"))
    state = {f"module.{key}": tensor for key, tensor in net.state_dict().items()}
    torch.save(state | {"bn1.bias": torch.zeros(64)}, tmp_path / "both.pt")
    with pytest.raises(UserError, match=r"bn1\.bias occurs with and without the prefix 'module\.'"):
        load_model(tmp_path / "both.pt")


@pytest.mark.parametrize(
    "names",
    [("model_state_dict",), ("model",), ("net",), ("ema",), ("last",), ("model", "state_dict"), ("net", "model")],
)
def test_nested_state_dicts(tmp_path, names):
    net = zoo_forms.trained(zoo_forms.PlainWRN())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    content = net.state_dict()
    for name in reversed(names):
        content = {name: content, "optimizer": optimizer.state_dict(), "epoch": 7}
    torch.save(content, tmp_path / "w.pt")
    assert_same_logits(load_model(tmp_path / "w.pt"), net)
    assert read_weights(tmp_path / "w.pt").metadata == {"epoch": "7"}


def test_several_state_dicts(tmp_path):
    last, best = (zoo_forms.trained(zoo_forms.PlainWRN()) for _ in range(2))
    path = tmp_path / "w.pt"
    torch.save({"last": last.state_dict(), "best": best.state_dict(), "epoch": 3}, path)
    with pytest.raises(UserError, match="it holds weights under 'last', 'best'; say which: entry='last'"):
        load_model(path)
    assert_same_logits(load_model(path, entry="best"), best)
    with pytest.raises(UserError, match="entry='first': it holds no dict under that name; it has last, best"):
        load_model(path, entry="first")
    torch.save({"model_state_dict": best.state_dict(), "unaveraged_model_state_dict": last.state_dict()}, path)
    with pytest.warns(RuntimeWarning, match="entry='unaveraged_model_state_dict' takes those"):
        assert_same_logits(load_model(path), best)


@pytest.mark.parametrize("layout", ["released", "common"])
def test_our_safetensors_keep_the_normalisation(tmp_path, layout):
    module = zoo_forms.trained(zoo_forms.sequential(zoo_forms.PlainWRN()))
    model = load_model(saved(module, tmp_path / "w.pt"))
    assert {"normalize.mean", "normalize.std"} < set(model.state_dict())
    path = tmp_path / "w.safetensors"
    save_file(export_state_dict(model, layout), path, metadata=metadata(model.spec))
    again = load_model(path)
    assert_same_logits(again, module)
    assert not again.normalize.training
    assert read_weights(path).state.keys() == build("wrn-10-1").state_dict().keys()


def test_fine_tuning_goes_on_with_the_normalisation(tmp_path):
    module = zoo_forms.trained(zoo_forms.sequential(zoo_forms.PlainWRN()))
    model = build("wrn-10-1", variant="common").double()
    init_from(model, saved(module, tmp_path / "w.pt"))
    assert model.normalize.training
    assert_same_logits(model.eval(), module)
    model(torch.rand(2, 3, 16, 16, dtype=torch.float64)).sum().backward()
    assert "normalize.mean" not in dict(model.named_parameters())
    bare = zoo_forms.trained(zoo_forms.PlainWRN())
    init_from(model, saved(bare, tmp_path / "bare.pt"))
    assert model.state_dict().keys() == build("wrn-10-1").state_dict().keys()
    assert_same_logits(model, bare)
    init_from(model, tmp_path / "bare.pt", mean=0.5, std=0.25)
    assert model.normalize.mean.tolist() == [0.5] * 3


def test_a_network_without_normalisation_is_as_ever():
    assert build("small").normalize is None
    assert needs_no_autocast(build("small"))


def test_autocast_serves_a_normalised_network(tmp_path):
    model = load_model(saved(zoo_forms.trained(zoo_forms.sequential(zoo_forms.PlainWRN())), tmp_path / "w.pt"))
    model, images = model.float(), torch.rand(2, 3, 16, 16)
    assert not needs_no_autocast(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = model(images)
    torch.testing.assert_close(found.float(), model(images), rtol=0.1, atol=0.1)
