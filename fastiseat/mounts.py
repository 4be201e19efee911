"""Whether a folder lies in this machine alone, or where other machines may write too. Imports no torch."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

MOUNTS = Path("/proc/self/mountinfo")
"""What Linux tells a process of its file systems."""

LOCAL = frozenset(
    ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "tmpfs", "vfat", "xfs", "zfs")
)
"""File systems of one machine, whose kernel sees every lock. NFS, Lustre, CIFS, FUSE and more may be several's."""

_OCTAL = re.compile(rb"\\([0-7]{3})")


class _Mount(NamedTuple):
    device: bytes
    point: Path
    kind: str


def is_local(folder: Path) -> bool:
    """Whether no other machine can write into ``folder``; False where the system doesn't tell."""
    return kind_of(folder) in LOCAL


def kind_of(folder: Path) -> str | None:
    """The kind of the file system that ``folder`` lies on, as Linux names it; None where the system doesn't tell."""
    try:
        here, device = folder.resolve(strict=True), folder.stat().st_dev
        mounts = [mount for line in MOUNTS.read_bytes().splitlines() if (mount := _parsed(line))]
    except OSError:
        return None
    above = [mount for mount in mounts if here.is_relative_to(mount.point)]
    number = b"%d:%d" % (os.major(device), os.minor(device))
    # A part of a btrfs has a number that its mount does not have.
    mine = [mount for mount in above if mount.device == number] or above
    # Of two on one point the later one hides the other.
    return max(reversed(mine), key=lambda mount: len(mount.point.parts)).kind if mine else None


def _parsed(line: bytes) -> _Mount | None:
    """``36 35 98:0 /root /point options… - ext4 …``, as proc(5) describes it."""
    before, _, after = line.partition(b" - ")
    fields = before.split()
    if len(fields) < 5 or not after.split():
        return None
    point = _OCTAL.sub(lambda code: bytes([int(code[1], 8) & 0xFF]), fields[4])
    return _Mount(fields[2], Path(os.fsdecode(point)), after.split()[0].decode("ascii", "replace"))
