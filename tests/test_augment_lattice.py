"""Smooth deformations: splines, integration, delivered strength, and no folds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from torch.nn import functional

from nnunet_spine_ext.augment import lattice

SHAPE, VOXEL = (24, 40, 36), (2.0, 0.8, 1.0)


def _all_voxels(field: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a displacement on the display nodes (D, *nodes) at all voxels, as the sampling does."""
    mode = "trilinear" if len(shape) == 3 else "bilinear"
    nodes = torch.from_numpy(np.ascontiguousarray(field))[None]
    return functional.interpolate(nodes, size=shape, mode=mode, align_corners=True)[0].numpy()


def _least_determinant(field: np.ndarray, shape: tuple[int, ...], voxel: tuple[float, ...]) -> float:
    """Return the least determinant of the Jacobian of x + field(x), from differences between neighbouring voxels."""
    dense = _all_voxels(field, shape)
    dim = len(shape)
    columns = []
    for axis in range(dim):
        if shape[axis] == 1:
            slope = np.zeros_like(dense)
        else:
            slope = np.diff(dense, axis=axis + 1, append=dense.take([-1], axis=axis + 1)) / voxel[axis]
            # The last voxel has no successor: it takes the difference before it.
            last, before = [slice(None)] * (dim + 1), [slice(None)] * (dim + 1)
            last[axis + 1], before[axis + 1] = slice(-1, None), slice(-2, -1)
            slope[tuple(last)] = slope[tuple(before)]
        columns.append(slope)
    jacobian = np.moveaxis(np.stack(columns, axis=1), (0, 1), (-2, -1)) + np.eye(dim)
    return float(np.linalg.det(jacobian).min())


def test_cubic_weights_are_those_of_scipy() -> None:
    positions = np.linspace(0.1, 6.9, 50)
    weights = lattice.cubic_weights(positions, -1.0, 1.0, 10)
    knots = np.arange(-3.0, 11.0)
    expected = BSpline.design_matrix(positions, knots, 3).toarray()
    assert np.abs(weights - expected).max() < 1e-12


def test_cubic_weights_reproduce_straight_lines() -> None:
    positions = np.linspace(0, 30, 77)
    weights = lattice.cubic_weights(positions, -10.0, 5.0, 12)
    assert np.allclose(weights @ (-10.0 + 5.0 * np.arange(12)), positions)


def test_voxels_lie_between_their_nodes() -> None:
    for size in (1, 2, 3, 4, 5, 6, 64, 128, 131):
        below, fraction = lattice.between_nodes(size)
        (nodes,) = lattice.node_positions((size,))
        above = np.minimum(below + 1, len(nodes) - 1)
        found = nodes[below] + fraction * (nodes[above] - nodes[below])
        assert np.abs(found - np.arange(size)).max() < 1e-5
        assert fraction.min() >= 0
        assert fraction.max() <= 1


def test_integration_of_a_constant_velocity_is_a_shift() -> None:
    velocity = np.zeros((2, 9, 9))
    velocity[0] = 1.5
    assert np.allclose(lattice.exponential(velocity, 4.0), velocity)


def test_integration_agrees_with_the_matrix_exponential() -> None:
    """A velocity that is linear in space, v(x) = A x, moves x to expm(A) x."""
    rate = np.array([[0.10, -0.20], [0.25, 0.05]])
    step, half = 2.0, 20
    axis = step * np.arange(-half, half + 1)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"))
    velocity = np.tensordot(rate, points, axes=1)
    moved = points + lattice.exponential(velocity, step)
    series, term = np.eye(2), np.eye(2)
    for k in range(1, 20):
        term = term @ rate / k
        series = series + term
    inner = (slice(None), slice(10, -10), slice(10, -10))
    error = np.abs(moved - np.tensordot(series, points, axes=1))[inner].max()
    assert error < 0.02 * np.abs(velocity[inner]).max()


def test_forwards_and_backwards_cancel() -> None:
    rng = np.random.default_rng(0)
    step = 5.0
    coarse = rng.standard_normal((3, 6, 6, 6)) * 3
    weights = lattice.cubic_weights(np.linspace(0, 13 * step, 14), -10.0, 17.0, 6)
    velocity = lattice.upsample(coarse, [weights] * 3)
    forth, back = lattice.exponential(velocity, step), lattice.exponential(-velocity, step)
    nodes = np.stack(np.meshgrid(*[np.arange(14.0)] * 3, indexing="ij"))
    target = torch.from_numpy(nodes + forth / step)
    grid = ((2 * target + 1) / 14 - 1).flip(0).movedim(0, -1)[None]
    there = functional.grid_sample(torch.from_numpy(back)[None], grid, padding_mode="border", align_corners=False)
    rest = (there[0].numpy() + forth)[:, 3:-3, 3:-3, 3:-3]
    assert np.abs(forth).max() > 3
    assert np.abs(rest).max() < 0.05 * np.abs(forth).max()


@pytest.mark.parametrize(("spacing", "std"), [(20.0, 0.5), (30.0, 1.5), (40.0, 2.0)])
def test_the_delivered_standard_deviation_is_the_one_asked_for(spacing: float, std: float) -> None:
    fields = [lattice.displacement(seed, std, spacing, SHAPE, VOXEL) for seed in range(150)]
    delivered = np.sqrt(np.mean(np.square([_all_voxels(field, SHAPE) for field in fields[:60]])))
    assert delivered == pytest.approx(std, rel=0.06)
    assert np.abs(np.mean(fields)) < 0.1 * std


@pytest.mark.slow
def test_a_thousand_draws_do_not_fold() -> None:
    rng = np.random.default_rng(3)
    least = []
    for seed in range(1000):
        std, spacing = rng.uniform(0.5, 2.5), rng.uniform(20, 40)
        least.append(_least_determinant(lattice.displacement(seed, std, spacing, SHAPE, VOXEL), SHAPE, VOXEL))
    assert min(least) > 0


def test_draws_far_beyond_reason_do_not_fold_either() -> None:
    rng = np.random.default_rng(4)
    for seed in range(60):
        std, spacing = float(rng.choice([5, 20, 100])), float(rng.choice([2, 15, 60]))
        field = lattice.displacement(seed, std, spacing, SHAPE, VOXEL)
        assert np.isfinite(field).all()
        assert lattice.shortfall(field, SHAPE, VOXEL) <= 0.951
        assert _least_determinant(field, SHAPE, VOXEL) > 0


def test_the_check_finds_folds() -> None:
    field = np.zeros((3, *lattice.node_counts(SHAPE)))
    # Nodes are 3.83 voxels of 2 mm apart along the first axis: 20 mm backwards between two of them is a fold.
    field[0, 3] = -20
    assert lattice.shortfall(field, SHAPE, VOXEL) > 1
    assert _least_determinant(field, SHAPE, VOXEL) < 0
    assert _least_determinant(lattice.unfold(field, SHAPE, VOXEL), SHAPE, VOXEL) > 0


def test_weak_fields_are_not_weakened() -> None:
    field = np.random.default_rng(0).standard_normal((3, *lattice.node_counts(SHAPE))) * 0.1
    assert lattice.unfold(field, SHAPE, VOXEL) is field


def test_still_axes_do_not_move_and_slices_move_alike() -> None:
    field = lattice.displacement(1, 2.0, 25.0, SHAPE, VOXEL, still=[0])
    assert not field[0].any()
    assert np.ptp(field, axis=1).max() == 0
    assert field[1:].std() > 0.5


@pytest.mark.parametrize("shape", [(40, 36), (1, 40, 36), (2, 2, 2), (1, 1, 5)])
def test_any_shape_can_be_deformed(shape: tuple[int, ...]) -> None:
    voxel = (1.0,) * len(shape)
    still = [axis for axis, n in enumerate(shape) if n == 1]
    field = lattice.displacement(5, 1.0, 10.0, shape, voxel, still)
    assert field.shape == (len(shape), *lattice.node_counts(shape))
    assert np.isfinite(field).all()
    assert _least_determinant(field, shape, voxel) > 0


def test_a_seed_gives_the_same_field() -> None:
    first, second = (lattice.displacement(9, 1.0, 20.0, SHAPE, VOXEL) for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, lattice.displacement(10, 1.0, 20.0, SHAPE, VOXEL))
