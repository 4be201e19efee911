"""Dependencies point down only: every import in the source is read and checked against the list of layers."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "fastiseat": ROOT / "fastiseat",
    "fastiseat.kernels": ROOT / "kernels",
    "fastiseat.pipelines": ROOT / "pipelines",
    "fastiseat.bench": ROOT / "bench",
}
BARE_NAMES = {"kernels", "pipelines", "bench"}

LAYERS = [
    ["errors", "shortage", "version", "waiting"],
    ["lock", "mounts", "outlasting", "safe"],
    ["kernels"],
    ["fields", "names"],
    ["config", "schedule", "recipes"],
    ["pipelines"],
    ["fusion"],
    ["models"],
    ["attacks", "weights"],
    ["methods"],
    ["engine"],
    [
        "checkpoint",
        "export",
        "evaluation",
        "report",
        "distributed",
    ],
    ["run"],
    ["diagnosis"],
    ["bench"],
    ["cli"],
    ["__main__"],
]
LEVEL = {f"fastiseat.{name}": level for level, names in enumerate(LAYERS) for name in names}

TORCH_FREE = [f"fastiseat.{name}" for level in (0, 1, 3, 4) for name in LAYERS[level]]
KERNELS_MAY_IMPORT = {"torch", "triton", "fastiseat", *sys.stdlib_module_names}


def layer(module: str) -> str | None:
    """The longest listed name that ``module`` is or lies in."""
    parts = module.split(".")
    names = (".".join(parts[:size]) for size in range(len(parts), 1, -1))
    return next((name for name in names if name in LEVEL), None)


def imports(module: str, source: str, is_package: bool = False) -> Iterator[str]:
    """The full names that a module imports, wherever in its code: at the top, in functions, for types only."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=origin, names=names, level=level):
                parents = package[: len(package) - level + 1] if level else []
                base = ".".join([*parents, *([origin] if origin else [])])
                yield from (f"{base}.{alias.name}" for alias in names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name


def violations(module: str, source: str, is_package: bool = False) -> list[str]:
    """What is wrong with the imports of a module, one sentence each."""
    home = layer(module)
    if home is None:
        return [f"{module} belongs to no layer: list it in LAYERS"]
    found = []
    for name in imports(module, source, is_package):
        top = name.split(".")[0]
        target = layer(name)
        if top in BARE_NAMES:
            found.append(f"{module} imports {name} by its bare name: it is fastiseat.{name}")
        elif top == "torch" and layer(module) in TORCH_FREE:
            found.append(f"{module} imports {name}, but must load without torch")
        elif home == "fastiseat.kernels" and top not in KERNELS_MAY_IMPORT:
            found.append(f"{module} imports {name}: kernels need torch alone")
        elif top == "fastiseat" and target is None and name != "fastiseat.__version__":
            found.append(f"{module} imports {name} from no layer: name the module that defines it")
        elif target is not None and LEVEL[target] > LEVEL[home]:
            found.append(f"{module} ({home}) imports {name}, which lies above it")
    return found


def modules() -> Iterator[tuple[str, Path]]:
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join((package, *(part for part in parts if part != "__init__"))), path


def test_every_import_points_down():
    found = [
        violation
        for module, path in modules()
        if module != "fastiseat"  # the face: it offers names of every layer, and loads them on demand
        for violation in violations(module, path.read_text(encoding="utf-8"), path.name == "__init__.py")
    ]
    assert not found, "\n".join(found)


def test_the_list_names_rooms_that_exist():
    present = {module for module, _ in modules()}
    assert [name for name in LEVEL if name not in present] == []


Graph = dict[str, set[str]]


def graph_of_modules() -> Graph:
    """Who imports whom, wherever in the code; a package's face stands for what it offers."""
    sources = dict(modules())

    def defined_in(name: str) -> str:
        while name and name not in sources:
            name = name.rpartition(".")[0]
        return name

    found = {}
    for module, path in sources.items():
        names = imports(module, path.read_text(encoding="utf-8"), path.name == "__init__.py")
        found[module] = {defined_in(name) for name in names} - {module, "", "fastiseat"}
    return found | {"fastiseat": set()}


def graph_of_rooms(of_modules: Graph) -> Graph:
    """The same between the rooms that LAYERS lists, those of one layer included."""
    found: Graph = {}
    for module, others in of_modules.items():
        if (room := layer(module)) is not None:
            found.setdefault(room, set()).update(filter(None, map(layer, others)))
    return {room: others - {room} for room, others in found.items()}


def circle(graph: Graph) -> list[str]:
    """One of the circles in a graph, its ends alike; none where there is none."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node not in done:
            for other in sorted(graph.get(node, ())):
                if found := walk(other, [*path, node]):
                    return found
            done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := walk(node, []))), [])


def test_no_modules_import_each_other_in_a_circle():
    """Not within a folder either, nor in functions or for types alone."""
    assert circle(graph_of_modules()) == []


def test_no_rooms_import_each_other_in_a_circle():
    assert circle(graph_of_rooms(graph_of_modules())) == []


def test_circles_are_found():
    assert circle({"a": {"b", "d"}, "b": {"c"}, "c": {"a"}, "d": set()}) == ["a", "b", "c", "a"]
    assert circle({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}) == []
    rooms = graph_of_rooms(
        {"fastiseat.models.a": {"fastiseat.recipes.b"}, "fastiseat.recipes.c": {"fastiseat.models"}}
    )
    assert circle(rooms) == ["fastiseat.models", "fastiseat.recipes", "fastiseat.models"]


def test_the_light_modules_load_without_torch():
    """Importing a module runs its parent packages too, which reading the source cannot show."""
    present = [module for module, _ in modules() if module in TORCH_FREE]
    code = f"import sys, {', '.join(present)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("fastiseat.attacks.pgd", "import fastiseat.engine.step", "lies above it"),
        ("fastiseat.attacks.pgd", "from fastiseat.engine import TrainStep", "lies above it"),
        ("fastiseat.attacks.pgd", "from fastiseat import run", "lies above it"),
        ("fastiseat.attacks.pgd", "from ..engine import step", "lies above it"),
        ("fastiseat.attacks.pgd", "def f():\n    from fastiseat import cli", "lies above it"),
        ("fastiseat.attacks.pgd", "if TYPE_CHECKING:\n    import fastiseat.engine", "lies above it"),
        ("fastiseat.attacks.pgd", "importlib.import_module('fastiseat.engine')", "lies above it"),
        ("fastiseat.config", "from fastiseat.models import load_model", "lies above it"),
        ("fastiseat.attacks.pgd", "from fastiseat import TrainStep", "from no layer"),
        ("fastiseat.attacks.pgd", "import kernels", "bare name"),
        ("fastiseat.run.loop", "from pipelines.base import Batch", "bare name"),
        ("fastiseat.config", "def f():\n    from torch import nn", "without torch"),
        ("fastiseat.names.networks", "import torch.nn", "without torch"),
        ("fastiseat.kernels.pgd_step.reference", "import numpy", "torch alone"),
        ("fastiseat.kernels.core.dispatch", "from fastiseat.config import Config", "lies above it"),
        ("fastiseat.attic", "", "belongs to no layer"),
    ],
)
def test_planted_violations_are_caught(module, source, complaint):
    assert [complaint in found for found in violations(module, source)] == [True]


@pytest.mark.parametrize(
    ("module", "source", "is_package"),
    [
        ("fastiseat.engine.step", "from fastiseat.methods import ISEAT\nimport fastiseat.kernels, torch", False),
        ("fastiseat.engine", "from .step import TrainStep", True),
        ("fastiseat.config", "from fastiseat.names.networks import ARCHS", False),
        ("fastiseat.bench.run", "from fastiseat.run.trainer import Trainer\nimport numpy", False),
        ("fastiseat.kernels.core.dispatch", "import os\nfrom fastiseat.errors import UserError", False),
        ("fastiseat.cli.train.command", "from fastiseat import __version__", False),
    ],
)
def test_allowed_imports_pass(module, source, is_package):
    assert violations(module, source, is_package) == []
