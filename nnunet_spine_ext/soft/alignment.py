"""Slice by slice onto the reference: centres of mass in closed form, then the angle and the shape if they help.

What is moved is every slice in its plane. A change of area is never part of it: it would give every contrast its own
area back, and that difference is what the average is to remove.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter1d, median_filter

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.splits import shorten
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.soft.motion import Motion

# A shift that changes by more than this from one slice to the next is no anatomy.
JUMP_MM = 3.0
# The long axis of a slice has a direction only if its variance is this much larger, and a cord does not turn further
# (the limits of the Spinal Cord Toolbox's centermassrot).
_EIGEN_RATIO, _LARGEST_ANGLE = 1.6, np.deg2rad(40.0)
_ANGLE_SMOOTH_MM = 5.0
# Slices with less than this have no centre worth the name.
_SMALLEST_MM2 = 1.0
# A pixel with less is the edge of interpolation.
_EDGE = 0.05
# Slices whose mask is in its extent but for this share: the outermost ones of tilted scans.
_WHOLE = 0.999
# Improvements of Dice below this are noise.
_BETTER = 1e-3
# Outliers of single slices are gone after a median over this many, where smoothing is asked for.
_MEDIAN_SLICES = 5


@dataclass(frozen=True)
class Track:
    """Where a structure is in each slice.

    Parameters
    ----------
    seen: (n,) bool, whether the whole slice of the structure counts.
    centre: (n, 2) mm, NaN where it is not seen.
    area: (n,) mm², 0 where it is not seen.
    moments: (n, 2, 2) mm², second moments about the centre.
    """

    seen: Array
    centre: Array
    area: Array
    moments: Array


def track(values: Array, level: Array, x: Array, y: Array) -> Track:
    """Measure each slice of a mask (x, y, z); `level` is the share of each point that counts (see `Scan.read`)."""
    mask = values.astype(np.float64)
    pixel = _step(x) * _step(y)
    total = mask.sum(axis=(0, 1))
    shown = (mask > _EDGE).sum(axis=(0, 1))
    counted = ((mask > _EDGE) & (level >= _WHOLE)).sum(axis=(0, 1))
    seen = (total * pixel > _SMALLEST_MM2) & (counted >= _WHOLE * shown)
    safe = np.where(seen, total, 1.0)
    centre = np.stack([np.einsum("ijk,i->k", mask, x), np.einsum("ijk,j->k", mask, y)], axis=1) / safe[:, None]
    second = np.empty((len(total), 2, 2))
    second[:, 0, 0] = np.einsum("ijk,i->k", mask, x * x) / safe - centre[:, 0] ** 2
    second[:, 1, 1] = np.einsum("ijk,j->k", mask, y * y) / safe - centre[:, 1] ** 2
    second[:, 0, 1] = np.einsum("ijk,i,j->k", mask, x, y, optimize=True) / safe - centre[:, 0] * centre[:, 1]
    second[:, 1, 0] = second[:, 0, 1]
    centre[~seen] = np.nan
    return Track(seen, centre, np.where(seen, total * pixel, 0.0), second)


@dataclass
class Alignment:
    """How one scan was brought onto the others.

    Attributes
    ----------
    common: (n,) bool, slices that it shares with those aligned before.
    shift: (n, 2) mm from the scan to the union, interpolated between common slices and held beyond.
    jumps: levels (mm) at which the shift changes by more than `JUMP_MM` to the next slice.
    largest_step_mm: the largest such change.
    motion: the map; `angle` (n,) radians, None without rotation; `shape` (2, 2) of determinant 1, None without affine.
    tried: Dice with the others for each step that was tried, in order: ``shift``, ``rotation``, ``affine``.
    """

    common: Array
    shift: Array
    jumps: list[float]
    largest_step_mm: float
    motion: Motion
    angle: Array | None = None
    shape: Array | None = None
    tried: dict[str, float] = field(default_factory=dict)


class ApartError(CaseError):
    """Scans without a slice in common with the others: `apart` are out of reach, `together` the others."""

    def __init__(self, code: str, *, apart: Sequence[str], together: Sequence[str], **words: Any) -> None:
        super().__init__(code, **words)
        self.apart, self.together = tuple(apart), tuple(together)


def align_centres(
    tracks: Mapping[str, Track], reference: str, z: Array, *, slice_mm: Mapping[str, float], smooth_mm: float = 0.0
) -> tuple[dict[str, Alignment], Track]:
    """Shift every scan so that the centres of mass of common slices fall together.

    The reference stays. The scan that has most slices in common with what is aligned already comes next, so that one
    that the reference does not reach can be aligned through another.

    Parameters
    ----------
    tracks: in frame millimetres at the levels z (n,).
    slice_mm: distance of each scan's own slices.
    smooth_mm: sigma of a Gaussian over the shifts, after a median over 5 slices; 0: every slice as measured.

    Returns the alignments by name and the track of the target: that of the reference, continued by the others.

    Raises
    ------
    ApartError: scans have no slice in common with those that the reference reaches.
    """
    target = tracks[reference]
    zero = np.zeros((len(z), 2))
    done = {reference: Alignment(target.seen.copy(), zero, [], 0.0, Motion.shift(z, zero))}
    waiting = [name for name in tracks if name != reference]
    while waiting:
        shared = [int((tracks[name].seen & target.seen).sum()) for name in waiting]
        name = waiting.pop(int(np.argmax(shared)))
        if max(shared) == 0:
            raise _apart([name, *waiting], tracks, z, list(done))
        done[name] = _centred(tracks[name], target, z, slice_mm[name], smooth_mm)
        target = _continued(target, tracks[name], done[name].shift)
    return {name: done[name] for name in tracks}, target


def _centred(own: Track, target: Track, z: Array, slice_mm: float, smooth_mm: float) -> Alignment:
    common = own.seen & target.seen
    places = z[common]
    measured = target.centre[common] - own.centre[common]
    jumps, largest = _jumps(places, measured, slice_mm)
    if smooth_mm > 0:
        measured = _smooth(z, places, measured, smooth_mm)[common]
    shift = np.stack([np.interp(z, places, measured[:, axis]) for axis in (0, 1)], axis=1)
    return Alignment(common, shift, jumps, largest, Motion.shift(z, shift))


def _smooth(z: Array, places: Array, measured: Array, sigma_mm: float) -> Array:
    """Return the shifts at all levels, without single outliers, smoothed."""
    # Measured only where both are; the filter needs equal steps.
    quiet = median_filter(measured, size=(min(_MEDIAN_SLICES, len(measured)), 1), mode="nearest")
    even = np.stack([np.interp(z, places, quiet[:, axis]) for axis in (0, 1)], axis=1)
    return np.asarray(gaussian_filter1d(even, sigma_mm / _step(z), axis=0, mode="nearest"))


def _jumps(places: Array, shift: Array, slice_mm: float) -> tuple[list[float], float]:
    """Return where the shift jumps between slices of the scan itself, and the largest step.

    Between two thick slices the levels are interpolated: from level to level a jump looks small.
    """
    if len(places) < 2:
        return [], 0.0
    ahead = np.searchsorted(places, places + slice_mm - 1e-6)
    here = np.flatnonzero(ahead < len(places))
    # Across a gap the cord may have gone anywhere.
    here = here[places[ahead[here]] - places[here] < 2 * max(slice_mm, np.diff(places).min())]
    steps = np.linalg.norm(shift[ahead[here]] - shift[here], axis=1)
    found: list[float] = []
    for place, step in zip(places[here], steps, strict=True):
        # One jump is seen from every level within a slice of it.
        if step > JUMP_MM and (not found or place - found[-1] > slice_mm):
            found.append(float(place))
    return found, float(steps.max(initial=0.0))


def _continued(target: Track, own: Track, shift: Array) -> Track:
    """Return the target with the slices that only the newly aligned scan has."""
    new = own.seen & ~target.seen
    centre, area, moments = target.centre.copy(), target.area.copy(), target.moments.copy()
    centre[new] = own.centre[new] + shift[new]
    area[new], moments[new] = own.area[new], own.moments[new]
    return Track(target.seen | new, centre, area, moments)


def _apart(waiting: Sequence[str], tracks: Mapping[str, Track], z: Array, done: Sequence[str]) -> ApartError:
    def reach(chosen: str) -> str:
        levels = z[tracks[chosen].seen]
        return f"{chosen} {levels.min():.4g} to {levels.max():.4g} mm" if len(levels) else f"{chosen} nowhere whole"

    places = shorten([reach(name) for name in (*waiting, *done)], 7)
    return ApartError(
        "E-SOFT-APART",
        file=", ".join(waiting),
        found=f"no slice in common with the others (along the body: {places})",
        expected="masks that overlap along the body",
        fix="leave masks out; if the scans do overlap, the header of one of them is wrong",
        apart=waiting,
        together=done,
    )


def turned(own: Track, target: Track, alignment: Alignment, z: Array) -> tuple[Motion, Array]:
    """Return the motion with every slice turned as its long axis lies to the target's, and the angles (n,) in radians.

    Slices that are too round, or that would turn by more than 40 degrees, take the angle of their neighbours; angles
    are smoothed along z (sigma 5 mm).
    """
    angle, certain = _axis_angle(target.moments)
    mine, also = _axis_angle(own.moments)
    difference = (angle - mine + np.pi / 2) % np.pi - np.pi / 2
    use = alignment.common & certain & also & (np.abs(difference) <= _LARGEST_ANGLE)
    if not use.any():
        return alignment.motion, np.zeros(len(z))
    even = np.interp(z, z[use], difference[use])
    smooth = gaussian_filter1d(even, _ANGLE_SMOOTH_MM / _step(z), mode="nearest")
    cosine, sine = np.cos(smooth), np.sin(smooth)
    # From the union to the scan: turned back.
    linear = np.stack([np.stack([cosine, sine], -1), np.stack([-sine, cosine], -1)], -2)
    return _about_centre(linear, own, target, alignment, z), np.asarray(smooth)


def reshaped(own: Track, target: Track, alignment: Alignment, z: Array) -> tuple[Motion, Array]:
    """Return the motion with one linear map for all slices that gives them the target's mean shape, and that map.

    Its determinant is 1: the area stays. It is found from the mean second moments about the centres.
    """
    linear = alignment.motion.linear
    inverse = np.linalg.inv(linear[alignment.common])
    mine = np.mean(inverse @ own.moments[alignment.common] @ np.swapaxes(inverse, 1, 2), axis=0)
    wanted = np.mean(target.moments[alignment.common], axis=0)
    if min(np.linalg.det(mine), np.linalg.det(wanted)) < 1e-6:
        return alignment.motion, np.eye(2)
    shape = _root(wanted) @ np.linalg.inv(_root(mine))
    shape /= np.sqrt(np.linalg.det(shape))
    return _about_centre(linear @ np.linalg.inv(shape), own, target, alignment, z), shape


def _about_centre(linear: Array, own: Track, target: Track, alignment: Alignment, z: Array) -> Motion:
    """Return the motion with these linear maps (union to scan) about the structure's centres."""
    centre = np.where(target.seen[:, None], target.centre, own.centre + alignment.shift)
    known = np.isfinite(centre[:, 0])
    centre = np.stack([np.interp(z, z[known], centre[known, axis]) for axis in (0, 1)], axis=1)
    offset = (centre - alignment.shift) - np.einsum("nij,nj->ni", linear, centre)
    return Motion(z, linear, offset)


def _axis_angle(moments: Array) -> tuple[Array, Array]:
    """Return the direction of the long axis (n,) and whether there is one."""
    values = np.linalg.eigvalsh(np.where(np.isfinite(moments), moments, 0.0))
    angle = 0.5 * np.arctan2(2 * moments[:, 0, 1], moments[:, 0, 0] - moments[:, 1, 1])
    return angle, (values[:, 0] > 0) & (values[:, 1] >= _EIGEN_RATIO * values[:, 0])


def _root(matrix: Array) -> Array:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(values)) @ vectors.T)


def is_better(new: float, old: float) -> bool:
    """Whether a Dice is better by more than noise."""
    return new > old + _BETTER


def _step(places: Array) -> float:
    return float(places[1] - places[0]) if len(places) > 1 else 1.0
