"""The oracle as a network of this package."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from instancing.oracle import CORPUS, POSTERIOR, Oracle
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.instances.cutout_network import CutoutAnswer
from nnunet_spine_ext.instances.cutouts import Cutout, CutoutSpec, ModelGrid


class OraclePredictor:
    """A `CutoutPredictor` that asks an oracle; the voxels of its model are those of the oracle's mask.

    Parameters
    ----------
    size: voxels of a cutout along P, I, R.
    """

    def __init__(self, oracle: Oracle, size: tuple[int, int, int] = (248, 304, 64)) -> None:
        spacing = tuple(float(mm) for mm in oracle.spacing)
        self.spec = CutoutSpec(size=size, spacing=(spacing[0], spacing[1], spacing[2]))
        self.oracle = oracle
        used = [np.flatnonzero(oracle.semantic.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
        self.corner = [int(u[0]) for u in used]
        self.shape = tuple(int(u[-1] - u[0]) + 1 for u in used)

    def predict(self, grid: ModelGrid, cutouts: Sequence[Cutout]) -> list[CutoutAnswer]:
        """Answer for every cutout of a grid that is the foreground of the mask, voxel by voxel."""
        if grid.labels.shape != self.shape:
            msg = f"the grid {grid.labels.shape} is not the foreground {self.shape} of the mask"
            raise ValueError(msg)
        begin, own = time.process_time(), self.oracle.seconds
        answers = []
        for cutout in cutouts:
            start = [s + c for s, c in zip(cutout.start, self.corner, strict=True)]
            window, labels = self.oracle.answer(start, cutout.size)
            inside = tuple(slice(w.start - c, w.stop - c) for w, c in zip(window, self.corner, strict=True))
            # The window may reach into the air around the foreground, where the grid ends.
            part = tuple(
                slice(max(0, -s.start), labels.shape[k] - max(0, s.stop - self.shape[k])) for k, s in enumerate(inside)
            )
            inside = tuple(slice(max(0, s.start), min(s.stop, n)) for s, n in zip(inside, self.shape, strict=True))
            answers.append(_answer(grid.labels, inside, labels[part]))
        self.oracle.seconds += time.process_time() - begin - (self.oracle.seconds - own)
        return answers


def _answer(classes: Array, box: tuple[slice, ...], labels: Array) -> CutoutAnswer:
    """Cut an answer to what it says something about."""
    vertebra = (classes[box] >= POSTERIOR[0]) & (classes[box] <= CORPUS)
    labels = np.where(vertebra, labels, 0).astype(np.uint8)
    tight = []
    for axis in range(3):
        used = np.flatnonzero(labels.any(axis=tuple(k for k in range(3) if k != axis)))
        tight.append(slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 0))
    whole = tuple(slice(b.start + t.start, b.start + t.stop) for b, t in zip(box, tight, strict=True))
    return CutoutAnswer((whole[0], whole[1], whole[2]), np.ascontiguousarray(labels[tuple(tight)]))
