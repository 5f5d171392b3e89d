"""The line of the spine follows bodies and canal, and measures along itself."""

from __future__ import annotations

import numpy as np
import pytest
from spine_builder import LEVELS, Spine, build

from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.measure import centreline, fit_centreline, volumes


def _arc(radius: float, degrees: float, count: int = 400) -> np.ndarray:
    """Points on an arc in the sagittal plane, from head to tail."""
    angle = np.deg2rad(np.linspace(-degrees / 2, degrees / 2, count))
    return np.stack([np.zeros(count), radius * np.cos(angle), -radius * np.sin(angle)], axis=1)


@pytest.mark.parametrize("degrees", [20.0, 60.0, 100.0])
def test_an_arc_is_followed_and_measured(degrees: float) -> None:
    radius = 150.0
    points = _arc(radius, degrees)
    line = fit_centreline(np.zeros((0, 3)), points, smoothing_mm=10.0)
    assert line is not None
    assert line.length == pytest.approx(np.deg2rad(degrees) * radius, rel=0.03)
    place = line.locate(points)
    assert np.diff(place).min() > -1e-6
    assert np.linalg.norm(line.at(place) - points, axis=1).max() < 2.5
    radial = points / np.linalg.norm(points, axis=1, keepdims=True)
    inner = (place > 10) & (place < line.length - 10)
    assert np.abs((line.tangent(place) * radial).sum(axis=1))[inner].max() < 0.06


def test_positions_off_the_line_are_projected_along_its_normal() -> None:
    points = _arc(200.0, 50.0)
    line = fit_centreline(np.zeros((0, 3)), points, smoothing_mm=10.0)
    assert line is not None
    away = points * 1.2
    difference = line.locate(away) - line.locate(points)
    assert np.abs(difference[40:-40]).max() < 1.5


def test_the_line_runs_from_head_to_tail_through_the_bodies() -> None:
    semantic, truth = build(Spine(tuple(LEVELS), scoliosis=20.0))
    line = centreline(semantic)
    assert line is not None
    centres = []
    for vertebra in range(1, 24):
        body = np.argwhere((truth.array == vertebra) & (semantic.array == 10))
        centres.append(semantic.world(body.mean(axis=0)))
    place = line.locate(np.array(centres))
    assert np.diff(place).min() > 10.0
    assert np.linalg.norm(line.at(place) - np.array(centres), axis=1)[1:].max() < 8.0
    assert line.tangent(place)[:, 2].max() < -0.8


def test_a_spine_cut_short_gets_its_direction_from_the_canal() -> None:
    semantic, _ = build(Spine(("L3",), sacrum=False))
    line = centreline(semantic)
    assert line is not None
    assert line.tangent(np.array([10.0]))[0, 2] < -0.9


def test_nothing_gives_none() -> None:
    assert centreline(Volume(np.zeros((5, 5, 5), dtype=np.uint8), np.eye(4))) is None


@pytest.mark.parametrize("count", [1, 2, 30])
def test_few_points_do_not_crash(count: int) -> None:
    points = np.random.default_rng(0).normal(size=(count, 3))
    line = fit_centreline(points, np.zeros((0, 3)))
    assert line is not None
    assert np.isfinite(line.locate(points)).all()


def test_volumes_count_voxels_in_mm3() -> None:
    array = np.zeros((4, 5, 6), dtype=np.uint16)
    array[0, 0, :3] = 7
    array[1] = 120
    assert volumes(Volume(array, np.diag([2.0, 0.5, 3.0, 1.0]))) == pytest.approx({7: 9.0, 120: 90.0})
