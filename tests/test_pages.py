"""What a page names exists: files, modules and what they define, in every page of the repository."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("fastiseat", "kernels", "pipelines", "bench", "tests", "docs", ".ci")
PAGES = [*sorted(ROOT.glob("*.md")), *(page for name in FOLDERS for page in sorted((ROOT / name).rglob("*.md")))]
# As a page says of what is not there: an example's name, and what has another one now.
NOT_HERE = re.compile(r"would\s+be(?:\s+in)?\s+$")
RENAMED = re.compile(r"\s+→")
TOP = {path.name for path in (ROOT / "fastiseat").iterdir() if path.is_dir()}

each = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(text: str) -> str:
    """Without its blocks of code."""
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def code_words(text: str) -> Iterator[str]:
    """What stands in backquotes and is said to be there."""
    for found in re.finditer(r"`([^`\s]+)`", text):
        before, after = text[: found.start()], text[found.end() :]
        if not NOT_HERE.search(before) and not RENAMED.match(after):
            yield found[1]


def links(text: str) -> Iterator[tuple[str, str]]:
    """Words and target of those that lead to files."""
    for words, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", text):
        if "://" not in target and not target.startswith(("#", "mailto:")):
            yield words, target.partition("#")[0]


def is_path(word: str) -> bool:
    """Of the repository: what users have of their own bears other names."""
    first, slash, _ = word.partition("/")
    source = bool(re.search(r"\w\.(py|cuh?|cpp|h)$", word))
    return bool(slash and (first in FOLDERS or (first in TOP and source))) or (source and not slash)


def is_there(word: str, page: Path) -> bool:
    """``<op>`` stands for any, and a name alone for a file in some folder."""
    pattern = re.sub(r"<\w+>", "*", word).rstrip("/")
    if "/" not in word:
        return word.startswith("added_") or any(next((ROOT / name).rglob(pattern), None) for name in FOLDERS)
    return any(next(base.glob(pattern), None) for base in (ROOT, ROOT / "fastiseat", page.parent))


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or what one defines; the fields of a class are its annotations."""
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        try:
            found: object = import_module(".".join(parts[:size]))
        except ModuleNotFoundError:
            continue
        return all((found := _of(found, part)) is not None for part in parts[size:])
    return False


def _of(owner: object, name: str) -> object:
    return getattr(owner, name, None) or vars(owner).get("__annotations__", {}).get(name)


def wrong_paths(text: str, page: Path) -> list[str]:
    return [word for word in code_words(prose(text)) if is_path(word) and not is_there(word, page)]


def wrong_links(text: str, page: Path) -> list[str]:
    """Targets that are not there, and words that name another file than the target."""
    return [
        f"[{words}]({target})"
        for words, target in links(prose(text))
        if not (page.parent / target).exists()
        or ("." in words and " " not in words and not f"/{target}".endswith(f"/{words}"))
    ]


def wrong_names(text: str) -> list[str]:
    dotted = re.compile(r"fastiseat(?:\.\w+)+")
    words = (dotted.match(word.partition("(")[0]) for word in code_words(prose(text)))
    named = [word[0] for word in words if word and not word[0].endswith(("._", "."))]
    return [name for name in [*named, *imported(text)] if not resolves(name)]


def imported(text: str) -> Iterator[str]:
    """What a page's Python imports of the package."""
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        for line in re.findall(r"^from fastiseat.*? import (?:\(.*?\)|.*?$)", block, re.DOTALL | re.MULTILINE):
            (node,) = ast.parse(line).body
            assert isinstance(node, ast.ImportFrom)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@each
def test_its_files_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert wrong_paths(text, page) + wrong_links(text, page) == []


@each
def test_its_names_can_be_imported(page: Path) -> None:
    assert wrong_names(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see `fastiseat/engine/attic.py`", 1),
        ("see `engine/attic.py` and `kernels/<op>/attic.py`", 2),
        ("see `attic.py`", 1),
        (
            "`kernels/<op>/triton.py`, `dispatch.py`, `tests/`, `engine/step.py`, `.cuh`, `weights/best.safetensors`",
            0,
        ),
        ("it would be\n`fastiseat/engine/attic.py`", 0),
        ("`fastiseat.attic` → `fastiseat.engine`", 0),
        ("`fastiseat.engine.TrainStep`, `fastiseat.evaluate(model)`, `fastiseat.config.PGD.eps`", 0),
        ("`fastiseat.attic`, `fastiseat.engine.Attic` and `fastiseat.config.PGD.attic`", 3),
        ("```python\nfrom fastiseat.engine import (\n    Attic,\n)\n```", 1),
        ("[step.py](../fastiseat/engine/step.py)", 0),
        ("[the step](../fastiseat/engine/attic.py) and [attic.py](../fastiseat/engine/step.py)", 2),
    ],
)
def test_what_is_not_there_is_found(text: str, found: int) -> None:
    page = ROOT / "docs" / "page.md"
    assert len(wrong_paths(text, page) + wrong_links(text, page) + wrong_names(text)) == found
