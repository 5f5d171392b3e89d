"""The vertebrae of an instance mask as a column, head to tail: where they are, how large, what is next to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.labels import DISC_OFFSET, VERTEBRA_ORDER, id_counts
from nnunet_spine_ext.core.volume import Array, Volume

SACRUM_ID = 26
# Ids of positions 1 to 25 are those of C1 to L6; what comes after 33, the last sacral segment, counts on from there.
_FIRST_FREE = 34
_CORPUS, _COSTAL = 10, (4, 5)
_MIN_SACRUM_MM3 = 500.0
_MIN_COSTAL_MM3 = 60.0
# Square of a length over the variance of points along it: from top to bottom of a block, through an ellipse.
_BLOCK, _ELLIPSE = 12.0, 16.0
_UP_MM = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True, eq=False)
class Column:
    """n vertebrae, head to tail; lengths in mm, places in RAS+ mm, NaN where there is nothing to measure.

    Parameters
    ----------
    ids: instance ids.
    centre: (n, 3) centre of all voxels of a vertebra.
    body: (n, 3) centre of its body.
    down: (n, 3) unit vectors along the spine, towards the tail.
    height, depth: (n,) of the body, along the spine and from front to back.
    span: (n,) from the tip of one costal process to that of the other.
    pitch: (n,) from the centre of the body to that of the next one.
    cut: (n,) whether the upper or lower end of the picture touches the vertebra.
    voxels: (ids,) number of voxels of every id of the mask, discs and endplates too.
    sacrum_mm: from the centre of the last body to the nearest point of the sacrum below it; None: no sacrum.
    """

    ids: tuple[int, ...]
    centre: Array
    body: Array
    down: Array
    height: Array
    depth: Array
    span: Array
    pitch: Array
    cut: Array
    voxels: Array
    sacrum_mm: float | None

    def __len__(self) -> int:
        return len(self.ids)


def vertebra_ids(instances: Volume) -> tuple[int, ...]:
    """Return the ids of single vertebrae of an instance mask, head to tail."""
    return _in_order({int(k) for k in id_counts(instances.array)})


def _in_order(present: set[int]) -> tuple[int, ...]:
    known = [k for k in VERTEBRA_ORDER if k in present and (k < SACRUM_ID or k == 28)]
    return tuple(known + sorted(k for k in present if _FIRST_FREE <= k < DISC_OFFSET))


def measure_column(instances: Volume, classes: Array | None) -> Column:
    """Measure the vertebrae of an instance mask.

    Parameters
    ----------
    instances: vertebra ids below 100, counted from the top; 26 is the sacrum.
    classes: (i, j, k) ``nnunet14`` labels on the same grid; None: all of a vertebra counts as its body.
    """
    flat = np.flatnonzero(instances.array)
    value = instances.array.reshape(-1)[flat].astype(np.intp)
    voxels = np.bincount(value)
    ids = _in_order(set(np.flatnonzero(voxels).tolist()))
    row = np.full(max(int(value.max(initial=0)), SACRUM_ID) + 1, -1)
    row[list(ids)] = np.arange(len(ids))
    mine = row[value] >= 0
    places, rows = flat[mine], row[value[mine]]
    index = np.stack(np.unravel_index(places, instances.shape), axis=1)
    kind = None if classes is None else classes.reshape(-1)[places]
    in_body = np.ones(len(rows), dtype=bool) if kind is None else kind == _CORPUS
    world = index @ instances.affine[:3, :3].T + instances.affine[:3, 3]
    centre, _ = _moments(world, rows, len(ids))
    body, spread = _moments(world[in_body], rows[in_body], len(ids))
    down = _directions(np.where(np.isnan(body), centre, body))
    front = np.cross(down, _right(down))
    sacrum = flat[value == SACRUM_ID]
    return Column(
        ids=ids,
        centre=centre,
        body=body,
        down=down,
        height=_extent(spread, down, _BLOCK),
        depth=_extent(spread, front, _ELLIPSE),
        span=_spans(world, rows, kind, down, instances),
        pitch=np.append(np.linalg.norm(np.diff(body, axis=0), axis=1), np.nan)[: len(ids)],
        cut=_cut(index, rows, len(ids), instances),
        voxels=voxels,
        sacrum_mm=_sacrum_distance(sacrum, instances, body, centre, down),
    )


def _moments(points: Array, rows: Array, count: int) -> tuple[Array, Array]:
    """Centre (n, 3) and covariance (n, 3, 3) of the points of each row; NaN where there are none."""
    number = np.bincount(rows, minlength=count).astype(float)
    number[number == 0] = np.nan
    centre = np.stack([np.bincount(rows, points[:, k], count) for k in range(3)], axis=1) / number[:, None]
    offset = points - centre[rows]
    spread = np.empty((count, 3, 3))
    for a in range(3):
        for b in range(a, 3):
            spread[:, a, b] = spread[:, b, a] = np.bincount(rows, offset[:, a] * offset[:, b], count) / number
    return centre, spread


def _extent(spread: Array, direction: Array, shape: float) -> Array:
    """Length along a direction of the body with this spread; `shape` is its square over the variance."""
    return np.sqrt(np.maximum(shape * np.einsum("ni,nij,nj->n", direction, spread, direction), 0.0))


def _directions(places: Array) -> Array:
    """Unit vectors (n, 3) towards the tail, from the neighbours of each place."""
    if len(places) < 2:
        return np.tile(-_UP_MM, (len(places), 1))
    step = np.gradient(places, axis=0)
    return step / np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1e-9)


def _right(down: Array) -> Array:
    """Unit vectors (n, 3) to the right, across the spine."""
    right = np.array([1.0, 0.0, 0.0]) - down * down[:, :1]
    return right / np.maximum(np.linalg.norm(right, axis=1, keepdims=True), 1e-9)


def _spans(world: Array, rows: Array, kind: Array | None, down: Array, instances: Volume) -> Array:
    """Width over both costal processes; NaN where one is missing."""
    count = len(down)
    result = np.full(count, np.nan)
    if kind is None:
        return result
    least = _MIN_COSTAL_MM3 / instances.voxel_volume
    right = _right(down)
    costal = np.flatnonzero(np.isin(kind, _COSTAL))
    for row in range(count):
        mine = costal[rows[costal] == row]
        if min(int((kind[mine] == side).sum()) for side in _COSTAL) >= least:
            along = world[mine] @ right[row]
            result[row] = along.max() - along.min()
    return result


def _cut(index: Array, rows: Array, count: int, instances: Volume) -> Array:
    """Whether a vertebra touches the first or last plane of the axis that runs along the spine."""
    axis = int(np.abs(instances.affine[2, :3]).argmax())
    outermost = (index[:, axis] == 0) | (index[:, axis] == instances.shape[axis] - 1)
    return np.bincount(rows[outermost], minlength=count) > 0


def _sacrum_distance(sacrum: Array, instances: Volume, body: Array, centre: Array, down: Array) -> float | None:
    if len(body) == 0 or len(sacrum) * instances.voxel_volume < _MIN_SACRUM_MM3:
        return None
    last = np.where(np.isnan(body[-1]), centre[-1], body[-1])
    places = instances.world(np.stack(np.unravel_index(sacrum, instances.shape), axis=1)) - last
    # The wings of the sacrum reach up beside the last vertebra: what is not below it is not asked.
    below = places[places @ down[-1] > 0]
    return float(np.linalg.norm(below, axis=1).min()) if len(below) else None
