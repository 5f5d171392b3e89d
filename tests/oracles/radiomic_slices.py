"""The slices and regions whose radiomic features a reference implementation and our tests compute alike; numpy only.

This module runs in environments that do not have the project: it must not import it. Real images stay where they are:
`REAL` says how to get a slice out of a volume below NNUNET_SPINE_TEST_DATA.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

TOP = 255.0

# Volume, axis across the slices (0 sagittal, 2 axial), and positions between the first (0) and the last slice (1).
_VOLUMES: tuple[tuple[str, int, tuple[float, ...]], ...] = (
    ("sct-tutorial/single_subject/data/t2_lumbar/t2_lumbar.nii.gz", 0, (0.3, 0.45, 0.5, 0.6)),
    ("sct-errsm/errsm_11/t2/t2.nii.gz", 0, (0.35, 0.5, 0.65)),
    ("sct-errsm/errsm_18/t2/t2.nii.gz", 0, (0.4, 0.5)),
    ("sct-errsm/errsm_20/t2/t2.nii.gz", 0, (0.5, 0.7)),
    ("sct-errsm/errsm_23/t2/t2.nii.gz", 0, (0.45, 0.55)),
    ("sct-testing/errsm_30_t2_full/t2.nii.gz", 0, (0.5,)),
    ("ivadomed-testing/sub-unf01/anat/sub-unf01_T1w.nii.gz", 2, (0.5,)),
    ("ivadomed-testing/sub-unf01/anat/sub-unf01_T2w.nii.gz", 2, (0.5,)),
    ("ivadomed-testing/fullres/sub-unf03/anat/sub-unf03_T2star.nii.gz", 2, (0.5,)),
    ("sct-testing/t1/t1w.nii.gz", 0, (0.5,)),
    ("tptbox/sample_mri/sub-mri_label-6_T2w.nii.gz", 0, (0.5,)),
    ("tptbox/sample_ct/sub-ct_label-22_ct.nii.gz", 0, (0.5,)),
)
REAL: tuple[dict[str, Any], ...] = tuple(
    {"volume": volume, "axis": axis, "position": position}
    for volume, axis, positions in _VOLUMES
    for position in positions
)
REGIONS = ("window", "ellipse", "ragged")
SYNTHETIC = (
    "texture",
    "noise",
    "stripes",
    "two levels",
    "offset",
    "constant",
    "constant on an edge",
    "column",
    "block",
)

# Regions of few pixels: (Y, X) or (Z, Y, X), and the share of pixels that are inside.
SPARSE_SHAPES = ((5, 6), (2, 9), (8, 3), (4, 4, 5), (7, 2, 3), (3, 5, 2), (4, 6, 3), (2, 3, 7))
SPARSE_SHARE = 0.3


def to_scale(image: np.ndarray) -> np.ndarray:
    """Return an image between 0 and 255, float32; a constant one is returned as it is."""
    image = image.astype(np.float64)
    low, high = image.min(), image.max()
    return (image if high == low else (image - low) / (high - low) * TOP).astype(np.float32)


def real_slice(row: dict[str, Any], root: Path) -> np.ndarray:
    """Return a slice, 0 to 255, float32.

    Sagittal: Y from superior to inferior, X from anterior to posterior. Axial: Y from anterior to posterior.
    """
    import nibabel

    volume = nibabel.as_closest_canonical(nibabel.load(root / row["volume"]))
    array = np.asanyarray(volume.dataobj)
    plane = np.take(array, round(row["position"] * (array.shape[row["axis"]] - 1)), axis=row["axis"])
    return to_scale(plane[::-1, ::-1].T)


def region(name: str, image: np.ndarray) -> np.ndarray:
    """Return a mask of an image (Y, X): 120 columns, an ellipse, or by value (ragged, with holes)."""
    rows, columns = image.shape
    y, x = np.mgrid[:rows, :columns]
    if name == "window":
        first = max(0, (columns - 120) // 2)
        return (x >= first) & (x < first + 120)
    if name == "ellipse":
        return ((2 * y - rows + 1) / (0.8 * rows)) ** 2 + ((2 * x - columns + 1) / (0.6 * columns)) ** 2 <= 1
    if name == "ragged":
        return (image > 0.6 * float(image.astype(np.float64).mean())) & ((3 * x + 5 * y) % 11 > 0)
    raise ValueError(name)


def _mixed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return homogeneous parts and texture side by side: long runs and short ones."""
    axes = np.indices(shape)
    base = 90 * ((axes[-1] // 9 + axes[-2] // 13) % 2) + 60 * (axes[-1] > shape[-1] // 2)
    fine = rng.integers(0, 100, shape) * (axes[-2] > shape[-2] // 3)
    return (base + fine).astype(np.float32)


def synthetic(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return an image, float32, and a mask: (Y, X), or (Z, Y, X) for ``block``."""
    rng = np.random.default_rng(SYNTHETIC.index(name))
    shape = (12, 20, 24) if name == "block" else (48, 40)
    image, mask = np.zeros(shape, np.float32), np.ones(shape, bool)
    if name == "texture":
        image = to_scale(_mixed(rng, shape))
    elif name == "noise":
        image = to_scale(rng.integers(0, 4096, shape))
        mask = region("ellipse", image)
    elif name == "stripes":
        # Values on edges of bins; every angle has other runs.
        image[:] = 25.0 * (np.indices(shape)[0] // 3 % 5)
        mask = region("ragged", image)
    elif name == "two levels":
        image[:, 17:] = 200.0
    elif name == "offset":
        # Nothing near zero, and a level that no pixel has.
        image = np.where(rng.random(shape) < 0.5, 130.0, 215.0).astype(np.float32)
        image += rng.integers(0, 20, shape)
    elif name == "constant":
        image[:] = 131.0
    elif name == "constant on an edge":
        image[:] = 125.0
        mask = region("ellipse", image)
    elif name == "column":
        image = to_scale(_mixed(rng, shape))
        mask = np.indices(shape)[1] == 11
    elif name == "block":
        image = to_scale(_mixed(rng, shape))
        z, y, x = np.indices(shape)
        mask = (np.abs(z - 6) + np.abs(y - 9) + np.abs(x - 12) < 14) & ((x + 2 * y + z) % 7 > 0)
    return image, mask


def sparse(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image and a mask of few pixels: in some directions none has a neighbour, or another on its line."""
    rng = np.random.default_rng(100 + seed)
    shape = SPARSE_SHAPES[seed]
    image = rng.integers(0, 256, shape).astype(np.float32)
    return image, rng.random(shape) < SPARSE_SHARE


def digest(image: np.ndarray, mask: np.ndarray) -> str:
    """Return the SHA-256 of an image and its mask: it shows that every environment made the same arrays."""
    parts = (np.ascontiguousarray(image, np.float32).tobytes(), np.ascontiguousarray(mask, np.uint8).tobytes())
    return hashlib.sha256(b"".join(parts)).hexdigest()
