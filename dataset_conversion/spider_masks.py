"""A SPIDER mask, checked: known ids, one place per structure, levels in the order they are said to have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from nnunet_spine_ext.core import spider
from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.dataset_conversion.masks import whole_numbers

# A vertebra with its processes is below 100 mm high and a tilted disc below 50 mm; twice as far apart are two of them.
MAX_VERTEBRA_MM = 150.0
MAX_DISC_MM = 100.0
# A fragment of a vertebra at the edge of the image may have its centre beside that of its neighbour.
ORDER_TOLERANCE_MM = 5.0
_STRAY = 0.005
_LISTED = 12


@dataclass(frozen=True)
class Place:
    """Where one id of a mask lies: `voxels`, `centre` in RAS+ mm, and its `extent` in mm along the body's long axis."""

    voxels: int
    centre: tuple[float, float, float]
    extent: float

    @property
    def height(self) -> float:
        """Height of the centre in mm; larger is nearer the head."""
        return self.centre[2]


@dataclass(frozen=True)
class SpiderMask:
    """A mask with SPIDER ids counted from below (uint8), and where each id of it lies."""

    volume: Volume
    places: Mapping[int, Place]

    def levels(self, *, discs: bool) -> dict[int, Place]:
        """Return the places of the vertebrae, or of the discs, by level from below."""
        wanted = spider.is_disc if discs else spider.is_vertebra
        return {spider.level_of(number): place for number, place in sorted(self.places.items()) if wanted(number)}


def checked_mask(stored: Volume, *, order: spider.LevelOrder, file: str | Path) -> SpiderMask:
    """Return a mask with its levels counted from below.

    Parameters
    ----------
    stored: the mask as it was read, any number type.
    order: from which end its levels are said to count.
    file: what messages name.

    Raises
    ------
    CaseError: values that are no ids, unknown ids, an empty mask, a level that is there twice, levels in another order.
    """
    array = whole_numbers(stored.array, file=file)
    counts = _counts(array)
    _check_ids(counts, stored.array.dtype, file)
    below = spider.counted_from_below(counts, order)
    table = np.zeros(256, dtype=np.uint8)
    table[list(below)] = list(below.values())
    volume = stored.with_array(array if order == "bottom-up" else table[array])
    mask = SpiderMask(volume, _places(volume))
    _check_twice(mask, file)
    _check_extent(mask, stored.array.dtype, file)
    _check_order(mask, order, file)
    return mask


def _counts(array: Array) -> dict[int, int]:
    if array.dtype == np.uint8:
        counts = np.zeros(256, dtype=np.int64)
        for plane in array:
            counts += np.bincount(plane.ravel(), minlength=256)
        return {int(k): int(counts[k]) for k in np.flatnonzero(counts) if k}
    ids, numbers = np.unique(array, return_counts=True)
    return {int(k): int(n) for k, n in zip(ids, numbers, strict=True) if k}


def _check_ids(counts: Mapping[int, int], dtype: np.dtype[np.generic], file: str | Path) -> None:
    if not counts:
        raise CaseError(
            "E-LABEL-EMPTY",
            file=file,
            found="an empty mask",
            expected="vertebrae, discs and the canal",
            fix="copy the mask again; without labels the whole spine would be background",
        )
    unknown = {number: count for number, count in counts.items() if not spider.is_known(number)}
    if unknown:
        listing = ", ".join(f"{number} ({count} voxels)" for number, count in list(unknown.items())[:_LISTED])
        more = f" and {len(unknown) - _LISTED} more" if len(unknown) > _LISTED else ""
        cut = "; the mask has eight bits: numbers above 255 may have been cut off" if dtype.itemsize == 1 else ""
        raise CaseError(
            "E-LABEL-UNKNOWN",
            file=file,
            found=f"label ids {listing}{more}{cut}",
            expected="vertebrae 1 to 25 (101 to 125 partly visible), canal 100, discs 201 to 225",
            fix="use the mask as it was published, or convert it with `pairs` and a label map",
        )


def _check_twice(mask: SpiderMask, file: str | Path) -> None:
    both = [n for n in mask.places if n <= spider.MAX_LEVEL and n + spider.PARTLY_OFFSET in mask.places]
    if both:
        partly = both[0] + spider.PARTLY_OFFSET
        raise CaseError(
            "E-SPIDER-TWICE",
            file=file,
            found=f"vertebra {both[0]} from below as {both[0]} ({mask.places[both[0]].voxels} voxels) and as partly "
            f"visible {partly} ({mask.places[partly].voxels} voxels)",
            expected="one of the two",
            fix="correct the mask",
        )


def _check_extent(mask: SpiderMask, dtype: np.dtype[np.generic], file: str | Path) -> None:
    for number, place in mask.places.items():
        limit = MAX_DISC_MM if spider.is_disc(number) else MAX_VERTEBRA_MM
        if number != spider.CANAL and place.extent > limit:
            cut = "numbers above 255 were cut to eight bits, or " if dtype.itemsize == 1 else ""
            raise CaseError(
                "E-SPIDER-SPREAD",
                file=file,
                found=f"{_name(number)} spread over {place.extent:.0f} mm from head to tail",
                expected=f"one structure of less than {limit:.0f} mm",
                fix=f"{cut}two structures share an id: use the mask as it was published",
            )


def _check_order(mask: SpiderMask, order: spider.LevelOrder, file: str | Path) -> None:
    """Compare the numbers with the heights; raises CaseError where they contradict each other."""
    steps = [step for discs in (False, True) for step in _steps(mask.levels(discs=discs), discs=discs)]
    wrong = [step for step in steps if step[0] < -ORDER_TOLERANCE_MM]
    if not wrong:
        _check_discs(mask, file)
        return
    # `mask` counts from below as declared: names and numbers of the other order are the user's own.
    if all(rise < 0 for rise, _ in steps):
        other = next(word for word in spider.LEVEL_ORDERS if word != order)
        raise CaseError(
            "E-SPIDER-ORDER",
            file=file,
            found=f"levels that count the other way than {order}",
            expected=f"levels that count {order}, as --level-order says",
            fix=f"--level-order {other}",
        )
    fall, what = min(wrong)
    raise CaseError(
        "E-SPIDER-ORDER",
        file=file,
        found=f"{what}, although it lies {-fall:.0f} mm lower",
        expected=f"levels in one order ({order})",
        fix="correct the mask",
    )


def _steps(levels: Mapping[int, Place], *, discs: bool) -> list[tuple[float, str]]:
    """Return the rise in mm from each level to the next higher one that is there, and the pair in words."""
    kind = "disc" if discs else "vertebra"
    numbers = sorted(levels)
    return [
        (levels[upper].height - levels[lower].height, f"{kind} {upper} from below counted above {kind} {lower}")
        for lower, upper in pairwise(numbers)
    ]


def _check_discs(mask: SpiderMask, file: str | Path) -> None:
    vertebrae, discs = mask.levels(discs=False), mask.levels(discs=True)
    rises = [vertebrae[level].height - discs[level].height for level in vertebrae.keys() & discs.keys()]
    above = sum(rise < 0 for rise in rises)
    if 2 * above > len(rises):
        raise CaseError(
            "E-SPIDER-DISCS",
            file=file,
            found=f"{above} of {len(rises)} discs above the vertebra of their number",
            expected="disc 200+n below vertebra n",
            fix="renumber the discs; the lowest vertebra's is 201",
        )


def _name(number: int) -> str:
    kind = "disc" if spider.is_disc(number) else "vertebra"
    return f"{kind} {spider.level_of(number)} from below"


def _places(mask: Volume) -> dict[int, Place]:
    """Return the place of every id but 0, from the counts of ids in the planes of each axis."""
    counts = [_plane_counts(mask.array, axis) for axis in range(3)]
    long_axis = int(np.abs(mask.affine[2, :3]).argmax())
    places = {}
    for number in np.flatnonzero(counts[0].sum(axis=0)):
        if number:
            per_axis = [planes[:, number] for planes in counts]
            voxels = int(per_axis[0].sum())
            centre = mask.world([float(per @ np.arange(len(per))) / voxels for per in per_axis])
            extent = _extent(per_axis[long_axis], voxels) * mask.spacing[long_axis]
            places[int(number)] = Place(voxels, (float(centre[0]), float(centre[1]), float(centre[2])), extent)
    return places


def _plane_counts(array: Array, axis: int) -> Array:
    moved = np.moveaxis(array, axis, 0)
    return np.stack([np.bincount(plane.ravel(), minlength=256) for plane in moved])


def _extent(per_plane: Array, voxels: int) -> float:
    """Number of planes between the first and the last that matter: single stray voxels do not."""
    reached = np.cumsum(per_plane)
    first, last = np.searchsorted(reached, [_STRAY * voxels, (1 - _STRAY) * voxels])
    return float(last - first + 1)
