"""The model card: Markdown with the front matter that the Hugging Face Hub reads."""

from __future__ import annotations

import json
from typing import Any

from fastiseat.export import card_facts as facts
from fastiseat.export.formats import Format
from fastiseat.export.source import Source
from fastiseat.names.data import DATA
from fastiseat.version import __version__

_HUB_DATASETS = {name: kind.hub for name, kind in DATA.items() if kind.hub}
_CITATION = """\
```bibtex
@article{iseat,
  title  = {Robust shortcut and disordered robustness: Improving adversarial training through adaptive smoothing},
  author = {Li, Lin and Spratling, Michael},
}
```"""


def card(source: Source, kind: Format, name: str, *, digest: str, difference: float) -> str:
    """The page for a file ``name`` in the present folder, whose SHA-256 is ``digest``."""
    title = _title(source)
    parts = [
        _front_matter(source, kind, title),
        f"# {facts.text(title)}",
        _opening(source),
        "## Network",
        _table(facts.network(source), {"file": f"`{name}`, SHA-256 `{digest}`"}),
        "## Training",
        _table(facts.training(source)) if source.settings else "The weights file tells nothing of it.",
        "## Accuracy",
        _accuracy(source),
        "## Load it",
        f"```python\n{kind.snippet(source, name)}\n```",
        _loading_notes(source, kind, difference),
        "## Limits",
        "\n".join(f"- {limit}" for limit in facts.limits(source)),
        "## Citation",
        f"The networks and the training method ISEAT are those of this paper; fastiseat {__version__} computes them.",
        _CITATION,
    ]
    return "\n\n".join(parts) + "\n"


def _title(source: Source) -> str:
    method, dataset = facts.method(source), facts.dataset(source)
    trained = f", {method.upper()}" if method and method != "none" else ""
    return f"{facts.architecture(source.spec.arch)}{trained}{f' on {dataset}' if dataset else ''}"


def _opening(source: Source) -> str:
    eps = facts.eps(source)
    if not eps or facts.method(source) == "none":
        return "An image classifier."
    return f"An image classifier, trained to withstand {facts.ball(source).changes.format(eps=eps)}."


def _table(*tables: dict[str, str]) -> str:
    rows = [f"| {name} | {value} |" for table in tables for name, value in table.items()]
    return "\n".join(("| | |", "|---|---|", *rows))


def _accuracy(source: Source) -> str:
    found = facts.accuracies(source)
    if not found:
        return "Not evaluated: no result of these weights is known."
    rows = [f"| {facts.text(attack)} | {100 * share:.2f} |" for attack, share in found.items()]
    on = f"On {facts.images_tested(source)}, in %:"
    return "\n".join((on, "", "| attack | accuracy |", "|---|---|", *rows, "", facts.attacks(source)))


def _loading_notes(source: Source, kind: Format, difference: float) -> str:
    checked = (
        f"When it was written, the file gave the source's logits on random images to within {difference:.2g}."
    )
    note = kind.note(source)
    return f"{checked} {note[:1].upper()}{note[1:]}." if note else checked


def _front_matter(source: Source, kind: Format, title: str) -> str:
    """JSON is YAML: what a file tells can't break out of a string."""
    content: dict[str, Any] = {"library_name": kind.library, "pipeline_tag": "image-classification"}
    content["tags"] = facts.tags(source)
    dataset = facts.dataset(source)
    if dataset in _HUB_DATASETS:
        content["datasets"] = [_HUB_DATASETS[dataset]]
    content["metrics"] = ["accuracy"]
    if dataset and facts.accuracies(source):
        content["model-index"] = [{"name": title, "results": [_result(source, dataset)]}]
    lines = (f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in content.items())
    return "\n".join(("---", *lines, "---"))


def _result(source: Source, dataset: str) -> dict[str, Any]:
    return {
        "task": {"type": "image-classification"},
        "dataset": {"name": dataset, "type": _HUB_DATASETS.get(dataset, dataset), "split": "test"},
        "metrics": [
            {"type": "accuracy", "name": f"accuracy, {attack}", "value": round(100 * share, 2)}
            for attack, share in facts.accuracies(source).items()
        ],
    }
