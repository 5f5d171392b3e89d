"""What the numbering tells the user: facts for the quality report, and warnings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.numbering.anchors import Anchor
from nnunet_spine_ext.numbering.levels import INDEX, LEVELS
from nnunet_spine_ext.numbering.path import Alternative, Evidence, LevelPath

_ANOMALIES = {
    ("thoracic", 11): "T11 is the last thoracic vertebra",
    ("thoracic", 13): "there is a T13",
    ("lumbar", 4): "L4 stands on the sacrum",
    ("lumbar", 6): "there is an L6",
}
_SHOWN = 3
_PLACES = 4


def path_facts(path: LevelPath, levels: Sequence[str | None], evidence: Evidence) -> dict[str, Any]:
    """Return the sequence, how sure it is, and what else it could be."""
    best = path.best.levels
    posterior = path.posterior[np.arange(len(best)), [INDEX[name] for name in best]]
    finite = np.isfinite(path.margin)
    return {
        "levels": {str(k): name for k, name in enumerate(levels, start=1)},
        "best_levels": list(best),
        "posterior": {str(k): round(float(p), _PLACES) for k, p in enumerate(posterior, start=1)},
        "sequence_posterior": round(path.probability, _PLACES),
        "margin_nats": round(path.margin, _PLACES) if finite else None,
        "alternatives": [_alternative(other, path.best) for other in path.others[:_SHOWN]],
        "could_be": {
            str(k): {LEVELS[c]: round(float(row[c]), _PLACES) for c in np.argsort(-row)[:_SHOWN] if row[c] >= 0.01}
            for k, row in enumerate(path.posterior, start=1)
        },
        "anomalies": anomalies(path.best),
        "missing_below": _missing(path.best),
        "counts": {"thoracic": path.best.thoracic or None, "lumbar": path.best.lumbar or None},
        "sacrum": None if evidence.sacrum_gap is None else {"vertebrae_between": round(evidence.sacrum_gap, 2)},
    }


def anomalies(sequence: Alternative) -> list[str]:
    """Return in words what is unusual about the counts of a sequence."""
    counts = (("thoracic", sequence.thoracic), ("lumbar", sequence.lumbar))
    return [_ANOMALIES[pair] for pair in counts if pair in _ANOMALIES]


def anchor_facts(anchors: Sequence[Anchor], chosen: Sequence[str] | None) -> list[dict[str, Any]]:
    """Return what each anchor saw, what it favours by position, and how much it loses by the chosen levels."""
    rows = []
    for anchor in anchors:
        row: dict[str, Any] = {
            "name": anchor.name,
            "saw": anchor.saw,
            "favours": {str(k + 1): name for k, name in anchor.favours().items()},
        }
        if chosen is not None:
            row["objection_nats"] = round(float(anchor.objections(chosen).sum()), 2)
        rows.append(row)
    return rows


def findings(
    path: LevelPath,
    levels: Sequence[str | None],
    anchors: Sequence[Anchor],
    transition: dict[str, Any],
    contradiction: float,
    min_posterior: float,
) -> list[Problem]:
    """Return the warnings of a numbered, or nearly numbered, column."""
    warnings = []
    if None in levels:
        unknown = [k for k, name in enumerate(levels, start=1) if name is None]
        second = _range(path.others[0].levels) if path.others else "nothing else"
        warnings.append(_uncertain(_listed(unknown), _range(path.best.levels), second, min_posterior))
    for anchor in anchors:
        lost = anchor.objections(path.best.levels)
        rows = np.flatnonzero(lost >= contradiction)
        if len(rows) and not anchor.weak:
            favoured = anchor.favours()
            said = ", ".join(f"{k + 1} {favoured.get(int(k))}" for k in rows[:_SHOWN])
            chosen = ", ".join(f"{k + 1} {path.best.levels[k]}" for k in rows[:_SHOWN])
            warnings.append(_contradiction(anchor.name, said, chosen))
    unusual = anomalies(path.best) if None not in levels else []
    notes = transition.get("notes", []) if None not in levels else []
    if unusual or notes:
        warnings.append(_anomaly("; ".join([*unusual, *notes])))
    return warnings


def no_vertebra() -> Problem:
    """Return the warning of a mask without vertebrae."""
    return Problem(
        "warning",
        "W-NUM-NONE",
        "",
        "no vertebra in the instance mask",
        "vertebrae counted from the top",
        "nothing was numbered; look at the segmentation",
    )


def no_path(count: int) -> Problem:
    """Return the warning of a mask with vertebrae that no spine has."""
    return Problem(
        "warning",
        "W-NUM-PATH",
        "",
        f"{count} vertebrae, which no allowed sequence of levels holds",
        "at most 26, from C1 to L6; 24 where anomalies are left out",
        "the ids stay positions from the top; the mask may hold two spines or broken bodies",
    )


def _uncertain(unknown: str, best: str, second: str, least: float) -> Problem:
    return Problem(
        "warning",
        "W-NUM-UNKNOWN",
        "",
        f"levels of vertebrae {unknown} are not certain ({best}, or {second})",
        f"levels with a probability of at least {least:g}",
        "the ids stay positions from the top; give the level of one vertebra (--first-vertebra) if you know it",
    )


def _contradiction(name: str, said: str, chosen: str) -> Problem:
    return Problem(
        "warning",
        "W-NUM-CONTRADICT",
        "",
        f"{name} says vertebra {said}; the levels chosen are {chosen}",
        "evidence that agrees",
        "look at the picture; a level given by the user settles it",
    )


def _anomaly(found: str) -> Problem:
    return Problem(
        "warning",
        "W-NUM-ANOMALY",
        "",
        found,
        "12 thoracic and 5 lumbar vertebrae",
        "look at the picture; --enforce leaves anomalies out",
    )


def _alternative(other: Alternative, best: Alternative) -> dict[str, Any]:
    return {
        "levels": list(other.levels),
        "behind_nats": round(best.score - other.score, _PLACES),
        "anomalies": anomalies(other),
    }


def _missing(sequence: Alternative) -> list[str]:
    """Names of vertebrae below which others are missing."""
    result = []
    for above, below in zip(sequence.levels[:-1], sequence.levels[1:], strict=True):
        last_thoracic = below == "L1" and above == f"T{sequence.thoracic}"
        if INDEX[below] - INDEX[above] > 1 and not last_thoracic:
            result.append(above)
    return result


def _range(levels: Sequence[str]) -> str:
    return levels[0] if len(levels) == 1 else f"{levels[0]} to {levels[-1]}"


def _listed(numbers: Sequence[int]) -> str:
    from nnunet_spine_ext.core.labels import id_ranges

    return id_ranges(numbers)
