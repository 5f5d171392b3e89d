"""Digital spines whose posterior elements have grown together, as masks with true instances; no image is made.

Three kinds of one spine:

clean       as painted: a joint space between facets where the voxels are small enough to show it
fused       the space between neighbouring vertebrae is bone wherever both are near: facets, spinous processes that
            touch, arches bridged by ossified ligaments
one_class   the same, and each fused joint has one class (that of the lower or of the upper process), as a semantic
            network labels what it cannot tell apart: the class no longer says where one vertebra ends
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt

from nnunet_spine_ext.core.dataset import DatasetSpec, RawCase, write_raw_dataset
from nnunet_spine_ext.core.labels import NNUNET14_SIDED, VERTEBRA_ORDER, scheme
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.phantom.paint import paint
from nnunet_spine_ext.phantom.parameters import sample_parameters
from nnunet_spine_ext.phantom.protocols import protocol
from nnunet_spine_ext.phantom.scan import scan_grid
from nnunet_spine_ext.phantom.spine import build_spine

Array = np.ndarray[Any, np.dtype[Any]]

KINDS = ("clean", "fused", "one_class")
# In plane, in plane, between slices, as sagittal scans have them.
SPACING = (0.95, 0.95, 3.3)
HALF_WIDTH = 42.0
ARCUS, SPINOUS, CORPUS = 2, 3, 10
# Background that is nearer than this to both vertebrae becomes bone (mm).
GAP, SPINOUS_GAP = 3.0, 5.0
# Articular processes up to this far from the joint take the class of one of the two (mm).
MASS = 6.0
# Of the spines that are trained on; those that are tested come after them.
FIRST_TEST = 100_000
DATASET = DatasetSpec(
    990,
    "FusedFacets",
    {0: "none"},
    {name: k for k, name in scheme("nnunet14").labels.items() if k},
    "nnunet14",
    tuple(NNUNET14_SIDED),
)


def spine_masks(seed: int, kind: str) -> tuple[Volume, Volume]:
    """Return the semantic mask (nnunet14) and the instances of a spine."""
    spine = build_spine(sample_parameters(seed, anomalies="natural"))
    box = np.asarray(spine.field_of_view("whole", half_width=HALF_WIDTH))
    grid = scan_grid(box, protocol("t2w_sagittal").with_spacing(SPACING), np.zeros(3), 1)
    # Two sub-slices: the masks of thick slices are a vote.
    painted = paint(spine, grid.affine, grid.shape, (1, 1, 2))
    semantic = Volume(np.asarray(painted.semantic, dtype=np.uint8), grid.affine)
    instances = np.asarray(painted.instances, dtype=np.uint16)
    if kind != "clean":
        rng = np.random.default_rng([seed, KINDS.index(kind)])
        fuse(semantic.array, instances, semantic.spacing, rng, one_class=kind == "one_class")
    return semantic, semantic.with_array(instances)


def fuse(
    semantic: Array, instances: Array, spacing: tuple[float, ...], rng: np.random.Generator, *, one_class: bool
) -> None:
    """Let the posterior elements of neighbours grow together, in place."""
    behind = (semantic >= ARCUS) & (semantic < CORPUS)
    present = [k for k in VERTEBRA_ORDER if ((instances == k) & behind).any()]
    original = np.where(behind, instances, 0)
    for upper, lower in pairwise(present):
        box = _box_of(original, (upper, lower), margin=8)
        labels, numbers, before = semantic[box], instances[box], original[box]
        distance, nearest = {}, {}
        for k in (upper, lower):
            distance[k], nearest[k] = distance_transform_edt(before != k, sampling=spacing, return_indices=True)
        kinds = {k: labels[tuple(nearest[k])] for k in (upper, lower)}
        reach = np.where((kinds[upper] == SPINOUS) & (kinds[lower] == SPINOUS), SPINOUS_GAP, GAP)
        between = (labels == 0) & (distance[upper] < reach) & (distance[lower] < reach)
        mine = distance[upper] <= distance[lower]
        grown = np.where(mine, kinds[upper], kinds[lower])[between]
        labels[between], numbers[between] = grown, np.where(mine, upper, lower)[between]
        if one_class:
            _one_class(labels, numbers, distance, (upper, lower), rng)


def _one_class(
    labels: Array, numbers: Array, distance: dict[int, Array], pair: tuple[int, int], rng: np.random.Generator
) -> None:
    """Give the joints of a pair one class each: inferior process of the upper vertebra or superior of the lower one."""
    for superior, inferior in ((6, 8), (7, 9)):
        joint = ((numbers == pair[0]) & (labels == inferior)) | ((numbers == pair[1]) & (labels == superior))
        joint &= (distance[pair[0]] < MASS) & (distance[pair[1]] < MASS)
        labels[joint] = superior if rng.random() < 0.5 else inferior


def _box_of(array: Array, values: tuple[int, ...], margin: int) -> tuple[slice, ...]:
    where = np.isin(array, values)
    box = []
    for axis in range(3):
        used = np.flatnonzero(where.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(max(0, int(used[0]) - margin), min(array.shape[axis], int(used[-1]) + 1 + margin)))
    return tuple(box)


def write_training_data(root: Path, count: int) -> Path:
    """Write `count` spines, clean and grown together in turn, as a raw dataset; return its folder."""
    folder = root / DATASET.folder_name
    if folder.is_dir():
        return folder

    def cases() -> Any:
        for k in range(count):
            semantic, instances = spine_masks(k, KINDS[k % len(KINDS)])
            # Training needs no image, a raw dataset does.
            image = semantic.with_array(np.zeros(semantic.shape, dtype=np.uint8))
            yield RawCase(f"spine{k:03d}", f"spine{k:03d}", [image], semantic, instances)

    return write_raw_dataset(root, DATASET, cases(), folds=5)
