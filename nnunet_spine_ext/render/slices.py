"""Planes through a volume, shown upright, in physical proportions, with their directions named.

Every volume is first brought to the closest RAS order (axes permuted and flipped, nothing interpolated), so the same
anatomy stored in any orientation gives the same picture. Conventions, as on a light box:

* axial: seen from the feet, front up; **radiological**: the patient's right is at the left edge;
* coronal: seen from the front, head up; radiological: the patient's right is at the left edge;
* sagittal: seen from the patient's left side, head up, front at the left edge.

``neurological`` exchanges left and right in axial and coronal pictures; sagittal ones stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np

from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.render.window import Window, to_grey

Plane = Literal["sagittal", "coronal", "axial"]
Convention = Literal["radiological", "neurological"]
PLANES: tuple[Plane, ...] = ("sagittal", "coronal", "axial")

# In RAS order: the array axis through the plane, along the columns (left to right) and along the rows (top to bottom).
_AXES: dict[str, tuple[int, int, int]] = {"sagittal": (0, 1, 2), "coronal": (1, 0, 2), "axial": (2, 0, 1)}
_LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))
# An edge of an oblique picture gets a second letter when it points more than 20 degrees that way.
_SECOND_LETTER = float(np.sin(np.deg2rad(20)))


@dataclass(frozen=True)
class View:
    """One plane of a grid and how it is laid out on screen; made by `view`.

    Parameters
    ----------
    grid: the RAS-ordered grid that is cut (its voxel values are not used).
    plane: ``sagittal``, ``coronal`` or ``axial``.
    position: index along the axis through the plane; a curved plane has one per index along the body (axis S).
    rows, columns: the shown part in voxels from the top and from the left, half open.
    size: pixels (height, width).
    convention: which side the patient's right is on.
    """

    grid: Volume
    plane: Plane
    position: int | tuple[int, ...]
    rows: tuple[int, int]
    columns: tuple[int, int]
    size: tuple[int, int]
    convention: Convention = "radiological"

    @property
    def curved(self) -> bool:
        """Whether the plane follows the spine."""
        return isinstance(self.position, tuple)

    @property
    def pixel_mm(self) -> float:
        """Size of a (square) pixel in millimetres."""
        return (self.rows[1] - self.rows[0]) * self.grid.spacing[_AXES[self.plane][2]] / self.size[0]

    @property
    def edges(self) -> dict[str, str]:
        """Letters (L/R, A/P, S/I) at the edges ``left``, ``right``, ``top`` and ``bottom``."""
        _, column, row = _AXES[self.plane]
        right = self.grid.affine[:3, column] * (-1 if self._columns_flipped else 1)
        down = -self.grid.affine[:3, row]
        return {"left": _letters(-right), "right": _letters(right), "top": _letters(-down), "bottom": _letters(down)}

    @property
    def _columns_flipped(self) -> bool:
        return self.plane == "sagittal" or self.convention == "radiological"

    def cut(self, volume: Volume) -> Array:
        """Return the voxels (rows, columns) of the shown part; `volume` is on the grid, in any axis order."""
        array = volume.to("RAS").array
        if array.shape != self.grid.shape:
            msg = f"volume of shape {array.shape} (RAS order) is not on the grid {self.grid.shape} of this view"
            raise ValueError(msg)
        if isinstance(self.position, tuple):
            places, levels = np.asarray(self.position), np.arange(array.shape[2])
            # An index array beside a slice: numpy puts the index dimension first for axes 0 and 2.
            flat = array[places, :, levels].T if self.plane == "sagittal" else array[:, places, levels]
        else:
            flat = np.take(array, self.position, axis=_AXES[self.plane][0])
        flat = flat[::-1] if self._columns_flipped else flat
        return flat.T[::-1][self.rows[0] : self.rows[1], self.columns[0] : self.columns[1]]

    def grey(self, volume: Volume, limits: Window) -> Array:
        """Return the picture (height, width) uint8, interpolated to square pixels."""
        from PIL import Image

        image = Image.fromarray(np.ascontiguousarray(to_grey(self.cut(volume), limits)))
        height, width = self.size
        return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))

    def labels(self, volume: Volume) -> Array:
        """Return the label ids (height, width): the nearest voxel, never a mixture."""
        flat = self.cut(volume)
        height, width = self.size
        rows = ((np.arange(height) + 0.5) * flat.shape[0] / height).astype(int)
        columns = ((np.arange(width) + 0.5) * flat.shape[1] / width).astype(int)
        return flat[np.ix_(rows, columns)]

    def project(self, world: Array | Sequence[float]) -> Array:
        """Map RAS+ millimetres (..., 3) to pixels (..., 2) as (x, y) from the top left corner, along the normal."""
        index = self.grid.index(world)
        _, column, row = _AXES[self.plane]
        across, down = index[..., column], self.grid.shape[row] - 1 - index[..., row]
        if self._columns_flipped:
            across = self.grid.shape[column] - 1 - across
        x = (across + 0.5 - self.columns[0]) * self.size[1] / (self.columns[1] - self.columns[0])
        y = (down + 0.5 - self.rows[0]) * self.size[0] / (self.rows[1] - self.rows[0])
        return np.stack([x, y], axis=-1)

    def focused(self, mask: Array, margin_mm: float, size: int) -> View:
        """Return the view of the box around a mask (rows, columns as `cut` returns it) with a margin.

        An empty mask changes nothing.
        """
        if not mask.any():
            return self
        _, column, row = _AXES[self.plane]
        spacing = self.grid.spacing
        rows = _box(np.asarray(mask.any(axis=1)), margin_mm / spacing[row], self.rows)
        columns = _box(np.asarray(mask.any(axis=0)), margin_mm / spacing[column], self.columns)
        return replace(
            self, rows=rows, columns=columns, size=_pixels(rows, columns, spacing[row], spacing[column], size)
        )


def view(
    grid: Volume,
    plane: str,
    position: int | Sequence[int] | None = None,
    *,
    size: int = 512,
    convention: Convention = "radiological",
) -> View:
    """Lay out one plane of a volume.

    Parameters
    ----------
    grid: any orientation; its RAS order counts.
    plane: ``sagittal``, ``coronal`` or ``axial``.
    position: index along the RAS axis through the plane (from the left, the back or below); None: the middle. A
        sequence of one index per index along S makes a curved sagittal or coronal plane (see `curve`).
    size: pixels along the longer side.
    convention: ``radiological`` (the patient's right at the left edge) or ``neurological``.

    Raises
    ------
    ValueError: unknown plane or convention, position outside the grid, curved axial plane.
    """
    if plane not in _AXES:
        msg = f"plane {plane!r} must be one of {', '.join(_AXES)}"
        raise ValueError(msg)
    if convention not in ("radiological", "neurological"):
        msg = f"convention {convention!r} must be radiological or neurological"
        raise ValueError(msg)
    ras = _empty_ras(grid)
    normal, column, row = _AXES[plane]
    chosen = _checked(position, plane, ras.shape[normal], ras.shape[2])
    rows, columns = (0, ras.shape[row]), (0, ras.shape[column])
    pixels = _pixels(rows, columns, ras.spacing[row], ras.spacing[column], size)
    return View(ras, cast("Plane", plane), chosen, rows, columns, pixels, convention)


def _checked(position: int | Sequence[int] | None, plane: str, count: int, levels: int) -> int | tuple[int, ...]:
    if position is None:
        return count // 2
    single = isinstance(position, (int, np.integer))
    values = (int(cast("int", position)),) if single else tuple(int(n) for n in cast("Sequence[int]", position))
    if not single and (plane == "axial" or len(values) != levels):
        msg = f"a curved plane is sagittal or coronal and needs {levels} positions, got {plane} with {len(values)}"
        raise ValueError(msg)
    if any(not 0 <= n < count for n in values):
        msg = f"position {min(values)}..{max(values)} is outside 0..{count - 1} of the {plane} plane"
        raise ValueError(msg)
    return values[0] if single else values


def _empty_ras(grid: Volume) -> Volume:
    """Return the RAS-ordered grid without its voxel values (so that a view holds no image alive)."""
    # The array of zero strides is reoriented without being copied when the order is RAS already; else it is small work
    # on one byte per voxel.
    hollow = np.broadcast_to(np.zeros((), dtype=np.uint8), grid.shape)
    ras = Volume(hollow, grid.affine).to("RAS")
    return Volume(np.broadcast_to(np.zeros((), dtype=np.uint8), ras.shape), ras.affine)


def _pixels(
    rows: tuple[int, int], columns: tuple[int, int], row_mm: float, column_mm: float, size: int
) -> tuple[int, int]:
    height, width = (rows[1] - rows[0]) * row_mm, (columns[1] - columns[0]) * column_mm
    scale = size / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _box(occupied: Array, margin: float, bounds: tuple[int, int]) -> tuple[int, int]:
    places = np.flatnonzero(occupied)
    first = bounds[0] + int(places[0]) - round(margin)
    last = bounds[0] + int(places[-1]) + 1 + round(margin)
    return max(bounds[0], first), min(bounds[1], last)


def _letters(direction: Array) -> str:
    unit = direction / np.linalg.norm(direction)
    order = np.argsort(-np.abs(unit), kind="stable")
    first, second = (int(n) for n in order[:2])
    text = _LETTERS[first][int(unit[first] > 0)]
    return text + (_LETTERS[second][int(unit[second] > 0)] if abs(unit[second]) > _SECOND_LETTER else "")
