"""What an acquisition multiplies k-space with, as complex tables (A, B) over the two axes of a slice; on the host.

Frequencies are in the order of the discrete Fourier transform: 0, 1, …, then the negative ones. Tables are 1 at
frequency zero: the mean stays what it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.complex128]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Plane:
    """The slices of a sample: `slice_axis` (None in 2-D), the two other array axes, their sizes and voxels in mm."""

    slice_axis: int | None
    axes: tuple[int, int]
    shape: tuple[int, int]
    spacing: tuple[float, float]


@dataclass(frozen=True)
class Spike:
    """A wave over the slice: place in the half of k-space, cycles per slice, amplitude in units of the span, angle."""

    place: tuple[int, int]
    per_slice: float
    amplitude: float
    angle: float


def frequencies(size: int) -> Array:
    """Return the frequencies of an axis in cycles per voxel, from -0.5 to 0.5."""
    return np.asarray(np.fft.fftfreq(size))


def line_segments(size: int, edges: Sequence[float], shots: int) -> NDArray[np.int64]:
    """Return which part of the scan each line of k-space is acquired in, (size,).

    Parameters
    ----------
    edges: ascending times, 0-1 of the scan, at which a part ends and the next begins.
    shots: 1: lines follow each other from one end of k-space to the other. More: every shot takes each `shots`-th
        line, as echo trains do, and shots follow each other.
    """
    number = np.argsort(np.argsort(frequencies(size), kind="stable"), kind="stable")
    shot, within = number % shots, number // shots
    per_shot = math.ceil(size / shots)
    time = (shot + (within + 0.5) / per_shot) / shots
    return np.searchsorted(np.asarray(edges, dtype=np.float64), time, side="right")


def displacement(plane: Plane, phase: int, segments: NDArray[np.int64], shifts: Sequence[Sequence[float]]) -> Table:
    """Return the phases of an object that lies elsewhere in each part of the scan.

    Parameters
    ----------
    phase: 0 or 1, the axis of the plane along which lines follow each other.
    segments: (n,) part of the scan of each line.
    shifts: per part, mm along the two axes of the plane.
    """
    other = 1 - phase
    moves = np.asarray(shifts, dtype=np.float64) / np.asarray(plane.spacing)
    along = np.exp(-2j * np.pi * frequencies(plane.shape[phase]) * moves[segments, phase])
    across = np.exp(-2j * np.pi * np.outer(moves[:, other], frequencies(plane.shape[other])))[segments]
    return _oriented(along[:, None] * across, phase)


def ghosts(plane: Plane, phase: int, intensity: float, number: float, angle: float) -> Table:
    """Return the modulation that puts two ghosts of an amplitude at a `number`-th of the extent to either side."""
    lines = np.round(frequencies(plane.shape[phase]) * plane.shape[phase])
    wave = np.cos(2 * np.pi * lines / number + angle) - math.cos(angle)
    return _by_line(plane, phase, 1 + 2 * intensity * wave)


def ellipse(plane: Plane, radius: float) -> Table:
    """Return 1 within an ellipse that reaches `radius` times the largest frequency of either axis, else 0."""
    first, second = (2 * frequencies(n) / radius for n in plane.shape)
    return (first[:, None] ** 2 + second**2 <= 1).astype(np.complex128)


def half_coverage(plane: Plane, phase: int, fraction: float, side: int, *, homodyne: bool) -> tuple[Table, Table]:
    """Return the weights of a partial Fourier acquisition and those of the part acquired on both sides.

    `side`: 1 or -1, where k-space is complete. With `homodyne` weights rise linearly from 0 to 2 over the symmetric
    part, so that opposite frequencies sum to 2; else they are 1 for what was acquired.
    """
    size = plane.shape[phase]
    line = side * np.round(frequencies(size) * size)
    half = max(1.0, (2 * fraction - 1) * size / 2)
    symmetric = np.cos(np.pi / 2 * np.minimum(np.abs(line) / half, 1)) ** 2
    weights = np.clip(1 + line / half, 0, 2) if homodyne else (line > -half).astype(np.float64)
    if homodyne and size % 2 == 0:
        # The largest frequency of an even number of lines is its own opposite.
        weights[size // 2] = 1.0
    return _by_line(plane, phase, weights), _by_line(plane, phase, symmetric)


def smooth_phase(plane: Plane, coefficients: Sequence[float], peak: float) -> Table:
    """Return e^(i phase) over the slice: a polynomial of degree 2 with its largest magnitude at `peak` radians."""
    u, v = (np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in plane.shape)
    u = u[:, None]
    terms = (u, v, u * u, u * v, v * v)
    phase = np.sum([c * np.broadcast_to(t, plane.shape) for c, t in zip(coefficients, terms, strict=True)], axis=0)
    return np.exp(1j * peak * phase / max(float(np.abs(phase).max()), 1e-9))


def even_and_odd(table: Table) -> tuple[Table, Table]:
    """Split a table into those that give the real and the imaginary part of the image of a real object."""
    opposite = np.roll(table[::-1, ::-1], (1, 1), axis=(0, 1)).conj()
    return (table + opposite) / 2, (table - opposite) / 2j


def rotation_map(plane: Plane, degrees: float) -> Array:
    """Return the (2, 3) map by which a slice is sampled to turn its content, in normalised coordinates, last first."""
    extent = np.asarray(plane.shape) * np.asarray(plane.spacing)
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # From target to source, in mm; positive angles turn the first axis of the plane towards the second.
    turn = np.array([[cosine, sine], [-sine, cosine]])
    linear = turn * extent[None, :] / extent[:, None]
    return np.column_stack([linear[::-1, ::-1], np.zeros(2)])


def _by_line(plane: Plane, phase: int, values: Array) -> Table:
    """Return a table (A, B) with the same value all along each line of k-space."""
    shape = plane.shape if phase == 0 else plane.shape[::-1]
    return _oriented(np.broadcast_to(values[:, None], shape).astype(np.complex128), phase)


def _oriented(table: Table, phase: int) -> Table:
    return table if phase == 0 else table.T
