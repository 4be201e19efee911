"""Whose a checkpoint and a weights file are, and that they are what was written: by digests, types and checksums."""

import copy
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

from fastiseat.checkpoint import DIGESTS, RUN, WEIGHTS, RunDirectory, as_json, digest, digests
from fastiseat.checkpoint.fileformat import ForeignError
from fastiseat.checkpoint.recorded import SHA256, require_recorded
from fastiseat.checkpoint.store import Checkpoints
from fastiseat.cli.target import weights_file
from fastiseat.errors import UserError
from fastiseat.report.reader import read_metrics
from fastiseat.run import loop, resume, scores
from fastiseat.run.trainer import Trainer


@pytest.fixture(autouse=True)
def few_digits(monkeypatch):
    tiny.install(monkeypatch)


def config(seed=0, **more):
    return tiny.config("none", epochs=3, run={"seed": seed, "final_steps": 0}, **more)


def trainer(out, seed=0, **more):
    return Trainer(config(seed), out, device=tiny.CPU, **{"observer": tiny.Watcher(), "keep": 3} | more)


def interrupted(out, epoch, seed=0, **more):
    def stop(row):
        if row["epoch"] == epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(out, seed, observer=tiny.Watcher(on_epoch=stop), **more).run()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Finished runs of seeds 0 and 1 with the checkpoints of all epochs, and seed 0's stopped after the second."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        tiny.install(patch)
        for seed in (0, 1):
            trainer(folder / str(seed), seed).run()
        interrupted(folder / "stopped", 1)
    return folder


@pytest.fixture
def run(runs, tmp_path):
    """A copy of one of them."""
    return lambda name, to="run": Path(shutil.copytree(runs / name, tmp_path / to))


def content(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}


def checkpoint(run, step):
    return run / "checkpoints" / f"step-{step:09d}.ckpt"


def result(run):
    files = [*WEIGHTS.values(), "results.json"]
    return [(run / name).read_bytes() for name in files], tiny.without_clocks(read_metrics(run))


def edit(path, change):
    stored = json.loads(path.read_text())
    change(stored)
    path.write_text(json.dumps(stored))


# Whose run it is.


def test_a_digest_tells_settings_and_files_apart_and_not_where_they_lie():
    def of(*, data_fingerprint="a", **settings):
        chosen = replace(config(), **settings)
        return digest(as_json(chosen), {"data_fingerprint": data_fingerprint, "started": object()})

    plain, data, objective = of(), config().data, config().objective
    assert plain == of() and len(plain) == 64
    assert of(data=replace(data, extra=Path("/a"))) == of(data=replace(data, extra=Path("/b"))) == plain
    assert of(objective=replace(objective, standard=Path("/a"))) == plain
    assert of(data=replace(data, dataset="npz:/a")) == of(data=replace(data, dataset="npz:/b")) != plain
    others = [of(run=config(1).run), of(data=replace(data, batch_size=51)), of(data_fingerprint="b")]
    assert len({plain, *others}) == 4


def test_every_file_of_a_run_tells_whose_it_is(runs):
    own = [digests(RunDirectory(runs / str(seed)).stored()) for seed in (0, 1)]
    assert [len(each) for each in own] == [1, 1] and own[0] != own[1]
    assert RunDirectory(runs / "stopped").checkpoints.latest().state[RUN] == own[0][0]
    for name in WEIGHTS.values():
        header = (runs / "0" / name).read_bytes()
        assert own[0][0].encode() in header
    assert digests(RunDirectory(runs / "stopped").stored()) == own[0]


@pytest.mark.parametrize("wrong", [5, [], ["x"], [None], ["a" * 64, 3], "a" * 64, {}])
def test_digests_that_are_none_are_refused(run, wrong):
    out = run("stopped")
    edit(out / "config.json", lambda stored: stored.update({DIGESTS: wrong}))
    with pytest.raises(UserError, match="run_digests are not digests of SHA-256: restore the file"):
        trainer(out, resume=True)


def test_another_seeds_checkpoints_are_passed_over_and_stay(run, runs):
    out = run("stopped")
    shutil.copy(checkpoint(runs / "1", 6), checkpoint(out, 6))
    shutil.copy(checkpoint(runs / "1", 4), checkpoint(out, 5))
    before, watcher = checkpoint(out, 6).read_bytes(), tiny.Watcher()
    resumed = trainer(out, resume=True, observer=watcher)
    assert resumed.step.steps_taken == 4
    own, other = (digests(RunDirectory(runs / name).stored())[0][:12] for name in "01")
    assert watcher.said == [
        f"{checkpoint(out, 6)} is not of this run: it is of run {other}, here is {own}",
        f"{checkpoint(out, 5)} is damaged: it was written after 4 steps, unlike its name",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", lambda *_, **__: None)
        resumed.run()
    assert checkpoint(out, 6).read_bytes() == before, "it may be all that the other run has"
    assert result(out) == result(runs / "0")


def test_where_all_are_another_runs_it_is_refused_and_nothing_is_written(run, runs):
    out = run("stopped")
    shutil.rmtree(out / "checkpoints")
    shutil.copytree(runs / "1" / "checkpoints", out / "checkpoints")
    before = content(out)
    with pytest.raises(UserError, match=r"is of run .*; bring the run's own back, or remove .*checkpoints to"):
        trainer(out, resume=True)
    assert content(out) == before


def test_what_was_made_before_settings_changed_remains_the_runs(run):
    """Also where the run is killed between ``config.json`` and its next checkpoint."""
    out, other = run("stopped"), replace(config(), optimizer=replace(config().optimizer, lr=0.03))

    def stop(epoch, step):
        raise KeyboardInterrupt

    def resumed(**more):
        return Trainer(other, out, device=tiny.CPU, resume=True, **{"observer": tiny.Watcher()} | more)

    with pytest.raises(KeyboardInterrupt):
        resumed(resume_anyway=True, observer=tiny.Watcher(on_step=stop)).run()
    before, after = digests(RunDirectory(out).stored())
    assert before == digest(as_json(config()), RunDirectory(out).stored()) != after
    weights_file(out, "best")
    going_on = resumed()
    assert going_on.step.steps_taken == 4 and going_on.observer.said == []
    going_on.run()
    assert RunDirectory(out).checkpoints.latest().state[RUN] == after
    assert digests(RunDirectory(out).stored()) == [before, after]


def test_a_run_of_an_earlier_version_is_taken_as_before(run, runs):
    out = run("stopped")
    edit(out / "config.json", lambda stored: stored.pop(DIGESTS))
    store = RunDirectory(out).checkpoints
    state = store.latest().state
    del state[RUN]
    for row in state["rows"]:
        del row[SHA256]
    store.save(state, step=4)
    store.close()
    watcher = tiny.Watcher()
    trainer(out, resume=True, observer=watcher).run()
    assert watcher.said == []
    assert result(out)[0][1] == result(runs / "0")[0][1]
    assert digests(RunDirectory(out).stored()) == digests(RunDirectory(runs / "0").stored())


# What a checkpoint holds.

JUNK = [
    None, True, -3, 1.5, 10**400, math.nan, -math.inf, "x\x1b[2J", [], [[1]], {}, {"a": {}}, torch.zeros(2, 3),
    torch.tensor(math.nan), torch.zeros(1).to_sparse(), torch.zeros(2, dtype=torch.complex64),
    torch.zeros(2, device="meta"),
]  # fmt: skip


def places(state, path=()):
    """Of every entry, however deep, as (holder, name, path)."""
    items = [*state.items()] if isinstance(state, dict) else [*enumerate(state)] if isinstance(state, list) else []
    for name, value in items:
        yield state, name, (*path, name)
        yield from places(value, (*path, name))


def refusal(expected, state):
    try:
        expected.check(state, 4)
    except ForeignError as error:
        return str(error)
    return None


@pytest.fixture
def expected(run):
    """What the checkpoints of the stopped run must hold, and one that was written in its second epoch."""
    out = run("stopped")
    trained = trainer(out, resume=True)
    state = copy.deepcopy(trained.directory.checkpoints.latest().state)
    state["rows"].pop()
    metrics = {"loss": torch.ones(2), "accuracy_clean": torch.ones(2), "av": torch.ones(2, 50)}
    # Of the network a convolution and what counts batches; all of them take seconds.
    names = ("conv1.weight", next(name for name in state["model"] if name.endswith("num_batches_tracked")))
    few = {name: state["model"][name] for name in names}
    momentum = {"conv1.weight": state["step"]["momentum_buffers"]["conv1.weight"]}
    state |= {"meter": metrics, "model": few, "step": state["step"] | {"momentum_buffers": momentum}}
    return replace(resume.expected(trained), model=dict(few)), state


def test_every_entry_is_looked_at(expected):
    expected, good = expected
    expected.check(good, 4)
    expected.check(good, None)
    taken, refused = set(), []
    for holder, name, path in [*places(good)]:
        before = holder[name]
        for junk in JUNK:
            holder[name] = junk
            if (said := refusal(expected, good)) is None:
                taken.add((path[0], *path[2:]))
            else:
                refused.append(said)
        holder[name] = before
    assert len(refused) > 400 and all(map(str.isprintable, refused))
    # Nothing goes on from a measured value. Else: 1.5 seconds, no digest, no metrics, no momentum.
    measured = {("rows", name) for name in good["rows"][0]} - {("rows", "epoch"), ("rows", "steps")}
    parts = {("rows", name, number) for _, name in measured for number in range(20)}
    assert taken <= measured | parts | {("seconds",), ("run",), ("meter",), ("step", "scale"), ("step",)}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state["step"].update(steps_taken=-3),
        lambda state: state["step"].update(steps_taken=5),
        lambda state: (state["step"].update(steps_taken=3), state["meter"].clear()),
        lambda state: state["step"].update(steps_taken=True),
        lambda state: state["step"].update(steps_taken=torch.tensor(4)),
        lambda state: state["step"].update(steps_taken=10**30),
        lambda state: state["step"]["loss_scale"].update(good_steps=10**30),
        lambda state: state["step"]["momentum_buffers"].update(x=torch.zeros(1)),
        lambda state: state["rows"][0].update(steps=-1),
        lambda state: state["rows"][0].update(steps=10**30),
        lambda state: state["rows"][0].update(epoch=1),
        lambda state: state["rows"][0].update(test_pgd10=math.nan),
        lambda state: state["rows"][0].update({3: 1}),
        lambda state: state["rows"].append({}),
        lambda state: state["rows"].clear(),
        lambda state: state["model"].update(x=torch.zeros(1)),
        lambda state: state["model"].pop("conv1.weight"),
        lambda state: state["model"].update({"conv1.weight": state["model"]["conv1.weight"] * math.nan}),
        lambda state: state["model"].update({"conv1.weight": state["model"]["conv1.weight"].double()}),
        lambda state: state["meter"].update(loss=torch.ones(3)),
        lambda state: state["meter"].update(loss=torch.ones(2, 1)),
        lambda state: state["meter"].update(loss=torch.ones(2, dtype=torch.int64)),
        lambda state: state["meter"].update(loss=torch.ones(1).expand(2)),
        lambda state: state.update(rollbacks=4),
        lambda state: state.update(seconds=math.inf),
        *(lambda state, name=name: state.pop(name) for name in ("model", "step", "rows")),
        lambda state: state.clear(),
    ],
)
def test_odd_contents_with_a_valid_checksum_are_refused(expected, spoil):
    expected, state = expected
    state = copy.deepcopy(state)
    spoil(state)
    with pytest.raises(ForeignError):
        expected.check(state, 4)


def test_one_of_odd_content_is_passed_over_for_the_one_before(run, runs):
    out = run("stopped")
    store = RunDirectory(out, keep=3).checkpoints
    state = store.latest().state
    state["step"]["steps_taken"] = -3
    store.save(state, step=4)
    store.close()
    watcher = tiny.Watcher()
    trainer(out, resume=True, observer=watcher).run()
    assert watcher.said[0] == f"{checkpoint(out, 4)} is not of this run: steps_taken=-3: must be at least 0"
    assert result(out) == result(runs / "0")


# Weights are what was recorded.


def test_what_was_recorded_is_in_metrics_and_results(run):
    out = run("0")
    rows = {which: row for row in read_metrics(out) for which in WEIGHTS if row["best"] or which == "last"}
    for found in json.loads((out / "results.json").read_text()):
        assert found[SHA256] == rows[found["weights"]][SHA256]
        require_recorded(out / WEIGHTS[found["weights"]])


def older(out, runs):
    """``last`` of the second epoch, which the first run's second checkpoint still had."""
    shutil.copy(runs / "stopped" / WEIGHTS["last"], out / WEIGHTS["last"])


def another_runs(out, runs):
    shutil.copy(runs / "1" / WEIGHTS["last"], out / WEIGHTS["last"])


def flipped(out, runs):
    content = bytearray((out / WEIGHTS["last"]).read_bytes())
    content[-5] ^= 1
    (out / WEIGHTS["last"]).write_bytes(content)


def emptied(out, runs):
    (out / WEIGHTS["last"]).write_bytes(b"")


def gone(out, runs):
    (out / WEIGHTS["last"]).unlink()


WRONG = {
    older: "is of epoch 2, and its run's last weights are of epoch 3",
    another_runs: "is of another run, [0-9a-f]{12}; its folder's is [0-9a-f]{12}",
    flipped: "is not what its run wrote: SHA-256 [0-9a-f]{12}, and metrics.jsonl has [0-9a-f]{12}",
}


@pytest.mark.parametrize("spoil", WRONG)
def test_other_weights_than_were_recorded_are_refused_by_every_command(run, runs, spoil):
    out = run("0")
    spoil(out, runs)
    told = rf"{WEIGHTS['last']} {WRONG[spoil]}: restore it, have it restored by fastiseat train --out .* --resume, or "
    for target in (out, out / WEIGHTS["last"]):
        with pytest.raises(UserError, match=told):
            weights_file(target, "last")
    copied = shutil.copy(out / WEIGHTS["last"], out.parent)
    assert weights_file(Path(copied), "last") == Path(copied)


@pytest.mark.parametrize("spoil", [older, another_runs, flipped, emptied, gone])
def test_resuming_restores_last_from_its_checkpoint(run, runs, spoil):
    out, watcher = run("0"), tiny.Watcher()
    spoil(out, runs)
    trainer(out, resume=True, observer=watcher).run()
    told = f"{out / WEIGHTS['last']} was not what epoch 3 wrote: restored from {checkpoint(out, 6)}"
    assert watcher.said == [told]
    assert result(out) == result(runs / "0")


def test_best_is_restored_while_its_checkpoint_is_kept_and_else_missed(run, runs):
    out = run("0")
    best = [row["epoch"] for row in read_metrics(out) if row["best"]][-1]
    (out / WEIGHTS["best"]).write_bytes(b"")
    trainer(out, resume=True).run()
    assert result(out) == result(runs / "0")
    (out / WEIGHTS["best"]).write_bytes(b"")
    checkpoint(out, 2 * (best + 1)).unlink()
    if best == 2:  # the run goes on from the second epoch, and writes it again
        trainer(out, resume=True).run()
        assert result(out) == result(runs / "0")
    else:
        with pytest.raises(
            UserError, match=rf"best.* is not what epoch {best + 1} wrote, and no checkpoint holds"
        ):
            trainer(out, resume=True).run()


def test_a_best_that_nobody_can_restore_is_given_up_on_request(run, monkeypatch):
    out, watcher = run("stopped"), tiny.Watcher()
    (out / WEIGHTS["best"]).unlink()
    monkeypatch.setattr(Checkpoints, "of_step", lambda *_: None)
    before = content(out)
    with pytest.raises(UserError, match=r"restore the file from a copy, or take the best .* by --resume-anyway"):
        trainer(out, resume=True).run()
    assert content(out) == before
    resumed = trainer(out, resume=True, resume_anyway=True, observer=watcher)
    monkeypatch.setattr(scores, "score", lambda run, row: 1.0 if row["epoch"] < 2 else 0.0)
    results = resumed.run()
    assert watcher.said == [
        f"{out / WEIGHTS['best']} is not what its epoch wrote, and no checkpoint holds it: the best is one of the "
        "epochs to come"
    ]
    assert [row["best"] for row in read_metrics(out)] == [False, False, True]
    assert [found["epoch"] for found in results] == [2, 2]


def test_a_damaged_last_is_written_again_where_its_checkpoint_is_gone(run, runs, monkeypatch):
    out, watcher = run("stopped"), tiny.Watcher()
    (out / WEIGHTS["last"]).write_bytes(b"")
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "of_step", lambda *_: None)
        trainer(out, resume=True, observer=watcher).run()
    told = "is not what epoch 2 wrote, and no checkpoint holds that: the epoch under way writes it again"
    assert watcher.said == [f"{out / WEIGHTS['last']} {told}"]
    assert result(out) == result(runs / "0")


def test_a_kill_between_weights_and_their_record_is_no_alarm(run, runs, monkeypatch):
    """And where the epoch comes out otherwise the second time, the best weights are still those of a row."""
    out = run("stopped")

    def stop(run):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "write_checkpoint", stop)
        patch.setattr(scores, "score", lambda run, row: row["epoch"])
        with pytest.raises(KeyboardInterrupt):
            trainer(out, resume=True).run()
    assert len(read_metrics(out)) == 2
    for which in WEIGHTS:
        weights_file(out, which)
    again = Path(shutil.copytree(out, out.with_name("again")))
    watcher = tiny.Watcher()
    with monkeypatch.context() as patch:
        patch.setattr(scores, "score", lambda run, row: row["epoch"])
        trainer(out, resume=True, observer=watcher).run()
    assert watcher.said == []
    trained = trainer(again, resume=True, observer=watcher)
    best = [row["epoch"] for row in trained.rows if row["best"]][-1]
    monkeypatch.setattr(scores, "score", lambda run, row: -row["epoch"] if row["epoch"] > best else 1)
    results = trained.run()
    told = f"{again / WEIGHTS['best']} was not what epoch {best + 1} wrote: restored from "
    assert watcher.said == [f"{told}{checkpoint(again, 2 * best + 2)}"]
    assert results[0]["epoch"] == best
