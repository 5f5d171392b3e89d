"""Faces that instances share with other structures."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.numbering.contact import contact_mm2


def test_faces_are_counted_on_all_sides_with_their_area() -> None:
    array = np.zeros((5, 5, 5), dtype=np.uint16)
    array[2, 2, 2] = 3
    volume = Volume(array, np.diag([2.0, 3.0, 5.0, 1.0]))
    for place, area in (((1, 2, 2), 15.0), ((2, 3, 2), 10.0), ((2, 2, 1), 6.0), ((1, 1, 2), 0.0)):
        other = np.zeros(array.shape, dtype=bool)
        other[place] = True
        assert contact_mm2(volume, other)[3] == pytest.approx(area)
    around = np.ones(array.shape, dtype=bool)
    around[2, 2, 2] = False
    assert contact_mm2(volume, around)[3] == pytest.approx(2 * (15 + 10 + 6))
    assert contact_mm2(volume, np.zeros(array.shape, dtype=bool)).tolist() == [0.0] * 4
