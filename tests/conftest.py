"""What holds for every test: fresh memory is NaN, the seed is fixed, global settings are left as found."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import hypothesis
import pytest
import torch
from torch import Tensor

# cuBLAS reads this once, when it is first used, and refuses to be deterministic without.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


# torch notes its constructors at the first use of a device context; it must not note the poisoned ones.
with torch.device("meta"):
    torch.empty(0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how close the engine came to the oracle, over all the tests that compare them."""
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
