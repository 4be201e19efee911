"""``fastiseat data``: what it prints, its exit codes, and help that does not wait for torch."""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cpu_time import children_seconds
from home_server import serving
from tiny_releases import write_cifar, write_image_folder, write_tiny_imagenet, zip_tree

from fastiseat.pipelines.data import datasets
from fastiseat.pipelines.protocol.releases import RELEASES


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("COLUMNS", "200")  # so that no path is broken
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("FASTISEAT_DATA", raising=False)
    return folder


@pytest.fixture
def cifar(tmp_path):
    write_cifar(tmp_path / "cifar-10-batches-py")
    return tmp_path


@pytest.fixture
def call(fastiseat):
    return lambda *words: fastiseat("data", *words)


def refusal(call, *words):
    code, out, err = call(*words)
    assert code == 2 and not out
    *_, last = err.splitlines()
    assert last.startswith("fastiseat: error: ")
    return last


def test_prepare_verify_info(call, cifar):
    code, out, err = call("prepare", "cifar10", "--data-dir", cifar)
    store = cifar / "prepared" / "cifar10"
    fingerprint = datasets.load("cifar10", data_dir=cifar).fingerprint
    assert code == 0
    assert out.startswith(f"cifar10 in {store}, fingerprint {fingerprint}, official: no (data_batch_1 has MD5 ")
    assert "cifar10: 20 training and 4 test images of 32×32 in 2 classes; 73.9 kB on the disk, of " in err
    code, out, err = call("prepare", "cifar10", "--data-dir", cifar)
    assert code == 0 and err == "cifar10 is prepared already; --force makes it anew\n"
    code, out, _ = call("verify", "cifar10", "--data-dir", cifar)
    assert code == 0 and out.startswith(f"intact: cifar10 in {store}, fingerprint {fingerprint}, official: no (")
    code, out, _ = call("info", "cifar10", "--data-dir", cifar)
    assert code == 0
    for words in (
        "20 of 32×32×3, 10 a class",
        "4 of 32×32×3, 2 a class",
        "2: class0, class1",
        fingerprint,
        "no (data_batch_1 has MD5",
        str(store),
        str(cifar / "cifar-10-batches-py"),
        "kB",
    ):
        assert words in out, words


def test_verify_finds_damage(call, cifar):
    call("prepare", "cifar10", "--data-dir", cifar)
    file = cifar / "prepared" / "cifar10" / "train_images.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert "damaged: its fingerprint is" in refusal(call, "verify", "cifar10", "--data-dir", cifar)
    assert call("prepare", "cifar10", "--data-dir", cifar, "--force")[0] == 0
    assert call("verify", "cifar10", "--data-dir", cifar)[0] == 0


def test_counts_that_differ_are_told(call, tmp_path):
    write_tiny_imagenet(tmp_path / "t", val=5)
    assert call("prepare", "tinyimagenet", "--source", tmp_path / "t")[0] == 0
    _, out, _ = call("info", "tinyimagenet")
    assert "5 of 64×64×3, 1 to 2 a class" in out and "3: n01443537 goldfish, n01629819, n02124075" in out
    assert "no (3 classes, 9 and 5 images of 64×64; the release has 200 classes, 100,000 and 10,000" in out


def test_image_size(call, tmp_path):
    name = f"imagefolder:{write_image_folder(tmp_path / 'own', size=(12, 9))}"
    assert call("prepare", name, "--image-size", 6)[0] == 0
    _, out, _ = call("info", name)
    assert "4 of 6×6×3, 2 a class" in out and "resized to 6" in out


def test_digits(call):
    for command, words in (("prepare", "used from there"), ("verify", "nothing to verify")):
        code, out, _ = call(command, "digits")
        assert code == 0 and words in out
    code, out, _ = call("info", "digits")
    assert code == 0 and "100 of 8×8×1, " in out and "scikit-learn" in out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["prepare", "cifar10"], "cifar10 is not in"),
        (["prepare", "cifar-10"], "unknown data set 'cifar-10'; did you mean cifar10"),
        (["verify", "cifar10"], "run fastiseat data prepare cifar10"),
        (["verify", "npz:my file.npz"], "run fastiseat data prepare 'npz:my file.npz', "),
        (["info", "cifar10"], "cifar10 is not prepared in"),
        (["info", "imagefolder"], "say where it is: imagefolder:DIR"),
        (["prepare", "svhn", "--source", "/no/where"], "--source /no/where: no such file or folder"),
        (["prepare", "svhn", "--data-dir", "/no/where"], "--data-dir /no/where: no such folder"),
        (["prepare", "npz:/no/where"], "/no/where: no such file or folder; give what npz:PATH is"),
    ],
)
def test_mistakes_are_one_line(call, arguments, complaint):
    code, out, err = call(*arguments)
    assert code == 2 and not out
    assert err.count("\n") == 1 and complaint in err


def test_bad_files_are_told(call, tmp_path):
    tree = write_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    image = tree / "val" / "images" / "val_2.JPEG"
    image.write_bytes(image.read_bytes()[:500])
    assert f"{image}: cannot be decoded" in refusal(call, "prepare", "tinyimagenet", "--data-dir", tmp_path)
    path = zip_tree(tree, tmp_path / "tiny-imagenet-200.zip")
    message = refusal(call, "prepare", "tinyimagenet", "--data-dir", tmp_path)
    assert f"{path}: tiny-imagenet-200/val/images/val_2.JPEG: cannot be decoded" in message
    path.write_bytes(path.read_bytes()[:-100])
    assert "truncated, or no zip archive" in refusal(call, "prepare", "tinyimagenet", "--data-dir", tmp_path)
    left = {entry.name for entry in (tmp_path / "prepared").iterdir()}
    assert left == {".tinyimagenet.lock"}


@pytest.fixture
def release_at_home(tmp_path, monkeypatch):
    """A small CIFAR-10 archive on a server of this machine, with its own MD5 as the published one."""
    write_cifar(tmp_path / "made" / "cifar-10-batches-py")
    archive = shutil.make_archive(str(tmp_path / "cifar"), "gztar", tmp_path / "made")
    content = Path(archive).read_bytes()
    with serving({"/cifar-10-python.tar.gz": content}) as server:
        release = RELEASES["cifar10"]
        url, md5 = f"{server.url}/cifar-10-python.tar.gz", hashlib.md5(content).hexdigest()
        file = replace(release.files[0], url=url, md5=md5)
        monkeypatch.setitem(RELEASES, "cifar10", replace(release, files=(file,)))
        yield server


@pytest.mark.parametrize("named", [True, False])
def test_download(call, release_at_home, tmp_path, home, named):
    folder = tmp_path / "new" / "folder" if named else home / ".cache" / "fastiseat"
    flags = ["--data-dir", folder] if named else []
    release_at_home.drops = [5000]
    code, out, err = call("prepare", "cifar10", "--download", *flags)
    assert code == 0 and out.startswith(f"cifar10 in {folder}/prepared/cifar10")
    assert err.startswith(f"fetching {release_at_home.url}/cifar-10-python.tar.gz into {folder}\n")
    assert len(release_at_home.requests) == 2
    assert call("prepare", "cifar10", "--download", *flags)[0] == 0
    code, _, err = call("prepare", "cifar10", "--download", "--force", *flags)
    assert code == 0 and "cifar-10-python.tar.gz is here already" in err
    assert len(release_at_home.requests) == 2


def test_a_download_of_something_else_is_not_used(call, release_at_home, tmp_path):
    release_at_home.content["/cifar-10-python.tar.gz"] = b"<html>"
    message = refusal(call, "prepare", "cifar10", "--download", "--data-dir", tmp_path / "new")
    assert "what came has MD5" in message and not list((tmp_path / "new").iterdir())


HELP = """
import sys
from fastiseat.__main__ import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert not stop.code, stop.code
heavy = {"torch", "numpy", "scipy", "PIL", "sklearn"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize("arguments", [[], ["prepare"]])
def test_help_is_quick_and_needs_no_torch(tmp_path, arguments):
    seconds = []
    for _ in range(3):
        began = children_seconds()
        command = [sys.executable, "-c", HELP, "data", *arguments, "--help"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        seconds.append(children_seconds() - began)
        assert done.returncode == 0, done.stderr
        assert "usage: fastiseat data" in done.stdout
    assert min(seconds) < 0.5


PREPARE = """
import sys
from fastiseat.__main__ import main
assert main(sys.argv[1:]) == 0
assert "torch" not in sys.modules
"""


def test_prepare_needs_no_torch(tmp_path, cifar):
    command = [sys.executable, "-c", PREPARE, "data", "prepare", "cifar10", "--data-dir", cifar]
    assert subprocess.run(command, cwd=tmp_path).returncode == 0


def test_the_surface():
    """A renamed flag breaks people's scripts, so this list changes only on purpose."""
    from fastiseat.cli import data

    assert {
        command.__name__: list(command.__dataclass_fields__) for command in (data.Prepare, data.Verify, data.Info)
    } == {
        "Prepare": ["name", "source", "download", "data_dir", "force", "format", "image_size"],
        "Verify": ["name", "data_dir"],
        "Info": ["name", "data_dir"],
    }


def change(root, **options):
    """Other images in the same files."""
    shutil.rmtree(root / "cifar-10-batches-py")
    write_cifar(root / "cifar-10-batches-py", **options)


def test_a_change_is_told_by_every_command(call, cifar):
    call("prepare", "cifar10", "--data-dir", cifar)
    source, store = cifar / "cifar-10-batches-py", cifar / "prepared" / "cifar10"
    assert call("verify", "cifar10", "--data-dir", cifar).out.endswith(f"\nprepared from {source}, unchanged\n")
    assert f"{source}, unchanged" in call("info", "cifar10", "--data-dir", cifar).out
    fingerprint = datasets.load("cifar10", data_dir=cifar).fingerprint
    change(cifar, num_classes=3)
    changed = f"{source}, which has changed since (7 altered: batches.meta, data_batch_1, data_batch_2, …)"
    assert f"{store}: intact, but prepared from {changed}: the next use" in refusal(
        call, "verify", "cifar10", "--data-dir", cifar
    )
    assert "which has changed since (" in call("info", "cifar10", "--data-dir", cifar).out
    code, out, err = call("prepare", "cifar10", "--data-dir", cifar)
    assert (
        code == 0
        and f"cifar10: {source} has changed since it was prepared (at least 1 altered: batches.meta)" in err
    )
    assert fingerprint not in out and call("verify", "cifar10", "--data-dir", cifar).code == 0
    shutil.rmtree(source)
    assert call("verify", "cifar10", "--data-dir", cifar).out.endswith(f"prepared from {source}, which is gone\n")


def test_a_command_to_copy_is_quoted(call, tmp_path):
    write_image_folder(tmp_path / "my images")
    name = f"imagefolder:{tmp_path}/my images"
    call("prepare", name)
    (tmp_path / "my images" / "train" / "cat" / "0.png").unlink()
    complaint = refusal(call, "verify", name)
    assert shlex.split(complaint)[-4:] == ["fastiseat", "data", "prepare", name]


@pytest.mark.parametrize(
    ("classes", "told"), [("abc", "3: a, b, c "), ("abcd", "4: a, b, c, d "), ("abcde", "5: a, b, c, …, e ")]
)
def test_each_class_is_named_once(call, tmp_path, classes, told):
    write_image_folder(tmp_path, classes=classes)
    call("prepare", f"imagefolder:{tmp_path}")
    assert told in call("info", f"imagefolder:{tmp_path}").out


def test_verify_reads_what_keeps_its_size_and_time(call, cifar):
    call("prepare", "cifar10", "--data-dir", cifar)
    file = cifar / "cifar-10-batches-py" / "data_batch_1"
    found, content = file.stat(), file.read_bytes()
    file.write_bytes(content[:-200] + bytes(1) + content[-199:])
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert "unchanged" in call("info", "cifar10", "--data-dir", cifar).out
    assert "1 altered: data_batch_1" in refusal(call, "verify", "cifar10", "--data-dir", cifar)


def test_verify_compares_what_was_not_noted(call, cifar):
    call("prepare", "cifar10", "--data-dir", cifar)
    noted = cifar / "prepared" / "cifar10" / "source.json"
    noted.unlink()
    assert "whose files were not noted" in call("info", "cifar10", "--data-dir", cifar).out
    assert call("verify", "cifar10", "--data-dir", cifar).code == 0 and noted.exists()


def test_other_forms_of_earlier_arrays_are_told(call, cifar):
    call("prepare", "cifar10", "--data-dir", cifar, "--format", "ffcv")
    assert "ffcv (of" not in call("info", "cifar10", "--data-dir", cifar).out
    form = cifar / "prepared" / "cifar10.ffcv"
    kept = shutil.copytree(form, cifar / "kept")
    change(cifar, num_classes=3)
    err = call("prepare", "cifar10", "--data-dir", cifar).err
    assert f"removed {form}: ffcv of what was prepared before" in err and not form.exists()
    kept.rename(form)
    assert "ffcv (of what was prepared before)" in call("info", "cifar10", "--data-dir", cifar).out
    call("prepare", "cifar10", "--data-dir", cifar, "--format", "ffcv")
    assert "ffcv (of" not in call("info", "cifar10", "--data-dir", cifar).out
