"""Facts about an acquisition from the JSON file that BIDS puts beside an image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.io import strip_suffix

# Key of cases.json: key of the sidecar. Names of people and institutions' addresses are left behind on purpose.
_KEYS = {
    "site": "InstitutionName",
    "manufacturer": "Manufacturer",
    "model": "ManufacturersModelName",
    "field_strength": "MagneticFieldStrength",
    "TR": "RepetitionTime",
    "TE": "EchoTime",
}


def json_beside(image: str | Path) -> Mapping[str, Any]:
    """Return the content of ``<image without suffix>.json``; empty if there is none, or no table in it."""
    path = Path(image)
    try:
        content = json.loads((path.parent / f"{strip_suffix(path)}.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def read_sidecar(image: str | Path) -> dict[str, Any]:
    """Return what ``<image without suffix>.json`` says, under the keys of cases.json; empty if there is none.

    TR and TE are in milliseconds (BIDS has seconds). Values other than text and numbers are left out.
    """
    content = json_beside(image)
    facts = {key: content.get(name) for key, name in _KEYS.items()}
    kept: dict[str, Any] = {
        key: value for key, value in facts.items() if isinstance(value, str | int | float) and value != ""
    }
    return kept | {key: round(1000 * kept[key], 6) for key in ("TR", "TE") if isinstance(kept.get(key), int | float)}
