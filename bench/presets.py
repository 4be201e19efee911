"""What is measured on which card where nothing else is said."""

from __future__ import annotations

from dataclasses import dataclass

from fastiseat.errors import unknown
from fastiseat.names.networks import canonical_arch

PAPER_METHODS = ("at", "lsi", "at-awp", "iseat")
"""In the order of the paper's Table 7."""
_BF16 = ("eager", "eager-strict", "eager-wasteful", "eager-bf16", "compile-naive", "compile-careful")
_FP16 = ("eager", "eager-strict", "eager-wasteful", "eager-fp16", "compile-naive-fp16", "compile-careful-fp16")
_PRN18, _PRN18_64 = ("prn18", "cifar10", 128), ("prn18", "tinyimagenet", 128)
_WRN = ("wrn-34-10", "cifar10", 128)
_ATTACKED = ("prn18", "cifar10", 1000, 500)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Cases as (arch, data set, batch size), and what is compared in them."""

    cases: tuple[tuple[str, str, int], ...]
    precisions: tuple[str, ...]
    """Of this library's steps, the fastest first."""
    baselines: tuple[str, ...]
    engines: tuple[str, ...] = ("graph", "eager")
    methods: tuple[str, ...] = PAPER_METHODS
    images: int = 50_000
    """Random images that loaders read."""
    alone: int = 128
    """The batch that kernels and loaders are measured at, without a network."""
    attacked: tuple[str, str, int, int] = _ATTACKED
    """Arch, data set, images and batch size of ``bench attack``; only a network for digits is trained there."""
    marks: tuple[str, ...] = ()
    """Parts of a device's name that choose this preset."""


PRESETS = {
    "a100": Preset(cases=(_PRN18, _PRN18_64, _WRN), precisions=("bf16", "full"), baselines=_BF16, marks=("A100",)),
    "v100": Preset(cases=(_PRN18, _PRN18_64, _WRN), precisions=("fp16", "full"), baselines=_FP16, marks=("V100",)),
    "3080ti": Preset(cases=(_PRN18, _PRN18_64), precisions=("bf16", "full"), baselines=_BF16, marks=("3080",)),
    "h200": Preset(
        cases=(_PRN18, _PRN18_64, _WRN), precisions=("bf16", "full"), baselines=_BF16, marks=("H200", "H100")
    ),
    "cpu": Preset(
        cases=(("prn18", "cifar10", 4), ("small", "digits", 128)),
        precisions=("full",),
        baselines=("eager", "eager-wasteful"),
        engines=("eager",),
        images=10_000,
        attacked=("small", "digits", 100, 100),
    ),
}


def preset(name: str, *, device_name: str, kind: str) -> Preset:
    """The preset called ``name``; for ``auto`` the device's own, or the most like it."""
    if name != "auto":
        if name not in PRESETS:
            raise unknown("preset", name, [*PRESETS, "auto"])
        return PRESETS[name]
    if kind == "cpu":
        return PRESETS["cpu"]
    fitting = (found for found in PRESETS.values() if any(mark in device_name for mark in found.marks))
    return next(fitting, PRESETS["3080ti"])


def cases(
    chosen: Preset, archs: tuple[str, ...], datasets: tuple[str, ...], batch_sizes: tuple[int, ...]
) -> tuple[tuple[str, str, int], ...]:
    """The preset's cases, or where any of these is given all combinations; what is not given is the first case's."""
    if not (archs or datasets or batch_sizes):
        return chosen.cases
    arch, dataset, batch_size = chosen.cases[0]
    return tuple(
        (canonical_arch(a), d, b)
        for a in archs or (arch,)
        for d in datasets or (dataset,)
        for b in batch_sizes or (batch_size,)
    )
