"""One buffer of each kind, read through views."""

from __future__ import annotations

import numpy as np
import torch

from nnunet_spine_ext.augment.packing import Packer


def test_everything_comes_back_from_two_buffers() -> None:
    packer = Packer()
    first, second = packer.floats([[1.5, 2.5]]), packer.floats(3.0)
    third, fourth = packer.ints(range(4)), packer.ints(np.zeros((2, 0)))
    packed = packer.finish()
    buffers = packed.to(torch.device("cpu"))
    assert packed.floats.dtype == np.float32
    assert packed.ints.dtype == np.int64
    assert buffers.floats(first).tolist() == [[1.5, 2.5]]
    assert buffers.floats(second).item() == 3
    assert buffers.ints(third).tolist() == [0, 1, 2, 3]
    assert buffers.ints(fourth).shape == (2, 0)
    assert buffers.floats(first).data_ptr() == buffers.all_floats.data_ptr()


def test_nothing_gives_empty_buffers() -> None:
    packed = Packer().finish()
    assert packed.floats.size == packed.ints.size == 0


def test_too_large_numbers_are_clipped_not_infinite() -> None:
    packer = Packer()
    packer.floats([1e300, -1e300])
    assert np.isfinite(packer.finish().floats).all()
