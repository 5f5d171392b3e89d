"""What an acquisition does along one axis, as one (n, n) matrix: made on the host in double precision.

The steps are multiplied in the order of the physics, whatever the order in which they were asked for:

1. blur of the object (discrete Gaussian: variance exact, never negative),
2. slices: each the mean over its profile, interpolated back between their centres,
3. k-space: what is not acquired is cut off, partial Fourier, window,
4. the grid that the scanner reconstructs, interpolated back,
5. other grids (simulated low resolution).

Beyond its ends an axis is continued as in a mirror, so that k-space is that of the cosine transform: no wrap-around
from one end of the patch to the other, and a constant stays one exactly. All grids share one frame in mm; nothing is
shifted by parts of a voxel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Interpolation = Literal["nearest", "linear", "cubic"]
Profile = Literal["box", "slr", "gaussian"]
WindowKind = Literal["hann", "tukey", "fermi"]

CACHED = 32
# Samples of a coarse grid beyond the ends of the axis: cubic interpolation needs two.
_BEYOND = 3
_EQUAL = 1e-6
# Full width at half maximum of a Gaussian of standard deviation 1.
FWHM = 2 * math.sqrt(2 * math.log(2))


@dataclass(frozen=True)
class Slices:
    """Slices of `thickness` mm (full width at half maximum) with `gap` mm between them.

    `phase`: where the first begins, 0-1 of the distance of slices; 0.5 has as much beyond either end. `edge`: width of
    the slopes of a box as a part of the thickness.
    """

    thickness: float
    gap: float = 0.0
    phase: float = 0.5
    profile: Profile = "box"
    edge: float = 0.2
    interpolation: Interpolation = "linear"


@dataclass(frozen=True)
class Window:
    """A window over the acquired part of k-space; `amount` 0-1 blends from none, `taper` 0-1 is where it falls off."""

    kind: WindowKind
    amount: float = 1.0
    taper: float = 0.5


@dataclass(frozen=True)
class Recon:
    """The grid that is reconstructed: its voxel in mm and its phase; interpolated to the grid of the patch."""

    voxel: float
    phase: float = 0.5
    interpolation: Interpolation = "linear"


@dataclass(frozen=True)
class Zoom:
    """A grid of `size` voxels over the same extent and back; unfiltered it aliases, as nearest sampling does."""

    size: int
    filtered: bool = True
    interpolation: Interpolation = "linear"


@dataclass(frozen=True)
class AxisWork:
    """All that happens along one axis. `sigma`, `acquired`: mm, 0 is none; `partial`: fraction of k-space, 0.5-1."""

    sigma: float = 0.0
    slices: tuple[Slices, ...] = ()
    acquired: float = 0.0
    partial: float = 1.0
    windows: tuple[Window, ...] = ()
    recon: Recon | None = None
    zooms: tuple[Zoom, ...] = ()

    def and_then(self, other: AxisWork) -> AxisWork:
        """Combine: variances add, the coarser resolution and the smaller fraction count, everything else follows."""
        return replace(
            self,
            sigma=math.hypot(self.sigma, other.sigma),
            slices=self.slices + other.slices,
            acquired=max(self.acquired, other.acquired),
            partial=min(self.partial, other.partial),
            windows=self.windows + other.windows,
            recon=_coarser(self.recon, other.recon),
            zooms=self.zooms + other.zooms,
        )


@lru_cache(maxsize=CACHED)
def axis_matrix(work: AxisWork, size: int, spacing: float) -> Array | None:
    """Return the (size, size) matrix of an axis with voxels of `spacing` mm, or None where nothing happens.

    Rows sum to one.
    """
    if size == 1:
        return None
    slices = [s for s in work.slices if s.thickness + s.gap > spacing * (1 + _EQUAL)]
    blur = blur_response(size, spacing, work.sigma) if work.sigma > _EQUAL * spacing else None
    kspace = kspace_response(size, spacing, work)
    recon = work.recon if work.recon is not None and work.recon.voxel > spacing * (1 + _EQUAL) else None
    factors: list[Array] = []
    if blur is not None and slices:
        factors.append(from_response(blur))
        blur = None
    factors += [slice_matrix(size, spacing, s) for s in slices]
    responses = [r for r in (blur, kspace) if r is not None]
    response = np.prod(responses, axis=0) if responses else None
    if recon is not None:
        step = recon.voxel / spacing
        places = grid(size, step, recon.phase)
        limited = np.ones(size) if response is None else response
        factors.append(interpolation(size, places, recon.interpolation) @ sampling(size, places, limited))
    elif response is not None:
        factors.append(from_response(response))
    factors += [zoom_matrix(size, z) for z in work.zooms if z.size != size]
    if not factors:
        return None
    result = factors[0]
    for factor in factors[1:]:
        result = factor @ result
    return result


def blur_response(size: int, spacing: float, sigma: float) -> Array:
    """Return the discrete Gaussian of `sigma` mm in k-space: its variance is exact, its kernel positive."""
    angle = np.pi * np.arange(size) / size
    return np.exp((sigma / spacing) ** 2 * (np.cos(angle) - 1))


def kspace_response(size: int, spacing: float, work: AxisWork) -> Array | None:
    """Return the transfer function of truncation, partial Fourier and windows, (size,), or None if there is none.

    Partial Fourier: of a signal without phase, zero-filled, the real part alone, which is what phase correction leaves:
    frequencies acquired on one side only count half. The imaginary part, second order except beside edges in the dark,
    needs complex numbers (`complex_partial_fourier`).
    """
    if work.acquired <= spacing * (1 + _EQUAL) and work.partial >= 1 and not work.windows:
        return None
    cutoff = max(0.5, size * min(1.0, spacing / work.acquired if work.acquired > 0 else 1.0))
    number = np.arange(size, dtype=np.float64)
    # A cut between two samples keeps a part of the next, so that resolution does not go in steps.
    response = _below(number, cutoff) if cutoff < size else np.ones(size)
    if work.partial < 1:
        response = response * (0.5 + 0.5 * _below(number, max(0.5, (2 * work.partial - 1) * cutoff)))
    for window in work.windows:
        response = response * (1 - window.amount * (1 - _window(number / cutoff, window)))
    return response


def from_response(response: Array) -> Array:
    """Return the matrix that multiplies the cosine transform by a response (n,); symmetric, sums conserved."""
    size = len(response)
    # Mirrored at its ends the axis has period 2n, and the kernel with it.
    kernel = np.fft.irfft(np.append(response, 0.0), 2 * size)
    near, mirrored = _folded_places(size)
    return kernel[near] + kernel[mirrored]


def sampling(size: int, places: Array, response: Array) -> Array:
    """Return (places, size): the signal, its cosine transform times a response, evaluated at places in voxels."""
    kept = int(np.flatnonzero(response)[-1]) + 1
    scale = np.full(kept, 2.0 / size)
    scale[0] = 1.0 / size
    frequency = np.pi * np.arange(kept) / size
    waves = np.cos((places[:, None] + 0.5) * frequency)
    return (waves * (scale * response[:kept])) @ _cosines(size)[:kept]


def grid(size: int, step: float, phase: float) -> Array:
    """Return places in voxels `step` apart that cover an axis and a little more; see `Slices` for the phase."""
    number = np.arange(-_BEYOND, math.ceil(size / step) + _BEYOND + 1)
    return np.asarray((number + phase) * step - 0.5)


def interpolation(size: int, places: Array, kind: Interpolation) -> Array:
    """Return the (size, places) weights with which values at equidistant places give those at the voxels."""
    position = (np.arange(size) - places[0]) / (places[1] - places[0])
    if kind == "nearest":
        base, weights = np.floor(position + 0.5), np.ones((size, 1))
    elif kind == "linear":
        base = np.floor(position)
        part = position - base
        weights = np.stack([1 - part, part], axis=1)
    else:
        base = np.floor(position) - 1
        weights = _catmull_rom(position - base - 1)
    result = np.zeros((size, len(places)))
    columns = base.astype(np.int64)[:, None] + np.arange(weights.shape[1])
    np.put_along_axis(result, columns, weights, axis=1)
    return result


def slice_matrix(size: int, spacing: float, slices: Slices) -> Array:
    """Return the matrix of slices that are averaged over their profile and interpolated back."""
    places = grid(size, (slices.thickness + slices.gap) / spacing, slices.phase)
    return interpolation(size, places, slices.interpolation) @ profile_weights(size, spacing, places, slices)


def profile_weights(size: int, spacing: float, places: Array, slices: Slices) -> Array:
    """Return (places, size): the weights of the voxels in slices centred at places; rows sum to one.

    A slice cannot be thinner than a voxel, nor its slopes steeper.
    """
    width = max(slices.thickness / spacing, 1.0)
    reach = max(-places[0], places[-1] - size, 0.0) + 2 * width
    blocks = math.ceil(reach / size)
    number = np.arange(-blocks * size, (blocks + 1) * size)
    weights = _profile(np.abs(number - places[:, None]), width, slices)
    folded = weights.reshape(len(places), 2 * blocks + 1, size)
    mirrored = np.arange(-blocks, blocks + 1) % 2 == 1
    total = folded[:, ~mirrored].sum(axis=1) + folded[:, mirrored, ::-1].sum(axis=1)
    return total / total.sum(axis=1, keepdims=True)


def zoom_matrix(size: int, zoom: Zoom) -> Array:
    """Return the matrix of sampling on another number of voxels and back."""
    step = size / zoom.size
    places = grid(size, step, 0.5)
    if zoom.filtered:
        response = _below(np.arange(size, dtype=np.float64), min(size, zoom.size)) if zoom.size < size else None
        down = sampling(size, places, np.ones(size) if response is None else response)
    else:
        nearest = np.floor(np.clip(places, 0.5 * step - 0.5, size - 0.5 * step - 0.5) + 0.5 + _EQUAL).astype(np.int64)
        down = np.eye(size)[np.minimum(nearest, size - 1)]
    return interpolation(size, places, zoom.interpolation) @ down


def shift_matrix(size: int, shift: float) -> Array:
    """Return the matrix that moves content by `shift` voxels, cubic between voxels, mirrored at the ends."""
    beyond = math.ceil(abs(shift)) + _BEYOND
    places = np.arange(-beyond, size + beyond, dtype=np.float64) + shift
    number = np.arange(-beyond, size + beyond) % (2 * size)
    source = np.eye(size)[np.minimum(number, 2 * size - 1 - number)]
    return interpolation(size, places, "cubic") @ source


def _coarser(first: Recon | None, second: Recon | None) -> Recon | None:
    if first is None or second is None:
        return first or second
    return second if second.voxel >= first.voxel else first


def _below(number: Array, cutoff: float) -> Array:
    return np.clip(cutoff + 0.5 - number, 0.0, 1.0)


def _window(part: Array, window: Window) -> Array:
    """Return a window at parts 0-1 of the way to the edge of what was acquired."""
    part = np.minimum(part, 1.0)
    if window.kind == "hann":
        return np.cos(np.pi * part / 2) ** 2
    if window.kind == "tukey":
        return np.cos(np.pi / 2 * np.clip((part - 1) / max(window.taper, 1e-3) + 1, 0, 1)) ** 2
    middle, width = 1 - window.taper / 2, max(window.taper, 1e-3) / 10
    fermi = 1 / (1 + np.exp(np.minimum((part - middle) / width, 700.0)))
    return fermi * (1 + math.exp(-middle / width))


def _profile(distance: Array, width: float, slices: Slices) -> Array:
    """Return the sensitivity at distances from the centre; half of the largest at half the width."""
    if slices.profile == "gaussian":
        return np.exp(-0.5 * (distance * FWHM / width) ** 2)
    slope = max((slices.edge if slices.profile == "box" else 0.5) * width, 1.0)
    ramp = np.clip((width / 2 - distance) / slope, -0.5, 0.5)
    return ramp + 0.5 if slices.profile == "box" else 0.5 + 0.5 * np.sin(np.pi * ramp)


def _catmull_rom(part: Array) -> Array:
    """Return the four weights (n, 4) of cubic interpolation; quadratics are exact."""
    t = part[:, None]
    parts = [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3]
    return 0.5 * np.concatenate(parts, axis=1)


@lru_cache(maxsize=CACHED)
def _cosines(size: int) -> Array:
    number = np.arange(size)
    return np.cos(np.pi / size * number[:, None] * (number + 0.5))


@lru_cache(maxsize=CACHED)
def _folded_places(size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    number = np.arange(size)
    return (number[:, None] - number) % (2 * size), (number[:, None] + number + 1) % (2 * size)
