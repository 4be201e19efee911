"""What ``fastiseat doctor`` finds, on machines that are made up."""

import importlib
import platform
import subprocess
import sys
from contextlib import nullcontext
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

from fastiseat import diagnosis
from fastiseat.diagnosis import extras, nvidia, system
from fastiseat.diagnosis.choices import choices, kernel_choices
from fastiseat.diagnosis.finding import Gpu
from fastiseat.kernels import FIRST_DTYPES, ops
from fastiseat.kernels.core import native, triton_support

CU126 = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")
CU130 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
GIB = 2**30
CARDS = {"V100": ("Tesla V100-SXM2-16GB", 7, 0, 16), "H100": ("NVIDIA H100 80GB HBM3", 9, 0, 80)}


@pytest.fixture(autouse=True)
def no_kernels_for_cuda(monkeypatch, tmp_path):
    """What was built or installed here for CUDA devices changes nothing."""
    monkeypatch.setitem(native.LIBRARIES, "cuda", tmp_path / "none.so")
    monkeypatch.setattr(triton_support, "find_spec", lambda name: None)
    loaded = native.library
    loaded.cache_clear()
    yield
    loaded.cache_clear()


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of packages instead of the installed ones, each with code that must never run."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *(path for path in sys.path if "-packages" not in path)])

    def install(name, version=None, files=(), distribution=None):
        for file in files:
            path = tmp_path / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"raise SystemExit('{name} was imported')")
        if version:
            info = tmp_path / f"{(distribution or name).replace('-', '_')}-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {distribution or name}\nVersion: {version}\n"
            )
        importlib.invalidate_caches()

    return install


@pytest.fixture
def bare(monkeypatch):
    """No optional package is found, whatever is installed here."""
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    monkeypatch.setattr(extras.metadata, "version", _not_installed)


def _not_installed(name):
    raise metadata.PackageNotFoundError(name)


def smi(*names, driver="580.95.05"):
    """What nvidia-smi prints."""
    rows = [(CARDS[name], index) for index, name in enumerate(names)]
    return "".join(f"{i}, {c[0]}, {c[1]}.{c[2]}, {c[3] * 1024}, {driver}\n" for c, i in rows)


@pytest.fixture
def machine(monkeypatch):
    """A machine with these cards and a torch of this build."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def set_up(*names, cuda, architectures=(), driver="580.95.05", seen=True):
        cards = [
            SimpleNamespace(name=c[0], major=c[1], minor=c[2], total_memory=c[3] * GIB)
            for c in map(CARDS.get, names)
        ]
        sees = seen and cuda is not None and bool(cards)
        monkeypatch.setattr(nvidia, "nvidia_smi", lambda: smi(*names, driver=driver) if names else None)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: sees)
        monkeypatch.setattr(torch.cuda, "init", lambda: None)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards) if sees else 0)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(architectures) if sees else [])
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: cards[index])
        capability = lambda device=None: (cards[0].major, cards[0].minor)  # noqa: E731
        monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
        monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())

    return set_up


@pytest.fixture
def kernels_of(monkeypatch, tmp_path):
    """An installation with these kernels, whatever this one has."""
    monkeypatch.delenv("FASTISEAT_KERNELS", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)

    def set_up(*, triton, libraries):
        found = native.Library(object(), "") if libraries else native.load(tmp_path / "none.so")
        monkeypatch.setattr(native, "library", lambda device="cpu": found)
        monkeypatch.setattr(triton_support, "find_spec", lambda name: object() if triton else None)

    return set_up


def test_a_machine_without_a_card(machine, bare):
    machine(cuda=None)
    found = diagnosis.examine()
    assert found.gpus == ()
    assert not found["NVIDIA driver"].found
    assert found["torch"].what.endswith("CPU build")
    assert {choice.device for choice in choices(torch.device("cpu"), found.gpus).kernels} == {"cpu"}
    for finding in found.findings:
        assert finding.found or (finding.why and finding.remedy), finding
    assert choices(torch.device("cpu"), found.gpus).problem == ""


def test_a_v100_needs_another_build_than_cu130(machine):
    machine("V100", cuda="13.0", architectures=CU130)
    (gpu,) = diagnosis.examine().gpus
    assert (gpu.name, gpu.compute, gpu.memory, gpu.served) == ("Tesla V100-SXM2-16GB", "7.0", 16 * GIB, False)
    assert gpu.why == f"the installed torch has code for {' '.join(CU130)} only"
    assert "cu126 builds of torch up to 2.14" in gpu.builds
    assert '"torch<2.15"' in gpu.remedy
    assert gpu.remedy.endswith("/whl/cu126")
    chosen = choices(torch.device("cuda"), [gpu])
    assert (chosen.device, chosen.amp) == ("cuda", "fp16")
    assert chosen.problem.startswith("will fail on GPU 0: the installed torch has code for")
    assert chosen.problem.endswith("--device cpu")


def test_a_v100_that_a_cuda_13_build_does_not_even_see(machine):
    machine("V100", cuda="13.0", seen=False)
    (gpu,) = diagnosis.examine().gpus
    assert (gpu.served, gpu.why) == (False, "the installed torch is a CUDA 13.0 build")
    assert gpu.remedy.endswith("/whl/cu126")


@pytest.mark.parametrize(("card", "amp"), [("V100", "fp16"), ("H100", "bf16")])
def test_cards_with_a_build_that_serves_them(machine, kernels_of, card, amp):
    kernels_of(triton=False, libraries=False)
    machine(card, cuda="12.6", architectures=CU126)
    (gpu,) = diagnosis.examine().gpus
    assert (gpu.served, gpu.why, gpu.remedy) == (True, "", "")
    chosen = choices(torch.device("cuda"), [gpu])
    assert (chosen.problem, chosen.amp) == ("", amp)
    assert [(choice.device, choice.op) for choice in chosen.kernels] == [
        (device, op.name) for device in ("cpu", "cuda:0") for op in ops()
    ]


@pytest.mark.parametrize(("card", "best"), [("V100", "native"), ("H100", "triton")])
def test_kernels_by_card(machine, kernels_of, card, best):
    kernels_of(triton=True, libraries=True)
    machine(card, cuda="12.6", architectures=CU126)
    chosen = {choice.op: choice.backend for choice in kernel_choices("cuda")}
    assert (chosen["augment"], chosen["idbh"]) == (best, "reference")


def test_the_first_card_is_chosen_and_the_second_would_do(machine):
    machine("V100", "H100", cuda="13.0", architectures=CU130)
    found = diagnosis.examine().gpus
    assert [gpu.served for gpu in found] == [False, True]
    assert choices(torch.device("cuda"), found).problem.endswith("--device cuda:1")


def test_a_card_that_a_cpu_build_can_not_use(machine):
    machine("H100", cuda=None)
    (gpu,) = diagnosis.examine().gpus
    assert (gpu.memory, gpu.served, gpu.why) == (80 * GIB, False, "the installed torch is not a CUDA build")
    assert gpu.remedy == f'pip install --force-reinstall "torch" --index-url {nvidia.INDEX}/cu130'


def test_an_old_driver_is_to_be_updated_before_cuda_13(machine):
    machine("H100", cuda=None, driver="535.104.05")
    found = diagnosis.examine()
    assert found["NVIDIA driver"].what == "535.104.05"
    assert found.gpus[0].remedy.startswith("update the driver, 535.104.05, to 580 or newer")


@pytest.mark.parametrize(
    ("capability", "driver", "index"),
    [((7, 0), "580.1", "cu126"), ((8, 0), "535.1", "cu126"), ((8, 0), "580.1", "cu130"), ((12, 0), "", "cu130")],
)
def test_the_build_that_card_and_driver_take(capability, driver, index):
    gpu = Gpu(index=0, name="", capability=capability, memory=None)
    build = nvidia.Build(cuda=None, architectures=(), sees_gpus=False, complaint="")
    assert nvidia.diagnose_gpu(gpu, build, driver).remedy.endswith(f"/whl/{index}")


def test_hidden_cards(machine, monkeypatch):
    machine("H100", cuda="13.0", seen=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (gpu,) = diagnosis.examine().gpus
    assert (gpu.why, gpu.remedy) == ("torch sees no card with CUDA_VISIBLE_DEVICES=", "unset CUDA_VISIBLE_DEVICES")


def test_what_torch_warns_of_is_the_reason(machine, monkeypatch):
    machine("H100", cuda="13.0", seen=False, driver="535.1")

    def warn():
        import warnings

        warnings.warn("CUDA initialization: the driver\n is too old", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", warn)
    (gpu,) = diagnosis.examine().gpus
    assert gpu.why == "torch sees no card: CUDA initialization: the driver is too old"


def test_a_card_that_does_not_answer(machine, monkeypatch):
    machine("H100", cuda="13.0", architectures=CU130)

    def fail(*_):
        raise RuntimeError("CUDA unknown error")

    monkeypatch.setattr(torch.cuda, "init", fail)
    monkeypatch.setattr(torch.cuda, "get_device_capability", fail)
    found = diagnosis.examine()
    assert found.gpus[0].why == "torch sees no card: CUDA unknown error"
    chosen = choices(torch.device("cuda"), found.gpus)
    assert chosen.amp == "unknown"
    assert "CUDA unknown error" in chosen.problem


@pytest.mark.parametrize(
    ("architectures", "capability", "served"),
    [
        (CU130, (7, 0), False),
        (CU126, (7, 0), True),
        (CU130, (8, 9), True),  # machine code of 8.6 runs on 8.9
        (CU130, (9, 0), True),
        (CU130, (12, 1), True),
        (CU126, (12, 0), False),
        (("sm_86",), (8, 0), False),
        (("sm_90a",), (9, 0), True),
        (("sm_100a",), (10, 3), False),
        (("sm_100f",), (10, 3), True),
        (("compute_90",), (12, 0), True),
        (("compute_90",), (8, 0), False),
        (("compute_90a",), (12, 0), False),
        (("gfx942",), (9, 4), False),
        ((), (9, 0), False),
    ],
)
def test_which_code_runs_on_which_card(architectures, capability, served):
    assert nvidia.serves(architectures, capability) is served


def test_nvidia_smi_that_is_missing_fails_or_says_little(monkeypatch):
    def run(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", run)
    assert nvidia.nvidia_smi() is None
    assert nvidia.driver_finding("").why == "nvidia-smi shows no card"
    build = nvidia.Build(cuda=None, architectures=(), sees_gpus=False, complaint="")
    text = "No devices were found\n0, NVIDIA GB10, 12.1, [N/A], 580.1\n1, odd, [N/A], 1, 580.1\n"
    (gpu,) = nvidia.gpus(text, build)
    assert (gpu.capability, gpu.memory) == ((12, 1), None)


def test_the_missing_native_library(machine, monkeypatch, tmp_path):
    machine(cuda=None)
    missing = native.load(tmp_path / "none.so")
    monkeypatch.setattr(native, "library", lambda device="cpu": missing)
    found = diagnosis.examine()["native library"]
    assert (found.found, found.why) == (False, "not built")
    assert found.remedy == "install a C++ compiler and make, then install fastiseat again"
    found = diagnosis.examine()["CUDA library"]
    assert (found.found, found.why) == (False, "not built")
    assert found.remedy.startswith("only for a machine with an NVIDIA card: install")


def test_a_native_library_that_can_not_be_loaded(monkeypatch, tmp_path):
    (tmp_path / "odd.so").write_text("no library")
    monkeypatch.setattr(native, "library", lambda device: native.load(tmp_path / "odd.so"))
    found = extras.native_finding("cpu")
    assert found.why.startswith("cannot be loaded (")
    assert found.why.endswith(")")
    assert found.remedy == "install fastiseat again"


def test_the_native_library_at_hand(monkeypatch):
    monkeypatch.setattr(native, "library", lambda device: native.Library(object(), ""))
    assert extras.native_finding("cpu").found
    assert extras.native_finding("cuda").what == f"interface {native.ABI_VERSION}"


def test_ffcv_is_looked_at_and_not_imported(site):
    site("ffcv", "1.0.2", ["ffcv/__init__.py"])
    found = extras.ffcv_finding()
    assert (found.found, found.what) == (True, "1.0.2")


def test_a_plain_folder_is_no_package(site, tmp_path):
    (tmp_path / "apex").mkdir()  # a clone of Apex's repository in the current folder
    assert extras.apex_finding().why == "not installed"


def test_triton_says_which_cards_it_supports(site):
    site("triton", "3.7.0", ["triton/__init__.py"])
    old, new = (Gpu(index=i, name="", capability=c, memory=None) for i, c in enumerate([(7, 0), (9, 0)]))
    assert (extras.triton_finding([new]).what, extras.triton_finding([new]).why) == ("3.7.0", "")
    assert extras.triton_finding([old, new]).why == "serves compute capability 8.0 and later, not GPU 0 (7.0)"


def test_the_placeholder_of_dali_is_not_dali(site):
    site("dali", "1.99", distribution="nvidia-dali")
    found = extras.dali_finding()
    assert (found.found, found.why) == (False, "nvidia-dali 1.99 is a placeholder without content")
    assert "nvidia-dali-cuda130" in found.remedy


@pytest.mark.parametrize("name", extras.DALI)
def test_dali_under_its_real_names(site, name):
    site(name, "2.4.0", ["nvidia/__init__.py", "nvidia/dali/__init__.py"])
    assert (extras.dali_finding().found, extras.dali_finding().what) == (True, f"{name} 2.4.0")


def test_dali_without_its_files(site):
    site("nvidia-dali-cuda120", "2.4.0")
    assert (extras.dali_finding().found, "files are gone" in extras.dali_finding().why) == (False, True)


def test_another_project_named_apex(site):
    site("apex", "0.9.10.dev0", ["apex/__init__.py", "apex/views.py"])
    found = extras.apex_finding()
    assert not found.found
    assert found.why == "apex 0.9.10.dev0 is installed, but it is not NVIDIA's: no apex.optimizers"
    assert found.remedy.startswith("pip uninstall apex; build it from source")


def test_nvidias_apex_with_and_without_its_cuda_code(site):
    site("apex", "0.1", ["apex/__init__.py", "apex/optimizers/__init__.py", "apex/optimizers/fused_sgd.py"])
    found = extras.apex_finding()
    assert (found.found, found.why.startswith("built without its CUDA code")) == (True, True)
    site("amp_C", files=["amp_C.py"])
    found = extras.apex_finding()
    assert (found.found, found.what, found.why) == (True, "0.1, with CUDA code", "")


@pytest.mark.parametrize(
    ("name", "release", "what", "why"),
    [
        ("Linux", "6.8.0", ": supported, on CPUs and NVIDIA GPUs", ""),
        ("Linux", "5.15.0-microsoft-standard-WSL2", "(WSL)", ""),
        ("Darwin", "24.0", ": supported, on the CPU only", "Apple's GPUs are not used"),
        ("Windows", "11", "Windows 11", "not supported"),
        ("FreeBSD", "14", "FreeBSD 14", "not supported"),
    ],
)
def test_operating_systems(monkeypatch, name, release, what, why):
    monkeypatch.setattr(platform, "system", lambda: name)
    monkeypatch.setattr(platform, "release", lambda: release)
    found = system.system_finding()
    assert what in found.what
    assert found.why == why
    assert ("WSL" in found.remedy) == (name == "Windows")


def test_versions_that_nobody_tried(monkeypatch):
    monkeypatch.setattr(platform, "python_version", lambda: "3.15.0")
    assert system.python_finding().why == "not among the tested versions, 3.11, 3.12, 3.13"
    monkeypatch.setattr(torch, "__version__", "2.12.1+cu130")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    found = system.torch_finding()
    assert (found.what, found.why) == (
        "2.12.1+cu130, CUDA 13.0 build",
        "not among the tested versions, 2.11, 2.13",
    )


def test_amd_builds_are_told_as_such(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert system.torch_finding().why == "ROCm builds are not supported"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not nvidia.torch_build().sees_gpus


def test_a_torch_that_can_not_be_imported(machine, bare, monkeypatch):
    machine("H100", cuda=None)
    monkeypatch.setitem(sys.modules, "torch", None)
    found = diagnosis.examine()
    assert (found["torch"].found, found.gpus) == (False, ())
    assert found["torch"].why.startswith("cannot be imported: ")
    assert found["NVIDIA driver"].found


def test_kernels_are_told_by_the_code_that_chooses(monkeypatch):
    monkeypatch.delenv("FASTISEAT_KERNELS", raising=False)
    for op, choice in zip(ops(), kernel_choices("cpu"), strict=True):
        wanted = op.explain("cpu", FIRST_DTYPES.get(op.name, torch.float32))
        assert (choice.device, choice.op, (choice.backend, choice.why)) == ("cpu", op.name, wanted)
    monkeypatch.setenv("FASTISEAT_KERNELS", "reference")
    assert {choice.why for choice in kernel_choices("cpu")} == {"FASTISEAT_KERNELS=reference"}


def test_a_forced_kernel_that_can_not_serve_is_reported(monkeypatch, kernels_of):
    kernels_of(triton=True, libraries=False)
    monkeypatch.setenv("FASTISEAT_KERNELS", "native")
    chosen = {choice.op: choice for choice in kernel_choices("cuda")}
    assert chosen["idbh"].backend == "reference"
    for name in ("augment", "pgd_step"):
        assert chosen[name].backend == "none"
        assert chosen[name].why.startswith(f"FASTISEAT_KERNELS=native cannot serve {name}")
