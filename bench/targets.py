"""What the project aims at, judged by the rows of one document: ratios within one case, whose rows took turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Document = dict[str, Any]
Row = dict[str, Any]
Where = tuple[str, str, int]
PRN18, PRN18_64 = ("prn18", "cifar10", 128), ("prn18", "tinyimagenet", 128)
WRN = ("wrn-34-10", "cifar10", 128)


class AbsentError(Exception):
    """Says why a document does not tell a figure."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A figure and the limit that it is to keep."""

    what: str
    find: Callable[[Document], float]
    """Raises :class:`AbsentError`."""
    limit: float | None
    """None for a figure that is reported beside the others."""
    stretch: float | None = None
    at_least: bool = True
    form: Literal["times", "more", "share", "ms", "min"] = "times"
    kind: Literal["cuda", "cpu", ""] = "cuda"
    """Of the device that it is about."""

    def judged(self, document: Document) -> dict[str, str | float | None]:
        """As it goes into the document."""
        told: dict[str, str | float | None] = {"what": self.what, "target": self._target(), "measured": None}
        try:
            measured = self._measured(document)
        except AbsentError as error:
            return told | {"told": "", "verdict": f"not measured here: {error}"}
        return told | {"measured": measured, "told": self._said(measured), "verdict": self._verdict(measured)}

    def _measured(self, document: Document) -> float:
        if self.kind and self.kind != document["machine"]["kind"]:
            raise AbsentError(f"needs a {_KINDS[self.kind]}")
        return self.find(document)

    def _verdict(self, measured: float) -> str:
        if self.limit is None:
            return "reported"
        if self.stretch is not None and self._keeps(measured, self.stretch):
            return "met, stretch too"
        return "met" if self._keeps(measured, self.limit) else "missed"

    def _keeps(self, measured: float, limit: float) -> bool:
        return measured >= limit if self.at_least else measured <= limit

    def _target(self) -> str:
        if self.limit is None:
            return ""
        stretch = "" if self.stretch is None else f", stretch {self._said(self.stretch)}"
        return f"{'≥' if self.at_least else '≤'} {self._said(self.limit)}{stretch}"

    def _said(self, value: float) -> str:
        return _FORMS[self.form](value)


_KINDS = {"cuda": "CUDA device", "cpu": "CPU"}
_FORMS: dict[str, Callable[[float], str]] = {
    "times": lambda value: f"{round(value, 2):g}×",
    "more": lambda value: f"{value * 100:+.3g}%",
    "share": lambda value: f"{value * 100:.3g}%",
    "ms": lambda value: f"{value:.2g} ms",
    "min": lambda value: f"{value:.3g} min",
}


def judged(document: Document) -> list[dict[str, str | float | None]]:
    """All targets, for a document that has steps."""
    return [target.judged(document) for target in _targets(document)] if "step" in document else []


def _cases(document: Document, where: Where) -> list[Row]:
    found = [c for c in document["step"] if (c["arch"], c["dataset"], c["batch_size"]) == where]
    if not found:
        raise AbsentError("no such step in this run: {} on {}, batch {}".format(*where))
    return found


Pick = Callable[[Row], Row]
"""A row of a case; raises :class:`AbsentError`."""


def _row(case: Row, variant: str, method: str) -> Row:
    for row in case["rows"]:
        if (row["variant"], row["method"]) == (variant, method):
            if row["problem"]:
                raise AbsentError(f"{variant}, {method}: {row['problem']}")
            return row  # type: ignore[no-any-return]
    raise AbsentError(f"{variant}, {method}: not in this run")


def _best(case: Row) -> Row:
    """Our fastest plain ISEAT step."""
    plain = [row for row in case["rows"] if row["ours"] and not row.get("mode") and row["method"] == "iseat"]
    timed = [row for row in plain if not row["problem"]]
    if not timed:
        raise AbsentError(plain[0]["problem"] if plain else "no ISEAT step of ours in this run")
    return min(timed, key=lambda row: row["median"])


def ours(method: str = "iseat", mode: str = "") -> Pick:
    """Our fastest, by another method or in another mode."""
    return lambda case: _row(case, "-".join(filter(None, (_best(case)["variant"], mode))), method)


def named(*variants: str, method: str = "iseat") -> Pick:
    """The first of ``variants`` that has a figure, which are the same thing for different cards."""

    def pick(case: Row) -> Row:
        there = [name for name in variants if any(row["variant"] == name for row in case["rows"])]
        return _row(case, (there or variants)[0], method)

    return pick


def _ratio(where: Where, above: Pick, below: Pick, field: str = "median") -> Callable[[Document], float]:
    """Of one field in two rows of the first case that has both."""

    def find(document: Document) -> float:
        return _first(document, where, lambda case: above(case)[field] / below(case)[field])

    return find


def _excess(where: Where, above: Pick, below: Pick) -> Callable[[Document], float]:
    ratio = _ratio(where, above, below)
    return lambda document: ratio(document) - 1


def _first(document: Document, where: Where, figure: Callable[[Row], float]) -> float:
    reasons = []
    for case in _cases(document, where):
        try:
            return figure(case)
        except AbsentError as error:
            reasons.append(error)
    raise reasons[-1]


def _share(where: Where) -> Callable[[Document], float]:
    return lambda document: _first(document, where, lambda case: float(_half(_best(case))["share_of_peak"]))


def _half(row: Row) -> Row:
    if row["precision"] == "full":
        raise AbsentError("no ISEAT step of ours in half precision is the fastest in this run")
    return row


def _host(document: Document) -> float:
    def figure(case: Row) -> float:
        rows = [row for row in case["rows"] if row.get("engine") == "graph" and row["method"] == "iseat"]
        timed = [row["host_ms"] for row in rows if not row["problem"] and not row["mode"]]
        if not timed:
            raise AbsentError(rows[0]["problem"] if rows else "no CUDA graph in this run")
        return float(min(timed))

    return _first(document, PRN18, figure)


def _minutes(document: Document) -> float:
    if "H200" not in document["machine"]["device"]:
        raise AbsentError("needs an H200")
    return _first(document, PRN18, lambda case: float(case["recipe_hours"][_best(case)["variant"]]) * 60)


def _data(document: Document) -> float:
    rows = [row for case in document.get("epoch", ()) for row in case["rows"][1:] if not row["problem"]]
    if not rows:
        raise AbsentError("bench epoch tells")
    return float(max(row["overhead"] for row in rows))


def _on_cpu(case: Row) -> Callable[[Document], float]:
    return lambda _document: float(_row(case, "eager", "iseat")["median"] / _eager_of_ours(case)["median"])


def _eager_of_ours(case: Row) -> Row:
    return _row(case, "fastiseat-eager-full", "iseat")


def _native(case: Row) -> Callable[[Document], float]:
    def find(document: Document) -> float:
        if case.get("bn_act") != "native":
            raise AbsentError("native bn_act does not serve here")
        return _on_cpu(case)(document)

    return find


_NHWC = ("eager-bf16", "eager-fp16")
_BASELINES: tuple[tuple[str, tuple[str, ...], float], ...] = (
    ("eager, strict float32", ("eager-strict",), 5),
    ("eager, PyTorch's defaults", ("eager",), 3),
    ("eager, AMP, channels-last", _NHWC, 2.5),
    ("torch.compile, naive", ("compile-naive", "compile-naive-fp16"), 1.4),
    ("torch.compile, careful", ("compile-careful", "compile-careful-fp16"), 1.15),
)
_SHARES = (
    ("PRN18 at 32×32", PRN18, 0.32, 0.37),
    ("PRN18 at 64×64", PRN18_64, 0.36, 0.42),
    ("WRN", WRN, 0.48, 0.55),
)
_APPROXIMATE = ("last-attack-step", "half-batch", "previous-step")


def _targets(document: Document) -> Iterator[Target]:
    yield from _against_baselines()
    yield from _costs()
    for name, where, limit, stretch in _SHARES:
        what = f"share of the matrix rate, ISEAT, {name}"
        yield Target(what=what, find=_share(where), limit=limit, stretch=stretch, form="share")
    yield from _other_parts()
    yield from _memory()
    yield from _beside()
    yield from _cpu(document)


def _against_baselines() -> Iterator[Target]:
    for name, variants, limit in _BASELINES:
        find = _ratio(PRN18, named(*variants), ours())
        yield Target(what=f"ISEAT, PRN18 at 32×32: speed against {name}", find=find, limit=limit)
    find = _ratio(PRN18, ours(), named(*_NHWC, method="at"))
    yield Target(what="our ISEAT, time over plain AT in eager AMP", find=find, limit=0.5, at_least=False)


def _costs() -> Iterator[Target]:
    for name, where, limit, stretch in (("PRN18 at 32×32", PRN18, 0.20, 0.17), ("WRN", WRN, 0.22, None)):
        find = _excess(where, ours(), ours("at"))
        what = f"ISEAT over AT, {name}"
        yield Target(what=what, find=find, limit=limit, stretch=stretch, at_least=False, form="more")


def _other_parts() -> Iterator[Target]:
    what = "an epoch's data over one fixed batch, the dearest loader"
    yield Target(what=what, find=_data, limit=0.02, at_least=False, form="more", kind="")
    what = "CPU time of a step by CUDA graph, ISEAT, PRN18 at 32×32"
    yield Target(what=what, find=_host, limit=0.3, at_least=False, form="ms")
    what = "200 epochs of ISEAT, PRN18, CIFAR-10, validated by PGD-10, on one H200"
    yield Target(what=what, find=_minutes, limit=23, stretch=18, at_least=False, form="min")


def _memory() -> Iterator[Target]:
    for name, mode, limit in (("kept", "", 2.1), ("recomputed", "recompute", 1.2)):
        find = _ratio(PRN18, ours(mode=mode), ours("at", mode=mode), "peak_bytes")
        yield Target(
            what=f"peak memory, ISEAT over AT, clean graph {name}", find=find, limit=limit, at_least=False
        )


def _beside() -> Iterator[Target]:
    wasteful = "an attack that computes weight gradients too (39 units)"
    find = _ratio(PRN18, ours(mode="wasteful"), ours())
    yield Target(what=f"our engine with {wasteful}: its time over ours", find=find, limit=None)
    find = _excess(PRN18, ours(mode="wasteful"), ours("at", mode="wasteful"))
    yield Target(what=f"ISEAT over AT, both with {wasteful}", find=find, limit=None, form="more")
    for kind in _APPROXIMATE:
        find = _excess(PRN18, ours(mode=kind), ours("at"))
        yield Target(what=f"ISEAT, approximate ({kind}), over AT", find=find, limit=None, form="more")


def _cpu(document: Document) -> Iterator[Target]:
    here = document["machine"]["kind"] == "cpu"
    for case in document["step"] if here else [{"title": "on a CPU", "rows": []}]:
        what = f"{case['title']}: ISEAT by engine eager, speed against the eager baseline"
        yield Target(what=what, find=_on_cpu(case), limit=1.03, kind="cpu")
        yield Target(what=f"{what}, with native bn_act", find=_native(case), limit=1.1, kind="cpu")
