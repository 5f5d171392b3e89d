"""Holes that one instance encloses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.instances.voxels import CHUNK, Voxels, coordinates, neighbours

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Holes:
    """Voxels that an instance encloses: flat indices, the instance's id, and a voxel whose class they take."""

    flat: Array
    ids: Array
    like: Array
    count: int


def find_holes(voxels: Voxels, ids: Array, *, max_hole_mm3: float, min_speck_mm3: float) -> Holes:
    """Find holes that are enclosed by one instance.

    Parameters
    ----------
    ids: (n,) instance id of each voxel.
    max_hole_mm3: larger holes are left out.
    min_speck_mm3: smaller components of one class are open, too.
    """
    solid = voxels.solid(min_speck_mm3)
    hole, name, inside = _enclosed(voxels, ids, solid, max_hole_mm3)
    count = len(inside)
    around = [
        _solid_neighbours(voxels, solid, hole, name, place)
        for place in neighbours(hole, voxels.frame.labels.shape, faces=True)
    ]
    owner, number = (np.concatenate(k) for k in zip(*around, strict=True))
    low, high = np.full(count, 1 << 20), np.full(count, -1)
    np.minimum.at(low, owner, ids[number])
    np.maximum.at(high, owner, ids[number])
    # Boxes overlap: what another instance encloses is found in that one's box.
    filled = (low == high) & (high == inside)
    like = _most_frequent(voxels, owner, number, count)
    hole, name = hole[filled[name]], name[filled[name]]
    order = np.argsort(hole, kind="stable")
    hole, name = hole[order], name[order]
    return Holes(hole, high[name].astype(np.uint16), like[name], len(np.unique(name)))


def _enclosed(voxels: Voxels, ids: Array, solid: Array, max_hole_mm3: float) -> tuple[Array, Array, Array]:
    """Return open components inside the box of an instance.

    What one instance encloses lies within its box and does not touch the box's faces: so small arrays will do.

    Returns (flat indices of their voxels, number of the component from 0 of each, id of the instance per component).
    """
    closed = voxels.dense(solid, np.bool_)
    flats, names = [np.zeros(0, dtype=voxels.flat.dtype)], [np.zeros(0, dtype=np.intp)]
    inside: list[int] = []
    for instance, box in sorted(_boxes(voxels, ids).items()):
        place, component = _open_parts(~closed[box], max_hole_mm3 / voxels.frame.voxel_volume)
        if len(component) == 0:
            continue
        x, y, z = (axis + part.start for axis, part in zip(place, box, strict=True))
        flats.append(((x * closed.shape[1] + y) * closed.shape[2] + z).astype(voxels.flat.dtype))
        names.append(component + len(inside))
        inside += [instance] * (int(component.max()) + 1)
    return np.concatenate(flats), np.concatenate(names), np.array(inside, dtype=np.intp)


def _open_parts(open_: Array, largest: float) -> tuple[tuple[Array, ...], Array]:
    """Voxels of the 6-connected components that do not touch a face of the array, and numbers from 0 of these."""
    import cc3d

    parts, count = cc3d.connected_components(open_, connectivity=6, return_N=True)
    inside = np.ones(count + 1, dtype=bool)
    inside[0] = False
    for axis in range(3):
        for end in (0, -1):
            inside[np.unique(np.take(parts, end, axis=axis))] = False
    if not inside.any():
        return (), np.zeros(0, dtype=np.intp)
    place = np.nonzero(inside[parts])
    name = parts[place]
    fits = (np.bincount(name, minlength=count + 1) <= largest)[name]
    place = tuple(axis[fits] for axis in place)
    return place, np.unique(name[fits], return_inverse=True)[1]


def _boxes(voxels: Voxels, ids: Array) -> dict[int, Box]:
    """Return the smallest box around the voxels of each id."""
    count = int(ids.max(initial=0)) + 1
    shape = voxels.frame.labels.shape
    low = [np.full(count, n, dtype=np.int32) for n in shape]
    high = [np.zeros(count, dtype=np.int32) for _ in shape]
    for begin in range(0, len(ids), CHUNK):
        own = ids[begin : begin + CHUNK]
        for axis, place in enumerate(coordinates(voxels.flat[begin : begin + CHUNK], shape)):
            np.minimum.at(low[axis], own, place.astype(np.int32))
            np.maximum.at(high[axis], own, place.astype(np.int32))
    return {
        k: tuple(slice(int(low[axis][k]), int(high[axis][k]) + 1) for axis in range(3))  # type: ignore[misc]
        for k in range(1, count)
        if low[0][k] <= high[0][k]
    }


def _solid_neighbours(voxels: Voxels, solid: Array, hole: Array, name: Array, place: Array) -> tuple[Array, Array]:
    """(component, number of the voxel) for hole voxels whose neighbour in one direction is solid."""
    number = np.minimum(np.searchsorted(voxels.flat, place), len(voxels) - 1)
    hit = (voxels.flat[number] == place) & solid[number] & (place != hole)
    return name[hit], number[hit]


def _most_frequent(voxels: Voxels, owner: Array, number: Array, count: int) -> Array:
    """Per component one neighbouring voxel of the class that most of its neighbours have."""
    key = owner * 256 + voxels.label[number]
    keys, first, votes = np.unique(key, return_index=True, return_counts=True)
    like = np.zeros(count, dtype=np.intp)
    # Ascending in votes, then descending in class: the last one written wins.
    order = np.lexsort((-(keys % 256), votes))
    like[keys[order] // 256] = number[first[order]]
    return like
