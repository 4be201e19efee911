"""What holds for every test: fresh memory is NaN, the seed is fixed, global settings are left as found."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import hypothesis
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

# Triton reads this when a kernel is made: where no card compiles kernels, its interpreter runs them.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# cuBLAS reads this once, when it is first used, and refuses to be deterministic without.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# Whoever starts the suite with nohup has every process ignore it, and tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


# torch notes its constructors at the first use of a device context; it must not note the poisoned ones.
with torch.device("meta"):
    torch.empty(0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    _say_how_close_the_engine_came(terminalreporter)
    _say_what_ran_kernels(terminalreporter)


def _say_what_ran_kernels(terminalreporter: pytest.TerminalReporter) -> None:
    """How many tests named after a backend ran, so that a silent skip shows."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    for name, how in {
        "triton": " in Triton's interpreter" if interpreted else " on the card",
        "native": "",
    }.items():
        counts = {
            outcome: sum(
                "kernels/" in report.nodeid and name in report.nodeid
                for report in terminalreporter.stats.get(outcome, [])
            )
            for outcome in ("passed", "failed", "skipped")
        }
        if any(counts.values()):
            said = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
            terminalreporter.write_line(f"tests of {name} kernels{how}: {said}")


def _say_how_close_the_engine_came(terminalreporter: pytest.TerminalReporter) -> None:
    """Over all the tests that compare it with the oracle."""
    differences = [
        (value, report.nodeid)
        for report in terminalreporter.stats.get("passed", [])
        for name, value in getattr(report, "user_properties", [])
        if name == "oracle_difference"
    ]
    if differences:
        largest, test = max(differences)
        terminalreporter.write_line(
            f"largest relative difference from the oracle, {len(differences)} comparisons: {largest:.2g} ({test})"
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device")
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)


def _poisoned(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def wrapper(*args, **kwargs) -> Tensor:
        tensor = allocate(*args, **kwargs)
        if tensor.is_floating_point():
            tensor.detach().fill_(torch.nan)
        return tensor

    return wrapper


@pytest.fixture(scope="session", autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fill what ``torch.empty`` and ``empty_like`` return with NaN: a read before a write shows at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", _poisoned(torch.empty))
        patch.setattr(torch, "empty_like", _poisoned(torch.empty_like))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_disks() -> Iterator[None]:
    """What tests write need not outlast the machine: ``fsync`` only looks whether there is such a file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: os.fstat(file) and None)
        yield


@pytest.fixture(scope="session", autouse=True)
def blank_pictures() -> Iterator[Callable[..., Figure]]:
    """Runs leave the curves out of their picture, whose drawing is a third of a short run's time; what draws them."""
    from fastiseat.report import curves

    drawing = curves._figure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "_figure", lambda rows, *, title: Figure(figsize=(1, 1)))
        yield drawing


@pytest.fixture
def drawn_pictures(blank_pictures: Callable[..., Figure], monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures as users get them."""
    monkeypatch.setattr("fastiseat.report.curves._figure", blank_pictures)


def _global_settings() -> dict[str, object]:
    return {
        "threads": torch.get_num_threads(),
        "default dtype": torch.get_default_dtype(),
        "grad enabled": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


@pytest.fixture(autouse=True)
def same_world() -> Iterator[None]:
    """Start from a fixed seed, whatever ran before, and fail a test that leaves a global setting changed."""
    torch.manual_seed(0)
    before = _global_settings()
    yield
    assert _global_settings() == before
