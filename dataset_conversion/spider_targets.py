"""What a network is to learn from a SPIDER mask: the classes of each target, and where a mask has nothing to say.

SPIDER labels whole vertebrae, discs and the canal with the cord in it. The 14 classes know the parts of vertebrae, cord
and canal apart, endplates and the sacrum. What the mask cannot tell is ignored, never called background.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from nnunet_spine_ext.core import spider
from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.dataset_conversion.labelmap import LabelMap, parse_label_map
from nnunet_spine_ext.dataset_conversion.spider_masks import SpiderMask
from nnunet_spine_ext.dataset_conversion.subregions import UNCLEAR

TargetName = Literal["semantic", "levels", "nnunet14"]
PartlyVisible = Literal["keep", "ignore"]
TARGETS: tuple[TargetName, ...] = ("semantic", "levels", "nnunet14")

SEMANTIC = {"vertebra": 1, "disc": 2, "canal": 3}
# Measured: on a lumbar map with all 14 classes (0.59 x 0.59 x 3.3 mm) 1.5 mm would call a tenth of the endplates
# background and 2 mm none; in 40 phantoms the sacrum reaches up to 17 mm above the upper edge of the lowest disc.
ENDPLATE_MARGIN_MM = 3.0
END_MARGIN_MM = 20.0

# The widest gap between two bodies: where no disc is labelled, endplates or the disc itself may fill all of it.
FUSED_MM = 16.0

_SACRUM, _CORD, _CANAL, _ENDPLATE, _DISC = 1, 11, 12, 13, 14
_VERTEBRA_PARTS = (*range(2, 11), _ENDPLATE)


@dataclass(frozen=True)
class Recipe:
    """How a SPIDER mask becomes the mask of the dataset.

    Parameters
    ----------
    target: one of `TARGETS`.
    levels: levels of the class list of ``levels``; the same for every subset of the data.
    partly_visible: ``keep`` makes a partly visible vertebra what a whole one is, ``ignore`` ignores its voxels.
    endplate_margin: mm; background this close to a vertebra and to a disc may be an endplate.
    end_margin: mm by which the ends of what is annotated reach into it; see `_ends`.
    """

    target: TargetName
    levels: int = spider.USUAL_LEVELS
    partly_visible: PartlyVisible = "keep"
    endplate_margin: float = ENDPLATE_MARGIN_MM
    end_margin: float = END_MARGIN_MM

    @property
    def labels(self) -> LabelMap:
        """The classes."""
        if self.target == "nnunet14":
            return parse_label_map(["nnunet14"])
        if self.target == "levels":
            return LabelMap(spider.levels_labels(self.levels), {})
        # The id of the ignore label is another class there.
        return LabelMap(dict(SEMANTIC), {}) if self.ignores else LabelMap(dict(SEMANTIC), {}, "whole_vertebrae")

    @property
    def ignores(self) -> bool:
        """Whether masks may hold the ignore label."""
        return self.target == "nnunet14" or self.partly_visible == "ignore"

    @property
    def ignore(self) -> int:
        """Id of the ignore label."""
        return max(self.labels.labels.values()) + 1

    def label(self, mask: SpiderMask, subregions: Volume | None = None, *, file: str | Path = "mask") -> Volume:
        """Return the mask of the dataset (uint8).

        Parameters
        ----------
        subregions: nnunet14 ids on the same grid, for the target of that name; None where there are none.
        file: what messages name.

        Raises
        ------
        CaseError: a level above the last one of the class list.
        """
        if self.target == "nnunet14":
            return self._with_parts(mask, subregions)
        table = self._semantic() if self.target == "semantic" else self._levels(mask, file)
        return mask.volume.with_array(table[mask.volume.array])

    def _semantic(self) -> Array:
        table = np.zeros(256, dtype=np.uint8)
        for number in filter(spider.is_known, range(256)):
            name = "canal" if number == spider.CANAL else "disc" if spider.is_disc(number) else "vertebra"
            table[number] = SEMANTIC[name]
        return self._without_partly_visible(table)

    def _levels(self, mask: SpiderMask, file: str | Path) -> Array:
        classes = spider.levels_table(self.levels)
        above = [number for number in mask.places if number not in classes]
        if above:
            highest = max(spider.level_of(number) for number in above)
            listing = ", ".join(f"{number} ({mask.places[number].voxels} voxels)" for number in above)
            raise CaseError(
                "E-SPIDER-LEVELS",
                file=file,
                found=f"levels above {self.levels}: label ids {listing}",
                expected=f"at most {self.levels} levels",
                fix=f"--levels {highest}, for the whole dataset",
            )
        table = np.zeros(256, dtype=np.uint8)
        table[list(classes)] = list(classes.values())
        return self._without_partly_visible(table)

    def _without_partly_visible(self, table: Array) -> Array:
        if self.partly_visible == "ignore":
            table[[number for number in range(256) if spider.is_partly_visible(number)]] = self.ignore
        return table

    def _with_parts(self, mask: SpiderMask, subregions: Volume | None) -> Volume:
        kinds = _kinds()[mask.volume.array]
        outside = _outside(mask, self.end_margin)
        plates = _plates(mask, kinds, self.endplate_margin)
        result = np.empty_like(kinds)
        for k, kind in enumerate(kinds):
            if subregions is None:
                result[k] = _alone(kind, outside.plane(k) | plates[k], self.ignore)
            else:
                result[k] = _merged(kind, outside.plane(k), subregions.array[k], self.ignore)
        if self.partly_visible == "ignore" and subregions is not None:
            result[self._without_partly_visible(np.zeros(256, dtype=np.uint8))[mask.volume.array] != 0] = self.ignore
        return mask.volume.with_array(result)


_NONE, _BONE, _DISCS, _CANALS = range(4)


def _kinds() -> Array:
    table = np.zeros(256, dtype=np.uint8)
    for number in filter(spider.is_known, range(256)):
        table[number] = _CANALS if number == spider.CANAL else _DISCS if spider.is_disc(number) else _BONE
    return table


def _alone(kind: Array, unsure: Array, ignore: int) -> Array:
    """Return what a SPIDER mask alone knows: discs, and background where nothing unlabelled can be."""
    result = np.full(kind.shape, ignore, dtype=np.uint8)
    result[(kind == _NONE) & ~unsure] = 0
    result[kind == _DISCS] = _DISC
    return result


def _merged(kind: Array, outside: Array, parts: Array, ignore: int) -> Array:
    """Let SPIDER decide what it knows and the other mask the rest; where they contradict each other, ignore.

    Endplates and the sacrum are no business of SPIDER; outside of what it annotated, nothing is. Where the other mask
    does not know what is there (`UNCLEAR`), it has no say.
    """
    result = np.full(kind.shape, ignore, dtype=np.uint8)
    trusted = [
        (kind == _BONE) & np.isin(parts, _VERTEBRA_PARTS),
        (kind == _CANALS) & np.isin(parts, (_CORD, _CANAL)),
        (kind == _NONE) & (parts != UNCLEAR) & (outside | np.isin(parts, (0, _SACRUM, _ENDPLATE))),
    ]
    for where in trusted:
        result[where] = parts[where]
    result[kind == _DISCS] = _DISC
    return result


@dataclass(frozen=True)
class _Heights:
    """The planes that bound what was annotated: `low` and `high` in mm, and heights of voxels as sums of three rows."""

    rows: tuple[Array, Array, Array]
    low: float
    high: float

    def plane(self, k: int) -> Array:
        """Whether voxels [k, :, :] lie below or above what was annotated."""
        height = self.rows[0][k] + self.rows[1][:, None] + self.rows[2][None, :]
        return (height < self.low) | (height > self.high)


def _outside(mask: SpiderMask, margin: float) -> _Heights:
    volume = mask.volume
    rows = [volume.affine[2, axis] * np.arange(volume.shape[axis]) for axis in range(3)]
    rows[0] = rows[0] + volume.affine[2, 3]
    low, high = _ends(mask, margin)
    return _Heights((rows[0], rows[1], rows[2]), low, high)


def _ends(mask: SpiderMask, margin: float) -> tuple[float, float]:
    """Return the heights in mm between which everything but endplates is annotated.

    Below: the sacrum, which lies lower than the upper edge of the disc on it; where that disc is not annotated, lower
    than the centre of the lowest vertebra. Above: a vertebra of which only processes reach into the image hangs down
    behind the highest annotated one, at most to its centre. `margin` narrows both ends.
    """
    vertebrae, discs = mask.levels(discs=False), mask.levels(discs=True)
    if not vertebrae and not discs:
        return np.inf, -np.inf
    if discs and min(discs) <= min(vertebrae, default=spider.MAX_LEVEL):
        low = _upper_edge(mask, min(discs) + spider.SPIDER_DISC_OFFSET)
    else:
        low = vertebrae[min(vertebrae)].height
    high = vertebrae[max(vertebrae)].height if vertebrae else discs[max(discs)].height
    return low + margin, high - margin


def _upper_edge(mask: SpiderMask, number: int) -> float:
    found = np.argwhere(mask.volume.array == number)
    return float(np.percentile(mask.volume.world(found)[:, 2], 99.5))


def _plates(mask: SpiderMask, kinds: Array, margin: float) -> Array:
    """Whether a voxel may be an endplate: close to bone and to a disc, or between vertebrae that have no disc."""
    spacing, array = mask.volume.spacing, mask.volume.array
    found = _near(kinds == _BONE, spacing, margin) & _near(kinds == _DISCS, spacing, margin)
    vertebrae, discs = mask.levels(discs=False), mask.levels(discs=True)
    for level in sorted(vertebrae.keys() - discs.keys()):
        if level - 1 in vertebrae:
            pair = [np.isin(array, (n, spider.PARTLY_OFFSET + n)) for n in (level, level - 1)]
            found |= _near(pair[0], spacing, FUSED_MM) & _near(pair[1], spacing, FUSED_MM)
    return found


def _near(mask: Array, spacing: tuple[float, float, float], margin: float) -> Array:
    """Whether a voxel is within `margin` mm of a mask, in whole voxels along each axis."""
    for axis, size in enumerate(spacing):
        mask = _grown(mask, axis, math.ceil(margin / size - 1e-6))
    return mask


def _grown(mask: Array, axis: int, steps: int) -> Array:
    """Grow a mask by a number of voxels along one axis; doubling keeps the passes few."""
    done = 0
    while done < steps:
        step = min(steps - done, done + 1)
        grown = mask.copy()
        ahead, behind = ([slice(None)] * 3 for _ in range(2))
        ahead[axis], behind[axis] = slice(step, None), slice(None, -step)
        grown[tuple(ahead)] |= mask[tuple(behind)]
        grown[tuple(behind)] |= mask[tuple(ahead)]
        mask, done = grown, done + step
    return mask
