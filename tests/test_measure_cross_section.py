"""Cross-sectional area: the Spinal Cord Toolbox' numbers, analytic truth, any geometry, odd values."""

from __future__ import annotations

import csv
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from section_builder import ORACLE_CORDS, block, disc, exact_cord, straight_cord, turned_cord

from nnunet_spine_ext.core.errors import CaseError, UsageError
from nnunet_spine_ext.core.io import read_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.measure import CrossSection, cross_sectional_area
from nnunet_spine_ext.measure.centreline import fit_centreline
from nnunet_spine_ext.measure.cord_line import fit_line

# Asserted in the toolbox' own tests (testing/cli/test_cli_sct_process_segmentation.py, commit 3b3c5b22), slice 10.
ASSERTED = {
    "area": 78.58643257836141,
    "diameter_ap": 7.842507960401277,
    "diameter_rl": 12.537767663676533,
    "orientation": -5.435920797812814,
    "eccentricity": 0.7678714078545043,
    "solidity": 0.9691052891744933,
}
# Its synthetic cases (testing/api/test_process_seg.py): area as computed by the toolbox, angles that it expects.
SYNTHETIC = {
    "block": ({"shape": (32, 32, 5), "section": block(5, 3)}, False, 77.0, None),
    "anisotropic": ({"shape": (64, 32, 5), "section": block(5, 3), "spacing": (0.5, 1, 5)}, False, 77.0, None),
    "turned": (
        {"shape": (32, 32, 5), "section": block(5, 3), "spacing": (1, 1, 5), "about_is": 15},
        False,
        77.0108,
        None,
    ),
    "ellipse": ({"shape": (64, 64, 5), "section": disc(13, 5)}, False, 237.0, None),
    "int16": ({"shape": (64, 320, 5), "section": block(13, 5), "dtype": np.int16}, False, 297.0, None),
    "about RL": ({"shape": (64, 64, 20), "section": disc(13, 5), "about_rl": -30}, True, 237.6903, (0, -30)),
    "about AP": ({"shape": (64, 64, 20), "section": disc(13, 5), "about_ap": 20}, True, 236.8500, (20, 0)),
    "about both": (
        {"shape": (64, 64, 50), "section": disc(13, 5), "about_rl": -10, "about_ap": 15},
        True,
        236.6341,
        (15, -10.345),
    ),
    "steep": (
        {"shape": (64, 64, 50), "section": disc(13, 5), "about_rl": -10, "about_ap": 30},
        True,
        235.4904,
        (30, -11.508),
    ),
    "large": ({"shape": (128, 128, 5), "section": disc(50, 30)}, False, 4841.0, None),
}
# The toolbox' own code on cords of `section_builder` (tests/oracles/make_cord_area.py).
FIXTURE = Path(__file__).parent / "fixtures" / "sct_cord_area.json"
RADII = (6.5, 4.5)
TRUTH = np.pi * RADII[0] * RADII[1]


def same(first: CrossSection, second: CrossSection, *, rel: float = 1e-9) -> None:
    """Fail unless all measures of two tables are equal."""
    for name, values in first.columns().items():
        if name not in ("slice", "index"):
            np.testing.assert_allclose(getattr(second, name), values, rtol=rel, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("smoothing", [20.0, 30.0])
def test_sct_mode_gives_the_asserted_values(test_data: Path, smoothing: float) -> None:
    mask = read_volume(test_data / "sct-testing" / "t2" / "t2_seg-manual.nii.gz")
    found = cross_sectional_area(mask, smoothing=smoothing)
    row = found.slice.tolist().index(10)
    for name, value in ASSERTED.items():
        assert getattr(found, name)[row] == pytest.approx(value, rel=1e-6), name
    if smoothing == 30.0:
        same(found, cross_sectional_area(mask))


@pytest.mark.parametrize("case", SYNTHETIC)
def test_sct_mode_gives_the_synthetic_values(case: str) -> None:
    options, corrected, area, angles = SYNTHETIC[case]
    found = cross_sectional_area(turned_cord(**options), angle_correction=corrected)
    assert found.area.mean() == pytest.approx(area, abs=1e-4)
    if angles is not None:
        assert (found.angle_ap.mean(), found.angle_rl.mean()) == pytest.approx(angles, abs=0.5)


@pytest.mark.parametrize("name", ORACLE_CORDS)
def test_sct_mode_gives_what_the_toolbox_computes(name: str) -> None:
    oracle = json.loads(FIXTURE.read_text())
    found = cross_sectional_area(ORACLE_CORDS[name](), smoothing=oracle["smoothing"])
    for column, values in oracle["cords"][name].items():
        expected = [np.nan if value is None else value for value in values]
        # Voxel sizes of a file are stored in single precision; area and form hardly notice.
        assert getattr(found, column) == pytest.approx(expected, rel=1e-6, abs=1e-6, nan_ok=True), column


def test_an_empty_slice_of_the_synthetic_block_is_nan() -> None:
    cord = turned_cord((32, 32, 5), block(5, 3))
    cord.array[:, :, 2] = 0
    found = cross_sectional_area(cord, angle_correction=False)
    assert found.area == pytest.approx([77, 77, np.nan, 77, 77], nan_ok=True)
    assert np.isnan(found.diameter_ap[2])
    assert np.isnan(found.length[2])
    assert found.objects.tolist() == [1, 1, 0, 1, 1]


@pytest.mark.parametrize("size", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("tilt", [(0, 0), (20, 0), (0, 20), (14, 14)])
def test_pv_mode_is_the_analytic_area(size: float, tilt: tuple[float, float]) -> None:
    soft = exact_cord(RADII, (size,) * 3, tilt, length=24, samples=6)
    found = cross_sectional_area(soft, mode="pv")
    # The first and last slice are filled in part.
    assert np.abs(found.area[1:-1] / TRUTH - 1).max() <= 0.003
    assert found.diameter_rl[3:-3] == pytest.approx(2 * RADII[0], rel=0.02)
    assert found.diameter_ap[3:-3] == pytest.approx(2 * RADII[1], rel=0.02)


def test_pv_mode_with_thick_slices() -> None:
    found = cross_sectional_area(exact_cord(RADII, (0.5, 0.8, 4.0), (10, 5), samples=12), mode="pv")
    assert np.abs(found.area[1:-1] / TRUTH - 1).max() <= 0.003


def test_half_the_strength_is_half_the_area_in_pv_and_the_same_in_sct() -> None:
    soft = exact_cord(RADII, (1, 1, 1), samples=4)
    half = soft.with_array(soft.array * 0.5)
    ratio = {
        mode: cross_sectional_area(half, mode=mode).area / cross_sectional_area(soft, mode=mode).area
        for mode in ("sct", "pv")
    }
    assert ratio["pv"] == pytest.approx(0.5)
    assert ratio["sct"] == pytest.approx(1.0)


@pytest.mark.parametrize("mode", ["sct", "pv"])
def test_every_orientation_gives_the_same(mode: str) -> None:
    cord = exact_cord(RADII, (0.9, 1.1, 2.3), (12, -7), length=12, samples=3)
    expected = cross_sectional_area(cord, mode=mode)
    pairs = (("L", "R"), ("P", "A"), ("I", "S"))
    for order in itertools.permutations(range(3)):
        for letters in itertools.product(*pairs):
            turned = cord.to("".join(letters[k] for k in order))
            found = cross_sectional_area(turned, mode=mode)
            same(expected, found)
            assert found.slice.tolist() == expected.slice.tolist()
            axis = order.index(2)
            lowest = np.take(turned.array, found.index[0], axis=axis)
            assert np.array_equal(np.sort(lowest, axis=None), np.sort(cord.array[:, :, found.slice[0]], axis=None))


@pytest.mark.parametrize("mode", ["sct", "pv"])
def test_negative_voxel_sizes_and_oblique_axes_change_nothing(mode: str) -> None:
    cord = exact_cord(RADII, (1, 1, 2), (8, 4), length=20, samples=3)
    expected = cross_sectional_area(cord, mode=mode)
    mirrored = Volume(np.flip(cord.array, (0, 1)).copy(), np.diag([-1.0, -1.0, 2.0, 1.0]))
    same(expected, cross_sectional_area(mirrored, mode=mode))
    angle = np.radians(25)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    same(expected, cross_sectional_area(Volume(cord.array, turn @ cord.affine), mode=mode), rel=1e-6)


def test_pv_mode_knows_sheared_axes() -> None:
    cord = straight_cord()
    sheared = np.eye(4)
    sheared[0, 2] = 0.3
    flat = cross_sectional_area(cord, mode="pv").area
    leaning = cross_sectional_area(Volume(cord.array, sheared), mode="pv").area
    assert leaning == pytest.approx(flat / np.sqrt(1 + 0.3**2))


@pytest.mark.parametrize("mode", ["sct", "pv"])
def test_one_slice_is_taken_for_perpendicular(mode: str) -> None:
    cord = straight_cord((24, 24, 1))
    found = cross_sectional_area(cord, mode=mode)
    assert found.area == pytest.approx([cord.array.sum()], rel=1e-6)
    assert found.angle_ap.tolist() == [0.0]
    assert "one slice alone" in " ".join(found.notes)


@pytest.mark.parametrize("slices", [2, 3, 4])
def test_few_slices(slices: int) -> None:
    cord = straight_cord((24, 24, slices))
    assert cross_sectional_area(cord).area == pytest.approx([cord.array[:, :, 0].sum()] * slices, rel=1e-6)


def test_a_gap_is_nan_and_does_not_move_the_rest() -> None:
    cord = exact_cord(RADII, (1, 1, 1), (10, 0), samples=3)
    whole = cross_sectional_area(cord, mode="pv")
    cord.array[:, :, 15:18] = 0
    found = cross_sectional_area(cord, mode="pv")
    gap = (found.slice >= 15) & (found.slice < 18)
    assert np.isnan(found.area[gap]).all()
    assert found.area[~gap] == pytest.approx(whole.area[~gap], rel=1e-3)


@pytest.mark.parametrize("mode", ["sct", "pv"])
def test_all_objects_of_a_slice_count_and_are_told(mode: str) -> None:
    cord = straight_cord((40, 40, 6), radius=4)
    alone = cross_sectional_area(cord, mode=mode, angle_correction=False).area[2]
    cord.array[2:5, 2:5, 2] = 1
    cord.array[35, 35, 2] = 1
    found = cross_sectional_area(cord, mode=mode, angle_correction=False)
    assert found.objects.tolist() == [1, 1, 3, 1, 1, 1]
    assert found.area[2] == pytest.approx(alone + 10)
    assert "1 slices hold more than one object" in " ".join(found.notes)


def test_values_above_one_count_as_one_in_pv_and_scale_the_slice_in_sct() -> None:
    cord = straight_cord((24, 24, 6))
    soft = cord.with_array(cord.array * np.float32(0.999))
    high = soft.with_array(soft.array.copy())
    high.array[12, 12, 3] = 1.25
    pv = [cross_sectional_area(v, mode="pv").area for v in (soft, high)]
    assert pv[1][3] == pytest.approx(pv[0][3] + 0.001, rel=1e-6)
    sct = cross_sectional_area(high, angle_correction=False).area
    assert sct[3] == pytest.approx((sct[2] - 1) * 0.999 / 1.25 + 1, rel=1e-3)


def test_negative_values_and_nan_count_as_nothing_and_are_told() -> None:
    cord = straight_cord((24, 24, 6))
    soft = cord.with_array(cord.array * np.float32(0.5))
    odd = soft.with_array(soft.array.copy())
    odd.array[0, 0, 2], odd.array[1, 1, 3], odd.array[2, 2, 3] = -0.2, np.nan, np.inf
    for mode in ("sct", "pv"):
        found = cross_sectional_area(odd, mode=mode)
        same(cross_sectional_area(soft, mode=mode), found)
        assert "1 negative voxels (down to -0.2) count as 0" in found.notes
        assert "2 voxels that are no number count as 0" in found.notes


@pytest.mark.parametrize("mode", ["sct", "pv"])
@pytest.mark.parametrize("hard", [True, False])
def test_unknown_slices_are_not_measured(mode: str, hard: bool) -> None:
    cord = straight_cord((24, 24, 8))
    soft = cord.with_array(cord.array.astype(np.float32) * (1.0 if hard else 0.75))
    soft.array[:, :, 5] = -1
    found = cross_sectional_area(soft, mode=mode)
    expected = [np.nan if k == 5 else cross_sectional_area(soft, mode=mode).area[0] for k in found.slice]
    assert found.area == pytest.approx(expected, nan_ok=True)
    assert "1 slices are unknown (-1) somewhere and are not measured" in found.notes


@pytest.mark.parametrize("mode", ["sct", "pv"])
@pytest.mark.parametrize("hard", [True, False])
def test_a_slice_that_is_unknown_in_one_place_is_not_measured(mode: str, hard: bool) -> None:
    cord = straight_cord((24, 24, 8))
    soft = cord.with_array(cord.array.astype(np.float32) * (1.0 if hard else 0.75))
    soft.array[2, 3, 5] = -1
    found = cross_sectional_area(soft, mode=mode)
    assert np.flatnonzero(np.isnan(found.area)).tolist() == [5]
    assert np.isnan(found.diameter_rl[5])


def test_gaps_lower_the_smoothing_as_in_the_toolbox() -> None:
    """Its rule: the residual is density² x smoothing x thickness / 3, density the share of slices that hold cord."""
    slices = np.array([*range(10), *range(22, 30)])
    x = 9 * np.sin(slices / 3.0) + np.random.default_rng(0).normal(0, 0.5, len(slices))
    line = fit_line(slices, np.stack([x, np.zeros_like(x)], axis=1), thickness=2.0, smoothing=30.0)
    wanted = (18 / 30) ** 2 * 30 * 2 / 3
    left = ((line.centres[slices, 0] - x) ** 2).sum()
    assert left == pytest.approx(wanted, rel=2e-3)


@pytest.mark.parametrize("value", [1, 255])
def test_a_mask_has_any_one_value(value: int) -> None:
    cord = straight_cord()
    same(cross_sectional_area(cord), cross_sectional_area(cord.with_array(cord.array * np.uint8(value))))


def test_a_label_map_needs_the_label() -> None:
    cord = straight_cord((40, 40, 10))
    labels = cord.with_array(cord.array * np.uint8(11))
    labels.array[2:6, 2:6] = 12
    with pytest.raises(CaseError, match=r"labels 11, 12.*E-CSA-LABEL") as caught:
        cross_sectional_area(labels)
    assert caught.value.code == "E-CSA-LABEL"
    same(cross_sectional_area(cord), cross_sectional_area(labels, label=11))
    assert len(cross_sectional_area(labels, label=7)) == 0


def test_a_map_on_another_scale_is_refused() -> None:
    cord = straight_cord()
    with pytest.raises(CaseError, match="E-CSA-RANGE"):
        cross_sectional_area(cord.with_array(cord.array * np.float32(99.5)))


@pytest.mark.parametrize("mode", ["sct", "pv"])
def test_no_cord_gives_no_rows(mode: str) -> None:
    found = cross_sectional_area(Volume(np.zeros((5, 5, 5), np.float32), np.eye(4)), mode=mode)
    assert len(found) == 0
    assert {len(values) for values in found.columns().values()} == {0}
    assert found.notes == ("no cord",)
    assert found.to_csv().count("\n") == 1


def test_a_slice_that_is_cord_all_over() -> None:
    found = cross_sectional_area(Volume(np.ones((6, 7, 3), np.uint8), np.diag([1.0, 2.0, 1.0, 1.0])), mode="pv")
    assert found.area == pytest.approx([84.0] * 3)
    found = cross_sectional_area(Volume(np.ones((6, 7, 3), np.uint8), np.eye(4)))
    assert np.isfinite(found.area).all()
    assert "touches the border" in " ".join(found.notes)


def test_four_dimensions_are_no_volume() -> None:
    with pytest.raises(ValueError, match="3-D"):
        Volume(np.zeros((4, 4, 4, 2)), np.eye(4))


def test_wrong_options() -> None:
    with pytest.raises(UsageError, match="E-CSA-MODE"):
        cross_sectional_area(straight_cord(), mode="voxels")
    for smoothing in (-1.0, np.nan, np.inf):
        with pytest.raises(UsageError, match="E-CSA-SMOOTHING"):
            cross_sectional_area(straight_cord(), smoothing=smoothing)


def test_another_centreline_gives_the_tilt() -> None:
    cord = exact_cord(RADII, (1, 1, 1), (15, 0), samples=3)
    expected = cross_sectional_area(cord, mode="pv")
    # Half of the cord, as grey matter of one side would be: its own line is another one.
    part = cord.with_array(np.where(np.arange(cord.shape[1])[None, :, None] > cord.shape[1] // 2, cord.array, 0))
    used = np.argwhere(cord.array > 0.5)
    points = np.array([cord.world(used[used[:, 2] == k].mean(axis=0)) for k in range(cord.shape[2])])
    spine = fit_centreline(np.zeros((0, 3)), cord.world(used))
    fine = cord.resample((1.0, 1.0, 0.7))
    # The line of the spine is made for long spines: over 40 mm it is less exact.
    for source, degrees in ((cord, 0.7), (cord.to("PIR"), 0.7), (fine, 0.7), (points, 0.7), (spine, 1.5)):
        found = cross_sectional_area(part, mode="pv", centreline=source)
        assert found.angle_ap[5:-5] == pytest.approx(expected.angle_ap[5:-5], abs=degrees)
        assert found.angle_rl[5:-5] == pytest.approx(expected.angle_rl[5:-5], abs=degrees)


@pytest.mark.parametrize("kept", [slice(0, 20), slice(0, 0)])
def test_a_centreline_that_is_too_short_is_refused(kept: slice) -> None:
    cord = straight_cord()
    short = cord.with_array(np.zeros_like(cord.array))
    short.array[:, :, kept] = cord.array[:, :, kept]
    with pytest.raises(CaseError, match="does not cover slices") as caught:
        cross_sectional_area(cord, centreline=short)
    assert caught.value.code == "E-CSA-CENTRELINE"
    assert f"slices {kept.stop} to 29" in caught.value.found


def test_without_correction_the_centreline_may_be_short() -> None:
    cord = straight_cord()
    short = cord.with_array(np.where(np.arange(30) < 10, cord.array, 0))
    found = cross_sectional_area(cord, centreline=short, angle_correction=False)
    assert found.area == pytest.approx(cross_sectional_area(cord, angle_correction=False).area)


def test_points_of_a_centreline_are_numbers() -> None:
    with pytest.raises(CaseError, match="no numbers") as caught:
        cross_sectional_area(straight_cord(), centreline=np.array([[1.0, 2.0, np.nan], [1.0, 2.0, 3.0]]))
    assert caught.value.code == "E-CSA-CENTRELINE"
    cord = straight_cord()
    line = cord.array.astype(np.float32)
    line[0, 0, :] = np.inf
    assert cross_sectional_area(cord, centreline=cord.with_array(line)).area == pytest.approx(
        cross_sectional_area(cord).area
    )


def test_unknown_voxels_beside_a_label_count_as_unknown() -> None:
    cord = straight_cord()
    labels = cord.array.astype(np.int16)
    labels[0, 0, 5] = -1
    found = cross_sectional_area(cord.with_array(labels), label=1)
    assert np.flatnonzero(np.isnan(found.area)).tolist() == [5]
    assert any("unknown" in note for note in found.notes)


def test_faint_slices_are_told_where_they_are_scaled() -> None:
    cord = straight_cord()
    soft = cord.array.astype(np.float32)
    soft[:, :, -2:] *= 0.02
    faint = cord.with_array(soft)
    assert [note for note in cross_sectional_area(faint).notes if note.startswith("2 slices nowhere exceed 0.5")]
    assert not cross_sectional_area(faint, mode="pv").notes
    assert not cross_sectional_area(cord).notes


def test_one_hot_voxel_hardly_changes_the_area() -> None:
    """A map as the activation `clamp` writes it, with one voxel that overshoots."""
    soft = straight_cord(radius=5.0).array * np.float32(0.95)
    hot = soft.copy()
    x, y = np.argwhere(soft[:, :, 15] > 0.9)[0]
    hot[x, y, 15] = 1.0
    maps = [Volume(values, np.eye(4)) for values in (soft, hot)]
    areas = {mode: [cross_sectional_area(one, mode=mode).area for one in maps] for mode in ("pv", "sct")}
    assert np.abs(areas["pv"][1] / areas["pv"][0] - 1).max() <= 0.01
    # Mode sct divides the slice by that voxel: the slice loses 5 %, the mean does not.
    assert abs(areas["sct"][1].mean() / areas["sct"][0].mean() - 1) <= 0.01
    assert np.abs(areas["sct"][1] / areas["sct"][0] - 1).max() == pytest.approx(0.05, abs=0.01)


def test_the_area_alone_is_the_same_area() -> None:
    cord = exact_cord(RADII, (1, 1, 1), (9, 3), samples=3)
    for mode in ("sct", "pv"):
        full, fast = (cross_sectional_area(cord, mode=mode, form=form) for form in (True, False))
        assert fast.area == pytest.approx(full.area, rel=1e-12)
        assert np.isnan(fast.diameter_ap).all()
        assert np.isfinite(full.diameter_ap).all()


def test_the_table_has_one_row_per_slice_and_nothing_for_nan(tmp_path: Path) -> None:
    cord = straight_cord((24, 24, 5))
    cord.array[:, :, 2] = 0
    found = cross_sectional_area(cord)
    text = found.to_csv(tmp_path / "area.csv")
    assert (tmp_path / "area.csv").read_text() == text
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["slice"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert (rows[2]["area"], rows[2]["level"]) == ("", "")
    assert float(rows[1]["area"]) == found.area[1]
    with pytest.raises(AttributeError):
        found.area = found.slice  # type: ignore[misc]


def test_the_import_is_cheap() -> None:
    code = "import sys, nnunet_spine_ext.measure; print([m for m in ('scipy', 'skimage', 'torch') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
