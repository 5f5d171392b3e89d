"""Stage `axis`: resolution, slices, windows and simulated low resolution against what physics asks for."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from augment_checks import check_transform, context, images, keys, label_map, pipeline
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as nnf

from nnunet_spine_ext.augment import axis_matrices as am
from nnunet_spine_ext.augment.acquiring import Acquired
from nnunet_spine_ext.augment.axis_matrices import AxisWork, Recon, Slices, Window, Zoom, axis_matrix
from nnunet_spine_ext.augment.axis_products import Band, multiply_axes, pack_band
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.packing import Packer
from nnunet_spine_ext.augment.transform import build, registry
from nnunet_spine_ext.core.errors import UsageError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import acquisition_physics as physics

NAMES = sorted(name for name, transform in registry().items() if transform.stage == "axis")
ACTING: dict[str, dict[str, Any]] = {
    "slice_profile": {"slice_axis": "random", "thickness": [4, 6]},
    "resolution": {"in_plane": [1.2, 2.5], "through_plane": [3.5, 5]},
}


@pytest.mark.parametrize("name", NAMES)
def test_every_transform_passes_the_common_checks(name: str) -> None:
    check_transform({"name": name, **ACTING.get(name, {})})


# --- physics --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", physics.checks(), ids=lambda check: check.name)
def test_acquisition_physics(check: physics.Check) -> None:
    assert check.low <= check.value <= check.high


def test_truncation_leaves_no_frequency_above_the_cutoff() -> None:
    size, acquired = 96, 2.4
    matrix = axis_matrix(AxisWork(acquired=acquired), size, 1.0)
    assert matrix is not None
    waves = am._cosines(size)
    response = np.linalg.norm(matrix @ waves.T, axis=0) / np.linalg.norm(waves, axis=1)
    number = np.arange(size)
    assert response[number > size / acquired + 0.5].max() < 1e-12
    assert response[number < size / acquired - 0.5] == pytest.approx(1)


def test_partial_fourier_is_the_real_part_of_the_complex_reconstruction() -> None:
    """On the mirrored axis: one side of k-space zeroed beyond the symmetric part, then the real part."""
    size, fraction = 64, 0.7
    signal = np.random.default_rng(3).random(size)
    matrix = axis_matrix(AxisWork(partial=fraction), size, 1.0)
    assert matrix is not None
    spectrum = np.fft.fft(np.concatenate([signal, signal[::-1]]))
    number = np.round(np.fft.fftfreq(2 * size) * 2 * size)
    keep = np.clip((2 * fraction - 1) * size + 0.5 + number, 0, 1)
    keep[size] = 0
    expected = np.fft.ifft(spectrum * keep).real[:size]
    assert matrix @ signal == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["hann", "tukey", "fermi"])
def test_windows_are_one_in_the_middle_and_fall_towards_the_edge_of_what_was_acquired(kind: Any) -> None:
    response = am.kspace_response(200, 1.0, AxisWork(acquired=2.0, windows=(Window(kind, 1.0, 0.5),)))
    assert response is not None
    assert response[0] == pytest.approx(1)
    assert np.diff(response).max() < 1e-12
    assert response[99] < 0.08
    assert response[50] == pytest.approx({"hann": 0.5, "tukey": 1.0, "fermi": 0.99}[kind], abs=0.01)


def test_window_of_no_amount_is_no_window() -> None:
    response = am.kspace_response(50, 1.0, AxisWork(windows=(Window("hann", 0.0),)))
    assert response == pytest.approx(np.ones(50))


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_slices_keep_a_ramp(interpolation: Any) -> None:
    matrix = axis_matrix(AxisWork(slices=(Slices(3.0, 0.7, 0.31, "slr", interpolation=interpolation),)), 60, 1.0)
    assert matrix is not None
    assert (matrix @ np.arange(60.0))[10:-10] == pytest.approx(np.arange(10.0, 50.0), abs=0.12)
    assert (matrix @ np.arange(60.0)).mean() == pytest.approx(29.5, abs=0.05)


def test_slices_no_further_apart_than_the_voxels_change_nothing() -> None:
    assert axis_matrix(AxisWork(slices=(Slices(2.0, 0.5),)), 20, 3.0) is None
    assert axis_matrix(AxisWork(acquired=0.4, recon=Recon(0.4)), 20, 0.5) is None
    assert axis_matrix(AxisWork(sigma=2.0), 1, 0.5) is None


def test_gaps_make_slices_rarer_not_thicker() -> None:
    places = am.grid(60, 5.0, 0.5)
    thin = am.profile_weights(60, 1.0, places, Slices(3.0, 2.0, edge=0.0))
    assert np.count_nonzero(thin[5]) <= 4
    assert thin.sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize("size", [9, 12, 20, 31])
@pytest.mark.parametrize("scale", [0.31, 0.5, 0.77])
def test_unfiltered_low_resolution_is_what_interpolation_to_and_from_a_coarse_grid_gives(
    size: int, scale: float
) -> None:
    signal = torch.rand(1, 1, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    coarse = nnf.interpolate(signal, size=round(size * scale), mode="nearest-exact")
    expected = nnf.interpolate(coarse, size=size, mode="linear", align_corners=False)
    matrix = am.zoom_matrix(size, Zoom(round(size * scale), filtered=False))
    assert matrix @ signal[0, 0].numpy() == pytest.approx(expected[0, 0].numpy(), abs=1e-9)


def test_low_resolution_of_chosen_axes_leaves_the_others() -> None:
    line = pipeline({"name": "low_resolution", "axes": [1, 2], "scale": 0.3})
    assert line.plan(keys(1)).samples[0][0].params["sizes"][0] == line.context.shape[0]
    along = torch.rand(line.context.shape[0], generator=torch.Generator().manual_seed(1)).view(1, 1, -1, 1, 1)
    image = along.expand(1, 1, *line.context.shape).contiguous()
    torch.testing.assert_close(line(image, None, keys(1))[0], image)
    image = torch.rand(1, 1, *line.context.shape, generator=torch.Generator().manual_seed(2))
    assert (line(image, None, keys(1))[0] - image).abs().max() > 0.1
    for axes, words in (([0, 3], "0 to 2"), ([], "empty")):
        with pytest.raises(UsageError, match=words):
            pipeline({"name": "low_resolution", "axes": axes})


def test_reconstruction_on_a_fine_grid_approaches_that_without_interpolation() -> None:
    sharp = axis_matrix(AxisWork(acquired=4.0), 80, 1.0)
    gridded = axis_matrix(AxisWork(acquired=4.0, recon=Recon(1.1, 0.3, "cubic")), 80, 1.0)
    assert sharp is not None
    assert gridded is not None
    assert np.abs(sharp - gridded).max() < 0.01


works = st.builds(
    AxisWork,
    sigma=st.floats(0, 4),
    slices=st.lists(
        st.builds(
            Slices,
            st.floats(0.1, 12),
            st.floats(0, 3),
            st.floats(0, 0.999),
            st.sampled_from(["box", "slr", "gaussian"]),
            st.floats(0, 1),
            st.sampled_from(["nearest", "linear", "cubic"]),
        ),
        max_size=2,
    ).map(tuple),
    acquired=st.floats(0, 9),
    partial=st.floats(0.5, 1),
    windows=st.lists(
        st.builds(Window, st.sampled_from(["hann", "tukey", "fermi"]), st.floats(0, 1), st.floats(0, 1)), max_size=2
    ).map(tuple),
    recon=st.none() | st.builds(Recon, st.floats(0.2, 9), st.floats(0, 0.999), st.sampled_from(["linear", "cubic"])),
    zooms=st.lists(st.builds(Zoom, st.integers(1, 30), st.booleans()), max_size=1).map(tuple),
)


@given(work=works, size=st.integers(1, 30), spacing=st.floats(0.3, 5))
def test_any_work_keeps_constants_and_is_finite(work: AxisWork, size: int, spacing: float) -> None:
    matrix = axis_matrix(work, size, spacing)
    if matrix is not None:
        assert np.isfinite(matrix).all()
        assert matrix.sum(axis=1) == pytest.approx(1, abs=1e-9)
        assert np.abs(matrix).sum(axis=1).max() < 12


# --- combination ----------------------------------------------------------------------------------------------------


def test_the_order_of_the_configuration_does_not_matter() -> None:
    listed = [
        {"name": n, **ACTING.get(n, {})} for n in ("blur", "resolution", "slice_profile", "recon_window", "gibbs")
    ]
    image, labels = images(2), label_map(2)
    forth, _ = pipeline(*listed)(image, labels, keys(2))
    back, _ = pipeline(*reversed(listed))(image, labels, keys(2))
    torch.testing.assert_close(forth, back)


def test_work_along_an_axis_is_combined_as_the_physics_does() -> None:
    both = AxisWork(sigma=3.0, acquired=1.0, partial=0.8, recon=Recon(1.0)).and_then(
        AxisWork(sigma=4.0, acquired=2.0, partial=0.9, recon=Recon(2.0), windows=(Window("hann"),))
    )
    assert both == AxisWork(5.0, (), 2.0, 0.8, (Window("hann"),), Recon(2.0))
    assert AxisWork().and_then(both) == both == both.and_then(AxisWork())


def test_axes_without_work_cost_nothing_and_equal_matrices_are_sent_once() -> None:
    facts = context(channels=2)
    plan = pipeline({"name": "blur", "through_plane": 0.0, "in_plane": 1.0}, facts=facts).plan(keys(1))
    lines = plan.programs["axis"].lines
    assert [line.plane for line in lines] == [(0, 0), (0, 1)]
    assert [matrix is None for matrix in lines[0].matrices] == [True, False, False]
    assert lines[0].matrices == lines[1].matrices
    assert plan.packed.floats.size == 20 * 20 + 16 * 16


def test_samples_and_channels_that_are_not_meant_are_left_alone_bit_by_bit() -> None:
    image = images(4, channels=2)
    line = pipeline({"name": "blur", "p": 0.5, "channels": [1]}, facts=context(channels=2))
    plan = line.plan(keys(4))
    result, _ = line.apply(image, label_map(4), plan)
    fired = [bool(applied) for applied in plan.samples]
    assert 0 < sum(fired) < 4
    assert torch.equal(result[:, 0], image[:, 0])
    for sample, acted in enumerate(fired):
        assert torch.equal(result[sample, 1], image[sample, 1]) is not acted


@pytest.mark.parametrize("shape", [(5, 6, 7), (6, 7), (1, 6, 7)])
@pytest.mark.parametrize("active", [(0,), (1,), (0, 1), (1, 0)])
@pytest.mark.parametrize("given_out", [False, True])
def test_matrices_multiply_into_their_axes(shape: tuple[int, ...], active: tuple[int, ...], given_out: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    image = torch.randn(shape, generator=generator)
    axes = {axis - len(shape) + 2 if len(shape) == 2 else axis + 1 for axis in active}
    matrices = [torch.randn(n, n, generator=generator) if a in axes else None for a, n in enumerate(shape)]
    bands = [None if m is None else Band(m, len(m)) for m in matrices]
    expected = image
    for axis, matrix in enumerate(matrices):
        if matrix is not None:
            expected = torch.tensordot(matrix, expected, dims=([1], [axis])).movedim(0, axis)
    out = torch.empty(shape) if given_out else None
    result = multiply_axes(image, bands, out)
    torch.testing.assert_close(result, expected)
    if out is not None and any(m is not None for m in matrices):
        assert result.data_ptr() == out.data_ptr()


@pytest.mark.parametrize("shape", [(70, 40, 52), (40, 70)])
@pytest.mark.parametrize("given_out", [False, True])
def test_bands_give_what_whole_matrices_give(shape: tuple[int, ...], given_out: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    image = torch.randn(shape, generator=generator)
    matrices = [axis_matrix(AxisWork(sigma=0.6), n, 1.0) for n in shape]
    packer = Packer()
    bands = [None if m is None else pack_band(packer, m) for m in matrices]
    buffers = packer.finish().to(torch.device("cpu"))
    read = [None if b is None else b.read(buffers) for b in bands]
    assert any(band is not None and band.narrow for band in read)
    assert all(band is not None and band.reach < 9 for band in read)
    whole = [None if b is None else Band(b.values, len(b.values)) for b in read]
    out = torch.empty(shape) if given_out else None
    torch.testing.assert_close(multiply_axes(image, read, out), multiply_axes(image, whole), atol=2e-6, rtol=1e-5)


def test_nothing_lies_below_air_after_ringing() -> None:
    image = torch.zeros(1, 1, 32, 48)
    image[..., 12:20, 20:30] = 1.0
    line = pipeline({"name": "zero_fill", "factor": 2.5}, facts=Context((32, 48), (1.0, 1.0)))
    result, _ = line(image, None, keys(1))
    assert result.min() >= 0
    assert result[..., :8, :].max() > 0.005


def test_gradients_flow() -> None:
    image = images(2).requires_grad_()
    line = pipeline("gibbs", {"name": "signal_void", "radius": 30.0}, {"name": "chemical_shift", "background": 0.5})
    result, _ = line(image, label_map(2), keys(2))
    result.square().sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()
    assert image.grad.abs().sum() > 0


# --- settings -------------------------------------------------------------------------------------------------------


def test_lengths_in_voxels_are_multiples_of_each_axis() -> None:
    facts = context()
    blur = build("blur", {"unit": "voxel", "in_plane": 2.0, "through_plane": 1.5})
    assert blur.sample(np.random.default_rng(0), facts) == {"sigma": [4.5, 2.0, 2.0]}
    drawn = build("resolution", {"unit": "voxel", "in_plane": 2.0, "phase_ratio": 1.0}).sample(
        np.random.default_rng(0), Context((8, 8, 8), (3.0, 1.0, 0.5))
    )
    assert drawn["acquired"][1:] == pytest.approx([2.0, 1.0])


def test_a_lower_strength_moves_lengths_towards_the_voxels() -> None:
    facts = context().at_strength(0.5)
    drawn = build("resolution", {"in_plane": 2.0, "phase_ratio": 1.0, "through_plane": 5.0}).sample(
        np.random.default_rng(0), facts
    )
    assert drawn["acquired"] == pytest.approx([4.0, 1.5, 1.5])


@pytest.mark.parametrize(
    ("spacing", "shape", "expected"),
    [
        ((3.0, 1.0, 1.0), (8, 8, 8), {0}),
        ((1.0, 1.0, 4.0), (8, 8, 8), {2}),
        ((1.0, 1.0, 1.2), (8, 8, 8), {0, 1, 2}),
        ((1.0, 1.0, 1.0), (8, 1, 8), {1}),
        ((1.0, 1.0), (8, 8), {None}),
    ],
)
def test_slices_follow_the_coarsest_axis(spacing: Any, shape: Any, expected: set[int | None]) -> None:
    transform = build("blur")
    assert isinstance(transform, Acquired)
    facts = Context(shape, spacing)
    found = {transform.through_plane_axis(np.random.default_rng(i), facts) for i in range(30)}
    assert found == expected


@pytest.mark.parametrize("shape", [(1, 24, 20), (1, 1, 16), (24, 1)])
@pytest.mark.parametrize("name", NAMES)
def test_axes_of_a_single_voxel_are_no_problem(name: str, shape: tuple[int, ...]) -> None:
    facts = Context(shape, (3.0, 1.0, 1.0)[-len(shape) :], labels=(0, 1))
    image = torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(4))
    result, _ = pipeline({"name": name, "slice_axis": "random"}, facts=facts)(image, None, keys(2))
    assert result.isfinite().all()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("resolution", {"interpolation": []}),
        ("slice_profile", {"profile": ["round"]}),
        ("slice_profile", {"thickness": 0}),
        ("recon_window", {"kind": []}),
        ("chemical_shift", {"fat": {"vertebra": 0.5}}),
        ("chemical_shift", {"fat": {3: 1.5}}),
        ("partial_fourier", {"fraction": 0.3}),
        ("blur", {"sigma": 1.0}),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        build(name, settings)


def test_a_slice_axis_that_the_patch_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match="slice_axis 2"):
        build("gibbs", {"slice_axis": 2}).sample(np.random.default_rng(0), context((24, 28)))


# --- effects on the object ------------------------------------------------------------------------------------------


def test_a_void_takes_the_signal_of_an_ellipsoid_and_nothing_far_away() -> None:
    facts = Context((40, 48, 44), (2.0, 1.0, 1.0))
    image = torch.full((1, 1, *facts.shape), 3.0)
    image[..., :4] = 0.0
    transform = build("signal_void", {"radius": 9.0, "elongation": 1.0, "rim": 1.0, "p": 1.0})
    params = {**transform.sample(np.random.default_rng(1), facts), "centre": [0.0, 0.0, 4.0], "channels": [0]}
    line = pipeline("signal_void", facts=facts)
    plan = line.plan(keys(1)).record
    plan["samples"][0]["transforms"][0]["params"] = params
    result = line.apply(image, None, type(line.plan(keys(1))).from_record(plan))[0][0, 0]
    place = torch.stack(torch.meshgrid(*[torch.arange(n) for n in facts.shape], indexing="ij"), dim=-1)
    centre = torch.tensor([19.5, 23.5, 25.5])
    distance = ((place - centre) * torch.tensor(facts.spacing)).norm(dim=-1)
    assert result[distance < 6.5].abs().max() < 1e-5
    torch.testing.assert_close(result[distance > 13.2], image[0, 0][distance > 13.2], atol=1e-4, rtol=0)
    assert torch.equal(result[:8], image[0, 0][:8])
    assert result.max() > 4
    assert (result >= 0).all()
    volume = float((result < 1.5)[..., 6:].sum()) * 2
    assert volume == pytest.approx(4 / 3 * math.pi * 7.9**3, rel=0.2)


def test_fat_moves_and_what_is_no_fat_stays() -> None:
    facts = Context((40, 60), (1.0, 1.0), labels=(0, 1, 2))
    image, labels = torch.zeros(1, 1, 40, 60), torch.zeros(1, 1, 40, 60, dtype=torch.int16)
    image[..., 10:20, 30:40] = image[..., 25:35, 30:40] = 1.0
    image[..., 5, 5] = 1.0
    labels[..., 7:23, 27:43], labels[..., 22:38, 27:43] = 1, 2
    settings = {"name": "chemical_shift", "fat": {1: 1.0, 2: 0.0}, "voxels": 3.0, "slice_axis": 0}
    result, after = pipeline(settings, facts=facts)(image, labels, keys(1))
    assert torch.equal(after, labels)
    moved = result[0, 0] - image[0, 0]
    # Fractions are smoothed over the border of the labels.
    assert moved[25:35].abs().max() < 0.005
    assert moved[10:20].abs().max() == pytest.approx(1, abs=0.02)
    assert result.sum() == pytest.approx(float(image.sum()), rel=1e-3)
    direction = 3 if result[0, 0, 15, 42] > 0.5 else -3
    torch.testing.assert_close(result[0, 0, 12:18], image[0, 0, 12:18].roll(direction, dims=-1), atol=0.02, rtol=0)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64, torch.float32])
def test_ids_that_nobody_announced_are_background_and_labels_stay(dtype: torch.dtype) -> None:
    facts = Context((20, 30), (1.0, 1.0), labels=(0, 1))
    image = torch.zeros(1, 1, 20, 30)
    image[..., 5:15, 5:25] = 1.0
    ignored = torch.full((1, 1, 20, 30), 2, dtype=dtype)
    ignored[..., :10] = -1
    before = ignored.clone()
    line = pipeline("chemical_shift", facts=facts)
    result, _ = line(image, ignored, keys(1))
    torch.testing.assert_close(result, line(image, torch.zeros_like(ignored), keys(1))[0])
    assert torch.equal(ignored, before)
