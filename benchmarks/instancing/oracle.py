"""In place of an instance network: answers that are perfect, or wrong in a chosen way. NumPy only.

A network sees a cutout and says which voxels belong to the vertebra above (1), in the centre (2) and below (3). Here
the truth says so. Errors are drawn per vertebra in the centre, so two programs that look at the same vertebra get the
same answer, whatever seeds they find. `share` of the answers are wrong:

shift      the vertebra next to the centre is taken for the centre
merge      the centre's label covers a neighbour too
empty      nothing
miss       one of the three is left out
boundary   borders between vertebrae are displaced by 2 to 4 voxels
swap_post  posterior elements of the centre are given to a neighbour
dropout    a vertebra is found by only one of the three cutouts that should find it

Correlated errors concern a vertebra rather than a cutout: every cutout that sees it makes the same mistake, four times
in five; shift, empty and boundary go on in the next cutout as often.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
MODES = ("perfect", "shift", "merge", "empty", "miss", "boundary", "swap_post", "dropout")
ABOVE, CENTRE, BELOW = 1, 2, 3
CORPUS = 10
POSTERIOR = (2, 10)
PERSISTENCE = 0.8
_NEAR = (4, 12, 40, 120)


@dataclass(frozen=True)
class Condition:
    """Which answers are wrong: how, how many (0-1), with which seed, and whether neighbours err alike."""

    mode: str = "perfect"
    share: float = 0.0
    seed: int = 0
    correlated: bool = False

    @property
    def name(self) -> str:
        """Key in results, e.g. ``merge@0.4-correlated#0``."""
        if self.mode == "perfect":
            return self.mode
        return f"{self.mode}@{self.share:g}{'-correlated' if self.correlated else ''}#{self.seed}"


class Oracle:
    """Answers for the cutouts of one mask.

    Parameters
    ----------
    truth: uint8 along P, I, R; vertebrae 1..n from head to tail.
    semantic: uint8 ids of nnunet14 on the same grid.
    condition: which answers are wrong.
    spacing: voxel size in mm along P, I, R.

    `seconds` counts the processor's time spent in here, `hit` the wrong answers given, `asked` all.
    """

    def __init__(
        self, truth: Array, semantic: Array, condition: Condition, spacing: Sequence[float] = (0.75, 0.75, 1.65)
    ) -> None:
        if condition.mode not in MODES:
            msg = f"{condition.mode!r} is none of {', '.join(MODES)}"
            raise ValueError(msg)
        begin = time.process_time()
        self.truth, self.semantic, self.condition = truth, semantic, condition
        self.spacing = np.asarray(spacing)
        self.count = int(truth.max())
        rng = np.random.default_rng((condition.seed, MODES.index(condition.mode)))
        size = self.count + 2
        self.wrong = rng.random(size) < condition.share
        self.side = rng.choice((-1, 1), size)
        self.which = rng.integers(1, 4, size)
        self.kept = rng.integers(-1, 2, size)
        self.offset = np.stack([rng.integers(-2, 3, size), rng.integers(2, 5, size) * self.side], axis=1)
        # Whether a cutout (row) takes part in the error of a vertebra (column).
        self.joins = rng.random((size, size)) < PERSISTENCE
        if condition.correlated and condition.mode in ("shift", "empty", "boundary"):
            again = rng.random(size) < PERSISTENCE
            for k in range(1, size):
                if again[k]:
                    for drawn in (self.wrong, self.side, self.offset):
                        drawn[k] = drawn[k - 1]
        self.asked = self.hit = 0
        self.seconds = time.process_time() - begin

    def answer(self, start: Sequence[int], size: Sequence[int]) -> tuple[tuple[slice, slice, slice], Array]:
        """Return where a window lies inside the mask, and its labels there (uint8, 0-3).

        Parameters
        ----------
        start: corner of the window along P, I, R; may be negative.
        size: extent of the window.
        """
        begin = time.process_time()
        try:
            box = tuple(
                slice(min(max(0, s), n), min(max(0, s + width), n))
                for s, width, n in zip(start, size, self.truth.shape, strict=True)
            )
            window = (box[0], box[1], box[2])
            centre = self._centre([s + width // 2 for s, width in zip(start, size, strict=True)])
            return window, self._labels(window, centre)
        finally:
            self.seconds += time.process_time() - begin

    def _centre(self, point: Sequence[int]) -> int:
        """Return the vertebra at a point, or the one whose body is nearest."""
        if all(0 <= p < n for p, n in zip(point, self.truth.shape, strict=True)):
            found = int(self.truth[tuple(point)])
            if found:
                return found
        for reach in _NEAR:
            low = [max(0, p - reach) for p in point]
            box = tuple(slice(a, p + reach + 1) for a, p in zip(low, point, strict=True))
            voxels = np.argwhere((self.truth[box] > 0) & (self.semantic[box] == CORPUS))
            if len(voxels):
                apart = (voxels + low - np.asarray(point)) * self.spacing
                return int(self.truth[tuple(voxels[np.argmin((apart**2).sum(axis=1))] + low)])
        return 0

    def _labels(self, window: tuple[slice, slice, slice], centre: int) -> Array:
        table = np.zeros(256, np.uint8)
        self.asked += 1
        mode = self.condition.mode
        if centre == 0:
            return table[self.truth[window]]
        shown = [centre - 1, centre, centre + 1]
        wrong = bool(self.wrong[centre])
        if mode == "empty" and wrong:
            self.hit += 1
            return np.zeros_like(self.truth[window])
        if mode == "shift" and wrong:
            self.hit += 1
            shown = [k + int(self.side[centre]) for k in shown]
        for label, vertebra in zip((ABOVE, CENTRE, BELOW), shown, strict=True):
            if 1 <= vertebra <= self.count:
                table[vertebra] = label
        if mode == "merge":
            self._merge(table, centre)
        elif mode in ("miss", "dropout"):
            self._leave_out(table, centre)
        if mode == "boundary" and wrong:
            self.hit += 1
            return table[self._displaced(window, self.offset[centre])]
        labels = table[self.truth[window]]
        if mode == "swap_post":
            self._swap(labels, window, table, centre)
        return labels

    def _merge(self, table: Array, centre: int) -> None:
        """Give the labels of two neighbours to both: the centre and a neighbour, or every pair that is drawn."""
        if not self.condition.correlated:
            other = centre + int(self.side[centre])
            if self.wrong[centre] and 1 <= other <= self.count:
                table[other] = CENTRE
                self.hit += 1
            return
        before = table.copy()
        # Pair k: vertebrae k and k + 1. The label nearer to the centre wins.
        for upper in (centre - 1, centre):
            if 1 <= upper < self.count and self.wrong[upper] and self.joins[centre, upper]:
                table[upper] = table[upper + 1] = CENTRE
        self.hit += int((table != before).any())

    def _leave_out(self, table: Array, centre: int) -> None:
        before = table.copy()
        for vertebra in range(max(1, centre - 1), min(self.count, centre + 1) + 1):
            if self.condition.mode == "dropout":
                gone = self.wrong[vertebra] and centre - vertebra != self.kept[vertebra]
            elif self.condition.correlated:
                gone = self.wrong[vertebra] and self.joins[centre, vertebra]
            else:
                gone = self.wrong[centre] and vertebra - centre + CENTRE == self.which[centre]
            if gone:
                table[vertebra] = 0
        self.hit += int((table != before).any())

    def _displaced(self, window: tuple[slice, slice, slice], offset: Array) -> Array:
        """Return the truth moved by some voxels along P and I; what is vertebra stays vertebra."""
        true = self.truth[window]
        moved = true
        for axis, step in enumerate(offset.tolist()):
            shifted = np.zeros_like(moved)
            ahead, behind = [slice(None)] * 3, [slice(None)] * 3
            ahead[axis] = slice(step, None) if step > 0 else slice(None, step or None)
            behind[axis] = slice(None, -step) if step > 0 else slice(-step, None)
            shifted[tuple(ahead)] = moved[tuple(behind)]
            moved = shifted
        return np.where((true > 0) & (moved > 0), moved, true)

    def _swap(self, labels: Array, window: tuple[slice, slice, slice], table: Array, centre: int) -> None:
        """Give posterior elements to the neighbour's label."""
        true, classes = self.truth[window], self.semantic[window]
        seen = (centre - 1, centre, centre + 1) if self.condition.correlated else (centre,)
        changed = False
        for vertebra in seen:
            other = vertebra + int(self.side[vertebra]) if 1 <= vertebra <= self.count else 0
            if not (1 <= other <= self.count and self.wrong[vertebra] and table[other]):
                continue
            if self.condition.correlated and not self.joins[centre, vertebra]:
                continue
            labels[(true == vertebra) & (classes >= POSTERIOR[0]) & (classes < POSTERIOR[1])] = table[other]
            changed = True
        self.hit += int(changed)
