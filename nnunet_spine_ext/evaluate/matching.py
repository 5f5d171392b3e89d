"""Which predicted instance is which reference instance."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.volume import Array

DEFAULT_IOU_THRESHOLD = 0.5
# Kinds of instances in spineps ids; a predicted disc is never matched to a vertebra.
_SACRAL = (26, 27, 29, 30, 31, 32, 33)
SPINEPS_GROUPS: dict[str, frozenset[int]] = {
    "vertebra": frozenset(range(1, 34)) - frozenset(_SACRAL),
    "sacrum": frozenset(_SACRAL),
    "disc": frozenset(range(101, 134)),
    "endplate": frozenset(range(201, 234)),
}


@dataclass(frozen=True)
class Match:
    """A predicted instance that stands for a reference instance."""

    ref: int
    pred: int
    iou: float
    dice: float


@dataclass(frozen=True)
class Matching:
    """Matches of one group, reference ids without a partner and predicted ids without one.

    Every reference id occurs once. A predicted id may stand for several reference ids where the rule allows it.
    """

    matches: tuple[Match, ...]
    missed: tuple[int, ...]
    spurious: tuple[int, ...]

    @property
    def n_ref(self) -> int:
        """Number of reference instances."""
        return len(self.matches) + len(self.missed)

    @property
    def n_pred(self) -> int:
        """Number of predicted instances."""
        return len({match.pred for match in self.matches}) + len(self.spurious)

    def restrict(self, refs: Collection[int], spurious: Collection[int]) -> Matching:
        """Return what concerns some reference ids (matches and misses), and some of the spurious instances."""
        return Matching(
            tuple(match for match in self.matches if match.ref in refs),
            tuple(ref for ref in self.missed if ref in refs),
            tuple(pred for pred in self.spurious if pred in spurious),
        )

    @property
    def partner(self) -> dict[int, int]:
        """Predicted id for each matched reference id."""
        return {match.ref: match.pred for match in self.matches}


@dataclass(frozen=True, eq=False)
class OverlapTable:
    """Voxel counts of all instances and of their overlaps.

    `ref_ids` (R,), `pred_ids` (P,) sorted; `ref_voxels` (R,), `pred_voxels` (P,), `overlap` (R, P) counts.
    """

    ref_ids: Array
    pred_ids: Array
    ref_voxels: Array
    pred_voxels: Array
    overlap: Array


def overlap_table(ref: Array, pred: Array) -> OverlapTable:
    """Count instances and overlaps of two arrays (i, j, k) of non-negative integers (0: background) in one pass."""
    ref_counts, pred_counts = np.bincount(ref.ravel()), np.bincount(pred.ravel())
    ref_ids = np.flatnonzero(ref_counts[1:]) + 1
    pred_ids = np.flatnonzero(pred_counts[1:]) + 1
    both = (ref != 0) & (pred != 0)
    rank_ref = np.zeros(len(ref_counts), dtype=np.int64)
    rank_ref[ref_ids] = np.arange(len(ref_ids))
    rank_pred = np.zeros(len(pred_counts), dtype=np.int64)
    rank_pred[pred_ids] = np.arange(len(pred_ids))
    cells = rank_ref[ref[both]] * len(pred_ids) + rank_pred[pred[both]]
    overlap = np.bincount(cells, minlength=len(ref_ids) * len(pred_ids)).reshape(len(ref_ids), len(pred_ids))
    return OverlapTable(ref_ids, pred_ids, ref_counts[ref_ids], pred_counts[pred_ids], overlap)


def match(
    table: OverlapTable, ids: Collection[int] | None = None, *, threshold: float = DEFAULT_IOU_THRESHOLD
) -> Matching:
    """Match instances one to one, best IoU first, as long as the IoU reaches the threshold.

    From an IoU above 0.5 on the solution is unique whatever the order; equal values are taken in the order of the
    reference ids, then of the predicted ids. `ids` restricts both sides to one group; None takes all.
    """
    rows, columns, overlap, total = _part(table, ids)
    iou = overlap / (total - overlap)
    candidates = [(r, c) for r, c in np.argwhere((overlap > 0) & (iou >= threshold)).tolist()]
    candidates.sort(key=lambda cell: -iou[cell])
    chosen: dict[int, int] = {}
    for r, c in candidates:
        if r not in chosen and c not in chosen.values():
            chosen[r] = c
    return _matching(table, rows, columns, chosen)


def match_overlap(table: OverlapTable, ids: Collection[int] | None = None) -> Matching:
    """Match every reference instance to the predicted one that covers most of its voxels, as SPIDER's evaluation does.

    There is no threshold, and one predicted instance may stand for several reference instances. Equal overlaps go to
    the smaller predicted id. `ids` restricts both sides to one group; None takes all.
    """
    rows, columns, overlap, _ = _part(table, ids)
    best = overlap.argmax(axis=1).tolist() if len(columns) else []
    return _matching(table, rows, columns, {r: c for r, c in enumerate(best) if overlap[r, c] > 0})


def _part(table: OverlapTable, ids: Collection[int] | None) -> tuple[Array, Array, Array, Array]:
    """Return the rows and columns of one group, their overlaps and the sums of both sizes."""
    rows = np.arange(len(table.ref_ids)) if ids is None else np.flatnonzero(np.isin(table.ref_ids, list(ids)))
    columns = np.arange(len(table.pred_ids)) if ids is None else np.flatnonzero(np.isin(table.pred_ids, list(ids)))
    total = table.ref_voxels[rows][:, None] + table.pred_voxels[columns][None, :]
    return rows, columns, table.overlap[np.ix_(rows, columns)], total


def _matching(table: OverlapTable, rows: Array, columns: Array, chosen: dict[int, int]) -> Matching:
    """Turn chosen cells (position of the row: position of the column) into matches, misses and spurious instances."""
    ref_ids, pred_ids = table.ref_ids[rows].tolist(), table.pred_ids[columns].tolist()
    matches = []
    for r, c in chosen.items():
        shared = int(table.overlap[rows[r], columns[c]])
        total = int(table.ref_voxels[rows[r]] + table.pred_voxels[columns[c]])
        matches.append(Match(ref_ids[r], pred_ids[c], shared / (total - shared), 2 * shared / total))
    missed = tuple(label for r, label in enumerate(ref_ids) if r not in chosen)
    spurious = tuple(label for c, label in enumerate(pred_ids) if c not in chosen.values())
    return Matching(tuple(sorted(matches, key=lambda item: item.ref)), missed, spurious)
