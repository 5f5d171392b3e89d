"""Elliptic cords of known area as small soft maps and masks, and cohorts of them, for the tests of areas."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nnunet_spine_ext.core.io import write_json, write_volume
from nnunet_spine_ext.core.volume import Volume

SHAPE = (32, 28, 12)
AFFINE = np.diag([0.8, 0.8, 2.0, 1.0])
AFFINE[:3, 3] = (-12.0, -11.0, -5.0)
FINE = 5


def soft_cord(area: float, slices: Sequence[int] = range(1, 11), *, scale: float = 1.0) -> np.ndarray:
    """Return the shares (i, j, k) of voxels inside an upright ellipse of an area in mm², ratio of its axes 1.3."""
    b = np.sqrt(area / np.pi / 1.3)
    a = 1.3 * b
    fine = (np.arange(SHAPE[0] * FINE) + 0.5) / FINE - 0.5
    x = (fine - (SHAPE[0] - 1) / 2) * 0.8
    y = ((np.arange(SHAPE[1] * FINE) + 0.5) / FINE - 0.5 - (SHAPE[1] - 1) / 2) * 0.8
    inside = ((x[:, None] / a) ** 2 + (y[None, :] / b) ** 2 <= 1).astype(np.float64)
    plane = inside.reshape(SHAPE[0], FINE, SHAPE[1], FINE).mean(axis=(1, 3))
    # What sampling misses of the area goes to the border, where there is room for it.
    border = (plane > 0) & (plane < 1)
    plane[border] *= 1 + (area / 0.64 - plane.sum()) / plane[border].sum()
    array = np.zeros(SHAPE, np.float32)
    array[:, :, list(slices)] = plane[:, :, None] * scale
    return array


def hard_cord(area: float, slices: Sequence[int] = range(1, 11)) -> np.ndarray:
    """Return the mask of the same ellipse."""
    return (soft_cord(area, slices) > 0.5).astype(np.uint8)


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    write_volume(Volume(array, affine), path)


def levels_map() -> np.ndarray:
    """Return a labelled cord: slices 1-4 are C4, 5-8 C3, 9-11 C2."""
    array = np.zeros(SHAPE, np.uint8)
    for level, slices in ((4, range(1, 5)), (3, range(5, 9)), (2, range(9, 12))):
        array[12:20, 10:18, list(slices)] = level
    return array


def write_cases(path: Path, rows: Sequence[tuple[str, str, str]]) -> None:
    """Write cases.json, or a table where the name ends so: case, subject, contrast."""
    if path.suffix == ".json":
        entries = {case: {"subject": subject, "contrast": contrast} for case, subject, contrast in rows}
        write_json(path, {"version": 1, "cases": entries})
        return
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("case", "subject", "contrast"), *rows])


class Cohort:
    """Subjects in several contrasts: references, predictions of one or two models, and cases.json."""

    def __init__(self, base: Path, contrasts: Sequence[str] = ("T1w", "T2w")) -> None:
        self.base, self.contrasts = base, tuple(contrasts)
        self.ref, self.pred, self.other, self.out = (base / name for name in ("ref", "pred", "other", "out"))
        self.rows: list[tuple[str, str, str]] = []
        for folder in (self.ref, self.pred, self.other):
            folder.mkdir(parents=True)

    def add(
        self,
        subject: str,
        true: float,
        predicted: Mapping[str, float],
        *,
        soft: bool = True,
        other: Mapping[str, float] | None = None,
    ) -> None:
        """Add the images of a subject: one true area, and a predicted one per contrast."""
        make = soft_cord if soft else hard_cord
        for contrast, area in predicted.items():
            case = f"{subject}_{contrast}"
            self.rows.append((case, subject, contrast))
            save(self.ref / f"{case}.nii.gz", make(true))
            save(self.pred / f"{case}.nii.gz", make(area))
            if other is not None:
                save(self.other / f"{case}.nii.gz", make(other[contrast]))
        write_cases(self.ref / "cases.json", self.rows)

    def read(self, name: str) -> list[dict[str, str]]:
        """Return the rows of a table of the output."""
        with (self.out / name).open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))
