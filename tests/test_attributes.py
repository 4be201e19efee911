"""An object's attributes are born in its class and written by its own module: all of the source is read for it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

import pytest
from test_layers import modules

BIRTHPLACES = ("__init__", "__post_init__", "__new__")

# Of PyTorch, Python and the driver's libraries, which are set so and have no method for it.
THEIRS = {
    *("grad", "data", "training", "benchmark", "benchmark_limit", "deterministic", "propagate", "restype"),
    *("__code__", "__doc__", "__signature__", "attacks_to_run", "n_target_classes", "perturb"),
}
# A context of torch.autograd.Function is filled in like this.
CONTEXT = "ctx"
# The attribute and who may write it where it is not its own: why.
EXCEPTIONS = {
    ("checkpoint_blocks", "fastiseat.run.networks"): "a network's switch, documented as one",
    ("checkpoint_blocks", "fastiseat.bench.steps.subjects"): "a network's switch, documented as one",
    (
        "lam",
        "fastiseat.bench.steps.subjects",
    ): "the baselines are written as their authors' code, whose loop sets it",
    ("gamma", "fastiseat.bench.steps.subjects"): "the same",
    ("normalize", "fastiseat.models.files.transfer"): "a module's part is put in its place by assigning it",
}

Sources = list[tuple[str, ast.Module]]


def sources() -> Sources:
    return [(module, ast.parse(path.read_text(encoding="utf-8"))) for module, path in modules()]


def functions(node: ast.AST) -> Iterator[ast.FunctionDef]:
    yield from (found for found in ast.walk(node) if isinstance(found, ast.FunctionDef))


def stores(node: ast.AST) -> Iterator[ast.Attribute]:
    for found in ast.walk(node):
        if isinstance(found, ast.Attribute) and isinstance(found.ctx, ast.Store):
            yield found


def methods(node: ast.ClassDef) -> Iterator[tuple[ast.FunctionDef, str]]:
    """With the name of their own object."""
    for found in node.body:
        if isinstance(found, ast.FunctionDef) and found.args.args:
            yield found, found.args.args[0].arg


def own(method: ast.FunctionDef, name: str) -> set[str]:
    """What a method writes of its own object."""
    return {at.attr for at in stores(method) if isinstance(at.value, ast.Name) and at.value.id == name}


def declared(node: ast.ClassDef) -> set[str]:
    """What a class names in its body, fields of a dataclass among it, or writes at birth."""
    found = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}  # setters
    for each in node.body:
        match each:
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
            case ast.Assign(targets=targets):
                found.update(target.id for target in targets if isinstance(target, ast.Name))
    return found.union(*(own(method, name) for method, name in methods(node) if method.name in BIRTHPLACES))


def born_elsewhere(read: Sources) -> list[str]:
    classes: dict[str, list[ast.ClassDef]] = {}
    for node in (node for _, tree in read for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        classes.setdefault(node.name, []).append(node)

    def known(node: ast.ClassDef) -> set[str]:
        names = [ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases]
        bases = [base for name in names if name != node.name for base in classes.get(name, [])]
        return declared(node).union(*map(known, bases))

    found = []
    for module, tree in read:
        for node in (each for each in ast.walk(tree) if isinstance(each, ast.ClassDef)):
            written = set().union(*(own(method, name) for method, name in methods(node)))
            found += [f"{module}.{node.name}.{name}" for name in sorted(written - known(node) - THEIRS)]
    return found


def names_of(statements: Iterable[ast.AST]) -> set[str]:
    """What they assign the result of a call to."""
    return {
        target.id
        for node in statements
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def written_from_outside(read: Sources) -> list[str]:
    found = []
    for module, tree in read:
        at_home = set().union(*(declared(each) for each in ast.walk(tree) if isinstance(each, ast.ClassDef)))
        kept = {
            t.id
            for node in tree.body
            if isinstance(node, ast.Assign)
            for t in node.targets
            if isinstance(t, ast.Name)
        }
        for function in functions(tree):
            first = function.args.args[0].arg if function.args.args else ""
            mine = names_of(ast.walk(function)) | kept | {CONTEXT} | ({first} & {"self", "cls"})
            for at in stores(function):
                if isinstance(at.value, ast.Name) and at.value.id in mine | {"self", "cls"}:
                    continue
                if at.attr not in THEIRS | at_home and (at.attr, module) not in EXCEPTIONS:
                    found.append(f"{module}.{function.name}: {ast.unparse(at)}")
    return sorted(set(found))


def test_attributes_are_born_in_their_class():
    assert born_elsewhere(sources()) == []


def test_nobody_writes_the_attributes_of_another_modules_objects():
    assert written_from_outside(sources()) == []


def test_the_exceptions_are_needed():
    written = {(at.attr, module) for module, tree in sources() for at in stores(tree)}
    assert EXCEPTIONS.keys() <= written


@pytest.mark.parametrize(
    ("source", "complaints"),
    [
        ("class A:\n    def f(self):\n        self.x = 1", ["m.A.x"]),
        ("class A:\n    def __init__(self):\n        self.x = 0\n    def f(self):\n        self.x = 1", []),
        ("class A:\n    x: int\n    def f(self):\n        self.x, self.y = 1, 2", ["m.A.y"]),
        ("class A:\n    x: int\nclass B(A):\n    def f(self):\n        self.x = 1", []),
    ],
)
def test_a_late_birth_is_found(source, complaints):
    assert born_elsewhere([("m", ast.parse(source))]) == complaints


@pytest.mark.parametrize(
    ("source", "complaints"),
    [
        ("def f(a):\n    a.x = 1", ["m.f: a.x"]),
        ("class A:\n    def f(self):\n        self.b.x = 1", ["m.f: self.b.x"]),
        ("class A:\n    x: int\ndef f(a):\n    a.x = 1", []),
        ("def f():\n    a = make()\n    a.x = 1", []),
    ],
)
def test_a_poke_is_found(source, complaints):
    assert written_from_outside([("m", ast.parse(source))]) == complaints
