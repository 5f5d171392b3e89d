"""What became different between an earlier version of a case's mask and the one that is reported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.io import IMAGE_SUFFIXES, is_image
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.render.colours import present_ids


@dataclass(frozen=True)
class LabelChange:
    """One label: millilitres before and after, and the Dice coefficient of the two."""

    label: int
    before_ml: float
    after_ml: float
    dice: float


@dataclass(frozen=True)
class Change:
    """Millilitres that have another label than before (background counts as one), and every label of either side."""

    changed_ml: float
    labels: tuple[LabelChange, ...]


def change_between(before: Volume, after: Volume) -> Change:
    """Compare two integer masks on one grid."""
    old, new = present_ids(before.array), present_ids(after.array)
    same = present_ids(np.where(before.array == after.array, after.array, 0))
    unit = after.voxel_volume / 1000
    rows = [
        LabelChange(n, old.get(n, 0) * unit, new.get(n, 0) * unit, 2 * same.get(n, 0) / (old.get(n, 0) + new.get(n, 0)))
        for n in sorted({*old, *new})
    ]
    changed = int(np.count_nonzero(before.array != after.array))
    return Change(changed * unit, tuple(rows))


def check_before(folder: str | Path | None) -> Path | None:
    """Return the folder of earlier masks; raises UsageError when it is no folder or holds none."""
    if folder is None:
        return None
    path = Path(folder)
    if path.is_dir() and any(is_image(entry) for entry in path.iterdir()):
        return path
    raise UsageError(
        "E-REPORT-BEFORE",
        file=path,
        found="no masks in it" if path.is_dir() else "no such folder",
        expected="a folder with earlier masks, named like the reported ones",
        fix="correct --before",
    )


def find_mask(folder: Path | None, case: str) -> Path | None:
    """Return the mask of a case in a folder."""
    if folder is None:
        return None
    return next((path for suffix in IMAGE_SUFFIXES if (path := folder / f"{case}{suffix}").is_file()), None)
