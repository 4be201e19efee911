"""Where the files of a run lie: by absolute paths, which hold in every working directory, and by what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from fastiseat.config import Config
from fastiseat.errors import UserError
from fastiseat.models.files.shipped import shipped
from fastiseat.pipelines.data import datasets
from fastiseat.safe import expanded


def _path_fields() -> list[tuple[str, str]]:
    groups = {field.name: type(getattr(Config(), field.name)) for field in fields(Config)}
    return [
        (group, name)
        for group, settings in groups.items()
        for name, hint in get_type_hints(settings).items()
        if Path in (hint, *get_args(hint))
    ]


PATHS = _path_fields()
"""The settings that are paths, as (group, name)."""


def absolute(config: Config) -> Config:
    """``config`` with absolute paths, also in the name of own data; :class:`UserError` for an unknown data set."""
    groups: dict[str, Any] = {"data": replace(config.data, dataset=datasets.absolute(config.data.dataset))}
    for group, name in PATHS:
        settings = groups.get(group, getattr(config, group))
        if (path := getattr(settings, name)) is not None:
            groups[group] = replace(settings, **{name: _absolute(path)})
    return replace(config, **groups)


def absolute_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same of settings as ``config.json`` holds them: those of earlier runs are relative to wherever they began."""
    placed = {name: dict(group) if isinstance(group, Mapping) else group for name, group in settings.items()}
    for group, setting in PATHS:
        if isinstance(placed.get(group), dict) and isinstance(path := placed[group].get(setting), str):
            placed[group][setting] = str(_absolute(Path(path)))
    if isinstance(placed.get("data"), dict) and isinstance(name := placed["data"].get("dataset"), str):
        placed["data"]["dataset"] = absolute_dataset(name)
    return placed


def _absolute(path: Path) -> Path:
    # Weights that come with the package lie in no folder of the user's.
    return path if shipped(path) else expanded(path).absolute()


def absolute_dataset(name: str) -> str:
    """The name of a data set for every working directory; an unknown one, of another version, as it is."""
    try:
        return datasets.absolute(name)
    except UserError:
        return name


@dataclass(frozen=True, kw_only=True)
class RunImages:
    """The images that a run was trained on; None where its files don't tell.

    Attributes:
        name: of the data set.
        prepared: the folder of its prepared arrays.
        fingerprint: of the whole data set.
    """

    name: str | None = None
    prepared: Path | None = None
    fingerprint: str | None = None

    @classmethod
    def told(cls, content: Mapping[str, Any]) -> RunImages:
        """As the content of a ``config.json`` tells."""
        config = content.get("config")
        data = config.get("data") if isinstance(config, Mapping) else None
        name = data.get("dataset") if isinstance(data, Mapping) else None
        prepared, found = content.get("data_prepared"), content.get("data_fingerprint")
        return cls(
            name=name if isinstance(name, str) else None,
            prepared=Path(prepared) if isinstance(prepared, str) and len(Path(prepared).parents) > 1 else None,
            fingerprint=found if isinstance(found, str) else None,
        )
