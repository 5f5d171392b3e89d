"""Patches around vertebrae: where they lie, that the grid of the file does not matter, what they say of the picture."""

from __future__ import annotations

import numpy as np
import pytest
from numbered_builder import lumbar

from nnunet_spine_ext.core.errors import CaseError, UsageError
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.numbering.crops import CropSpec, cut_crops, normalized, vertebrae_of

SPEC = CropSpec((32, 32, 16), (4.0, 4.0, 5.0))
THORACIC = ("T10", "T11", "T12", "L1", "L2")


def test_the_vertebra_in_question_lies_in_the_centre_of_its_patch() -> None:
    image, semantic, instances = lumbar()
    crops = cut_crops(image, instances, semantic, "nnunet14", SPEC)
    assert crops.ids.tolist() == [22, 23, 24]
    assert crops.data.shape == (3, 3, 32, 32, 16)
    assert crops.sacrum
    centre = crops.data[:, 1:, 15:17, 15:17, 7:9]
    assert centre.min() > 0.9
    # All layers hold what they are named after: below L3 the others are in the picture, and the sacrum below L5.
    below = crops.data[:, :, 10:22, 24:, 6:10]
    assert below[:, 1].max() < 0.5
    assert (below[:, 2].max(axis=(1, 2, 3)) > 0.9).all()


@pytest.mark.parametrize("orientation", ["LPS", "PIR", "ASL", "SRA", "ILP"])
@pytest.mark.parametrize("rotate", [False, True])
def test_the_order_of_the_axes_changes_nothing(orientation: str, rotate: bool) -> None:
    image, semantic, instances = lumbar(scoliosis=12.0)
    spec = CropSpec(SPEC.size, SPEC.spacing, rotate=rotate)
    first = cut_crops(image, instances, semantic, "nnunet14", spec)
    other = cut_crops(*(v.to(orientation) for v in (image, instances, semantic)), "nnunet14", spec)
    assert first.ids.tolist() == other.ids.tolist()
    assert first.whole.tolist() == other.whole.tolist()
    np.testing.assert_allclose(first.data, other.data, atol=1e-4)


def test_an_oblique_scan_with_other_voxels_shows_the_same() -> None:
    image, semantic, instances = lumbar()
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    middle = image.world((np.asarray(image.shape) - 1) / 2)
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([3.5, 1.5, 1.5])
    shape = (60, 100, 140)
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    grid = Volume(np.broadcast_to(np.float32(0), shape), affine)
    first = cut_crops(image, instances, semantic, "nnunet14", SPEC)
    other = cut_crops(
        image.resample_like(grid, order=1),
        instances.resample_like(grid, order=0),
        semantic.resample_like(grid, order=0),
        "nnunet14",
        SPEC,
    )
    for a, b in zip(first.data[:, 1].reshape(3, -1), other.data[:, 1].reshape(3, -1), strict=True):
        assert np.corrcoef(a, b)[0, 1] > 0.95
    assert np.linalg.norm(first.centres - other.centres, axis=1).max() < 1.5


def test_a_rotated_patch_shows_a_leaning_spine_upright() -> None:
    image, semantic, instances = lumbar(lordosis=0.0, sacrum=False)
    angle = np.deg2rad(20)
    turn = np.eye(4)
    turn[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    leaning = [Volume(v.array, turn @ v.affine) for v in (image, instances, semantic)]
    upright = cut_crops(image, instances, semantic, "nnunet14", SPEC).data
    as_is = cut_crops(*leaning, "nnunet14", SPEC).data
    turned = cut_crops(*leaning, "nnunet14", CropSpec(SPEC.size, SPEC.spacing, rotate=True)).data
    assert np.abs(turned[:, 2] - upright[:, 2]).mean() < 0.1 * np.abs(as_is[:, 2] - upright[:, 2]).mean()


def test_voxels_of_the_patch_hold_the_mean_of_what_lies_in_them() -> None:
    _, semantic, instances = lumbar(spacing=(3.0, 1.0, 1.0))
    stripes = np.zeros(semantic.shape, np.float32)
    stripes[:, :, ::2] = 200.0
    crops = cut_crops(semantic.with_array(stripes + 1), instances, semantic, "nnunet14", SPEC)
    inner = crops.data[1, 0, 12:20, 12:20, 6:10]
    assert inner.std() < 0.1 * inner.mean()


def test_the_image_is_scored_over_its_nonzero_voxels() -> None:
    image, semantic, instances = lumbar()
    crops = cut_crops(image, instances, semantic, "nnunet14", CropSpec((48, 48, 16), (5.0, 5.0, 5.0)))
    outside = crops.data[:, 0] == 0
    assert outside.any()
    result = normalized(crops.data, "image+masks")
    for patch, none in zip(result[:, 0], outside, strict=True):
        assert abs(patch[~none].mean()) < 1e-3
        assert abs(patch[~none].std() - 1) < 1e-3
        assert (patch[none] == 0).all()
    np.testing.assert_array_equal(result[:, 1:], crops.data[:, 1:])
    assert normalized(crops.data, "image").shape[1] == 1
    assert normalized(crops.data, "masks").shape[1] == 2
    flat = cut_crops(image.with_array(np.full(image.shape, 7, np.int16)), instances, semantic, "nnunet14", SPEC)
    assert np.isfinite(normalized(flat.data, "image")).all()
    empty = cut_crops(image.with_array(np.zeros(image.shape, np.int16)), instances, semantic, "nnunet14", SPEC)
    assert (normalized(empty.data, "image") == 0).all()


def test_infinite_and_missing_values_of_the_image_do_no_harm() -> None:
    image, semantic, instances = lumbar()
    array = image.array.copy()
    array[5, 5, 5:9] = np.nan, np.inf, -np.inf, 1.0
    crops = cut_crops(image.with_array(array), instances, semantic, "nnunet14", SPEC)
    assert np.isfinite(normalized(crops.data, "image+masks")).all()


def test_vertebrae_at_the_upper_or_lower_edge_are_not_whole_those_at_the_side_are() -> None:
    image, semantic, instances = lumbar(levels=THORACIC)
    high = int(np.flatnonzero((instances.array == 17).any(axis=(0, 1)))[-1])
    wide = np.flatnonzero((instances.array == 19).any(axis=(1, 2)))
    box = (slice(int(wide[0]) + 1, None), slice(None), slice(None, high - 2))
    parts = [v.crop(box) for v in (image, instances, semantic)]
    crops = cut_crops(parts[0], parts[1], parts[2], "nnunet14", SPEC)
    assert crops.ids.tolist() == [17, 18, 19, 20, 21]
    assert crops.whole.tolist() == [False, True, True, True, True]


def test_masks_alone_need_no_image_and_images_do_not_need_classes() -> None:
    image, semantic, instances = lumbar()
    masks = cut_crops(None, instances, semantic, "nnunet14", SPEC)
    both = cut_crops(image, instances, semantic, "nnunet14", SPEC)
    np.testing.assert_array_equal(masks.data[:, 1:], both.data[:, 1:])
    assert (masks.data[:, 0] == 0).all()
    whole = cut_crops(image, instances, None, "nnunet14", SPEC)
    # The centre of a whole vertebra lies behind that of its body.
    assert (whole.centres[:, 1] < both.centres[:, 1] - 3).all()
    levels = cut_crops(image, instances, instances, "instances", SPEC)
    np.testing.assert_array_equal(levels.centres, whole.centres)


def test_vertebrae_come_head_to_tail_and_a_t13_has_its_place() -> None:
    array = np.zeros((4, 4, 6), np.uint16)
    array[0, 0] = 20, 28, 19, 26, 119, 219
    assert vertebrae_of(Volume(array, np.eye(4))) == [19, 28, 20]


def test_a_mask_without_vertebrae_has_no_patches() -> None:
    image, semantic, instances = lumbar()
    crops = cut_crops(image, instances.with_array(np.zeros_like(instances.array)), semantic, "nnunet14", SPEC)
    assert len(crops) == 0
    assert normalized(crops.data, "image+masks").shape == (0, 3, 32, 32, 16)


def test_ids_that_are_none_and_grids_that_differ_are_errors() -> None:
    image, semantic, instances = lumbar()
    odd = instances.array.copy()
    odd[odd == 22] = 77
    with pytest.raises(CaseError, match="77") as caught:
        cut_crops(image, instances.with_array(odd), semantic, "nnunet14", SPEC)
    assert caught.value.code == "E-LABEL-UNKNOWN"
    with pytest.raises(CaseError) as caught:
        cut_crops(image, instances, semantic.with_array(semantic.array + 9), "nnunet14", SPEC)
    assert caught.value.code == "E-LABEL-UNKNOWN"
    shifted = Volume(image.array, image.affine + np.array([[0, 0, 0, 5.0], *[[0.0] * 4] * 3]))
    for parts in ((shifted, instances, semantic), (image, instances, Volume(semantic.array, shifted.affine))):
        with pytest.raises(CaseError) as caught:
            cut_crops(*parts, "nnunet14", SPEC)
        assert caught.value.code == "E-GEOM-GRID"


@pytest.mark.parametrize("changes", [{"size": (3, 32, 32)}, {"spacing": (0.0, 1.0, 1.0)}])
def test_impossible_patches_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"crop\.size"):
        CropSpec(**changes)  # type: ignore[arg-type]


def test_a_widened_patch_has_the_same_centre() -> None:
    spec = CropSpec((31, 32, 15), (4.0, 4.0, 5.0))
    wide = spec.widened(1.2)
    assert all((b - a) % 2 == 0 and b >= 1.2 * a for a, b in zip(spec.size, wide.size, strict=True))
    assert spec.widened(1.0) == spec
