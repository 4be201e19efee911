"""Files are complete or absent, and none is overwritten unasked."""

import errno
import hashlib
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastiseat import lock
from fastiseat.errors import UserError
from fastiseat.export import FORMATS, export
from fastiseat.export import killed as killed_exports
from fastiseat.export.killed import held


@pytest.fixture
def broken(monkeypatch):
    """Make a part of a format do something else."""

    def put(to, **parts):
        monkeypatch.setitem(FORMATS, to, replace(FORMATS[to], **parts))

    return put


def visible():
    return sorted(str(path) for path in Path().iterdir() if path.name != "from")


def test_a_file_and_its_card_appear_and_nothing_else(source):
    exported = export(source(), "safetensors", Path("net.safetensors"))
    assert visible() == ["net.safetensors", "net.safetensors.md"] == sorted(map(str, exported.files))
    assert Path("net.safetensors").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    "forward",
    [lambda images: torch.zeros(len(images), 10), lambda images: torch.full((len(images), 10), torch.nan)],
)
def test_a_file_that_computes_something_else_is_refused_and_removed(source, broken, forward):
    broken("safetensors", load=lambda path, source: forward)
    with pytest.raises(UserError, match="the file's logits differ from the source's by"):
        export(source(), "safetensors", Path("net.safetensors"))
    assert visible() == []


def test_a_small_difference_is_told(source, broken):
    network = source()
    broken("safetensors", load=lambda path, source: lambda images: source.model(images) * (1 + 1e-5))
    assert 0 < export(network, "safetensors", Path("net.safetensors")).difference < 1e-4
    broken("safetensors", load=lambda path, source: lambda images: source.model(images) * (1 + 3e-4))
    with pytest.raises(UserError, match="differ"):
        export(network, "safetensors", Path("net.safetensors"), force=True)


def test_a_network_of_no_finite_numbers_is_refused(source):
    network = source()
    with torch.no_grad():
        network.model.linear.bias[3] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        export(network, "robustbench", Path("net.pt"))
    assert visible() == []


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_whatever_stops_it_nothing_is_left(source, broken, error):
    def fail(path, source):
        raise error

    broken("safetensors", load=fail)
    with pytest.raises((UserError, KeyboardInterrupt)) as caught:
        export(source(), "safetensors", Path("net.safetensors"))
    assert isinstance(caught.value, KeyboardInterrupt) or "cannot write net.safetensors: No space" in str(
        caught.value
    )
    assert visible() == []


def test_a_folder_that_can_not_be_written_is_named(source, monkeypatch):
    def refuse(*args, **more):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    network = source()
    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(UserError, match=r"cannot write net.pt2: Permission denied; .* --out"):
        export(network, "torch-export", Path("net.pt2"))


@pytest.mark.parametrize("name", ["net.safetensors", "net.safetensors.md"])
def test_existing_files_stay_without_force(source, name):
    network = source()
    Path(name).write_text("mine")
    with pytest.raises(UserError, match=f"^{name} exists: .* --force"):
        export(network, "safetensors", Path("net.safetensors"))
    assert visible() == [name]
    assert Path(name).read_text() == "mine"
    export(network, "safetensors", Path("net.safetensors"), force=True)
    assert Path(name).read_bytes() != b"mine"


def test_the_file_of_plain_networks_serves_many(source):
    network = source()
    export(network, "robustbench", Path("one.pt"))
    export(network, "robustbench", Path("two.pt"))
    Path("plain_networks.py").write_text("mine")
    with pytest.raises(UserError, match=r"plain_networks.py exists and is another one"):
        export(network, "robustbench", Path("three.pt"))
    assert not Path("three.pt").exists()


@pytest.mark.parametrize(
    ("out", "complaint"),
    [
        ("net.pt", "--out net.pt: a file of --to onnx ends in .onnx; name it net.onnx"),
        (
            "nowhere/net.onnx",
            "--out nowhere/net.onnx: there is no folder nowhere; make it, or choose another --out",
        ),
    ],
)
def test_names_that_can_not_be_meant(source, out, complaint):
    with pytest.raises(UserError) as caught:
        export(source(), "onnx", Path(out))
    assert str(caught.value) == complaint


@pytest.mark.parametrize("to", FORMATS)
def test_a_name_that_is_no_utf_8_is_refused_before_anything_is_made(source, to):
    for place in (b"caf\xe9/net", b"caf\xe9"):
        with pytest.raises(UserError, match=r"out='caf\\udce9.*has bytes that are no UTF-8"):
            export(source(), to, Path(os.fsdecode(place) + FORMATS[to].suffix))
    assert visible() == []


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(source, monkeypatch, missing):
    network = source()
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=rf"needs .*{missing}.*: pip install 'fastiseat\[onnx\]'"):
        export(network, "onnx", Path("net.onnx"))
    assert visible() == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, None])
def test_without_locks_or_where_others_are_not_seen_age_tells(source, monkeypatch, number):
    """``number`` None: on a file system where another machine's lock may count for nothing."""

    def flock(file, operation):
        if number is not None:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    monkeypatch.setattr(killed_exports, "is_local", lambda folder: False)
    old, young = Path(".net.safetensors.abc.tmp"), Path(".net.safetensors.def.tmp")
    for folder in (old, young):
        folder.mkdir()
        (folder / "lock").touch()
    os.utime(old, (0, 0))
    export(source(), "safetensors", Path("net.safetensors"))
    assert not old.exists() and young.exists()


def test_an_export_that_was_killed_before_its_file_is_done_again(source):
    network = source()
    export(network, "safetensors", Path("net.safetensors"))
    whole = {name: Path(name).read_bytes() for name in visible()}
    Path("net.safetensors").unlink()
    export(network, "safetensors", Path("net.safetensors"))
    assert {name: Path(name).read_bytes() for name in visible()} == whole


def test_what_a_killed_export_left_is_swept_and_what_another_is_writing_stays(source):
    old, young = Path(".net.safetensors.abc.tmp"), Path(".net.safetensors.def.tmp")
    for folder in (old, young):
        folder.mkdir()
        (folder / "net.safetensors").write_bytes(bytes(1000))
    os.utime(old, (0, 0))
    export(source(), "safetensors", Path("net.safetensors"))
    assert not old.exists() and young.exists()


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture
def killed(monkeypatch):
    """An export that ends, with nothing cleaned up, before a file gets its name."""
    honest = Path.replace

    def run(network, before, to="safetensors", *, force=True):
        def replace(file, to):
            if to == Path(before):
                raise Killed
            return honest(file, to)

        out = Path(f"net{FORMATS[to].suffix}")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace)
            patch.setattr("tempfile.TemporaryDirectory.cleanup", lambda folder: folder._finalizer.detach())
            with pytest.raises(Killed):
                export(network, to, out, force=force)

    return run


@pytest.mark.parametrize(("before", "left"), [("net.safetensors.md", 0), ("net.safetensors", 1)])
@pytest.mark.parametrize("same", [True, False])
def test_a_killed_export_is_no_obstacle_to_the_next(source, killed, before, left, same):
    network = source()
    killed(network, before, force=False)
    assert len([name for name in visible() if not name.startswith(".")]) == left
    export(network if same else source(classes=3), "safetensors", Path("net.safetensors"))
    assert visible() == ["net.safetensors", "net.safetensors.md"] and speaks_of("net.safetensors")


@pytest.fixture
def two(source):
    """Another network in net.safetensors, with its card; and the network that is to take its place."""
    export(source(classes=3), "safetensors", Path("net.safetensors"))
    return source()


def speaks_of(file):
    """Whether the card beside a file, if there is one, is its."""
    card = Path(f"{file}.md")
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() in card.read_text() if card.exists() else None


@pytest.mark.parametrize("before", ["net.safetensors", "net.safetensors.md"])
def test_no_card_lies_beside_a_file_that_it_does_not_speak_of(two, killed, before):
    old = Path("net.safetensors").read_bytes()
    killed(two, before)
    assert speaks_of("net.safetensors") is None
    assert (Path("net.safetensors").read_bytes() == old) == (before == "net.safetensors")
    with pytest.raises(UserError, match=r"^net.safetensors exists"):
        export(two, "safetensors", Path("net.safetensors"))
    assert speaks_of("net.safetensors") is (None if before == "net.safetensors" else True), (
        "the card is made up for"
    )
    export(two, "safetensors", Path("net.safetensors"), force=True)
    assert visible() == ["net.safetensors", "net.safetensors.md"] and speaks_of("net.safetensors")


def test_the_card_of_a_killed_export_is_not_that_of_another_file(two, killed):
    killed(two, "net.safetensors.md")
    Path("net.safetensors").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"^net.safetensors exists"):
        export(two, "safetensors", Path("net.safetensors"))
    assert visible() == ["net.safetensors"]


def test_what_lies_beside_a_file_comes_with_it(source, killed):
    network = source()
    for before in ("plain_networks.py", "net.pt.md", "net.pt"):
        killed(network, before, to="robustbench")
    export(network, "robustbench", Path("net.pt"))
    assert visible() == ["net.pt", "net.pt.md", "plain_networks.py"]


def test_a_card_that_was_changed_stays(source, killed):
    network = source()
    killed(network, "net.safetensors", force=False)
    Path("net.safetensors.md").write_text("mine")
    with pytest.raises(UserError, match=r"^net.safetensors.md exists"):
        export(network, "safetensors", Path("net.safetensors"))
    assert visible() == ["net.safetensors.md"]


def test_the_folder_of_an_export_at_work_stays(source):
    folder = Path(".net.safetensors.abcdefgh.tmp")
    folder.mkdir()
    with held(folder):
        export(source(), "safetensors", Path("net.safetensors"))
    assert folder.is_dir()
    export(source(), "safetensors", Path("net.safetensors"), force=True)
    assert not folder.exists()
