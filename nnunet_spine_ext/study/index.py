"""The cases of a study on disk: where images and truths are, who they are of, how they were taken."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.io import read_json, write_json
from nnunet_spine_ext.study.conditions import Condition

INDEX = "index.json"


@dataclass(frozen=True)
class StudyCase:
    """One image with its truth; paths are relative to the folder of the study, or absolute.

    Parameters
    ----------
    semantic, instances: truth on the grid that is scored on, that of the source; instances empty: there are none.
    own_semantic, own_instances: truth on the grid of the image; empty: as above.
    facts: for cases.json. digest: stands for the content. ignore: id of the voxels of `semantic` that are not scored.
    """

    case: str
    subject: str
    condition: Condition
    images: tuple[str, ...]
    semantic: str
    instances: str = ""
    own_semantic: str = ""
    own_instances: str = ""
    region: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    digest: str = ""
    ignore: int | None = None


def write_index(folder: Path, cases: Iterable[StudyCase]) -> None:
    """Write the list of the cases of one group."""
    write_json(folder / INDEX, [asdict(case) for case in cases])


def read_index(folder: Path) -> list[StudyCase]:
    """Read what `write_index` wrote."""
    rows = read_json(folder / INDEX)
    return [
        StudyCase(**{**row, "condition": Condition(**row["condition"]), "images": tuple(row["images"])}) for row in rows
    ]
