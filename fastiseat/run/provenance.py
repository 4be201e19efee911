"""Where a run happened: what ``config.json`` says beside its settings."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fastiseat.pipelines.protocol.base import DataSet, Split, fingerprint
from fastiseat.safe import resolved
from fastiseat.version import __version__


def provenance(
    device: torch.device,
    precision: str,
    data: DataSet,
    extra: Split | None = None,
    *,
    standard: nn.Module | None = None,
    init_fingerprint: str | None = None,
    loader: str,
    verified: bool,
    execution: Mapping[str, Any],
    approximations: list[str],
) -> dict[str, Any]:
    """Command line, time, versions, machine, device, and what was chosen for it; what the data is, where it lies, and
    if it is official; what tells apart the files that the settings name. ``verified`` tells whether all that is read of
    the data was compared with what was prepared; ``approximations`` are settings that deviate from the published
    method to be faster.
    """
    return {
        "argv": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "fastiseat": __version__,
            "commit": commit(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "host": {
            "name": platform.node(),
            "system": platform.platform(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "precision": precision,
        "loader": loader,
        "execution": dict(execution),
        "approximations": approximations,
        "data_prepared": None if data.prepared is None else str(data.prepared),
        "data_fingerprint": data.fingerprint,
        "data_official": data.official,
        "data_verified": verified,
        "extra_fingerprint": extra_fingerprint(extra),
        "standard_fingerprint": network_fingerprint(standard),
        "init_fingerprint": init_fingerprint,
    }


def extra_fingerprint(extra: Split | None) -> str | None:
    """What tells extra training data apart; None where there is none."""
    return None if extra is None else fingerprint(extra, extra.take(np.arange(0)))


def network_fingerprint(network: nn.Module | None) -> str | None:
    """What tells the weights of a method's own network apart; None where there is none."""
    if network is None:
        return None
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def commit() -> str | None:
    """The commit that runs, where the package is a checkout of its own repository."""
    root = resolved(Path(str(files("fastiseat")))).parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
