"""``fastiseat train``: what it refuses before and while it trains, in one line each."""

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from tiny import SHORT

from fastiseat.engine.algorithm1 import Algorithm1
from fastiseat.pipelines.data import datasets
from fastiseat.pipelines.protocol.base import Split

NULL = "PyObject pointer is null"


class PanicException(BaseException):
    """A panic of a library in Rust, which no ``except Exception`` sees."""


@pytest.mark.parametrize(
    ("out", "complaint"),
    [
        ("file", "file is a file: choose another --out"),
        ("file/run", "cannot write file/run: Not a directory; mend that, or choose another --out"),
        ("/proc/none/run", "cannot write /proc/none/run: No such file or directory"),
        (300 * "x", "File name too long"),
    ],
)
def test_places_that_can_hold_no_run(fastiseat, tmp_path, out, complaint):
    (tmp_path / "file").touch()
    assert complaint in fastiseat("train", *SHORT, "--out", out).complaint


def test_a_directory_that_can_not_be_looked_into(fastiseat, tmp_path, monkeypatch):
    def denied(path):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    (tmp_path / "run").mkdir()
    monkeypatch.setattr(Path, "iterdir", denied)  # root may look anywhere
    assert fastiseat("train", *SHORT, "--out", "run").complaint == "[Errno 13] Permission denied: 'run'"


def test_more_images_a_batch_than_there_are(fastiseat):
    complaint = fastiseat("train", "--batch-size", 101, "--out", "run").complaint
    assert complaint == "batch_size=101: there are 100 training images; use at most that"
    assert not Path("run").exists()


def test_labels_out_of_range(fastiseat, monkeypatch):
    labels = np.full(60, 10)

    def load(_, **places):
        return replace(tiny.data(), test=Split(images=tiny.data().test.images, labels=labels))

    monkeypatch.setattr(datasets, "load", load)
    assert fastiseat("train").complaint == "digits: test label 10 is out of range: labels lie in 0 … 9"


def test_a_run_that_diverges(fastiseat):
    complaint = fastiseat("train", "--lr", 1e9, "--batch-size", 10, "--out", "run").complaint
    assert "in epoch 1, step" in complaint
    assert "training diverged; lower --lr, --lam or --awp-gamma, then start anew" in complaint


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        MemoryError(),
    ],
)
def test_a_machine_without_memory_to_spare(fastiseat, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Algorithm1, "_step", fail)
    complaint = fastiseat("train", *SHORT, "--out", "run").complaint
    assert complaint == (
        "out of memory with batch_size=50: add --amp, or add --checkpoint-blocks, or lower --batch-size or take a "
        "smaller --arch"
    )


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: no"), PanicException(NULL)])
@pytest.mark.parametrize(
    ("place", "told"),
    [
        (
            "fastiseat.checkpoint.directory.to_safetensors",
            "while run/.scratch.",  # the rehearsal, before anything is trained
        ),
        (
            "fastiseat.checkpoint.store.encode",
            "while run/checkpoints/step-000000002.ckpt is written: give the run more",
        ),
        (
            "fastiseat.checkpoint.store.Snapshot",
            "while a checkpoint is copied: give the run more, or take a smaller",
        ),
        ("fastiseat.run.assemble.load_run_data", "while the images are read: give the run more, or fewer images"),
    ],
)
def test_out_of_memory_says_in_what(fastiseat, monkeypatch, place, told, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(place, fail)
    assert fastiseat("train", *SHORT, "--out", "run").complaint.startswith(f"out of memory {told}")


SAID = ["can't start new thread", "Resource temporarily unavailable", "could not create a primitive"]


@pytest.mark.parametrize(
    "error", [MemoryError("Unable to allocate 9 TiB"), PanicException(NULL), *map(RuntimeError, SAID)]
)
def test_out_of_memory_anywhere_is_a_line(fastiseat, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("fastiseat.pipelines.data.prepare.prepare", fail)
    complaint = fastiseat("data", "prepare", "cifar10").complaint
    assert complaint == f"out of memory ({error}): free some, or give this process more"


def test_what_fails_for_want_of_memory_in_a_handler_is_a_line_too(fastiseat, monkeypatch):
    def fail(*_, **__):
        try:
            raise MemoryError
        except MemoryError:
            raise AttributeError("'Logger' object has no attribute '_cache'")  # noqa: B904 -- as an accident has it

    monkeypatch.setattr("fastiseat.pipelines.data.prepare.prepare", fail)
    assert fastiseat("data", "prepare", "cifar10").complaint.startswith("out of memory ('Logger' object has no")


def test_another_panic_keeps_its_traceback(fastiseat, monkeypatch):
    def fail(*_, **__):
        raise PanicException("index out of bounds")

    monkeypatch.setattr("fastiseat.pipelines.data.prepare.prepare", fail)
    with pytest.raises(PanicException):
        fastiseat("data", "prepare", "cifar10")


def test_weights_that_do_not_fit_into_memory_are_no_panic():
    """The library's own prints pages, and derives from BaseException alone."""
    program = (
        "import resource, torch\n"
        "from fastiseat.checkpoint import weights_content\n"
        "model = torch.nn.Linear(8000, 8000)\n"
        "import fastiseat.checkpoint.directory as directory\n"
        "directory.export_state_dict = lambda model: model.state_dict()\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "most = pages * resource.getpagesize() + 400 * 2**20\n"
        "resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))\n"
        "try: weights_content(model, {'epoch': '1'})\n"
        "except MemoryError: print('told')"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("told\n", "")


def test_remedies_that_are_on_are_not_proposed(fastiseat, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Algorithm1, "_step", fail)
    keep = fastiseat("train", *SHORT, "--clean-graph", "keep", "--out", "run").complaint
    assert "add --amp, or add --clean-graph recompute, or add --checkpoint-blocks, or lower --batch-size" in keep
    flags = ["--amp", "--checkpoint-blocks", "--clean-graph", "recompute"]
    complaint = fastiseat("train", *SHORT, *flags, "--out", "other").complaint
    assert complaint == "out of memory with batch_size=50: lower --batch-size or take a smaller --arch"


def test_a_defect_keeps_its_traceback(fastiseat, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a defect")

    monkeypatch.setattr(Algorithm1, "_step", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        fastiseat("train", *SHORT, "--out", "run")


@pytest.mark.parametrize(
    ("device", "complaint"),
    [
        ("gpu", "device 'gpu': cpu, cuda, cuda:N or auto is needed"),
        ("meta", "device 'meta': training runs on cpu and cuda; use one of them or auto"),
        ("cuda:9", "device 'cuda:9': this machine shows [0-9] GPUs; use cpu or auto"),
    ],
)
def test_devices_that_are_not_here(fastiseat, device, complaint):
    found = fastiseat("train", *SHORT, "--device", device, "--out", "run").complaint
    assert found == complaint.replace("[0-9]", str(torch.cuda.device_count()))


@pytest.mark.parametrize(
    ("kernels", "complaint"),
    [("nativ", "did you mean native?"), ("triton", "FASTISEAT_KERNELS=triton cannot serve augment")],
)
def test_kernels_that_can_not_be_had_leave_no_run_behind(fastiseat, tmp_path, monkeypatch, kernels, complaint):
    monkeypatch.setenv("FASTISEAT_KERNELS", kernels)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert complaint in fastiseat("train", *SHORT, "--device", "cpu", "--out", "run").complaint
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file()]


REFUSED = [
    ["--on-nan", "pray"],
    ["--keep", "0"],
    ["--checkpoint-every", "often"],
    ["--device", "cuda:9"],
    ["--device", "meta"],
    ["--out", "file"],
    ["--out", "file/run"],
    ["--out", "full"],
    ["--out", "circle"],
    ["--out", "/proc/run"],
    ["--batch-size", "101"],
    ["--data-dir", "nowhere", "--dataset", "cifar10"],
    ["--dataset", "npz:nowhere"],
    ["--extra", "nowhere"],
    ["--init", "nowhere"],
    ["--method", "hat", "--standard", "nowhere"],
    ["--method", "hat", "--standard", "file"],
    ["--loader", "residnet"],
    ["--loader", "ffcv"],
    ["--loader", "dali"],
    ["--augment", "idbh-cifar10-weak"],
    ["--crop-padding", "8", "--padding-mode", "reflect"],
    ["--images", "jpeg"],
    ["--images", "jpeg", "--loader", "resident", "--dataset", "tinyimagenet"],
    ["--device", "cpu", "--engine", "graph"],
    ["--device", "cpu", "--optimizer", "apex"],
    ["--loader", "resident"],
]


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_a_dry_run_is_refused_what_the_run_would_be(fastiseat, tmp_path, monkeypatch, words):
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis").touch()
    (tmp_path / "circle").symlink_to("circle")
    for library in ("ffcv.loader", "nvidia.dali"):
        monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setattr("fastiseat.pipelines.loaders.choose.free_bytes", lambda device: 10)
    out = () if "--out" in words else ("--out", "run")
    words = [*SHORT, *words]
    before = sorted(tmp_path.rglob("*"))
    assert fastiseat("train", *words, *out, "--dry-run").complaint == fastiseat("train", *words, *out).complaint
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_ranks_are_refused_either_way(fastiseat, monkeypatch, dry):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert fastiseat("train", *SHORT, *dry).complaint.startswith("WORLD_SIZE=2")


def test_a_dry_run_tells_what_a_device_would_emulate(fastiseat, monkeypatch):
    monkeypatch.setattr("fastiseat.run.beforehand.precision_for_amp", lambda device: "full")
    words = ("train", *SHORT, "--amp", "--device", "cpu", "--dry-run")
    assert "training in float32" in fastiseat(*words).err
    assert "would emulate it" in fastiseat(*words, "--amp-dtype", "bf16").err


def test_a_dry_run_looks_at_extra_images_of_a_release_that_is_not_here(fastiseat, tmp_path):
    words = ("train", "--dataset", "svhn", "--data-dir", tmp_path, "--extra", "extra.npz", "--dry-run")
    assert fastiseat(*words).code == 0
    (tmp_path / "extra.npz").write_bytes(b"no images")
    assert "extra data is RST's pickle" in fastiseat(*words).complaint
