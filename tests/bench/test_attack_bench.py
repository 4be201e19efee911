"""AutoAttack against the authors' code: who computes what, and when there is no figure for it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench_case import CPU
from counting import CountedPasses

from fastiseat import models
from fastiseat.bench.attack import attackers
from fastiseat.bench.attack import inputs as attack_inputs
from fastiseat.bench.attack import suite as attack
from fastiseat.bench.attack.attackers import Run
from fastiseat.bench.attack.inputs import AttackCase, Target, Victim, require_network
from fastiseat.bench.attack.suite import AttackRow, Attacks, judge, run_case
from fastiseat.bench.figures import AbsentError
from fastiseat.bench.figures import attack as figure
from fastiseat.bench.steps.suite import Plan
from fastiseat.bench.tables import markdown, tables
from fastiseat.errors import UserError
from fastiseat.pipelines.protocol.base import Split

PLAN = Plan(device=CPU, rounds=5, seconds=1e-4)
CASE = AttackCase(
    arch="small", dataset="digits", subset=8, batch_size=4, unbroken=3, eps=0.2, parts=("apgd-ce", "fab-t")
)
Both = dict[str, attackers.Attacker]


def untrained(classes: int) -> models.Network:
    torch.manual_seed(0)
    return models.build("small", in_channels=1, num_classes=classes).eval()


def right_about(network: models.Network) -> Target:
    """Images that the network takes for what they are."""
    images = np.random.default_rng(0).integers(256, size=(8, 8, 8, 1), dtype=np.uint8)
    blank = Target(split=Split(images=images, labels=np.zeros(8, dtype=np.int64)))
    with torch.no_grad():
        return Target(split=Split(images=images, labels=network(blank.tensors[0]).argmax(1).numpy()))


@pytest.fixture(scope="module")
def network() -> models.Network:
    """Of two classes: one is wrong, and so there is one target."""
    return untrained(2)


@pytest.fixture(scope="module")
def target(network: models.Network) -> Target:
    return right_about(network)


def attackers_of(network: models.Network, case: AttackCase) -> Both:
    _, ours = attackers.ours(network, case, engine="auto", precision="full", say=print)
    return {"ours": ours, "theirs": attackers.official(network, case)}


@pytest.mark.parametrize(
    ("part", "classes", "needed", "besides"),
    [
        ("apgd-ce", 2, (101, 101, 0), {"ours": (1, 0, 0), "theirs": (10, 0, 0)}),
        ("apgd-t", 4, (3 * 101, 3 * 101, 0), {"ours": (1, 0, 0), "theirs": (13, 0, 0)}),
        ("fab-t", 2, (200, 100, 0), {"ours": (1, 0, 0), "theirs": (13, 0, 100)}),
    ],
)
def test_passes_on_images_that_nothing_breaks(monkeypatch, part, classes, needed, besides):
    """Forward, input-gradient and weight-gradient passes: the part's own, and what each takes besides."""
    monkeypatch.setattr(attackers, "_warm_up", lambda *_: None)
    network = untrained(classes)
    target = right_about(network)
    for name, attacker in attackers_of(network, replace(CASE, batch_size=8, parts=(part,))).items():
        with CountedPasses(network, 8) as counted:
            run = attacker(target, 1e-6)
        assert run.robust.all()
        assert list(run.parts) == [part]
        assert counted.passes == tuple(a + b for a, b in zip(needed, besides[name], strict=True)), name


def test_broken_images_leave_ours_at_once(monkeypatch, network, target):
    monkeypatch.setattr(attackers, "_warm_up", lambda *_: None)
    counts = {}
    for name, attacker in attackers_of(network, replace(CASE, batch_size=8, parts=("apgd-ce",))).items():
        with CountedPasses(network, 8) as counted:
            assert not attacker(target, 1.0).robust.any()
        counts[name] = counted.units
    assert counts["ours"] < 0.5 * counts["theirs"]
    assert counts["theirs"] > 202


def test_time_belongs_to_the_parts_and_no_global_generator_is_touched(network, target):
    before = torch.get_rng_state()
    for attacker in attackers_of(network, CASE).values():
        run = attacker(target, 1e-6)
        assert list(run.parts) == ["apgd-ce", "fab-t"]
        assert min(run.parts.values()) > 0
        assert sum(run.parts.values()) <= run.seconds
    assert torch.equal(before, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.fixture
def quick(monkeypatch, network, target):
    """A case without training and without files; returns what runs it."""
    found = Victim(model=network, dataset="digits", eps=0.2, weights="here")
    monkeypatch.setattr(attack, "victim", lambda *_: found)
    monkeypatch.setattr(attack, "images_to_attack", lambda *_: target)

    def run(case: AttackCase = CASE, **settings: Any) -> list[dict[str, Any]]:
        return list(run_case(case, Attacks(**settings), PLAN))

    return run


def test_a_case_is_two_tables_with_figures_of_both(quick):
    first, second = quick(replace(CASE, parts=("apgd-ce",)), rounds=2)
    assert (first["images"], second["images"]) == (8, 3)
    assert (first["unbroken"], second["unbroken"]) == (False, True)
    assert second["eps"] == attack.UNBROKEN_EPS
    for row in second["rows"]:
        assert not row["problem"]
        assert row["robust"] == 3
        assert len(row["seconds"]) == 2
    ours, theirs = second["rows"]
    assert (ours["variant"], ours["alike"]) == ("fastiseat-eager-full", 3)
    assert theirs["variant"] == "pyautoattack"
    told = markdown(tables(document(first, second)), level=2)
    assert f"| fastiseat-eager-full | {theirs['median'] / ours['median']:.2f}× |" in told
    assert "3 images, ε 0.0001 (linf), apgd-ce alone, none breaks: AutoAttack by its parts" in told


def document(*cases: dict[str, Any]) -> dict[str, Any]:
    ceiling = {"flops": {"full": 1e12}, "bandwidth": 1e10}
    return {"machine": {"kind": "cuda", "device": "A Card"}, "ceiling": ceiling, "attack": list(cases)}


def test_without_the_baseline_there_is_no_ratio(quick):
    (case,) = quick(replace(CASE, unbroken=0, parts=("apgd-ce",)), official=False)
    assert [row["variant"] for row in case["rows"]] == ["fastiseat-eager-full"]
    assert "| fastiseat-eager-full |  | " in markdown(tables(document(case)), level=2)


def test_an_absent_package_is_told(quick, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    (case,) = quick(replace(CASE, unbroken=0, parts=("apgd-ce",)))
    assert (
        "absent: the authors' AutoAttack is not installed: pip install pyautoattack" in case["rows"][1]["problem"]
    )
    assert "No figure: pyautoattack: absent" in markdown(tables(document(case)), level=2)


def rows(size: int, wrong: int, more: int) -> list[AttackRow]:
    """Ours differs in ``wrong`` verdicts, of which ``more`` are for robust."""
    theirs = np.arange(size) % 2 == 0
    ours = theirs.copy()
    ours[np.flatnonzero(~theirs)[:more]] = True
    ours[np.flatnonzero(theirs)[: wrong - more]] = False
    return [
        AttackRow(variant=name, runs=[Run(robust=robust, seconds=1.0, parts={})])
        for name, robust in (("fastiseat-eager-full", ours), ("pyautoattack", theirs))
    ]


@pytest.mark.parametrize(
    ("size", "wrong", "more", "problem"),
    [
        (1000, 0, 0, ""),
        (1000, 4, 2, ""),
        (1000, 4, 3, ""),
        (1000, 4, 4, "not comparable: 4 of 1000 images more than by pyautoattack are left robust"),
        (1000, 5, 0, "not comparable: 995 of 1000 verdicts are those of pyautoattack"),
        (100, 2, 0, ""),
        (100, 3, 0, "not comparable: 97 of 100"),
        (100, 1, 1, ""),
        (100, 2, 2, "not comparable: 2 of 100 images more"),
    ],
)
def test_ours_has_a_figure_only_beside_the_same_verdicts(size, wrong, more, problem):
    found = rows(size, wrong, more)
    judge(found, size)
    assert found[0].problem.startswith(problem)
    assert bool(found[0].problem) == bool(problem)
    assert not found[1].problem
    assert ("median" in found[0].as_json(CPU, ())) == (not problem)


def test_the_worst_round_counts():
    found, other = rows(1000, 0, 0), rows(1000, 9, 0)
    for row, late in zip(found, other, strict=True):
        row.runs += late.runs
    judge(found, 1000)
    assert found[0].problem.startswith("not comparable: 991 of 1000")


def test_digits_are_trained_where_there_are_no_weights(monkeypatch):
    monkeypatch.setattr(attack_inputs, "_EPOCHS", 1)
    case = replace(CASE, eps=None, unbroken=0, parts=("apgd-ce",))
    (told,) = run_case(case, Attacks(official=False), PLAN)
    assert told["weights"] == "trained here"
    assert told["eps"] == 0.15
    assert told["rows"][0]["robust"] <= 8


def test_what_cannot_be_trained_here_has_no_figure():
    case = replace(CASE, arch="prn18", dataset="cifar10")
    with pytest.raises(UserError, match=r"prn18 on cifar10: untrained, .* give a trained one with --weights"):
        require_network(case)
    (told,) = run_case(case, Attacks(), PLAN)
    assert "No figure: prn18 on cifar10: untrained" in markdown(tables(document(told)), level=2)


def saved(path: Path, network: models.Network, **metadata: str) -> Path:
    from safetensors.torch import save_file

    file = path / "weights.safetensors"
    told = models.metadata(network.spec) | metadata
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, file, metadata=told)
    return file


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [({"dataset": "digits"}, "eps it was trained with; give --eps"), ({"eps": "0.1"}, "dataset it was trained")],
)
def test_what_a_file_does_not_tell_has_to_be_given(tmp_path, network, metadata, complaint):
    case = replace(CASE, weights=saved(tmp_path, network, **metadata), eps=None, dataset="")
    with pytest.raises(UserError, match=complaint):
        require_network(case)
    require_network(replace(case, eps=0.1, dataset="digits"))


def test_weights_choose_no_place(tmp_path: Path, network: models.Network) -> None:
    weights = saved(tmp_path, network, dataset="npz:/srv/own.npz")
    with pytest.raises(UserError, match=r"trained on npz:/srv/own\.npz, which a weights file alone can't choose"):
        require_network(replace(CASE, weights=weights, dataset=""))
    require_network(replace(CASE, weights=weights, dataset="digits"))


def test_a_network_of_other_classes_is_refused(tmp_path, network):
    case = replace(CASE, weights=saved(tmp_path, network), dataset="digits")
    with pytest.raises(UserError, match="weights for 1 channels and 2 classes: digits has 1 and 10"):
        list(run_case(case, Attacks(), PLAN))


@pytest.mark.parametrize("field", ["subset", "batch_size", "unbroken"])
def test_sizes_are_checked(field):
    with pytest.raises(UserError, match=f"{field}=-1: at least"):
        replace(CASE, **{field: -1})


def attacked(mine: float, theirs: float, problem: str = "", **more: Any) -> dict[str, Any]:
    told = [{"ours": True, "problem": problem, "median": mine}, {"ours": False, "problem": "", "median": theirs}]
    return {"arch": "prn18", "unbroken": False, "rows": told} | more


def test_the_target_is_about_a_network_that_can_be_broken():
    assert figure(document(attacked(2.0, 7.0), attacked(2.0, 1.0, unbroken=True))) == 3.5
    with pytest.raises(AbsentError, match="not comparable"):
        figure(document(attacked(2.0, 7.0, problem="not comparable: so it is")))
    for nothing in (document(), document(attacked(2.0, 7.0, arch="small"))):
        with pytest.raises(AbsentError, match="bench attack --weights tells"):
            figure(nothing)
