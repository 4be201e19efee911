"""CUDA's compilers on this machine: nvcc where it is installed, and NVRTC 12, which pip brings."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


@cache
def cuda_toolkit() -> ModuleType:
    """The module beside ``setup.py``, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("cuda_toolkit", ROOT / "cuda_toolkit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def find_nvcc() -> str | None:
    """As the build finds it."""
    return shutil.which(os.fspath(cuda_toolkit().find_nvcc() or "nvcc"))


def _of_package(name: str, inside: str) -> Path:
    return Path(str(metadata.distribution(name).locate_file(inside)))


class Nvrtc:
    """NVRTC 12, which still compiles for compute capability 7.0."""

    include = _of_package("nvidia-cuda-runtime-cu12", "nvidia/cuda_runtime/include")

    def __init__(self):
        folder = _of_package("nvidia-cuda-nvrtc-cu12", "nvidia/cuda_nvrtc/lib")
        self._library = ctypes.CDLL(str(folder / "libnvrtc.so.12"))

    def compile(self, source: str, *options: str) -> str:
        """PTX; what the compiler has to say, a warning included, is a RuntimeError."""
        program = ctypes.c_void_p()
        create = self._library.nvrtcCreateProgram
        assert create(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None) == 0
        try:
            words = [f"-I{self.include}", "-std=c++17", *options]
            array = (ctypes.c_char_p * len(words))(*(word.encode() for word in words))
            code = self._library.nvrtcCompileProgram(program, len(words), array)
            said = re.sub(
                "nvrtc: warning: Architectures prior to .*", "", self._text(program, "ProgramLog")
            ).strip()
            if code or said:
                raise RuntimeError(said or f"NVRTC error {code}")
            return self._text(program, "PTX")
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _text(self, program: ctypes.c_void_p, what: str) -> str:
        size = ctypes.c_size_t()
        assert getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)) == 0
        buffer = ctypes.create_string_buffer(size.value)
        assert getattr(self._library, f"nvrtcGet{what}")(program, buffer) == 0
        return buffer.value.decode()
