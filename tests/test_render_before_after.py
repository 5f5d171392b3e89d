"""The picture of slices before and after."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.harmonize.slices import ORIENTATION
from nnunet_spine_ext.render.before_after import before_after


def test_equal_volumes_show_no_change_and_any_orientation_gives_the_same_picture() -> None:
    rng = np.random.default_rng(0)
    scan = Volume(rng.uniform(0, 100, (9, 40, 60)).astype(np.float32), np.diag([3.0, 1, 1, 1]))
    other = scan.with_array(scan.array[:, ::-1].copy())
    picture = before_after(scan, other)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, before_after(scan.to("PIL"), other.to("PIL")))
    assert picture.shape[0] > 2.9 * before_after(scan, other, positions=[4]).shape[0]
    same = before_after(scan, scan, positions=[4])
    width = same.shape[1] // 4
    change = same[30:-10, 2 * width + 10 : 3 * width - 10]
    assert (change == 128).mean() > 0.95
    with pytest.raises(ValueError, match="grids"):
        before_after(scan, Volume(scan.array, np.diag([3.0, 1, 1.5, 1])))


def test_slices_have_the_numbers_of_a_harmonized_volume() -> None:
    rng = np.random.default_rng(1)
    scan = Volume(rng.uniform(0, 100, (9, 40, 60)).astype(np.float32), np.diag([3.0, 1, 1, 1]))
    changed = scan.turned(ORIENTATION)
    slices = changed.array.copy()
    slices[2] = slices[2][::-1]
    other = changed.with_array(slices).to_affine(scan.affine)
    unchanged = before_after(scan, scan, positions=[2])
    assert not np.array_equal(before_after(scan, other, positions=[2]), unchanged)
    np.testing.assert_array_equal(before_after(scan, other, positions=[6]), before_after(scan, scan, positions=[6]))
    with pytest.raises(ValueError, match="position"):
        before_after(scan, scan, positions=[9])
