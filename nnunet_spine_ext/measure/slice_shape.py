"""Size and form of the cord's section in each slice, computed in two ways.

``sct`` repeats the Spinal Cord Toolbox (`compute_shape`, versions of 2025 and 2026): the slice is shrunk by the
cosines of its tilt, scaled to the range 0 to 1, brought to pixels of 0.1 mm linearly, and summed. All of these steps
are linear and separable in x and y, so here each is a small matrix, and the area alone needs only vectors.

``pv`` is the physical sum: shares of a voxel, times its area across the cord.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.measure.cord_map import NEAR_ZERO, CordMap

Mode = Literal["sct", "pv"]

# Names of the Spinal Cord Toolbox' own code: pixel of the fine grid in mm, margin around the object in voxels.
_FINE_MM = 0.1
_MARGIN = 3
_HALF = 0.5
# Width in fine pixels over which the front-to-back diameter is averaged.
_BAND = 30
_FORM = (
    "diameter_ap",
    "diameter_ap_ellipse",
    "diameter_rl",
    "length_anterior",
    "length_posterior",
    "eccentricity",
    "orientation",
    "solidity",
)


def tilt(slopes: Array, spacing: tuple[float, float, float]) -> tuple[Array, Array]:
    """Return the angles in radians about the front-to-back and the right-left axis for slopes (n, 2)."""
    px, py, pz = spacing
    return np.arctan2(slopes[:, 0] * px, pz), np.arctan2(slopes[:, 1] * py, pz)


def sct_shapes(cord: CordMap, slices: Array, angles: tuple[Array, Array], *, form: bool) -> dict[str, Array]:
    """Measure slices as the Spinal Cord Toolbox does.

    Parameters
    ----------
    slices: (n,) numbers of slices; empty ones give NaN.
    angles: see `tilt`, (n,) each.
    form: also diameters, eccentricity, orientation and solidity, which take most of the time.

    Returns
    -------
    Arrays (n,): ``area`` in mm², and with `form` those of the toolbox in mm, degrees or shares.
    """
    names = ("area", *_FORM)
    result = {name: np.full(len(slices), np.nan) for name in names}
    for row, (number, about_ap, about_rl) in enumerate(zip(slices, *angles, strict=True)):
        found = _section(cord, int(number), np.cos(about_ap), np.cos(about_rl))
        if found is None:
            continue
        section, fine_x, fine_y = found
        result["area"][row] = fine_x.sum(axis=0) @ section @ fine_y.sum(axis=0) * _FINE_MM**2
        if form:
            # Not a product of BLAS: its threads cost more time than they save on matrices as small as these.
            fine = np.einsum("xi,yi->xy", fine_x @ section, fine_y)
            for name, value in _form(fine).items():
                result[name][row] = value
    return result


def _section(cord: CordMap, number: int, shrink_x: float, shrink_y: float) -> tuple[Array, Array, Array] | None:
    """The shrunk slice from 0 to 1 with a margin, and the matrices that bring it to fine pixels along x and y."""
    plane = cord.array[:, :, number]
    if not plane.any():
        return None
    start_x, to_x = _shrink(cord.offset[0], plane.shape[0], cord.shape[0], shrink_x)
    start_y, to_y = _shrink(cord.offset[1], plane.shape[1], cord.shape[1], shrink_y)
    shrunk = to_x @ plane @ to_y.T
    if not (shrunk >= NEAR_ZERO).any():
        return None
    whole = shrunk.shape == cord.shape[:2]
    low, high = (shrunk.min() if whole else min(0.0, shrunk.min())), shrunk.max()
    # A slice that is one value everywhere has no range; the toolbox divides by zero.
    shrunk = (shrunk - low) / (high - low) if high > low else shrunk / high
    bounds = []
    for axis, start in enumerate((start_x, start_y)):
        used = np.flatnonzero((shrunk > NEAR_ZERO).any(axis=1 - axis)) + start
        bounds.append((max(used[0] - _MARGIN, 0), min(used[-1] + 1 + _MARGIN, cord.shape[axis])))
    (x0, x1), (y0, y1) = bounds
    section = np.zeros((x1 - x0, y1 - y0))
    # The shrunk part may reach beyond the margin on a side where it is zero.
    from_x, from_y = slice(max(x0 - start_x, 0), x1 - start_x), slice(max(y0 - start_y, 0), y1 - start_y)
    part = shrunk[from_x, from_y]
    at_x, at_y = max(start_x - x0, 0), max(start_y - y0, 0)
    section[at_x : at_x + part.shape[0], at_y : at_y + part.shape[1]] = part
    px, py, _ = cord.spacing
    return section, _refine(section.shape[0], px), _refine(section.shape[1], py)


def _shrink(offset: int, count: int, whole: int, factor: float) -> tuple[int, Array]:
    """Linear interpolation that shrinks an axis of `whole` voxels towards its origin, for the part that is not zero.

    Returns the first new index and a matrix (new, count); what lies outside the part or the axis is zero.
    """
    first = max(int(np.floor((offset - 1) * factor)), 0)
    last = min(int(np.ceil((offset + count) * factor)), whole - 1)
    place = np.arange(first, last + 1) / factor - offset
    return first, np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(count)))


def _refine(count: int, size: float) -> Array:
    """Linear interpolation of voxels of `size` mm to fine pixels over the same extent, zero beyond it."""
    fine = round(count * size / _FINE_MM)
    place = (np.arange(fine) + 0.5) * count / max(fine, 1) - 0.5
    return np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(count)))


def _form(fine: Array) -> dict[str, float]:
    """Diameters, orientation and solidity of the fine section (x, y), as the Spinal Cord Toolbox defines them."""
    from skimage.measure import regionprops

    regions = regionprops((fine > _HALF).astype(np.uint8))
    if not regions:
        return {}
    region = regions[0]
    major, minor = region.axis_major_length * _FINE_MM, region.axis_minor_length * _FINE_MM
    # Towards the right-left axis if the long axis is within 45 degrees of it.
    along_rl = abs(np.degrees(region.orientation)) < 45.0
    posterior, anterior = _lengths(fine, region.centroid, region.orientation)
    return {
        "diameter_ap": posterior + anterior,
        "diameter_ap_ellipse": minor if along_rl else major,
        "diameter_rl": major if along_rl else minor,
        "length_anterior": anterior,
        "length_posterior": posterior,
        "eccentricity": region.eccentricity,
        "orientation": float(np.degrees(region.orientation)),
        "solidity": region.solidity,
    }


def _lengths(fine: Array, centre: tuple[float, float], angle: float) -> tuple[float, float]:
    """Extent behind and in front of the centre in mm, in a band of 3 mm about it, after the section is turned level."""
    from scipy.ndimage import map_coordinates

    x, y = np.meshgrid(np.arange(fine.shape[0]) - centre[0], np.arange(fine.shape[1]) - centre[1], indexing="ij")
    cos, sin = np.cos(angle), np.sin(angle)
    turned = map_coordinates(fine, [centre[0] + x * cos - y * sin, centre[1] + y * cos + x * sin], order=1)
    inside = np.argwhere(turned > _HALF)
    if not len(inside):
        return np.nan, np.nan
    middle_x, middle_y = (round(float(v)) for v in inside.mean(axis=0))
    band = turned[max(middle_x - _BAND // 2, 0) : middle_x + _BAND // 2].mean(axis=0)
    return float(band[:middle_y].sum() * _FINE_MM), float(band[middle_y:].sum() * _FINE_MM)


def pv_shapes(cord: CordMap, slices: Array, slopes: Array, *, form: bool) -> dict[str, Array]:
    """Measure slices by sums over partial volumes; see `sct_shapes` for parameters and units.

    A value counts at most as one whole voxel. Sizes are those across the cord: of the projection along its direction
    onto the plane perpendicular to it, whatever angles the axes of the image have to each other.
    """
    share = np.minimum(cord.array[:, :, slices], 1.0)
    total = share.sum(axis=(0, 1))
    empty = total <= NEAR_ZERO
    total = np.where(empty, np.nan, total)
    step = cord.grid.affine[:3, :3]
    along = slopes @ step[:, :2].T + step[:, 2]
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    # The area vector of a voxel's base, projected onto the direction of the cord.
    result = {"area": total * np.abs(along @ np.cross(step[:, 0], step[:, 1]))}
    if form:
        x, y = np.arange(share.shape[0]), np.arange(share.shape[1])
        by_x, by_y = share.sum(axis=1), share.sum(axis=0)
        mean_x, mean_y = x @ by_x / total, y @ by_y / total
        spread = np.empty((len(slices), 2, 2))
        spread[:, 0, 0] = x**2 @ by_x / total - mean_x**2
        spread[:, 1, 1] = y**2 @ by_y / total - mean_y**2
        spread[:, 0, 1] = spread[:, 1, 0] = np.einsum("x,xyz,y->z", x, share, y) / total - mean_x * mean_y
        partial = np.any((share > NEAR_ZERO) & (share < 1.0 - NEAR_ZERO), axis=(0, 1))
        result |= _ellipses(spread, along, step, partial)
    return result


def _ellipses(spread: Array, along: Array, step: Array, partial: Array) -> dict[str, Array]:
    """Axes of the ellipses with second moments `spread` (n, 2, 2) in voxels, projected along the cord.

    Shares are the cord blurred by the box of a voxel: where a slice has any (`partial`), the box' own second moments
    are taken off again (Sheppard's correction; without it diameters are 1 to 2 % too large at 1.5 mm).
    """
    # Right-left and front-to-back directions that are perpendicular to the cord.
    left = step[:, 0] - along * (along @ step[:, 0])[:, None]
    left /= np.linalg.norm(left, axis=1, keepdims=True)
    front = np.cross(along, left)
    front *= np.sign(front @ step[:, 1])[:, None]
    frame = np.stack([left, front], axis=1) @ step
    moments = frame[:, :, :2] @ spread @ frame[:, :, :2].transpose(0, 2, 1)
    moments -= partial[:, None, None] * (frame @ frame.transpose(0, 2, 1)) / 12.0
    known = np.isfinite(moments).all(axis=(1, 2))
    values, vectors = np.linalg.eigh(np.where(known[:, None, None], moments, np.eye(2)))
    values = np.where(known[:, None], np.maximum(values, 0.0), np.nan)
    minor, major = 4.0 * np.sqrt(values).T
    # Angle of the long axis to the right-left axis, from -90 to 90 degrees; the sign is the toolbox'.
    long_x, long_y = vectors[:, 0, 1], vectors[:, 1, 1]
    angle = np.degrees(np.arctan2(long_y * np.sign(long_x + (long_x == 0)), np.abs(long_x)))
    angle = np.where(known, angle, np.nan)
    along_rl = np.abs(angle) < 45.0
    with np.errstate(divide="ignore", invalid="ignore"):
        eccentricity = np.sqrt(1.0 - np.where(major > 0, (minor / major) ** 2, 0.0))
    unknown = np.full(len(angle), np.nan)
    return {
        "diameter_ap": np.where(along_rl, minor, major),
        "diameter_ap_ellipse": np.where(along_rl, minor, major),
        "diameter_rl": np.where(along_rl, major, minor),
        "length_anterior": unknown,
        "length_posterior": unknown,
        "eccentricity": np.where(known, eccentricity, np.nan),
        "orientation": angle,
        "solidity": unknown,
    }


def count_objects(cord: CordMap, slices: Array) -> Array:
    """Return how many separate objects (touching corners join) each slice holds above half its own maximum."""
    from scipy.ndimage import label

    planes = cord.array[:, :, slices]
    inside = planes > _HALF * np.maximum(planes.max(axis=(0, 1)), NEAR_ZERO)
    joined = np.zeros((3, 3, 3), dtype=bool)
    joined[:, :, 1] = True
    numbers, _ = label(inside, structure=joined)
    return np.array([np.count_nonzero(np.unique(numbers[:, :, k])) for k in range(len(slices))], dtype=int)
