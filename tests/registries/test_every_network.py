"""Each network of the table is built, trained, saved, read, listed, exported and benchmarked, whoever added it."""

from __future__ import annotations

import copy
import io
import json
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from fastiseat import AWP, PGD, TrainStep, UserError, load_model
from fastiseat.__main__ import main
from fastiseat.bench.baselines.networks import plain
from fastiseat.checkpoint import weights_content
from fastiseat.export import FORMATS, export, read_source
from fastiseat.models import ModelSpec, Network, build, metadata, read_weights, recompute, set_normalization
from fastiseat.models.factory import has_blocks, is_as_built
from fastiseat.models.homes import home_of
from fastiseat.names.networks import FORMS, NETWORKS, canonical_arch, family_of, summaries, title, variants_of
from fastiseat.recipes import DATASETS, METHODS, OWN_DATA, recipe


def smallest(key: str) -> str:
    """A family's network of the smallest numbers in its name."""
    if NETWORKS[key].named is None:
        return key
    first, *numbers = next(iter(NETWORKS[key].examples)).split("-")
    for tried in product(range(1, 30), repeat=len(numbers)):
        try:
            return canonical_arch("-".join([first, *map(str, tried)]))
        except UserError:
            continue
    raise AssertionError(f"{key}: it has no small network")


ARCHS = [smallest(key) for key in NETWORKS]
each = pytest.mark.parametrize("arch", ARCHS)
each_form = pytest.mark.parametrize(
    ("arch", "variant"), [(arch, variant) for arch in ARCHS for variant in variants_of(arch)]
)


def images(model: Network, m: int = 4) -> Tensor:
    return torch.rand(m, model.spec.in_channels, 8, 8, generator=torch.Generator().manual_seed(5))


def made(arch: str, variant: str | None = None) -> Network:
    """In eval mode, its weights and statistics away from where they begin."""
    torch.manual_seed(2)
    model = build(arch, variant=variant or variants_of(arch)[0], in_channels=2, num_classes=3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
        model.train()(images(model, 16))
    return model.eval()


def saved(model: Network, file: Path) -> Path:
    file.write_bytes(weights_content(model, metadata(model.spec, dataset="digits", eps=0.1)))
    return file


def told(*words: str) -> str:
    """What a command prints."""
    with redirect_stdout(io.StringIO()) as out, suppress(SystemExit):  # the parser's way out of help
        main(list(words))
    assert out.getvalue(), words
    return out.getvalue()


@each
def test_what_is_told_of_it_is_whole(arch: str) -> None:
    family = family_of(arch)
    assert family.variants and set(family.variants) <= FORMS.keys()
    assert family.title and "{" not in title(arch) and family.tag and family.side > 0
    assert all(words for words in summaries().values())


@each_form
def test_it_is_built_and_answers_as_people_write_it(arch: str, variant: str) -> None:
    """Weights, statistics and gradients too: what benchmarks compare with is the same network."""
    model = made(arch, variant)
    assert (model.spec.arch, model.spec.variant) == (arch, variant)
    twin = plain(copy.deepcopy(model))
    assert twin.state_dict().keys() == model.state_dict().keys()
    assert not any(
        type(part).__module__ in ("fastiseat.fusion.norm", "fastiseat.models.blocks") for part in twin.modules()
    )
    for network in (model.train(), twin.train()):
        network(images(model)).square().sum().backward()
    for (name, weight), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(weight.grad, other.grad, rtol=1e-3, atol=1e-3, msg=name)
    torch.testing.assert_close(model.eval()(images(model)), twin.eval()(images(model)), rtol=1e-4, atol=1e-4)


@each_form
def test_its_own_file_is_believed(arch: str, variant: str, tmp_path: Path) -> None:
    model = made(arch, variant)
    file = saved(model, tmp_path / "w.safetensors")
    read = read_weights(file)
    assert (read.arch, read.variant, read.variant_told) == (arch, variant, True)
    set_normalization(model, mean=(0.4, 0.5), std=0.25)
    found = load_model(saved(model, file))
    assert found.spec == model.spec
    assert torch.equal(found(images(model)), model(images(model)))


@each
def test_a_foreign_file_is_recognised_or_refused(arch: str, tmp_path: Path) -> None:
    """Never taken for another network."""
    torch.save(made(arch).state_dict(), tmp_path / "w.pt")
    found = None
    with suppress(UserError):
        found = read_weights(tmp_path / "w.pt").arch
    assert found in (arch, None)


@each
def test_a_step_recorded_is_the_eager_one(arch: str) -> None:
    torch.manual_seed(3)
    model = build(arch, in_channels=1, num_classes=3, variant=variants_of(arch)[0])
    parts: dict[str, Any] = {"method": "iseat", "attack": PGD(steps=1), "awp": AWP(gamma=0.01)}
    eager, taped = (TrainStep(copy.deepcopy(model), engine=engine, **parts) for engine in ("eager", "tape"))
    before = copy.deepcopy(model.state_dict())
    x, y = images(model), torch.tensor([0, 1, 2, 0])
    for step in (eager, taped):
        for _ in range(2):
            step(x, y)
    assert tiny.same_weights(eager.model.state_dict(), taped.model.state_dict())
    changed = {name for name, weight in eager.model.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed >= {name for name, _ in model.named_parameters()}
    assert is_as_built(model) == bool(home_of(arch).PARTS)


@each
def test_a_run_trains_it_and_its_weights_are_exported(
    arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.install(monkeypatch, train=8, test=4)
    base = recipe("digits", "at", arch)
    config = replace(
        base,
        data=replace(base.data, batch_size=4),
        attack=replace(base.attack, steps=1),
        schedule=replace(base.schedule, epochs=1, max_steps=1),
        run=replace(base.run, final_steps=1),
    )
    results = tiny.trainer(config, tmp_path / "run").run()
    assert results
    weights = tmp_path / "run" / "weights" / "best.safetensors"
    network = load_model(weights)
    assert network.spec.arch == arch
    assert load_model(tmp_path / "run" / "weights" / "last.safetensors").spec == network.spec


SLOW = {"onnx": pytest.mark.long}
INSTALLED = [to for to in FORMATS if to != "onnx" or (find_spec("onnx") and find_spec("onnxruntime"))]


@each
@pytest.mark.parametrize("to", [pytest.param(to, marks=SLOW.get(to, ())) for to in INSTALLED])
def test_it_is_exported(arch: str, to: str, tmp_path: Path) -> None:
    """Of its own images' size at least, and the card has its name."""
    model = made(arch)
    exported = export(
        read_source(saved(model, tmp_path / "w.safetensors")), to, tmp_path / f"net{FORMATS[to].suffix}"
    )
    assert exported.difference < 1e-4
    card = next(file for file in exported.files if file.suffix == ".md").read_text(encoding="utf-8")
    assert title(arch) in card


def test_lists_and_help_name_each_of_them() -> None:
    rows = {row["arch"]: row for row in json.loads(told("list", "models", "--json"))}
    assert list(rows) == list(summaries())
    for arch, row in rows.items():
        assert (row["what it is"], row["variants"]) == (summaries()[arch], list(variants_of(arch)))
    for command in ("train", "bench"):
        text = " ".join(told(command, "--help").split())
        assert all((family.in_help or key) in text for key, family in NETWORKS.items())


@each
@pytest.mark.parametrize("method", METHODS)
def test_every_methods_recipe_takes_it(arch: str, method: str) -> None:
    for kind in DATASETS:
        network = recipe(f"{kind}:here" if kind in OWN_DATA else kind, method, arch).network
        assert network.arch == arch
        assert network.variant in variants_of(arch)


@each
def test_blocks_are_computed_again_or_that_is_refused(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked to keep its blocks' inputs alone, it does so or says that it can't."""
    model, again = build(arch, in_channels=1, num_classes=3, variant=variants_of(arch)[0]), []
    kept = recompute.checkpoint
    monkeypatch.setattr(recompute, "checkpoint", lambda *rest, **more: again.append(1) or kept(*rest, **more))
    with suppress(UserError):
        model.checkpoint_blocks = True
    model(images(model))
    assert bool(again) == model.checkpoint_blocks == has_blocks(arch)


def test_a_network_without_such_blocks_refuses_to_keep_their_inputs() -> None:
    spec = ModelSpec(arch="small", variant="released", in_channels=1, num_classes=3)
    with pytest.raises(UserError, match="checkpoint_blocks: small has no pre-activation blocks"):
        Network(spec).checkpoint_blocks = True
