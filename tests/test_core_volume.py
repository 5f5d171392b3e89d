"""`Volume` never loses its place: reorientation, cropping, resampling, world coordinates."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from nnunet_spine_ext.core.volume import Volume

ORIENTATIONS = [
    "".join(letters) for order in itertools.permutations(("RL", "AP", "SI")) for letters in itertools.product(*order)
]
SHAPE = (5, 6, 7)
SPACING = (0.6, 1.1, 3.3)
ORIGIN = (12.3, -45.6, 178.9)


def turned(angles: tuple[float, float, float], spacing: tuple[float, ...] = SPACING) -> np.ndarray:
    """Return the affine of a grid turned about x, y and z (degrees)."""
    a, b, c = np.deg2rad(angles)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_y @ about_x @ np.diag(spacing)
    affine[:3, 3] = ORIGIN
    return affine


def volume(affine: np.ndarray | None = None, shape: tuple[int, ...] = SHAPE) -> Volume:
    """Return a volume in which every voxel has another value."""
    array = np.arange(np.prod(shape), dtype=np.int32).reshape(shape) + 1
    return Volume(array, turned((0, 0, 0)) if affine is None else affine)


def ramp(grid: Volume) -> np.ndarray:
    """Return a function that is linear in world coordinates, sampled on a grid."""
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    return grid.world(index) @ np.array([0.31, -0.17, 0.53]) + 4.0


angle = st.floats(-180, 180)
angles = st.tuples(angle, angle, angle)
sizes = st.tuples(*[st.floats(0.2, 6)] * 3)


def test_there_are_48_orientations() -> None:
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_every_orientation_is_reached_and_undone(name: str) -> None:
    for affine in (turned((0, 0, 0)), turned((8, -21, 14))):
        original = volume(affine)
        there = original.to(name)
        assert there.orientation == name
        back = there.to_grid_of(original)
        assert np.array_equal(back.array, original.array)
        assert np.array_equal(back.affine, original.affine)
        # Every voxel keeps its place in the body.
        for value in (1, 17, 100, 210):
            before = original.world(np.argwhere(original.array == value)[0])
            after = there.world(np.argwhere(there.array == value)[0])
            assert before == pytest.approx(after, abs=1e-9)


@given(angles=angles, spacing=sizes, name=st.sampled_from(ORIENTATIONS))
@example(angles=(45.0, 45.0, 0.0), spacing=(1, 1, 1), name="RAS")
@example(angles=(0.0, 0.0, 135.0), spacing=(1, 1, 1), name="PIR")
@example(angles=(54.7356, 45.0, 0.0), spacing=(1, 2, 1), name="SRA")
@example(angles=(44.9999, 0.0, 45.0001), spacing=(1, 1, 1), name="LPS")
def test_reorientation_is_nibabels_and_never_interpolates(
    angles: tuple[float, float, float], spacing: tuple[float, float, float], name: str
) -> None:
    original = volume(turned(angles, spacing))
    there = original.to(name)
    image = nib.Nifti1Image(original.array, original.affine)
    expected = image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(tuple(name))))
    assert np.array_equal(there.array, np.asarray(expected.dataobj))
    assert there.affine == pytest.approx(expected.affine, abs=1e-9)
    assert sorted(there.array.ravel()) == sorted(original.array.ravel())
    assert there.array.flags["C_CONTIGUOUS"]
    back = there.to_grid_of(original)
    assert np.array_equal(back.array, original.array)
    assert np.array_equal(back.affine, original.affine)


@given(angles=angles, spacing=sizes)
def test_way_back_is_the_one_that_nnunet_takes(
    angles: tuple[float, float, float], spacing: tuple[float, float, float]
) -> None:
    # NibabelIOWithReorient turns to RAS when reading and inverts that transform when writing.
    original = volume(turned(angles, spacing))
    upright = original.to("RAS")
    way = ornt_transform(axcodes2ornt("RAS"), io_orientation(original.affine))
    assert np.array_equal(upright.to_affine(original.affine).array, apply_orientation(upright.array, way))


def test_grids_that_are_no_reorientations_are_refused() -> None:
    original = volume()
    shifted = original.affine.copy()
    shifted[0, 3] += 0.5
    for other in (
        Volume(original.array, shifted),
        Volume(original.array[1:], original.affine),
        volume(turned((3, 0, 0))),
        volume(turned((0, 0, 0), (0.6, 1.2, 3.3))),
    ):
        with pytest.raises(ValueError, match="no reorientation"):
            other.to("PIR").to_grid_of(original)


@pytest.mark.parametrize("name", ["RA", "RAR", "RASS", "XYZ", "", "RLS"])
def test_wrong_orientation_names(name: str) -> None:
    with pytest.raises(ValueError, match="must name each of"):
        volume().to(name)


def test_orientation_names_may_be_lower_case() -> None:
    assert volume().to("pir").orientation == "PIR"


@given(
    angles=angles,
    spacing=sizes,
    points=arrays.arrays(np.float64, (4, 3), elements=st.floats(-500, 500)),
)
def test_world_and_index_are_inverse(
    angles: tuple[float, float, float], spacing: tuple[float, float, float], points: np.ndarray
) -> None:
    grid = volume(turned(angles, spacing))
    assert grid.index(grid.world(points)) == pytest.approx(points, abs=1e-6)
    assert grid.world(points[0]) == pytest.approx((grid.affine @ [*points[0], 1])[:3], abs=1e-9)
    assert grid.spacing == pytest.approx(spacing)
    assert grid.voxel_volume == pytest.approx(np.prod(spacing))


def test_world_keeps_the_shape_of_the_points() -> None:
    assert volume().world(np.zeros((2, 5, 3))).shape == (2, 5, 3)
    assert volume().index([1.0, 2.0, 3.0]).shape == (3,)


def test_crop_moves_the_origin() -> None:
    original = volume(turned((10, 20, 30)))
    part = original.crop((slice(1, 4), slice(None, -2), slice(-3, None)))
    assert part.shape == (3, 4, 3)
    assert np.array_equal(part.array, original.array[1:4, :-2, -3:])
    assert part.world([0, 0, 0]) == pytest.approx(original.world([1, 0, 4]))
    assert np.array_equal(original.affine, turned((10, 20, 30)))


@pytest.mark.parametrize("wrong", [slice(0, 4, 2), slice(None, None, -1), slice(3, 3), slice(9, 20)])
def test_crop_refuses_what_would_break_the_geometry(wrong: slice) -> None:
    with pytest.raises(ValueError, match="cannot crop"):
        volume().crop((slice(None), wrong, slice(None)))


@given(angles=angles, spacing=sizes, asked=sizes)
def test_resampling_keeps_linear_ramps_and_the_extent(
    angles: tuple[float, float, float], spacing: tuple[float, float, float], asked: tuple[float, float, float]
) -> None:
    grid = volume(turned(angles, spacing), (9, 8, 7))
    source = grid.with_array(ramp(grid))
    result = source.resample(asked)
    # Outermost corners (half a voxel outside the outermost centres) stay where they are.
    for corner in itertools.product((0, 1), repeat=3):
        before = grid.world(np.array(corner) * grid.shape - 0.5)
        assert result.world(np.array(corner) * result.shape - 0.5) == pytest.approx(before, abs=1e-6)
    # Between the outermost centres of the source a ramp is exact; beyond them it is held.
    index = np.stack(np.meshgrid(*map(np.arange, result.shape), indexing="ij"), axis=-1)
    inside = source.index(result.world(index))
    within = ((inside >= 0) & (inside <= np.array(grid.shape) - 1)).all(axis=-1)
    assert np.abs(result.array - ramp(result))[within].max(initial=0) < 1e-3
    held = source.world(np.clip(inside, 0, np.array(grid.shape) - 1)) @ np.array([0.31, -0.17, 0.53]) + 4.0
    assert np.abs(result.array - held).max() < 1e-3


def test_resampling_to_its_own_spacing_changes_nothing() -> None:
    original = volume(turned((10, 20, 30)))
    for order in (0, 1):
        same = original.resample(SPACING, order)
        assert np.array_equal(same.array, original.array)
        assert same.corner_error(original) < 1e-9


def test_resampling_labels_invents_none_and_keeps_the_type() -> None:
    labels = Volume((np.arange(210).reshape(SHAPE) % 5).astype(np.uint8) * 50, turned((0, 0, 0)))
    finer = labels.resample((0.25, 0.4, 1.0), order=0)
    assert finer.array.dtype == np.uint8
    assert set(np.unique(finer.array)) <= set(np.unique(labels.array))
    assert labels.resample((0.25, 0.4, 1.0)).array.dtype == np.float32


def test_resampling_never_loses_the_last_voxel() -> None:
    assert volume().resample((500.0, 500.0, 500.0)).shape == (1, 1, 1)


@pytest.mark.parametrize("spacing", [(0, 1, 1), (1, -1, 1), (1, 1), (1, np.nan, 1), (np.inf, 1, 1)])
def test_resampling_refuses_spacings_that_are_none(spacing: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="three positive numbers"):
        volume().resample(spacing)


@given(angles=angles, spacing=sizes, name=st.sampled_from(ORIENTATIONS), order=st.sampled_from([0, 1]))
def test_resampling_onto_a_reorientation_is_a_reorientation(
    angles: tuple[float, float, float], spacing: tuple[float, float, float], name: str, order: int
) -> None:
    # Rounding puts border voxels 1e-15 outside of the source: they must not become background.
    original = volume(turned(angles, spacing))
    grid = original.to(name)
    assert original.resample_like(grid, order).array == pytest.approx(grid.array, abs=1e-3)


@given(angles=angles, other=angles)
def test_resampling_onto_any_grid_inside_is_exact_on_ramps(
    angles: tuple[float, float, float], other: tuple[float, float, float]
) -> None:
    source = volume(turned(angles, (2, 2, 2)), (12, 12, 12))
    source = source.with_array(ramp(source))
    affine = turned(other, (0.7, 1.1, 1.6))
    # The middle of both grids is the same point, and the smaller one fits inside.
    affine[:3, 3] += source.world([5.5, 5.5, 5.5]) - volume(affine).world(np.array(SHAPE) / 2 - 0.5)
    grid = volume(affine)
    assert source.resample_like(grid).array == pytest.approx(ramp(grid), abs=1e-3)


def test_outside_of_the_source_is_background() -> None:
    source = Volume(np.ones((4, 4, 4), np.float32), np.eye(4))
    grid = Volume(np.zeros((12, 4, 4)), np.array([[0.5, 0, 0, -1.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    # Voxel centres along i: -1.5, -1, -0.5, 0, … mm.
    nearest = source.resample_like(grid, 0).array[:, 0, 0]
    # -0.5 mm is the very border of the outermost voxel: either side is right.
    assert nearest[[0, 1, 3]].tolist() == [0, 0, 1]
    assert source.resample_like(grid, 1).array[:4, 0, 0].tolist() == [0, 0, 0.5, 1]
    assert source.resample_like(grid, 1, cval=-1000).array[0, 0, 0] == -1000


def test_corner_error_and_same_grid() -> None:
    original = volume(turned((10, 20, 30)))
    moved = original.affine.copy()
    moved[:3, 3] += [3e-4, 4e-4, 0]
    near = Volume(original.array, moved)
    assert original.corner_error(original) == 0
    assert original.corner_error(near) == pytest.approx(5e-4)
    assert original.same_grid(near)
    assert not original.same_grid(near, tolerance_mm=1e-4)
    assert original.corner_error(Volume(original.array[1:], original.affine)) == float("inf")
    # A rotation shows at the far corner, not at the origin.
    assert original.corner_error(volume(turned((10, 20, 31)))) > 0.05


@pytest.mark.parametrize(
    "affine",
    [
        np.zeros((4, 4)),
        np.full((4, 4), np.nan),
        np.diag([1.0, 1, 0, 1]),
        np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        np.eye(3),
        np.diag([1.0, np.inf, 1, 1]),
    ],
)
def test_affines_that_place_nothing_are_refused(affine: np.ndarray) -> None:
    with pytest.raises(ValueError, match="4x4 affine"):
        Volume(np.zeros((2, 2, 2)), affine)


@pytest.mark.parametrize("shape", [(), (3,), (3, 3), (3, 3, 3, 1)])
def test_arrays_that_are_no_volume_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="3-D"):
        Volume(np.zeros(shape), np.eye(4))


def test_with_array_needs_the_same_shape() -> None:
    original = volume()
    assert original.with_array(np.ones(SHAPE)).same_grid(original)
    with pytest.raises(ValueError, match="does not fit"):
        original.with_array(np.ones((5, 6, 8)))


def test_affine_is_kept_in_double_precision_and_frozen() -> None:
    made = Volume(np.zeros((2, 2, 2)), np.eye(4, dtype=np.float32))
    assert made.affine.dtype == np.float64
    with pytest.raises(AttributeError):
        made.affine = np.eye(4)  # type: ignore[misc]
