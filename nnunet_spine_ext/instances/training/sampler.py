"""Cutouts around true vertebrae, and what the network should say about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.instances.cutouts import MULTIPLE, CutoutSpec, Index, read_window, vertebra_voxels
from nnunet_spine_ext.instances.frame import bounding_box
from nnunet_spine_ext.instances.training import augment
from nnunet_spine_ext.instances.training.grids import GridCase, Seeds
from nnunet_spine_ext.instances.training.settings import InstanceTrainSettings


@dataclass(frozen=True)
class Place:
    """A vertebra that a cutout can be made of: its case, its number from the top, the voxel at its body's centre."""

    case: str
    vertebra: int
    seed: Index


def places_of(names: Sequence[str], seeds: Mapping[str, Seeds]) -> list[Place]:
    """Return all vertebrae with a body, case by case from head to tail."""
    return [Place(name, number, seed) for name in names for number, seed in seeds[name]]


def epoch_order(places: int, settings: InstanceTrainSettings, fold: str, epoch: int) -> Array:
    """Return which places an epoch shows, in which order; the same for equal arguments.

    With more cutouts than places the list is gone through again, in another order.
    """
    wanted = settings.cutouts_per_epoch or places
    rng = np.random.default_rng([settings.seed, *fold.encode(), epoch])
    rounds = -(-wanted // places)
    return np.concatenate([rng.permutation(places) for _ in range(rounds)])[:wanted]


def training_cutout(
    case: GridCase, place: Place, settings: InstanceTrainSettings, rng: np.random.Generator
) -> augment.Pair:
    """Return labels and target (uint8, P, I, R) of a shifted, augmented cutout."""
    spec = settings.cutout
    reach = [settings.jitter_mm / mm for mm in spec.spacing]
    shift = [round(float(s)) for s in rng.uniform(-1, 1, size=3) * reach]
    what = augment.draw(rng, settings.augment)
    size = augment.read_size(spec.size, what.scale)
    labels, target = _window(case, place, size, shift)
    if what.scale is not None:
        labels = augment.scaled(labels, what.scale, spec.size)
        target = augment.scaled(target, what.scale, spec.size)
    return augment.apply(labels, target, what)


def plain_cutout(case: GridCase, place: Place, spec: CutoutSpec) -> augment.Pair:
    """Return labels and target (uint8, P, I, R) of the cutout as it is."""
    return _window(case, place, spec.size, (0, 0, 0))


def narrowed(pairs: Sequence[augment.Pair]) -> list[augment.Pair]:
    """Cut the cutouts of a step along P and R to their vertebrae, all to one size, multiples of what the network needs.

    I stays as it is. Cutouts without a vertebra stay whole.
    """
    shape = pairs[0][0].shape
    boxes = [bounding_box(vertebra_voxels(labels)) for labels, _ in pairs]
    found = [box for box in boxes if box is not None]
    if len(found) < len(pairs):
        return list(pairs)
    size = {}
    for axis in (0, 2):
        extent = max(box[axis].stop - box[axis].start for box in found)
        size[axis] = min(shape[axis], -(-extent // MULTIPLE) * MULTIPLE)
    result = []
    for (labels, target), box in zip(pairs, found, strict=True):
        part = [slice(None)] * 3
        for axis, n in size.items():
            # Vertebrae in the middle, as far as the window goes.
            first = (box[axis].start + box[axis].stop - n) // 2
            first = min(max(first, 0), shape[axis] - n)
            part[axis] = slice(first, first + n)
        result.append((np.ascontiguousarray(labels[tuple(part)]), np.ascontiguousarray(target[tuple(part)])))
    return result


def _window(case: GridCase, place: Place, size: Sequence[int], shift: Sequence[int]) -> augment.Pair:
    start = [c + s - n // 2 for c, s, n in zip(place.seed, shift, size, strict=True)]
    answer = np.zeros(max(int(case.vertebrae.max(initial=0)), place.vertebra) + 2, dtype=np.uint8)
    answer[place.vertebra - 1 : place.vertebra + 2] = (1, 2, 3)
    # 0 stands for no vertebra, whichever number comes before the first one.
    answer[0] = 0
    return read_window(case.labels, start, size), answer[read_window(case.vertebrae, start, size)]
