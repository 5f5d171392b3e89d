"""Levels given by the user decide; what everything else says against them is told."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.numbering.anchors import USER, Anchor
from nnunet_spine_ext.numbering.levels import INDEX
from nnunet_spine_ext.numbering.path import Evidence, LevelPath, best_path
from nnunet_spine_ext.numbering.rules import PathRules

# A source that prefers the other levels by less is not named.
_NAMED_NATS = 0.5


def against_user(
    path: LevelPath,
    anchors: Sequence[Anchor],
    classifier: Array,
    evidence: Evidence,
    rules: PathRules,
    *,
    contradiction: float,
    min_posterior: float,
) -> list[Problem]:
    """Return the warning that the rest of the evidence speaks against the levels given by the user; else nothing.

    The column is numbered once more without them. The rest speaks against them when it prefers another level at one of
    their vertebrae, and is sure of it, or the whole sequence, or sizes alone, lose as much as a contradiction.

    Parameters
    ----------
    path: what was found with the levels given.
    anchors: all of them, the user's with them.
    classifier: (n, 26) scores of a classifier, 0 without one.
    evidence: all of it. contradiction, min_posterior: see `NumberingSettings`.
    """
    user = next((anchor for anchor in anchors if anchor.name == USER), None)
    if user is None:
        return []
    others = [anchor for anchor in anchors if anchor is not user]
    level = classifier + sum((anchor.level for anchor in others), np.zeros_like(classifier))
    alone = best_path(Evidence(level, evidence.relative, evidence.gaps, evidence.sacrum_gap), rules)
    if alone is None:
        return []
    chosen, other = path.best.levels, alone.best.levels
    rows = [row for row in user.favours() if chosen[row] != other[row]]
    lost = alone.best.score - path.best.score
    sure = any(alone.posterior[row, INDEX[other[row]]] >= min_posterior for row in rows)
    weak = any(float(a.objections(chosen).sum()) >= contradiction for a in others if a.weak)
    if not rows or not (sure or weak or lost >= contradiction):
        return []
    said = ", ".join(f"{row + 1} would be {other[row]} ({alone.posterior[row].max():.0%})" for row in rows)
    sources = _sources(others, classifier, lost, chosen, other, sacrum=evidence.sacrum_gap is not None)
    return [_contradiction(user.saw, sources, said)]


def _sources(
    anchors: Sequence[Anchor],
    classifier: Array,
    lost: float,
    chosen: Sequence[str],
    other: Sequence[str],
    *,
    sacrum: bool,
) -> str:
    """Return what prefers the other levels, and by how many nats, the strongest first."""
    tables = {anchor.name: anchor.level for anchor in anchors} | {"the classifier": classifier}
    nats = {name: _score(table, other) - _score(table, chosen) for name, table in tables.items()}
    # What is left of the difference is what sequences cost: anomalies, distances, the end on the sacrum.
    nats["the count to the sacrum" if sacrum else "the order of levels"] = lost - sum(nats.values())
    named = sorted(((value, name) for name, value in nats.items() if value >= _NAMED_NATS), reverse=True)
    return ", ".join(f"{name} ({value:.1f} nats)" for value, name in named) or "the rest of the evidence"


def _score(level: Array, names: Sequence[str]) -> float:
    return float(level[np.arange(len(names)), [INDEX[name] for name in names]].sum())


def _contradiction(user: str, sources: str, said: str) -> Problem:
    return Problem(
        "warning",
        "W-NUM-CONTRADICT",
        "",
        f"the level given ({user}) is against {sources}; without it vertebra {said}",
        "evidence that agrees",
        "the numbers follow the level given: look at the picture whether it is right",
    )
