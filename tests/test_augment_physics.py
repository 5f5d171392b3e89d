"""Signal equations, k-space, slices, coils and noise against analytic values."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnunet_spine_ext.augment import acquisition, physics

GENERATOR_SEED = 7


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(GENERATOR_SEED)


# --- signal equations -----------------------------------------------------------------------------------------------


def test_spin_echo_is_saturation_recovery_for_short_echoes() -> None:
    signal = physics.spin_echo(torch.tensor(1.0, dtype=torch.float64), 800, 60, tr=500, te=1e-9)
    assert signal.item() == pytest.approx(1 - math.exp(-500 / 800), rel=1e-9)


def test_turbo_spin_echo_without_train_has_the_textbook_form() -> None:
    signal = physics.turbo_spin_echo(torch.tensor(0.8, dtype=torch.float64), 900, 70, tr=3000, te=100)
    assert signal.item() == pytest.approx(0.8 * (1 - math.exp(-3000 / 900)) * math.exp(-100 / 70), rel=1e-12)


def test_restore_is_the_steady_state_of_its_recursion() -> None:
    """Iterating recovery and decay over the train converges to the closed form."""
    t1, t2, tr, train = 4000.0, 1500.0, 1500.0, 400.0
    magnetisation = 1.0
    for _ in range(200):
        magnetisation = 1 - (1 - magnetisation * math.exp(-train / t2)) * math.exp(-(tr - train) / t1)
    one = torch.tensor(1.0, dtype=torch.float64)
    signal = physics.turbo_spin_echo(one, t1, t2, tr=tr, te=0.0, train=train, restore=True)
    assert signal.item() == pytest.approx(magnetisation, rel=1e-6)


def test_restore_makes_fluid_brighter_than_fat_in_space() -> None:
    pd, t1, t2 = (torch.tensor(pair, dtype=torch.float64) for pair in ((1.0, 0.95), (4273, 382), (1578, 125)))
    plain = physics.turbo_spin_echo(pd, t1, t2, tr=1500, te=120, train=400)
    restored = physics.turbo_spin_echo(pd, t1, t2, tr=1500, te=120, train=400, restore=True)
    assert plain[0] < plain[1]
    assert restored[0] > 1.5 * restored[1]


def test_gradient_echo_peaks_at_the_ernst_angle() -> None:
    t1, tr = 900.0, 30.0
    angles = torch.arange(1.0, 60.0, 0.5, dtype=torch.float64)
    signal = physics.gradient_echo(torch.ones_like(angles), t1, 50, tr=tr, te=5, flip=angles)
    ernst = math.degrees(math.acos(math.exp(-tr / t1)))
    assert abs(float(angles[signal.argmax()]) - ernst) <= 0.5


def test_inversion_recovery_nulls_at_its_null() -> None:
    t1 = 343.0
    ti = math.log(2) * t1
    signal = physics.inversion_recovery(torch.tensor(1.0, dtype=torch.float64), t1, 60, tr=1e6, te=0, ti=ti)
    assert signal.item() == pytest.approx(0, abs=1e-12)


def test_prepared_gradient_echo_inverts_long_t1() -> None:
    """Fluid is dark, fat is bright, grey matter below white matter: the contrast of MPRAGE."""
    t1 = torch.tensor([4273.0, 876.0, 973.0, 382.0], dtype=torch.float64)
    density = torch.tensor([1.0, 0.73, 0.78, 0.95], dtype=torch.float64)
    signal = physics.prepared_gradient_echo(
        density, t1, 1e6, tr=2000, te=3, ti=1000, flip=9, pulses=170, echo_spacing=7
    )
    fluid, white, grey, fat = signal.tolist()
    assert fluid < 0.3 * white
    assert grey < white < fat


@pytest.mark.parametrize(("field", "opposed", "in_phase"), [(1.5, 2.3, 4.6), (3.0, 1.15, 2.3)])
def test_fat_and_water_meet_in_and_out_of_phase(field: float, opposed: float, in_phase: float) -> None:
    one = torch.tensor(0.5, dtype=torch.float64)
    assert physics.water_fat(one, one, physics.fat_phase(opposed, field)).item() < 0.05
    assert physics.water_fat(one, one, physics.fat_phase(in_phase, field)).item() > 0.99


def test_batched_protocols_equal_single_ones() -> None:
    t1 = torch.tensor([[400.0, 900.0, 4000.0]])
    t2 = torch.tensor([[50.0, 80.0, 1500.0]])
    te = torch.tensor([[10.0], [100.0]])
    both = physics.turbo_spin_echo(1.0, t1, t2, tr=3000, te=te)
    assert both.shape == (2, 3)
    for row, value in enumerate((10.0, 100.0)):
        torch.testing.assert_close(both[row], physics.turbo_spin_echo(1.0, t1, t2, tr=3000, te=value)[0])


def test_gradients_flow_to_the_times() -> None:
    t2 = torch.tensor(80.0, requires_grad=True)
    physics.spin_echo(1.0, 900.0, t2, tr=3000, te=100).backward()
    assert t2.grad is not None
    assert t2.grad > 0


def test_fat_shift_is_440_hz_at_3_tesla() -> None:
    assert physics.fat_shift_pixels(3.0, 434.3) == pytest.approx(1.0, rel=1e-3)


# --- k-space --------------------------------------------------------------------------------------------------------


def test_cropping_keeps_constants_and_the_mean() -> None:
    image = torch.rand(2, 1, 12, 18, 9, generator=_generator())
    cropped = acquisition.crop_kspace(image, (6, 6, 9))
    assert cropped.shape == (2, 1, 6, 6, 9)
    torch.testing.assert_close(cropped.real.mean(), image.mean())
    torch.testing.assert_close(
        acquisition.crop_kspace(torch.ones(1, 1, 12, 18, 8), (4, 5, 3)).real, torch.ones(1, 1, 4, 5, 3)
    )


@pytest.mark.parametrize("size", [8, 9])
def test_cropped_waves_sit_on_the_new_voxel_centres(size: int) -> None:
    """A wave below the new Nyquist frequency keeps its place and height."""
    old = 8 * size
    fine = (torch.arange(old, dtype=torch.float64) + 0.5) / old
    coarse = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    wave = torch.cos(2 * math.pi * 3 * fine + 0.4)
    cropped = acquisition.crop_kspace(wave[:, None, None], (size, 1, 1))[:, 0, 0]
    torch.testing.assert_close(cropped.real, torch.cos(2 * math.pi * 3 * coarse + 0.4), atol=1e-9, rtol=0)
    assert cropped.imag.abs().max() < 1e-9


def test_cropped_point_is_the_dirichlet_kernel() -> None:
    old, size = 96, 33
    image = torch.zeros(old, 1, 1, dtype=torch.float64)
    image[40] = 1
    cropped = acquisition.crop_kspace(image, (size, 1, 1)).real[:, 0, 0]
    distance = (torch.arange(size, dtype=torch.float64) + 0.5) / size - (40 + 0.5) / old
    kernel = torch.sin(math.pi * size * distance) / torch.sin(math.pi * distance) / old
    torch.testing.assert_close(cropped, kernel, atol=1e-9, rtol=0)


def test_cropping_refuses_to_grow() -> None:
    with pytest.raises(ValueError, match="from 4 to 5"):
        acquisition.crop_kspace(torch.ones(4, 4, 4), (5, 4, 4))


def test_limited_resolution_has_the_edge_of_a_sinc() -> None:
    """A cut at the acquired resolution: 9 % overshoot, Si(u) = 0.4 pi at u = 1.43: rise over 0.91 acquired voxels."""
    spacing, acquired, size = 0.1, 2.0, 1024
    image = torch.zeros(1, 1, size, 1, 1, dtype=torch.float64)
    image[:, :, size // 4 : 3 * size // 4] = 1
    edge = acquisition.limit_resolution(image, (spacing, 1, 1), (acquired, 1, 1))[0, 0, :, 0, 0]
    assert edge.max().item() == pytest.approx(1.09, abs=0.01)
    rise = edge[size // 4 - 25 : size // 4 + 25]
    low, high = (int((rise > level).nonzero()[0]) for level in (0.1, 0.9))
    assert (high - low) * spacing == pytest.approx(0.91 * acquired, abs=0.1)
    window = acquisition.limit_resolution(image, (spacing, 1, 1), (acquired, 1, 1), window=1.0)
    assert window.max().item() < 1.01


@pytest.mark.parametrize("size", [20, 21])
def test_limited_resolution_does_not_fold_over(size: int) -> None:
    """Tissue up to one end of the axis, air at the other: no tissue arrives in the air, and none is lost."""
    image = torch.zeros(size, 1, 1, dtype=torch.float64)
    image[: size // 2] = 1
    limited = acquisition.limit_resolution(image, (1, 1, 1), (1.3, 1, 1), window=0.5)[:, 0, 0]
    assert limited[-1].abs() < 0.01
    assert limited[0].item() == pytest.approx(1, abs=0.01)
    assert limited.mean().item() == pytest.approx(image.mean().item(), abs=1e-9)


def test_finer_acquisition_leaves_the_image_alone() -> None:
    image = torch.rand(1, 2, 5, 6, 7, generator=_generator())
    assert torch.equal(acquisition.limit_resolution(image, (1, 1, 1), (0.5, 1.0, 0.9)), image)


# --- slices ---------------------------------------------------------------------------------------------------------


@given(count=st.integers(8, 60), spacing=st.floats(0.3, 1.5), thickness=st.floats(2.0, 6.0), gap=st.floats(0.0, 1.5))
def test_slices_average_within_their_profile(count: int, spacing: float, thickness: float, gap: float) -> None:
    weights = acquisition.slice_matrix(count, spacing, thickness, gap)
    inside = [k for k in range(len(weights)) if (k + 1) * (thickness + gap) <= count * spacing]
    for k in inside:
        assert weights[k].sum().item() == pytest.approx(1, abs=1e-5)
        centre = float((weights[k] * (torch.arange(count) + 0.5) * spacing).sum())
        assert centre == pytest.approx((k + 0.5) * (thickness + gap), abs=0.5 * spacing)


def test_gap_is_not_seen() -> None:
    """A bright sample in the middle of the gap reaches no slice."""
    weights = acquisition.slice_matrix(40, 0.1, 1.0, 1.0, edge=0.0)
    assert weights.shape == (2, 40)
    assert weights[:, 19:21].max() < 1e-6
    assert (weights[0] > 0.05).sum() == 10


def test_slice_width_at_half_maximum_is_the_thickness() -> None:
    weights = acquisition.slice_matrix(300, 0.05, 3.0, 2.0, edge=0.4)[1]
    assert int((weights >= weights.max() / 2).sum()) * 0.05 == pytest.approx(3.0, abs=0.11)


@pytest.mark.parametrize("wrong", [{"thickness": 0.0}, {"gap": -1.0}, {"count": 0}])
def test_impossible_slices_are_refused(wrong: dict[str, float]) -> None:
    arguments = {"count": 10, "spacing": 1.0, "thickness": 3.0, "gap": 0.0} | wrong
    with pytest.raises(ValueError, match="cannot form slices"):
        acquisition.slice_matrix(**arguments)  # type: ignore[arg-type]


# --- coils and noise ------------------------------------------------------------------------------------------------


def test_bias_field_is_smooth_positive_and_centred() -> None:
    control = 0.5 * torch.randn(3, 1, 4, 5, 6, generator=_generator())
    field = acquisition.bias_field(control, (24, 30, 36))
    assert field.shape == (3, 1, 24, 30, 36)
    assert field.min() > 0
    torch.testing.assert_close(field.log().mean(dim=(1, 2, 3, 4)), torch.zeros(3), atol=1e-5, rtol=0)
    # Second differences of a field that bends over tens of voxels are small against its range.
    for axis in (-3, -2, -1):
        assert field.log().diff(n=2, dim=axis).abs().max() < 0.1 * (field.log().max() - field.log().min())


def test_equal_coefficients_give_a_constant() -> None:
    torch.testing.assert_close(
        acquisition.smooth_field(torch.full((1, 1, 4, 4, 4), 2.5), (7, 1, 9)), torch.full((1, 1, 7, 1, 9), 2.5)
    )


def test_too_few_coefficients_are_refused() -> None:
    with pytest.raises(ValueError, match="4 coefficients"):
        acquisition.smooth_field(torch.ones(1, 1, 3, 4, 4), (8, 8, 8))


def test_one_loop_follows_its_law() -> None:
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
    field = acquisition.surface_coils(
        torch.zeros(1, 1, 3, dtype=torch.float64), torch.ones(1, 1), 60.0, affine, (61, 31, 31)
    )[0, 0]
    assert field[0, 0, 0].item() == pytest.approx(1.0, abs=1e-3)
    assert field[60, 0, 0].item() == pytest.approx((60**2 / (60**2 + 120**2)) ** 1.5, rel=0.01)
    assert (field.diff(dim=0) < 0).all()
    assert field.min() > 0


def test_coils_are_batched() -> None:
    positions = 40 * torch.rand(2, 3, 3, generator=_generator(), dtype=torch.float64)
    gains = torch.rand(2, 3, generator=_generator()) + 0.5
    affine = torch.eye(4, dtype=torch.float64)
    both = acquisition.surface_coils(positions, gains, 50.0, affine, (20, 22, 24))
    for k in range(2):
        one = acquisition.surface_coils(positions[k : k + 1], gains[k : k + 1], 50.0, affine, (20, 22, 24))
        torch.testing.assert_close(both[k : k + 1], one)


def test_rician_mean_in_air_and_in_tissue() -> None:
    sigma = 3.0
    image = torch.cat((torch.zeros(1, 1, 60, 60, 30), torch.full((1, 1, 60, 60, 30), 60.0)))
    noisy = acquisition.rician_noise(image, sigma, generator=_generator())
    assert noisy[0].mean().item() == pytest.approx(sigma * math.sqrt(math.pi / 2), rel=0.01)
    assert noisy[0].std().item() == pytest.approx(sigma * math.sqrt(2 - math.pi / 2), rel=0.01)
    assert noisy[1].std().item() == pytest.approx(sigma, rel=0.02)
    assert noisy[1].mean().item() == pytest.approx(math.sqrt(60**2 + sigma**2), rel=1e-3)


def test_no_noise_is_the_magnitude() -> None:
    image = torch.tensor([[[[-2.0, 3.0]]]])
    assert torch.equal(acquisition.rician_noise(image, 0.0), image.abs())
    assert acquisition.rician_noise(torch.complex(image, 2 * image), 0.0)[..., 0].item() == pytest.approx(math.sqrt(20))


def test_noise_repeats_with_its_generator_and_takes_one_sigma_per_image() -> None:
    image = torch.zeros(2, 1, 8, 8, 8)
    sigma = torch.tensor([1.0, 10.0]).view(2, 1, 1, 1, 1)
    first = acquisition.rician_noise(image, sigma, generator=_generator())
    assert torch.equal(first, acquisition.rician_noise(image, sigma, generator=_generator()))
    assert first[1].mean() > 5 * first[0].mean()
