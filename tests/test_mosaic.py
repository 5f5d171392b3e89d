"""Chunks of one spine joined: grid, intensities, masks, numbers, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from layout_nako import ANGLES, CHUNKS, PARTS, SHIFTS, STRAIGHT, cut, phantom, rotation

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.mosaic import Mosaic, filled_box, plan_mosaic
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.instances.joining import joined_numbers


def chunks(
    angles: tuple[tuple[float, float, float], ...] = STRAIGHT,
    shifts: tuple[tuple[float, float, float], ...] = STRAIGHT,
    gains: tuple[float, ...] = (1.6, 1.0, 0.7),
) -> tuple[list[Volume], list[Volume], Mosaic]:
    """Return three images, their semantic masks, and the plan."""
    scan = phantom()
    rows = list(zip(PARTS, angles, shifts, gains, strict=True))
    images = [cut(scan.image, part, angles=a, shift=s, gain=g) for part, a, s, g in rows]
    masks = [cut(scan.semantic, part, angles=a, shift=s, order=0) for part, a, s, _ in rows]
    return images, masks, plan_mosaic(images, CHUNKS, file="sub-1")


def test_chunks_of_one_grid_give_the_original_back_to_the_last_bit() -> None:
    scan = phantom()
    images, masks, mosaic = chunks(gains=(1.0, 1.0, 1.0))
    stitched = mosaic.image(images)
    assert stitched.volume.same_grid(scan.image)
    assert all(piece.exact for piece in mosaic.pieces)
    np.testing.assert_array_equal(stitched.volume.array, scan.image.array)
    np.testing.assert_array_equal(mosaic.labels(masks).array, scan.semantic.array)
    assert stitched.gains == (1.0, 1.0, 1.0)
    assert stitched.warnings == ()


@pytest.mark.parametrize(
    ("angles", "shifts", "error", "dice"),
    [
        (STRAIGHT, STRAIGHT, 0.005, 1.0),
        (STRAIGHT, SHIFTS, 0.02, 0.98),
        (ANGLES, SHIFTS, 0.03, 0.95),
    ],
    ids=["shared grid", "shifted", "turned and shifted"],
)
def test_gains_are_matched_and_the_overlap_equals_the_original(
    angles: tuple[tuple[float, float, float], ...],
    shifts: tuple[tuple[float, float, float], ...],
    error: float,
    dice: float,
) -> None:
    scan = phantom()
    images, masks, mosaic = chunks(angles, shifts)
    stitched = mosaic.image(images)
    np.testing.assert_allclose(stitched.gains, (1 / 1.6, 1.0, 1 / 0.7), rtol=0.01)
    assert stitched.warnings == ()
    assert all(overlap.correlation is not None and overlap.correlation > 0.95 for overlap in stitched.overlaps)
    back = stitched.volume.resample_like(scan.image)
    count = scan.image.shape[1]
    for low, high in ((0.32, 0.42), (0.62, 0.72)):
        rows = slice(int(low * count), int(high * count))
        true, found = scan.image.array[:, rows].astype(float), back.array[:, rows].astype(float)
        bright = true > true.mean() / 2
        assert np.median(np.abs(true - found)[bright]) <= error * np.median(true[bright])
    labels = mosaic.labels(masks).resample_like(scan.semantic, order=0).array
    for number in range(1, 15):
        one, two = scan.semantic.array == number, labels == number
        assert 2 * (one & two).sum() >= dice * (one.sum() + two.sum()), number
    if dice == 1.0:
        np.testing.assert_array_equal(labels, scan.semantic.array)


def test_blending_leaves_no_step_where_a_chunk_begins() -> None:
    """Chunks that fall off towards their ends: the sum has no larger steps between rows than the original."""
    images, _, _ = chunks()
    faded = []
    for image in images:
        ramp = 1 - 0.3 * np.linspace(-1, 1, image.shape[1]) ** 2
        faded.append(image.with_array(np.rint(image.array * ramp[None, :, None]).astype(np.int16)))
    stitched = plan_mosaic(faded, CHUNKS, file="sub-1").image(faded).volume
    smooth = phantom().image.array.astype(float)

    def largest_step(array: Array) -> float:
        rows = array.astype(float).mean(axis=(0, 2))
        return float(np.abs(np.diff(rows) / rows.mean())[5:-5].max())

    assert largest_step(stitched.array) <= 1.1 * largest_step(smooth)


def test_order_and_orientation_of_the_chunks_do_not_matter() -> None:
    images, masks, mosaic = chunks(ANGLES)
    expected, labels = mosaic.image(images).volume, mosaic.labels(masks)
    shuffled = [images[2].to("RAS"), images[0].to("LPS"), images[1]]
    other = plan_mosaic(shuffled, ("LWS", "HWS", "BWS"), file="sub-1")
    assert [piece.name for piece in other.pieces] == list(CHUNKS)
    np.testing.assert_array_equal(other.image(shuffled).volume.array, expected.array)
    np.testing.assert_array_equal(other.labels([masks[2], masks[0], masks[1].to("ASL")]).array, labels.array)


def test_a_chunk_without_a_mask_leaves_its_own_part_to_the_fill() -> None:
    _, masks, mosaic = chunks(gains=(1.0, 1.0, 1.0))
    joined = mosaic.labels([None, masks[1], masks[2]], fill=15).array
    alone = int(PARTS[1][0] * joined.shape[1])
    assert (joined[:, :alone] == 15).all()
    np.testing.assert_array_equal(joined[:, alone:], phantom().semantic.array[:, alone:])


def test_in_the_overlap_the_deeper_chunk_decides() -> None:
    one = Volume(np.ones((4, 4, 20), dtype=np.uint8), np.eye(4))
    affine = np.eye(4)
    affine[2, 3] = 12
    two = Volume(np.full((4, 4, 20), 2, dtype=np.uint8), affine)
    joined = plan_mosaic([one, two], ("a", "b"), file="x").labels([one, two]).array
    assert joined.shape == (4, 4, 32)
    assert joined[0, 0].tolist() == [1] * 16 + [2] * 16


def test_a_displaced_chunk_widens_the_grid_and_empty_corners_stay_empty() -> None:
    one = Volume(np.full((10, 10, 20), 100, dtype=np.int16), np.eye(4))
    affine = np.eye(4)
    affine[:3, 3] = (3, 0, 12)
    two = Volume(np.full((10, 10, 20), 100, dtype=np.int16), affine)
    stitched = plan_mosaic([one, two], ("a", "b"), file="x").image([one, two]).volume
    assert stitched.shape == (13, 10, 32)
    assert stitched.array.dtype == np.int16
    assert (stitched.array[:3, :, 20:] == 0).all()
    assert (stitched.array[10:, :, :12] == 0).all()
    assert set(np.unique(stitched.array)) == {0, 100}


def test_float_images_stay_float_and_a_single_chunk_stays_as_it_is() -> None:
    image = Volume(np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32), np.diag([1, 2, 3, 1]))
    mosaic = plan_mosaic([image], ("BWS",), file="x")
    stitched = mosaic.image([image])
    np.testing.assert_array_equal(stitched.volume.array, image.array)
    assert stitched.volume.array.dtype == np.float32


@pytest.mark.parametrize(
    ("second", "code"),
    [
        ((0, 0, 25, 0), "E-STITCH-GAP"),
        ((12, 0, 5, 0), "E-STITCH-APART"),
        ((0, 0, 15, 40), "E-STITCH-ANGLE"),
    ],
)
def test_refusals(second: tuple[int, int, int, int], code: str) -> None:
    one = Volume(np.ones((10, 10, 20), dtype=np.int16), np.eye(4))
    affine = np.eye(4)
    affine[:3, :3] = rotation((float(second[3]), 0.0, 0.0))
    affine[:3, 3] = second[:3]
    with pytest.raises(CaseError, match=r"sub-9: .*HWS") as caught:
        plan_mosaic([one, Volume(one.array, affine)], ("BWS", "HWS"), file="sub-9")
    assert caught.value.code == code


def test_touching_and_differing_chunks_are_warned_of() -> None:
    rng = np.random.default_rng(1)
    one = Volume(rng.integers(50, 900, (10, 10, 20)).astype(np.int16), np.eye(4))
    for start, code in ((20, "W-STITCH-OVERLAP"), (10, "W-STITCH-MISMATCH")):
        affine = np.eye(4)
        affine[2, 3] = start
        two = Volume(rng.integers(50, 900, (10, 10, 20)).astype(np.int16), affine)
        stitched = plan_mosaic([one, two], ("LWS", "BWS"), file="x").image([one, two])
        assert [warning.code for warning in stitched.warnings] == [code]


def test_empty_planes_at_the_ends_are_cut_off() -> None:
    array = np.zeros((4, 10, 5), dtype=np.int16)
    array[1:3, 3:7] = 9
    image = Volume(array, phantom().image.affine)
    assert image.orientation[1] == "I"
    assert filled_box(image) == (slice(0, 4), slice(3, 7), slice(0, 5))
    assert filled_box(image.with_array(np.zeros_like(array))) == (slice(0, 4), slice(0, 10), slice(0, 5))


# --- numbers of instances -------------------------------------------------------------------------------------------


def _column(*numbers: int) -> Array:
    """Return an overlap of vertebrae of 50 voxels with their discs."""
    return np.concatenate([np.repeat([n, n + 100], (50, 20)) for n in numbers]).astype(np.uint16)


def test_equal_numbers_are_kept() -> None:
    above, below = _column(13, 14, 15), _column(13, 14, 15)
    ids = (13, 14, 15, 16, 113, 114, 28, 26)
    assert joined_numbers(above, below, range(3, 16), ids) == {n: n for n in ids}


def test_an_additional_vertebra_that_both_know_changes_nothing() -> None:
    both = _column(19, 28, 20)
    assert joined_numbers(both, both, (18, 19, 28, 20), (19, 28, 20, 21)) == {n: n for n in (19, 28, 20, 21)}
    alone = _column(28)
    assert joined_numbers(alone, alone, (18, 19, 28), (28, 20, 21)) == {n: n for n in (28, 20, 21)}


def test_a_count_from_the_top_is_put_right() -> None:
    table = joined_numbers(_column(13, 14, 15), _column(2, 3, 4), range(1, 16), (2, 3, 4, 5, 102, 202, 26, 126))
    assert table == {2: 13, 3: 14, 4: 15, 5: 16, 102: 113, 202: 213, 26: 26, 126: 126}


@pytest.mark.parametrize(
    ("above", "below", "ids"),
    [
        (_column(13, 14, 15), _column(2, 3, 5), (2, 3, 5)),
        (_column(13, 14, 15), _column(2, 3, 4), (2, 3, 4, 28)),
        (_column(22, 23, 24), _column(2, 3, 4), (2, 3, 4, 5, 6)),
        (np.zeros(9, dtype=int), np.zeros(9, dtype=int), (2, 3, 4)),
        (_column(28, 20), _column(3, 4), (3, 4, 5, 6)),
        (_column(28, 20), _column(19, 20), (19, 20, 21)),
        (_column(19, 20), _column(28, 20), (28, 20, 21)),
    ],
    ids=["two shifts", "T13", "below L6", "no vertebra shared", "T13 above", "T13 is T12", "T12 is T13"],
)
def test_numbers_that_cannot_be_reconciled(above: Array, below: Array, ids: tuple[int, ...]) -> None:
    with pytest.raises(CaseError) as caught:
        joined_numbers(above, below, (2, 3, 4, 13, 14, 15), ids)
    assert caught.value.code == "E-STITCH-NUMBERS"


def test_without_a_shared_vertebra_ordered_numbers_are_believed() -> None:
    empty = np.zeros(9, dtype=np.uint16)
    assert joined_numbers(empty, empty, (2, 3), (4, 5, 104)) == {4: 4, 5: 5, 104: 104}
