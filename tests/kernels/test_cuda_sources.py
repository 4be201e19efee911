"""The device code without a device: it compiles for old and new cards, and the libraries hold what they declare."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from toolkits import ROOT, Nvrtc, find_nvcc

from fastiseat.kernels.core import native

SOURCES = ROOT / "kernels" / "csrc"
HEADERS = sorted(SOURCES.glob("*.h"))
DEVICE_CODE = sorted((SOURCES / "cuda").glob("*.cuh"))
ARCHS = "75-real;90-real"

needs_nvcc = pytest.mark.skipif(find_nvcc() is None, reason="needs nvcc")
# One worker for what is built once.
pytestmark = pytest.mark.xdist_group("cuda_sources")


def named(paths: list[Path]) -> dict:
    return {"argvalues": paths, "ids": [path.name for path in paths]}


@pytest.fixture(scope="module")
def nvrtc() -> Nvrtc:
    return Nvrtc()


@pytest.mark.parametrize("path", **named(DEVICE_CODE))
def test_device_code_compiles_for_7_0_and_every_kernel_is_instantiated(nvrtc, path):
    source = f'#define FASTISEAT_INSTANTIATE\n#include "{path.name}"\n'
    ptx = nvrtc.compile(source, "--gpu-architecture=sm_70", "--fmad=false", f"-I{path.parent}")
    kernels = set(re.findall(r"__global__\s+void\s+(?:__launch_bounds__\(.*?\)\s*)?(\w+)\s*\(", path.read_text()))
    entries = re.findall(r"\.entry (\w+)", ptx)
    missing = [name for name in kernels if not any(f"{len(name)}{name}" in entry for entry in entries)]
    assert not missing, f"{missing}: instantiate them at the end of the file, in #ifdef FASTISEAT_INSTANTIATE"


def test_nvrtc_sees_what_is_wrong(nvrtc):
    kernel = "template <typename T> __global__ void k(T *x) {{ {} }}\ntemplate __global__ void k<float>(float *);"
    assert ".entry" in nvrtc.compile(kernel.format("*x = 1;"), "--gpu-architecture=sm_70")
    for wrong in ("*x = y;", "int unused;", "__nanosleep(1, 2);"):
        with pytest.raises(RuntimeError, match=r"kernel\.cu"):
            nvrtc.compile(kernel.format(wrong), "--gpu-architecture=sm_70")


@pytest.fixture(scope="module")
def cuda_library(tmp_path_factory) -> Path:
    """Every .cu compiled with warnings as errors; kept between runs for as long as nothing changes."""
    digest = hashlib.sha256(f"{ARCHS} {find_nvcc()}".encode())
    for path in (ROOT / "CMakeLists.txt", *sorted(SOURCES.rglob("*.*"))):
        digest.update(path.name.encode() + path.read_bytes())
    kept = Path(tempfile.gettempdir(), f"fastiseat-tests-{os.getuid()}", f"{digest.hexdigest()[:16]}.so")
    if not kept.exists():
        built = build_cuda(tmp_path_factory.mktemp("build"))
        kept.parent.mkdir(mode=0o700, exist_ok=True)
        for older in kept.parent.glob("*.so"):
            older.unlink(missing_ok=True)
        built.replace(kept)
    return kept


def build_cuda(folder: Path) -> Path:
    cmake = (sys.executable, "-m", "cmake")
    options = ("-DFASTISEAT_CUDA=ON", "-DFASTISEAT_WERROR=ON", f"-DCMAKE_CUDA_COMPILER={find_nvcc()}")
    run(*cmake, "-S", ROOT, "-B", folder, *options, f"-DCMAKE_CUDA_ARCHITECTURES={ARCHS}")
    run(*cmake, "--build", folder, "--target", "fastiseat_cuda", "--parallel", str(os.cpu_count() or 1))
    return folder / "libfastiseat_cuda.so"


def run(*command: str | Path) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def declared() -> dict[str, str]:
    """The functions that the headers declare, and in which."""
    declaration = r"FASTISEAT_API\s+[\w ]+?[ *]+(fastiseat_\w+)\("
    return {name: path.name for path in HEADERS for name in re.findall(declaration, path.read_text())}


def exported(library: Path) -> set[str]:
    """What others see of a library: its functions and nothing of the runtimes inside."""
    table = run("nm", "-D", "--defined-only", library)
    return {line.split()[-1].split("@")[0] for line in table.splitlines()}


def expected(device: str) -> set[str]:
    both = {name for name, header in declared().items() if header == "fastiseat.h"}
    cuda = {name for name in declared() if name.startswith("fastiseat_cuda_")}
    return both | (cuda if device == "cuda" else declared().keys() - cuda)


def test_the_cpu_library_exports_what_is_declared():
    assert len(declared()) > 2
    assert exported(native.LIBRARIES["cpu"]) == expected("cpu")


@needs_nvcc
def test_the_cuda_library_exports_what_is_declared(cuda_library):
    assert exported(cuda_library) == expected("cuda")


@needs_nvcc
def test_the_cuda_library_loads_without_a_driver(cuda_library):
    handle, missing = native.load(cuda_library)
    assert missing == ""
    assert handle.fastiseat_error_name(-1) == b"a dtype, size or choice that it does not serve"
    handle.fastiseat_error_name.argtypes = [ctypes.c_int32]
    assert handle.fastiseat_error_name(209) == b"cudaErrorNoKernelImageForDevice"


@pytest.mark.parametrize("path", **named(HEADERS))
def test_a_header_is_plain_c(path):
    flags = ("-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only")
    run(os.environ.get("CXX", "c++"), "-x", "c", *flags, path)
