"""Noise of magnitude images: Rayleigh in air, Gaussian in tissue, white, independent."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from augment_checks import context, keys, pipeline

from nnunet_spine_ext.augment.noise_pool import POOL_SIZE, draw_offset, white_noise

SHAPE = (32, 64, 64)
FACTS = context(SHAPE)
RAYLEIGH = math.sqrt(math.pi / (4 - math.pi))
CPU = torch.device("cpu")
AIR, TISSUE = (..., slice(0, 32)), (..., slice(32, None))


def _image(air: float = -1.5, span: float = 4.0) -> torch.Tensor:
    image = torch.full((1, 1, *SHAPE), air)
    image[TISSUE] += span
    return image


def test_noise_of_the_pool_is_normal_and_white() -> None:
    noise = white_noise([12345], (64, 128, 128), CPU)[0]
    assert noise.mean().item() == pytest.approx(0, abs=0.003)
    assert noise.std().item() == pytest.approx(1, abs=0.003)
    assert (noise**4).mean().item() == pytest.approx(3, abs=0.03)
    for axis in range(3):
        a, b = noise.narrow(axis, 1, noise.shape[axis] - 1), noise.narrow(axis, 0, noise.shape[axis] - 1)
        assert (a * b).mean().item() == pytest.approx(0, abs=0.004)


def test_stretches_are_their_own_and_wrap_around() -> None:
    several = white_noise([5, POOL_SIZE - 3, 5], (2, 4), CPU)
    assert torch.equal(several[0], several[2])
    assert torch.equal(several[0], white_noise([5], (2, 4), CPU)[0])
    assert torch.equal(several[1].flatten()[3:], white_noise([0], (5,), CPU)[0])
    assert white_noise([7], (POOL_SIZE + 10,), CPU)[0].shape == (POOL_SIZE + 10,)
    offsets = {draw_offset(np.random.default_rng(i)) for i in range(50)}
    assert len(offsets) == 50
    assert all(0 <= offset < POOL_SIZE for offset in offsets)


@pytest.mark.parametrize("sigma", [0.02, 0.1])
def test_air_gets_rayleigh_noise(sigma: float) -> None:
    for seed in range(3):
        result, _ = pipeline({"name": "rician_noise", "sigma": sigma}, facts=FACTS)(_image(), None, keys(1, seed))
        air = result[AIR] + 1.5
        assert air.min() >= 0
        assert (air.mean() / air.std()).item() == pytest.approx(RAYLEIGH, abs=0.015)
        assert air.mean().item() == pytest.approx(4 * sigma * math.sqrt(math.pi / 2), rel=0.02)


def test_the_rayleigh_ratio_of_a_whole_patch() -> None:
    shape = (64, 128, 128)
    image = torch.zeros(1, 1, *shape)
    image[..., 0:2, :, :] = 1
    line = pipeline({"name": "rician_noise", "sigma": 0.05}, facts=context(shape))
    air = line(image, None, keys(1))[0][..., 2:, :, :]
    assert (air.mean() / air.std()).item() == pytest.approx(1.913, abs=0.01)


def test_bright_tissue_gets_gaussian_noise_of_the_level_asked_for() -> None:
    result, _ = pipeline({"name": "rician_noise", "sigma": 0.05}, facts=FACTS)(_image(), None, keys(1))
    tissue = result[TISSUE]
    assert tissue.std().item() == pytest.approx(0.2, rel=0.02)
    assert tissue.mean().item() == pytest.approx(2.5 + 0.2**2 / (2 * 4), abs=0.01)


def test_noise_is_relative_to_the_signal() -> None:
    line = pipeline({"name": "rician_noise", "sigma": 0.05}, facts=FACTS)
    plain, _ = line(_image(), None, keys(1))
    scaled, _ = line(_image() * 100 + 7, None, keys(1))
    torch.testing.assert_close(scaled, plain * 100 + 7, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("coils", [2, 4, 16])
def test_air_of_several_coils_is_chi_distributed(coils: int) -> None:
    result, _ = pipeline({"name": "chi_noise", "sigma": 0.05, "coils": coils}, facts=FACTS)(_image(), None, keys(1))
    air = (result[AIR] + 1.5) / 0.2
    mean = math.sqrt(2) * math.exp(math.lgamma(coils + 0.5) - math.lgamma(coils))
    assert air.mean().item() == pytest.approx(mean, rel=0.01)
    assert air.std().item() == pytest.approx(math.sqrt(2 * coils - mean**2), rel=0.03)


def test_the_g_factor_raises_noise_in_the_middle() -> None:
    settings = {"name": "rician_noise", "sigma": 0.03, "g_factor": 3.0}
    line = pipeline(settings, facts=FACTS)
    image = _image()
    image[TISSUE], image[AIR] = -1.5, 2.5
    noise = (line(image, None, keys(1))[0] - image)[0, 0][AIR]
    blocks = noise.reshape(4, 8, 4, 16, 2, 16).std(dim=(1, 3, 5))
    assert blocks.min() > 0.028 * 4 * 0.9
    assert 1.6 < blocks.max() / blocks.min() < 3.3


def test_variances_of_two_kinds_of_noise_add() -> None:
    both = [{"name": "rician_noise", "sigma": 0.03}, {"name": "rician_noise", "sigma": 0.04}]
    result, _ = pipeline(*both, facts=FACTS)(_image(), None, keys(1))
    assert result[TISSUE].std().item() == pytest.approx(0.2, rel=0.03)


def test_samples_and_channels_get_noise_of_their_own() -> None:
    facts = context(SHAPE, channels=2)
    image = _image().expand(2, 2, *SHAPE).clone()
    result, _ = pipeline({"name": "rician_noise", "sigma": 0.05}, facts=facts)(image, None, keys(2))
    noise = (result - image)[..., 40:].reshape(4, -1)
    correlation = torch.corrcoef(noise) - torch.eye(4)
    assert correlation.abs().max() < 0.02


def test_vanishing_noise_is_the_identity() -> None:
    image = _image()
    result, _ = pipeline({"name": "rician_noise", "sigma": 1e-5}, facts=FACTS)(image, None, keys(1))
    torch.testing.assert_close(result, image, rtol=0, atol=5e-4)
    result, _ = pipeline({"name": "rician_noise", "sigma": 0.0}, facts=FACTS)(image, None, keys(1))
    assert torch.equal(result, image)
