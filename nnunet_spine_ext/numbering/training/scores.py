"""How well levels are found: single vertebrae, and whole sequences with the solver and without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnunet_spine_ext.numbering.levels import LEVELS, REGIONS
from nnunet_spine_ext.numbering.path import Evidence, best_path
from nnunet_spine_ext.numbering.scores import VertebraScores
from nnunet_spine_ext.numbering.scoring import combine

Sequences = Mapping[str, Sequence[str]]


def most_likely(scores: VertebraScores) -> tuple[str, ...]:
    """Return the most likely level of each vertebra by itself."""
    return tuple(LEVELS[k] for k in scores.level.argmax(axis=1))


def solved(scores: VertebraScores, *, sacrum: bool) -> tuple[str, ...]:
    """Return the best sequence by the exact solver, from the scores alone; `sacrum`: it is right below the last one.

    Without a sequence that is possible (more vertebrae than levels) those of `most_likely`.
    """
    if not len(scores):
        return ()
    level, relative = combine(scores)
    gaps = np.zeros(len(level) - 1)
    path = best_path(Evidence(level, relative, gaps=gaps, sacrum_gap=0.0 if sacrum else None))
    return most_likely(scores) if path is None else path.best.levels


def level_metrics(truth: Sequences, found: Sequences) -> dict[str, Any]:
    """Compare sequences by case.

    Returns
    -------
    ``vertebrae`` and ``scans`` counted; ``accuracy`` of levels; ``off_by_one``: share of vertebrae that got the level
    of the true neighbour above or below; ``regions``: accuracy by region; ``perfect``: share of scans without an error.
    """
    right, near, region, perfect = [], [], [], []
    for case, names in truth.items():
        answer = found[case]
        right += [a == b for a, b in zip(names, answer, strict=True)]
        near += [_is_neighbour(a, b) for a, b in zip(names, answer, strict=True)]
        region += [name[0] for name in names]
        perfect.append(tuple(names) == tuple(answer))
    correct, where = np.array(right, dtype=bool), np.array(region)
    return {
        "vertebrae": len(correct),
        "scans": len(perfect),
        "accuracy": _share(correct),
        "off_by_one": _share(np.array(near, dtype=bool)),
        "regions": {name: _share(correct[where == name]) for name in REGIONS if (where == name).any()},
        "perfect": _share(np.array(perfect, dtype=bool)),
    }


def _is_neighbour(truth: str, answer: str) -> bool:
    """Whether the answer is the level next to the true one; T13 and L6 may be there or not."""
    pairs = {("T11", "L1"), ("T12", "L1")}
    return abs(LEVELS.index(truth) - LEVELS.index(answer)) == 1 or (truth, answer) in pairs or (answer, truth) in pairs


def _share(values: np.ndarray[Any, np.dtype[np.bool_]]) -> float | None:
    return round(float(values.mean()), 4) if len(values) else None
