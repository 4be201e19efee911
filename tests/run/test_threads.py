"""How many threads a run on a CPU computes with, and how they wait."""

import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import tiny
import torch

from fastiseat import waiting
from fastiseat.cli.machine import without_native
from fastiseat.config import Execution
from fastiseat.errors import UserError
from fastiseat.kernels.core import native
from fastiseat.run import threads
from fastiseat.run.threads import Threads, as_begun, begun_with, computing_with, faster
from fastiseat.run.trainer import Trainer


@pytest.fixture(autouse=True)
def few_digits(monkeypatch):
    tiny.install(monkeypatch)
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def two_threads():
    """As on a machine of two cores or more."""
    found = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(found)


def made(out, *, resume=False, count=None, method="none", **more):
    config = tiny.config(method, epochs=2)
    execution = Execution(threads=count)
    return Trainer(
        config, out, device=tiny.CPU, observer=more.pop("observer", None) or tiny.Watcher(), resume=resume,
        execution=execution, **more,
    )  # fmt: skip


@pytest.mark.parametrize("slow", [1, 2])
def test_the_faster_count_is_taken(two_threads, slow):
    told = faster(lambda: time.sleep(0.02 if torch.get_num_threads() == slow else 0.001))
    assert told.count == 3 - slow
    assert told.why.startswith(f"{told.count}, as a step takes 0.0") and "--threads N fixes the count" in told.why
    assert torch.get_num_threads() == 2


def test_the_count_is_the_callers_again_whatever_happens(two_threads):
    def fail():
        assert torch.get_num_threads() == 1
        raise UserError("in the block")

    with pytest.raises(UserError, match="in the block"), computing_with(1):
        fail()
    assert torch.get_num_threads() == 2


def test_a_trial_leaves_no_trace(two_threads, tmp_path):
    """Weights, modes, random numbers and the run's first steps are those of a run without one."""
    plain, tried = made(tmp_path / "plain", method="iseat"), made(tmp_path / "tried", method="iseat")
    before, random = [module.training for module in tried.model.modules()], torch.get_rng_state()
    tried.choose_threads()
    assert tried.threads.why
    assert torch.get_rng_state().equal(random)
    assert [module.training for module in tried.model.modules()] == before
    assert tiny.same_weights(plain.model.state_dict(), tried.model.state_dict())
    assert tried.step.steps_taken == 0 and not (tmp_path / "tried").exists()
    tried.threads = plain.threads  # whichever it was
    plain.run(), tried.run()
    assert tiny.same_weights(plain.model.state_dict(), tried.model.state_dict())


def test_who_has_chosen_is_not_measured_again(two_threads, tmp_path, monkeypatch):
    monkeypatch.setattr("fastiseat.run.trial.faster", lambda _: pytest.fail("measured"))
    given = made(tmp_path / "run", count=1)
    given.choose_threads()
    assert given.threads == Threads(count=1, why="1, as given")
    repeating = made(tmp_path / "run")
    repeating.choose_threads(repeated=1)
    assert repeating.threads.count == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    made(tmp_path / "run").choose_threads()
    monkeypatch.delenv("OMP_NUM_THREADS")
    large = made(tmp_path / "run")
    monkeypatch.setattr("fastiseat.run.trial.SMALL", 1)
    large.choose_threads()
    assert large.threads == Threads(count=2)


def test_a_run_resumes_with_the_count_it_began_with(two_threads, tmp_path):
    """Else sums are cut otherwise and the bits are others'."""
    seen = []

    def watched(stop):
        def look(epoch, step):
            seen.append(torch.get_num_threads())
            if stop and (epoch, step) == (1, 0):
                raise KeyboardInterrupt

        return tiny.Watcher(on_step=look)

    made(tmp_path / "whole", count=1, method="at").run()
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "run", count=1, method="at", observer=watched(stop=True)).run()
    resumed = made(tmp_path / "run", resume=True, method="at", observer=watched(stop=False))
    assert resumed.threads == Threads(count=1, why="1, as the run began")
    resumed.run()
    assert set(seen) == {1} and torch.get_num_threads() == 2
    last = "weights/last.safetensors"
    assert (tmp_path / "run" / last).read_bytes() == (tmp_path / "whole" / last).read_bytes()


def test_more_threads_than_cores_are_not_taken_over(monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: 2)
    assert as_begun(2).count == 2
    assert as_begun(64).count == torch.get_num_threads()
    assert "as 64 that the run began with are more than the cores here" in as_begun(64).why


@pytest.mark.parametrize(
    "stored",
    [{}, {"host": 5, "device": "cpu"}, {"host": {"threads": "2"}, "device": "cpu"}, {"host": {"threads": 2}}],
)
def test_a_record_that_does_not_tell(stored):
    assert begun_with(stored) is None
    assert begun_with({"host": {"threads": 2}, "device": "cpu"}) == 2


def test_a_count_of_none_is_refused():
    with pytest.raises(UserError, match="threads=0: must be at least 1"):
        replace(Execution(), threads=0)


def test_threads_wait_briefly_unless_the_user_says_how():
    environment = {}
    waiting.wait_briefly(environment)
    assert environment == waiting.BRIEFLY
    for name in waiting.CHOICES:
        environment = {name: "7"}
        waiting.wait_briefly(environment)
        assert environment == {name: "7"} and waiting.in_words(environment) == f"{name}=7"
    assert waiting.in_words({}).startswith("as OpenMP's runtime does by default")


def test_the_command_says_so_before_torch_is_loaded_and_a_caller_from_python_is_left_alone():
    code = (
        "import os, sys\nfrom fastiseat import __main__ as cli\n"
        "cli.main(['--version'])\nassert 'GOMP_SPINCOUNT' not in os.environ\n"
        "sys.argv = ['fastiseat', '--version']\ncli.main()\n"
        "assert os.environ['GOMP_SPINCOUNT'] == '1000' and 'torch' not in sys.modules"
    )
    environment = {name: value for name, value in os.environ.items() if name not in waiting.CHOICES}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, stdout=subprocess.DEVNULL)


def test_a_missing_native_library_is_told_where_it_would_have_served(monkeypatch):
    monkeypatch.delenv("FASTISEAT_KERNELS", raising=False)
    missing = native.Library(None, "not built: install a C++ compiler and make, then install fastiseat again")
    monkeypatch.setattr(native, "library", lambda device="cpu": missing)
    told = without_native(tiny.CPU)
    assert told.startswith(
        "PyTorch's own, which are slower: the native library is not built: install a C++ compiler"
    )
    monkeypatch.setenv("FASTISEAT_KERNELS", "reference")
    assert without_native(tiny.CPU) == ""


def test_a_native_library_that_is_there_is_not_mentioned(monkeypatch):
    monkeypatch.delenv("FASTISEAT_KERNELS", raising=False)
    assert without_native(tiny.CPU) == ""
