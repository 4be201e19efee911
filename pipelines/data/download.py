"""Fetches a release's files: resumed where a transfer broke off, and used only if the MD5 is the published one."""

from __future__ import annotations

import http.client
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from fastiseat.errors import UserError
from fastiseat.pipelines.protocol.failures import write_failures_told
from fastiseat.pipelines.protocol.progress import Progress
from fastiseat.pipelines.protocol.releases import File, md5_of
from fastiseat.safe import open_lock
from fastiseat.version import __version__

_CHUNK = 2**20
_TIMEOUT = 30.0


class _InterruptedError(Exception):
    """The transfer broke off; what has come lies in the .part file."""


def fetch(file: File, folder: Path, progress: Progress) -> Path:
    """``folder/file.name`` with the content of ``file.url``, fetched unless it is there already.

    What has come of an interrupted transfer stays in ``<name>.part``, and the next call goes on from there.

    Raises:
        UserError: another MD5 than the published one, no connection, no space.
    """
    target, part = folder / file.name, folder / f"{file.name}.part"
    if target.exists():
        if md5_of(target) != file.md5:
            raise UserError(f"{target} is not the official file: move it away, or leave out --download to use it")
        progress.say(f"{target} is here already")
        return target
    with write_failures_told(folder):
        folder.mkdir(parents=True, exist_ok=True)
    progress.say(f"fetching {file.url} into {folder}")
    while True:
        before = _size(part)
        try:
            _transfer(file, part, progress)
            break
        except _InterruptedError as error:
            # As long as each connection brings something, another one is worth it.
            if _size(part) <= before:
                raise UserError(
                    f"{file.url}: {error}; the same command goes on from there, or fetch the file in another way and "
                    f"put it into {folder}"
                ) from None
    _accept(file, part, target)
    return target


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _accept(file: File, part: Path, target: Path) -> None:
    found = md5_of(part)
    if found != file.md5:
        part.unlink()
        raise UserError(
            f"{file.url}: what came has MD5 {found}, the release's has {file.md5}; it was removed: try again, or fetch "
            f"the file in another way and put it into {target.parent}"
        )
    part.replace(target)


def _transfer(file: File, part: Path, progress: Progress) -> None:
    """One connection: append to ``part`` what has not come yet."""
    have = _size(part)
    headers = {"User-Agent": f"fastiseat/{__version__}", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(file.url, headers=headers), timeout=_TIMEOUT
        ) as response:
            if response.status != http.client.PARTIAL_CONTENT:
                have = 0  # a server that knows no ranges sends all
            length = response.headers.get("Content-Length")
            total = have + int(length) if length else None
            done = _append(
                response, part, have, total, lambda done: progress.count(file.name, done, total or done)
            )
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is left to come, or too much has come: the MD5 will tell
        raise UserError(f"{file.url}: the server answers {error.code} {error.reason}; try again later") from None
    except (OSError, http.client.HTTPException) as error:
        raise _InterruptedError(f"the connection failed after {_size(part):,} bytes ({error})") from None
    if total is not None and done < total:
        raise _InterruptedError(f"the connection broke off after {done:,} of {total:,} bytes")


def _append(
    response: http.client.HTTPResponse, part: Path, done: int, total: int | None, tell: Callable[[int], None]
) -> int:
    """Write what the server sends after the first ``done`` bytes of ``part``; how many there are then."""
    with write_failures_told(part):
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - done > free:
            raise UserError(
                f"cannot write {part}: {total - done:,} bytes are to come and {free:,} are free; free space"
            )
        out = os.fdopen(open_lock(part), "r+b")
    with out:
        with write_failures_told(part):
            out.truncate(done)
            out.seek(done)
        while chunk := response.read(_CHUNK):
            with write_failures_told(part):
                out.write(chunk)
                out.flush()
            done += len(chunk)
            tell(done)
        with write_failures_told(part):
            os.fsync(out.fileno())
    return done
