"""No module but :mod:`fastiseat.safe` opens a file by its path to read it; see tests/test_foreign_files.py for what
that door refuses.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("fastiseat", "pipelines", "bench")

BY_PATH = {"read_bytes", "read_text", "memmap", "open_memmap", "fromfile", "loadtxt", "mmap", "load_file"}
"""What reads whatever lies at a path, called so in any library."""
OPENERS = {"os", "io", "gzip", "bz2", "lzma", "tarfile", "Image", "zipfile"}
READERS = {
    *(
        "torch.load",
        "np.load",
        "scipy.io.loadmat",
        "scipy.io.whosmat",
        "zipfile.ZipFile",
        "gzip.open",
        "Image.open",
    ),
    *("io.open", "os.open", "tarfile.open", "safe_open", "json.load", "tomllib.load", "onnx.load", "np.fromfile"),
}
"""What takes a path, or a file that is open: its first argument must be the latter."""
FILES = {"file", "content", "packed", "payload"}
"""What open files are called."""

ALLOWED = {
    "pipelines/protocol/memory.py": "the kernel's own /proc",
    "bench/machine.py": "the kernel's own /proc",
    "fastiseat/mounts.py": "the kernel's own /proc",
    "fastiseat/export/robustbench.py": "what export has just written into a folder of its own",
    "fastiseat/models/files/read.py": "safetensors takes paths alone; the door has been asked before",
}


def called(function):
    """As ``os.open``."""
    match function:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            return f"{called(value)}.{name}"
    return "…"


def is_open_file(argument):
    match argument:
        case ast.Name(id=name):
            return name in FILES
        case ast.Call(func=function):
            return called(function) in ("io.BytesIO", "open_file")
    return False


def reads_by_path(call):
    """Whether a call may open a file by its path to read it."""
    name = called(call.func)
    last = name.rpartition(".")[2]
    first = (
        call.args[0] if call.args else next((word.value for word in call.keywords if word.arg == "fileobj"), None)
    )
    if name == "open" or (last in BY_PATH and last != name and not is_open_file(first)):
        return True
    if name in READERS:
        return not is_open_file(first) and "os.O_WRONLY" not in ast.unparse(call)
    if last == "open" and name.partition(".")[0] not in OPENERS:
        modes = [
            each.value for each in call.args if isinstance(each, ast.Constant) and isinstance(each.value, str)
        ]
        return any(set(mode) <= set("rbt+") for mode in modes)
    return False


def found_in(source):
    return [
        node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and reads_by_path(node)
    ]


def sources():
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.parent.name != "safe":
                yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def test_nothing_is_read_past_the_door():
    found = {name: lines for name, source in sources() if (lines := found_in(source))}
    assert {name: lines for name, lines in found.items() if name not in ALLOWED} == {}
    assert found.keys() == ALLOWED.keys(), "an exception that is none any more"


@pytest.mark.parametrize(
    "source",
    [
        "path.read_bytes()",
        "(folder / 'x').read_text(encoding='utf-8')",
        "open(path)",
        "open(path, 'rb')",
        "path.open('rb')",
        "os.open(path, os.O_RDONLY)",
        "np.memmap(path, np.uint8, 'r')",
        "np.lib.format.open_memmap(path)",
        "torch.load(path)",
        "zipfile.ZipFile(path)",
        "tarfile.open(path)",
        "gzip.open(self.path)",
        "Image.open(path)",
        "scipy.io.loadmat(path)",
        "safe_open(path, framework='pt')",
    ],
)
def test_planted_readers_are_found(source):
    assert found_in(source) == [1]


@pytest.mark.parametrize(
    "source",
    ["torch.load(file)", "Image.open(io.BytesIO(x))", "path.open('wb')", "store.open()", "zipfile.ZipFile(file)"],
)
def test_what_is_open_already_is_read(source):
    assert found_in(source) == []
