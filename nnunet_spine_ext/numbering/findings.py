"""What the numbering tells the user: facts for the quality report, and warnings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.numbering.anchors import USER, Anchor
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
        "anomalies": [*anomalies(path.best), *off_sacrum(path.best, evidence.sacrum_gap)],
        "missing_below": _missing(path.best),
        "counts": {"thoracic": path.best.thoracic or None, "lumbar": path.best.lumbar or None},
        "sacrum": None if evidence.sacrum_gap is None else {"vertebrae_between": round(evidence.sacrum_gap, 2)},
    }


def anomalies(sequence: Alternative) -> list[str]:
    """Return in words what is unusual about the counts of a sequence."""
    counts = (("thoracic", sequence.thoracic), ("lumbar", sequence.lumbar))
    return [_ANOMALIES[pair] for pair in counts if pair in _ANOMALIES]


def off_sacrum(sequence: Alternative, sacrum_gap: float | None) -> list[str]:
    """Return in words that the sacrum follows a vertebra which does not stand on one; only the user can say so."""
    if sacrum_gap is None or sequence.lumbar:
        return []
    return [f"{sequence.levels[-1]} is the last vertebra above the sacrum, where L4 to L6 are expected"]


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
    *,
    uncertain: Sequence[int] = (),
    sacrum_gap: float | None = None,
) -> list[Problem]:
    """Return the warnings of a numbered, or nearly numbered, column.

    Parameters
    ----------
    uncertain: places from the top of the vertebrae whose level has less than `min_posterior`.
    sacrum_gap: how many vertebrae fit between the last one and the sacrum; None: no sacrum.
    """
    warnings = []
    if uncertain:
        second = _range(path.others[0].levels) if path.others else "nothing else"
        given = any(anchor.name == USER for anchor in anchors)
        warnings.append(_uncertain(_listed(uncertain), _range(path.best.levels), second, min_posterior, given=given))
    for anchor in anchors:
        lost = anchor.objections(path.best.levels)
        rows = np.flatnonzero(lost >= contradiction)
        if len(rows) and not anchor.weak:
            favoured = anchor.favours()
            said = ", ".join(f"{k + 1} {favoured.get(int(k))}" for k in rows[:_SHOWN])
            chosen = ", ".join(f"{k + 1} {path.best.levels[k]}" for k in rows[:_SHOWN])
            warnings.append(_contradiction(anchor.name, said, chosen))
    unusual = [*anomalies(path.best), *off_sacrum(path.best, sacrum_gap)] if None not in levels else []
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


def far_localizer(limit_mm: float) -> Problem:
    """Return the warning that a localizer says nothing about any vertebra."""
    return Problem(
        "warning",
        "W-NUM-LOCALIZER",
        "",
        f"a localizer without a vertebra within {limit_mm:g} mm of one of the mask: it was not used",
        "numbered instances of the same person in the same scanner coordinates",
        "check that both are of one examination, and that the patient was not moved between them",
    )


def far_levels(labelled: int, on_vertebrae: int, vertebrae: int) -> Problem:
    """Return the warning that a mask of levels says nothing about any vertebra.

    Parameters
    ----------
    labelled: voxels of the mask of levels that are not background; `vertebrae`: those of all vertebrae.
    on_vertebrae: how many voxels of vertebrae, on their grid, it names.
    """
    return Problem(
        "warning",
        "W-NUM-LEVELS",
        "",
        f"a mask of levels with {labelled} labelled voxels, which names {on_vertebrae} of the {vertebrae} voxels of "
        "vertebrae: it was not used",
        "levels where the vertebrae are, in the same scanner coordinates",
        "check that it belongs to this case and that --levels-scheme is its scheme",
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


def _uncertain(unknown: str, best: str, second: str, least: float, *, given: bool) -> Problem:
    kept = "the ids stay positions from the top; give the level of one vertebra (--first-vertebra) if you know it"
    followed = (
        "the numbers follow the level given, in the more probable way; "
        "look at the picture, and name another vertebra (--set numbering.last_vertebra=L5) if you know it"
    )
    return Problem(
        "warning",
        "W-NUM-UNKNOWN",
        "",
        f"levels of vertebrae {unknown} are not certain ({best}, or {second})",
        f"levels with a probability of at least {least:g}",
        followed if given else kept,
    )


def _contradiction(name: str, said: str, chosen: str) -> Problem:
    return Problem(
        "warning",
        "W-NUM-CONTRADICT",
        "",
        f"{name} says vertebra {said}; the levels chosen are {chosen}",
        "evidence that agrees",
        "look at the picture; a level given by the user decides",
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
