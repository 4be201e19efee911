"""What a file, an archive or a server says is printed as text: it moves no cursor, and makes no line of its own."""

import ast
import copy
import hashlib
import json
import shutil
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from home_server import serving
from safetensors import safe_open
from source_kinds import KINDS
from tiny_releases import write_image_folder

import fastiseat.cli
from fastiseat.cli.console.output import show, show_json, show_text
from fastiseat.cli.console.progress import ConsoleProgress
from fastiseat.cli.console.tables import titled_table
from fastiseat.cli.console.terminal import Terminal
from fastiseat.pipelines.protocol.releases import RELEASES, File

EVIL = "a\x1b[2J\x9b1m\u202e\nfastiseat: error: x"
SETTINGS = ("train", "--epochs", 1, "--max-steps", 1, "--batch-size", 2, "--final-steps", 0, "--method", "at")


@pytest.fixture
def shown(fastiseat):
    """Gives a command, and looks at what it prints."""

    def give(*words):
        result = fastiseat(*words)
        for text in (result.out, result.err):
            assert all(c.isprintable() or c == "\n" for c in text), (words, text)
            assert "fastiseat: error: x" not in text.splitlines(), (words, text)
        return result

    return give


def spoilt(content, place=()):
    """``content`` with the evil words in place of one of its strings, or of a name, at a time."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in list(pairs):
        if isinstance(value, dict | list):
            for inner, where in spoilt(value, (*place, key)):
                changed = copy.copy(content)
                changed[key] = inner
                yield changed, where
        elif isinstance(value, str):
            changed = copy.copy(content)
            changed[key] = EVIL
            yield changed, (*place, key)
    if isinstance(content, dict):
        yield {**content, EVIL: 1}, (*place, "a name")


def test_every_string_of_a_config(shown, run, tmp_path):
    content = json.loads((run / "config.json").read_text())
    codes = set()
    for changed, where in spoilt(content):
        (run / "config.json").write_text(json.dumps(changed))
        codes.add(shown("train", "--config", run / "config.json", "--dry-run").code)
        codes.add(shown("train", "--out", run, "--resume", "--dataset", "digits", "--quiet", "--dry-run").code)
        if where[-1] in ("dataset", "arch", "method", "data_prepared", "data_fingerprint"):
            for command in (
                ("eval", run),
                ("export", run, "--out", "x.safetensors"),
                ("train", "--out", run, "--resume"),
            ):
                codes.add(shown(*command).code)
    assert codes == {0, 2}


def test_every_string_that_export_quotes(shown, run):
    for name in ("results.json", "config.json"):
        content = json.loads((run / name).read_text())
        for changed, _ in spoilt(content):
            (run / name).write_text(json.dumps(changed))
            shown("export", run, "--force")
        (run / name).write_text(json.dumps(content))


def test_metadata_of_weights(shown, run):
    file = run / "weights" / "best.safetensors"
    with safe_open(file, framework="pt") as weights:
        told, tensors = weights.metadata(), {key: weights.get_tensor(key) for key in weights.keys()}  # noqa: SIM118
    told.pop("crc32")
    for changed, _ in spoilt(told):
        safetensors.torch.save_file(tensors, "w.safetensors", {key: str(value) for key, value in changed.items()})
        for words in (
            ("eval", "w.safetensors", "--attack", "fgsm"),
            ("export", "w.safetensors", "--out", "x.safetensors"),
        ):
            shown(*words)
        shown(*SETTINGS, "--dataset", "digits", "--init", "w.safetensors", "--out", "new", "--dry-run")


def test_names_in_a_torch_file(shown, run):
    state = safetensors.torch.load_file(run / "weights" / "best.safetensors")
    for content in (
        {EVIL: state},
        {EVIL: state, "b": state},
        {**state, EVIL: torch.ones(1)},
        {"state_dict": state, "arch": EVIL},
    ):
        torch.save(content, "w.pt")
        shown("eval", "w.pt", "--dataset", "digits", "--attack", "clean")
        shown("eval", "w.pt", "--dataset", "digits", "--attack", "clean", "--entry", EVIL)
        shown("export", "w.pt", "--out", "x.safetensors", "--force")


def test_every_string_of_saved_verdicts(shown, run):
    assert shown("eval", run, "--attack", "clean", "pgd-2").code == 0
    files = sorted((run / "evaluations").iterdir())
    content = json.loads(files[0].read_text())
    content.pop("sha256")
    shutil.copy(files[0], "b.json")
    codes = set()
    for changed, _ in spoilt(content):
        changed["sha256"] = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()
        Path("a.json").write_text(json.dumps(changed))
        codes |= {
            shown("eval", *words).code
            for words in (["a.json"], ["a.json", "b.json", "--compare"], ["a.json", "--json"])
        }
    assert 0 in codes


def test_names_of_folders_and_files_of_images(shown, tmp_path):
    own = write_image_folder(tmp_path / "own", (EVIL.replace("/", ""), "dog"))
    name = f"imagefolder:{own}"
    for command in ("prepare", "info", "verify"):
        assert shown("data", command, name, "--data-dir", tmp_path).code == 0
    assert shown(*SETTINGS, "--dataset", name, "--arch", "small", "--out", "run", "--data-dir", tmp_path).code in (
        0,
        2,
    )
    (own / "train" / "dog" / f"{EVIL}.png").write_bytes(b"no image")
    assert shown("data", "prepare", name, "--data-dir", tmp_path, "--force").code == 2
    (own / "train" / EVIL / "0.png").rename(own / "train" / f"{EVIL}.png")
    assert shown("data", "prepare", name, "--data-dir", tmp_path, "--force").code == 2
    shutil.rmtree(own / "test" / EVIL)
    assert shown("data", "prepare", name, "--data-dir", tmp_path, "--force").code == 2


def test_a_folder_of_such_a_name(shown, tmp_path):
    own = write_image_folder(tmp_path / EVIL / "own", ("cat", "dog"))
    for command in ("prepare", "info", "verify"):
        assert shown("data", command, f"imagefolder:{own}", "--data-dir", tmp_path / EVIL).code == 0
    result = shown(
        *SETTINGS, "--dataset", f"imagefolder:{own}", "--arch", "small", "--out", tmp_path / EVIL / "run"
    )
    assert "run: " in result.out, result
    assert shown("eval", tmp_path / EVIL / "run", "--attack", "clean").code == 0
    assert shown("train", "--out", tmp_path / EVIL).code == 2


def test_descriptions_of_prepared_arrays(shown, tmp_path):
    KINDS["npz file"].place(tmp_path)
    name = KINDS["npz file"].named(tmp_path)
    assert shown("data", "prepare", name, "--data-dir", tmp_path).code == 0
    (file,) = (tmp_path / "prepared").glob("*/info.json")
    content = json.loads(file.read_text())
    for changed, _ in spoilt(content):
        file.write_text(json.dumps(changed))
        shown("data", "info", name, "--data-dir", tmp_path)
        shown("data", "verify", name, "--data-dir", tmp_path)


def test_members_of_archives(shown, tmp_path):
    for member in (EVIL, f"../{EVIL}", f"train/{EVIL}/a.JPEG"):
        with zipfile.ZipFile("tiny-imagenet-200.zip", "w") as archive:
            archive.writestr(member, b"x")
        assert shown("data", "prepare", "tinyimagenet", "--data-dir", tmp_path).code == 2
        with tarfile.open("cifar-10-python.tar.gz", "w:gz") as archive:
            link = tarfile.TarInfo(member)
            link.type = tarfile.SYMTYPE
            archive.addfile(link)
        assert shown("data", "prepare", "cifar10", "--data-dir", tmp_path).code == 2
    np.savez("own.npz", **{EVIL: np.zeros(3)})
    assert shown("data", "prepare", "npz:own.npz", "--data-dir", tmp_path).code == 2
    assert shown(*SETTINGS, "--dataset", "digits", "--extra", "own.npz", "--out", "run").code == 2


def test_a_servers_answer(shown, tmp_path, monkeypatch):
    with serving({}) as server:
        server.status = 503
        monkeypatch.setitem(server.RequestHandlerClass.responses, 503, ("a\x1b[2J\x9b1m", ""))
        fake = File(name="tiny-imagenet-200.zip", url=f"{server.url}/a.zip", md5="0")
        monkeypatch.setitem(RELEASES, "tinyimagenet", replace(RELEASES["tinyimagenet"], files=(fake,)))
        assert "503" in shown("data", "prepare", "tinyimagenet", "--download", "--data-dir", tmp_path).err


def test_whatever_prints(capsys):
    show(EVIL, Path(EVIL))
    show_text(f"one\n{EVIL.partition(chr(10))[0]}\n")
    for ensure_ascii in (True, False):
        show_json({"ε": EVIL}, ensure_ascii=ensure_ascii)
    table = titled_table(EVIL)
    table.add_column(EVIL)
    table.add_row(EVIL)
    Terminal().print(table)
    Terminal().print(f"[link=x]{EVIL}[/link] :smile:")
    with ConsoleProgress() as progress:
        progress.say(EVIL)
    out, err = capsys.readouterr()
    assert all(c.isprintable() or c == "\n" for c in out + err)
    assert "[link=x]" in out and ":smile:" in out
    *_, last = out.split("}\n{")
    assert json.loads("{" + last.partition("\n}")[0] + "}") == {"ε": EVIL}


def test_nothing_is_printed_another_way():
    """But for help, which is ours, and the last line of a command, which its tests look at."""
    folder = Path(fastiseat.cli.__file__).parent
    for path in sorted(folder.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {
            node.func.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert path.name in ("output.py", "help_text.py") or "print" not in names, path
        assert "Console" not in names, path
