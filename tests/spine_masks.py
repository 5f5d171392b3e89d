"""Small digital spines of blocks: all 14 classes, instances in three regions, predictions that err in known ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnunet_spine_ext.core.io import write_json, write_volume
from nnunet_spine_ext.core.labels import SCHEMES
from nnunet_spine_ext.core.volume import Volume

AFFINE = np.diag([1.5, 1.0, 1.0, 1.0])
# From head to tail: two of each region; each takes eight slices, six of vertebra and two of disc with its endplate.
LEVELS = (6, 7, 18, 19, 20, 21)
STEP = 8
SHAPE = (10, 22, STEP * len(LEVELS))
_PARTS = {  # class: (i, j) of the block inside its vertebra
    10: (slice(2, 8), slice(1, 7)),
    12: (slice(3, 7), slice(8, 12)),
    2: (slice(3, 7), slice(13, 15)),
    3: (slice(4, 6), slice(15, 20)),
    4: (slice(0, 2), slice(13, 17)),
    5: (slice(8, 10), slice(13, 17)),
    6: (slice(0, 2), slice(9, 12)),
    7: (slice(8, 10), slice(9, 12)),
    8: (slice(0, 2), slice(18, 21)),
    9: (slice(8, 10), slice(18, 21)),
}


def spine(levels: tuple[int, ...] = LEVELS) -> tuple[np.ndarray, np.ndarray]:
    """Return semantic classes and instances, axes left-right, front-back, head-tail, of some of `LEVELS`."""
    semantic, instances = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint16)
    for k, level in enumerate(LEVELS):
        if level not in levels:
            continue
        body = slice(k * STEP, k * STEP + 6)
        for label, (i, j) in _PARTS.items():
            semantic[i, j, body] = label
            if label != 12:
                instances[i, j, body] = level
        i, j = _PARTS[10]
        semantic[i, j, k * STEP + 6], instances[i, j, k * STEP + 6] = 13, 200 + level
        semantic[i, j, k * STEP + 7], instances[i, j, k * STEP + 7] = 14, 100 + level
        semantic[3:7, 8:12, k * STEP + 6 : (k + 1) * STEP] = 12
        semantic[4:6, 9:11, k * STEP : (k + 1) * STEP] = 11
    return semantic, instances


def shaved(semantic: np.ndarray, instances: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return both without the first rows of every body: vertebrae, discs and endplates become smaller."""
    semantic, instances = semantic.copy(), instances.copy()
    for array in (semantic, instances):
        array[2:8, 1 : 1 + rows] = 0
    return semantic, instances


class Cohort:
    """References in `base`/labelsTs with instances, and folders of predictions beside them."""

    def __init__(self, base: Path, cases: int = 8, *, levels: tuple[int, ...] = LEVELS) -> None:
        self.base, self.ref, self.out = base, base / "labelsTs", base / "tables"
        self.cases = [f"case{k}" for k in range(cases)]
        self.semantic, self.instances = spine(levels)
        write_json(base / "dataset.json", {"labels": {"background": 0, **{n: k for k, n in NAMES.items()}}})
        for case in self.cases:
            write_mask(self.ref / f"{case}.nii.gz", self.semantic)
            write_mask(base / "instancesTs" / f"{case}.nii.gz", self.instances)

    def predict(self, name: str, rows: list[int], *, instances: bool = True) -> Path:
        """Write predictions that lack some rows of the bodies of each case; a negative number: no prediction."""
        folder = self.base / name
        for case, lost in zip(self.cases, rows, strict=True):
            if lost < 0:
                continue
            semantic, found = shaved(self.semantic, self.instances, lost)
            write_mask(folder / f"{case}.nii.gz", semantic)
            if instances:
                write_mask(folder / "instances" / f"{case}.nii.gz", found)
        return folder


NAMES = SCHEMES["nnunet14"].labels


def write_mask(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    """Write a mask, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(Volume(array, affine), path)
