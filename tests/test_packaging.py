"""What is built and installed: names, tags, contents, with and without a compiler, as a wheel and editable."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from toolkits import find_nvcc

from fastiseat.version import __version__

ROOT = Path(__file__).parents[1]
LIBRARY, CUDA_LIBRARY = (f"fastiseat/kernels/core/libfastiseat_{name}.so" for name in ("native", "cuda"))
WEIGHTS = "fastiseat/assets/digits-iseat.safetensors"
# One card, and once for all of these tests: the device code takes longest.
CUDA = {"FASTISEAT_CUDA_ARCHS": "75" if find_nvcc() else "none"}
NO_CUDA = {"FASTISEAT_CUDA_ARCHS": "none"}
BUILT = shutil.ignore_patterns(".*", "__pycache__", "*.so", "*.egg-info", "build", "dist", "runs")

# One worker for all, so that what the fixtures build is built once.
pytestmark = [
    pytest.mark.xdist_group("packaging"),
    pytest.mark.skipif(shutil.which(os.environ.get("CXX", "c++")) is None, reason="needs a C++ compiler"),
]


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Output and errors of a command that has to succeed, with a clean environment for Python."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env=inherited | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def build(source: Path, kind: str, target: Path, **environment: str) -> Path:
    run(sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "-o", target, cwd=source, **environment)
    (built,) = target.iterdir()
    return built


def make_venv(folder: Path) -> Path:
    """A new environment that sees this one's packages, but not its editable fastiseat."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "parent.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    return folder / "bin" / "python"


def pip_install(python: Path, *what: str | Path, cwd: Path, **environment: str) -> str:
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    return run(*pip, "install", "--no-deps", "--no-build-isolation", *what, cwd=cwd, **environment)


def ask(python: Path, code: str, cwd: Path) -> str:
    return run(python, "-c", code, cwd=cwd).strip()


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the sources as in a fresh clone: nothing built, nothing left over."""
    copy = tmp_path_factory.mktemp("clone") / "fastiseat"
    return shutil.copytree(ROOT, copy, ignore=BUILT)


@pytest.fixture(scope="module")
def quick_compiler(tmp_path_factory) -> dict[str, str]:
    """Where it is not the code that is asked about: a compiler that leaves it as it is written."""
    script = tmp_path_factory.mktemp("compiler") / "c++"
    script.write_text(f'#!/bin/sh\nexec {shutil.which(os.environ.get("CXX", "c++"))} "$@" -O0\n')
    script.chmod(0o755)
    return {"CXX": str(script)}


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    return build(source, "wheel", tmp_path_factory.mktemp("wheel"), **CUDA)


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_serves_every_python_of_the_platform(wheel):
    name, version, python, abi, platform = wheel.stem.split("-")
    assert (name, version, python, abi) == ("fastiseat", __version__, "py3", "none")
    assert platform != "any"


def test_the_wheel_holds_the_package_and_nothing_else(source, wheel):
    names = names_in(wheel)
    assert {name.split("/")[0] for name in names} == {"fastiseat", f"fastiseat-{__version__}.dist-info"}
    sources = {
        str(Path(package, path.relative_to(source / folder)))
        for package, folder in {
            "fastiseat": "fastiseat",
            "fastiseat/kernels": "kernels",
            "fastiseat/pipelines": "pipelines",
            "fastiseat/bench": "bench",
        }.items()
        for path in (source / folder).rglob("*.py")
    }
    assert sources | {LIBRARY, "fastiseat/py.typed", WEIGHTS} <= names
    assert (CUDA_LIBRARY in names) == (find_nvcc() is not None)
    assert not {name for name in names if name.endswith((".cpp", ".h", ".cu", ".cuh", ".pyc"))}


@pytest.mark.long  # two builds more; the wheel alone is built in every run
def test_the_sdist_builds_the_same_wheel_but_for_cuda(source, wheel, quick_compiler, tmp_path):
    sdist = build(source, "sdist", tmp_path / "sdist", **NO_CUDA)
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / sdist.name.removesuffix(".tar.gz")
    for path in (source / "kernels" / "csrc").rglob("*.*"):
        assert (unpacked / path.relative_to(source)).exists(), path
    again = build(unpacked, "wheel", tmp_path / "wheel", **NO_CUDA, **quick_compiler)
    assert names_in(again) == names_in(wheel) - {CUDA_LIBRARY}


LOADED = (
    "import fastiseat.kernels.core.native as n; "
    "print(n.LIBRARIES['cpu'], *(n.library(device).handle is not None for device in ('cpu', 'cuda')))"
)


SHIPPED = "from fastiseat.models import read_weights; print(read_weights('digits-iseat').metadata['method'])"


def test_the_installed_wheel_loads_its_libraries(source, wheel, tmp_path):
    python = make_venv(tmp_path / "venv")
    pip_install(python, wheel, cwd=tmp_path)
    answer = ask(python, LOADED, source.parent)  # beside a folder of the package's name
    assert answer.startswith(str(tmp_path / "venv"))
    assert answer.endswith(f"True {find_nvcc() is not None}")
    assert (tmp_path / "venv" / "bin" / "fastiseat").exists()
    assert ask(python, SHIPPED, tmp_path) == "iseat"


def test_editable(source, quick_compiler, tmp_path):
    python = make_venv(tmp_path / "venv")
    stale = source / "kernels" / "core" / Path(CUDA_LIBRARY).name
    stale.write_text("of an earlier build")
    pip_install(python, "-e", source, cwd=tmp_path, **NO_CUDA, **quick_compiler)
    assert ask(python, LOADED, tmp_path) == f"{source / 'kernels' / 'core' / Path(LIBRARY).name} True False"
    assert not stale.exists()
    assert ask(python, SHIPPED, tmp_path) == "iseat"


WHERE = "import fastiseat; print(fastiseat.__file__, fastiseat.PGD.__name__)"
SPAWNED = f"""import multiprocessing

def where():
    {WHERE}

if __name__ == "__main__":
    where()
    child = multiprocessing.get_context("spawn").Process(target=where)
    child.start()
    child.join()
"""


@pytest.fixture(scope="module")
def beside(source, tmp_path_factory) -> tuple[Path, Path]:
    """The Python of an editable install, and the folder in which its clone lies, named fastiseat."""
    folder = tmp_path_factory.mktemp("beside")
    shutil.copytree(source, folder / "fastiseat", ignore=shutil.ignore_patterns("*.so", "build", "*.egg-info"))
    python = make_venv(folder / "venv")
    pip_install(python, "-e", folder / "fastiseat", cwd=folder, CXX="/nowhere/c++", **NO_CUDA)
    return python, folder


@pytest.mark.parametrize("place", [".", "fastiseat", "fastiseat/fastiseat", "venv"])
def test_an_editable_install_comes_before_the_folder_of_its_clone(beside, place):
    python, folder = beside
    code = "import fastiseat.kernels as k; print(k.__file__)"
    clone = folder / "fastiseat"
    assert ask(python, WHERE, folder / place) == f"{clone / 'fastiseat' / '__init__.py'} PGD"
    assert ask(python, code, folder / place) == str(clone / "kernels" / "__init__.py")


def test_so_do_scripts_modules_spawned_processes_and_paths(beside, tmp_path):
    python, folder = beside
    found = f"{folder / 'fastiseat' / 'fastiseat' / '__init__.py'} PGD"
    (folder / "script.py").write_text(SPAWNED)
    assert run(python, "script.py", cwd=folder).split("\n") == [found, found, ""]
    assert run(python, "-m", "script", cwd=folder).split("\n") == [found, found, ""]
    assert run(python, "-c", WHERE, cwd=tmp_path, PYTHONPATH=str(folder)).strip() == found
    assert run(python, "-m", "fastiseat", "--version", cwd=folder).strip() == f"fastiseat {__version__}"


@pytest.mark.parametrize("name", ["kernels", "pipelines", "bench"])
def test_the_bare_names_do_not_import(name):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"ImportError: this folder is the package fastiseat.{name}" in done.stderr


def test_without_a_compiler_it_installs_and_says_so(source, tmp_path):
    copy = shutil.copytree(
        source, tmp_path / "clone", ignore=shutil.ignore_patterns("*.so", "build", "*.egg-info")
    )
    python = make_venv(tmp_path / "venv")
    output = pip_install(python, "--verbose", copy, cwd=tmp_path, CXX="/nowhere/c++", **NO_CUDA)
    assert output.count("is installed without its native library") == 1
    assert f"fastiseat-{__version__}-py3-none-any.whl" in output
    code = "import fastiseat.kernels.core.native as n; print(n.library())"
    assert "handle=None, missing='not built: install a C++ compiler" in ask(python, code, tmp_path)


def test_where_cuda_code_does_not_compile_the_rest_is_installed_and_says_so(source, quick_compiler, tmp_path):
    copy = shutil.copytree(
        source, tmp_path / "clone", ignore=shutil.ignore_patterns("*.so", "build", "*.egg-info")
    )
    python = make_venv(tmp_path / "venv")
    no_nvcc = {"CUDACXX": "/nowhere/nvcc", "FASTISEAT_CUDA_ARCHS": "80"}
    output = pip_install(python, "--verbose", copy, cwd=tmp_path, **no_nvcc, **quick_compiler)
    assert output.count("is installed without its library for CUDA devices") == 1
    assert "without its native library" not in output
    assert ask(python, LOADED, tmp_path).endswith("True False")


def test_settings_that_can_not_be_met_stop_the_build(source, tmp_path):
    command = (sys.executable, "-m", "build", "--no-isolation", "--wheel", "-o", tmp_path)
    told = os.environ | {"FASTISEAT_CUDA_ARCHS": "ampere", "CUDACXX": "nvcc"}
    done = subprocess.run(command, cwd=source, env=told, capture_output=True, text=True)
    assert done.returncode != 0
    assert "FASTISEAT_CUDA_ARCHS=ampere: give numbers such as 80;90" in done.stdout + done.stderr


def test_the_library_builds_alone_without_warnings(source, tmp_path):
    cmake = (sys.executable, "-m", "cmake")
    run(*cmake, "-S", source, "-B", tmp_path / "build", "-DFASTISEAT_WERROR=ON", cwd=tmp_path)
    run(*cmake, "--build", tmp_path / "build", "--parallel", str(os.cpu_count() or 1), cwd=tmp_path)
    assert (tmp_path / "build" / Path(LIBRARY).name).exists()
