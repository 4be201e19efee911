"""Settings from a file: a run's ``config.json``, or any part of its ``config``, as JSON or TOML."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fastiseat.checkpoint import RunImages, as_json, completed
from fastiseat.config import Config
from fastiseat.errors import UserError, unknown
from fastiseat.fields import pixels
from fastiseat.recipes import recipe
from fastiseat.run.threads import begun_with
from fastiseat.safe import read_file
from fastiseat.safe.reading import TEXT


def read_settings(path: Path) -> dict[str, Any]:
    """The nested settings of a JSON file, or of one named *.toml; :class:`UserError` where there are none."""
    content = _content(path)
    settings = content.get("config", content) if isinstance(content, dict) else content
    if not isinstance(settings, dict):
        raise UserError(f"--config {path} holds no settings: an object like that of a run's config.json is needed")
    # Of a whole run with what it trained with before there was such a setting: today's recipe may say otherwise.
    return completed(settings) if settings is not content and "versions" in content else settings


def read_images(path: Path) -> RunImages:
    """The images that the run of this ``config.json`` was trained on; nothing where it is no run's."""
    content = _content(path)
    return RunImages.told(content) if isinstance(content, dict) else RunImages()


def read_threads(path: Path) -> int | None:
    """How many threads that run computed with; None where it doesn't tell."""
    content = _content(path)
    return begun_with(content) if isinstance(content, dict) else None


def _content(path: Path) -> Any:
    name, parse = ("TOML", tomllib.loads) if path.suffix.lower() == ".toml" else ("JSON", json.loads)
    try:
        return parse(read_file(path, most=TEXT).decode())
    except OSError as error:
        raise UserError(f"--config {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"--config {path} is not {name}: {error}") from error


# Where a file says what a recipe is chosen by.
_CHOOSING = {
    "dataset": ("data", "dataset"),
    "method": ("objective", "method"),
    "arch": ("network", "arch"),
    "augment": ("data", "augment"),
    "extra": ("data", "extra"),
}
_ABSENT = object()


def settle(
    settings: Mapping[str, Any],
    names: Mapping[str, str] | None = None,
    *,
    fallback: Mapping[str, str] | None = None,
) -> Config:
    """``settings`` over the recipe that they choose, by what else ``names`` says, :func:`recipe`'s arguments.

    ``fallback`` has arguments for those that neither names.
    """
    base = recipe(**{**(fallback or {}), **_chosen_by(settings), **(names or {})})
    merged = _over(as_json(base), settings, "")
    try:
        # Strict: true and "12" are no numbers. As JSON, because there a list still makes a tuple.
        return TypeAdapter(Config).validate_json(json.dumps(merged), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"--config: {where}={first['input']!r}: {first['msg']}") from error


def _chosen_by(settings: Mapping[str, Any]) -> dict[str, str]:
    """Of those names the ones that a file has; as text, so that what is no name is refused as an unknown one."""
    groups = {name: group for name, group in settings.items() if isinstance(group, dict)}
    said = {name: groups.get(group, {}).get(field, _ABSENT) for name, (group, field) in _CHOOSING.items()}
    required = ("dataset", "method")
    return {
        name: str(value)
        for name, value in said.items()
        if value is not _ABSENT and (value is not None or name in required)
    }


def _over(base: dict[str, Any], settings: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    merged = dict(base)
    for name, value in settings.items():
        if name not in base:
            raise _unknown_setting(name, base, prefix)
        if isinstance(base[name], dict):
            if not isinstance(value, dict):
                raise UserError(f"--config: {prefix}{name}={value!r}: an object of settings is needed")
            value = _over(base[name], value, f"{prefix}{name}.")
        merged[name] = _number(value) if isinstance(base[name], float) else value
    return merged


def _unknown_setting(name: str, base: Mapping[str, Any], prefix: str) -> UserError:
    homes = [f"{group}.{name}" for group, fields in as_json(Config()).items() if name in fields]
    if homes:
        return UserError(f"unknown setting {prefix + name!r}; it is {' or '.join(homes)}")
    return unknown("setting", f"{prefix}{name}", [f"{prefix}{known}" for known in base])


def _number(value: object) -> object:
    """A fraction in quotes, ``"8/255"``, is the number that it is on the command line."""
    if not isinstance(value, str) or "/" not in value:
        return value
    try:
        return pixels(value)
    except ValueError:
        return value  # which is no number, and is told so
