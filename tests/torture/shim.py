"""``shim.c``, compiled and loaded before libc: an unlucky machine for one process."""

import ctypes
import errno
import os
import subprocess
import sys
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
FULL_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
LOADED = "FASTISEAT_TORTURE"
"""The variable that names the folder of the compiled shim in a program that has it."""


class Luck(IntEnum):
    """What ``shim.c`` does at an operation."""

    COUNT = 1
    KILL = 2
    FULL = 3


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a process lives on. ``at`` is the operation, from 1 on, from which its luck ends."""

    luck: Luck = Luck.COUNT
    at: int = 0
    error: int = errno.ENOSPC
    host: str = ""
    seconds_late: int = 0
    without_flock: bool = False

    def begin(self, folder: Path) -> None:
        """Be the machine of this process from here on, for all that lies below ``folder``."""
        shim = ctypes.CDLL(None)
        shim.shim_world(self.host.encode(), ctypes.c_long(self.seconds_late), int(self.without_flock))
        shim.shim_arm(int(self.luck), ctypes.c_long(self.at), os.fsencode(folder), self.error)


def counted() -> tuple[int, int]:
    """Operations of the last armed process, and how many of them were stopped."""
    shim = ctypes.CDLL(None)
    shim.shim_seen.restype = shim.shim_hits.restype = ctypes.c_long
    return shim.shim_seen(), shim.shim_hits()


def load(folder: Path) -> None:
    """Begin this program again with the shim in it, which is compiled into ``folder``; once is enough."""
    if os.environ.get(LOADED):
        return
    library = folder / "shim.so"
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, SOURCE, "-ldl"], check=True)
    # One thread: a process that has others can't be forked, and tiny tensors gain nothing from them.
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = os.environ | one | {"LD_PRELOAD": str(library), LOADED: str(folder)}
    os.execve(sys.executable, [sys.executable, "-m", "torture", *sys.argv[1:]], environment)
