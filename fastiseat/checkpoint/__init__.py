"""The only code that writes into a run's directory. Every file is complete or absent."""

from fastiseat.checkpoint.directory import (
    WEIGHTS,
    RunDirectory,
    as_json,
    changes,
    completed,
    weights_content,
)
from fastiseat.checkpoint.identity import DIGESTS, RUN, digest, digests
from fastiseat.checkpoint.placed import RunImages, absolute, absolute_dataset
from fastiseat.checkpoint.store import Checkpoints, Found
from fastiseat.safe import write_atomically

__all__ = [
    "DIGESTS",
    "RUN",
    "WEIGHTS",
    "Checkpoints",
    "Found",
    "RunDirectory",
    "RunImages",
    "absolute",
    "absolute_dataset",
    "as_json",
    "changes",
    "completed",
    "digest",
    "digests",
    "weights_content",
    "write_atomically",
]
