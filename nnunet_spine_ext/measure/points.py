"""Point files of TPTBox and VerSe, with the grid that their coordinates are in.

Both hold voxel coordinates; integers are voxel centres. A TPTBox list states its grid. A VerSe file states only the
orientation in which its image was when the coordinates were taken, so that image is needed to place them. What is
written here states the grid in both formats: readers of VerSe files ignore it, TPTBox uses it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.io import read_json, write_json
from nnunet_spine_ext.core.labels import SCHEMES, VERTEBRAE
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.measure.centroids import (
    Point,
    grid_header,
    join_id,
    parse_poi,
    parse_table,
    vertebra_number,
    write_poi,
    wrong_points,
)

# TPTBox packs the sub-region into the label of formats without names: label = 256 * sub-region + vertebra.
_LABELS_PER_PART = 256
_NUMBERED_FORMATS = (None, "docker")
_GLOBAL = "POI_GLOBAL"
_LPS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class PointList:
    """Points of instances in voxel coordinates.

    Parameters
    ----------
    points: instance id (vertebra n, disc 100+n, endplate 200+n) to (i, j, k) in voxels of `grid`.
    grid: the voxels that the coordinates count; its array is not looked at.
    left_out: names of the entries of a file that are no instances or have no coordinates.
    """

    points: Mapping[int, Point]
    grid: Volume
    left_out: tuple[str, ...] = ()

    def to(self, orientation: str) -> PointList:
        """Return the same places in the voxels of the grid turned to another orientation."""
        grid = self.grid.to(orientation)
        return PointList(_triples(grid.index(self.world()), self.points), grid, self.left_out)

    def world(self) -> Array:
        """Return the places in RAS+ millimetres, (n, 3), in the order of `points`."""
        return self.grid.world(np.array(list(self.points.values()), dtype=np.float64).reshape(-1, 3))


def read_points(path: str | Path, like: Volume | None = None) -> PointList:
    """Read a TPTBox point list (formats POI, POI_GLOBAL, docker) or VerSe centroids.

    Parameters
    ----------
    like: the image of the points, needed for files that do not state their grid.

    Raises
    ------
    CaseError: another format, unknown labels, or no grid in the file and no image.
    """
    content = read_json(path)
    if not (isinstance(content, list) and content and all(isinstance(part, dict) for part in content)):
        raise wrong_points(path, "something else")
    header = content[0]
    if header.get("format") == _GLOBAL and len(content) == 2:
        return _global_points(header, content[1], path, like)
    if header.get("format") in _NUMBERED_FORMATS and "direction" in header:
        points, left_out = _numbered(content[1:], path)
    else:
        points, header, left_out = parse_poi(content, path)
    return PointList(points, _grid(header, path, like), tuple(left_out))


def unplaced(points: PointList, kind: str) -> list[str]:
    """Return the names of the points that a file of kind ``poi`` or ``verse`` has no place for."""
    known = SCHEMES["instances" if kind == "poi" else "verse"].labels
    return [SCHEMES["instances"].labels.get(key, str(key)) for key in sorted(points.points) if key not in known]


def write_points(path: str | Path, points: PointList, kind: str) -> None:
    """Write a file of kind ``poi`` or ``verse`` atomically, without the points that are `unplaced` in it."""
    if kind == "poi":
        write_poi(path, points.grid, points.points)
        return
    known = SCHEMES["verse"].labels
    rows = [
        {"label": key, "X": float(x), "Y": float(y), "Z": float(z)}
        for key, (x, y, z) in sorted(points.points.items())
        if key in known
    ]
    write_json(path, [grid_header(points.grid), *rows])


def _global_points(header: Mapping[str, Any], table: Any, path: str | Path, like: Volume | None) -> PointList:
    if like is None:
        raise _no_grid(path, "coordinates in millimetres without a grid")
    points, left_out = parse_table(table, path)
    places = np.array(list(points.values()), dtype=np.float64).reshape(-1, 3)
    places = places * _LPS if header.get("coordinate_system") == "itk" else places
    return PointList(_triples(like.index(places), points), like, tuple(left_out))


def _numbered(rows: list[Any], path: str | Path) -> tuple[dict[int, Point], list[str]]:
    points: dict[int, Point] = {}
    left_out = []
    for row in rows:
        label, instance, point = _entry(row, path)
        if instance is None or point is None:
            left_out.append(label)
        elif instance in points:
            raise wrong_points(path, f"the label {label} twice")
        else:
            points[instance] = point
    return dict(sorted(points.items())), left_out


def _entry(row: Mapping[str, Any], path: str | Path) -> tuple[str, int | None, Point | None]:
    """Return label, instance id (None: another part of a vertebra) and coordinates (None: not a number)."""
    try:
        label, point = str(row["label"]), (float(row["X"]), float(row["Y"]), float(row["Z"]))
        number = vertebra_number(label)
    except (KeyError, TypeError, ValueError) as error:
        raise wrong_points(path, f"an entry that is no point ({row})") from error
    part, vertebra = divmod(number, _LABELS_PER_PART)
    if vertebra not in VERTEBRAE:
        raise CaseError(
            "E-LABEL-UNKNOWN",
            file=path,
            found=f"a point with the label {label}",
            expected="VerSe's vertebrae: 1 to 24 (C1 to L5), 25 L6, 26 sacrum, 27 coccyx, 28 T13",
            fix="check what the labels count",
        )
    instance = join_id(vertebra, str(part)) if part else vertebra
    return label, instance, point if all(map(math.isfinite, point)) else None


def _grid(header: Mapping[str, Any], path: str | Path, like: Volume | None) -> Volume:
    """Return the grid that a header states, or else that of the image in the header's orientation."""
    direction = "".join(map(str, header["direction"]))
    try:
        if all(header.get(key) is not None for key in ("zoom", "origin", "rotation", "shape")):
            affine = np.eye(4)
            affine[:3, :3] = np.asarray(header["rotation"], dtype=np.float64) * np.asarray(header["zoom"], np.float64)
            affine[:3, 3] = header["origin"]
            shape = tuple(round(float(n)) for n in header["shape"])
            stated = Volume(np.broadcast_to(np.zeros((), dtype=np.uint8), shape), affine)
        elif like is None:
            raise _no_grid(path, f"no grid but the orientation {direction}")
        else:
            return like.to(direction)
    except (TypeError, ValueError) as error:
        raise wrong_points(path, f"a header that states no grid ({error})") from error
    if stated.orientation != direction.upper():
        raise wrong_points(path, f"the direction {direction}, but a rotation that means {stated.orientation}")
    return stated


def _triples(places: Array, points: Mapping[int, Point]) -> dict[int, Point]:
    return {key: (float(x), float(y), float(z)) for key, (x, y, z) in zip(points, places, strict=True)}


def _no_grid(path: str | Path, found: str) -> CaseError:
    return CaseError(
        "E-IN-POINTGRID",
        file=path,
        found=found,
        expected="voxel size, origin, rotation and shape",
        fix="give the image of these points with --like",
    )
