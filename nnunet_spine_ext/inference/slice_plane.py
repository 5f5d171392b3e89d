"""How a 2-D network sees sagittal slices: which way up, and whether rows and columns change places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from nnunet_spine_ext.core.errors import SetupError

# Axes of the body: either end of each.
_SIDES = ("LR", "PA", "IS")
# Rows of slices go downwards, columns to the back.
_ROWS, _COLUMNS = "I", "P"


@dataclass(frozen=True)
class SlicePlane:
    """Between slices (B, 1, Y, X), from superior to inferior and from anterior to posterior, and what a network sees.

    Parameters
    ----------
    upwards: the network sees rows from inferior to superior. forwards: columns from posterior to anterior.
    transposed: it sees columns as rows.
    """

    upwards: bool
    forwards: bool
    transposed: bool

    @classmethod
    def of(cls, orientation: str, transpose: Sequence[int], where: str) -> SlicePlane:
        """Return the plane of a model.

        Parameters
        ----------
        orientation: towards where the axes (i, j, k) of the stored images go, for example ``RAS``.
        transpose: nnU-Net's `transpose_forward` of its arrays (z, y, x), which are (k, j, i).
        where: what errors name.

        Raises
        ------
        SetupError: an orientation that is none, or a model whose slices are not sagittal.
        """
        letters = orientation.upper()
        axes = [next((k for k, side in enumerate(_SIDES) if letter in side), -1) for letter in letters]
        if sorted(axes) != [0, 1, 2]:
            raise SetupError(
                "E-PLANS-READER",
                file=where,
                found=f"the orientation {orientation!r}",
                expected="three letters, one of each L or R, P or A, I or S",
                fix="correct it, for example LPS",
            )
        seen = [letters[::-1][axis] for axis in transpose]
        across, rows, columns = seen
        if across not in "LR":
            raise SetupError(
                "E-MODEL-SLICES",
                file=where,
                found=f"a network whose slices lie along the axis to {across}",
                expected="a 2-D model of nnU-Net whose slices are sagittal",
                fix="plan with sagittal slices: of thick sagittal slices nnU-Net does so by itself",
            )
        transposed = rows in "PA"
        vertical, horizontal = (columns, rows) if transposed else (rows, columns)
        return cls(upwards=vertical != _ROWS, forwards=horizontal != _COLUMNS, transposed=transposed)

    @property
    def _flips(self) -> list[int]:
        return [axis for axis, flipped in ((2, self.upwards), (3, self.forwards)) if flipped]

    def to_network(self, slices: Tensor) -> Tensor:
        """Turn slices (B, C, Y, X) as the network sees them."""
        turned = slices.flip(self._flips) if self._flips else slices
        return turned.transpose(2, 3) if self.transposed else turned

    def from_network(self, answers: Tensor) -> Tensor:
        """Turn answers of the network back to (B, C, Y, X)."""
        turned = answers.transpose(2, 3) if self.transposed else answers
        return turned.flip(self._flips) if self._flips else turned
