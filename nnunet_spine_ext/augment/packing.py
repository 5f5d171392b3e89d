"""One float32 and one int64 buffer per batch: a single copy each to the device, read there through views.

Builders of the stages put their numpy arrays in and keep the slots; on the device a slot is a view, so that a batch
with a hundred parameters costs two copies and no allocation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor


@dataclass(frozen=True)
class Slot:
    """Where an array lies in its buffer: `offset` and `shape` in elements."""

    offset: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Packed:
    """The finished buffers on the host."""

    floats: NDArray[np.float32]
    ints: NDArray[np.int64]

    def to(self, device: torch.device) -> Buffers:
        """Copy both buffers to a device, without waiting for it."""
        return Buffers(_copy(self.floats, device), _copy(self.ints, device))


@dataclass(frozen=True, eq=False)
class Buffers:
    """The buffers on the device."""

    all_floats: Tensor
    all_ints: Tensor

    def floats(self, slot: Slot) -> Tensor:
        """Return the float32 view of a slot."""
        return self.all_floats[slot.offset : slot.offset + slot.size].view(slot.shape)

    def ints(self, slot: Slot) -> Tensor:
        """Return the int64 view of a slot."""
        return self.all_ints[slot.offset : slot.offset + slot.size].view(slot.shape)


class Packer:
    """Collects arrays; the order of calls decides the layout."""

    def __init__(self) -> None:
        self._floats: list[NDArray[np.float32]] = []
        self._ints: list[NDArray[np.int64]] = []
        self._size = {"floats": 0, "ints": 0}

    def floats(self, values: ArrayLike) -> Slot:
        """Add numbers as float32; values beyond its range are clipped to it, so nothing infinite gets in."""
        limit = float(np.finfo(np.float32).max)
        array = np.clip(np.asarray(values, dtype=np.float64), -limit, limit).astype(np.float32)
        return self._add(self._floats, "floats", array)

    def ints(self, values: ArrayLike) -> Slot:
        """Add whole numbers as int64."""
        return self._add(self._ints, "ints", np.asarray(values, dtype=np.int64))

    def finish(self) -> Packed:
        """Return the buffers with everything that was added."""
        floats = np.concatenate(self._floats) if self._floats else np.zeros(0, dtype=np.float32)
        ints = np.concatenate(self._ints) if self._ints else np.zeros(0, dtype=np.int64)
        return Packed(floats, ints)

    def _add(self, target: list[Any], kind: str, array: NDArray[Any]) -> Slot:
        slot = Slot(self._size[kind], array.shape)
        target.append(array.ravel())
        self._size[kind] += array.size
        return slot


def _copy(array: NDArray[Any], device: torch.device) -> Tensor:
    host = torch.from_numpy(array)
    if device.type != "cuda":
        return host.to(device)
    # Only page-locked memory is copied without the host waiting.
    return host.pin_memory().to(device, non_blocking=True)
