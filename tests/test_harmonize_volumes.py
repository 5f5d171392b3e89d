"""Volumes harmonized slice by slice: geometry, agreement of neighbours, what passes and what stays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, shift
from slice_cohort import spine

from nnunet_spine_ext.core.errors import CaseError, SetupError, UsageError
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.harmonize import slices as reading
from nnunet_spine_ext.harmonize import volumes
from nnunet_spine_ext.harmonize.geometry_gate import EDGES_LOST, GateSettings, edge_correlation, judge
from nnunet_spine_ext.harmonize.harmonizer import Method
from nnunet_spine_ext.harmonize.slice_grid import SliceSettings, prepare_slice
from nnunet_spine_ext.harmonize.volumes import CONSTANT, WHOLE, HarmonizedVolume, harmonize_volume

GRID = SliceSettings(size=(96, 96), spacing=1.0)


@dataclass
class Fake:
    """A harmonizer that does `change` to each slice (Y, X), 0 to 255, and remembers what it saw."""

    change: Any
    slices: SliceSettings = GRID
    method: Method = "cyclegan"
    seen: list[Array] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int]:
        return self.slices.size

    @property
    def spacing(self) -> tuple[float, float]:
        return (self.slices.spacing or 1.0,) * 2

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        done = []
        for image in images[:, 0].numpy():
            self.seen.append(image)
            done.append(np.clip(self.change(image), 0, 255).astype(np.float32))
        return torch.from_numpy(np.stack(done))[:, None]


@dataclass
class Threshold:
    """A segmenter that calls disc what is brighter than `level`, and not brighter than `top`."""

    level: float = 170.0
    top: float = 300.0
    spacing: float | None = 1.0
    name: str = "threshold"
    digest: str = ""
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(images.shape))
        return torch.sigmoid(images - self.level) * torch.sigmoid(self.top - images)


def darker(image: Array) -> Array:
    return 255 * (image / 255) ** 1.4


def discs_only() -> Volume:
    """Return the slices of the spine that show discs: three of 4 mm, with four discs of 120 mm² each."""
    scan, _ = spine()
    return scan.crop((slice(1, 4), slice(None), slice(None)))


def oblique(volume: Volume, degrees: float) -> Volume:
    turn = np.deg2rad(degrees)
    rotation = np.eye(4)
    rotation[:3, :3] = [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    rotation[:3, 3] = (3.25, -40.5, 17.125)
    return Volume(volume.array, rotation @ volume.affine)


@pytest.mark.parametrize("orientation", ["LIP", "RAS", "PIR", "ASR", "RPI", "SLA"])
@pytest.mark.parametrize("degrees", [0.0, 17.0])
def test_grid_and_content_do_not_depend_on_how_a_scan_is_stored(orientation: str, degrees: float) -> None:
    scan = oblique(spine()[0], degrees)
    expected = harmonize_volume(scan, Fake(darker))
    stored = scan.to(orientation)
    result = harmonize_volume(stored, Fake(darker))
    assert result.volume.array.dtype == np.float32
    np.testing.assert_array_equal(result.volume.affine, stored.affine)
    assert result.volume.shape == stored.shape
    np.testing.assert_array_equal(result.volume.to_affine(scan.affine).array, expected.volume.array)
    assert not np.allclose(expected.volume.array, scan.array, atol=20)
    assert [row.index for row in result.rows] == list(range(5))


def test_slices_are_shown_upright_with_the_front_to_the_left() -> None:
    scan, _ = spine()
    marked = scan.array.copy()
    marked[2, :12, :12] = 1500
    fake = Fake(lambda image: image)
    harmonize_volume(Volume(marked, scan.affine).to("RAS"), fake)
    # The marked voxels lie at the top and in front, in the third slice from the right.
    assert fake.seen[2][:12, :12].mean() > 200
    assert fake.seen[2][-12:, -12:].mean() < 100
    assert fake.seen[1][:12, :12].mean() < 100


@pytest.mark.parametrize("pixel", [(0.5, 0.5), (1.0, 1.0), (1.7, 0.8)])
@pytest.mark.parametrize("fit", ["crop", "resize"])
def test_a_harmonizer_that_changes_nothing_changes_nothing(pixel: tuple[float, float], fit: Any) -> None:
    scan, _ = spine()
    scaled = Volume(scan.array, scan.affine @ np.diag([1.0, *pixel, 1.0]))
    settings = SliceSettings(size=(64, 64), spacing=1.0, fit=fit)
    result = harmonize_volume(scaled, Fake(lambda image: image, settings))
    np.testing.assert_allclose(result.volume.array, scaled.array, atol=2e-3)
    assert all(row.passed for row in result.rows)
    assert result.summary()["edge_correlation"] == pytest.approx(1.0)


def test_the_whole_slice_is_harmonized_not_only_the_size_of_the_training() -> None:
    scan, _ = spine()
    fake = Fake(darker, SliceSettings(size=(32, 32), spacing=1.0))
    result = harmonize_volume(scan, fake)
    assert fake.seen[0].shape == (96, 96)
    np.testing.assert_allclose(result.volume.array, harmonize_volume(scan, Fake(darker)).volume.array)


def test_detail_finer_than_the_pixels_of_the_harmonizer_stays() -> None:
    scan, _ = spine()
    rng = np.random.default_rng(1)
    detail = rng.normal(0, 40, scan.shape)
    fine = Volume((scan.array + detail).astype(np.float32), scan.affine @ np.diag([1, 0.25, 0.25, 1]))
    # 96 pixels of a quarter of a millimetre are too small a slice, so there are more of them.
    fine = Volume(np.tile(fine.array, (1, 2, 2)), fine.affine)
    lit = harmonize_volume(fine, Fake(lambda image: 0.5 * image + 60), consistent=False)
    high = fine.array - gaussian_filter(fine.array, (0, 4, 4))
    kept = lit.volume.array - gaussian_filter(lit.volume.array, (0, 4, 4))
    assert np.corrcoef(high.ravel(), kept.ravel())[0, 1] > 0.97
    # On the grid of the harmonizer the result is what the harmonizer gave.
    own, frame = prepare_slice(fine.array[2], (0.25, 0.25), GRID, whole=True)
    again = prepare_slice(lit.volume.array[2], (0.25, 0.25), GRID, whole=True)[0]
    assert np.corrcoef((0.5 * own + 60)[frame.window].ravel(), again[frame.window].ravel())[0, 1] > 0.99


def test_a_slice_that_fails_stays_bit_by_bit_and_is_told() -> None:
    scan, _ = spine()
    calls = iter(range(100))

    def moved(image: Array) -> Array:
        return shift(image, (4, 0), order=1) if next(calls) == 2 else darker(image)

    result = harmonize_volume(scan, Fake(moved), consistent=False)
    assert [row.passed for row in result.rows] == [True, True, False, True, True]
    assert "edge correlation" in result.rows[2].why
    np.testing.assert_array_equal(result.volume.array[2], scan.array[2])
    assert not np.allclose(result.volume.array[1], scan.array[1], atol=20)
    assert len(result.failed) == 1
    assert result.summary()["failed"] == 1


def failing(*wrong: int) -> Fake:
    """Return a harmonizer that moves the slices of these numbers, in the order in which it sees them."""
    calls = iter(range(100))
    return Fake(lambda image: shift(image, (4, 0), order=1) if next(calls) in wrong else darker(image))


@pytest.mark.parametrize(
    ("wrong", "share", "refused"),
    [
        ((2,), 0.5, None),
        ((1, 2), 0.5, None),
        ((0, 2, 3), 0.5, (2, 5)),
        ((0, 2, 3), 0.4, None),
        ((2,), 1.0, (4, 5)),
        ((0, 1, 2, 3), 0.0, None),
        ((0, 1, 2, 3, 4), 0.5, None),
    ],
)
def test_a_volume_of_which_too_few_slices_pass_stays_as_a_whole(
    wrong: tuple[int, ...], share: float, refused: tuple[int, int] | None
) -> None:
    scan, _ = spine()
    stored = scan.to("PIR")
    result = harmonize_volume(stored, failing(*wrong), GateSettings(min_passed=share))
    assert result.refused == refused
    assert result.summary()["refused"] == (refused is not None)
    assert [row.index for row in result.failed] == list(wrong)
    if refused is None:
        assert [row.index for row in result.rows if row.passed] == [k for k in range(5) if k not in wrong]
        return
    np.testing.assert_array_equal(result.volume.array, stored.array.astype(np.float32))
    np.testing.assert_array_equal(result.volume.affine, stored.affine)
    assert result.skipped
    assert [row.why for row in result.rows if row.index not in wrong] == [WHOLE] * refused[0]
    assert all(row.edge_correlation is not None for row in result.rows)
    assert (result.summary()["harmonized"], result.discs_mm3, result.jumps) == (0, None, None)


def test_slices_that_show_nothing_do_not_speak_against_a_volume() -> None:
    scan, _ = spine()
    array = scan.array.copy()
    array[[0, 4]] = 7
    # It sees the three others: two pass, which is two of three and not of five.
    result = harmonize_volume(Volume(array, scan.affine), failing(1), GateSettings(min_passed=0.6))
    assert result.refused is None
    assert [row.passed for row in result.rows] == [False, True, False, True, False]


@pytest.mark.parametrize("tone", [0.0, 255.0])
def test_slices_of_which_nothing_is_left_speak_against_a_volume(tone: float) -> None:
    scan, _ = spine()
    calls = iter(range(100))
    emptied = Fake(lambda image: np.full_like(image, tone) if next(calls) != 2 else darker(image))
    result = harmonize_volume(scan, emptied, GateSettings(min_passed=0.5))
    assert result.refused == (1, 5)
    assert [row.why for row in result.rows].count(EDGES_LOST) == 4
    assert np.array_equal(result.volume.array, scan.array)


def test_slices_without_content_are_no_failures() -> None:
    scan, _ = spine()
    array = scan.array.copy()
    array[0] = 7
    array[4, 5, 5] = np.nan
    array[1] = np.nan
    result = harmonize_volume(Volume(array, scan.affine), Fake(darker))
    assert [row.why for row in result.rows[:2]] == [CONSTANT, CONSTANT]
    assert not result.failed
    assert (result.volume.array[0] == 7).all()
    assert np.isnan(result.volume.array[1]).all()
    assert np.isfinite(result.volume.array[2:]).all()


def test_neighbouring_slices_are_lit_alike() -> None:
    scan, _ = spine(slices=12)
    thin = Volume(scan.array, scan.affine @ np.diag([0.25, 1, 1, 1]))

    def flickering() -> Any:
        calls = iter(range(100))
        return lambda image: image * (0.9 if next(calls) % 2 else 0.6) + 10

    rough = harmonize_volume(thin, Fake(flickering()), consistent=False)
    even = harmonize_volume(thin, Fake(flickering()))

    def jump(result: HarmonizedVolume) -> float:
        means = result.volume.array[1:-1, :, 40:60].mean(axis=(1, 2))
        return float(np.abs(np.diff(means)).mean() / means.mean())

    assert jump(rough) > 0.25
    assert jump(even) < 0.1 * jump(rough)
    assert even.jumps is not None
    assert even.jumps[0] > 0.3 > 0.05 > even.jumps[1]
    # The style is still the harmonizer's: contrast was lowered in all slices.
    assert 0.6 < even.volume.array.std() / thin.array.std() < 0.9


def test_smoothing_reaches_millimetres_not_slices_and_skips_what_failed() -> None:
    scan, _ = spine(slices=9)
    calls = iter(range(100))

    def one_fails(image: Array) -> Array:
        index = next(calls)
        return np.zeros_like(image) if index == 4 else image * (0.5 if index < 4 else 0.9)

    thick = Volume(scan.array, scan.affine @ np.diag([5, 1, 1, 1]))
    result = harmonize_volume(thick, Fake(one_fails))
    gains = [result.volume.array[k].std() / thick.array[k].std() for k in range(9)]
    np.testing.assert_allclose(gains[:4], 0.5, atol=0.02)
    np.testing.assert_allclose(gains[5:], 0.9, atol=0.02)
    np.testing.assert_array_equal(result.volume.array[4], thick.array[4])


def test_discs_that_vanish_fail_and_their_volumes_are_told() -> None:
    scan = discs_only()
    result = harmonize_volume(scan, Fake(lambda image: 0.9 * image), None, Threshold(150))
    assert not result.failed
    assert result.discs_mm3 is not None
    assert result.discs_mm3[0] == pytest.approx(3 * 4 * 480, rel=0.05)
    assert result.volume_change == pytest.approx(0, abs=0.05)
    dark = harmonize_volume(scan, Fake(lambda image: 0.5 * image), None, Threshold(150))
    assert len(dark.failed) == 3
    assert "discs changed by -100%" in dark.rows[1].why
    assert dark.volume_change is None


def test_discs_that_only_the_harmonized_slice_shows_are_not_judged_by_their_size() -> None:
    scan = discs_only()
    result = harmonize_volume(scan, Fake(lambda image: 0.8 * image), None, Threshold(190, top=215))
    assert not result.failed
    assert [row.agreement for row in result.rows] == [None] * 3


def test_a_segmenter_gets_pixels_of_its_own_size() -> None:
    scan = discs_only()
    segmenter = Threshold(150, spacing=0.5)
    result = harmonize_volume(scan, Fake(lambda image: 0.95 * image), None, segmenter)
    assert segmenter.shapes[0] == (3, 1, 192, 192)
    assert result.discs_mm3 is not None
    assert result.discs_mm3[0] == pytest.approx(3 * 4 * 480, rel=0.1)


def test_an_identity_without_noise_is_the_same_twice() -> None:
    scan, _ = spine()
    first, second = (harmonize_volume(scan, Fake(darker)) for _ in range(2))
    assert first.volume.array.tobytes() == second.volume.array.tobytes()
    assert first.to_dict() == second.to_dict()


def test_bad_input_is_refused() -> None:
    scan, _ = spine()
    ct = Volume(np.round(scan.array - 1000), scan.affine)
    coarse = Volume(scan.array, scan.affine @ np.diag([0.2, 3, 1, 1]))
    small = Volume(scan.array[:, :20, :20], scan.affine)
    for volume, code in ((ct, "E-HARMONIZE-CT"), (coarse, "E-HARMONIZE-PLANE"), (small, "E-HARMONIZE-SMALL")):
        with pytest.raises(CaseError) as caught:
            harmonize_volume(volume, Fake(darker), file="scan.nii.gz")
        assert caught.value.code == code
        assert caught.value.file == "scan.nii.gz"
    with pytest.raises(SetupError) as broken:
        harmonize_volume(scan, Fake(darker, SliceSettings()))
    assert broken.value.code == "E-HARMONIZE-SPACING"
    with pytest.raises(UsageError):
        GateSettings(edge_correlation=1.5)


def test_what_cannot_be_harmonized_cannot_be_trained_on() -> None:
    assert (volumes.COARSEST_MM, volumes.LEAST_PIXELS, volumes.LEAST_MM) == (
        reading._COARSEST_MM,
        reading._LEAST_PIXELS,
        reading._LEAST_MM,
    )


def test_padding_stays_zero_and_holes_inside_do_not() -> None:
    scan, _ = spine()
    padded = np.zeros((scan.shape[0], scan.shape[1] + 24, scan.shape[2] + 13), np.float32)
    padded[:, 20:-4, 13:] = scan.array
    padded[2, 60:63, 60:63] = 0
    brighter = Fake(lambda image: np.clip(image + 20, 0, 255))
    found = harmonize_volume(Volume(padded, scan.affine), brighter)
    assert len([row for row in found.rows if row.passed]) == 5
    changed = found.volume.array
    assert not changed[:, :20].any()
    assert not changed[:, -4:].any()
    assert not changed[:, :, :13].any()
    assert (changed[:, 20:-4, 13:] > 0).all()


def test_reasons_are_never_a_number_below_itself() -> None:
    scan, _ = spine()
    moved = harmonize_volume(
        scan, Fake(lambda image: np.roll(image, 1, 0)), GateSettings(edge_correlation=0.5, weakest=-1)
    )
    own = [row.edge_correlation for row in moved.rows if row.edge_correlation is not None]
    limit = round(min(own), 3) if round(min(own), 3) > min(own) else round(min(own) + 5e-4, 3)
    judged = harmonize_volume(
        scan, Fake(lambda image: np.roll(image, 1, 0)), GateSettings(edge_correlation=limit, weakest=-1)
    )
    assert judged.failed
    for row in judged.failed:
        assert float(row.why.split()[2]) < limit


def test_tissues_that_became_one_tone_fail() -> None:
    scan, _ = spine()
    merged = harmonize_volume(scan, Fake(lambda image: np.where(image > 20, 200, 0)))
    assert merged.skipped
    assert all("tones" in row.why for row in merged.failed)
    assert all(row.kept is not None and row.kept < 0.6 for row in merged.failed)
    inverted = harmonize_volume(scan, Fake(lambda image: 255 - image))
    assert not inverted.failed
    assert all(row.kept is not None and row.kept > 0.95 for row in inverted.rows)
    # The other limits alone take silhouettes for another contrast.
    lax = harmonize_volume(scan, Fake(lambda image: np.where(image > 20, 200, 0)), GateSettings(kept=-1, min_passed=0))
    assert not lax.skipped


def test_values_that_are_no_numbers_fail() -> None:
    scan, _ = spine()
    result = harmonize_volume(scan, Fake(lambda image: np.full_like(image, np.nan)), None, Threshold())
    assert len(result.failed) == 5
    assert result.skipped
    np.testing.assert_array_equal(result.volume.array, scan.array)


def changes(image: Array) -> dict[str, Array]:
    """Return changes of a slice that leave its anatomy alone, and ones that do not (capitals)."""
    rng = np.random.default_rng(0)
    rows, columns = image.shape
    bright = np.linspace(0.7, 1.3, columns)[None]
    disc = np.zeros_like(image)
    disc[rows // 2 - 5 : rows // 2 + 5, columns // 2 - 15 : columns // 2 + 15] = 1
    own = float(image[disc > 0].mean())
    disc = gaussian_filter(disc, 1.5)
    return {
        "gamma 0.7": 255 * (image / 255) ** 0.7,
        "gamma 1.4": 255 * (image / 255) ** 1.4,
        "bias": np.clip(image * bright, 0, 255),
        "noise": np.abs(image + rng.normal(0, 5, image.shape)),
        "blur": gaussian_filter(image, 0.7),
        "SILHOUETTE": np.where(image > 20, 200, 0).astype(np.float32),
        "tissues exchanged": np.interp(image, [0, 60, 120, 180, 255], [0, 120, 60, 200, 255]),
        "MOVED": np.roll(image, 2, 0),
        "ANOTHER": np.roll(image, 25, 1),
        "INVENTED": image * (1 - disc) + disc * (own + 100 if own < 100 else own - 80),
    }


def test_the_gate_tells_contrast_from_anatomy_on_real_slices(test_data: Any) -> None:
    from nnunet_spine_ext.core.io import read_volume

    for name in ("sct-errsm/errsm_11/t2/t2.nii.gz", "sct-testing/t1/t1w.nii.gz"):
        scan = read_volume(test_data / name).turned("LIP")
        prepared, frame = prepare_slice(scan.array[len(scan.array) // 2], scan.spacing[1:], GRID, whole=True)
        image = prepared[frame.window]
        limits = GateSettings()
        for change, after in changes(image).items():
            whole, weakest = edge_correlation(image, after, frame.spacing)
            assert whole is not None
            assert weakest is not None
            passed = judge(0, image, after, frame.spacing, limits).passed
            assert passed == change.islower(), (name, change, whole, weakest)
