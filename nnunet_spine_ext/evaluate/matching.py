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
    """One-to-one matches of one group, reference ids without a partner and predicted ids without one."""

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
        return len(self.matches) + len(self.spurious)

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
    rows = np.arange(len(table.ref_ids)) if ids is None else np.flatnonzero(np.isin(table.ref_ids, list(ids)))
    columns = np.arange(len(table.pred_ids)) if ids is None else np.flatnonzero(np.isin(table.pred_ids, list(ids)))
    overlap = table.overlap[np.ix_(rows, columns)]
    total = table.ref_voxels[rows][:, None] + table.pred_voxels[columns][None, :]
    iou = overlap / (total - overlap)
    candidates = [(r, c) for r, c in np.argwhere((overlap > 0) & (iou >= threshold)).tolist()]
    candidates.sort(key=lambda cell: -iou[cell])
    used_rows: set[int] = set()
    used_columns: set[int] = set()
    matches = []
    for r, c in candidates:
        if r in used_rows or c in used_columns:
            continue
        used_rows.add(r)
        used_columns.add(c)
        ref_id, pred_id = int(table.ref_ids[rows[r]]), int(table.pred_ids[columns[c]])
        matches.append(Match(ref_id, pred_id, float(iou[r, c]), float(2 * overlap[r, c] / total[r, c])))
    missed = tuple(int(table.ref_ids[row]) for r, row in enumerate(rows) if r not in used_rows)
    spurious = tuple(int(table.pred_ids[column]) for c, column in enumerate(columns) if c not in used_columns)
    return Matching(tuple(sorted(matches, key=lambda item: item.ref)), missed, spurious)
