"""The only code that writes into a run's directory. Every file is complete or absent."""

from fastiseat.checkpoint.atomic import write_atomically
from fastiseat.checkpoint.directory import (
    WEIGHTS,
    RunDirectory,
    as_json,
    changes,
    weights_content,
)
from fastiseat.checkpoint.store import Checkpoints, Found

__all__ = [
    "WEIGHTS",
    "Checkpoints",
    "Found",
    "RunDirectory",
    "as_json",
    "changes",
    "weights_content",
    "write_atomically",
]
