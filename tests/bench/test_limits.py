"""What does not fit or does not exist is said before anything is measured."""

import pytest
import torch
from bench_case import CASE, CPU, network

from fastiseat.bench.steps import limits
from fastiseat.bench.steps.limits import require_fit, require_supported
from fastiseat.bench.steps.memory import largest_batch, peak_bytes
from fastiseat.bench.steps.variants import VARIANTS
from fastiseat.errors import UserError
from fastiseat.pipelines.protocol.memory import free_bytes


def test_the_peak_is_the_most_that_was_held_at_once():
    def act():
        for _ in range(3):
            torch.empty(1_000_000)
        first, second = torch.empty(500_000), torch.empty(500_000)
        del first, second

    assert peak_bytes(act, CPU) == pytest.approx(4_000_000, rel=0.01)


def test_measuring_memory_prints_nothing(capfd):
    peak_bytes(lambda: torch.empty(10), CPU)
    assert capfd.readouterr() == ("", "")


def test_the_largest_batch_lies_on_the_line_through_two_probes():
    assert largest_batch(lambda m: 1000 + 10 * m, 2005, probes=(2, 4)) == 100
    assert largest_batch(lambda m: 1000 + 10 * m, 500, probes=(2, 4)) == 0


def test_free_memory_is_plausible():
    assert 2**26 < free_bytes(CPU) < 2**50


def test_a_batch_that_does_not_fit_is_refused_with_one_that_would(monkeypatch):
    monkeypatch.setattr(limits, "free_bytes", lambda device: 2**22)
    variant, config = VARIANTS["fastiseat-eager-full"], CASE.config()
    require_fit(variant, network(), config, (1, 8, 8), 10, CPU)
    monkeypatch.setattr(limits, "free_bytes", lambda device: 2**17)
    with pytest.raises(
        UserError, match=r"batch_size=12: small at 8×8 takes more than the 0\.0 GiB .* about \d images"
    ):
        require_fit(variant, network(), config, (1, 8, 8), 10, CPU)


@pytest.mark.parametrize(
    ("capability", "names", "complaint"),
    [
        ((7, 5), ["fastiseat-eager-bf16"], r"fastiseat-eager-bf16: Card \(compute capability 7\.5\) has no bf16"),
        ((7, 0), ["eager", "compile-careful"], r"compile-careful: .* which came with 8\.0; use fp16"),
    ],
)
def test_a_card_without_bf16_is_told(monkeypatch, capability, names, complaint):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Card")
    with pytest.raises(UserError, match=complaint):
        require_supported([VARIANTS[name] for name in names], torch.device("cuda"))


def test_newer_cards_and_other_precisions_pass(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 0))
    there = [v for v in VARIANTS.values() if v.engine != "tape"]
    require_supported(there, torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 0))
    require_supported([v for v in there if v.precision != "bf16"], torch.device("cuda"))


@pytest.mark.parametrize(("engine", "device"), [("graph", "cpu"), ("tape", "cuda")])
def test_an_engine_of_another_kind_of_device_is_told(engine, device):
    complaint = (
        rf"fastiseat-{engine}-full: engine {engine} records on a c\w+ device, this is {device}; use engine eager"
    )
    with pytest.raises(UserError, match=complaint):
        require_supported([VARIANTS[f"fastiseat-{engine}-full"]], torch.device(device))


def test_a_cpu_s_lacks_are_told(monkeypatch):
    with pytest.raises(
        UserError, match="eager-fp16: PyTorch's fp16 convolutions crawl on a CPU; use full or bf16"
    ):
        require_supported([VARIANTS["eager-fp16"]], CPU)
    monkeypatch.setattr(limits, "precision_for_amp", lambda device: "full")
    with pytest.raises(UserError, match="eager-bf16: this CPU has no bf16 instructions"):
        require_supported([VARIANTS["eager-bf16"]], CPU)
