"""What ``fastiseat train --out DIR --resume`` goes on with: the run's own settings and the options it was given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from fastiseat.checkpoint import RunDirectory, as_json
from fastiseat.config import Config
from fastiseat.errors import UserError

OPTIONS = ("checkpoint_every", "keep", "on_nan", "data_dir", "execution", "loader", "device")
"""Fields of the command beside its config, which ``config.json`` keeps under ``options``."""


def own_config(out: Path) -> Config | None:
    """The settings of the run in ``out``; None where none has begun there."""
    run = RunDirectory(out)
    return None if run.is_free() else run.stored_config()


def own_options(out: Path, command: type) -> dict[str, Any]:
    """The options of the run in ``out``, fields of the dataclass ``command``; those that it does not tell are left out.

    :class:`UserError` where ``config.json`` holds what is none.
    """
    run = RunDirectory(out)
    stored = {} if run.is_free() else run.stored().get("options", {})
    hints = get_type_hints(command)
    try:
        if not isinstance(stored, Mapping):
            raise TypeError("options are an object")
        return {name: TypeAdapter(hints[name]).validate_python(stored[name]) for name in OPTIONS if name in stored}
    except (ValidationError, TypeError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise UserError(f"{out / 'config.json'}: its options can't be read ({why}): restore the file") from error


def noted(command: object) -> dict[str, Any]:
    """``OPTIONS`` of a command in JSON's types, for :func:`own_options` from any folder."""
    options = {name: getattr(command, name) for name in OPTIONS}
    if options["data_dir"] is not None:
        options["data_dir"] = options["data_dir"].absolute()
    return as_json(options)
