"""Clean-up of instances: stray components and parts that no front could reach."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.instances.frame import Frame, bounding_box
from nnunet_spine_ext.instances.priors import EXPECTED, class_lookup
from nnunet_spine_ext.instances.seeds import Bodies
from nnunet_spine_ext.measure.centreline import Centreline


@dataclass(frozen=True)
class CleanSettings:
    """Which clean-up steps run and how far they reach.

    Parameters
    ----------
    reassign_stray: give a component that is cut off from its vertebra to the neighbour it shares most border with.
    stray_share: only components smaller than this share of their vertebra's largest one move. A whole arch whose
        pedicles lie outside the picture is a component of its own and stays.
    attach_mm: parts that touch no vertebra join the best one within this distance; 0 switches it off.
    empty_mm: how much nearer a vertebra has to be than a place without body at the same level (a spinous process whose
        vertebra lies above the picture).
    min_attach_mm3: smaller loose parts stay unassigned (they are noise).
    """

    reassign_stray: bool = True
    stray_share: float = 0.1
    attach_mm: float = 12.0
    empty_mm: float = 4.0
    min_attach_mm3: float = 28.0


def reassign_stray(frame: Frame, vertebrae: Array, settings: CleanSettings) -> int:
    """Give stray components of an instance to the instance with the longest shared border, in place.

    A component is stray if it is small against the largest one of its vertebra and touches another vertebra. Returns
    how many components changed.
    """
    import cc3d

    box = bounding_box(vertebrae)
    if box is None:
        return 0
    view = np.ascontiguousarray(vertebrae[box]).astype(np.uint16)
    parts, count = cc3d.connected_components(view, connectivity=18, return_N=True)
    flat = np.flatnonzero(parts)
    name = parts.reshape(-1)[flat].astype(np.intp)
    size = np.bincount(name, minlength=count + 1)
    owner = np.zeros(count + 1, dtype=np.intp)
    owner[name] = view.reshape(-1)[flat]
    largest = np.zeros(int(owner.max()) + 1, dtype=np.intp)
    np.maximum.at(largest, owner[1:], size[1:])
    stray = [k for k in range(1, count + 1) if size[k] < settings.stray_share * largest[owner[k]]]
    if not stray:
        return 0
    contacts = _contacts(parts, frame.spacing, count)
    changed = 0
    for k in sorted(stray, key=lambda part: (int(size[part]), part)):
        border: dict[int, float] = {}
        for other, area in contacts.get(k, {}).items():
            border[int(owner[other])] = border.get(int(owner[other]), 0.0) + area
        border.pop(int(owner[k]), None)
        if border:
            owner[k] = max(border, key=lambda v: (border[v], -v))
            changed += 1
    view.reshape(-1)[flat] = owner[name]
    vertebrae[box] = view.astype(vertebrae.dtype)
    return changed


def _contacts(parts: Array, spacing: tuple[float, float, float], count: int) -> dict[int, dict[int, float]]:
    """Border area in mm² between touching components (faces only)."""
    pairs: list[Array] = []
    areas: list[Array] = []
    for axis in range(3):
        ahead, behind = [slice(None)] * 3, [slice(None)] * 3
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        a, b = parts[tuple(behind)], parts[tuple(ahead)]
        touch = (a != b) & (a > 0) & (b > 0)
        key = a[touch].astype(np.int64) * (count + 1) + b[touch]
        pairs.append(key)
        areas.append(np.full(len(key), spacing[(axis + 1) % 3] * spacing[(axis + 2) % 3]))
    keys, inverse = np.unique(np.concatenate(pairs), return_inverse=True)
    sums = np.bincount(inverse, np.concatenate(areas), minlength=len(keys))
    table: dict[int, dict[int, float]] = {}
    for key, area in zip(keys.tolist(), sums.tolist(), strict=True):
        a, b = divmod(key, count + 1)
        for first, second in ((a, b), (b, a)):
            row = table.setdefault(first, {})
            row[second] = row.get(second, 0.0) + area
    return table


def attach_loose(
    frame: Frame, vertebrae: Array, bodies: Bodies, line: Centreline, settings: CleanSettings
) -> tuple[int, int]:
    """Give parts that touch nothing to the vertebra that is near and at the right level, in place.

    Parameters
    ----------
    bodies: with the empty places; one that holds no voxel yet may take a part too.

    Returns (parts attached, parts left unassigned) among those of at least `min_attach_mm3`.
    """
    import cc3d
    from scipy.spatial import cKDTree

    kinds = class_lookup()[frame.labels]
    loose = (kinds >= 0) & (vertebrae == 0)
    box = bounding_box(loose)
    if box is None or settings.attach_mm <= 0:
        return 0, 0
    parts, count = cc3d.connected_components(loose[box], connectivity=26, return_N=True)
    size = np.bincount(parts.reshape(-1), minlength=count + 1) * frame.voxel_volume
    offset = np.array([s.start for s in box])
    wanted = [k for k in range(1, count + 1) if size[k] >= settings.min_attach_mm3]
    if not wanted:
        return 0, 0
    taken = np.flatnonzero(vertebrae)
    tree = cKDTree(frame.positions(taken))
    owners = vertebrae.reshape(-1)[taken]
    attached = 0
    for k in wanted:
        place = np.argwhere(parts == k) + offset
        best = _nearest_vertebra(place * np.asarray(frame.spacing), kinds, place, tree, owners, bodies, line, settings)
        if best > 0:
            vertebrae[tuple(place.T)] = best
            attached += 1
    return attached, len(wanted) - attached


def _nearest_vertebra(
    points: Array,
    kinds: Array,
    place: Array,
    tree: object,
    owners: Array,
    bodies: Bodies,
    line: Centreline,
    settings: CleanSettings,
) -> int:
    thinned = points[:: max(1, len(points) // 200)]
    distance, index = tree.query(thinned, k=8, distance_upper_bound=settings.attach_mm)  # type: ignore[attr-defined]
    found = np.isfinite(distance)
    names = owners[index[found]]
    gaps = {int(v): float(distance[found][names == v].min()) for v in np.unique(names)}
    if gaps:
        empty = set(range(1, len(bodies) + 1)) - set(np.unique(owners).tolist())
        gaps |= dict.fromkeys(sorted(empty), settings.empty_mm)
    kind = np.bincount(kinds[tuple(place.T)].astype(np.intp)).argmax()
    level, tolerance = EXPECTED.get(int(kind), (0.0, 0.5))
    middle = float(line.locate(points).mean())
    best, best_cost = 0, np.inf
    for vertebra, gap in gaps.items():
        away = abs((middle - bodies.arc[vertebra - 1]) / bodies.pitch[vertebra - 1] - level) / tolerance
        cost = gap + 10.0 * max(0.0, away - 1.0)
        if cost < best_cost:
            best, best_cost = vertebra, cost
    return best
