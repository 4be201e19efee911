"""Figures from the rows of a document: ratios within one case, whose rows took turns."""

from __future__ import annotations

from collections.abc import Callable

from fastiseat.bench.words import Document, Row

Where = tuple[str, str, int]
PRN18, PRN18_64 = ("prn18", "cifar10", 128), ("prn18", "tinyimagenet", 128)
WRN = ("wrn-34-10", "cifar10", 128)
NHWC = ("eager-bf16", "eager-fp16")
"""The eager baseline with AMP and channels-last."""
Find = Callable[[Document], float]
"""Raises :class:`AbsentError`."""


class AbsentError(Exception):
    """Says why a document does not tell a figure."""


def _cases(document: Document, where: Where) -> list[Row]:
    found = [c for c in document["step"] if (c["arch"], c["dataset"], c["batch_size"]) == where]
    if not found:
        raise AbsentError("no such step in this run: {} on {}, batch {}".format(*where))
    return found


Pick = Callable[[Row], Row]
"""A row of a case; raises :class:`AbsentError`."""


def row_of(case: Row, variant: str, method: str) -> Row:
    """The row that has figures."""
    for row in case["rows"]:
        if (row["variant"], row["method"]) == (variant, method):
            if row["problem"]:
                raise AbsentError(f"{variant}, {method}: {row['problem']}")
            return row  # type: ignore[no-any-return]
    raise AbsentError(f"{variant}, {method}: not in this run")


def best(case: Row) -> Row:
    """Our fastest plain ISEAT step."""
    plain = [row for row in case["rows"] if row["ours"] and not row.get("mode") and row["method"] == "iseat"]
    timed = [row for row in plain if not row["problem"]]
    if not timed:
        raise AbsentError(plain[0]["problem"] if plain else "no ISEAT step of ours in this run")
    return min(timed, key=lambda row: row["median"])


def ours(method: str = "iseat", mode: str = "") -> Pick:
    """Our fastest, by another method or in another mode."""
    return lambda case: row_of(case, "-".join(filter(None, (best(case)["variant"], mode))), method)


def named(*variants: str, method: str = "iseat") -> Pick:
    """The first of ``variants`` that has a figure, which are the same thing for different cards."""

    def pick(case: Row) -> Row:
        there = [name for name in variants if any(row["variant"] == name for row in case["rows"])]
        return row_of(case, (there or variants)[0], method)

    return pick


def ratio(where: Where, above: Pick, below: Pick, field: str = "median") -> Find:
    """Of one field in two rows of the first case that has both."""

    def find(document: Document) -> float:
        return _first(document, where, lambda case: above(case)[field] / below(case)[field])

    return find


def excess(where: Where, above: Pick, below: Pick) -> Find:
    """How much more time the one takes than the other, relative to that."""
    over = ratio(where, above, below)
    return lambda document: over(document) - 1


def _first(document: Document, where: Where, figure: Callable[[Row], float]) -> float:
    reasons = []
    for case in _cases(document, where):
        try:
            return figure(case)
        except AbsentError as error:
            reasons.append(error)
    raise reasons[-1]


def share(where: Where) -> Find:
    """Of the measured matrix rate in half precision, our ISEAT step."""
    return lambda document: _first(document, where, lambda case: float(_half(best(case))["share_of_peak"]))


def _half(row: Row) -> Row:
    if row["precision"] == "full":
        raise AbsentError("no ISEAT step of ours in half precision is the fastest in this run")
    return row


def host(document: Document) -> float:
    """Milliseconds of CPU time of an ISEAT step by CUDA graph."""

    def figure(case: Row) -> float:
        rows = [row for row in case["rows"] if row.get("engine") == "graph" and row["method"] == "iseat"]
        timed = [row["host_ms"] for row in rows if not row["problem"] and not row["mode"]]
        if not timed:
            raise AbsentError(rows[0]["problem"] if rows else "no CUDA graph in this run")
        return float(min(timed))

    return _first(document, PRN18, figure)


def minutes(document: Document) -> float:
    """Of the CIFAR-10 recipe for ISEAT, reckoned from its steps on an H200."""
    if "H200" not in document["machine"]["device"]:
        raise AbsentError("needs an H200")
    return _first(document, PRN18, lambda case: float(case["recipe_hours"][best(case)["variant"]]) * 60)


def data(document: Document) -> float:
    """What the dearest loader adds to steps on one fixed batch."""
    rows = [row for case in document.get("epoch", ()) for row in case["rows"][1:] if not row["problem"]]
    if not rows:
        raise AbsentError("bench epoch tells")
    return float(max(row["overhead"] for row in rows))


def attack(document: Document) -> float:
    """The speed of our fastest AutoAttack over the authors' code, on a PRN18 that can be broken."""
    cases = [c for c in document.get("attack", ()) if c.get("arch") == "prn18" and not c["unbroken"]]
    if not cases:
        raise AbsentError("bench attack --weights tells")
    rows = cases[-1]["rows"]
    mine, theirs = (
        [row["median"] for row in rows if row["ours"] == ours and not row["problem"]] for ours in (1, 0)
    )
    if not (mine and theirs):
        raise AbsentError(next((row["problem"] for row in rows if row["problem"]), "pyautoattack was left out"))
    return float(theirs[0] / min(mine))


def on_cpu(case: Row, *, native: bool = False) -> Find:
    """The speed of our eager engine over the eager baseline of its precision; ``native`` asks for that bn_act."""

    def find(_document: Document) -> float:
        if native and "bn_act" not in case:
            raise AbsentError("this run does not tell what served bn_act")
        if native and case["bn_act"] != "native":
            raise AbsentError("native bn_act does not serve here")
        full = any(row["variant"] == "eager" for row in case["rows"])
        precision, baseline = ("full", "eager") if full else ("bf16", "eager-bf16")
        mine = row_of(case, f"fastiseat-eager-{precision}", "iseat")
        return float(row_of(case, baseline, "iseat")["median"] / mine["median"])

    return find
