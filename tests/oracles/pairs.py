"""The pairs of masks that reference implementations and our tests score alike; numpy (and scipy for real ones) only.

This module runs in environments that do not have the project: it must not import it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

N_RANDOM = 20
SHAPES = ((24, 20, 16), (40, 12, 7), (18, 30, 1), (9, 9, 33), (32, 32, 5), (16, 21, 22))
SPACINGS = ((1.0, 1.0, 1.0), (0.586, 0.586, 3.3), (0.75, 1.65, 0.75), (2.5, 0.4, 1.1), (1.5, 1.5, 5.0))
LABELS = (1, 2, 3, 4)
VERTEBRAE = (3, 7, 12, 19, 28)
DISCS = (107, 112, 119)
CELLS = 64

# Folders below NNUNET_SPINE_TEST_DATA. "components": every connected component (faces) of these labels is an instance,
# numbered from the given id on.
REAL: tuple[dict[str, Any], ...] = (
    {"name": "lumbar semantic", "ref": "panoptica/semantic/ref.nii.gz", "pred": "panoptica/semantic/pred.nii.gz"},
    {
        "name": "lumbar instances",
        "ref": "panoptica/semantic/ref.nii.gz",
        "pred": "panoptica/semantic/pred.nii.gz",
        "components": {1: (49,), 101: (100,)},
    },
    {
        "name": "errsm 18 manual and PropSeg",
        "ref": "sct-errsm/errsm_18/t2/t2_manual_segmentation.nii.gz",
        "pred": "sct-errsm/errsm_18/t2/t2_segmentation_PropSeg.nii.gz",
    },
    {
        "name": "errsm 23 manual and PropSeg",
        "ref": "sct-errsm/errsm_23/t2/t2_manual_segmentation.nii.gz",
        "pred": "sct-errsm/errsm_23/t2/t2_segmentation_PropSeg.nii.gz",
    },
    {
        "name": "sct-testing 2-D and 3-D network",
        "ref": "sct-testing/t2/t2_seg-deepseg_sc-2d.nii.gz",
        "pred": "sct-testing/t2/t2_seg-deepseg_sc-3d.nii.gz",
    },
    {
        "name": "TPTBox instances and components",
        "ref": "tptbox/sample_mri/sub-mri_seg-vert_label-6_msk.nii.gz",
        "pred": "tptbox/sample_mri/sub-mri_seg-subreg_label-6_msk.nii.gz",
        "components_of_pred": {1: (41, 42, 43, 44, 45, 46, 47, 48, 49), 101: (100,)},
    },
)


def _blob(shape: tuple[int, ...], centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
    grids = np.meshgrid(*[np.arange(n, dtype=float) for n in shape], indexing="ij")
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grids, centre, radii)) <= 1.0  # noqa: B905  (Python 3.9 too)


def _paint(
    rng: np.random.Generator, shape: tuple[int, ...], ids: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Two maps with one ellipsoid per id: where it is, and where a prediction puts it."""
    ref, pred = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    size = np.asarray(shape, dtype=float)
    for label in ids:
        centre, radii = rng.random(3) * (size - 1), 0.6 + rng.random(3) * size / 4
        ref[_blob(shape, centre, radii)] = label
        pred[_blob(shape, centre + (rng.random(3) - 0.5) * size / 8, radii * (0.8 + 0.4 * rng.random(3)))] = label
    noise = rng.random(shape) < 0.02
    pred[noise] = 0
    return ref, pred


def random_pair(seed: int) -> dict[str, Any]:
    """Return the pair of a seed: semantic and instance maps (i, j, k), uint8, and the spacing in mm."""
    rng = np.random.default_rng(seed)
    shape, spacing = SHAPES[seed % len(SHAPES)], SPACINGS[seed % len(SPACINGS)]
    ref, pred = _paint(rng, shape, LABELS)
    true, found = _paint(rng, shape, VERTEBRAE + DISCS)
    # Predicted numbers are those of other levels: matching goes by overlap, never by number.
    swapped = found.copy()
    for old, new in zip(VERTEBRAE, VERTEBRAE[1:] + VERTEBRAE[:1]):  # noqa: B905
        swapped[found == old] = new
    found = swapped
    if seed == 0:
        pred[:], found[:] = 0, 0
    elif seed == 1:
        ref[:], true[:] = 0, 0
    elif seed == 2:
        ref[:], pred[:], true[:], found[:] = 0, 0, 0, 0
    elif seed == 3:
        pred[:], found[:] = ref, true
    elif seed == 4:
        pred[pred == 2], ref[ref == 3], found[found > 100] = 0, 0, 0
    elif seed == 5:
        pred, found = np.roll(pred, shape[0] // 2, axis=0), np.roll(found, shape[0] // 2, axis=0)
    elif seed == 6:
        # An IoU of exactly one half is a match.
        true[:], found[:] = 0, 0
        true[2:6, 2:4, 1:2], found[2:4, 2:4, 1:2] = 3, 7
        ref[:], pred[:] = true > 0, found > 0
    elif seed == 7:
        # Everything touches the edges of the array; one instance is split in two halves.
        ref[:], pred[:], true[:], found[:] = 1, 1, 3, 7
        pred[0], found[: shape[0] // 3] = 2, 12
    return {"ref": ref, "pred": pred, "true": true, "found": found, "spacing": spacing}


def digest(pair: dict[str, Any]) -> str:
    """Return the SHA-256 of a pair: it shows that every environment made the same arrays."""
    parts = [np.ascontiguousarray(pair[key]).tobytes() for key in ("ref", "pred", "true", "found")]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _components(labels: np.ndarray, table: dict[int, tuple[int, ...]]) -> np.ndarray:
    from scipy.ndimage import label

    instances = np.zeros(labels.shape, np.uint16)
    for first, ids in table.items():
        found, count = label(np.isin(labels, ids))
        if count >= 100:
            raise ValueError(f"{count} components of {ids}")
        instances[found > 0] = found[found > 0] + (first - 1)
    return instances


def real_pair(row: dict[str, Any], root: Path) -> dict[str, Any]:
    """Return a pair of real masks: semantic ("ref", "pred") or instances ("true", "found"), and the spacing in mm."""
    import nibabel

    images = [nibabel.load(root / row[side]) for side in ("ref", "pred")]
    ref, pred = (np.rint(np.asanyarray(image.dataobj)).astype(np.uint16) for image in images)
    spacing = tuple(float(s) for s in np.sqrt((images[0].affine[:3, :3] ** 2).sum(axis=0)))
    if "components" in row:
        return {"true": _components(ref, row["components"]), "found": _components(pred, row["components"]),
                "spacing": spacing}  # fmt: skip
    if "components_of_pred" in row:
        return {"true": ref, "found": _components(pred, row["components_of_pred"]), "spacing": spacing}
    return {"ref": ref, "pred": pred, "spacing": spacing}


def all_surface_cubes() -> np.ndarray:
    """Return the 256 ways to fill 2x2x2 voxels, shape (256, 2, 2, 2); bit 7 is the corner at the origin."""
    codes = np.arange(256)[:, None] >> np.arange(7, -1, -1)[None, :]
    return (codes & 1).astype(bool).reshape(-1, 2, 2, 2)
