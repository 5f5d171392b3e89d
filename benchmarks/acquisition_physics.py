"""Whether the simulated acquisition does what its names say: figures against what physics asks for.

    python benchmarks/acquisition_physics.py

Prints one line per check; ends with 1 if any is missed. The tests of the stages `axis` and `kspace` use the same
functions.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnunet_spine_ext.augment.axis_matrices import FWHM, AxisWork, Slices, axis_matrix, profile_weights
from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.augment.pipeline import Pipeline

Array = NDArray[np.float64]

SEPARABLE: tuple[dict[str, Any], ...] = (
    {"name": "blur"},
    {"name": "resolution", "in_plane": [1.0, 2.5], "through_plane": [1.0, 2.5]},
    {"name": "slice_profile", "slice_axis": "random", "thickness": [2, 5]},
    {"name": "zero_fill"},
    {"name": "gibbs"},
    {"name": "partial_fourier"},
    {"name": "recon_window"},
    {"name": "low_resolution", "interpolation": ["linear", "cubic"]},
)
"""Settings under which every transform that resamples or filters acts on voxels of 1 mm."""

OTHERS: tuple[dict[str, Any], ...] = (
    {"name": "chemical_shift"},
    {"name": "signal_void"},
    {"name": "motion"},
    {"name": "ghosting"},
    {"name": "spikes"},
    {"name": "elliptical_coverage"},
    {"name": "complex_partial_fourier"},
)


@dataclass(frozen=True)
class Check:
    """A figure and the interval that it has to lie in."""

    name: str
    value: float
    low: float
    high: float

    @property
    def passed(self) -> bool:
        """Return whether the figure lies in its interval."""
        return self.low <= self.value <= self.high


def augment(image: Tensor, *transforms: Mapping[str, Any], draw: int = 0, spacing: float = 1.0) -> Tensor:
    """Return an image (Z, Y, X) or (Y, X) of cubic voxels after transforms that surely fire."""
    listed = [{"p": 1.0, **t} for t in transforms]
    context = Context(tuple(image.shape), (spacing,) * image.dim())
    pipeline = Pipeline(AugmentConfig.from_dict({"transforms": listed}), context)
    return pipeline(image[None, None], None, [SampleKey(1, "physics", 0, draw)])[0][0, 0]


def alias(name: str) -> float:
    """Return the amplitude that is left of a wave of 0.45 cycles per voxel after 0.3 times the resolution.

    In the middle half of the patch: where the wave breaks off, it holds lower frequencies too.
    """
    size = 240
    wave = torch.cos(2 * torch.pi * 0.45 * torch.arange(size) + 0.4).expand(4, size).contiguous() + 2.0
    every: dict[str, dict[str, Any]] = {
        "low_resolution": {"scale": 0.3},
        "resolution": {"in_plane": 1 / 0.3, "phase_ratio": 1, "zero_fill": 1},
        "slice_profile": {"thickness": 1 / 0.3, "gap": 0, "slice_axis": 1, "profile": ["gaussian"]},
    }
    result = augment(wave, {"name": name, **every[name]})
    return float(result[:, size // 4 : -size // 4].double().std(unbiased=False)) * math.sqrt(2)


def slice_width(profile: str, thickness: float, spacing: float) -> float:
    """Return the delivered over the requested full width at half maximum of a slice, swept over a thin line."""
    size, step = 160, 0.01
    places = np.arange(size / 2 - 4 * thickness / spacing, size / 2 + 4 * thickness / spacing, step)
    weights = profile_weights(size, spacing, places, Slices(thickness, profile=profile, edge=0.3))  # type: ignore[arg-type]
    return _half_width(weights[:, size // 2]) * step * spacing / thickness


def blur_width(sigma: float, spacing: float) -> float:
    """Return the delivered over the requested full width at half maximum of a blurred line; voxels well below sigma."""
    size = 401
    matrix = axis_matrix(AxisWork(sigma=sigma), size, spacing)
    assert matrix is not None
    return _half_width(matrix[:, size // 2]) * spacing / (FWHM * sigma)


def blur_deviation(sigma: float) -> float:
    """Return the delivered over the requested standard deviation, from the second moment, voxels of 1 mm."""
    size = 101
    matrix = axis_matrix(AxisWork(sigma=sigma), size, 1.0)
    assert matrix is not None
    place = np.arange(size) - size // 2
    return math.sqrt(float(matrix[:, size // 2] @ place**2)) / sigma


def gibbs_overshoot(factor: float) -> float:
    """Return by how much an edge overshoots, in per cent of its height, `factor` times coarser than the voxels."""
    size = 768
    edge = (torch.arange(size) >= size // 2).float().expand(2, size).contiguous()
    result = augment(edge, {"name": "gibbs", "factor": factor, "slice_axis": 0})
    return 100 * (float(result.max()) - 1)


def constant_error(settings: Mapping[str, Any]) -> float:
    """Return the largest relative change of a constant image over some draws."""
    image = torch.full((12, 24, 20), 5.0)
    return max(float((augment(image, settings, draw=i) - image).abs().max()) / 5 for i in range(5))


def mean_error(settings: Mapping[str, Any]) -> float:
    """Return the largest relative change of the mean of a blob of signal over some draws."""
    image = blob((48, 80, 64))
    return max(abs(float(augment(image, settings, draw=i).mean() / image.mean()) - 1) for i in range(5))


def shift(settings: Mapping[str, Any]) -> float:
    """Return by how many voxels the centre of a blob moves at most, over some draws."""
    image = blob((48, 80, 64))
    before = _centre(image)
    return max(float((_centre(augment(image, settings, draw=i)) - before).abs().max()) for i in range(8))


def edge_shift(settings: Mapping[str, Any]) -> float:
    """Return by how many voxels the middle between the two edges of a label moves, mean over 16 places and draws."""
    moved = []
    for low in range(32, 48):
        label = torch.zeros(96, 96)
        label[low : low + 24, low : low + 24] = 1
        image = augment(label, settings, draw=low).double().numpy()
        moved.append([_middle(image[:, low + 8 : low + 16].mean(1)), _middle(image[low + 8 : low + 16].mean(0))])
        moved[-1] = [m - low - 11.5 for m in moved[-1]]
    return float(np.abs(np.mean(moved, axis=0)).max())


def slices_shift(interpolation: str) -> float:
    """Return by how many voxels slices of 4.4 mm move an edge, mean over 25 phases of the slices."""
    size, edge = 120, 60
    images = []
    for phase in (np.arange(25) + 0.5) / 25:
        work = AxisWork(slices=(Slices(4.0, 0.4, float(phase), interpolation=interpolation),))  # type: ignore[arg-type]
        matrix = axis_matrix(work, size, 1.0)
        assert matrix is not None
        images.append(matrix @ np.exp(-0.5 * ((np.arange(size) - edge) / 6) ** 2))
    return abs(_middle(np.mean(images, axis=0)) - edge)


def energy_left(cut: float) -> float:
    """Return the energy of white noise after truncation along one axis over what its spectrum says is left."""
    rng = np.random.default_rng(5)
    size, signal = 200, rng.standard_normal((200, 500))
    matrix = axis_matrix(AxisWork(acquired=cut), size, 1.0)
    assert matrix is not None
    spectrum = np.linalg.eigvalsh(matrix)
    return float(np.square(matrix @ signal).sum() / np.square(signal).sum() / np.square(spectrum).mean())


def blob(shape: tuple[int, ...]) -> Tensor:
    """Return a smooth blob of signal in empty space, off the centre and narrower than the patch."""
    places = [torch.arange(n, dtype=torch.float64) for n in shape]
    parts = [torch.exp(-0.5 * ((p - 0.47 * n) / (0.09 * n)) ** 2) for p, n in zip(places, shape, strict=True)]
    volume = parts[0]
    for part in parts[1:]:
        volume = volume[..., None] * part
    return volume.float()


def _centre(image: Tensor) -> Tensor:
    weights = image.double()
    total = weights.sum()
    means = []
    for axis, size in enumerate(image.shape):
        place = torch.arange(size, dtype=torch.float64).view([-1 if a == axis else 1 for a in range(image.dim())])
        means.append((weights * place).sum() / total)
    return torch.stack(means)


def _half_width(profile: Array) -> float:
    left, right = _half_places(profile)
    return right - left


def _middle(profile: Array) -> float:
    return sum(_half_places(profile)) / 2


def _half_places(profile: Array) -> tuple[float, float]:
    """Return where a profile crosses half of its maximum, linear between samples."""
    half = profile.max() / 2
    above = np.flatnonzero(profile >= half)
    first, last = int(above[0]), int(above[-1])
    left = first - (profile[first] - half) / (profile[first] - profile[first - 1])
    right = last + (profile[last] - half) / (profile[last] - profile[last + 1])
    return float(left), float(right)


def checks() -> list[Check]:
    """Return all checks."""
    found = [
        Check(f"wave of 0.45 cycles/voxel after 0.3 x {n}", alias(n), 0, 0.01) for n in ("resolution", "low_resolution")
    ]
    for profile in ("box", "slr", "gaussian"):
        for thickness in (2.0, 3.0, 6.0):
            name = f"width of {profile} slices of {thickness:g} mm, 1 mm voxels"
            found.append(Check(name, slice_width(profile, thickness, 1.0), 0.98, 1.02))
    found += [
        Check(f"width of blur of {s:g} mm, 0.1 mm voxels", blur_width(s, 0.1), 0.98, 1.02) for s in (0.4, 0.8, 1.6)
    ]
    found += [Check(f"deviation of blur of {s:g} voxels", blur_deviation(s), 0.98, 1.02) for s in (0.25, 0.5, 1.0, 3.0)]
    found += [Check(f"overshoot in %, {f:g} times coarser", gibbs_overshoot(f), 8.65, 9.25) for f in (8.0, 16.0, 24.0)]
    found.append(Check("energy after truncation over that of the spectrum", energy_left(2.3), 0.98, 1.02))
    for settings in SEPARABLE:
        name = settings["name"]
        found.append(Check(f"{name}: a constant changes by", constant_error(settings), 0, 1e-5))
        found.append(Check(f"{name}: the mean changes by", mean_error(settings), 0, 2e-3))
        found.append(Check(f"{name}: a blob moves by (voxels)", shift(settings), 0, 0.02))
        if name != "slice_profile":
            found.append(Check(f"{name}: a label moves by (voxels)", edge_shift(settings), 0, 0.02))
    found += [Check(f"slices, {i}: a line moves by (voxels)", slices_shift(i), 0, 0.02) for i in ("linear", "cubic")]
    found += [Check(f"{s['name']}: a constant changes by", constant_error(s), 0, 1e-5) for s in OTHERS]
    return found


def main() -> int:
    """Print all checks; return 1 if one is missed."""
    missed = 0
    for check in checks():
        missed += not check.passed
        verdict = "ok" if check.passed else "MISSED"
        sys.stdout.write(f"{check.name:58s} {check.value:10.5f}   {check.low:g} to {check.high:g}   {verdict}\n")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
