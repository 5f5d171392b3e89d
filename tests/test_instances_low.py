"""Pictures that are lower than the spine is deep: its line keeps its direction, and one vertebra stays one."""

from __future__ import annotations

import numpy as np
import pytest
from spine_builder import Spine, build

from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.instances.interface import separate
from nnunet_spine_ext.measure.centreline import centreline

LEVELS = ("T12", "L1", "L2", "L3", "L4", "L5")


def parts(volume: Volume, height_mm: float) -> list[Volume]:
    """Cut a volume into low pictures that overlap by half."""
    count = round(height_mm / volume.spacing[2])
    starts = range(0, volume.shape[2] - count, count // 2)
    return [volume.crop((slice(None), slice(None), slice(k, k + count))) for k in starts]


@pytest.mark.parametrize("height_mm", [15.0, 21.0, 30.0])
def test_no_body_of_a_low_picture_is_cut_into_several(height_mm: float) -> None:
    semantic, instances = build(Spine(levels=LEVELS, spacing=(2.0, 1.5, 1.5)))
    looked = 0
    for mask, truth in zip(parts(semantic, height_mm), parts(instances, height_mm), strict=True):
        bodies = np.where(mask.array == 10, truth.array, 0)
        found = separate(mask)
        assert not found.qc.get("cut_apart")
        for vertebra in np.unique(bodies[bodies > 0]):
            mine = found.instances.array[bodies == vertebra]
            if len(mine) * mask.voxel_volume > 1000:
                looked += 1
                assert np.bincount(mine).max() > 0.99 * len(mine)
    assert looked > 8


def test_one_vertebra_with_the_canal_of_the_whole_spine_stays_one() -> None:
    semantic, instances = build(Spine(levels=LEVELS, spacing=(2.0, 1.5, 1.5), lordosis=25))
    canal = np.where(np.isin(semantic.array, (11, 12)), semantic.array, 0)
    line = centreline(semantic)
    assert line is not None
    for vertebra in range(1, 7):
        # Its canal runs in another direction farther up and down.
        alone = semantic.with_array(np.where(instances.array == vertebra, semantic.array, canal))
        found = separate(alone)
        assert (found.qc["vertebrae"], found.qc["cut_apart"]) == (1, []), vertebra
        own = centreline(alone)
        assert own is not None
        middle = semantic.world(np.argwhere((instances.array == vertebra) & (semantic.array == 10)).mean(axis=0))
        along = [c.tangent(c.locate(middle[None]))[0] for c in (line, own)]
        # At its upper end the line of the whole spine is no reference.
        assert np.rad2deg(np.arccos(along[0] @ along[1])) < (3 if vertebra > 1 else 12)


def test_the_line_of_a_low_picture_has_the_direction_of_the_canal() -> None:
    # A tilted spine: 5 mm to the front for 10 mm down.
    affine = np.eye(4)
    shape = (40, 120, 21)
    x, y, z = np.meshgrid(*map(np.arange, shape), indexing="ij")
    labels = np.zeros(shape, dtype=np.uint8)
    front = y - (60 - 0.5 * (z - 10))
    labels[(np.abs(x - 20) < 18) & (front > 8) & (front < 42)] = 10
    labels[(np.abs(x - 20) < 7) & (np.abs(front) < 7)] = 12
    wanted = np.array([0.0, 0.5, -1.0]) / np.hypot(0.5, 1.0)
    for kept, direction in (((10, 12), wanted), ((10,), np.array([0.0, 0.0, -1.0]))):
        line = centreline(Volume(np.where(np.isin(labels, kept), labels, 0), affine))
        assert line is not None
        np.testing.assert_allclose(line.tangent(np.array([0.5 * line.length]))[0], direction, atol=0.02)
