"""Levels of slices: from labelled cords, discs, points and instances; averages over them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from section_builder import straight_cord

from nnunet_spine_ext.core.errors import CaseError, UsageError
from nnunet_spine_ext.core.io import read_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.measure import (
    CrossSection,
    average_levels,
    cross_sectional_area,
    levels_from_discs,
    levels_from_instances,
    levels_from_labels,
    levels_from_points,
    parse_levels,
)
from nnunet_spine_ext.measure.levels import Levels
from nnunet_spine_ext.measure.points import PointList

# Discs in front of an upright cord of 30 slices: C3/C4 at the top, C5/C6 at the bottom.
HEIGHTS = {4: 24, 5: 15, 6: 7}


def discs(heights: dict[int, int], cord: Volume | None = None) -> Volume:
    """Return single voxels at these heights, 8 mm in front of the cord."""
    grid = straight_cord() if cord is None else cord
    array = np.zeros(grid.shape, np.int16)
    for value, height in heights.items():
        array[12, 20, height] = value
    return grid.with_array(array)


def levels_of(levels: Levels | Volume, cord: Volume | None = None) -> list[float]:
    """Return the level of each slice."""
    return cross_sectional_area(straight_cord() if cord is None else cord, levels=levels, form=False).level.tolist()


def test_the_toolbox_asserts_level_3_at_slice_10(test_data: Path) -> None:
    folder = test_data / "sct-testing" / "t2"
    found = cross_sectional_area(
        read_volume(folder / "t2_seg-manual.nii.gz"), levels=levels_from_discs(read_volume(folder / "labels.nii.gz"))
    )
    row = found.slice.tolist().index(10)
    assert found.level[row] == 3
    assert found.area[row] == pytest.approx(78.58643257836141, rel=1e-6)
    # The file has no disc C3/C4, so C4 counts as C3 there: that is said.
    assert "discs 4 are missing" in " ".join(found.notes)


def test_every_slice_has_the_level_that_the_toolbox_gives_it(test_data: Path) -> None:
    folder = test_data / "sct-testing" / "t2"
    found = levels_of(
        levels_from_discs(read_volume(folder / "t2_labeled_center_manual.nii.gz")),
        read_volume(folder / "t2_seg-manual.nii.gz"),
    )
    # project_centerline and label_regions_from_reference of commit 3b3c5b22.
    assert found == [5.0] * 10 + [4.0] * 17 + [3.0] * 18 + [2.0] * 10


def test_levels_of_a_real_labelled_cord(test_data: Path) -> None:
    folder = test_data / "sct-testing" / "t2"
    labelled = read_volume(folder / "t2_seg-manual_labeled.nii.gz")
    found = cross_sectional_area(read_volume(folder / "t2_seg-manual.nii.gz"), levels=labelled)
    frame = labelled.to("LAS").array
    for number, level in zip(found.slice, found.level, strict=True):
        values = frame[:, :, number][frame[:, :, number] != 0]
        assert level == pytest.approx(np.round(values.mean()) if len(values) else np.nan, nan_ok=True)


def test_discs_are_borders_and_the_ends_are_open() -> None:
    # A slice at the height of a disc belongs to the level below it, as in the toolbox.
    expected = [6.0] * 8 + [5.0] * 8 + [4.0] * 9 + [3.0] * 5
    assert levels_of(levels_from_discs(discs(HEIGHTS))) == expected


@pytest.mark.parametrize("orientation", ["PIR", "LPS", "SAL"])
def test_discs_in_any_orientation(orientation: str) -> None:
    expected = levels_of(levels_from_discs(discs(HEIGHTS)))
    assert levels_of(levels_from_discs(discs(HEIGHTS).to(orientation)), straight_cord().to("RIA")) == expected


def test_discs_beyond_the_cord_still_limit_levels() -> None:
    tall = straight_cord((24, 24, 60))
    cord = tall.with_array(tall.array.copy())
    cord.array[:, :, :20] = 0
    cord.array[:, :, 40:] = 0
    found = levels_of(levels_from_discs(discs({2: 58, 3: 48, 4: 30, 5: 10}, tall)), cord)
    assert found == [4.0] * 11 + [3.0] * 9


def test_discs_project_across_a_leaning_cord() -> None:
    # A cord that leans by 45 degrees to the front: the nearest point of it is not at the height of the disc.
    x, y = np.meshgrid(np.arange(20), np.arange(60), indexing="ij")
    array = np.stack([((x - 10) ** 2 + (y - 5 - k) ** 2 < 16) for k in range(50)], axis=2).astype(np.uint8)
    cord = Volume(array, np.eye(4))
    border = np.zeros_like(array)
    border[10, 45, 20] = 4
    found = cross_sectional_area(cord, levels=levels_from_discs(cord.with_array(border)), form=False)
    highest = found.slice[found.level == 4].max()
    # (y - 5, z) = (40, 20) projects onto the diagonal at 30.
    assert abs(highest - 30) <= 1


@pytest.mark.parametrize(
    ("made", "text"),
    [
        ({}, "the values"),
        ({60: 3}, r"values \[60\]"),
        ({4: 7, 5: 24}, "order"),
    ],
)
def test_discs_that_cannot_be_used(made: dict[int, int], text: str) -> None:
    with pytest.raises(CaseError, match=text) as caught:
        levels_of(levels_from_discs(discs(made)))
    assert caught.value.code == "E-CSA-LEVELS"


def test_a_disc_at_two_voxels_is_refused() -> None:
    twice = discs(HEIGHTS)
    twice.array[3, 3, 3] = 4
    with pytest.raises(CaseError, match="several voxels"):
        levels_from_discs(twice)


def points(places: dict[int, int]) -> PointList:
    """Return points at these heights, 8 mm in front of the cord."""
    return PointList({key: (12.0, 20.0, float(height)) for key, height in places.items()}, straight_cord())


def test_vertebrae_change_midway_or_at_their_disc_and_end_where_they_do() -> None:
    found = levels_of(levels_from_points(points({4: 22, 5: 14, 6: 6, 105: 9})))
    # C4 from 18 (midway) to 26 (as far above its centre), C5 down to its disc at 9, C6 from 9 down to 3.
    expected = [np.nan] * 3 + [6.0] * 7 + [5.0] * 9 + [4.0] * 8 + [np.nan] * 3
    assert np.array_equal(found, expected, equal_nan=True)


def test_a_left_out_vertebra_leaves_its_level_unknown() -> None:
    found = np.array(levels_of(levels_from_points(points({103: 24, 105: 8}))))
    assert np.isnan(found[9:25]).all()
    assert found[:9].tolist() == [6.0] * 9
    assert found[25:].tolist() == [3.0] * 5


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({19: 20, 20: 10}, {19, 20}),  # T12, L1
        ({19: 24, 28: 15, 20: 6}, {19, 28, 20}),  # T13
        ({24: 20, 26: 10}, {24, 26}),  # L5, S1
        ({124: 15, 25: 10}, {24, 25}),  # L6
    ],
)
def test_rare_vertebrae_count_where_they_are(given: dict[int, int], expected: set[int]) -> None:
    found = np.array(levels_of(levels_from_points(points(given))))
    assert set(found[np.isfinite(found)]) == expected


def test_below_the_last_vertebra_there_is_no_level() -> None:
    found = np.array(levels_of(levels_from_points(points({20: 25, 21: 17, 27: 5}))))
    assert set(found[np.isfinite(found)]) == {20, 21}, "the coccyx has no neighbour here"
    found = np.array(levels_of(levels_from_points(points({20: 25, 21: 17, 127: 5}))))
    assert np.isnan(found[:5]).all(), "beyond a disc below the coccyx is nothing"


@pytest.mark.parametrize("given", [{}, {4: 10}, {4: 10, 6: 20}, {204: 10}])
def test_points_without_neighbours_are_refused(given: dict[int, int]) -> None:
    with pytest.raises(CaseError, match="E-CSA-LEVELS"):
        levels_from_points(points(given))


def test_instances_are_points_of_their_centres() -> None:
    cord = straight_cord()
    array = np.zeros(cord.shape, np.uint8)
    for vertebra, (low, high) in {4: (19, 26), 5: (10, 17), 6: (1, 8)}.items():
        array[8:16, 18:22, low:high] = vertebra
        array[8:16, 18:22, low - 2 : low] = 100 + vertebra
    found = np.array(levels_of(levels_from_instances(cord.with_array(array))))
    assert found[19:24].tolist() == [4.0] * 5
    assert found[10:17].tolist() == [5.0] * 7
    # The same with the bodies told by a semantic mask; processes hang lower than they do.
    semantic = cord.with_array(np.where(array > 0, 10, 0).astype(np.uint8))
    array[8:16, 0:3, 5:12] = 5
    again = np.array(levels_of(levels_from_instances(cord.with_array(array), semantic)))
    assert again[10:17].tolist() == [5.0] * 7


def test_a_labelled_cord_on_another_grid_is_brought_onto_the_cords() -> None:
    cord = straight_cord()
    levels = cord.with_array(np.where(np.arange(30) < 15, 5, 4)[None, None, :] * cord.array)
    expected = levels_of(levels)
    assert set(expected) == {4.0, 5.0}
    assert levels_of(levels_from_labels(levels.resample((2.0, 2.0, 0.5), order=0))) == expected
    far = np.eye(4)
    far[2, 3] = 500
    with pytest.raises(CaseError, match="name no level"):
        levels_of(Volume(levels.array, far))


def section() -> CrossSection:
    """Return a cord that is thinner in the lower half, with three levels and an empty slice."""
    cord = straight_cord(radius=6)
    cord.array[:, :, :15] = straight_cord(radius=4).array[:, :, :15]
    cord.array[:, :, 20] = 0
    return cross_sectional_area(cord, levels=levels_from_discs(discs(HEIGHTS)), angle_correction=False)


def test_levels_are_averaged_over_their_slices() -> None:
    found = section()
    table = average_levels(found)
    assert table.name.tolist() == ["C3", "C4", "C5", "C6"]
    assert table.slices.tolist() == [5, 8, 8, 8]
    wide, thin = found.area[-1], found.area[0]
    assert table.mean["area"] == pytest.approx([wide, wide, (7 * thin + wide) / 8, thin])
    spread = np.std([thin] * 7 + [wide])
    assert table.std["area"] == pytest.approx([0, 0, spread, 0], abs=1e-9)
    assert average_levels(found, ddof=1).std["area"][2] == pytest.approx(spread * np.sqrt(8 / 7))
    assert table.length == pytest.approx([5, 8, 8, 8])
    assert (table.first[1], table.last[1]) == (16, 24)


def test_levels_are_pooled_into_one_number() -> None:
    found = section()
    table = average_levels(found, [3, 4], pooled=True)
    assert (table.level.tolist(), table.name.tolist(), table.slices.tolist()) == (["3:4"], ["C3:C4"], [13])
    assert average_levels(found, [3, 5], pooled=True).level.tolist() == ["3,5"]
    text = table.to_csv().splitlines()
    assert text[0].startswith("level,name,slices,first,last,mean_area,std_area")
    assert text[1].startswith("3:4,C3:C4,13,16,29,")


def test_a_level_that_is_not_there_has_no_slices() -> None:
    table = average_levels(section(), [9])
    assert table.slices.tolist() == [0]
    assert np.isnan(table.mean["area"][0])
    assert len(average_levels(cross_sectional_area(straight_cord()))) == 0
    assert len(average_levels(cross_sectional_area(straight_cord()), pooled=True)) == 0


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("2:3", [2, 3]),
        ("C2:C3", [2, 3]),
        ("c7:t2, 12", [7, 8, 9, 12]),
        ("T12:L1", [19, 20]),
        ("T12:T13", [19, 28]),
        ("L5:S1", [24, 26]),
        ("3,3", [3]),
    ],
)
def test_levels_are_read_from_text(text: str, ids: list[int]) -> None:
    assert parse_levels(text) == ids


@pytest.mark.parametrize("text", ["", "0", "C9", "3:2", "2-3", "99"])
def test_texts_that_name_no_levels(text: str) -> None:
    with pytest.raises(UsageError, match="E-CSA-LEVELRANGE"):
        parse_levels(text)
