"""What ``bench step`` times: this library's engines and the baselines, each as a variant of one training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from torch import nn

from fastiseat.bench.baselines import BASELINES, EagerBaseline
from fastiseat.bench.steps.modes import MODES, PLAIN, Mode
from fastiseat.bench.steps.subjects import BaselineSubject, EngineSubject, Subject
from fastiseat.config import Config
from fastiseat.engine.precision import DTYPES
from fastiseat.errors import unknown


class PassCounts(NamedTuple):
    """Forward, input-gradient and weight-gradient passes of one step, with 10 attack steps."""

    forward: int
    input: int
    weight: int

    @property
    def units(self) -> int:
        """All of them, each counted as one."""
        return sum(self)


NECESSARY = {
    "at": PassCounts(11, 11, 1),
    "at-awp": PassCounts(12, 12, 2),
    "lsi": PassCounts(11, 12, 2),
    "iseat": PassCounts(12, 13, 3),
}
"""What each method needs where nothing is computed twice; what the engines here compute."""

DEVICES = {"eager": "", "graph": "cuda", "compile": "", "tape": "cpu"}
"""The engines that are timed, and the only kind of device that one runs on."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to compute the step."""

    name: str
    description: str
    precision: str
    """``full``, ``bf16`` or ``fp16``."""
    units: Mapping[str, float]
    """By method; a method that is missing here is not offered."""
    build: Callable[[nn.Module, Config], Subject]
    """Takes the network, which becomes its own, and the settings."""
    engine: str = ""
    """Of this library; empty for a baseline."""
    mode: Mode = PLAIN
    tf32: bool = True
    """Whether float32 convolutions may use TF32 where the device has it and the process allows it."""
    twin: Callable[[nn.Module, Config], Subject] | None = None
    """Builds the same program for a float64 network, where it can be held to the reference without rounding."""

    @property
    def ours(self) -> bool:
        """Whether it is this library's."""
        return bool(self.engine)


def name_of(engine: str, precision: str, mode: str = PLAIN.name) -> str:
    """Of the library's own variant."""
    return "-".join(filter(None, ("fastiseat", engine, precision, mode)))


def _engine(engine: str, precision: str, mode: Mode) -> Variant:
    # A compiled network always computes the clean pass twice.
    more = MODES["recompute"].units if engine == "compile" else mode.units
    return Variant(
        name=name_of(engine, precision, mode.name),
        description=", ".join(filter(None, (f"this library, engine {engine}, channels-last", mode.description))),
        precision=precision,
        units={method: NECESSARY[method].units + units for method, units in more.items()},
        build=partial(EngineSubject, engine=engine, precision=precision, mode=mode),
        twin=partial(EngineSubject, engine=engine, precision="full", mode=mode),
        engine=engine,
        mode=mode,
    )


def _modes_of(engine: str) -> list[Mode]:
    return [PLAIN] if engine == "compile" else list(MODES.values())


def _in_full(build: Callable[..., EagerBaseline]) -> Callable[..., EagerBaseline]:
    """The same baseline without autocast."""
    return partial(build, amp_dtype=None)


def _baseline(name: str) -> Variant:
    baseline = BASELINES[name]
    return Variant(
        name=name,
        description=baseline.description,
        precision=baseline.precision,
        units=baseline.units,
        build=partial(BaselineSubject, build=baseline.build),
        tf32=baseline.tf32,
        twin=None if name.startswith("compile") else partial(BaselineSubject, build=_in_full(baseline.build)),
    )


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in [
        *(_engine(e, precision, mode) for e in DEVICES for precision in DTYPES for mode in _modes_of(e)),
        *map(_baseline, BASELINES),
    ]
}
"""By name. An entry more is all that it takes to have another one verified, timed and listed."""


def chosen(
    engines: tuple[str, ...],
    precisions: tuple[str, ...],
    baselines: tuple[str, ...],
    modes: tuple[str, ...] = (PLAIN.name,),
) -> list[Variant]:
    """The library's own in all combinations, then the baselines; :class:`UserError` for a name that is none.

    Engine ``compile`` has the plain mode alone, whatever ``modes`` says.
    """
    for kind, names, known in (
        ("engine", engines, tuple(DEVICES)),
        ("precision", precisions, tuple(DTYPES)),
        ("baseline", baselines, tuple(name for name, variant in VARIANTS.items() if not variant.ours)),
    ):
        for name in names:
            if name not in known:
                raise unknown(kind, name, known)
    ours = [
        VARIANTS[name_of(engine, precision, mode)]
        for engine in engines
        for precision in precisions
        for mode in (modes if engine != "compile" else (PLAIN.name,))
    ]
    return [*ours, *(VARIANTS[name] for name in baselines)]
