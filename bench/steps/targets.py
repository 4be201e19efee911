"""What the project aims at, judged by the rows of one document."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from fastiseat.bench.figures import (
    NHWC,
    PRN18,
    PRN18_64,
    WRN,
    AbsentError,
    Find,
    attack,
    data,
    excess,
    host,
    minutes,
    named,
    on_cpu,
    ours,
    ratio,
    share,
)
from fastiseat.bench.words import Document


@dataclass(frozen=True, kw_only=True)
class Target:
    """A figure and the limit that it is to keep."""

    what: str
    find: Find
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


_BASELINES: tuple[tuple[str, tuple[str, ...], float], ...] = (
    ("eager, strict float32", ("eager-strict",), 5),
    ("eager, PyTorch's defaults", ("eager",), 3),
    ("eager, AMP, channels-last", NHWC, 2.5),
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
        yield Target(what=what, find=share(where), limit=limit, stretch=stretch, form="share")
    yield from _overlapped()
    yield from _other_parts()
    yield from _memory()
    yield from _beside()
    yield from _cpu(document)


def _against_baselines() -> Iterator[Target]:
    for name, variants, limit in _BASELINES:
        find = ratio(PRN18, named(*variants), ours())
        yield Target(what=f"ISEAT, PRN18 at 32×32: speed against {name}", find=find, limit=limit)
    find = ratio(PRN18, ours(), named(*NHWC, method="at"))
    yield Target(what="our ISEAT, time over plain AT in eager AMP", find=find, limit=0.5, at_least=False)


def _costs() -> Iterator[Target]:
    for name, where, limit, stretch in (("PRN18 at 32×32", PRN18, 0.20, 0.17), ("WRN", WRN, 0.22, None)):
        find = excess(where, ours(), ours("at"))
        what = f"ISEAT over AT, {name}"
        yield Target(what=what, find=find, limit=limit, stretch=stretch, at_least=False, form="more")


def _overlapped() -> Iterator[Target]:
    find = excess(PRN18, ours(mode="overlap"), ours("at"))
    what = "the same with the clean pass on a second stream, PRN18 at 32×32"
    yield Target(what=what, find=find, limit=0.17, at_least=False, form="more")


def _other_parts() -> Iterator[Target]:
    what = "an epoch's data over one fixed batch, the dearest loader"
    yield Target(what=what, find=data, limit=0.02, at_least=False, form="more", kind="")
    what = "CPU time of a step by CUDA graph, ISEAT, PRN18 at 32×32"
    yield Target(what=what, find=host, limit=0.3, at_least=False, form="ms")
    what = "200 epochs of ISEAT, PRN18, CIFAR-10, validated by PGD-10, on one H200"
    yield Target(what=what, find=minutes, limit=23, stretch=18, at_least=False, form="min")
    yield Target(what="AutoAttack on PRN18: speed against pyautoattack", find=attack, limit=3)


def _memory() -> Iterator[Target]:
    for name, mode, limit in (("kept", "", 2.1), ("recomputed", "recompute", 1.2)):
        find = ratio(PRN18, ours(mode=mode), ours("at", mode=mode), "peak_bytes")
        yield Target(
            what=f"peak memory, ISEAT over AT, clean graph {name}", find=find, limit=limit, at_least=False
        )


def _beside() -> Iterator[Target]:
    wasteful = "an attack that computes weight gradients too (39 units)"
    find = ratio(PRN18, ours(mode="wasteful"), ours())
    yield Target(what=f"our engine with {wasteful}: its time over ours", find=find, limit=None)
    find = excess(PRN18, ours(mode="wasteful"), ours("at", mode="wasteful"))
    yield Target(what=f"ISEAT over AT, both with {wasteful}", find=find, limit=None, form="more")
    for kind in _APPROXIMATE:
        find = excess(PRN18, ours(mode=kind), ours("at"))
        yield Target(what=f"ISEAT, approximate ({kind}), over AT", find=find, limit=None, form="more")


def _cpu(document: Document) -> Iterator[Target]:
    here = document["machine"]["kind"] == "cpu"
    for case in document["step"] if here else [{"title": "on a CPU", "rows": []}]:
        what = f"{case['title']}: ISEAT by engine eager, speed against the eager baseline"
        yield Target(what=what, find=on_cpu(case), limit=1.03, kind="cpu")
        yield Target(what=f"{what}, with native bn_act", find=on_cpu(case, native=True), limit=1.1, kind="cpu")
