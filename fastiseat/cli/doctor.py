"""``fastiseat doctor``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import FlagCreatePairsOff, arg

from fastiseat.cli.console.flags import command_line
from fastiseat.cli.console.output import show_json
from fastiseat.version import __version__

if TYPE_CHECKING:
    from rich.table import Table

    from fastiseat.diagnosis.finding import Choice, Choices, Diagnosis, Finding, Gpu

_AMP = {
    "bf16": "the device has bf16 instructions",
    "fp16": "the card is older than Ampere; with loss scaling",
    "full": "float32: the CPU has no bf16 instructions",
    "unknown": "the device does not answer",
}


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """What this machine has and lacks, how to get it, and what the automatic settings will choose.

    Looks only: changes nothing, and imports no optional package. The exit code is 0 whatever is found.
    """

    as_json: Annotated[FlagCreatePairsOff[bool], arg(name="json")] = False
    """Print the findings as JSON instead of tables."""


ARGUMENTS = Doctor


def main(argv: list[str]) -> None:
    """Look and print."""
    arguments = command_line(ARGUMENTS, argv, prog="fastiseat doctor")
    from fastiseat.diagnosis import examine

    diagnosis = examine()
    chosen = _choices(diagnosis)
    if arguments.as_json:
        show_json(as_json(diagnosis, chosen))
        return
    from fastiseat.cli.console.terminal import Terminal

    console = Terminal()
    console.print(_findings_table(diagnosis))
    if chosen:
        console.print(_choices_table(chosen))
        console.print(_kernels_table(chosen.kernels))


def as_json(diagnosis: Diagnosis, chosen: Choices | None) -> dict[str, Any]:
    """What ``--json`` prints; ``auto`` is null where torch cannot be imported."""
    return {
        "fastiseat": __version__,
        "findings": [asdict(finding) for finding in diagnosis.findings],
        "gpus": [asdict(gpu) | {"capability": gpu.compute} for gpu in diagnosis.gpus],
        "auto": asdict(chosen) if chosen else None,
    }


def _choices(diagnosis: Diagnosis) -> Choices | None:
    if not diagnosis["torch"].found:
        return None
    from fastiseat.cli.machine import choose_device
    from fastiseat.diagnosis.choices import choices

    return choices(choose_device("auto"), diagnosis.gpus)


def _findings_table(diagnosis: Diagnosis) -> Table:
    from rich.text import Text

    from fastiseat.cli.console.tables import titled_table

    table = titled_table(f"fastiseat {__version__} on this machine")
    table.add_column("part", no_wrap=True)
    table.add_column("found", no_wrap=True)
    table.add_column("details", overflow="fold")
    for finding in diagnosis.findings:
        table.add_row(finding.name, "yes" if finding.found else "no", Text("\n".join(_details(finding))))
        if finding.name == "NVIDIA driver":
            for gpu in diagnosis.gpus:
                table.add_row(f"GPU {gpu.index}", "yes", Text("\n".join(_gpu_details(gpu))))
    return table


def _details(finding: Finding) -> Iterator[str]:
    if finding.what:
        yield finding.what
    if finding.why:
        yield finding.why
    if finding.remedy:
        yield f"→ {finding.remedy}"


def _gpu_details(gpu: Gpu) -> Iterator[str]:
    memory = f", {gpu.memory / 2**30:.0f} GiB" if gpu.memory else ""
    yield f"{gpu.name}, compute capability {gpu.compute}{memory}"
    yield f"served by {gpu.builds}"
    if gpu.served:
        yield "the installed torch has code for it"
    else:
        yield gpu.why
        yield f"→ {gpu.remedy}"


def _choices_table(chosen: Choices) -> Table:
    from rich.text import Text

    from fastiseat.cli.console.tables import titled_table

    table = titled_table("What auto will choose")
    for name in ("setting", "choice", "why"):
        table.add_column(name)
    table.add_row("--device", chosen.device, Text(chosen.problem))
    table.add_row("--amp", chosen.amp, _AMP[chosen.amp])
    table.add_row("--engine", chosen.engine, Text(chosen.engine_why))
    table.add_row("--loader", "by size", Text(chosen.loader))
    return table


def _kernels_table(kernels: Sequence[Choice]) -> Table:
    """A row for all the kernels of a device that are served alike for the same reason."""
    from rich.text import Text

    from fastiseat.cli.console.tables import titled_table

    alike: dict[tuple[str, str, str], list[str]] = {}
    for kernel in kernels:
        plain = kernel.backend == "reference" and not kernel.why
        why = "nothing faster is built for it yet" if plain else kernel.why
        alike.setdefault((kernel.device, kernel.backend, why), []).append(kernel.op)
    table = titled_table("Which kernels will serve")
    for name in ("device", "backend"):
        table.add_column(name, no_wrap=True)
    for name in ("kernels", "why nothing faster"):
        table.add_column(name)
    for (device, backend, why), names in alike.items():
        table.add_row(device, backend, Text(", ".join(names)), Text(why))
    return table
