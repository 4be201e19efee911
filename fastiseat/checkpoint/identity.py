"""Whose run it is: a digest of what decides a run's results, in each file that may be taken for another run's."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from fastiseat.checkpoint.placed import PATHS
from fastiseat.errors import UserError

RUN = "run"
"""The digest's name in a checkpoint's state, in the metadata of weights and in what is known of an evaluation."""
DIGESTS = "run_digests"
"""The name in ``config.json`` of those that are this run's, the one of its present settings last."""
_FINGERPRINTS = ("data_fingerprint", "extra_fingerprint", "standard_fingerprint", "init_fingerprint")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def digest(settings: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    """Of settings in JSON's types and of the fingerprints in ``provenance``: SHA-256 in hexadecimal digits.

    Files count by what they hold, not by where they lie: a run remains itself when it moves, or its data does.
    """
    told = {name: dict(group) if isinstance(group, Mapping) else group for name, group in settings.items()}
    for group, name in PATHS:
        if isinstance(told.get(group), dict):
            told[group].pop(name, None)
    if isinstance(data := told.get("data"), dict):
        data["dataset"] = str(data.get("dataset")).partition(":")[0]
    whole = {"settings": told, **{name: provenance.get(name) for name in _FINGERPRINTS}}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def digests(stored: Mapping[str, Any]) -> list[str]:
    """Those that the content of a ``config.json`` tells; of an earlier version's run that of its settings.

    :class:`UserError` where it holds what is none.
    """
    found = stored.get(DIGESTS)
    if found is None:
        return [digest(stored["config"], stored)]
    if not isinstance(found, list) or not found or not all(map(_is_digest, found)):
        raise UserError(f"config.json: {DIGESTS} are not digests of SHA-256: restore the file")
    return found


def short(digest: object) -> str:
    """As messages show it."""
    return str(digest)[:12] if _is_digest(digest) else "none"


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None
