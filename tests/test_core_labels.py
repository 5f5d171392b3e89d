"""The table of label schemes: complete, consistent, and true for real masks."""

from __future__ import annotations

import importlib.util
import logging
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nnunet_spine_ext.core import labels
from nnunet_spine_ext.core.errors import CaseError, UsageError
from nnunet_spine_ext.core.io import read_volume
from nnunet_spine_ext.core.label_mappings import CANAL, CORD, FROM_WHOLE, KINDS, TO_WHOLE
from nnunet_spine_ext.core.labels import MAPPINGS, SCHEMES, LabelMapping, LabelScheme, convert_labels
from nnunet_spine_ext.core.spider import instances_to_spider, spider_table

DOCS = Path(__file__).resolve().parent.parent / "docs"
every_scheme = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda scheme: scheme.name)
every_mapping = pytest.mark.parametrize("row", MAPPINGS.values(), ids=lambda row: f"{row.source}-{row.target}")


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """Return what the room logs; commands that ran before may have cut it off from pytest's own handler."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(labels.__name__)
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


@every_scheme
def test_names_are_unique_and_every_id_has_a_colour(scheme: LabelScheme) -> None:
    assert SCHEMES[scheme.name] is scheme
    assert len(set(scheme.labels.values())) == len(scheme.labels)
    assert all(0 < key < 256 or scheme.name == "instances" for key in scheme.labels)
    assert set(scheme.colours) == set(scheme.labels)
    assert all(len(c) == 3 and all(0 <= part <= 255 for part in c) for c in scheme.colours.values())
    shared = len(scheme.labels) - len(set(scheme.colours.values()))
    assert shared <= (2 if scheme.name == "instances" else 0), f"{shared} ids share a colour"
    assert (0, 0, 0) not in scheme.colours.values()


@every_scheme
def test_sided_pairs_are_complete(scheme: LabelScheme) -> None:
    found = {tuple(scheme.labels[key] for key in pair) for pair in scheme.sided_pairs}
    lefts = [name for name in scheme.labels.values() if name.endswith(" left")]
    assert found == {(name, name.removesuffix("left") + "right") for name in lefts}


def test_sided_pairs_of_the_training_classes() -> None:
    assert SCHEMES["nnunet14"].sided_pairs == ((4, 5), (6, 7), (8, 9))
    assert sorted(SCHEMES["nnunet14"].labels) == list(range(1, 15))


# Ids as the projects publish them.
PUBLISHED = {
    "spineps": {
        26: "sacrum", 41: "arcus", 49: "corpus", 51: "dens", 60: "cord", 61: "canal", 62: "endplate",
        63: "rib left", 64: "rib right", 100: "disc",
    },
    "nnunet14": {1: "sacrum", 2: "arcus", 3: "spinous process", 10: "corpus", 11: "cord", 12: "canal", 14: "disc"},
    "instances": {
        1: "C1", 7: "C7", 8: "T1", 19: "T12", 20: "L1", 25: "L6", 26: "S1", 27: "coccyx", 28: "T13", 29: "S2", 33: "S6",
        102: "disc C2", 124: "disc L5", 128: "disc T13", 202: "endplate C2", 226: "endplate S1",
    },
    "spider": {
        1: "vertebra 1 from below", 25: "vertebra 25 from below", 100: "canal",
        101: "vertebra 1 from below, partly visible", 201: "disc below vertebra 1 from below",
    },
    "verse": {
        1: "C1", 7: "C7", 8: "T1", 19: "T12", 20: "L1", 24: "L5", 25: "L6", 26: "sacrum", 27: "coccyx", 28: "T13",
    },
    "totalspineseg": {
        1: "cord", 2: "canal", 11: "C1", 17: "C7", 21: "T1", 32: "T12", 41: "L1", 46: "L6", 50: "sacrum", 63: "disc C2",
        67: "disc C6", 71: "disc C7", 72: "disc T1", 82: "disc T11", 91: "disc T12", 92: "disc L1", 95: "disc L4",
        96: "disc L5", 100: "disc above the sacrum",
    },
    "totalsegmentator": {
        25: "sacrum", 26: "S1", 27: "L5", 31: "L1", 32: "T12", 43: "T1", 44: "C7", 50: "C1", 79: "cord",
    },
    "totalsegmentator_mr": {18: "sacrum", 19: "vertebrae", 20: "disc", 21: "cord"},
    # Ours: SPIDER's classes as its converter numbers them.
    "whole_vertebrae": {1: "vertebra", 2: "disc", 3: "canal", 4: "cord", 5: "sacrum"},
    "sct_discs": {2: "disc C1", 3: "disc C2", 8: "disc C7", 20: "disc T12", 25: "disc L5"},
}  # fmt: skip


@every_scheme
def test_ids_are_those_that_the_projects_publish(scheme: LabelScheme) -> None:
    for key, name in PUBLISHED[scheme.name].items():
        assert scheme.labels[key] == name
    counts = {"spineps": 20, "verse": 28, "totalspineseg": 2 + 7 + 12 + 6 + 1 + 5 + 12 + 6 + 1, "totalsegmentator": 27}
    assert len(scheme.labels) == counts.get(scheme.name, len(scheme.labels))


def test_vertebrae_from_head_to_tail() -> None:
    names = [labels.vertebra_name(vertebra) for vertebra in labels.VERTEBRA_ORDER]
    regions = (("C", 1, 7), ("T", 1, 13), ("L", 1, 6), ("S", 1, 6))
    assert names == [f"{r}{n}" for r, first, last in regions for n in range(first, last + 1)] + ["coccyx"]
    assert sorted(labels.VERTEBRA_ORDER) == sorted(labels.VERTEBRAE)
    assert [labels.vertebra_id(name) for name in names] == list(labels.VERTEBRA_ORDER)
    for wrong in (0, 34, 100):
        with pytest.raises(KeyError):
            labels.vertebra_name(wrong)
    with pytest.raises(KeyError):
        labels.vertebra_id("T14")


def test_instance_names() -> None:
    assert [labels.instance_name(k) for k in (5, 105, 205, 128, 99)] == [
        "C5", "disc C5", "endplate C5", "disc T13", "instance 99",
    ]  # fmt: skip
    assert all(labels.instance_name(key) == name for key, name in SCHEMES["instances"].labels.items())


@every_mapping
def test_mappings_are_total_and_inside_the_target(row: LabelMapping) -> None:
    source, target = SCHEMES[row.source].labels, SCHEMES[row.target].labels
    assert set(row.table) == set(source)
    assert set(row.table.values()) <= set(target) | {0}
    for present, changed in row.instead.items():
        assert present in source
        assert set(changed) <= set(source)
        assert set(changed.values()) <= set(target) | {0}
        assert all(value != row.table[key] for key, value in changed.items())


@every_mapping
def test_declared_kind_and_losses_are_true(row: LabelMapping) -> None:
    ids = np.array(sorted(SCHEMES[row.source].labels), np.uint16)
    there = np.array([row.table[int(k)] for k in ids], np.uint16)
    values = there.tolist()
    # A partly visible vertebra of SPIDER is the vertebra, and said to be so in one sentence.
    whole = [v for k, v in row.table.items() if not SCHEMES[row.source].labels[k].endswith("partly visible")]
    merged = {key for key, value in row.table.items() if value and whole.count(value) > 1}
    dropped = {key for key, value in zip(ids.tolist(), values, strict=True) if not value}
    if row.kind == "bijective":
        assert not merged | dropped
        assert not row.lost
        assert np.array_equal(convert_labels(convert_labels(ids, row.source, row.target), row.target, row.source), ids)
        return
    assert row.lost
    assert len(set(values) - {0}) < len(ids) or row.target == "spider"
    told = " ".join(row.lost)
    for key in merged | dropped:
        name = SCHEMES[row.source].labels[key]
        if row.target == "spider" and name in ("L6", "T13", "disc L6", "disc T13"):
            continue  # their number depends on what else is in the mask
        kind = next((f"all {kind}" for kind, belongs in KINDS.items() if belongs(name)), name)
        said = name in told or kind in told or ("partly visible" in name and "partly visible" in told)
        assert said or name.endswith("25 from below"), f"{name} is lost without a word"


@pytest.mark.parametrize(
    ("source", "target"), [(a, b) for a, b in MAPPINGS if MAPPINGS[a, b].kind == "bijective"], ids=str
)
@given(data=st.data())
def test_bijective_mappings_round_trip_on_arrays(source: str, target: str, data: st.DataObject) -> None:
    ids = st.sampled_from([0, *SCHEMES[source].labels])
    array = data.draw(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=3, max_dims=3, max_side=4), elements=ids))
    there = convert_labels(array, source, target)
    assert there.shape == array.shape
    assert there.dtype == np.uint8
    assert np.array_equal(convert_labels(there, target, source), array)
    assert np.array_equal(there == 0, array == 0)


@every_mapping
def test_no_pair_is_declared_without_its_way_back_being_honest(row: LabelMapping) -> None:
    back = MAPPINGS.get((row.target, row.source))
    if back is None:
        return
    # What survives there and back is what it was, or what it was merged with.
    for value in row.table.values():
        returned = back.table.get(value, 0)
        assert not returned or row.table[returned] == value


def test_spineps_merges_into_the_training_classes() -> None:
    array = np.array([49, 50, 51, 52, 53, 62, 26, 0], np.uint8)
    assert convert_labels(array, "spineps", "nnunet14").tolist() == [10, 10, 10, 13, 13, 13, 1, 0]


def test_lowest_disc_of_totalspineseg_depends_on_l6(warnings: list[str]) -> None:
    five = np.array([45, 95, 100, 50], np.uint8)
    six = np.array([45, 95, 96, 46, 100, 50], np.uint8)
    assert convert_labels(five, "totalspineseg", "instances").tolist() == [24, 123, 124, 26]
    assert convert_labels(six, "totalspineseg", "instances").tolist() == [24, 123, 124, 25, 125, 26]
    for array in (five, six):
        there = convert_labels(array, "totalspineseg", "instances")
        assert np.array_equal(convert_labels(there, "instances", "totalspineseg"), array)
    assert warnings == []


def test_what_the_target_does_not_have_is_dropped_with_a_warning(warnings: list[str]) -> None:
    found = convert_labels(np.array([1, 2, 11, 50], np.uint8), "totalspineseg", "instances", file="case_7")
    assert found.tolist() == [0, 0, 1, 26]
    assert warnings == ["case_7: instances has no id for cord, canal: dropped"]


def test_large_ids_need_two_bytes() -> None:
    table = {1: 300}
    assert labels.apply_table(np.array([0, 1], np.uint8), table).dtype == np.uint16
    assert labels.apply_table(np.zeros((0, 2, 2), np.uint8), table).shape == (0, 2, 2)


def test_known_ids_are_told_as_ranges() -> None:
    assert labels.id_ranges([60, 3, 1, 2, 61, 5]) == "1 to 3, 5, 60, 61"
    assert labels.id_ranges([]) == ""
    with pytest.raises(CaseError) as caught:
        convert_labels(np.full((2, 2, 2), 60, np.uint8), "instances", "verse")
    assert caught.value.expected == "0 and 1 to 33, 101 to 133, 201 to 233"


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_unknown_ids_are_listed_with_their_voxel_counts(dtype: type) -> None:
    array = np.zeros((4, 4, 4), dtype)
    array[0, 0, :3], array[1, 0, 0], array[2] = 99, 7, 49
    with pytest.raises(CaseError) as caught:
        convert_labels(array, "spineps", "nnunet14", file="mask.nii.gz")
    error = caught.value
    assert error.code == "E-LABEL-UNKNOWN"
    assert "nnUNetv2_spine_labels" in error.fix
    assert error.file == "mask.nii.gz"
    assert error.found == "label ids 7 (1 voxels), 99 (3 voxels)"
    assert "41 to " in error.expected


def test_fractions_negative_ids_and_nan_are_unknown_too() -> None:
    for value in (0.5, -1.0, np.nan):
        with pytest.raises(CaseError, match=f"{value:g}"):
            convert_labels(np.array([0, 49, value], np.float32), "spineps", "nnunet14")
    with pytest.raises(CaseError, match="and 88 more"):
        convert_labels(np.arange(150, 250), "spineps", "nnunet14")


def test_whole_floats_are_ids() -> None:
    assert convert_labels(np.array([0.0, 49.0]), "spineps", "nnunet14").tolist() == [0, 10]


def test_unknown_schemes_and_mappings_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="did you mean 'spineps'"):
        labels.scheme("spinepz")
    with pytest.raises(UsageError, match="no such mapping"):
        labels.mapping("verse", "sct_discs")
    with pytest.raises(UsageError, match="classes have no levels"):
        labels.mapping("nnunet14", "spider")
    with pytest.raises(UsageError, match="did you mean 'verse'"):
        labels.mapping("spineps", "vers")
    assert labels.scheme("verse") is SCHEMES["verse"]


@given(arrays.arrays(np.uint8, (3, 4, 2), elements=st.integers(0, 14)))
def test_swapping_sides_twice_is_nothing(array: np.ndarray) -> None:
    pairs = SCHEMES["nnunet14"].sided_pairs
    swapped = labels.swap_sides(array, pairs)
    assert np.array_equal(labels.swap_sides(swapped, pairs), array)
    middle = ~np.isin(array, np.ravel(pairs))
    assert np.array_equal(swapped[middle], array[middle])
    for left, right in pairs:
        assert np.array_equal(swapped == left, array == right)
    assert np.array_equal(labels.swap_sides(array, [list(pair) for pair in pairs]), swapped)


def test_swapping_does_not_touch_its_input() -> None:
    array = np.array([4, 5], np.uint8)
    assert labels.swap_sides(array, [(4, 5)]).tolist() == [5, 4]
    assert array.tolist() == [4, 5]


def test_colours_for_custom_classes() -> None:
    names = {1: "sacrum", 40: "other"}
    colours = labels.colours_for(names, "nnunet14")
    assert colours[1] == SCHEMES["nnunet14"].colours[1]
    assert set(colours) == {1, 40}
    assert len(set(labels.colours_for(dict.fromkeys(range(1, 60), "x")).values())) == 59
    assert set(labels.colours_for(names, "custom")) == {1, 40}


@every_scheme
def test_colour_tables_parse_back(scheme: LabelScheme, tmp_path: Path) -> None:
    labels.write_itksnap_labels(scheme.labels, tmp_path / "snap.txt", scheme.colours)
    labels.write_slicer_table(scheme.labels, tmp_path / "slicer.ctbl", scheme.colours)
    snap = [shlex.split(line) for line in (tmp_path / "snap.txt").read_text().splitlines() if line[0] != "#"]
    assert [len(row) for row in snap] == [8] * len(snap)
    assert snap[0] == ["0", "0", "0", "0", "0", "0", "0", "Clear Label"]
    assert {int(row[0]): row[7] for row in snap[1:]} == dict(scheme.labels)
    assert {int(row[0]): tuple(map(int, row[1:4])) for row in snap[1:]} == dict(scheme.colours)
    assert all(row[4:7] == ["1", "1", "1"] for row in snap[1:])
    slicer = [line.split(" ") for line in (tmp_path / "slicer.ctbl").read_text().splitlines() if line[0] != "#"]
    assert [len(row) for row in slicer] == [6] * len(slicer)
    assert slicer[0][0] == "0"
    assert slicer[0][5] == "0"
    assert {int(row[0]): row[1].replace("_", " ") for row in slicer[1:]} == dict(scheme.labels)
    assert {int(row[0]): tuple(map(int, row[2:5])) for row in slicer[1:]} == dict(scheme.colours)


# Real masks. Where one comes from says which scheme it follows.


def values(array: np.ndarray) -> set[int]:
    return {int(k) for k in np.unique(array)} - {0}


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * int((a & b).sum()) / max(1, int(a.sum()) + int(b.sum()))


def test_real_semantic_masks_convert(test_data: Path) -> None:
    for name in (
        "tptbox/sample_mri/sub-mri_seg-subreg_label-6_msk.nii.gz",
        "tptbox/sample_ct/sub-ct_seg-subreg_label-22_msk.nii.gz",
        "panoptica/semantic/pred.nii.gz",
    ):
        array = read_volume(test_data / name).array
        found = convert_labels(array, "spineps", "nnunet14", file=name)
        assert values(found) <= set(range(1, 15))
        assert np.array_equal(found == 0, array == 0)
        assert int((found == 10).sum()) == int(np.isin(array, (49, 50, 51)).sum())
        back = convert_labels(found, "nnunet14", "spineps")
        assert np.array_equal(convert_labels(back, "spineps", "nnunet14"), found)


def test_real_instance_masks_are_instances_and_no_classes(test_data: Path) -> None:
    for name in ("tptbox/sample_mri/sub-mri_seg-vert_label-6_msk.nii.gz", "panoptica/matched_instance/ref.nii.gz"):
        array = read_volume(test_data / name).array
        assert values(array) <= set(SCHEMES["instances"].labels)
        with pytest.raises(CaseError) as caught:
            convert_labels(array, "spineps", "nnunet14", file=name)
        assert "5 (" in caught.value.found
        verse = convert_labels(array, "instances", "verse")
        assert values(verse) == {k for k in values(array) if k < 100}


def test_real_ct_instances_are_verse_ids(test_data: Path) -> None:
    array = read_volume(test_data / "tptbox/sample_ct/sub-ct_seg-vert_label-22_msk.nii.gz").array
    assert [SCHEMES["verse"].labels[k] for k in sorted(values(array))] == ["L2", "L3", "L4"]
    assert np.array_equal(convert_labels(array, "verse", "instances"), array)


def test_real_totalsegmentator_masks(test_data: Path) -> None:
    volume = read_volume(test_data / "totalsegmentator/spine_report/example_ct_report/totalseg.nii.gz")
    found = volume.with_array(convert_labels(volume.array, "totalsegmentator", "instances"))
    assert [labels.vertebra_name(k) for k in sorted(values(found.array))] == [
        "T11", "T12", "L1", "L2", "L3", "L4", "L5", "S1",
    ]  # fmt: skip
    # The names are right only if the vertebrae lie in this order from head to tail.
    heights = [found.world(np.argwhere(found.array == k)).mean(axis=0)[2] for k in sorted(values(found.array))]
    assert heights == sorted(heights, reverse=True)
    back = convert_labels(found.array, "instances", "totalsegmentator")
    assert np.array_equal(np.where(back == 25, 26, back), volume.array)


def test_real_masks_with_organs_are_refused_with_their_ids(test_data: Path) -> None:
    for name, source in (
        ("example_seg_fast_force_split.nii.gz", "totalsegmentator"),
        ("example_seg_mr.nii.gz", "totalsegmentator"),
    ):
        array = read_volume(test_data / "totalsegmentator" / name).array
        with pytest.raises(CaseError) as caught:
            convert_labels(array, source, "instances", file=name)
        assert caught.value.found.startswith(f"label ids 1 ({int((array == 1).sum())} voxels)")
        assert "more" in caught.value.found


def test_exchanged_cord_and_canal_cannot_be_seen_from_ids(test_data: Path) -> None:
    # The reference of panoptica has the canal as 60 and the cord as 61. Both are valid ids, so conversion is silent:
    # only the anatomy tells (the cord is the smaller one, inside the canal). A declared map repairs it.
    ref = read_volume(test_data / "panoptica/semantic/ref.nii.gz").array
    pred = read_volume(test_data / "panoptica/semantic/pred.nii.gz").array
    as_stored = convert_labels(ref, "spineps", "nnunet14")
    wanted = convert_labels(pred, "spineps", "nnunet14")
    assert overlap(as_stored == 11, wanted == 11) < 0.1
    exchanged = {**labels.mapping("spineps", "nnunet14").table, 60: 12, 61: 11}
    repaired = labels.apply_table(ref, exchanged)
    assert np.array_equal(labels.swap_sides(as_stored, [(11, 12)]), repaired)
    assert overlap(repaired == 11, wanted == 11) > 0.9
    assert overlap(repaired == 12, wanted == 12) > 0.9
    assert int((repaired == 11).sum()) < int((repaired == 12).sum())


@given(
    arrays.arrays(
        st.sampled_from([np.uint8, np.int16, np.uint32, np.float32, np.bool_]), (2, 3, 2), elements=st.integers(0, 1)
    )
)
def test_every_type_is_translated_alike(array: np.ndarray) -> None:
    assert np.array_equal(labels.apply_table(array, {1: 9}), np.where(array == 1, 9, 0))
    assert sum(labels.id_counts(array).values()) == array.size


def test_spider_numbers_count_within_a_mask() -> None:
    mask = np.array([0, 1, 2, 103, 100, 201, 202], np.uint8)
    assert convert_labels(mask, "spider", "instances").tolist() == [0, 24, 23, 22, 0, 124, 123]
    assert convert_labels(mask, "spider", "instances", lowest="L6").tolist() == [0, 25, 24, 23, 0, 125, 124]
    above = convert_labels(mask, "spider", "instances", level_order="top-down")
    assert above.tolist() == [0, 22, 23, 24, 0, 122, 123]
    # The disc of L5 has another id in TotalSpineSeg when there is an L6 below it.
    assert convert_labels(mask, "spider", "totalspineseg").tolist() == [0, 45, 44, 43, 2, 100, 95]
    assert convert_labels(mask, "spider", "totalspineseg", lowest="L6").tolist() == [0, 46, 45, 44, 2, 100, 96]
    assert convert_labels(mask, "spider", "nnunet14").tolist() == [0, 0, 0, 0, 12, 14, 14]


def test_spider_numbers_are_counted_when_they_are_written() -> None:
    mask = np.array([20, 23, 24, 26, 124, 224], np.uint8)
    assert convert_labels(mask, "instances", "spider").tolist() == [5, 2, 1, 0, 201, 0]
    assert convert_labels(np.append(mask, 25), "instances", "spider").tolist() == [6, 3, 2, 0, 202, 0, 1]
    whole = np.array([1, 2, 41, 45, 95, 100, 50], np.uint8)
    assert convert_labels(whole, "totalspineseg", "spider").tolist() == [100, 100, 5, 1, 202, 201, 0]


def test_spider_levels_above_c1_are_refused() -> None:
    with pytest.raises(CaseError, match=r"label ids 25 \(1 voxels\)"):
        convert_labels(np.array([24, 25], np.uint8), "spider", "instances")
    assert convert_labels(np.array([24, 25], np.uint8), "spider", "instances", lowest="L6").tolist() == [2, 1]


def test_the_table_of_spider_is_that_of_its_usual_count() -> None:
    ids = list(SCHEMES["spider"].labels)
    counted = spider_table(ids) | {100: CANAL}
    assert {key: value for key, value in TO_WHOLE["spider"].table.items() if value} == counted
    back = instances_to_spider([n for n in SCHEMES["instances"].labels if n % 100 in range(1, 25)])
    table = FROM_WHOLE["spider"].table
    assert {key: value for key, value in table.items() if value and key not in (CORD, CANAL)} == {
        key: value for key, value in back.items() if value
    }


@given(st.data())
def test_spider_masks_come_back_by_way_of_instances(data: st.DataObject) -> None:
    lowest = data.draw(st.sampled_from(["T11", "T12", "L3", "L4", "L5", "L6"]))
    count = data.draw(st.integers(1, 9))
    levels = st.integers(1, count)
    ids = st.one_of(st.just(0), levels, levels.map(lambda n: 200 + n))
    array = data.draw(arrays.arrays(np.uint8, (3, 3, 3), elements=ids))
    array[0, 0, 0] = 1
    there = convert_labels(array, "spider", "instances", lowest=lowest)
    assert np.array_equal(convert_labels(there, "instances", "spider"), array)


def test_masks_of_levels_become_classes() -> None:
    found = convert_labels(np.array([18, 19, 20, 21], np.uint8), "totalsegmentator_mr", "nnunet14")
    assert found.tolist() == [1, 0, 14, 11]
    assert labels.mapping("totalsegmentator_mr", "nnunet14").lost == ("dropped: vertebrae",)
    back = convert_labels(np.arange(15, dtype=np.uint8), "nnunet14", "totalsegmentator_mr")
    assert back.tolist() == [0, 18, *[19] * 9, 21, 0, 0, 20]
    mask = np.array([1, 24, 28, 26, 31, 27, 124, 224], np.uint8)
    assert convert_labels(mask, "instances", "nnunet14").tolist() == [0, 0, 0, 1, 1, 0, 14, 13]
    assert convert_labels(mask, "instances", "totalsegmentator_mr").tolist() == [19, 19, 19, 18, 18, 0, 20, 0]


def test_real_disc_points_lie_above_the_vertebra_of_their_number(test_data: Path) -> None:
    template = test_data / "sct-testing" / "template" / "template"
    levels = read_volume(template / "PAM50_small_levels.nii.gz")
    discs = read_volume(template / "PAM50_small_label_discPosterior.nii.gz")
    found = convert_labels(discs.array, "sct_discs", "instances")
    assert values(found) == {100 + n for n in range(1, 21)}
    assert np.array_equal(convert_labels(found, "instances", "sct_discs"), discs.array)
    for n in range(1, 20):
        height = discs.world(np.argwhere(found == 100 + n)).mean(axis=0)[2]
        above, below = (
            levels.world(np.argwhere(levels.array == k)).mean(axis=0)[2] if (levels.array == k).any() else -np.inf
            for k in (n, n + 1)
        )
        assert below < height < above, f"disc below {labels.vertebra_name(n)}"


def test_real_total_mr_masks_need_their_organs_declared(test_data: Path) -> None:
    array = read_volume(test_data / "totalsegmentator" / "example_seg_mr.nii.gz").array
    with pytest.raises(CaseError, match="label ids 1 "):
        convert_labels(array, "totalsegmentator_mr", "nnunet14")
    spine = np.where(np.isin(array, (18, 19, 20, 21)), array, 0)
    found = convert_labels(spine, "totalsegmentator_mr", "nnunet14")
    assert values(found) == {11, 14}
    assert int((found == 14).sum()) == int((array == 20).sum())


def test_reference_page_is_current() -> None:
    spec = importlib.util.spec_from_file_location("generate_labels", DOCS / "generate_labels.py")
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    current = generator.render() == generator.PAGE.read_text(encoding="utf-8")
    assert current, "docs/reference/labels.md is older than the table: run `make docs`"
    assert set(generator.ABOUT) == set(SCHEMES)
