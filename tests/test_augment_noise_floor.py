"""The noise floor tells air from dark tissue."""

from __future__ import annotations

import pytest
import torch

from nnunet_spine_ext.augment.batch import SAMPLE_VOXELS, measure_levels, thin
from nnunet_spine_ext.augment.noise_floor import noise_floor


def _scan(noise: float, air: float, shape: tuple[int, ...] = (24, 64, 64)) -> torch.Tensor:
    """Return Rician magnitudes: a share of air, and tissue of every brightness from 0.08 to 1, mostly dark."""
    generator = torch.Generator().manual_seed(0)
    coarse = 0.08 + 0.92 * torch.rand((1, 1, 4, 12, 12), generator=generator) ** 2
    clean = torch.nn.functional.interpolate(coarse, shape, mode="trilinear")[0, 0]
    clean[..., : round(air * shape[-1])] = 0
    first, second = (noise * torch.randn(shape, generator=generator) for _ in range(2))
    return torch.hypot(clean + first, second)[None, None]


def _floor(image: torch.Tensor) -> float:
    levels = measure_levels(thin(image, SAMPLE_VOXELS))
    return (noise_floor(image, levels) / levels.span).item()


@pytest.mark.parametrize("air", [0.4, 0.6, 0.9])
@pytest.mark.parametrize("noise", [0.005, 0.01, 0.02, 0.03])
def test_the_floor_lies_at_the_end_of_the_noise_of_air(noise: float, air: float) -> None:
    floor = _floor(_scan(noise, air))
    assert 2.8 * noise < floor < 5.5 * noise


@pytest.mark.parametrize("noise", [0.0, 0.005, 0.01, 0.02])
def test_there_is_no_floor_without_air(noise: float) -> None:
    assert _floor(_scan(noise, 0.0)) < 0.01


def test_scale_and_offset_do_not_matter() -> None:
    image = _scan(0.02, 0.5)
    assert _floor(image * 37 - 500) == pytest.approx(_floor(image), rel=1e-3)


def test_every_shape_has_a_floor() -> None:
    for shape in ((8, 8), (1, 16, 16), (1, 1, 1), (4, 1, 9), (1, 2)):
        image = torch.rand(2, 3, *shape)
        levels = measure_levels(thin(image, SAMPLE_VOXELS))
        floor = noise_floor(image, levels)
        assert floor.shape == (2, 3)
        assert floor.isfinite().all()
        assert (floor >= 0).all()
