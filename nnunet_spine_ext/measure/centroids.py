"""Centres of instances and of their parts, and the point-of-interest files that TPTBox reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.io import read_json, write_json
from nnunet_spine_ext.core.labels import DISC_OFFSET, ENDPLATE_OFFSET
from nnunet_spine_ext.core.volume import Array, Volume

Point = tuple[float, float, float]

_CORPUS = 10
# Sub-region ids of TPTBox points: centre of the body 50, disc 100, endplate 62.
POI_CORPUS, POI_DISC, POI_ENDPLATE = 50, DISC_OFFSET, 62


def centroids(instances: Volume, semantic: Volume | None = None) -> dict[int, Point]:
    """Return the centre of mass of every instance in voxel indices of the instance mask.

    Parameters
    ----------
    instances: ids of the scheme ``instances`` (vertebra n, disc 100+n, endplate 200+n).
    semantic: ``nnunet14`` labels on the same grid. With it a vertebra's point is the centre of its body, as is usual
        for vertebra centroids; vertebrae without a body keep the centre of all their voxels.

    Raises
    ------
    ValueError: the two masks are on different grids.
    """
    if semantic is not None and not semantic.same_grid(instances):
        msg = f"semantic mask {semantic.shape} is not on the grid of the instance mask {instances.shape}"
        raise ValueError(msg)
    points = _centres(instances.array)
    if semantic is not None:
        bodies = _centres(np.where(semantic.array == _CORPUS, instances.array, 0))
        points |= {k: p for k, p in bodies.items() if k < DISC_OFFSET}
    return dict(sorted(points.items()))


def write_poi(
    path: str | Path, volume: Volume, points: Mapping[int, Point], *, info: Mapping[str, Any] | None = None
) -> None:
    """Write points as a TPTBox point-of-interest list (format ``POI``), atomically.

    Parameters
    ----------
    volume: the grid that the voxel indices in `points` belong to.
    points: instance id to (i, j, k). Discs (100+n) and endplates (200+n) are stored under their vertebra n, sub-region
        100 and 62; vertebrae under sub-region 50 (centre of the body), the sacrum under 26, 50.
    info: extra entries of the header, for example ``{"numbered": False}``.
    """
    header: dict[str, Any] = {
        **grid_header(volume),
        "format": "POI",
        "level_one_info": "Vertebra_Instance",
        "level_two_info": "Location",
    }
    header |= {key: value for key, value in (info or {}).items() if key not in header}
    table: dict[str, dict[str, list[float]]] = {}
    for instance, point in sorted(points.items()):
        vertebra, part = _split_id(instance)
        table.setdefault(str(vertebra), {})[str(part)] = [float(v) for v in point]
    write_json(path, [header, table])


def read_poi(path: str | Path) -> tuple[dict[int, Point], dict[str, Any]]:
    """Read a file of `write_poi` or TPTBox: points by instance id (voxel indices) and the header.

    Names of vertebrae (``L1``) and ids are both understood; points of other sub-regions are left out.

    Raises
    ------
    CaseError: missing file, no JSON, or another format than ``POI``.
    """
    points, header, _ = parse_poi(read_json(path), path)
    return points, header


def grid_header(volume: Volume) -> dict[str, Any]:
    """Return a grid as the headers of point files state it: direction, voxel size, origin, rotation, shape."""
    return {
        "direction": list(volume.orientation),
        "zoom": [float(v) for v in volume.spacing],
        "origin": [float(v) for v in volume.affine[:3, 3]],
        "rotation": (volume.affine[:3, :3] / np.asarray(volume.spacing)).tolist(),
        "shape": [int(v) for v in volume.shape],
    }


def parse_poi(content: Any, path: str | Path) -> tuple[dict[int, Point], dict[str, Any], list[str]]:
    """Return what `read_poi` returns, and the names of the points that it leaves out; `path` is for messages."""
    if not (isinstance(content, list) and len(content) == 2 and all(isinstance(part, dict) for part in content)):
        raise wrong_points(path, "something else")
    header, table = content
    if header.get("format") != "POI" or "direction" not in header:
        raise wrong_points(path, f"format {header.get('format')!r}")
    points, left_out = parse_table(table, path)
    return points, header, left_out


def parse_table(table: Any, path: str | Path) -> tuple[dict[int, Point], list[str]]:
    """Return the points of TPTBox' table of vertebrae and sub-regions, and the names of those of other sub-regions."""
    points: dict[int, Point] = {}
    left_out = []
    try:
        for name, parts in table.items():
            vertebra = vertebra_number(name)
            for part, (x, y, z) in parts.items():
                instance = join_id(vertebra, part)
                if instance is None:
                    left_out.append(f"{name} {part}")
                else:
                    points[instance] = (float(x), float(y), float(z))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise wrong_points(path, f"an entry that is no point ({error})") from error
    return dict(sorted(points.items())), left_out


def _centres(array: Array) -> dict[int, Point]:
    """Centre of mass per id > 0, by sums over the flattened voxels that are set."""
    flat = np.flatnonzero(array)
    if len(flat) == 0:
        return {}
    ids = array.reshape(-1)[flat].astype(np.intp)
    count = np.bincount(ids)
    sums = [np.bincount(ids, axis) for axis in np.unravel_index(flat, array.shape)]
    return {
        int(k): (float(sums[0][k] / count[k]), float(sums[1][k] / count[k]), float(sums[2][k] / count[k]))
        for k in np.flatnonzero(count)
    }


def _split_id(instance: int) -> tuple[int, int]:
    if instance >= ENDPLATE_OFFSET:
        return instance - ENDPLATE_OFFSET, POI_ENDPLATE
    if instance >= DISC_OFFSET:
        return instance - DISC_OFFSET, POI_DISC
    return instance, POI_CORPUS


def join_id(vertebra: int, part: str) -> int | None:
    """Return the instance id of a vertebra and one of TPTBox' sub-regions (name or number); None for other parts."""
    names = {"Vertebra_Corpus": POI_CORPUS, "Vertebra_Disc": POI_DISC, "Endplate": POI_ENDPLATE}
    number = names[part] if part in names else int(part) if part.isdigit() else -1
    offsets = {POI_CORPUS: 0, POI_DISC: DISC_OFFSET, POI_ENDPLATE: ENDPLATE_OFFSET}
    return vertebra + offsets[number] if number in offsets else None


def vertebra_number(name: str) -> int:
    """Return the id of a vertebra by id or name; raises KeyError for other names."""
    from nnunet_spine_ext.core.labels import vertebra_id

    if name.isdigit():
        return int(name)
    return vertebra_id("coccyx" if name == "COCC" else name)


def wrong_points(path: str | Path, found: str) -> CaseError:
    """Return the error for a file that holds no points in a known format."""
    return CaseError(
        "E-IN-POI",
        file=path,
        found=found,
        expected="a TPTBox point list (format POI) or VerSe centroids",
        fix="save the points in TPTBox with save_hint=2",
    )
