"""Which of two labels is the cord and which the canal, told from their shapes: the cord lies inside the canal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.core.volume import Array, Volume

Verdict = Literal["right", "exchanged", "unclear"]

# Measured on lumbar and thoracic masks: 0.94 to 0.97 of the cord's outline touches the canal, 0.24 to 0.33 of the
# canal's touches the cord. The bounds lie in between.
MIN_ENCLOSED = 0.6
MIN_RATIO = 1.5


@dataclass(frozen=True)
class Enclosure:
    """How much of each label's outline, in the axial slices that hold both, touches the other label.

    Parameters
    ----------
    cord, canal: shares from 0 to 1; 1 is a label that the other one surrounds.
    slices: axial slices that hold both labels.
    """

    cord: float
    canal: float
    slices: int

    @property
    def verdict(self) -> Verdict:
        """Whether the labels are what they say; ``unclear`` where neither lies inside the other."""
        if self.cord >= MIN_ENCLOSED and self.cord >= MIN_RATIO * self.canal:
            return "right"
        if self.canal >= MIN_ENCLOSED and self.canal >= MIN_RATIO * self.cord:
            return "exchanged"
        return "unclear"


def enclosure(mask: Volume, cord: int, canal: int) -> Enclosure:
    """Measure which of two labels surrounds the other.

    Parameters
    ----------
    mask: labels in any orientation; slices are those of the axis closest to the body's long axis.
    cord, canal: the ids that are said to be cord and canal.
    """
    axis = next(k for k, letter in enumerate(mask.orientation) if letter in "IS")
    labels = np.moveaxis(mask.array, axis, -1)
    both = (labels == cord).any(axis=(0, 1)) & (labels == canal).any(axis=(0, 1))
    if not both.any():
        return Enclosure(0.0, 0.0, 0)
    # Only neighbours within a slice count, so slices that hold one label alone can be left out.
    slices = np.pad(labels[:, :, both], ((1, 1), (1, 1), (0, 0)))
    return Enclosure(_touching(slices, cord, canal), _touching(slices, canal, cord), int(both.sum()))


def judged(
    mask: Volume, cord: int, canal: int, *, file: str | Path, exchanged: str, unclear: str
) -> tuple[Verdict, list[Problem]]:
    """Return what the shapes say about two labels, and a warning unless they are right.

    Labels that share no slice are taken for what they say: nothing contradicts it.

    Parameters
    ----------
    mask, cord, canal: see `enclosure`.
    file: what the warning names.
    exchanged, unclear: what is done, or what the user can do, in each of these cases.
    """
    found = enclosure(mask, cord, canal)
    if found.verdict == "right" or not found.slices:
        return "right", []
    shares = f"{found.cord:.0%} of the outline of the cord ({cord}) touches the canal ({canal}), "
    shares += f"{found.canal:.0%} the other way round"
    if found.verdict == "exchanged":
        what = f"the codes of cord and canal exchanged ({shares})"
        warning = Problem("warning", "W-LABEL-EXCHANGED", str(file), what, "the cord inside the canal", exchanged)
    else:
        what = f"cord and canal that cannot be told apart ({shares})"
        warning = Problem("warning", "W-LABEL-UNCLEAR", str(file), what, "the cord inside the canal", unclear)
    return found.verdict, [warning]


def _touching(labels: Array, inner: int, outer: int) -> float:
    """Share of the faces between a label and anything else that are faces to the other label."""
    own, other = labels == inner, labels == outer
    outline = contact = 0
    for axis in (0, 1):
        for step in (1, -1):
            # The border is empty, so what rolls over it is background.
            outline += int((own & ~np.roll(own, step, axis)).sum())
            contact += int((own & np.roll(other, step, axis)).sum())
    return contact / outline
