"""A run's directory: which run may write into it, and what each of its files holds."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save as to_safetensors
from torch import nn

from fastiseat.checkpoint.placed import RunImages, absolute_json
from fastiseat.checkpoint.store import Checkpoints
from fastiseat.checkpoint.turn import turn
from fastiseat.config import Config, WhichWeights
from fastiseat.errors import UserError
from fastiseat.models import export_state_dict
from fastiseat.models.files.checksum import with_checksum
from fastiseat.safe import OwnFolder, read_file
from fastiseat.safe.reading import TEXT
from fastiseat.shortage import enough_memory

_COPIES = 2  # of the tensors, that the library holds at a time
WEIGHTS = {which: Path("weights", f"{which}.safetensors") for which in get_args(WhichWeights)}
"""Where a run's weights lie."""


def weights_content(model: nn.Module, metadata: dict[str, str]) -> bytes:
    """A safetensors file's bytes, with a checksum among its metadata; of equal networks they are equal."""
    state = export_state_dict(model)
    # Asked for here first: within the library a want of memory is a panic, which prints pages.
    bytearray(_COPIES * sum(tensor.nbytes for tensor in state.values()))
    return with_checksum(to_safetensors(state, metadata))


class RunDirectory:
    """One run's files: ``config.json``, ``metrics.jsonl``, ``checkpoints/``, ``weights/``, ``results.json``."""

    def __init__(self, path: Path, *, keep: int = 2) -> None:
        self.path, self._own = path, OwnFolder(path)
        self.checkpoints = Checkpoints(path / "checkpoints", keep=keep)

    @classmethod
    def open(
        cls, path: Path, config: Config, *, resume: bool, anyway: bool = False, keep: int = 2
    ) -> RunDirectory:
        """A new or empty directory, or with ``resume`` the one that holds this very config's run.

        Raises :class:`UserError` for a directory with other content, and unless ``anyway`` for a changed config,
        naming what changed. Writes nothing.
        """
        run = cls(path, keep=keep)
        if os.path.lexists(path) and not path.is_dir():
            kind = "a symbolic link to no folder" if path.is_symlink() else "a file"
            raise UserError(f"{path} is {kind}: choose another --out")
        if run.is_free():
            return run
        if not resume:
            raise UserError(f"{path} is not empty: add --resume to continue its run, or choose another --out")
        changed = changes(absolute_json(completed(run.stored()["config"])), as_json(config))
        if changed and not anyway:
            raise UserError(
                f"{path} holds a run with other settings ({'; '.join(changed)}): leave them out to go on with the "
                f"run's own, or go on with the new ones by --resume-anyway{run._told_of(config)}"
            )
        return run

    def images(self) -> RunImages:
        """What the run in this directory was trained on; nothing is told where there is none."""
        return RunImages.told(self.stored()) if (self.path / "config.json").exists() else RunImages()

    def is_free(self) -> bool:
        """Whether no run has begun here: no folder, or one that holds nothing but hidden files."""
        # A hidden file is what an interrupted write leaves.
        return not self.path.is_dir() or all(entry.name.startswith(".") for entry in self.path.iterdir())

    def resuming(self) -> str:
        """The command that goes on with this run, as a shell reads it."""
        place = shlex.quote(str(self.path))
        return f"fastiseat train {f'--out={place}' if place.startswith('-') else f'--out {place}'} --resume"

    def stored_config(self) -> Config:
        """The settings in ``config.json``; :class:`UserError` where they are none of this version's."""
        stored = absolute_json(completed(self.stored()["config"]))
        try:
            # As JSON, because there a list still makes a tuple.
            return TypeAdapter(Config).validate_json(json.dumps(stored), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UserError(
                f"{self.path / 'config.json'}: {where}={first['input']!r}: {first['msg']}; restore the file"
            ) from error

    def _told_of(self, config: Config) -> str:
        """What ``config`` would train the next epoch with that the run's own would not, as a sentence to add."""
        with suppress(UserError, OSError, ValueError):
            epochs = len(read_file(self.path / "metrics.jsonl", most=TEXT).splitlines())
            moved = turn(self.stored_config(), config, epochs)
            return moved and f"; then {moved}"
        return ""  # what the run has come to can't be read, which going on will tell

    def stored(self) -> dict[str, Any]:
        """``config.json``, its settings under ``config``; :class:`UserError` where this is no run's directory."""
        try:
            content = json.loads(read_file(self.path / "config.json", most=TEXT))
            if not isinstance(content["config"], dict):
                raise TypeError("no settings")
            return {**content}
        except FileNotFoundError as error:
            raise UserError(
                f"{self.path} holds no readable config.json: it is not a run's directory; choose another"
            ) from error
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{self.path} holds no readable config.json: it is not a run's directory, or the file is damaged "
                f"({str(error) or type(error).__name__}): restore it, or choose another folder"
            ) from error

    def sweep(self) -> None:
        """Remove what killed processes left half written; whoever calls holds the directory's lock."""
        for folder in ("", *sorted({str(file.parent) for file in WEIGHTS.values()}), "figures"):
            self._own.sweep(folder)

    @contextmanager
    def scratch(self) -> Iterator[RunDirectory]:
        """A directory like this one in a hidden folder of it, which is gone after the block."""
        with self._own.scratch() as folder:
            yield RunDirectory(folder)

    def write_config(self, config: Config, provenance: Mapping[str, Any]) -> None:
        """``config.json``, which ``fastiseat train --config`` repeats."""
        self._write_json(Path("config.json"), {"config": as_json(config), **provenance})

    def note(self, **facts: Any) -> None:
        """``facts`` in ``config.json``, which else stays as it is."""
        stored = self.stored()
        if any(stored.get(name) != fact for name, fact in facts.items()):
            self._write_json(Path("config.json"), {**stored, **facts})

    def write_results(self, results: Any) -> None:
        """``results.json``: the finished run's accuracies."""
        self._write_json(Path("results.json"), results)

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """``metrics.jsonl``, one line an epoch; written whole, so that a resumed run has no gap or double."""
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        self._own.write("metrics.jsonl", lines.encode())

    def write_weights(self, which: str, model: nn.Module, metadata: dict[str, str]) -> None:
        """``weights/best.safetensors`` or ``weights/last.safetensors``."""
        self.write_weights_content(which, self.weights_content(which, model, metadata))

    def weights_content(self, which: str, model: nn.Module, metadata: dict[str, str]) -> bytes:
        """What :func:`weights_content` makes; :class:`UserError` where the memory doesn't hold it."""
        remedy = "give it more, or take a smaller --arch; what was written before is as it was"
        with enough_memory(f"while {self.path / WEIGHTS[which]} is written", remedy):
            return weights_content(model, metadata)

    def write_weights_content(self, which: str, content: bytes) -> None:
        """The same of such bytes."""
        self._own.write(WEIGHTS[which], content)

    def _write_json(self, name: Path, content: Any) -> None:
        self._own.write(name, (json.dumps(content, indent=2) + "\n").encode())


def as_json(config: Config | Mapping[str, Any]) -> dict[str, Any]:
    """``config`` in JSON's types."""
    return dict(json.loads(json.dumps(config, default=_plain)))


def _plain(value: object) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


# What a run did that began before there was such a setting, where that is not the default.
_BEFORE = {"schedule": {"momentum_cycle": None}}


def completed(stored: Mapping[str, Any]) -> dict[str, Any]:
    """With what settings that were not there yet when the run began come to: their defaults, or ``_BEFORE``."""
    defaults = as_json(Config())
    for group, settings in _BEFORE.items():
        defaults[group] |= settings
    return {
        group: {**defaults.get(group, {}), **found} if isinstance(found, Mapping) else found
        for group, found in {**defaults, **stored}.items()
    }


def changes(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """``field: old -> new`` for each field that differs."""
    found = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += changes(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append(f"{prefix}{name}: {old} -> {new}")
    return found
