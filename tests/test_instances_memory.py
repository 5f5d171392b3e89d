"""What the instance step does to need little memory: the same results as by the plain way, and what it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cc3d
import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from spine_builder import Spine, build

from nnunet_spine_ext.instances import separate
from nnunet_spine_ext.instances import voxels as lists
from nnunet_spine_ext.instances.frame import Frame
from nnunet_spine_ext.instances.holes import find_holes
from nnunet_spine_ext.instances.voxels import coordinates, read_voxels


@pytest.mark.parametrize(
    ("shape", "step"), [((7, 23, 31), (2, 5, 5)), ((1, 9, 40), (1, 4, 3)), ((12, 11, 10), (11, 1, 20))]
)
def test_interpolation_is_that_of_scipy_bit_by_bit(shape: tuple[int, ...], step: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    counts = [-(-(n - 1) // k) + 1 if n > 1 else 1 for n, k in zip(shape, step, strict=True)]
    grid = (rng.random(counts) * 700 - 50).astype(np.float32)
    flat = np.arange(np.prod(shape), dtype=np.int32)
    found = lists._interpolated(flat, shape, grid, step)
    where = np.stack(coordinates(flat, shape)) / np.array(step, dtype=np.float64)[:, None]
    expected = map_coordinates(grid, where, output=np.float32, order=1, mode="nearest", prefilter=False)
    np.testing.assert_array_equal(found, expected)


def plain_holes(labels: np.ndarray, ids: np.ndarray, largest: int) -> np.ndarray:
    """Holes by components of everything that is open, one after the other."""
    parts, count = cc3d.connected_components(labels == 0, connectivity=6, return_N=True)
    result = np.zeros(labels.shape, dtype=int)
    for k in range(1, count + 1):
        place = np.argwhere(parts == k)
        if len(place) > largest or (place == 0).any() or (place == np.array(labels.shape) - 1).any():
            continue
        around = set()
        for axis in range(3):
            for step in (-1, 1):
                moved = place.copy()
                moved[:, axis] += step
                around |= set(ids[tuple(moved.T)][labels[tuple(moved.T)] > 0].tolist())
        if len(around) == 1 and 0 not in around:
            result[parts == k] = around.pop()
    return result


def test_holes_found_in_the_boxes_of_instances_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(1)
    labels = np.where(rng.random((24, 26, 28)) < 0.72, 10, 0).astype(np.uint8)
    ids = np.zeros(labels.shape, dtype=np.int64)
    ids[:, :13], ids[:, 13:] = 1, 2
    ids[:, :, 20:] = 130
    # One instance around another one, with a hole in its wall and one between both.
    ids[5:15, 15:25, 5:15] = 7
    ids[6:8, 2:6, 2:6] = 0
    frame = Frame(labels, (1.0, 1.0, 1.0), (slice(0, 24), slice(0, 26), slice(0, 28)), (24, 26, 28))
    voxels = read_voxels(frame)
    for largest in (1, 6, 10_000):
        holes = find_holes(voxels, ids.reshape(-1)[voxels.flat], max_hole_mm3=largest, min_speck_mm3=0.0)
        found = np.zeros(labels.shape, dtype=int)
        found.reshape(-1)[holes.flat] = holes.ids
        expected = plain_holes(labels, ids, largest)
        np.testing.assert_array_equal(found, expected)
        assert len(holes.flat) == np.count_nonzero(expected) > 20
        assert (np.diff(holes.flat) > 0).all()
        assert set(voxels.label[holes.like].tolist()) == {10}


def test_a_spine_without_holes_has_none() -> None:
    semantic, _ = build(Spine(("L1", "L2"), spacing=(3.0, 2.0, 2.0)))
    assert separate(semantic).qc["holes_filled"] == 0


def test_what_is_not_needed_is_not_loaded() -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from spine_builder import Spine, build\n"
        "from nnunet_spine_ext.instances import separate\n"
        "semantic, _ = build(Spine(('L1', 'L2', 'L3'), spacing=(3.0, 2.0, 2.0)))\n"
        "print(separate(semantic).qc['vertebrae'], 'scipy.ndimage' in sys.modules, 'scipy.spatial' in sys.modules)\n"
    )
    folder = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "False", "False"]
