"""Bias fields multiply the signal, and air stays air."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from augment_checks import context, keys, pipeline

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.spline import intervals, knots, spread_over, weights

SHAPE = (16, 48, 48)
FACTS = context(SHAPE)
FIELDS = (
    {"name": "bias_polynomial", "coefficient": 0.5},
    {"name": "bias_spline", "sd": 0.3},
    {"name": "surface_coils", "residual": 1.0},
)


def _magnitude(noise: float, seed: int = 0) -> torch.Tensor:
    """Return Rician magnitudes: air in the first half of the last axis, tissue of four brightnesses in the second."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.zeros(1, 1, *SHAPE)
    clean[..., SHAPE[-1] // 2 :] = 0.25 + 0.25 * (torch.arange(SHAPE[-2]) % 4)[:, None]
    first, second = (noise * torch.randn(clean.shape, generator=generator) for _ in range(2))
    return torch.hypot(clean + first, second)


def test_spline_weights_sum_to_one_and_reproduce_lines() -> None:
    matrix = weights(20, 5)
    assert np.allclose(matrix.sum(1), 1)
    assert (matrix >= 0).all()
    places = (np.arange(-1, 7)) / 5
    assert np.allclose(matrix @ places, (np.arange(20) + 0.5) / 20)


def test_spread_over_is_the_product_along_every_axis() -> None:
    coefficients = torch.randn(2, 5, 6, 7, dtype=torch.float64)
    matrices = [torch.randn(n, m, dtype=torch.float64) for n, m in ((8, 5), (9, 6), (10, 7))]
    expected = torch.einsum("kabc,za,yb,xc->kzyx", coefficients, *matrices)
    torch.testing.assert_close(spread_over(coefficients, matrices), expected)
    flat = torch.einsum("kbc,yb,xc->kyx", coefficients[:, 0], *matrices[1:])
    torch.testing.assert_close(spread_over(coefficients[:, 0], matrices[1:]), flat)


def test_knots_cover_the_patch_in_mm() -> None:
    facts = Context((2, 40, 40), (4, 0.5, 0.5))
    assert intervals(facts) == (1, 8, 8)
    places = knots(facts)
    assert [len(p) for p in places] == [4, 11, 11]
    assert (places[1][1], places[1][-2]) == (-10, 10)


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: str(f["name"]))
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.04])
def test_air_keeps_its_spread(field: dict, noise: float) -> None:
    image = _magnitude(noise) * 4 - 1.5
    air = (..., slice(0, SHAPE[-1] // 2))
    for seed in range(4):
        result, _ = pipeline(field, facts=FACTS)(image, None, keys(1, seed))
        assert result[air].std() <= 1.02 * image[air].std() + 1e-6
        assert result[air].mean() == pytest.approx(image[air].mean().item(), abs=0.01)


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: str(f["name"]))
def test_tissue_is_multiplied_by_a_smooth_positive_field(field: dict) -> None:
    image = _magnitude(0.0) * 4 - 1.5
    result, _ = pipeline(field, facts=FACTS)(image, None, keys(1))
    tissue = (..., slice(SHAPE[-1] // 2, None))
    factor = ((result + 1.5) / (image + 1.5))[tissue]
    assert factor.min() > 0
    assert factor.max() / factor.min() > 1.02
    # Tissues of four brightnesses lie side by side: the same factor for all means no step between them.
    steps = factor.diff(dim=-2).abs().max() / (factor.max() - factor.min())
    assert steps < 0.15


def test_what_lies_at_the_noise_floor_is_not_torn_apart() -> None:
    """Dark tissue on both sides of the floor: where a coil is near, brightness changes evenly."""
    image = _magnitude(0.02)
    ramp = torch.linspace(0, 0.2, 24)
    image[..., 8:10, :, 24:] = ramp
    result, _ = pipeline({"name": "surface_coils", "residual": 1.0, "axis": 1, "side": -1, "distance": 5}, facts=FACTS)(
        image, None, keys(1)
    )
    change = (result - image)[0, 0, 8, :, 24:]
    bend = change.diff(n=2, dim=1).abs().amax(dim=1)
    assert (bend < 0.06 * change.abs().amax(dim=1) + 1e-6).all()


def test_fields_of_one_sample_multiply() -> None:
    image = _magnitude(0.0)
    one, other = ({**FIELDS[0]}, {**FIELDS[1]})
    both, _ = pipeline(one, other, facts=FACTS)(image, None, keys(1))
    first, _ = pipeline(one, facts=FACTS)(image, None, keys(1))
    second, _ = pipeline(other, facts=FACTS)(image, None, keys(1))
    tissue = (..., slice(SHAPE[-1] // 2, None))
    expected = (first * second / image)[tissue]
    torch.testing.assert_close(both[tissue], expected, rtol=0.03, atol=1e-3)


def test_a_coil_is_bright_on_its_side() -> None:
    image = _magnitude(0.0) + 1
    for side in (-1, 1):
        field = {"name": "surface_coils", "axis": 1, "side": side, "residual": 1.0, "distance": 40}
        result, _ = pipeline(field, facts=FACTS)(image, None, keys(1))
        factor = ((result - 1) / (image - 1).clamp_min(1e-3))[..., SHAPE[-1] // 2 :].mean(dim=(0, 1, 2, 4))
        assert (factor[0] > factor[-1]) == (side < 0)


def test_the_field_is_the_same_on_a_finer_grid() -> None:
    coarse, fine = Context((8, 24, 24), (6, 2, 2)), Context((16, 48, 48), (3, 1, 1))
    image = torch.full((1, 1, 16, 48, 48), 3.0)
    image[..., 0, 0, 0] = 0
    small = image[..., ::2, ::2, ::2].contiguous()
    field = {"name": "bias_spline", "sd": 0.3, "scale": 60}
    large, _ = pipeline(field, facts=fine)(image, None, keys(1))
    less, _ = pipeline(field, facts=coarse)(small, None, keys(1))
    mean = torch.nn.functional.avg_pool3d(large, 2)
    torch.testing.assert_close(less[..., 1:-1, 1:-1, 1:-1], mean[..., 1:-1, 1:-1, 1:-1], rtol=0.03, atol=0)
