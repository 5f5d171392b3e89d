"""Patches of a digital spine with a chosen number of labels, in nnU-Net's order of axes: left-right, down, back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from augmentation_measure import Patch
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size

from nnunet_spine_ext.phantom.protocols import protocol
from nnunet_spine_ext.phantom.scan import ScanRequest, scan_subject

ROTATION = (-30 / 360 * 2 * np.pi, 30 / 360 * 2 * np.pi)
SHAPES = ((64, 128, 128), (128, 128, 128))
SPACING = {(64, 128, 128): (2.0, 1.0, 1.0), (128, 128, 128): (1.0, 1.0, 1.0)}
# Into how many groups of classes and how many slabs along the spine the structures are divided.
_DIVISIONS = {6: (6, 1), 26: (2, 13), 50: (5, 10)}


@dataclass(frozen=True)
class Setting:
    """One size of patches and one number of labels."""

    shape: tuple[int, ...]
    labels: int

    @property
    def name(self) -> str:
        """What it is called in the results."""
        return f"{'x'.join(map(str, self.shape))} {self.labels} labels"


MAIN = Setting(SHAPES[0], 6)
"""The setting that the goals are about."""


def initial(shape: tuple[int, ...], scale: tuple[float, float]) -> tuple[int, ...]:
    """Return the larger patch that nnU-Net's loader crops for rotation by 30 degrees and scaling."""
    return tuple(int(n) for n in get_patch_size(shape, ROTATION, ROTATION, ROTATION, scale))


def spine(shape: tuple[int, ...], source: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return image (z-scored) and classes of the middle of a digital lumbar spine, both of shape `source`."""
    spacing = SPACING[shape]
    planned = protocol("t2w_sagittal").with_spacing((spacing[1], spacing[2], spacing[0]))
    scan = scan_subject(ScanRequest((planned,), 1, "lumbar", "none", False, 0.0, 1, 300.0), 0)[0]
    image, classes = (volume.array.transpose(2, 1, 0) for volume in (scan.image, scan.semantic))
    image = image.astype(np.float32)
    image = (image - image.mean()) / image.std()
    middle = [int(np.median(found)) for found in np.nonzero(classes)]
    return _cut(image, middle, source, float(image.min())), _cut(classes, middle, source, 0)


def patches(shape: tuple[int, ...], numbers: tuple[int, ...], source: tuple[int, ...]) -> dict[Setting, Patch]:
    """Return a patch for each number of labels: the same image, its structures divided as often as needed."""
    image, classes = spine(shape, source)
    found = {}
    for number in numbers:
        labels = divided(classes, shape, number)
        tensors = (torch.from_numpy(array[None, None].copy()) for array in (image, labels))
        found[Setting(shape, number)] = Patch(*tensors, shape, SPACING[shape])
    return found


def divided(classes: np.ndarray, shape: tuple[int, ...], number: int) -> np.ndarray:
    """Return labels 1 to `number`: groups of classes, cut into slabs of the middle patch along the spine."""
    groups, slabs = _DIVISIONS[number]
    height = classes.shape[1]
    start = (height - shape[1]) // 2
    slab = np.clip((np.arange(height) - start) * slabs // shape[1], 0, slabs - 1)[None, :, None]
    group = _ranked(classes) % groups
    return np.where(classes > 0, 1 + group * slabs + slab, 0).astype(np.int16)


def _ranked(classes: np.ndarray) -> np.ndarray:
    """Return classes numbered by size, so that every group has a large one."""
    sizes = np.bincount(classes[classes > 0].ravel(), minlength=int(classes.max()) + 1)
    rank: Any = np.empty(len(sizes), int)
    rank[np.argsort(-sizes)] = np.arange(len(sizes))
    return rank[classes]


def _cut(array: np.ndarray, middle: list[int], source: tuple[int, ...], fill: float) -> np.ndarray:
    """Cut or pad to `source` about a voxel."""
    starts = [m - n // 2 for m, n in zip(middle, source, strict=True)]
    room = [(max(0, -s), max(0, s + n - have)) for s, n, have in zip(starts, source, array.shape, strict=True)]
    padded = np.pad(array, room, constant_values=fill)
    cut = tuple(slice(max(0, s), max(0, s) + n) for s, n in zip(starts, source, strict=True))
    return np.ascontiguousarray(padded[cut])
