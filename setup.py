"""What pyproject.toml cannot say: which folder is which package, and the native libraries that CMake builds."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))  # which a build frontend does not do

import cuda_toolkit  # noqa: E402

FOLDERS = {
    "fastiseat": "fastiseat",
    "fastiseat.kernels": "kernels",
    "fastiseat.pipelines": "pipelines",
    "fastiseat.bench": "bench",
}
NATIVE = "fastiseat.kernels.core.libfastiseat_native"
CUDA = "fastiseat.kernels.core.libfastiseat_cuda"
AGAIN = "then install fastiseat again"
# The finder of an editable install is asked last, when a folder named fastiseat (the clone, seen from beside it) has
# been taken for a namespace package already. Files of this kind run at each start in the order of their names: after
# setuptools' own.
FIRST = (
    "fastiseat_first.pth",
    "import sys; sys.meta_path.sort(key=lambda one: not str(one.__module__).startswith('__editable___fastiseat_'))\n",
)
# What a failed build leaves.
INSTEAD = {
    NATIVE: "fastiseat is installed without its native library and computes in PyTorch on CPUs; for the library, "
    f"install make and a C++ compiler, {AGAIN}",
    CUDA: "fastiseat is installed without its library for CUDA devices: Triton serves there, or PyTorch; for the "
    f"library, mend what is named above, {AGAIN}. {cuda_toolkit.VARIABLE}=none leaves it out",
}


def packages() -> list[str]:
    """Every package below the mapped folders, so that a new subfolder needs no edit here."""
    found = []
    for package, folder in FOLDERS.items():
        for marker in sorted((ROOT / folder).rglob("__init__.py")):
            below = marker.parent.relative_to(ROOT / folder).parts
            found.append(".".join((package, *below)))
    return found


def extension(name: str, folder: str) -> Extension:
    """A library of what lies in a folder of ``kernels/csrc``; the package installs without it."""
    sources = [path for path in Path("kernels/csrc", folder).iterdir() if path.suffix in (".cpp", ".cu")]
    return Extension(name, sorted(map(str, sources)), optional=True)


def find_cmake() -> str:
    """The CMake of the Python package where it is installed, else the one on the path."""
    try:
        from cmake import CMAKE_BIN_DIR
    except ImportError:
        return "cmake"
    return os.path.join(CMAKE_BIN_DIR, "cmake")  # noqa: PTH118 -- a command, not a file to open


class BuildNative(build_ext):
    """Builds the libraries with CMake and places them in the package, or in the source tree when editable."""

    def get_ext_filename(self, fullname: str) -> str:
        """A plain library's name: it is loaded by ctypes and serves every Python."""
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def run(self) -> None:
        """Build what this machine can: the CUDA library only where nvcc is found."""
        if self.editable_mode:
            self._come_before_folders()
        self._remove_libraries()  # a failed build must not leave an older library in use
        with suppress(CompileError):  # build_extension meets it again
            if not cuda_toolkit.archs(cuda_toolkit.find_nvcc()):
                self.extensions = [ext for ext in self.extensions if ext.name != CUDA]
        super().run()

    def _come_before_folders(self) -> None:
        """An editable wheel holds what lies where it would be installed to."""
        name, line = FIRST
        Path(self.get_finalized_command("install").install_lib, name).write_text(line, encoding="ascii")

    def _remove_libraries(self) -> None:
        inplace = self.inplace
        for place in {False, bool(inplace)}:
            self.inplace = place
            for name in (NATIVE, CUDA):
                Path(self.get_ext_fullpath(name)).unlink(missing_ok=True)
        self.inplace = inplace

    def build_extension(self, ext: Extension) -> None:
        """Configure and build; a failure becomes the one warning of an optional extension."""
        library = Path(self.get_ext_fullpath(ext.name)).resolve()
        target = library.stem.removeprefix("lib")
        try:
            self._cmake(target, library.parent, self._cuda_options() if ext.name == CUDA else [])
        except (OSError, subprocess.CalledProcessError, CompileError) as error:
            library.unlink(missing_ok=True)
            raise CompileError(f"{error}. {INSTEAD[ext.name]}") from error

    def _cuda_options(self) -> list[str]:
        nvcc = cuda_toolkit.find_nvcc()
        *others, newest = cuda_toolkit.archs(nvcc)
        # Machine code for each, and PTX of the newest, which the driver compiles for later cards.
        archs = ";".join([*(f"{arch}-real" for arch in others), str(newest)])
        return ["-DFASTISEAT_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={nvcc}", f"-DCMAKE_CUDA_ARCHITECTURES={archs}"]

    def _cmake(self, target: str, output: Path, options: list[str]) -> None:
        cmake, build = find_cmake(), Path(self.build_temp, target).resolve()
        environment = {"CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1)} | os.environ
        configure = [cmake, "-S", ROOT.resolve(), "-B", build, f"-DFASTISEAT_OUTPUT_DIRECTORY={output}", *options]
        subprocess.run(configure, check=True)
        make = [cmake, "--build", build, "--config", "Release", "--target", target]
        subprocess.run(make, check=True, env=environment)


class PlatformWheel(bdist_wheel):
    """One wheel for every Python 3 of a platform: the libraries depend on neither Python nor torch."""

    def get_tag(self) -> tuple[str, str, str]:
        """``py3-none-<platform>``, or ``py3-none-any`` when there is no library inside."""
        *_, platform = super().get_tag()
        where = self.get_finalized_command("build_ext").get_ext_fullpath
        built = any(Path(where(name)).exists() for name in (NATIVE, CUDA))
        return "py3", "none", platform if built else "any"


setup(
    packages=packages(),
    package_dir=FOLDERS,
    ext_modules=[extension(NATIVE, "cpu"), extension(CUDA, "cuda")],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel},
)
