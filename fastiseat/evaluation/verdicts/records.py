"""Saved verdicts: one JSON file for each network, data, attack and settings, which a later evaluation finds again."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastiseat.errors import UserError
from fastiseat.evaluation.verdicts.ensemble_state import EnsembleState
from fastiseat.safe import LEFT_BEHIND, OwnFolder, read_file
from fastiseat.safe.reading import TEXT

FORMAT = "fastiseat evaluation, format 1"
_ARRAYS = ("broken_by", "part", "round")


class UntrustedError(Exception):
    """Why a file is not taken for saved verdicts, in a few words."""


@dataclass(kw_only=True)
class Record:
    """The verdicts on n samples.

    Attributes:
        facts: what they depend on, in JSON's types: equal facts, equal verdicts.
        made: what else is known of them, such as the path of the weights.
        parts: the names of the attacks in turn, one where it is no ensemble.
        notes: what the network made different from the attack's definition.
        ensemble_state: of each sample.
        seconds: how long the attacks took.
        sanity: what was found about the network's own gradients, if that was asked.
    """

    facts: dict[str, Any]
    made: dict[str, Any]
    parts: tuple[str, ...]
    ensemble_state: EnsembleState
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    sanity: list[dict[str, Any]] | None = field(default=None)

    @property
    def robust(self) -> npt.NDArray[np.bool_]:
        """bool (n,); of verdicts that are not complete, who is not broken yet."""
        return self.ensemble_state.unbroken

    @property
    def left(self) -> int:
        """How many samples have an attack before them still."""
        return int((self.ensemble_state.unbroken & (self.ensemble_state.part < len(self.parts))).sum())

    @property
    def begun(self) -> bool:
        """Whether anything is known of any sample."""
        ensemble_state = self.ensemble_state
        return bool((~ensemble_state.unbroken | (ensemble_state.part > 0) | (ensemble_state.round > 0)).any())

    def conclude(self, robust: npt.NDArray[np.bool_], *, broken_by: int) -> None:
        """The verdicts of an attack that is no ensemble."""
        self.ensemble_state.broken_by[~robust] = broken_by
        self.ensemble_state.part[:] = len(self.parts)

    def lasted(self, seconds: float) -> None:
        """So long have the attacks taken in all."""
        self.seconds = seconds

    def checked(self, sanity: list[dict[str, Any]]) -> None:
        """What was found about the network's own gradients."""
        self.sanity = sanity

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all, and not through a link in its folder's place."""
        OwnFolder(path.parent.parent).write(Path(path.parent.name, path.name), encode(self))


def encode(record: Record) -> bytes:
    """A line for each of the record's fields, and a checksum of them all."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "facts": record.facts,
        "made": record.made,
        "seconds": round(record.seconds, 3),
        "parts": list(record.parts),
        "notes": list(record.notes),
        "sanity": record.sanity,
    }
    content |= {name: getattr(record.ensemble_state, name).tolist() for name in _ARRAYS}
    content["sha256"] = _checksum(content)
    lines = (f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in content.items())
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def decode(text: bytes) -> Record:
    """The record in a file's content; :class:`UntrustedError` where one value differs from what was written."""
    try:
        content = json.loads(text)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise UntrustedError("it is no evaluation that fastiseat saved")
        if content.pop("sha256", None) != _checksum(content):
            raise UntrustedError("its checksum does not match")
        return _record(content)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UntrustedError("it is not complete JSON") from error


def _record(content: Mapping[str, Any]) -> Record:
    arrays = {name: np.array(content[name], dtype=np.int64) for name in _ARRAYS}
    if {array.shape for array in arrays.values()} != {(content["facts"]["samples"],)}:
        raise UntrustedError("it does not tell a verdict for each sample")
    return Record(
        facts=content["facts"],
        made=content["made"],
        parts=tuple(content["parts"]),
        ensemble_state=EnsembleState(**arrays),
        notes=tuple(content["notes"]),
        seconds=content["seconds"],
        sanity=content["sanity"],
    )


def read(path: Path) -> Record:
    """Complete verdicts from a file that a user names; :class:`UserError` where it holds none."""
    try:
        record = decode(read_file(path, most=TEXT))
    except UntrustedError as error:
        raise UserError(f"{path}: {error}; give a file of an evaluations/ folder, or evaluate again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from error
    if record.left:
        raise UserError(
            f"{path}: an attack is before {record.left} of its {len(record.robust)} samples; repeat its command first"
        )
    return record


def file_name(facts: Mapping[str, Any], which: str) -> str:
    """Without its ending: what a person looks for, then a short checksum of all facts."""
    attack = facts["attack"]
    ball = [attack["norm"], f"{attack['eps']:.4g}"] if attack["eps"] else []
    words = [which, facts["dataset"], facts["split"], attack["name"], *ball, _checksum(facts)[:8]]
    return re.sub(r"[^\w.-]+", "_", "-".join(words))


def place(
    folder: Path, facts: Mapping[str, Any], which: str, say: Callable[[str], None]
) -> tuple[Path, Record | None]:
    """Where the verdicts of these facts belong, and those that lie there.

    A file of that name that can't be trusted is told of and left as it is: the next free name is taken.
    :class:`UserError` where verdicts can't be written there, which would else be told once they are made.
    """
    own = OwnFolder(folder.parent)
    own.sweep(folder.name, idle=LEFT_BEHIND)
    name = file_name(facts, which)
    for number in count(1):
        path = folder / (f"{name}.json" if number == 1 else f"{name}-{number}.json")
        if not path.exists():
            break
        try:
            record = decode(read_file(path, most=TEXT))
            if record.facts == facts:
                return path, record
            reason = "it is of something else"
        except UntrustedError as error:
            reason = str(error)
        except OSError as error:
            reason = error.strerror or str(error)
        say(f"{path} is not trusted ({reason}): it stays as it is, and other verdicts get another name")
    own.require_writable(folder.name)
    return path, None


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
