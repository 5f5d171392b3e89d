"""Slices of raw datasets: grid, scale and the way back, whose they are, what is left out, pairs and regions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from slice_cohort import dataset, disc_rows, spine

from nnunet_spine_ext.core.config import load_config, to_dict
from nnunet_spine_ext.core.errors import NoInputError, UsageError
from nnunet_spine_ext.core.io import read_volume
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.harmonize.slice_grid import covered
from nnunet_spine_ext.harmonize.slices import (
    UNKNOWN,
    SliceFacts,
    SliceSet,
    SliceSettings,
    other_vendors,
    prepare_mask,
    prepare_slice,
    read_slices,
    restore,
    roi_window,
    vendor_counts,
    weak_pairs,
)

SMALL = SliceSettings(size=(96, 96), spacing=1.0)
TWO = ({"case": "a", "manufacturer": "Siemens"}, {"case": "b", "manufacturer": "Philips"})


def smooth(shape: tuple[int, int], seed: int = 0) -> Array:
    """Return a smooth picture from 100 to 700."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(*(np.linspace(0, 3, n) for n in shape), indexing="ij")
    return (400 + 150 * np.sin(y + rng.uniform()) + 150 * np.cos(x * 1.5)).astype(np.float32)


# --- one slice ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", ["minmax", "robust"])
@pytest.mark.parametrize("fit", ["crop", "resize"])
def test_a_slice_goes_to_the_grid_and_the_scale_and_back(fit: str, scaling: str) -> None:
    image = smooth((150, 120))
    settings = load_config(SliceSettings, {"size": [128, 160], "spacing": 0.8, "fit": fit, "scaling": scaling})
    prepared, frame = prepare_slice(image, (0.7, 0.9), settings)
    assert prepared.shape == (128, 160)
    assert prepared.dtype == np.float32
    assert prepared.min() >= 0
    assert prepared.max() <= 255
    back = restore(prepared, frame, original=image)
    assert back.shape == image.shape
    # Resampling to a coarser grid and back loses a little at the border.
    assert np.abs(back - image)[3:-3, 3:-3].max() < 6
    if fit == "crop":
        # 150 rows of 0.7 mm are 131 of 0.8 mm: cut to 128; 120 columns of 0.9 mm are 135: filled up to 160.
        assert frame.resampled == (131, 135)
        assert (prepared[:, :12] == 0).all()
        assert not covered(frame)[0].any()
        assert (restore(prepared, frame, original=image)[0] == image[0]).all()
        assert np.isnan(restore(prepared, frame)[0]).all()
        assert (restore(prepared, frame, units=False)[0] == 0).all()


def test_a_slice_is_not_changed_where_grid_and_scale_are_its_own() -> None:
    image = np.round(smooth((96, 96)))
    image[0, 0], image[0, 1] = 0, 255 * 4
    prepared, frame = prepare_slice(image, (1.0, 1.0), replace(SMALL, scaling="minmax"))
    np.testing.assert_allclose(prepared, image / 4, rtol=1e-6)
    np.testing.assert_allclose(restore(prepared, frame), image, rtol=1e-5)
    assert covered(frame).all()


def test_one_hot_pixel_moves_the_minmax_scale_alone_and_comes_back_in_both() -> None:
    image = smooth((96, 96))
    hot = image.copy()
    hot[50, 50] = 1e5
    plain, _ = prepare_slice(image, (1.0, 1.0), SMALL)
    robust, frame = prepare_slice(hot, (1.0, 1.0), SMALL)
    minmax, _ = prepare_slice(hot, (1.0, 1.0), replace(SMALL, scaling="minmax"))
    assert np.abs(robust - plain).mean() < 0.5
    assert np.median(minmax) < 2 < 50 < np.median(plain)
    np.testing.assert_allclose(restore(robust, frame, original=hot), hot, rtol=1e-4)


def test_whole_slices_are_filled_up_and_nothing_is_cut() -> None:
    image = smooth((150, 120))
    prepared, frame = prepare_slice(image, (1.0, 1.0), SMALL, whole=True, multiple=16)
    assert prepared.shape == (160, 128)
    assert covered(frame).all()
    np.testing.assert_allclose(restore(prepared, frame, original=image), image, rtol=1e-4)


def test_finer_pixels_are_averaged_not_picked() -> None:
    noise = np.random.default_rng(0).normal(500, 50, (384, 384)).astype(np.float32)
    prepared, frame = prepare_slice(noise, (0.25, 0.25), SMALL)
    spread = prepared.std() * (frame.high - frame.low) / 255
    # Of four by four pixels under a triangle twice as wide: 50 / sqrt(4 * 4 * (9 / 4)).
    assert 5 < spread < 10


def test_constant_missing_and_infinite_pixels() -> None:
    zeros, frame = prepare_slice(np.full((50, 50), 7.0), (1.0, 1.0), SMALL)
    assert frame.flat
    assert not zeros.any()
    image = smooth((96, 96))
    image[0, :3] = [np.nan, np.inf, -np.inf]
    prepared, frame = prepare_slice(image, (1.0, 1.0), SMALL)
    assert np.isfinite(prepared).all()
    assert not frame.flat


def test_a_mask_follows_its_image_and_the_unknown_stays_unknown() -> None:
    mask = np.zeros((100, 100), np.uint8)
    mask[40:60, 30:50] = 1
    mask[90:, :] = UNKNOWN
    _, frame = prepare_slice(smooth((100, 100)), (0.5, 0.5), replace(SMALL, size=(64, 64)))
    prepared = prepare_mask(mask, frame)
    assert prepared.dtype == np.uint8
    assert (prepared == 1).sum() == 100
    assert set(np.unique(prepared[52:57, 7:57])) == {UNKNOWN}
    assert prepared[0, 0] == 0
    assert (prepare_mask(np.full((100, 100), UNKNOWN, np.uint8), frame) == UNKNOWN).all()


@pytest.mark.parametrize(
    "values", [{"size": [30, 96]}, {"size": [98, 96]}, {"spacing": 0.0}, {"middle": -1.0}, {"channel": -1}]
)
def test_settings_outside_their_limits_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="E-SLICE-SETTINGS"):
        load_config(SliceSettings, values)


def test_settings_survive_json() -> None:
    settings = SliceSettings(size=(64, 96), spacing=0.8, middle=12.0, disc_classes=(14,), contrast="T1w")
    assert load_config(SliceSettings, json.loads(json.dumps(to_dict(settings)))) == settings


def test_a_slice_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="rows and columns"):
        prepare_slice(np.zeros((4, 4, 4)), (1.0, 1.0), SMALL)
    with pytest.raises(ValueError, match="pixel size"):
        prepare_slice(smooth((64, 64)), (1.0, 1.0), SliceSettings())
    prepared, frame = prepare_slice(smooth((64, 64)), (1.0, 1.0), SMALL)
    with pytest.raises(ValueError, match="do not fit"):
        restore(prepared[1:], frame)


# --- datasets -------------------------------------------------------------------------------------------------------


def test_slices_are_those_of_the_scan_whatever_its_orientation(tmp_path: Path) -> None:
    image, mask = spine()
    rows = [{"case": name, "manufacturer": "Siemens", "image": image.to(turn), "mask": mask.to(turn)}
            for name, turn in (("a", "LIP"), ("b", "RAS"), ("c", "PIR"), ("d", "SLA"))]  # fmt: skip
    found = read_slices([dataset(tmp_path, rows)], settings=SMALL)
    assert len(found) == 20
    assert found.spacing == (1.0, 1.0)
    assert found.masks is not None
    first = found.images[:5]
    for k in range(1, 4):
        np.testing.assert_array_equal(found.images[5 * k : 5 * k + 5], first)
        np.testing.assert_array_equal(found.masks[5 * k : 5 * k + 5], found.masks[:5])
    assert [fact.position for fact in found.facts[:5]] == [-8, -4, 0, 4, 8]
    assert disc_rows(found.masks[2]).tolist()[:7] == [8, 9, 10, 11, 12, 13, 28]
    assert first[2, 10, 50] > 2 * first[2, 20, 50] > 0


def test_slices_are_chosen_by_vendor_middle_contrast_and_part(tmp_path: Path) -> None:
    rows = [
        {"case": "a", "manufacturer": "SIEMENS", "model": "Essenza"},
        {"case": "b", "manufacturer": "Siemens ", "model": "Amira"},
        {"case": "c", "manufacturer": "Philips", "model": "Intera", "contrast": "T2w"},
        {"case": "d", "manufacturer": "Philips", "model": "Intera", "test": True, "mask": None},
    ]
    folder = dataset(tmp_path, rows)
    assert vendor_counts([folder]) == {"Philips": 1, "SIEMENS": 2}
    assert other_vendors([folder], ["siemens"]) == ("Philips",)
    assert list(vendor_counts([folder], key="manufacturer+model")) == [
        "Philips+Intera",
        "SIEMENS+Essenza",
        "Siemens+Amira",
    ]
    found = read_slices([folder], values=["siemens"], settings=replace(SMALL, middle=4.0))
    assert {fact.case for fact in found.facts} == {"a", "b"}
    assert len(found) == 6
    assert {fact.case for fact in read_slices([folder], settings=replace(SMALL, contrast="t2W")).facts} == {"c"}
    test = read_slices([folder], settings=SMALL, part="Ts")
    assert {fact.case for fact in test.facts} == {"d"}
    assert test.masks is None
    assert (test.mask_tensor() == UNKNOWN).all()


def test_pixels_are_the_median_of_the_scans_without_a_size(tmp_path: Path) -> None:
    image, mask = spine(size=96)
    fine = np.diag([1.0, 0.5, 0.5, 1.0])
    half = [Volume(volume.array, volume.affine @ fine) for volume in (image, mask)]
    rows = [*TWO, {"case": "c", "manufacturer": "GE", "image": half[0], "mask": half[1]}]
    folder = dataset(tmp_path, rows)
    assert read_slices([folder], settings=SliceSettings(size=(96, 96))).spacing == (1.0, 1.0)
    assert read_slices([folder], values=["GE"], settings=SliceSettings(size=(96, 96))).spacing == (0.5, 0.5)
    assert read_slices([folder], values=["GE"], settings=SliceSettings((192, 96), fit="resize")).spacing == (0.25, 0.5)


def test_scans_that_are_left_out_do_not_decide_the_size_of_pixels(tmp_path: Path) -> None:
    image, mask = spine()
    thick = [Volume(v.array, v.affine @ np.diag([0.25, 4.0, 1.0, 1.0])) for v in (image, mask)]
    axial = {"case": "axial", "manufacturer": "GE", "image": thick[0], "mask": thick[1]}
    fine = [Volume(v.array, v.affine @ np.diag([1.0, 0.5, 0.5, 1.0])) for v in (image, mask)]
    ct = {"case": "ct", "manufacturer": "GE", "contrast": "CT", "image": fine[0], "mask": fine[1]}
    tiny = (slice(None), slice(0, 24), slice(0, 24))
    small = {"case": "small", "manufacturer": "GE", "image": fine[0].crop(tiny), "mask": fine[1].crop(tiny)}
    folder = dataset(tmp_path, [{"case": "good", "manufacturer": "GE"}, axial, ct, small])
    found = read_slices([folder], settings=SliceSettings(size=SMALL.size))
    assert {fact.case for fact in found.facts} == {"good"}
    assert found.spacing == (1.0, 1.0)


def test_cases_without_masks_have_unknown_discs(tmp_path: Path) -> None:
    rows = [TWO[0], {**TWO[1], "mask": None}]
    found = read_slices([dataset(tmp_path, rows, ignore=True)], settings=SMALL)
    assert found.masks is not None
    assert found.labelled() == [0, 1, 2, 3, 4]
    assert (found.masks[5:] == UNKNOWN).all()


def test_equal_calls_give_equal_bytes(tmp_path: Path) -> None:
    folder = dataset(tmp_path, TWO)
    one, two = (read_slices([folder], settings=SMALL) for _ in range(2))
    assert one.images.tobytes() == two.images.tobytes()
    assert one.facts == two.facts


def test_discs_are_known_by_name_or_by_id(tmp_path: Path) -> None:
    image, mask = spine()
    small = mask.with_array((mask.array > 0).astype(np.uint8) * 2)
    row = {"case": "a", "manufacturer": "GE", "image": image, "mask": small}
    named = dataset(tmp_path, [row], labels={"bone": 1, "IVD": 2}, scheme="custom")
    found = read_slices([named], settings=SMALL)
    assert found.masks is not None
    assert (found.masks == 1).any()
    unnamed = dataset(tmp_path, [row], labels={"one": 1, "two": 2}, scheme="custom", number=931)
    silent = read_slices([unnamed], settings=SMALL)
    assert [problem.code for problem in silent.problems] == ["W-SLICE-DISC"]
    assert silent.masks is None
    told = read_slices([unnamed], settings=replace(SMALL, disc_classes=(2,)))
    assert told.masks is not None
    np.testing.assert_array_equal(told.masks, found.masks)


def test_real_scans_have_the_head_up_and_the_front_on_the_left(tmp_path: Path, test_data: Path) -> None:
    image = read_volume(test_data / "tptbox" / "sample_mri" / "sub-mri_label-6_T2w.nii.gz")
    mask = read_volume(test_data / "tptbox" / "sample_mri" / "sub-mri_seg-subreg_label-6_msk.nii.gz")
    # Disc, body and spinous process of SPINEPS' classes.
    classes = np.select([mask.array == k for k in (100, 49, 42)], [1, 2, 3], 0).astype(np.uint8)
    row = {"case": "a", "manufacturer": "GE", "contrast": "T2w", "image": image, "mask": mask.with_array(classes)}
    labels = {"disc": 1, "corpus": 2, "spinous process": 3}
    folder = dataset(tmp_path, [row], labels=labels, scheme="custom")
    settings = SliceSettings(size=(96, 96), middle=6.0)
    found, bodies, processes = (
        read_slices([folder], settings=replace(settings, disc_classes=(k,))).masks for k in (1, 2, 3)
    )
    assert found is not None
    assert bodies is not None
    assert processes is not None
    columns = [np.nonzero(m == 1)[2].mean() for m in (found, bodies, processes)]
    assert columns[2] > columns[1] + 10
    assert abs(columns[1] - columns[0]) < 10
    slices = read_slices([folder], settings=settings)
    assert slices.spacing == (1.5, 1.5)
    # Every slice gives back its scan, within what resampling to nearly equal pixels loses: nothing here.
    lip = image.turned("LIP")
    for picture, fact in zip(slices.images, slices.facts, strict=True):
        original = lip.array[fact.index].astype(np.float32)
        prepared, frame = prepare_slice(original, lip.spacing[1:], replace(settings, spacing=1.5))
        np.testing.assert_array_equal(prepared, picture)
        np.testing.assert_allclose(restore(prepared, frame, original=original), original, atol=0.01)


# --- faults ---------------------------------------------------------------------------------------------------------


def test_an_unknown_vendor_or_key_names_the_nearest(tmp_path: Path) -> None:
    folder = dataset(tmp_path, TWO)
    with pytest.raises(UsageError, match=r"did you mean 'Philips'.*E-SLICE-VENDOR"):
        read_slices([folder], values=["Philip"], settings=SMALL)
    with pytest.raises(UsageError, match="E-SLICE-VENDOR"):
        read_slices([folder], values=[], settings=SMALL)
    with pytest.raises(UsageError, match=r"did you mean 'manufacturer'.*E-SLICE-KEY"):
        read_slices([folder], key="manufacture", settings=SMALL)


def test_a_single_vendor_cannot_be_harmonized(tmp_path: Path) -> None:
    folder = dataset(tmp_path, TWO[:1])
    with pytest.raises(UsageError, match=r"no manufacturer but the target's: Siemens \(1 case\).*E-SLICE-SINGLE"):
        other_vendors([folder], ["Siemens"])


def test_what_is_no_raw_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="E-SLICE-DATASET"):
        read_slices([tmp_path], settings=SMALL)


def test_scans_that_cannot_be_used_are_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image, mask = spine()
    hounsfield = image.with_array(np.where(image.array > 100, 60, -1000).astype(np.int16))
    tiny = (slice(None), slice(0, 24), slice(0, 24))
    thick = [Volume(v.array, v.affine @ np.diag([0.25, 4.0, 1.0, 1.0])) for v in (image, mask)]
    flat = image.array.copy()
    flat[1] = 3
    rows = [
        {"case": "good", "manufacturer": "GE"},
        {"case": "ct", "manufacturer": "GE", "contrast": "CT"},
        {"case": "hu", "manufacturer": "GE", "contrast": None, "image": hounsfield},
        {"case": "tiny", "manufacturer": "GE", "image": image.crop(tiny), "mask": mask.crop(tiny)},
        {"case": "axial", "manufacturer": "GE", "image": thick[0], "mask": thick[1]},
        {"case": "flat", "manufacturer": "GE", "image": image.with_array(flat)},
        {"case": "nobody"},
        {"case": "broken", "manufacturer": "GE"},
        {"case": "unmasked", "manufacturer": "GE"},
    ]
    folder = dataset(tmp_path, rows)
    broken = folder / "imagesTr" / "broken_0000.nii.gz"
    broken.write_bytes(broken.read_bytes()[:2000])
    (folder / "labelsTr" / "unmasked.nii.gz").unlink()
    found = read_slices([folder], settings=SMALL)
    assert {fact.case for fact in found.facts} == {"good", "flat", "unmasked"}
    assert len(found) == 5 + 4 + 5
    said = {problem.code: problem.file for problem in found.problems}
    for code, name in (
        ("W-SLICE-SMALL", "tiny"), ("W-SLICE-PLANE", "axial"), ("W-SLICE-FLAT", "flat"),
        ("W-SLICE-VENDOR", "cases.json"), ("E-IN-TRUNCATED", "broken"), ("W-SLICE-MASK", "unmasked"),
    ):  # fmt: skip
        assert name in said[code]
        assert code in caplog.text
    assert sum(problem.code == "W-SLICE-CT" for problem in found.problems) == 2
    assert not any(fact.labelled for fact in found.facts if fact.case == "unmasked")
    # A scan of another kind is no mistake; one that cannot be read is, and the commands say so by their exit code.
    assert [problem.code for problem in found.problems if problem.severity == "error"] == ["E-IN-TRUNCATED"]


def test_a_case_without_its_image_is_said(tmp_path: Path) -> None:
    folder = dataset(tmp_path, [{"case": "here", "manufacturer": "GE"}, {"case": "gone", "manufacturer": "GE"}])
    (folder / "imagesTr" / "gone_0000.nii.gz").unlink()
    found = read_slices([folder], settings=SMALL)
    assert {fact.case for fact in found.facts} == {"here"}
    (problem,) = found.problems
    assert problem.severity == "error"
    assert "gone" in problem.file


def test_cases_that_say_no_subject_are_not_one_person(tmp_path: Path) -> None:
    folder = dataset(tmp_path, [{"case": name, "manufacturer": "GE"} for name in ("a", "b")])
    table = json.loads((folder / "cases.json").read_text())
    for row in table["cases"].values():
        row["subject"] = None
    (folder / "cases.json").write_text(json.dumps(table))
    assert read_slices([folder], settings=SMALL).subjects == ("a", "b")


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path) -> None:
    folder = dataset(tmp_path, [{"case": "ct", "manufacturer": "GE", "contrast": "CT"}])
    with pytest.raises(NoInputError, match=r"no slice of manufacturer GE; left out: W-SLICE-CT \(1\).*E-SLICE-EMPTY"):
        read_slices([folder], values=["GE"], settings=SMALL)


def test_several_contrasts_are_no_styles(tmp_path: Path) -> None:
    folder = dataset(tmp_path, [TWO[0], {**TWO[1], "contrast": "T2w"}])
    assert [p.code for p in read_slices([folder], settings=SMALL).problems] == ["W-SLICE-CONTRAST"]
    assert not read_slices([folder], settings=replace(SMALL, contrast="T1w")).problems


# --- sets -----------------------------------------------------------------------------------------------------------


def slices_of(subjects: dict[str, str], *, count: int = 3, masks: Array | None = None) -> SliceSet:
    """Return a set with `count` slices of each subject, by vendor."""
    facts = tuple(
        SliceFacts("D", f"c{s}", s, vendor, k, 4.0 * (k - 1), masks is not None)
        for s, vendor in subjects.items() for k in range(count)
    )  # fmt: skip
    return SliceSet(np.arange(len(facts), dtype=np.float32)[:, None, None] * np.ones((1, 64, 64), np.float32), masks,
                    facts, (1.0, 1.0))  # fmt: skip


def test_a_split_keeps_subjects_together_and_every_vendor_on_both_sides() -> None:
    people = {f"s{k}": ("Siemens", "Philips", "GE")[k % 3] for k in range(30)}
    found = slices_of(people)
    train, held = found.split(0.2, seed=1)
    assert sorted([*train, *held]) == list(range(90))
    assert not {found.facts[i].subject for i in train} & {found.facts[i].subject for i in held}
    assert len(held) == 18
    for side in (train, held):
        assert set(found.subset(side).by_vendor()) == {"Siemens", "Philips", "GE"}
    assert found.split(0.2, seed=1) == (train, held)
    assert found.split(0.2, seed=2) != (train, held)


def test_a_split_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="E-SLICE-SPLIT"):
        slices_of({"a": "GE"}).split(0.2, seed=0)
    with pytest.raises(UsageError, match="E-SLICE-SPLIT"):
        slices_of({"a": "GE", "b": "GE"}).split(1.0, seed=0)


def test_tensors_and_subsets_are_in_the_order_asked_for() -> None:
    found = slices_of({"a": "GE", "b": "Philips"})
    batch = found.tensor([4, 0])
    assert batch.shape == (2, 1, 64, 64)
    assert batch[:, 0, 0, 0].tolist() == [4, 0]
    some = found.subset([4, 0])
    assert [fact.subject for fact in some.facts] == ["b", "a"]
    assert found.by_vendor() == {"GE": [0, 1, 2], "Philips": [3, 4, 5]}
    assert found.by_subject() == {"a": [0, 1, 2], "b": [3, 4, 5]}
    with pytest.raises(ValueError, match="do not fit"):
        SliceSet(found.images, None, found.facts[1:], (1.0, 1.0))


# --- region and pairs -----------------------------------------------------------------------------------------------


def test_the_region_follows_the_discs_and_stays_inside() -> None:
    mask = np.zeros((320, 320), np.uint8)
    mask[100:110, 200:230] = 1
    window = roi_window(mask, mask.shape)
    assert window == (slice(0, 320), slice(155, 275))
    assert window.found
    assert mask[window].sum() == mask.sum()
    mask[:] = 0
    mask[100:110, 300:320] = 1
    assert roi_window(mask, mask.shape)[1] == slice(200, 320)
    soft = np.zeros((320, 320), np.float32)
    soft[50:80, 60:80] = 0.9
    soft[50:80, 200:320] = 0.3
    assert roi_window(soft, soft.shape)[1] == slice(10, 130)


def test_without_discs_the_region_is_in_the_middle_and_says_so() -> None:
    for mask in (None, np.zeros((320, 320)), np.full((320, 320), UNKNOWN)):
        window = roi_window(mask, (320, 320))
        assert window == (slice(0, 320), slice(100, 220))
        assert not window.found
    assert roi_window(None, (96, 64)) == (slice(0, 96), slice(0, 64))
    with pytest.raises(ValueError, match="does not fit"):
        roi_window(np.zeros((4, 4)), (320, 320))


def test_pairs_show_the_same_place_and_level(tmp_path: Path) -> None:
    rows = []
    for case, vendor, shift in (("a", "A", 0), ("b", "B", 9), ("c", "B", 1)):
        image, mask = spine(shift=shift)
        rows.append({"case": case, "manufacturer": vendor, "image": image, "mask": mask})
    folder = dataset(tmp_path, rows)
    source, target = (read_slices([folder], values=[name], settings=SMALL) for name in ("A", "B"))
    pairs = weak_pairs(source, target)
    assert [i for i, _ in pairs] == list(range(5))
    found = [(target.facts[j].case, target.facts[j].position - source.facts[i].position) for i, j in pairs[1:4]]
    assert found == [("c", 0.0)] * 3
    # Slices beside the discs are paired by position alone.
    assert [target.facts[j].position for _, j in (pairs[0], pairs[4])] == [-8.0, 8.0]


def test_pairs_without_masks_go_by_position_and_other_grids_are_refused() -> None:
    source, target = slices_of({"a": "GE"}), slices_of({"b": "Philips"}, count=2)
    assert weak_pairs(source, target) == [(0, 0), (1, 1), (2, 1)]
    other = SliceSet(target.images, None, target.facts, (0.5, 0.5))
    with pytest.raises(UsageError, match="E-SLICE-PAIRS"):
        weak_pairs(source, other)
    with pytest.raises(UsageError, match="E-SLICE-PAIRS"):
        weak_pairs(source, target.subset([]))


def test_pairs_of_resized_slices_are_nearest_in_mm(tmp_path: Path) -> None:
    def scan(size: int, top: int) -> dict[str, Any]:
        image, mask = spine(size=size)
        return {
            "image": image.with_array(_one_level(image.array, top, is_mask=False)),
            "mask": mask.with_array(_one_level(mask.array, top, is_mask=True)),
        }

    # Discs 23 mm below the middle of 96 mm, as far below that of 192 mm, and 15 mm below that of 96 mm: stretched to 96
    # rows each, the last one has the rows that are more like those of the first.
    rows = [
        {"case": "s", "manufacturer": "A", **scan(96, 68)},
        {"case": "same", "manufacturer": "B", **scan(192, 116)},
        {"case": "other", "manufacturer": "B", **scan(96, 60)},
        {"case": "blind", "manufacturer": "B", **scan(96, 68), "mask": None},
    ]
    folder = dataset(tmp_path, rows, ignore=True)
    settings = SliceSettings(size=(96, 96), fit="resize", middle=1.0)
    source, target = (read_slices([folder], values=[name], settings=settings) for name in ("A", "B"))
    assert {fact.case: fact.row for fact in target.facts} == {"same": 2.0, "other": 1.0, "blind": 1.0}
    rows_only = [replace(part, facts=tuple(replace(f, row=None) for f in part.facts)) for part in (source, target)]
    assert [target.facts[k].case for _, k in weak_pairs(*rows_only)] == ["other"], "the test would show nothing"
    assert [target.facts[k].case for _, k in weak_pairs(source, target)] == ["same"]
    together = read_slices([folder], settings=settings)
    own, others = ([k for k, f in enumerate(together.facts) if (f.vendor == "A") == first] for first in (True, False))
    pairs = weak_pairs(together.subset(own), together.subset(others))
    assert [together.facts[others[k]].case for _, k in pairs] == ["same"]
    cropped = read_slices([folder], values=["A"], settings=SMALL)
    assert all(fact.row is None for fact in cropped.facts)


def _one_level(array: Array, top: int, *, is_mask: bool) -> Array:
    """Return slices with one disc, that begins in row `top`."""
    found = np.zeros_like(array) if is_mask else np.where(array > 600, 400, array)
    found[1:-1, top : top + 6, 40:60] = 14 if is_mask else 900
    return found
