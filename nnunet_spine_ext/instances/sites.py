"""The voxels of vertebrae as a list, ordered from head to tail: what cutouts answer about and votes are counted for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.instances.cutout_network import ANSWERS, CutoutAnswer
from nnunet_spine_ext.instances.cutouts import ModelGrid, vertebra_voxels
from nnunet_spine_ext.instances.frame import ARCUS, CORPUS, Frame
from nnunet_spine_ext.instances.fusion import Voter
from nnunet_spine_ext.instances.voxels import CHUNK, coordinates

_BESIDE_MM = 4.0


@dataclass(frozen=True)
class Sites:
    """Voxels of vertebrae on the grid of the network.

    Parameters
    ----------
    flat: (n,) int32 ascending flat indices into the grid with its axes in the order I, P, R.
    rows: number of the first site of every level I, and one more.
    kinds: (n,) uint8 ids of ``nnunet14``.
    shape: of the grid along P, I, R.
    scales: per axis P, I, R the position in mm of every voxel along y, z, x of the frame.
    """

    flat: Array
    rows: Array
    kinds: Array
    shape: tuple[int, int, int]
    scales: tuple[Array, Array, Array]

    def __len__(self) -> int:
        return len(self.flat)

    @property
    def corpus(self) -> Array:
        """Which sites are of a body, (n,) bool."""
        result: Array = self.kinds == CORPUS
        return result

    def pedicles(self) -> tuple[Array, Array]:
        """Return pairs of sites (numbers) of an arch and of a body that lie side by side at one level.

        They may be a few millimetres apart: thin pedicles are often missing. Up and down only neighbours count, as the
        next body is not far where bodies are fused.
        """
        p, _, r = self.shape
        steps = [p * r]
        for axis, stride in ((0, r), (2, 1)):
            mm = float(np.abs(np.diff(self.scales[axis])).mean()) if len(self.scales[axis]) > 1 else _BESIDE_MM
            steps += [stride * k for k in range(1, max(1, round(_BESIDE_MM / max(mm, 1e-3))) + 1)]
        arch = np.flatnonzero(self.kinds == ARCUS)
        pairs = []
        for step in steps:
            for way in (-step, step):
                # Steps beyond an edge of the grid come out on its other side, where no body borders on an arch.
                beside = self.flat[arch] + way
                found = np.minimum(np.searchsorted(self.flat, beside), len(self.flat) - 1)
                touching = (self.flat[found] == beside) & (self.kinds[found] == CORPUS)
                pairs.append(np.stack([arch[touching], found[touching]]))
        first, second = np.concatenate(pairs, axis=1)
        return first, second

    def take(self, array: Array, source: tuple[Array, Array, Array]) -> Array:
        """Return the values (n,) of an array of the frame (x, y, z) at the sites; `source` is that of the grid."""
        found = np.empty(len(self.flat), dtype=array.dtype)
        for begin in range(0, len(found), CHUNK):
            piece = slice(begin, begin + CHUNK)
            level, depth, side = coordinates(self.flat[piece], (self.shape[1], self.shape[0], self.shape[2]))
            found[piece] = array[source[2][side], source[0][depth], source[1][level]]
        return found

    def put(self, values: Array) -> Array:
        """Return an array (P, I, R) with these values (n,) at the sites and 0 elsewhere."""
        p, i, r = self.shape
        whole = np.zeros(p * i * r, dtype=values.dtype)
        whole[self.flat] = values
        return whole.reshape(i, p, r).transpose(1, 0, 2)

    def positions(self, chosen: Array) -> Array:
        """Return where the sites with these numbers lie, (n, 3) mm along x, y, z of the frame."""
        p, i, r = self.shape
        level, depth, side = np.unravel_index(self.flat[chosen], (i, p, r))
        return np.stack([self.scales[2][side], self.scales[0][depth], self.scales[1][level]], axis=1)

    def voxels(self, chosen: Array) -> Array:
        """Return the voxels (n, 3) along P, I, R of the sites with these numbers."""
        p, i, r = self.shape
        level, depth, side = np.unravel_index(self.flat[chosen], (i, p, r))
        return np.stack([depth, level, side], axis=1)

    def voter(self, answer: CutoutAnswer) -> Voter:
        """Return what a cutout's answer says at the sites."""
        low, labels = self._read(answer, answer.labels)
        used = np.flatnonzero(labels)
        if len(used) == 0:
            return Voter(low, labels[:0], ANSWERS - 1)
        first, last = int(used[0]), int(used[-1]) + 1
        soft = None
        if answer.probabilities is not None:
            soft = np.stack([self._read(answer, channel)[1][first:last] for channel in answer.probabilities])
        return Voter(low + first, labels[first:last], ANSWERS - 1, probabilities=soft)

    def _read(self, answer: CutoutAnswer, values: Array) -> tuple[int, Array]:
        """Number of the first site at the levels of the box; values there, 0 beside the box."""
        p, _, r = self.shape
        box = answer.box
        low, high = int(self.rows[box[1].start]), int(self.rows[box[1].stop])
        levels = np.zeros((box[1].stop - box[1].start, p, r), dtype=values.dtype)
        levels[:, box[0], box[2]] = values.transpose(1, 0, 2)
        return low, levels.reshape(-1)[self.flat[low:high] - box[1].start * p * r]


def find_sites(grid: ModelGrid, frame: Frame) -> Sites:
    """Return the voxels of vertebrae of a grid that was made from this frame."""
    p, i, r = grid.labels.shape
    # 32 bits are enough for any scan; level by level, as the whole grid in another order would be a second copy.
    dtype = np.int32 if grid.labels.size < 2**31 else np.int64
    flats, kinds = [], []
    for level in range(i):
        labels = grid.labels[:, level].reshape(-1)
        here = np.flatnonzero(vertebra_voxels(labels))
        flats.append((here + level * p * r).astype(dtype))
        kinds.append(labels[here])
    rows = np.concatenate([[0], np.cumsum([len(here) for here in flats])])
    steps = (frame.spacing[1], frame.spacing[2], frame.spacing[0])
    scales = [source * step for source, step in zip(grid.source, steps, strict=True)]
    return Sites(np.concatenate(flats), rows, np.concatenate(kinds), (p, i, r), (scales[0], scales[1], scales[2]))
