"""Whatever lies in the place of a file that is read, its reader ends at once, and opens nothing but by the one door."""

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from source_kinds import KINDS
from tiny_releases import pixels
from tiny_releases import python2_pickle as pickled

from fastiseat.bench import results as bench_results
from fastiseat.checkpoint import WEIGHTS, RunDirectory
from fastiseat.cli.train.config_file import read_settings
from fastiseat.errors import UserError
from fastiseat.evaluation.verdicts import records
from fastiseat.evaluation.verdicts.ensemble_state import EnsembleState
from fastiseat.export import read_source as read_export
from fastiseat.models import build, metadata, read_weights
from fastiseat.pipelines.data.changes import reader as digests
from fastiseat.pipelines.data.formats.extra import read_extra
from fastiseat.pipelines.data.freshness import read_record
from fastiseat.pipelines.data.prepare import prepare
from fastiseat.pipelines.data.prepare_encoded import prepare_encoded
from fastiseat.pipelines.data.readers import read_source
from fastiseat.pipelines.protocol.progress import SILENT
from fastiseat.pipelines.stores.beton import Beton, write_beton
from fastiseat.pipelines.stores.encoded_store import EncodedStore
from fastiseat.pipelines.stores.store import Store
from fastiseat.recipes import recipe
from fastiseat.report.reader import read_metrics

SECONDS = 5
HUGE = 2**40


def fifo(file):
    file.unlink()
    os.mkfifo(file)


def a_socket(file):
    file.unlink()
    with contextlib.chdir(file.parent), socket.socket(socket.AF_UNIX) as end:  # a socket's path is short
        end.bind(file.name)


def device(file):
    file.unlink()
    file.symlink_to("/dev/zero")


def folder(file):
    file.unlink()
    file.mkdir()


def huge(file):
    """It begins as it should, and claims a terabyte."""
    os.truncate(file, HUGE)


@contextmanager
def at_once():
    def stop(number, frame):
        raise AssertionError("it waits, or reads for ever")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def replaced(file, put):
    """``file`` replaced by what ``put`` makes of it."""
    kept = file.read_bytes()
    put(file)
    yield
    shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink()
    file.write_bytes(kept)


@dataclass(frozen=True)
class Case:
    """Files, and their reader."""

    files: list
    read: object


def run_of(root):
    run = RunDirectory(root)
    run.write_config(recipe(), {"data_fingerprint": "f"})
    run.write_metrics([{"epoch": 0, "loss": 0.1}])
    run.write_results([{"weights": "best", "epoch": 0, "accuracy": {"clean": 0.5}}])
    model = build("small")
    run.write_weights("best", model, metadata(model.spec, epoch="0"))
    return run


def settings(root):
    run_of(root)
    return Case([root / "config.json"], lambda: read_settings(root / "config.json"))


def stored(root):
    return Case([root / "config.json"], run_of(root).stored)


def metrics(root):
    run_of(root)
    return Case([root / "metrics.jsonl"], lambda: read_metrics(root))


def exported(root):
    run_of(root)
    weights = root / WEIGHTS["best"]
    return Case([weights, root / "results.json", root / "config.json"], lambda: read_export(weights, run=root))


def verdicts(root):
    ensemble_state = EnsembleState(**{name: np.zeros(2, np.int64) for name in ("broken_by", "part", "round")})
    ensemble_state.part[:] = 1
    facts = {"samples": 2}
    record = records.Record(facts=facts, made={}, parts=("pgd",), ensemble_state=ensemble_state)
    record.save(root / "evaluations" / "a.json")
    return Case([root / "evaluations" / "a.json"], lambda: records.read(root / "evaluations" / "a.json"))


def checkpoint(root):
    checkpoints = RunDirectory(root).checkpoints
    checkpoints.save({"rows": []}, step=7)
    checkpoints.close()
    return Case(list(checkpoints.folder.iterdir()), checkpoints.latest)


def early_checkpoint(root):
    checkpoints = RunDirectory(root).checkpoints
    checkpoints.folder.mkdir(parents=True)
    torch.save({"rows": []}, checkpoints.folder / "last.pt")
    return Case(list(checkpoints.folder.iterdir()), checkpoints.latest)


def torch_file(root, *, is_zip):
    root.mkdir()
    state = build("small").state_dict()
    torch.save(state, root / "w.pt", _use_new_zipfile_serialization=is_zip)
    return Case([root / "w.pt"], lambda: read_weights(root / "w.pt"))


def arrays(root):
    np.savez(root.parent / "own.npz", x_train=pixels(4, 8, seed=0), y_train=np.arange(4) % 2,
             x_test=pixels(4, 8, seed=1), y_test=np.arange(4) % 2)  # fmt: skip
    store = prepare(f"npz:{root.parent / 'own.npz'}", data_dir=made(root))
    files = [file for file in store.path.iterdir() if file.name != "source.json"]
    return Case(files, lambda: present(Store.at(store.path)).open())


def listed(root):
    case = arrays(root)
    file = case.files[0].with_name("source.json")

    def read():
        if read_record(file.parent) is None:
            raise UserError("nothing is known")

    return Case([file], read)


def jpeg_files(root):
    KINDS["imagefolder"].place(made(root))
    store = prepare_encoded(KINDS["imagefolder"].named(root), data_dir=root)
    return Case(list(store.path.iterdir()), lambda: present(EncodedStore.at(store.path)).open())


def beton(root):
    store = present(Store.at(arrays(root).files[0].parent))
    write_beton(root / "b.ffcv", store.open().train, name="own", fingerprint="f", progress=SILENT)

    def read():
        present(Beton.at(root / "b.ffcv")).check(name="own", fingerprint="f", kind="packed")

    return Case(list((root / "b.ffcv").iterdir()), read)


def extra(root, *, is_npz):
    file = made(root) / "extra"
    images, labels = pixels(4, 8, seed=0), np.arange(4) % 2
    with file.open("wb") as out:
        if is_npz:
            np.savez(out, image=images, label=labels)
        else:
            out.write(pickled({"data": images, "extrapolated_targets": labels}))
    return Case([file], lambda: read_extra(file, image_shape=images.shape[1:], num_classes=2))


def measured(root):
    (made(root) / "r.json").write_text(json.dumps({"format": bench_results.FORMAT}))
    return Case([root / "r.json"], lambda: bench_results.load(root / "r.json"))


def source(root, kind):
    kind.place(made(root))
    name, _, path = kind.named(root).partition(":")
    place = Path(path) if path else root / kind.source
    inside = sorted(file for file in place.rglob("*") if file.is_file()) if place.is_dir() else [place]

    def read():
        with read_source(name, place, None) as content:
            for split in (content.train, content.test):
                assert sum(map(len, split.blocks())) == len(split.labels)

    return Case(list({file.suffix or file.name: file for file in inside}.values()), read)


def made(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def present(found):
    if found is None:
        raise UserError("it is not there")
    return found


CASES = {
    **{
        make.__name__: make
        for make in (settings, stored, metrics, exported, verdicts, checkpoint, early_checkpoint)
    },
    **{make.__name__: make for make in (arrays, listed, jpeg_files, beton, measured)},
    **{f"torch {is_zip=}": partial(torch_file, is_zip=is_zip) for is_zip in (True, False)},
    **{f"extra {is_npz=}": partial(extra, is_npz=is_npz) for is_npz in (True, False)},
    **{name: partial(source, kind=kind) for name, kind in KINDS.items()},
}


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    return CASES[request.param](tmp_path / "r")


def test_what_is_no_file_or_too_long_is_refused_at_once(case):
    case.read()  # whatever has to be imported
    for file in case.files:
        for put in (fifo, a_socket, device, folder, huge):
            # A data set is whole without its words, and images may lie deeper.
            optional = file.name == "words.txt" or (file.suffix.lower() in (".jpg", ".jpeg") and put is folder)
            refused = suppress(UserError) if optional and put is not huge else pytest.raises((UserError, OSError))
            with replaced(file, put), at_once(), refused:
                case.read()


@pytest.mark.parametrize("name", KINDS)
def test_no_checksum_is_taken_of_what_would_be_refused(tmp_path, name):
    kind = KINDS[name]
    case = source(tmp_path / "r", kind)
    named, _, path = kind.named(tmp_path / "r").partition(":")
    root = Path(path) if path else tmp_path / "r" / kind.source
    for file in case.files:
        with replaced(file, huge), at_once(), suppress(UserError):
            assert (
                digests(named, root, 1, SILENT)(file.name if root.is_file() else str(file.relative_to(root))) == ""
            )


OPENED = []
sys.addaudithook(lambda event, rest: OPENED.append(rest) if event == "open" else None)


def test_whatever_is_read_comes_through_the_door(case):
    OPENED.clear()
    case.read()
    names = {str(file) for file in case.files}
    opened = [(str(path), flags) for path, _, flags in OPENED if str(path) in names]
    assert opened
    assert all(flags & os.O_NONBLOCK for _, flags in opened)


def test_settings_that_never_end(tmp_path):
    with pytest.raises(UserError, match="--config /dev/zero: it is a device, and a file is needed"):
        read_settings(Path("/dev/zero"))
