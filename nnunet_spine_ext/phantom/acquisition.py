"""From a painted tissue map to a magnitude image: texture, sampling, slices, coils, noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_spine_ext.augment import acquisition, physics
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.phantom.kept import Kept
from nnunet_spine_ext.phantom.protocols import Protocol
from nnunet_spine_ext.phantom.signal import SignalTable, Texture, look_up, tissue_index
from nnunet_spine_ext.phantom.tissues import TISSUE_ID

Array = np.ndarray[Any, np.dtype[Any]]

CORPUS, CORD = 10, 11
_SLAB_VOXELS = 6_000_000
_EDGE_VOXELS = 6
_PHASE_AXIS = 1
# What only some scanners have is drawn apart, so that the rest of an image does not depend on it.
_SHADING_STREAM, _COIL_STREAM = 0x5AD1, 0xC011


@dataclass(frozen=True)
class ScanSettings:
    """What one acquisition draws at random.

    `coil_radius`, `coil_distance` mm; `front`: gain of the coils in front relative to those behind. `normalised`: part
    of the coils' shading that the scanner removed (0-1); `shading`: standard deviation of a further smooth log field.
    `snr`: white matter over noise at the cord. `saturation`: signal left in the band in front of the spine (1: no
    band), `band_distance` mm in front of the bodies. `window`: k-space filter (0-1). `fat_axis`: in-plane axis (0, 1)
    of the frequency encoding, `fat_sign` its direction. `level`: grey value of bright tissue.
    """

    coil_radius: float = 60.0
    coil_distance: float = 15.0
    front: float = 0.0
    normalised: float = 0.7
    shading: float = 0.08
    snr: float = 25.0
    saturation: float = 1.0
    band_distance: float = 20.0
    window: float = 0.2
    fat_axis: int = 1
    fat_sign: int = 1
    level: float = 800.0


def draw_settings(protocol: Protocol, rng: np.random.Generator) -> ScanSettings:
    """Draw the settings of one acquisition."""
    band = rng.random() < protocol.saturation
    left = float(rng.uniform(0.05, 0.3))
    return ScanSettings(
        coil_radius=float(rng.uniform(50, 75)),
        coil_distance=float(rng.uniform(5, 30)),
        front=float(rng.uniform(0.2, 0.8)) if rng.random() < 0.4 else 0.0,
        normalised=float(rng.uniform(*protocol.normalised)),
        shading=float(rng.uniform(0.03, 0.15)),
        snr=protocol.snr * float(np.exp(rng.uniform(np.log(0.65), np.log(1.5)))),
        saturation=left if band else 1.0,
        band_distance=float(rng.uniform(8, 35)),
        window=min(max(float(rng.uniform(0.2, 1.0)) + protocol.window, 0.0), 1.0),
        fat_axis=int(rng.integers(2)),
        fat_sign=1 if rng.random() < 0.5 else -1,
        level=float(np.exp(rng.uniform(np.log(300), np.log(1500)))),
    )


def form_image(
    tissue: Array,
    semantic: Volume,
    protocol: Protocol,
    table: SignalTable,
    texture: Texture,
    settings: ScanSettings,
    generator: torch.Generator,
    kept: Kept | None = None,
) -> Volume:
    """Form one magnitude image.

    Parameters
    ----------
    tissue: uint8 on the supersampled grid, shape a whole multiple of the image's along each axis.
    semantic: nnunet14 labels on the image's grid; tells where cord and bodies are.
    generator: randomness of coils and noise; equal state, equal image.
    kept: what other images of the same `tissue`, `semantic` and `texture` have computed; the image is the same without.

    Returns
    -------
    int16 volume on the grid of `semantic`.

    Raises
    ------
    ValueError: the tissue map is no whole multiple of the grid.
    """
    factors = [fine / coarse for fine, coarse in zip(tissue.shape, semantic.shape, strict=True)]
    if any(factor != int(factor) or factor < 1 for factor in factors):
        msg = f"a tissue map of shape {tissue.shape} is no multiple of the grid {semantic.shape}"
        raise ValueError(msg)
    kept = Kept(keep=False) if kept is None else kept
    shift = _fat_shift(tissue.shape, semantic, protocol, table, settings)
    # All that `_sample` takes from protocol and settings.
    acquired = (protocol.volume, protocol.gap, protocol.resolution)
    drawn = (settings.fat_axis, settings.window, settings.saturation, settings.band_distance)
    image = kept.get(
        ("sampled", table.key, shift, acquired, drawn),
        lambda: _sample(tissue, semantic, protocol, table, texture, settings, shift, kept),
    )
    return semantic.with_array(_receive(image, tissue, semantic, protocol, table, settings, generator, kept))


def _sample(
    tissue: Array,
    grid: Volume,
    protocol: Protocol,
    table: SignalTable,
    texture: Texture,
    settings: ScanSettings,
    shift: int,
    kept: Kept,
) -> Tensor:
    """Signal on the image's grid before coils and noise, (X, Y, Z)."""
    planes = _sample_planes(tissue, grid, table, texture, shift, settings.fat_axis, kept)
    sampled = _sample_slices(planes, grid, protocol)
    image = sampled.real if table.phase == 0 else sampled.abs()
    acquired = [size * ratio for size, ratio in zip(grid.spacing, protocol.resolution, strict=True)]
    image = acquisition.limit_resolution(image, grid.spacing, acquired, window=settings.window)
    return image * _saturation(grid, settings)


def _sample_planes(
    tissue: Array, grid: Volume, table: SignalTable, texture: Texture, shift: int, axis: int, kept: Kept
) -> Tensor:
    """In-plane k-space sampling of every sub-slice: (X, Y, sub-slices), complex if fat has a phase."""
    count = tissue.shape[2]
    per_slab = max(1, _SLAB_VOXELS // (tissue.shape[0] * tissue.shape[1]))
    planes = []
    for start in range(0, count, per_slab):
        slab = slice(start, min(count, start + per_slab))
        part = np.ascontiguousarray(tissue[:, :, slab].transpose(2, 0, 1))
        factors = kept.get(("factors", start), partial(texture.factors, part, slab, count))
        signal = _signal_of(part, table, factors, shift, axis)
        planes.append(_crop_plane(signal, grid.shape[:2]))
    return torch.cat(planes).permute(1, 2, 0)


def _fat_shift(
    shape: tuple[int, ...], grid: Volume, protocol: Protocol, table: SignalTable, settings: ScanSettings
) -> int:
    """Chemical shift of fat in supersampled voxels along the frequency axis."""
    if not table.fat.any():
        return 0
    pixels = physics.fat_shift_pixels(protocol.field_strength, protocol.bandwidth)
    return settings.fat_sign * round(pixels * shape[settings.fat_axis] / grid.shape[settings.fat_axis])


def _signal_of(tissue: Array, table: SignalTable, texture: tuple[Tensor, Tensor], shift: int, axis: int) -> Tensor:
    """Complex or real signal of a slab (n, X, Y); fat arrives `shift` voxels away from where it is."""
    factor, streak = texture
    fat_signal = float(table.fat[TISSUE_ID["fat"]])
    index, part = tissue_index(tissue), 1 - streak
    water = look_up(table.water, index).mul_(factor).mul_(part)
    fat = look_up(table.fat, index).mul_(factor).add_(torch.mul(streak, fat_signal, out=part))
    if shift:
        fat = _shifted(fat, shift, axis + 1)
    if table.phase == 0:
        return water.add_(fat)
    return water + fat * complex(np.cos(table.phase), np.sin(table.phase))


def _shifted(field: Tensor, shift: int, axis: int) -> Tensor:
    """Move along an axis; what comes in repeats the edge."""
    size = field.shape[axis]
    edge = field.narrow(axis, 0 if shift > 0 else size - 1, 1)
    steps = min(abs(shift), size)
    repeated = edge.expand([steps if k == axis else n for k, n in enumerate(field.shape)])
    if shift > 0:
        return torch.cat((repeated, field.narrow(axis, 0, size - steps)), axis)
    return torch.cat((field.narrow(axis, steps, size - steps), repeated), axis)


def _crop_plane(signal: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sample k-space of (n, X, Y) down to (n, *shape); edges are continued so that opposite ones do not ring."""
    factors = [fine // coarse for fine, coarse in zip(signal.shape[1:], shape, strict=True)]
    pad = [_EDGE_VOXELS * factor for factor in factors]
    padded = _replicate(signal, (pad[1], pad[1], pad[0], pad[0]))
    sizes = [signal.shape[0], shape[0] + 2 * _EDGE_VOXELS, shape[1] + 2 * _EDGE_VOXELS]
    cropped = acquisition.crop_kspace(padded, sizes)
    cropped = cropped if signal.is_complex() else cropped.real
    return cropped[:, _EDGE_VOXELS:-_EDGE_VOXELS, _EDGE_VOXELS:-_EDGE_VOXELS]


def _replicate(signal: Tensor, pad: tuple[int, ...]) -> Tensor:
    if not signal.is_complex():
        return torch.nn.functional.pad(signal[None], pad, mode="replicate")[0]
    return torch.complex(_replicate(signal.real, pad), _replicate(signal.imag, pad))


def _sample_slices(planes: Tensor, grid: Volume, protocol: Protocol) -> Tensor:
    """Sub-slices to slices, (X, Y, sub-slices) -> (X, Y, Z): slice profile, or k-space for 3-D protocols."""
    count, slices = planes.shape[2], grid.shape[2]
    if protocol.volume and count > slices:
        factor = count // slices
        edge = _EDGE_VOXELS * factor
        padded = torch.cat((planes[..., :1].expand(-1, -1, edge), planes, planes[..., -1:].expand(-1, -1, edge)), 2)
        sizes = [*planes.shape[:2], slices + 2 * _EDGE_VOXELS]
        return acquisition.crop_kspace(padded, sizes)[..., _EDGE_VOXELS:-_EDGE_VOXELS]
    pitch = grid.spacing[2]
    thickness = pitch * (1 - protocol.gap)
    weights = acquisition.slice_matrix(count, pitch * slices / count, thickness, pitch - thickness)
    if planes.is_complex():
        return acquisition.apply_slices(planes, weights, 2)
    averaged = acquisition.apply_slices(planes, weights, 2)
    return torch.complex(averaged, torch.zeros_like(averaged))


def _saturation(grid: Volume, settings: ScanSettings) -> Tensor:
    """Dark band in front of the bodies, (X, Y, Z) or a scalar 1."""
    bodies = np.argwhere(grid.array == CORPUS)
    if settings.saturation >= 1 or len(bodies) == 0:
        return torch.ones(())
    front = float(np.percentile(grid.world(bodies)[:, 1], 98)) + settings.band_distance
    axes = [np.arange(size) * step for size, step in zip(grid.shape, grid.affine[1, :3], strict=True)]
    height = axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :] + grid.affine[1, 3]
    inside = torch.sigmoid(torch.from_numpy((height - front).astype(np.float32)) / 2.5)
    return 1 - (1 - settings.saturation) * inside


def _receive(
    image: Tensor,
    tissue: Array,
    grid: Volume,
    protocol: Protocol,
    table: SignalTable,
    settings: ScanSettings,
    generator: torch.Generator,
    kept: Kept,
) -> Array:
    """Shade by the coils, add noise, correct part of the shading, scale to int16."""
    coils = _coil_field(tissue, grid, settings, generator, kept)
    coils = coils / _reference(coils, grid)
    control = settings.shading * torch.randn(1, 1, 5, 5, 5, generator=generator)
    shading = acquisition.bias_field(control, grid.shape)[0, 0]
    if protocol.bias > 0:
        shading = shading * _extra_shading(protocol.bias, grid.shape, generator)
    sigma = table.of("cord_wm") / settings.snr
    noisy = _noisy(image * coils * shading, sigma, protocol, generator)
    corrected = noisy / coils**settings.normalised
    bright = max(float(np.quantile(corrected.numpy()[::2, ::2], 0.995)), 1e-6)
    scaled = torch.round(corrected * (settings.level / bright))
    return scaled.clamp(0, 32767).numpy().astype(np.int16)


def _extra_shading(peaks: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Smooth field whose extremes differ by `peaks` of their mean; draws that follow are not those of the generator."""
    own = torch.Generator().manual_seed(generator.initial_seed() ^ _SHADING_STREAM)
    field = acquisition.smooth_field(torch.randn(1, 1, 4, 4, 4, generator=own), shape)[0, 0]
    unit = (field - field.min()) / (field.max() - field.min()).clamp_min(1e-6) - 0.5
    return 1 + peaks * unit


def _noisy(image: Tensor, sigma: float, protocol: Protocol, generator: torch.Generator) -> Tensor:
    """Add Rician noise, or that of several coils whose squares are summed; strongest in the middle if accelerated."""
    level: Tensor | float = sigma
    if protocol.g_factor > 1:
        places = torch.linspace(-1, 1, image.shape[_PHASE_AXIS]).view(1, -1, 1)
        level = sigma * (1 + (protocol.g_factor - 1) * torch.exp(-4 * places**2))
    noisy = acquisition.rician_noise(image, level, generator=generator)
    if protocol.coils < 2:
        return noisy
    # The other coils add a chi-squared variable of 2 N - 2 degrees of freedom (Wilson and Hilferty's cube of a normal).
    degrees = 2 * protocol.coils - 2
    own = torch.Generator().manual_seed(generator.initial_seed() ^ _COIL_STREAM)
    spread = (2 / (9 * degrees)) ** 0.5
    cube = (1 - spread**2 + spread * torch.randn(image.shape, generator=own)).clamp_min(0) ** 3
    return torch.sqrt(noisy**2 + level**2 * degrees * cube)


def _reference(field: Tensor, grid: Volume) -> float:
    """Median of the field where the signal-to-noise ratio is defined: the cord, else the bodies, else everywhere."""
    for label in (CORD, CORPUS):
        inside = torch.from_numpy(grid.array == label)
        if bool(inside.any()):
            return float(field[inside].median())
    return float(field.median())


def _coil_field(tissue: Array, grid: Volume, settings: ScanSettings, generator: torch.Generator, kept: Kept) -> Tensor:
    """Sensitivity of an array that follows the back, and of a weaker one in front if there is one, (X, Y, Z)."""
    heights, backs, fronts, middle = kept.get("outline", lambda: _outline(tissue, grid))
    low, high = float(heights.min()), float(heights.max())
    number = max(2, int(np.ceil((high - low) / 110)) + 1)
    start = float(torch.rand((), generator=generator)) * 40 - 20
    rows = np.linspace(low - 20, high + 20, number) + start
    back = np.interp(rows, heights, backs) - settings.coil_distance
    front = np.interp(rows, heights, fronts) + settings.coil_distance
    sides = (-45.0, 45.0)
    centres = [
        (middle + side, y, z) for wall in (back, front) for y, z in zip(wall, rows, strict=True) for side in sides
    ]
    gains = (1 + 0.12 * torch.randn(1, len(centres), generator=generator)).clamp(0.6, 1.4)
    gains[:, len(centres) // 2 :] *= settings.front
    positions = torch.tensor(centres, dtype=torch.float64)[None]
    affine = torch.from_numpy(grid.affine)
    return kept.get(
        ("coils", positions.numpy().tobytes(), gains.numpy().tobytes(), settings.coil_radius),
        lambda: acquisition.surface_coils(positions, gains, settings.coil_radius, affine, grid.shape)[0, 0],
    )


def _outline(tissue: Array, grid: Volume) -> tuple[Array, Array, Array, float]:
    """World heights, the skin behind and in front at each, and the middle from left to right (mm)."""
    step = [
        max(1, round(8.0 * fine / (coarse * size)))
        for fine, coarse, size in zip(tissue.shape, grid.shape, grid.spacing, strict=True)
    ]
    index = np.argwhere(tissue[:: step[0], :: step[1], :: step[2]] != TISSUE_ID["air"]) * step
    scale = np.array(grid.shape) / np.array(tissue.shape)
    corners = grid.world(np.array([[0, 0, 0], np.array(grid.shape) - 1]))
    if len(index) == 0:
        low, high = corners[:, 1].min(), corners[:, 1].max()
        return corners[:, 2], np.full(2, low), np.full(2, high), float(corners[:, 0].mean())
    world = grid.world((index + 0.5) * scale - 0.5)
    middle = float(np.median(world[:, 0]))
    near = world[np.abs(world[:, 0] - middle) < 60]
    rows = np.round(near[:, 2] / 20).astype(int)
    heights = np.unique(rows)
    backs = np.array([near[rows == row, 1].min() for row in heights])
    fronts = np.array([near[rows == row, 1].max() for row in heights])
    return heights * 20.0, backs, fronts, middle
