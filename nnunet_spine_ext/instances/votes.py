"""Connected parts of a vertebra (an articular process, a spinous process, …) go to one vertebra as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.instances.frame import ARCUS, COSTAL, INFERIOR, SPINOUS, SUPERIOR
from nnunet_spine_ext.instances.fronts import SINGLE
from nnunet_spine_ext.instances.priors import EXPECTED, SPINE, class_lookup
from nnunet_spine_ext.instances.seeds import Bodies
from nnunet_spine_ext.instances.voxels import Voxels

# Classes with a vote, and whether a component must stay whole; both sides are separate components anyway.
_WHOLE = {
    SUPERIOR[0]: True, SUPERIOR[1]: True, INFERIOR[0]: True, INFERIOR[1]: True, COSTAL[0]: True, COSTAL[1]: True,
    SPINOUS: True, ARCUS: False,
}  # fmt: skip
# Spinous processes are at most this long, in pitches, by pitch in mm: cervical ones are short, thoracic ones hang down,
# lumbar ones are plates.
_SINGLE_SPINOUS = ((20.0, 1.15), (29.0, 1.95), (np.inf, 1.25))
_ROOT_SHARE = 0.3


@dataclass(frozen=True)
class _Parts:
    """Connected parts of a class: `table` (part, vertebra) counts votes, column 0 is nobody's; `middle` and `extent`
    are mean arc length and length along the line in mm."""

    table: Array
    middle: Array
    extent: Array


def vote(voxels: Voxels, free: Array, owner: Array, bodies: Bodies, *, share: float, level: float) -> int:
    """Let connected parts of one class go to one vertebra, in place; returns how many changed voxels.

    Parameters
    ----------
    free: (m,) numbers of the voxels to be assigned; `owner` (m,) their vertebra from 1, 0 for nobody's.
    share: a part of a class that need not stay whole goes as a whole if this share of it agrees.
    level: weight of the part's expected level against the share of its voxels.
    """
    part = voxels.part[free]
    low, high = (np.zeros(len(voxels.part_label), dtype=owner.dtype) for _ in range(2))
    low[part] = high[part] = owner
    np.minimum.at(low, part, owner)
    np.maximum.at(high, part, owner)
    # Where all agree there is nothing to decide.
    divided = np.flatnonzero((low < high)[part])
    moved = 0
    labels = voxels.label[free[divided]]
    for label, whole in _WHOLE.items():
        here = divided[labels == label]
        if len(here) == 0:
            continue
        names, name = np.unique(part[here], return_inverse=True)
        now = owner[here].astype(np.intp)
        table = _table(name, len(names), now, voxels.arc[free[here]], len(bodies), root=label == SPINOUS)
        winner = _winners(table, int(class_lookup()[label]), whole, bodies, share, level)[name]
        decided = winner > 0
        moved += len(np.unique(name[decided & (winner != now)]))
        owner[here[decided]] = winner[decided]
    return moved


def _table(name: Array, count: int, owner: Array, arc: Array, vertebrae: int, *, root: bool) -> _Parts:
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(low, name, arc)
    np.maximum.at(high, name, arc)
    # A spinous process hangs from its upper end; further down it may lie on the arch below.
    voter = arc <= (low + _ROOT_SHARE * (high - low))[name] if root else np.ones(len(arc), dtype=bool)
    ballot = name[voter] * (vertebrae + 1) + owner[voter]
    table = np.bincount(ballot, minlength=count * (vertebrae + 1)).reshape(count, vertebrae + 1)
    middle = np.bincount(name, arc, minlength=count) / np.bincount(name, minlength=count)
    return _Parts(table, middle, high - low)


def _winners(parts: _Parts, kind: int, whole: bool, bodies: Bodies, least: float, weight: float) -> Array:
    """Winning vertebra per part (0: leave its voxels as they are)."""
    winner = np.zeros(len(parts.table), dtype=np.intp)
    level, tolerance = EXPECTED[kind]
    for part in range(len(parts.table)):
        votes = parts.table[part, 1:]
        if votes.sum() == 0:
            continue
        share = votes / parts.table[part].sum()
        distance = np.abs((parts.middle[part] - bodies.arc) / bodies.pitch - level) / tolerance
        score = share - weight * np.maximum(distance - 1.0, 0.0)
        best = int(np.argmax(np.where(share > 0, score, -np.inf)))
        single = parts.extent[part] < _longest(kind, float(bodies.pitch[best])) * bodies.pitch[best]
        if (whole and single) or (not whole and share[best] >= least):
            winner[part] = best + 1
    return winner


def _longest(kind: int, pitch: float) -> float:
    """Length of the longest single process of a class in pitches; what is longer is several processes in contact."""
    if kind != SPINE:
        return SINGLE
    return next(longest for below, longest in _SINGLE_SPINOUS if pitch < below)
