"""What a SPIDER mask teaches, with structures missing, and semantic masks made by others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from layout_spider import Series, toy_patient

from nnunet_spine_ext.core.errors import CaseError, NoInputError, UsageError
from nnunet_spine_ext.core.io import write_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.dataset_conversion.header_repair import onto_image
from nnunet_spine_ext.dataset_conversion.spider_files import find_subregions, parse_series, patient_name
from nnunet_spine_ext.dataset_conversion.spider_masks import checked_mask
from nnunet_spine_ext.dataset_conversion.spider_targets import Recipe
from nnunet_spine_ext.dataset_conversion.subregions import as_nnunet14


def _toy() -> Series:
    return toy_patient("1")[0]


def _label(mask: np.ndarray, one: Series, **margins: float) -> np.ndarray:
    checked = checked_mask(one.image.with_array(mask), order="bottom-up", file="mask")
    return Recipe("nnunet14", **margins).label(checked).array  # type: ignore[arg-type]


def _without(one: Series, *numbers: int) -> np.ndarray:
    mask = one.mask().array.copy()
    mask[np.isin(mask, numbers)] = 0
    return mask


@pytest.mark.parametrize("absent", [(201,), (203,), (202, 203, 204), (1, 201), (5,), (5, 205), (100,)])
def test_with_structures_missing_nothing_false_is_taught(absent: tuple[int, ...]) -> None:
    # Endplates of a vertebra or a disc that nobody labelled are not called background, nor is what lies beyond.
    one = _toy()
    truth = one.semantic.array
    label = _label(_without(one, *absent), one)
    # Nothing tells that the canal of a whole mask is missing.
    known = (label != 15) & ~np.isin(truth, (11, 12) if 100 in absent else ())
    np.testing.assert_array_equal(label[known], truth[known])
    assert (label == 14).any()


@pytest.mark.parametrize("kept", [lambda ids: ids > 200, lambda ids: ids == 3, lambda ids: ids == 100])
def test_single_kinds_teach_little(kept: object) -> None:
    one = _toy()
    mask = one.mask().array
    label = _label(np.where(kept(mask), mask, 0).astype(np.int16), one)  # type: ignore[operator]
    assert set(np.unique(label)) <= {0, 14, 15}
    assert ((label == 14) == ((mask > 200) & kept(mask))).all()  # type: ignore[operator]


def test_parts_that_cannot_be_told_apart_are_left_out() -> None:
    one = _toy()
    array = one.semantic.array.copy()
    array[np.isin(array, (11, 12))] = 12
    array[2:7, 22:26][array[2:7, 22:26] == 12] = 11
    parts, warnings = as_nnunet14(one.semantic.with_array(array), file="parts")
    assert [(p.code, p.file) for p in warnings] == [("W-LABEL-UNCLEAR", "parts")]
    assert not np.isin(parts.array, (11, 12)).any()
    checked = checked_mask(one.mask(), order="bottom-up", file="mask")
    label = Recipe("nnunet14").label(checked, parts).array
    assert (label[one.mask().array == 100] == 15).all()
    # Also where SPIDER labelled nothing, such as above the highest vertebra, is what nobody knows no background.
    gone = one.mask().with_array(np.where(np.isin(one.mask().array, (1, 2, 3)), one.mask().array, 0))
    beyond = Recipe("nnunet14").label(checked_mask(gone, order="bottom-up", file="mask"), parts).array
    assert (beyond[np.isin(one.semantic.array, (11, 12))] == 15).all()
    assert set(np.unique(beyond)) > {0, 10, 15}


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (np.zeros_like, "E-LABEL-EMPTY", "empty"),
        (lambda array: np.where(array == 2, 77, array), "E-LABEL-UNKNOWN", "77"),
        (lambda array: array + 0.5, "E-LABEL-VALUE", "0.5"),
    ],
)
def test_masks_that_are_no_subregions(change: object, code: str, words: str) -> None:
    semantic = _toy().semantic
    with pytest.raises(CaseError, match=words) as caught:
        as_nnunet14(semantic.with_array(change(semantic.array)), file="parts")  # type: ignore[operator]
    assert caught.value.code == code


def test_subregions_are_found_by_the_name_of_their_case(tmp_path: Path) -> None:
    semantic = _toy().semantic
    for name in ("1_T2.nii.gz", "deep/1_t2_SPACE_seg-spine_msk.nii.gz", "2_t2_seg-vert_msk.nii.gz", "overview.csv"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        write_volume(semantic, path) if name.endswith("gz") else path.touch()
    found = find_subregions(tmp_path, ["1_t2", "1_t2_SPACE", "2_t2"])
    assert {case: source.name for case, source in found.items()} == {
        "1_t2": "1_T2.nii.gz", "1_t2_SPACE": "deep/1_t2_SPACE_seg-spine_msk.nii.gz",
    }  # fmt: skip
    with pytest.raises(NoInputError, match="7_t1"):
        find_subregions(tmp_path, ["7_t1"])
    write_volume(semantic, tmp_path / "1_t2_seg.nii.gz")
    with pytest.raises(UsageError, match="1_t2_seg"):
        find_subregions(tmp_path, ["1_t2"])


@pytest.mark.parametrize(
    ("name", "case_id"),
    [
        ("1_t1.mha", "1_t1"), ("1_T2.MHA", "1_t2"), ("001_t2_space.nii.gz", "1_t2_SPACE"),
        ("12_t2-Space", "12_t2_SPACE"), ("sub-3_t2SPACE.nii", "sub-3_t2_SPACE"),
        ("1_t3.mha", None), ("t2.mha", None), ("1_t2_copy.mha", None),
    ],
)  # fmt: skip
def test_names_of_series(name: str, case_id: str | None) -> None:
    key = parse_series(name)
    assert (key.case_id if key else None) == case_id


def test_patients_have_one_name() -> None:
    assert [patient_name(text) for text in ("5", "005", " 5.0 ", "A05", "0")] == ["5", "5", "5", "A05", "0"]


@pytest.mark.parametrize(("shift", "tolerance", "accepted"), [(3, None, False), (3, 5, True), (5, 200, True)])
def test_a_turned_mask_that_lies_a_little_off_is_not_mirrored(
    shift: float, tolerance: float | None, accepted: bool
) -> None:
    # Equal edges: the voxels could be taken one by one, from the wrong side.
    image = Volume(np.ones((20, 20, 20), np.float32), np.eye(4))
    array = np.zeros(image.shape, np.uint8)
    array[2, 5, 11] = 1
    affine = np.eye(4)
    affine[2, 3] = shift
    turned = Volume(array, affine).to("LPS")
    if accepted:
        placed, warnings = onto_image(turned, image, file="mask", tolerance_mm=tolerance)
        np.testing.assert_array_equal(placed.array, array)
        assert f"up to {shift} mm" in warnings[0].found
    else:
        with pytest.raises(CaseError, match="up to 3 mm"):
            onto_image(turned, image, file="mask", tolerance_mm=tolerance)


def test_headers_are_repaired_within_a_voxel_and_arrays_are_not_turned_by_a_lost_one() -> None:
    image = _toy().image
    mask = np.zeros(image.shape, np.uint8)
    mask[1, 2, 3] = 1

    def moved(*shift: float) -> Volume:
        affine = image.affine.copy()
        affine[:3, 3] += shift
        return Volume(mask, affine)

    for volume, said in ((moved(0, 0, 5e-4), 0), (moved(1.9, 0, 0), 1), (moved(0, 1.9, 0).to("PIR"), 1)):
        placed, warnings = onto_image(volume, image, file="mask")
        np.testing.assert_array_equal(placed.array, mask)
        np.testing.assert_array_equal(placed.affine, image.affine)
        assert len(warnings) == said
    with pytest.raises(CaseError, match="within 2 mm"):
        onto_image(moved(2.1, 0, 0), image, file="mask")
    with pytest.raises(CaseError, match=r"a mask of shape \(9, 44, 1"):
        onto_image(Volume(mask[:, :, 1:], image.affine), image, file="mask", tolerance_mm=1e6)
    lost = Volume(mask, np.diag([*image.spacing, 1.0]))
    placed, warnings = onto_image(lost, image, file="mask", tolerance_mm=1e6)
    np.testing.assert_array_equal(placed.array, mask)
    assert "axes turned by 180 degrees" in warnings[0].found
