"""The only code that writes into a run's directory. Every file is complete or absent."""

from fastiseat.checkpoint.atomic import write_atomically
from fastiseat.checkpoint.directory import CHECKPOINT, WEIGHTS, RunDirectory, as_json, changes

__all__ = ["CHECKPOINT", "WEIGHTS", "RunDirectory", "as_json", "changes", "write_atomically"]
