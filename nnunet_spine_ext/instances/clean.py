"""Clean-up of instances: stray components and parts that no front could reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.core.config import check_ranges
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.instances.frame import ARCUS, SPINOUS
from nnunet_spine_ext.instances.priors import EXPECTED, class_lookup
from nnunet_spine_ext.instances.seeds import Bodies
from nnunet_spine_ext.instances.voxels import Voxels, neighbours
from nnunet_spine_ext.measure.centreline import Centreline

# A part changes its vertebra only if the level of the other one fits better by this many tolerances.
_CLEARLY = 1.0


@dataclass(frozen=True)
class CleanSettings:
    """Which clean-up steps run and how far they reach.

    Parameters
    ----------
    reassign_stray: give a component that is cut off from its vertebra to the neighbour it shares most border with.
    stray_share: only components smaller than this share of their vertebra's largest one move. A whole arch whose
        pedicles lie outside the picture is a component of its own and stays.
    repair_posterior: give a component of arch and spinous process that is cut off from its vertebra, whatever its
        size, to the only other vertebra that it touches if it lies at that one's level rather.
    attach_mm: parts that touch no vertebra join the best one within this distance; 0 switches it off.
    empty_mm: how much nearer a vertebra has to be than a place without body at the same level (a spinous process whose
        vertebra lies above the picture).
    min_attach_mm3: smaller loose parts stay unassigned (they are noise).
    """

    reassign_stray: bool = True
    stray_share: float = 0.1
    repair_posterior: bool = True
    attach_mm: float = 12.0
    empty_mm: float = 4.0
    min_attach_mm3: float = 28.0

    def __post_init__(self) -> None:
        limits = {
            "stray_share": (0.0, 1.0),
            "attach_mm": (0.0, 1e6),
            "empty_mm": (0.0, 1e6),
            "min_attach_mm3": (0.0, 1e6),
        }
        check_ranges(self, limits, where="instances.clean")


def reassign_stray(voxels: Voxels, vertebra: Array, bodies: Bodies, settings: CleanSettings) -> dict[str, int]:
    """Give stray components of an instance to the instance with the longest shared border, in place.

    A component is stray if it is small against the largest one of its vertebra and touches another vertebra. Larger
    ones are looked at if they hold arch and spinous process only (see `CleanSettings`). Returns how many components
    changed of either kind.

    Parameters
    ----------
    vertebra: (n,) vertebra of each voxel.
    """
    steps = {"stray_components_moved": 0, "posterior_parts_moved": 0}
    if not settings.reassign_stray and not settings.repair_posterior:
        return steps
    import cc3d

    used = np.flatnonzero(vertebra)
    dtype = np.uint8 if int(vertebra.max(initial=0)) < 256 else np.uint16
    parts, count = cc3d.connected_components(voxels.dense(vertebra, dtype), connectivity=18, return_N=True)
    parts = parts.reshape(-1)
    name = parts[voxels.flat[used]].astype(np.intp)
    size = np.bincount(name, minlength=count + 1)
    owner = np.zeros(count + 1, dtype=np.intp)
    owner[name] = vertebra[used]
    largest = np.zeros(int(owner.max()) + 1, dtype=np.intp)
    np.maximum.at(largest, owner[1:], size[1:])
    lesser = size < largest[owner]
    lesser[0] = False
    stray = lesser & (size < settings.stray_share * largest[owner]) & settings.reassign_stray
    posterior = lesser & ~stray & settings.repair_posterior
    posterior[name[~np.isin(voxels.label[used], (ARCUS, SPINOUS))]] = False
    asked = stray | posterior
    if not asked.any():
        return steps
    members = asked[name]
    contacts = _contacts(parts, voxels, voxels.flat[used[members]])
    for k in sorted(np.flatnonzero(asked).tolist(), key=lambda part: (int(size[part]), part)):
        border: dict[int, float] = {}
        for other, area in contacts.get(k, {}).items():
            border[int(owner[other])] = border.get(int(owner[other]), 0.0) + area
        border.pop(int(owner[k]), None)
        if border and stray[k]:
            owner[k] = max(border, key=lambda v: (border[v], -v))
            steps["stray_components_moved"] += 1
        elif len(border) == 1:
            other = next(iter(border))
            part = used[name == k]
            if _misfit(voxels, part, bodies, other) + _CLEARLY < _misfit(voxels, part, bodies, int(owner[k])):
                owner[k] = other
                steps["posterior_parts_moved"] += 1
    vertebra[used[members]] = owner[name[members]]
    return steps


def _misfit(voxels: Voxels, part: Array, bodies: Bodies, vertebra: int) -> float:
    """How far a part is from where a vertebra would have it, in tolerances."""
    kind = int(np.bincount(class_lookup()[voxels.label[part]]).argmax())
    level, tolerance = EXPECTED[kind]
    place = (float(voxels.arc[part].mean()) - bodies.arc[vertebra - 1]) / bodies.pitch[vertebra - 1]
    return abs(float(place) - level) / tolerance


def _contacts(parts: Array, voxels: Voxels, flat: Array) -> dict[int, dict[int, float]]:
    """Border in mm² (faces only) that the components of some voxels share with each other component."""
    shape, spacing = voxels.frame.labels.shape, voxels.frame.spacing
    own = parts[flat]
    table: dict[int, dict[int, float]] = {}
    # Faces come in the order of the axes x, y, z, z, y, x.
    for axis, place in zip((0, 1, 2, 2, 1, 0), neighbours(flat, shape, faces=True), strict=True):
        other = parts[place]
        touch = (other != own) & (other > 0)
        pairs, counts = np.unique(np.stack([own[touch], other[touch]]), axis=1, return_counts=True)
        area = spacing[(axis + 1) % 3] * spacing[(axis + 2) % 3]
        for a, b, faces in zip(pairs[0].tolist(), pairs[1].tolist(), counts.tolist(), strict=True):
            row = table.setdefault(a, {})
            row[b] = row.get(b, 0.0) + faces * area
    return table


def attach_loose(
    voxels: Voxels, vertebra: Array, bodies: Bodies, line: Centreline, settings: CleanSettings
) -> tuple[int, int]:
    """Give parts that touch nothing to the vertebra that is near and at the right level, in place.

    Parameters
    ----------
    vertebra: (n,) vertebra of each voxel.
    bodies: with the empty places; one that holds no voxel yet may take a part too.

    Returns (parts attached, parts left unassigned) among those of at least `min_attach_mm3`.
    """
    import cc3d

    loose = np.flatnonzero((class_lookup()[voxels.label] >= 0) & (vertebra == 0))
    if settings.attach_mm <= 0 or len(loose) * voxels.frame.voxel_volume < settings.min_attach_mm3:
        return 0, 0
    mask = np.zeros(voxels.frame.labels.shape, dtype=bool)
    mask.reshape(-1)[voxels.flat[loose]] = True
    parts, count = cc3d.connected_components(mask, connectivity=26, return_N=True)
    name = parts.reshape(-1)[voxels.flat[loose]].astype(np.intp)
    del parts, mask
    size = np.bincount(name, minlength=count + 1) * voxels.frame.voxel_volume
    wanted = np.flatnonzero(size >= settings.min_attach_mm3)
    if len(wanted) == 0:
        return 0, 0
    from scipy.spatial import cKDTree

    taken = np.flatnonzero(vertebra)
    near = _Near(cKDTree(voxels.frame.positions(voxels.flat[taken])), vertebra[taken], bodies, settings)
    attached = 0
    for k in wanted:
        members = loose[name == k]
        best = near.best(voxels, members, line)
        if best > 0:
            vertebra[members] = best
            attached += 1
    return attached, len(wanted) - attached


@dataclass(frozen=True)
class _Near:
    """Which vertebrae are near a part that touches none."""

    tree: Any
    owners: Array
    bodies: Bodies
    settings: CleanSettings

    def best(self, voxels: Voxels, members: Array, line: Centreline) -> int:
        """Return the vertebra that a part belongs to, 0 if none is near."""
        points = voxels.frame.positions(voxels.flat[members])
        thinned = points[:: max(1, len(points) // 200)]
        distance, index = self.tree.query(thinned, k=8, distance_upper_bound=self.settings.attach_mm)
        found = np.isfinite(distance)
        names = self.owners[index[found]]
        gaps = {int(v): float(distance[found][names == v].min()) for v in np.unique(names)}
        if gaps:
            empty = set(range(1, len(self.bodies) + 1)) - set(np.unique(self.owners).tolist())
            gaps |= dict.fromkeys(sorted(empty), self.settings.empty_mm)
        kind = np.bincount(class_lookup()[voxels.label[members]]).argmax()
        level, tolerance = EXPECTED.get(int(kind), (0.0, 0.5))
        middle = float(line.locate(points).mean())
        best, best_cost = 0, np.inf
        for vertebra, gap in gaps.items():
            place = (middle - self.bodies.arc[vertebra - 1]) / self.bodies.pitch[vertebra - 1]
            cost = gap + 10.0 * max(0.0, abs(place - level) / tolerance - 1.0)
            if cost < best_cost:
                best, best_cost = vertebra, cost
        return best
