"""Coloured noise: the spectrum of noise is that of what was acquired, its level the one asked for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from augment_checks import context, images, keys, label_map, pipeline

from nnunet_spine_ext.augment.axis_matrices import AxisWork, Recon, Slices, Zoom
from nnunet_spine_ext.augment.noise_colour import join, noise_matrix

SHAPE = (24, 64, 64)
FACTS = context(SHAPE)
WHITE = {"colour": "white"}


def _noise(*transforms: dict[str, Any], seed: int = 3) -> torch.Tensor:
    """Return the noise that transforms leave in bright tissue, in parts of the span."""
    image = torch.zeros(1, 1, *SHAPE)
    image[..., 8:] = 100.0
    quiet, _ = pipeline(*transforms[:-1], facts=FACTS)(image, None, keys(1, seed))
    noisy, _ = pipeline(*transforms, facts=FACTS)(image, None, keys(1, seed))
    return (noisy - quiet)[0, 0, :, :, 16:] / 100


def _correlation(noise: torch.Tensor, axis: int, lag: int = 1) -> float:
    size = noise.shape[axis] - lag
    first, second = noise.narrow(axis, 0, size).flatten(), noise.narrow(axis, lag, size).flatten()
    return float(torch.corrcoef(torch.stack([first, second]))[0, 1])


def _high_part(noise: torch.Tensor, axis: int, above: float) -> float:
    """Return the part of the power above a frequency in cycles per voxel."""
    power = torch.fft.rfft(noise, dim=axis).abs().square().mean(dim=[a for a in range(3) if a != axis])
    frequency = torch.fft.rfftfreq(noise.shape[axis])
    return float(power[frequency > above].sum() / power.sum())


@pytest.mark.parametrize(
    "work",
    [
        AxisWork(acquired=2.0),
        AxisWork(acquired=1.7, recon=Recon(1.3, 0.2, "cubic")),
        AxisWork(slices=(Slices(4.0, 0.5),)),
        AxisWork(zooms=(Zoom(20, filtered=False),)),
        AxisWork(partial=0.6),
    ],
)
def test_the_mean_variance_stays_one(work: AxisWork) -> None:
    matrix = noise_matrix(work, 40, 1.0)
    assert matrix is not None
    assert np.square(matrix).sum(axis=1).mean() == pytest.approx(1.0)


def test_what_happens_to_the_object_does_not_colour_noise() -> None:
    assert noise_matrix(AxisWork(sigma=3.0), 40, 1.0) is None
    assert noise_matrix(AxisWork(slices=(Slices(0.5),)), 40, 1.0) is None
    assert noise_matrix(AxisWork(acquired=3.0), 1, 1.0) is None
    profiles = [noise_matrix(AxisWork(slices=(Slices(3.0, 1.0, profile=p),)), 40, 1.0) for p in ("box", "gaussian")]
    assert np.array_equal(profiles[0], profiles[1])  # type: ignore[arg-type]


def test_noise_of_slices_is_one_number_per_slice() -> None:
    matrix = noise_matrix(AxisWork(slices=(Slices(4.0, interpolation="nearest"),)), 40, 1.0)
    assert matrix is not None
    noise = matrix @ np.random.default_rng(0).standard_normal((40, 500))
    correlation = np.corrcoef(noise)
    assert correlation[5, 6] == pytest.approx(1.0)
    assert abs(correlation[7, 8]) < 0.2


def test_colours_join() -> None:
    first, second = (AxisWork(acquired=2.0), AxisWork()), (AxisWork(acquired=1.0), AxisWork(partial=0.6))
    assert join(None, None) is None
    assert join(first, None) == first == join(None, first)
    assert join(first, second) == (AxisWork(acquired=2.0), AxisWork(partial=0.6))


def test_zero_filled_noise_ends_where_acquisition_ended() -> None:
    settings = {"name": "coloured_noise", "sigma": 0.05, "unit": "voxel", "in_plane": 2.0, "phase_ratio": 1.0}
    noise = _noise({**settings, "slice_axis": 0})
    assert noise.std().item() == pytest.approx(0.05, rel=0.04)
    for axis in (1, 2):
        # A cut at half the frequencies: neighbours are correlated by sin(x) / x at pi / 2.
        assert _correlation(noise, axis) == pytest.approx(2 / math.pi, abs=0.04)
    assert _high_part(noise, 1, 0.27) < 0.02
    assert abs(_correlation(noise, 0)) < 0.03


def test_noise_follows_the_resolution_of_its_own_sample() -> None:
    resolution = {
        "name": "resolution", "unit": "voxel", "in_plane": 2.0, "phase_ratio": 1.0, "zero_fill": 2.0, "slice_axis": 0,
    }  # fmt: skip
    noise = {"name": "rician_noise", "sigma": 0.03}
    followed, white = _noise(resolution, noise), _noise(resolution, {**noise, **WHITE})
    for result in (followed, white):
        assert result.std().item() == pytest.approx(0.03, rel=0.06)
    assert _correlation(followed, 1) == pytest.approx(2 / math.pi, abs=0.05)
    assert abs(_correlation(white, 1)) < 0.03
    assert torch.equal(_noise(noise), _noise({**noise, **WHITE})), "without an acquisition noise is white"


def test_noise_of_thick_slices_is_thick() -> None:
    slices = {
        "name": "slice_profile", "unit": "voxel", "thickness": 3.0, "gap": 0.0, "slice_axis": 0,
        "interpolation": ["nearest"],
    }  # fmt: skip
    noise = _noise(slices, {"name": "gaussian_noise", "sigma": 0.03})
    assert _correlation(noise, 0) == pytest.approx(2 / 3, abs=0.06)
    assert abs(_correlation(noise, 1)) < 0.03


def test_coloured_air_is_still_rayleigh_distributed() -> None:
    image = torch.zeros(1, 1, *SHAPE)
    image[..., :2] = 1.0
    settings = {"name": "coloured_noise", "sigma": 0.05, "unit": "voxel", "in_plane": 1.6, "slice_axis": 0}
    air = pipeline(settings, facts=FACTS)(image, None, keys(1))[0][..., 2:]
    assert air.min() >= 0
    assert (air.mean() / air.std()).item() == pytest.approx(1.913, abs=0.03)


def test_gaussian_noise_makes_air_negative_and_keeps_means() -> None:
    image = torch.zeros(1, 1, *SHAPE)
    image[..., 32:] = 2.0
    result, _ = pipeline({"name": "gaussian_noise", "sigma": 0.1}, facts=FACTS)(image, None, keys(1))
    for part, level in ((slice(0, 32), 0.0), (slice(32, 64), 2.0)):
        values = result[..., part]
        assert values.mean().item() == pytest.approx(level, abs=0.01)
        assert values.std().item() == pytest.approx(0.2, rel=0.02)


def test_neighbours_with_other_colours_do_not_matter() -> None:
    resolution = {"name": "resolution", "p": 0.5, "unit": "voxel", "in_plane": [1.2, 3.0]}
    names = [{"name": n, "p": 0.6} for n in ("rician_noise", "chi_noise", "gaussian_noise", "coloured_noise")]
    line = pipeline(resolution, *names)
    image, labels = images(4), label_map(4)
    first = keys(4)
    whole = line(image, labels, first)[0]
    for index in range(4):
        alone = line(image[index : index + 1], labels[index : index + 1], first[index : index + 1])[0]
        torch.testing.assert_close(alone[0], whole[index], rtol=1e-5, atol=1e-5)
