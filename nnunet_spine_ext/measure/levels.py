"""Which vertebral level each slice of the cord belongs to.

Three sources: a labelled cord, whose values are levels; discs, which are borders between levels (the Spinal Cord
Toolbox' way); numbered vertebrae and discs, as instances or points. Borders are projected onto the centreline of the
cord, so a border is where the cord passes the disc, not the disc's own height in the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import numpy as np

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.labels import DISC_OFFSET, SCHEMES, VERTEBRA_ORDER, VERTEBRAE, id_ranges, vertebra_name
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.measure.centroids import centroids
from nnunet_spine_ext.measure.cord_line import CordLine
from nnunet_spine_ext.measure.cord_map import FRAME, CordMap
from nnunet_spine_ext.measure.points import PointList

# Of the centreline that borders are projected onto: the Spinal Cord Toolbox uses its interface's default there.
PROJECTION_SMOOTHING = 20.0
_RANK = {vertebra: rank for rank, vertebra in enumerate(VERTEBRA_ORDER)}
# Vertebrae that few people have: the next one follows without them.
_RARE = (28, 25)


class Levels(Protocol):
    """What can name the level of slices; `notes` are sentences about levels that cannot be trusted."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Return the sentences."""
        ...

    def of_slices(self, cord: CordMap, line: CordLine, slices: Array) -> Array:
        """Return vertebra ids (n,) for slices of the frame LAS, NaN where no level is known.

        `line` is the cord's centreline with `PROJECTION_SMOOTHING`.
        """
        ...


@dataclass(frozen=True, eq=False)
class LabelledCord:
    """A volume whose values in or about the cord are levels; a slice has the rounded mean of its values."""

    volume: Volume
    notes: tuple[str, ...] = ()

    def of_slices(self, cord: CordMap, line: CordLine, slices: Array) -> Array:
        """See `Levels`; a volume on another grid is resampled to the nearest voxel."""
        frame = self.volume.to(FRAME)
        if not frame.same_grid(cord.grid):
            frame = frame.resample_like(cord.grid, order=0)
        values = frame.array.astype(np.float64)
        valid = np.isfinite(values) & (values != 0)
        count = valid.sum(axis=(0, 1))
        with np.errstate(invalid="ignore"):
            mean = np.where(valid, values, 0.0).sum(axis=(0, 1)) / count
        return _known(np.round(mean[slices]), "a labelled cord")


@dataclass(frozen=True)
class Border:
    """A place where the level changes, in RAS+ mm; None: what is beyond is no level."""

    place: tuple[float, float, float]
    above: int | None
    below: int | None


@dataclass(frozen=True)
class LevelBorders:
    """Borders of levels, in any order.

    Beyond the outermost borders the level goes on to the end of the cord (the Spinal Cord Toolbox' way), unless the
    vertebra itself has a place in `bodies`: then it reaches as far beyond that place as the border is before it.
    Between borders that are no neighbours (a disc was left out) the level is not known, unless `bridge` is set: then
    it is that of the upper border, as in the toolbox.
    """

    borders: tuple[Border, ...]
    bodies: Mapping[int, tuple[float, float, float]] = field(default_factory=dict)
    bridge: bool = False
    notes: tuple[str, ...] = ()

    def of_slices(self, cord: CordMap, line: CordLine, slices: Array) -> Array:
        """See `Levels`.

        Raises CaseError when the borders are not in the order of the spine along the cord, or touch none of it.
        """
        places = np.array([border.place for border in self.borders], dtype=np.float64)
        nearest = _nearest_slices(cord.grid, line, places)
        order = np.argsort(nearest, kind="stable")
        ordered = [self.borders[k] for k in order]
        _check_order(ordered)
        levels = [high.below if self.bridge or low.above == high.below else None for low, high in pairwise(ordered)]
        levels = [ordered[0].below, *levels, ordered[-1].above]
        ids = np.array([np.nan if level is None else level for level in levels], dtype=np.float64)
        result = ids[np.searchsorted(nearest[order], slices, side="left")]
        for level, border, way in ((ordered[0].below, nearest.min(), -1), (ordered[-1].above, nearest.max(), 1)):
            if level in self.bodies:
                body = _nearest_slices(cord.grid, line, np.array([self.bodies[level]], dtype=np.float64))[0]
                beyond = (slices - (2 * body - border)) * way > 0
                result[beyond & (result == level)] = np.nan
        return _known(result, "discs or vertebrae")


def levels_from_labels(volume: Volume) -> LabelledCord:
    """Take levels from a volume whose values in the cord are levels (the toolbox' ``-vertfile``)."""
    return LabelledCord(volume)


def levels_from_discs(volume: Volume) -> LevelBorders:
    """Take borders from a volume of single voxels: value v is the disc above vertebra v (``-discfile``).

    That is the numbering of the Spinal Cord Toolbox: 3 is the disc C2/C3, 21 that of L1/L2, 25 that of L5/S1; 1 is the
    top of C1. Other values (60, the conus) are no borders and are left out. Where a disc is missing, its two levels
    count as the upper one, as in the toolbox; a note says so.

    Raises
    ------
    CaseError: no disc, or one disc at two places.
    """
    index = np.argwhere(np.nan_to_num(volume.array) != 0)
    values = [round(float(value)) for value in volume.array[tuple(index.T)]]
    discs = SCHEMES["sct_discs"].labels
    used = [k for k, value in enumerate(values) if value == 1 or value in discs]
    if not used:
        raise _unusable(f"the values {sorted(set(values))}", "single voxels with the values 1 to 25, one per disc")
    if len({values[k] for k in used}) < len(used):
        raise _unusable("a disc at several voxels", "one voxel per disc")
    places = volume.world(index[used])
    borders = []
    for k, place in zip(used, places, strict=True):
        above = values[k] - 1
        borders.append(Border(_triple(place), above or None, _next(above, set()) if above else 1))
    present = {values[k] for k in used}
    missing = sorted(set(range(min(present), max(present))) - present)
    notes = (
        (f"discs {id_ranges(missing)} are missing: the levels below them count as the one above",) if missing else ()
    )
    return LevelBorders(tuple(borders), bridge=True, notes=notes)


def levels_from_points(points: PointList) -> LevelBorders:
    """Take borders from points of vertebrae (n) and discs (100+n): discs, else midway between two vertebrae.

    Raises
    ------
    CaseError: no disc and no two neighbouring vertebrae.
    """
    world = dict(zip(points.points, map(_triple, points.world()), strict=True))
    bodies = {key: place for key, place in world.items() if key in VERTEBRAE}
    discs = {key - DISC_OFFSET: place for key, place in world.items() if key - DISC_OFFSET in VERTEBRAE}
    known = set(bodies) | set(discs)
    borders = [Border(place, key, _next(key, known)) for key, place in discs.items()]
    for key, place in bodies.items():
        below = _next(key, known)
        if key not in discs and below is not None and below in bodies:
            middle = (np.asarray(place) + np.asarray(bodies[below])) / 2
            borders.append(Border(_triple(middle), key, below))
    if not borders:
        raise _unusable(
            f"points of {', '.join(vertebra_name(k) for k in bodies) or 'no vertebra'}",
            "discs, or at least two neighbouring vertebrae",
        )
    return LevelBorders(tuple(borders), bodies)


def levels_from_instances(instances: Volume, semantic: Volume | None = None) -> LevelBorders:
    """Take borders from numbered instances (vertebra n, disc 100+n; TPTBox' numbers), see `levels_from_points`.

    Parameters
    ----------
    semantic: ``nnunet14`` labels on the same grid; with it a vertebra's place is the centre of its body.
    """
    return levels_from_points(PointList(centroids(instances, semantic), instances))


def _nearest_slices(grid: Volume, line: CordLine, places: Array) -> Array:
    """Number of the slice whose centre on the line, continued straight beyond its ends, is nearest to each place."""
    heights = grid.index(places)[:, 2]
    first, last = int(line.slices[0]), int(line.slices[-1])
    low = np.arange(min(first, int(heights.min()) - 5), first)
    high = np.arange(last + 1, max(last, int(heights.max()) + 5) + 1)
    centres = np.concatenate(
        [
            line.centres[0] + (low - first)[:, None] * line.slopes[0],
            line.centres,
            line.centres[-1] + (high - last)[:, None] * line.slopes[-1],
        ]
    )
    numbers = np.concatenate([low, line.slices, high])
    points = grid.world(np.column_stack([centres, numbers]))
    distance = np.linalg.norm(points[None] - places[:, None], axis=2)
    return numbers[distance.argmin(axis=1)]


def _next(vertebra: int, known: set[int]) -> int | None:
    """The vertebra below, None below the last; T13 and L6 only where something says that they are there."""
    following = VERTEBRA_ORDER[_RANK[vertebra] + 1 :]
    return next((other for other in following if other not in _RARE or other in known), None)


def _check_order(ordered: list[Border]) -> None:
    """Upwards along the cord the levels must go towards the head."""
    ranks = [-1 if border.above is None else _RANK[border.above] for border in ordered]
    if any(low <= high for low, high in pairwise(ranks)):
        names = [f"{vertebra_name(b.below)}" for b in ordered if b.below is not None]
        raise _unusable(
            f"levels in the order {', '.join(names)} from the lower to the upper end of the cord",
            "the order of the spine",
        )


def _known(levels: Array, source: str) -> Array:
    if not np.isfinite(levels).any():
        raise _unusable(f"{source} that name no level of any slice of the cord", "levels along the cord")
    return levels


def _triple(place: Array) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in place)
    return x, y, z


def _unusable(found: str, expected: str) -> CaseError:
    return CaseError(
        "E-CSA-LEVELS",
        found=found,
        expected=expected,
        fix="check that the levels belong to this image, and their numbers",
    )
