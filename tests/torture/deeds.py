"""What is done under torture, by turns: each method, loader, data set, format of export and attack there is."""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import tiny
from source_kinds import KINDS, Kind
from tiny_releases import pixels

from fastiseat.export.formats import FORMATS
from fastiseat.names import ATTACKS
from fastiseat.pipelines.loaders.choose import LOADERS
from fastiseat.recipes import METHODS
from torture.child import HOME
from torture.settings import FILES, Turns, told

Results = Mapping[str, bytes]
SHORT = (
    "--dataset", "digits", "--epochs", "2", "--batch-size", "20", "--limit-train", "40", "--limit-test", "20",
    "--final-steps", "1", "--threads", "1", "--quiet",
)  # fmt: skip
_CLOCKS = {"seconds", "date", "sha256", "made"}


@dataclass(frozen=True, kw_only=True)
class Deed:
    """A command, given in an empty folder into which ``place`` has put its inputs.

    Attributes:
        name: for the report.
        words: of the command, with ``{here}`` for the folder.
        again: what is added where the command is repeated.
        seeded: what is added for a run beside it.
        checked: whether what it reads has checksums, so that it does not take other bits for its own.
        place: puts the inputs into the folder.
        results: what it made, by name: what no interruption may change, and no tampering unnoticed.
    """

    name: str
    words: tuple[str, ...]
    again: tuple[str, ...] = ()
    seeded: tuple[str, ...] = ()
    checked: bool = True
    place: Callable[[Path], object]
    results: Callable[[Path], Results]

    def command(self, here: Path, *, again: bool = False) -> tuple[str, ...]:
        """Its words for the folder ``here``."""
        return tuple(word.format(here=here) for word in (*self.words, *(self.again if again else ())))


def by_turns(run: Path) -> Iterator[Deed]:
    """All of each kind, spread over a round, and round after round; ``run`` is a finished run's folder."""
    training = trainings(run)
    others = [list(kind) for kind in (evaluations(run), exports(run), preparations())]
    counts = [len(METHODS), *map(len, others)]
    order = sorted(
        ((turn + 0.5) / count, kind, turn) for kind, count in enumerate(counts) for turn in range(count)
    )
    for _, kind, turn in cycle(order):
        yield others[kind - 1][turn] if kind else next(training)


def in_a_round() -> int:
    """After how many deeds each method, attack, format and kind of data set had its turn."""
    return len(METHODS) + len(ATTACKS) + len(FORMATS) + len(KINDS)


def trainings(run: Path) -> Iterator[Deed]:
    """Every method, while loaders and settings take turns."""
    tried, turns = run.with_name("tried"), Turns(run.with_name("settings.json"))
    tried.mkdir(exist_ok=True)
    _place_extra(tried)
    for method, loader, files in zip(cycle(METHODS), cycle(LOADERS), cycle(FILES), strict=False):
        words = _training(run, method, loader, files)
        settings = turns.of(tuple(word.format(here=tried) for word in words))
        yield Deed(
            name=f"train {method} by {loader}, {' '.join(files)} {told(settings)}",
            words=(*words, "--config", "{here}/settings.json"),
            again=("--resume",),
            seeded=("--seed", "7"),
            place=lambda here, settings=settings: _place_training(here, settings),
            results=trained,
        )


def _training(run: Path, method: str, loader: str, files: tuple[str, ...]) -> tuple[str, ...]:
    needs = {
        "": (),
        "standard": ("--standard", str(run / "weights" / "best.safetensors")),
        "extra": ("--extra", "{here}/extra.npz"),
    }[METHODS[method].needs]
    return (
        "train", "--method", method, *SHORT, "--loader", loader, "--data-dir", "{here}/data", *needs,
        *_attack(method), *files, "--out", "{here}/run",
    )  # fmt: skip


def evaluations(run: Path) -> Iterator[Deed]:
    """Every attack, on a copy of ``run``."""
    for attack in ATTACKS:
        yield Deed(
            name=f"eval {attack}",
            words=("eval", "{here}/run", "--attack", attack, "--subset", "4", "--no-sanity"),
            place=lambda here: shutil.copytree(run, here / "run"),
            results=evaluated,
        )


def exports(run: Path) -> Iterator[Deed]:
    """Every format, of a copy of ``run``."""
    for name, kind in FORMATS.items():
        yield Deed(
            name=f"export --to {name}",
            words=("export", "{here}/run", "--to", name, "--out", f"{{here}}/exports/net{kind.suffix}"),
            place=lambda here: _place_for_export(run, here),
            results=exported,
        )


def preparations() -> Iterator[Deed]:
    """Every kind of data set, in all the forms that it has."""
    for name, kind in KINDS.items():
        yield Deed(
            name=f"data prepare {name}",
            words=(
                "data",
                "prepare",
                kind.named("{here}/data"),
                "--data-dir",
                "{here}/data",
                "--format",
                *kind.forms,
            ),
            checked=False,  # the images are the user's, to change as they like
            place=lambda here, kind=kind: _place_source(kind, here / "data"),
            results=prepared,
        )


def _attack(method: str) -> tuple[str, ...]:
    return () if method == "none" else ("--steps", "1")


def trained(here: Path) -> Results:
    """Weights, results, metrics without their clocks, and the names of all files."""
    run = here / "run"
    files = [*sorted((run / "weights").glob("*")), run / "results.json", run / "metrics.jsonl"]
    return {file.name: _content(file) for file in files if file.is_file()} | {"files": _names(run)}


def evaluated(here: Path) -> Results:
    """The verdicts, without their clocks."""
    files = sorted((here / "run" / "evaluations").glob("[!.]*"))
    return {file.name: _content(file) for file in files}


def exported(here: Path) -> Results:
    """Every byte of the files."""
    return {file.name: file.read_bytes() for file in sorted((here / "exports").glob("[!.]*"))}


def prepared(here: Path) -> Results:
    """The arrays, beside their source or in the home; of what is said about them all but the clocks."""
    roots = (here / "data", here / HOME / ".cache" / "fastiseat")
    files = {
        re.sub(
            "-[0-9a-f]{12}", "", str(file.relative_to(root))
        ): file  # in the home a store's name has whose it is
        for root in roots
        for file in root.rglob("*")
        if file.is_file() and not file.name.endswith(".lock")
    }
    found = {name: _content(file) for name, file in files.items() if "prepared" in file.parts}
    return found | {"files": "\n".join(sorted(files)).encode()}


def _content(file: Path) -> bytes:
    """What an interruption may not change of a file; all of one that can't be read."""
    content = file.read_bytes()
    try:
        return _without_clocks(file, content)
    except ValueError:
        return content


def _without_clocks(file: Path, content: bytes) -> bytes:
    match file.name, file.parent.name:
        case "source.json", _:  # when the source was last looked at
            return b""
        case "metrics.jsonl", _:
            return json.dumps(tiny.without_clocks(map(json.loads, content.splitlines()))).encode()
        case ("info.json", _) | (_, "evaluations"):
            told = json.loads(content).items()
            return json.dumps({name: value for name, value in told if name not in _CLOCKS}).encode()
    return content


def _names(folder: Path) -> bytes:
    """Of all files that are there to stay, and of whatever a killed write left."""
    files = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    stay = (str(file) for file in files if file.parts[0] != "figures" and not file.name.endswith("lock"))
    return "\n".join(sorted(stay)).encode()


def _place_training(here: Path, settings: dict[str, dict[str, Any]]) -> None:
    _place_extra(here)
    (here / "settings.json").write_text(json.dumps(settings))


def _place_extra(here: Path) -> None:
    np.savez(here / "extra.npz", image=pixels(20, 8, 1, seed=3), label=np.arange(20) % 10)
    (here / "data").mkdir(exist_ok=True)


def _place_source(kind: Kind, folder: Path) -> None:
    folder.mkdir()
    kind.place(folder)


def _place_for_export(run: Path, here: Path) -> None:
    shutil.copytree(run, here / "run")
    (here / "exports").mkdir()
