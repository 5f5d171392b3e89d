"""Stage `kspace`: motion, ghosts, spikes, elliptical and partial coverage against plain Fourier transforms."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from augment_checks import check_transform, context, images, keys, label_map, pipeline
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nnunet_spine_ext.augment import kspace_tables as tables
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.kspace_tables import Plane
from nnunet_spine_ext.augment.pipeline import Plan
from nnunet_spine_ext.augment.transform import build, registry
from nnunet_spine_ext.core.errors import UsageError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from acquisition_physics import blob
from dispatch_counter import DispatchCounter

NAMES = sorted(name for name, transform in registry().items() if transform.stage == "kspace")
PLANE = Plane(0, (1, 2), (24, 30), (1.0, 0.8))
FLAT = Context((48, 64), (1.0, 1.0))


@pytest.mark.parametrize("name", NAMES)
def test_every_transform_passes_the_common_checks(name: str) -> None:
    check_transform({"name": name})


@pytest.mark.parametrize("settings", [{"rotation": 3.0}, {"through_plane": 2.0}, {"rotation": 2, "positions": 5}])
@pytest.mark.parametrize("slice_axis", ["auto", "random", 1])
def test_motion_of_every_kind_passes_the_common_checks(settings: dict[str, Any], slice_axis: Any) -> None:
    axis = "auto" if slice_axis == 1 else slice_axis
    check_transform({"name": "motion", "slice_axis": axis, **settings})


def _replay(image: Tensor, facts: Context, *transforms: tuple[str, dict[str, Any]]) -> Tensor:
    """Return an image (…) after transforms with given parameters."""
    line = pipeline(*[name for name, _ in transforms], facts=facts)
    record = line.plan(keys(1)).record
    record["samples"][0]["transforms"] = [
        {"name": name, "params": {"channels": [0], "slice_axis": 0, **params}} for name, params in transforms
    ]
    return line.apply(image[None, None], None, Plan.from_record(record))[0][0, 0]


def _signal(shape: tuple[int, ...] = (48, 64)) -> Tensor:
    """Return a picture with edges, none of it below zero and more than 1 % of it zero."""
    generator = torch.Generator().manual_seed(6)
    image = torch.rand(shape, generator=generator) * 0.2 + 0.5
    image[..., : shape[-1] // 4] = 0.0
    image[..., shape[-2] // 3 : shape[-2] // 2, shape[-1] // 2 :] += 1.0
    return image


# --- tables ---------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 1000), first=st.integers(2, 9), second=st.integers(2, 9))
def test_even_and_odd_tables_give_real_and_imaginary_part(seed: int, first: int, second: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.standard_normal((first, second)) + 1j * rng.standard_normal((first, second))
    image = rng.standard_normal((first, second))
    even, odd = tables.even_and_odd(table)
    spectrum = np.fft.fft2(image)
    expected = np.fft.ifft2(spectrum * table)
    assert np.fft.ifft2(spectrum * even) == pytest.approx(expected.real, abs=1e-12)
    assert np.fft.ifft2(spectrum * odd) == pytest.approx(expected.imag, abs=1e-12)


@pytest.mark.parametrize("phase", [0, 1])
def test_displacement_moves_the_object(phase: int) -> None:
    image = np.random.default_rng(1).random(PLANE.shape)
    table = tables.displacement(PLANE, phase, np.zeros(PLANE.shape[phase], dtype=np.int64), [[3.0, -1.6]])
    moved = np.fft.ifft2(np.fft.fft2(image) * table)
    assert moved == pytest.approx(np.roll(image, (3, -2), axis=(0, 1)), abs=1e-10)


def test_lines_are_acquired_one_after_the_other_or_in_shots() -> None:
    order = np.argsort(tables.frequencies(12), kind="stable")
    sequential = tables.line_segments(12, [0.5], 1)
    assert sequential[order].tolist() == [0] * 6 + [1] * 6
    shots = tables.line_segments(12, [0.5], 4)
    assert shots[order].tolist() == [0, 0, 1, 1] * 3


def test_half_coverage_for_homodyne_detection_weights_opposite_lines_to_two() -> None:
    weights, symmetric = tables.half_coverage(PLANE, 1, 0.7, -1, homodyne=True)
    opposite = np.roll(weights[::-1, ::-1], (1, 1), axis=(0, 1))
    assert weights + opposite == pytest.approx(np.full((24, 30), 2.0))
    assert symmetric[0, 0] == 1
    zero_fill, _ = tables.half_coverage(PLANE, 1, 0.7, -1, homodyne=False)
    assert zero_fill[0].real.sum() == pytest.approx(0.7 * 30, abs=1)


@given(intensity=st.floats(0, 0.5), number=st.floats(1, 40), angle=st.floats(-3.2, 3.2), radius=st.floats(0.05, 1.5))
def test_tables_are_one_at_frequency_zero(intensity: float, number: float, angle: float, radius: float) -> None:
    for phase in (0, 1):
        assert tables.ghosts(PLANE, phase, intensity, number, angle)[0, 0] == pytest.approx(1)
    assert tables.ellipse(PLANE, radius)[0, 0] == 1


# --- motion ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(12, 20, 16), (24, 28)])
def test_motion_of_no_amplitude_is_no_motion_bit_by_bit(shape: tuple[int, ...]) -> None:
    image = images(2, shape)
    settings = {"name": "motion", "translation": 0, "rotation": 0, "through_plane": 0}
    result, _ = pipeline(settings, facts=context(shape))(image, label_map(2, shape), keys(2))
    assert torch.equal(result, image)


STEPS = {"phase": 0, "shots": 1, "edges": [0.3, 0.8], "degrees": 0.0, "through_plane": 0.0}


@pytest.mark.parametrize("shots", [1, 4])
def test_motion_is_that_of_a_plain_complex_simulation(shots: int) -> None:
    image = _signal()
    shifts = np.array([[2.0, -1.0], [0.5, 0.5], [-3.0, 2.5]])
    params = {**STEPS, "shots": shots, "shifts": shifts.tolist(), "posed": [False] * 3}
    result = _replay(image, FLAT, ("motion", params))
    spectrum = np.fft.fft2(image.double().numpy())
    first, second = (np.fft.fftfreq(n) for n in image.shape)
    part = tables.line_segments(48, STEPS["edges"], shots)  # type: ignore[arg-type]
    seen = (shifts - shifts[part[0]])[part]
    phases = np.exp(-2j * np.pi * ((first * seen[:, 0])[:, None] + np.outer(seen[:, 1], second)))
    assert result.numpy() == pytest.approx(np.abs(np.fft.ifft2(spectrum * phases)), abs=2e-5)


def test_lines_acquired_in_the_second_pose_are_those_of_the_turned_image() -> None:
    image = blob((48, 64)) + 0.5 * blob((48, 64)).roll((9, -12), dims=(0, 1))
    params = {**STEPS, "shifts": [[0.0, 0.0]] * 3, "posed": [False, False, True], "degrees": 10.0}
    result = _replay(image, FLAT, ("motion", params))
    angle = np.radians(10.0)
    place = np.stack(np.meshgrid(np.arange(48) - 23.5, np.arange(64) - 31.5, indexing="ij"), axis=-1)
    source = place @ np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    from scipy.ndimage import map_coordinates

    places = np.moveaxis(source + np.array([23.5, 31.5]), -1, 0)
    turned = map_coordinates(image.double().numpy(), places, order=1)
    away = tables.line_segments(48, [0.3, 0.8], 1) == 2
    spectrum = np.where(away[:, None], np.fft.fft2(turned), np.fft.fft2(image.double().numpy()))
    assert result.numpy() == pytest.approx(np.abs(np.fft.ifft2(spectrum)), abs=2e-3)


def test_the_strongest_default_motion_leaves_the_cord_readable() -> None:
    """At the far end of all defaults together, a 10 mm cord in fluid is told from it in every draw."""
    image = torch.full((8, 160, 160), 0.05)
    image[..., 20:140] = 0.4
    image[..., 70:90] = 1.0
    image[..., 75:85] = 0.5
    facts = Context((8, 160, 160), (3.3, 1.0, 1.0))
    motion = build("motion")
    far = {name: getattr(motion, name).values[1] for name in ("translation", "rotation", "through_plane")}
    line = pipeline({"name": "motion", **far}, facts=facts)
    moved, _ = line(image[None, None].expand(6, 1, -1, -1, -1).clone(), None, keys(6))
    cord, fluid = moved[..., 76:84].mean((1, 2, 3, 4)), torch.cat((moved[..., 71:74], moved[..., 86:89]), -1)
    contrast = (fluid.mean((1, 2, 3, 4)) - cord) / 0.5
    assert contrast.min() > 0.75


def test_motion_through_the_plane_takes_lines_from_neighbouring_slices() -> None:
    facts = Context((9, 24, 32), (2.0, 1.0, 1.0))
    image = _signal((9, 24, 32)) * torch.arange(1.0, 10.0)[:, None, None]
    params = {**STEPS, "shifts": [[0.0, 0.0]] * 3, "posed": [True, False, True], "through_plane": 2.0}
    result = _replay(image, facts, ("motion", params))
    away = tables.line_segments(24, [0.3, 0.8], 1) != 1
    spectra = np.fft.fft2(image.double().numpy())
    expected = np.where(away[:, None], np.roll(spectra, 1, axis=0), spectra)[1:]
    assert result[1:].numpy() == pytest.approx(np.abs(np.fft.ifft2(expected)), abs=1e-4)


def test_the_image_stays_where_its_labels_are() -> None:
    image = blob((1, 96, 96))
    facts = Context((1, 96, 96), (1.0, 1.0, 1.0))
    settings = {"name": "motion", "translation": 2.0, "rotation": 0, "order": ["interleaved"], "positions": 2}
    line = pipeline(settings, facts=facts)
    moved = []
    for draw in range(6):
        result = line(image[None, None], None, [keys(draw + 1)[-1]])[0][0, 0, 0]
        peak = int(result.argmax())
        moved.append(abs(peak // 96 - 45) + abs(peak % 96 - 45))
    assert np.mean(moved) < 1.5


# --- ghosts, spikes, coverage ---------------------------------------------------------------------------------------


def test_a_ghost_has_its_amplitude_and_its_distance() -> None:
    image = torch.zeros(48, 64)
    image[20:24, 30:40] = 1.0
    params = {"phase": 1, "intensity": 0.1, "number": 4.0, "angle": 0.7}
    result = _replay(image, FLAT, ("ghosting", params))
    for column in (35 - 16, 35 + 16):
        assert result[22, column] == pytest.approx(0.1, abs=1e-5)
    assert result[22, 35] == pytest.approx(1 - 0.2 * np.cos(0.7), abs=1e-5)
    assert result[30].abs().max() < 1e-5


def test_a_spike_is_a_wave_over_tissue_and_a_veil_in_the_dark() -> None:
    image = torch.zeros(48, 64)
    image[:24] = 10.0
    spike = {"frequency": [0.25, 0.125], "per_slice": 0.0, "amplitude": 0.05, "angle": 1.0}
    result = _replay(image, FLAT, ("spikes", {"spikes": [spike]}))
    assert result[30:].numpy() == pytest.approx(0.5, abs=1e-4)
    assert (result[:24] - 10).std() == pytest.approx(0.5 / np.sqrt(2), rel=0.02)


def test_spikes_run_through_the_slices() -> None:
    facts = Context((8, 24, 32), (1.0, 1.0, 1.0))
    image = torch.full((8, 24, 32), 10.0)
    image[:, :2] = 0.0
    spike = {"frequency": [0.0, -0.25], "per_slice": 0.25, "amplitude": 0.02, "angle": 0.0}
    result = _replay(image, facts, ("spikes", {"spikes": [spike]}))
    torch.testing.assert_close(result[:4], result[4:], atol=1e-4, rtol=0)
    assert (result[0] - result[2]).abs().max() > 0.3


def test_an_ellipse_leaves_no_frequency_outside() -> None:
    image = _signal() + 5.0
    image[0] = 0.0
    params = {"radius": 0.8}
    result = _replay(image, FLAT, ("elliptical_coverage", params))
    spectrum = np.abs(np.fft.fft2(result.double().numpy()))
    outside = tables.ellipse(Plane(None, (0, 1), (48, 64), (1.0, 1.0)), 0.8).real == 0
    assert spectrum[outside].max() < 2e-4 * spectrum[~outside].max()
    assert result.mean() == pytest.approx(float(image.mean()), rel=1e-5)


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("axis", [0, 1])
def test_zero_filled_partial_fourier_is_that_of_a_plain_complex_simulation(side: int, axis: int) -> None:
    image, coefficients = _signal(), [0.4, -1.0, 0.3, 0.2, 0.8]
    params = {"axis": axis, "side": side, "fraction": 0.65, "peak": 2.0, "coefficients": coefficients}
    result = _replay(image, FLAT, ("complex_partial_fourier", {**params, "recon": "zero_fill"}))
    plane = Plane(None, (0, 1), (48, 64), (1.0, 1.0))
    phase = tables.smooth_phase(plane, coefficients, 2.0)
    size = image.shape[axis]
    keep = side * np.round(np.fft.fftfreq(size) * size) > -0.3 * size / 2
    spectrum = np.fft.fft2(image.double().numpy() * phase) * (keep[:, None] if axis == 0 else keep)
    assert result.numpy() == pytest.approx(np.abs(np.fft.ifft2(spectrum)), abs=2e-5)


def test_homodyne_detection_gives_back_what_zero_filling_blurs() -> None:
    image = blob((48, 64)) * 2 + 0.3
    image[:, 20] += 0.5
    image[:2] = 0.0
    errors = {}
    for recon in ("zero_fill", "homodyne"):
        params = {"axis": 1, "side": 1, "fraction": 0.6, "peak": 0.5, "coefficients": [0.3, 0.5, 0.1, 0.0, 0.1]}
        result = _replay(image, FLAT, ("complex_partial_fourier", {**params, "recon": recon}))
        errors[recon] = float((result - image)[4:-4, 6:-6].abs().mean())
    assert errors["homodyne"] < 0.5 * errors["zero_fill"]


def test_homodyne_detection_without_a_phase_changes_nothing() -> None:
    image = _signal()
    params = {"axis": 0, "side": 1, "fraction": 0.7, "peak": 0.0, "coefficients": [0.0] * 5, "recon": "homodyne"}
    result = _replay(image, FLAT, ("complex_partial_fourier", params))
    signal = image > 0.4
    torch.testing.assert_close(result[signal], image[signal], atol=2e-4, rtol=0)


# --- combination ----------------------------------------------------------------------------------------------------


def test_all_effects_of_a_sample_share_one_transform_forth_and_back() -> None:
    line = pipeline("ghosting", "spikes", "elliptical_coverage", {"name": "motion", "rotation": 0, "through_plane": 0})
    plan = line.plan(keys(1))
    with DispatchCounter(images(1).numel()) as counter:
        line.apply(images(1), label_map(1), plan)
    assert {
        name: number for name, number in counter.operations.items() if "fft" in name and "_fft_c2c" not in name
    } == {
        "_fft_r2c": 1,
        "_fft_c2r": 2,
    }


def test_effects_that_leave_images_real_need_half_of_it() -> None:
    line = pipeline("elliptical_coverage")
    plan = line.plan(keys(1))
    with DispatchCounter(images(1).numel()) as counter:
        line.apply(images(1), label_map(1), plan)
    assert counter.operations["_fft_r2c"] == counter.operations["_fft_c2r"] == 1


def test_the_first_effect_decides_where_the_slices_are() -> None:
    facts = Context((8, 8, 8), (1.0, 1.0, 1.0))
    ghost = {"phase": 0, "intensity": 0.2, "number": 4.0, "angle": 0.3}
    image = torch.rand(8, 8, 8, generator=torch.Generator().manual_seed(1))
    together = _replay(image, facts, ("elliptical_coverage", {"slice_axis": 2, "radius": 0.9}), ("ghosting", ghost))
    same = _replay(
        image,
        facts,
        ("elliptical_coverage", {"slice_axis": 2, "radius": 0.9}),
        ("ghosting", {**ghost, "slice_axis": 2}),
    )
    assert torch.equal(together, same)


def test_twice_the_same_effect_is_one_after_the_other() -> None:
    ellipses = [("elliptical_coverage", {"radius": radius}) for radius in (0.9, 0.6)]
    image = _signal()
    torch.testing.assert_close(_replay(image, FLAT, *ellipses), _replay(image, FLAT, ellipses[1]))


def test_channels_that_are_not_meant_are_left_alone_bit_by_bit() -> None:
    image = images(3, channels=2)
    result, _ = pipeline({"name": "ghosting", "channels": [0]}, facts=context(channels=2))(image, label_map(3), keys(3))
    assert torch.equal(result[:, 1], image[:, 1])
    assert not torch.equal(result[:, 0], image[:, 0])


@pytest.mark.parametrize("shape", [(1, 24, 20), (1, 1, 16), (24, 1), (3, 2, 2)])
@pytest.mark.parametrize("name", NAMES)
def test_axes_of_a_single_voxel_are_no_problem(name: str, shape: tuple[int, ...]) -> None:
    facts = Context(shape, (3.0, 1.0, 1.0)[-len(shape) :], labels=(0, 1))
    image = torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(4))
    for axis in ("auto", "random", 0):
        result, _ = pipeline({"name": name, "slice_axis": axis}, facts=facts)(image, None, keys(2))
        assert result.isfinite().all()


def test_gradients_flow() -> None:
    image = images(2).requires_grad_()
    line = pipeline("ghosting", "spikes", {"name": "motion", "rotation": 4.0}, "complex_partial_fourier")
    result, _ = line(image, label_map(2), keys(2))
    result.square().sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()
    assert image.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("motion", {"order": []}),
        ("motion", {"positions": 1}),
        ("complex_partial_fourier", {"recon": ["pocs"]}),
        ("ghosting", {"number": 0.5}),
        ("spikes", {"radius": 0.7}),
        ("elliptical_coverage", {"radius": 0}),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        build(name, settings)


@pytest.mark.parametrize("name", NAMES)
def test_a_single_huge_voxel_that_no_statistic_sees_does_no_harm(name: str) -> None:
    facts = Context((40, 48, 48), (1.0, 1.0, 1.0))
    image = torch.zeros(1, 1, 40, 48, 48)
    image[0, 0, 21, 23, 25] = 1e30
    for draw in range(3):
        result, _ = pipeline(name, facts=facts)(image, None, [keys(draw + 1)[-1]])
        assert result.isfinite().all()
