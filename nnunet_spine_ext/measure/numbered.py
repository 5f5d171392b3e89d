"""Whether the ids of predicted instances are anatomical numbers, or only count from the top."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.io import read_json


def is_numbered(out: Path, case: str) -> bool:
    """Whether instance ids of a case are anatomical numbers: unless one of the files about it says no.

    `out` is a prediction folder: ``qc/<case>.json`` and the header of ``centroids/<case>.json`` are asked. A file that
    is not there, or cannot be read, says nothing.
    """
    points = _content(out / "centroids" / f"{case}.json")
    header = points[0] if isinstance(points, list) and points else None
    return not any(
        isinstance(said, dict) and said.get("numbered") is False
        for said in (_content(out / "qc" / f"{case}.json"), header)
    )


def _content(path: Path) -> Any:
    try:
        return read_json(path) if path.is_file() else None
    except CaseError:
        return None
