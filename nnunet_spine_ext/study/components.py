"""What single parts of a scanner shift cost, and whether two cost more together than each alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.study.cohort import NONE, Cohort
from nnunet_spine_ext.study.measured import COMPONENT, PAIR, Condition
from nnunet_spine_ext.study.statistics import UNKNOWN, Estimate, paired

COMPONENTS = {
    "resolution": "Resolution",
    "field": "Field strength",
    "contrast": "Contrast",
    "noise": "Noise",
    "manufacturer": "Manufacturer",
    "bias": "Intensity bias",
}


class Place(NamedTuple):
    """Where a drop was measured: components from first to last, their severity, the scanner whose parts they are."""

    parts: tuple[str, ...]
    severity: str
    scanner: str


@dataclass(frozen=True)
class Drop:
    """Loss of Dice against the unadapted source, over the subjects measured in both.

    `interaction`, of pairs only: drop of the pair minus the sum of the drops of its parts; above 0 they compound.
    `curve` has one value per resample.
    """

    place: Place
    dice: Estimate
    drop: Estimate
    curve: Array
    sum_of_parts: Estimate = UNKNOWN
    interaction: Estimate = UNKNOWN

    @property
    def title(self) -> str:
        """Return what a reader calls it."""
        return " + ".join(COMPONENTS.get(part, part) for part in self.place.parts)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        found = {
            "components": list(self.place.parts),
            "severity": self.place.severity,
            "scanner": self.place.scanner,
            "dice": self.dice.to_dict(),
            "drop": self.drop.to_dict(),
        }
        if len(self.place.parts) == 2:
            found |= {"sum_of_parts": self.sum_of_parts.to_dict(), "interaction": self.interaction.to_dict()}
        return found


def drops(cohort: Cohort) -> tuple[Drop, ...]:
    """Return the drops of single components, largest first, then those of pairs; nothing where none were measured."""
    source = cohort.score("dice", NONE, cohort.study.source)
    if source is None:
        return ()
    places: dict[Place, Array] = {}
    for condition, values in cohort.values("dice").items():
        if condition.factor in (COMPONENT, PAIR) and condition.strategy == "none" and np.isfinite(values).any():
            places[_place(condition)] = values
    singles = {p: _drop(cohort, p, v, source) for p, v in places.items() if len(p.parts) == 1}
    pairs = {p: _drop(cohort, p, v, source) for p, v in places.items() if len(p.parts) == 2}
    combined = [_with_parts(cohort, one, singles, places, source) for one in pairs.values()]
    return (*_largest_first(list(singles.values())), *_largest_first(combined))


def _place(condition: Condition) -> Place:
    order = list(COMPONENTS)
    parts = [part.strip() for part in condition.components.split("+") if part.strip()]
    parts.sort(key=lambda part: (order.index(part) if part in order else len(order), part))
    return Place(tuple(parts), condition.severity, condition.scanner)


def _drop(cohort: Cohort, place: Place, values: Array, source: Array) -> Drop:
    draws = cohort.draws
    after, before = paired(values, source)
    curve = draws.curve(before) - draws.curve(after)
    return Drop(place, draws.estimate(draws.curve(after)), draws.estimate(curve), curve)


def _with_parts(
    cohort: Cohort, pair: Drop, singles: dict[Place, Drop], places: dict[Place, Array], source: Array
) -> Drop:
    """Add the interaction, over the subjects that have the pair, both parts and the source."""
    draws, place = cohort.draws, pair.place
    parts = [_single(part, place, singles) for part in place.parts]
    if any(part is None for part in parts):
        return pair
    whole = paired(places[place], source, *(places[part] for part in parts if part is not None))
    both, base, *each = (draws.curve(one) for one in whole)
    alone = np.sum([base - one for one in each], axis=0)
    return Drop(place, pair.dice, pair.drop, pair.curve, draws.estimate(alone), draws.estimate((base - both) - alone))


def _single(part: str, place: Place, singles: dict[Place, Drop]) -> Place | None:
    """The part at the severity and on the scanner of the pair; where severities are matched, its only one there."""
    exact = Place((part,), place.severity, place.scanner)
    if exact in singles:
        return exact
    there = [one for one in singles if one.parts == (part,) and one.scanner == place.scanner]
    return there[0] if len(there) == 1 else None


def _largest_first(found: list[Drop]) -> list[Drop]:
    # Without a value last; equal ones by name, so that the order is always the same.
    return sorted(found, key=lambda d: (not d.drop.known, -d.drop.value if d.drop.known else 0.0, d.place))


def headline(found: Sequence[Drop]) -> tuple[Drop, ...]:
    """Return the single components at one severity and scanner: where most were measured, at severity 1 if tied."""
    singles = [one for one in found if len(one.place.parts) == 1 and one.drop.known]
    settings: dict[tuple[str, str], list[Drop]] = {}
    for one in singles:
        settings.setdefault((one.place.severity, one.place.scanner), []).append(one)
    if not settings:
        return ()
    most = max(len({d.place.parts for d in group}) for group in settings.values())
    if most == 1 and len(singles) > 1:
        # Every component at a severity of its own: all of them, if each occurs once.
        return tuple(singles) if len({d.place.parts for d in singles}) == len(singles) else tuple(singles[:1])
    best = [key for key, group in settings.items() if len({d.place.parts for d in group}) == most]
    best.sort(key=lambda key: (key[0] != "1", key))
    return tuple(settings[best[0]])


def first_share(found: Sequence[Drop], which: int) -> float:
    """Return the share of resamples in which component number `which` costs most; NaN without resamples."""
    if not found or len(found[0].curve) < 2:
        return math.nan
    table = np.stack([one.curve[1:] for one in found])
    table = table[:, np.isfinite(table).all(axis=0)]
    others = np.delete(table, which, axis=0)
    return float((table[which] > others.max(axis=0)).mean()) if table.size and len(others) else math.nan
