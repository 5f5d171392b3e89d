"""What a scanner does to the signal: coils, sampling of k-space, slices, noise. Pure torch, batched.

Images are (..., X, Y, Z): any leading axes, usually (B, C). Lengths in mm. Random functions take a generator that
lives on the image's device; the same generator state gives the same result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_COARSE_MM = 6.0


def smooth_field(control: Tensor, shape: Sequence[int]) -> Tensor:
    """Evaluate a uniform cubic B-spline.

    Parameters
    ----------
    control: (..., a, b, c) coefficients, each axis at least 4 long; coefficients that are all equal give that value.
    shape: (X, Y, Z) of the result; the field spans all of it.

    Returns
    -------
    (..., X, Y, Z), twice continuously differentiable. A bias field is its exponential: smooth and positive.
    """
    field = control
    for axis, size in enumerate(shape):
        weights = _bspline_matrix(size, control.shape[axis - 3], control)
        field = _along(field, weights, axis - 3)
    return field


def bias_field(log_control: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the positive multiplicative field exp(spline) of mean logarithm zero per image, (..., X, Y, Z)."""
    field = smooth_field(log_control, shape)
    return torch.exp(field - field.mean(dim=(-3, -2, -1), keepdim=True))


def surface_coils(positions: Tensor, gains: Tensor, radius: float, affine: Tensor, shape: Sequence[int]) -> Tensor:
    """Root of the summed squares of loop coils, each gain * (R^2 / (R^2 + d^2))^1.5 at distance d from its centre.

    Parameters
    ----------
    positions: (B, K, 3) coil centres in the millimetre frame that `affine` maps to.
    gains: (B, K) relative sensitivities.
    radius: loop radius R in mm.
    affine: (4, 4) voxel index -> mm.
    shape: (X, Y, Z).

    Returns
    -------
    (B, 1, X, Y, Z), positive. Evaluated about every 6 mm and interpolated: coils have no finer structure outside.
    """
    spacing = affine[:3, :3].norm(dim=0)
    counts = [max(4, math.ceil(n * float(s) / _COARSE_MM)) for n, s in zip(shape, spacing, strict=True)]
    axes = [
        torch.linspace(0, n - 1, c, dtype=affine.dtype, device=affine.device)
        for n, c in zip(shape, counts, strict=True)
    ]
    index = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    squared = ((world[None, None] - positions[:, :, None, None, None].to(world)) ** 2).sum(-1)
    loops = gains.to(world)[:, :, None, None, None] * (radius**2 / (radius**2 + squared)) ** 1.5
    field = loops.square().sum(1, keepdim=True).sqrt().float()
    return torch.nn.functional.interpolate(field, size=tuple(shape), mode="trilinear", align_corners=True)


def crop_kspace(image: Tensor, shape: Sequence[int]) -> Tensor:
    """Sample fewer points of k-space: (..., X, Y, Z) -> complex (..., *shape) over the same extent.

    The point-spread function along a reduced axis is the Dirichlet (periodic sinc) kernel of the new grid, centred on
    the new voxels, so that an image of constant value keeps it. Axes whose size is unchanged are untouched. The
    result is complex; take `.abs()` for a magnitude image.

    Raises
    ------
    ValueError: a new size exceeds the old one.
    """
    result = image
    for axis, size in zip((-3, -2, -1), shape, strict=True):
        old = image.shape[axis]
        if size > old:
            msg = f"cannot crop k-space from {old} to {size} points"
            raise ValueError(msg)
        if size != old:
            result = _crop_axis(result, axis, size)
    return result if result.is_complex() else torch.complex(result, torch.zeros_like(result))


def limit_resolution(
    image: Tensor, spacing: Sequence[float], acquired: Sequence[float], *, window: float = 0.0
) -> Tensor:
    """Blur to the acquired resolution on the same grid, as zero-filled interpolation of the scanner does.

    Parameters
    ----------
    image: real (..., X, Y, Z).
    spacing, acquired: voxel size of the grid and of the acquisition per axis; an axis with acquired <= spacing
        is untouched.
    window: 0 cuts k-space sharply (sinc edges), 1 multiplies a full Hann window into what is kept.

    Returns
    -------
    Real (..., X, Y, Z); edges overshoot by up to 9 % of their height when `window` is 0. Beyond its ends an axis goes
    on as in a mirror: a field of view that cuts through the body does not fold over to the other side.
    """
    result = image
    for axis, old, new in zip((-3, -2, -1), spacing, acquired, strict=True):
        if new <= old * (1 + 1e-6):
            continue
        size = result.shape[axis]
        spectrum = torch.fft.rfft(torch.cat((result, result.flip(axis)), dim=axis), dim=axis)
        frequency = torch.fft.rfftfreq(2 * size, device=image.device)
        cutoff = 0.5 * old / new
        keep = (frequency <= cutoff).to(image.dtype)
        keep = keep * (1 - window * torch.sin(0.5 * math.pi * (frequency / cutoff).clamp(max=1)) ** 2)
        view = [1] * image.dim()
        view[axis] = -1
        result = torch.fft.irfft(spectrum * keep.view(view), n=2 * size, dim=axis).narrow(axis, 0, size)
    return result


def slice_matrix(
    count: int, spacing: float, thickness: float, gap: float = 0.0, *, edge: float = 0.2, like: Tensor | None = None
) -> Tensor:
    """Weights with which thick slices average thin ones.

    Parameters
    ----------
    count, spacing: number and distance of the thin samples along the slice axis.
    thickness, gap: full width at half maximum of the excited slice and the distance to the next one; slices repeat
        every thickness + gap and fill the extent of the samples from its start.
    edge: width of the profile's slopes as a part of the thickness (0: box).
    like: tensor whose dtype and device the result takes.

    Returns
    -------
    (slices, count), rows sum to one; slices = round(count * spacing / (thickness + gap)), at least one.

    Raises
    ------
    ValueError: a length that is not positive, or a negative gap.
    """
    if min(count, spacing, thickness) <= 0 or gap < 0 or edge < 0:
        msg = f"{count} samples of {spacing} mm cannot form slices of {thickness} mm with gaps of {gap} mm"
        raise ValueError(msg)
    pitch = thickness + gap
    slices = max(1, round(count * spacing / pitch))
    centre = (torch.arange(slices, dtype=torch.float64) + 0.5) * pitch
    sample = (torch.arange(count, dtype=torch.float64) + 0.5) * spacing
    distance = (sample[None] - centre[:, None]).abs()
    # A thin sample is a box too: its overlap with the slice, so that coarse sampling does not bias the thickness.
    slope = max(edge * thickness, spacing)
    weights = ((thickness / 2 - distance) / slope + 0.5).clamp(0, 1)
    weights = weights / weights.sum(1, keepdim=True).clamp_min(1e-12)
    return weights.to(dtype=like.dtype, device=like.device) if like is not None else weights.float()


def apply_slices(image: Tensor, weights: Tensor, axis: int) -> Tensor:
    """Average thin samples to slices along one axis (negative or counted from the front): size count -> slices."""
    return _along(image, weights.to(dtype=image.dtype), axis)


def rician_noise(image: Tensor, sigma: Tensor | float, *, generator: torch.Generator | None = None) -> Tensor:
    """Magnitude of the image plus complex Gaussian noise of standard deviation sigma per channel.

    `image` is real or complex (..., X, Y, Z); `sigma` broadcasts against it. Where there is no signal the result has
    the mean sigma * sqrt(pi / 2). With sigma = 0 the result is |image|, not the image.
    """
    real, imaginary = (image.real, image.imag) if image.is_complex() else (image, None)
    first = torch.randn(real.shape, dtype=real.dtype, device=real.device, generator=generator) * sigma
    second = torch.randn(real.shape, dtype=real.dtype, device=real.device, generator=generator) * sigma
    if imaginary is not None:
        second = second + imaginary
    return torch.sqrt((real + first) ** 2 + second**2)


def _along(image: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Multiply a (new, old) matrix into one axis."""
    return torch.tensordot(image, matrix, dims=([axis % image.dim()], [1])).movedim(-1, axis % image.dim())


def _bspline_matrix(size: int, knots: int, like: Tensor) -> Tensor:
    """(size, knots) weights of a uniform cubic B-spline whose first and last spans end at the grid's ends."""
    if knots < 4:
        msg = f"a cubic spline needs 4 coefficients per axis, got {knots}"
        raise ValueError(msg)
    dtype, device = like.dtype, like.device
    position = torch.linspace(0, knots - 3, size, dtype=dtype, device=device) if size > 1 else torch.zeros(1).to(like)
    span = position.floor().clamp(max=knots - 4)
    t = position - span
    basis = torch.stack(((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3), dim=1) / 6
    columns = span.long()[:, None] + torch.arange(4, device=device)
    return torch.zeros(size, knots, dtype=dtype, device=device).scatter_(1, columns, basis)


def _crop_axis(image: Tensor, axis: int, size: int) -> Tensor:
    old = image.shape[axis]
    spectrum = torch.fft.fft(image, dim=axis)
    low = (size + 1) // 2
    kept = torch.cat((spectrum.narrow(axis, 0, low), spectrum.narrow(axis, old - (size - low), size - low)), dim=axis)
    frequency = torch.fft.fftfreq(size, dtype=torch.float64, device=image.device) * size
    # New voxel centres lie (factor - 1) / 2 fine voxels after the first fine voxel; shift there.
    shift = 0.5 * (old / size - 1) / old
    view = [1] * image.dim()
    view[axis] = -1
    phase = torch.exp(2j * math.pi * frequency * shift).to(kept.dtype)
    if size % 2 == 0:
        # The unpaired Nyquist sample would leave an imaginary part in a real image.
        phase[size // 2] = 0.0
    return torch.fft.ifft(kept * phase.view(view), dim=axis) * (size / old)
