"""How the slices of one scan moved against another: in their plane, each slice by itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nnunet_spine_ext.core.volume import Array


@dataclass(frozen=True)
class Motion:
    """A map from places in the union to places in one scan, both in frame millimetres; z stays what it is.

    ``(x, y)`` in the union lies at ``linear @ (x, y) + offset`` in the scan. Between the levels the numbers are
    interpolated, beyond them they are held; at each level the inverse is exact.

    Parameters
    ----------
    z: (n,) levels in mm, ascending.
    linear: (n, 2, 2).
    offset: (n, 2) mm.
    """

    z: Array
    linear: Array
    offset: Array

    @classmethod
    def shift(cls, z: Array, shift: Array) -> Motion:
        """Return the motion that carries a scan by `shift` (n, 2) mm onto the union."""
        return cls(z, np.broadcast_to(np.eye(2), (len(z), 2, 2)), -shift)

    @cached_property
    def is_shift(self) -> bool:
        """Whether slices keep their angle and shape."""
        return bool((self.linear == np.eye(2)).all())

    def to_scan(self, x: Array, y: Array, z: Array) -> tuple[Array, Array]:
        """Return where places of the union lie in the scan; arguments are broadcast."""
        dx, dy = self._at(z, self.offset[:, 0]), self._at(z, self.offset[:, 1])
        if self.is_shift:
            return x + dx, y + dy
        a, b, c, d = self._entries(z)
        return a * x + b * y + dx, c * x + d * y + dy

    def to_union(self, x: Array, y: Array, z: Array) -> tuple[Array, Array]:
        """Return where places of the scan lie in the union; arguments are broadcast."""
        x, y = x - self._at(z, self.offset[:, 0]), y - self._at(z, self.offset[:, 1])
        if self.is_shift:
            return x, y
        a, b, c, d = self._entries(z)
        determinant = a * d - b * c
        return (d * x - b * y) / determinant, (a * y - c * x) / determinant

    def _entries(self, z: Array) -> tuple[Array, Array, Array, Array]:
        a, b, c, d = (self._at(z, self.linear[:, i, j]) for i in (0, 1) for j in (0, 1))
        return a, b, c, d

    def _at(self, z: Array, values: Array) -> Array:
        return np.asarray(np.interp(z, self.z, values))
