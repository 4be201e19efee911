"""The words of a diagnosis."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing looked for."""

    name: str
    found: bool
    what: str = ""
    """Version and kind of what was found."""
    why: str = ""
    """Why it is missing, or what is wrong with it; empty where all is well."""
    remedy: str = ""
    """How to get it or to mend it."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """An NVIDIA card, and whether the installed torch can run on it."""

    index: int
    name: str
    capability: tuple[int, int]
    memory: int | None
    """Bytes; None where the driver does not tell."""
    served: bool = False
    why: str = ""
    """Why not."""
    builds: str = ""
    """Which builds of torch serve it."""
    remedy: str = ""

    @property
    def compute(self) -> str:
        """The compute capability as NVIDIA writes it, such as 9.0."""
        return f"{self.capability[0]}.{self.capability[1]}"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which implementation will serve an op on a device, and why not a faster one."""

    device: str
    op: str
    backend: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What the automatic settings come to on this machine."""

    device: str
    problem: str
    """Why training on this device will fail; empty where it will not."""
    amp: str
    loader: str
    engine: str
    engine_why: str
    kernels: tuple[Choice, ...]
    """Of every op on the CPU and on each card that torch serves."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """All findings, and the cards among them."""

    findings: tuple[Finding, ...]
    gpus: tuple[Gpu, ...]

    def __getitem__(self, name: str) -> Finding:
        """The finding of that name."""
        return next(finding for finding in self.findings if finding.name == name)
