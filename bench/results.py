"""Recorded measurements: one file a machine and commit in ``bench/results``, and the README drawn from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastiseat.bench.machine import slug
from fastiseat.bench.steps.targets import judged
from fastiseat.bench.suite import FORMAT, PARTS
from fastiseat.bench.tables import markdown, tables
from fastiseat.errors import UserError
from fastiseat.safe import LEFT_BEHIND, OwnFolder, read_file
from fastiseat.safe.reading import TEXT

FOLDER = Path(__file__).parent
RESULTS, README = FOLDER / "results", FOLDER / "README.md"
# What all cases of a document have in common; the command line differs from call to call.
_SHARED = ("format", "rounds", "data")
_MARK = "<!-- Below: drawn from results/*.json by `python -m fastiseat.bench.results`. -->\n"


def save(document: dict[str, Any], folder: Path) -> Path:
    """Write the document as ``<device>-<commit>.json``, into which a later one of the same machine is merged."""
    commit = document["machine"]["versions"]["commit"] or f"v{document['machine']['versions']['fastiseat']}"
    shortened = commit[:10] + ("-dirty" if commit.endswith("-dirty") else "")
    path = folder / f"{slug(document['machine']['device'])}-{shortened}.json"
    if path.exists():
        document = merged(load(path), document)
    own = OwnFolder(folder)
    own.sweep(idle=LEFT_BEHIND)
    own.write(path.name, (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())
    return path


def merged(earlier: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """``later`` and those cases of ``earlier`` that it did not measure again; whole cases, whose rows took turns.

    ``later`` alone where the two were not measured alike: on another driver, or in another number of rounds.
    """
    if _shared(earlier) != _shared(later):
        return later
    both = earlier | later
    for part in PARTS:
        if cases := {case["title"]: case for document in (earlier, later) for case in document.get(part, ())}:
            both[part] = list(cases.values())
    rates = earlier["ceiling"]["flops"] | later["ceiling"]["flops"]
    clocks = [document["clocks"] for document in (earlier, later) if document["clocks"]]
    if "targets" in both:
        both["targets"] = judged(both)
    return both | {
        "ceiling": later["ceiling"] | {"flops": rates},
        "clocks": {"min": min(c["min"] for c in clocks), "max": max(c["max"] for c in clocks)} if clocks else None,
    }


def _shared(document: dict[str, Any]) -> dict[str, Any]:
    machine = {name: value for name, value in document["machine"].items() if name != "argv"}
    return {name: document[name] for name in _SHARED} | {"machine": machine}


def load(path: Path) -> dict[str, Any]:
    """A recorded document; :class:`UserError` for another format."""
    document: dict[str, Any] = json.loads(read_file(path, most=TEXT))
    if document.get("format") != FORMAT:
        raise UserError(f"{path}: written in format {document.get('format')}, this version reads {FORMAT}")
    return document


def readme(text: str, documents: list[dict[str, Any]]) -> str:
    """``text`` up to the mark, then the tables of all documents, the last measured first."""
    head, mark, _ = text.partition(_MARK)
    if not mark:
        raise UserError(f"{README}: has no line {_MARK.strip()!r}, below which the tables go")
    ordered = sorted(documents, key=lambda document: document["date"], reverse=True)
    return head + mark + "".join("\n" + _section(document) for document in ordered)


def _section(document: dict[str, Any]) -> str:
    machine = document["machine"]
    versions = machine["versions"]
    clocks = document["clocks"]
    told = [
        f"## {machine['device']}",
        "",
        f"{document['date']}, commit {versions['commit']}, torch {versions['torch']}, Python {versions['python']}, "
        f"driver {machine['driver'] or 'none'}, {machine['threads']} threads, {document['rounds']} rounds, "
        f"{document['data']}, clocks seen: {'{min} to {max} MHz'.format(**clocks) if clocks else 'unknown'}.",
        "",
    ]
    return "\n".join([*told, markdown(tables(document), level=3)])


def main() -> None:
    """Write the README anew."""
    documents = [load(path) for path in sorted(RESULTS.glob("*.json"))]
    README.write_text(readme(read_file(README).decode(), documents), encoding="utf-8")


if __name__ == "__main__":
    main()
