"""What pyproject.toml cannot say: which folder is which package, and a native library that CMake builds."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).parent
FOLDERS = {
    "fastiseat": "fastiseat",
    "fastiseat.kernels": "kernels",
    "fastiseat.pipelines": "pipelines",
    "fastiseat.bench": "bench",
}
NATIVE = "fastiseat.kernels.libfastiseat_native"


def packages() -> list[str]:
    """Every package below the mapped folders, so that a new subfolder needs no edit here."""
    found = []
    for package, folder in FOLDERS.items():
        for marker in sorted((ROOT / folder).rglob("__init__.py")):
            below = marker.parent.relative_to(ROOT / folder).parts
            found.append(".".join((package, *below)))
    return found


def find_cmake() -> str:
    """The CMake of the Python package where it is installed, else the one on the path."""
    try:
        from cmake import CMAKE_BIN_DIR
    except ImportError:
        return "cmake"
    return os.path.join(CMAKE_BIN_DIR, "cmake")  # noqa: PTH118 -- a command, not a file to open


class BuildNative(build_ext):
    """Builds the library with CMake and places it in the package, or in the source tree when editable."""

    def get_ext_filename(self, fullname: str) -> str:
        """A plain library's name: it is loaded by ctypes and serves every Python."""
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def build_extension(self, ext: Extension) -> None:
        """Configure and build; a failure becomes the one warning of an optional extension."""
        library = Path(self.get_ext_fullpath(ext.name)).resolve()
        library.unlink(missing_ok=True)  # a failed build must not leave an older library in use
        cmake, build = find_cmake(), Path(self.build_temp, "cmake").resolve()
        output = f"-DFASTISEAT_OUTPUT_DIRECTORY={library.parent}"
        try:
            subprocess.run([cmake, "-S", ROOT.resolve(), "-B", build, output], check=True)
            subprocess.run([cmake, "--build", build, "--config", "Release"], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise CompileError(
                f"{error}. fastiseat is installed without its native library and computes everything in "
                "PyTorch; for the library, install make and a C++ compiler, then install fastiseat again"
            ) from error


class PlatformWheel(bdist_wheel):
    """One wheel for every Python 3 of a platform: the library depends on neither Python nor torch."""

    def get_tag(self) -> tuple[str, str, str]:
        """``py3-none-<platform>``, or ``py3-none-any`` when there is no library inside."""
        *_, platform = super().get_tag()
        built = Path(self.get_finalized_command("build_ext").get_ext_fullpath(NATIVE)).exists()
        return "py3", "none", platform if built else "any"


setup(
    packages=packages(),
    package_dir=FOLDERS,
    ext_modules=[Extension(NATIVE, sorted(map(str, Path("kernels/csrc").glob("*.cpp"))), optional=True)],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel},
)
