"""Resampled subjects, drawn once for a whole study: all numbers and differences have their intervals from them.

A *curve* is an array (1 + resamples,): the value of the sample itself, then that of every resample. Curves of different
strategies, scanners or structures are paired, so differences and ratios are taken curve by curve.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.study.measured import Condition

CONFIDENCE = 0.95
# Below this Dice a gap is no denominator: a ratio of two small numbers says nothing.
SMALLEST_GAP = 0.02
# An interval from fewer resamples than this share of them (the others had nobody of a scanner) is none.
_ENOUGH = 0.5
Key = TypeVar("Key", bound=Hashable)


class Scored(Protocol):
    """A row of a table: values of one subject, under one seed."""

    @property
    def seed(self) -> str:
        """Name of the seed."""

    @property
    def subject(self) -> str:
        """Who was scored."""

    @property
    def values(self) -> tuple[float, ...]:
        """What was measured; NaN where there is none."""


One = TypeVar("One", bound=Scored)


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; NaN where there is none, and `note` says why."""

    value: float
    low: float = math.nan
    high: float = math.nan
    note: str = ""

    @property
    def known(self) -> bool:
        """Whether there is a number."""
        return math.isfinite(self.value)

    def holds(self, value: float) -> bool | None:
        """Whether the interval holds a value; None without an interval."""
        return self.low <= value <= self.high if math.isfinite(self.low) else None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it: null for what is not known."""
        found: dict[str, Any] = {key: plain(getattr(self, key)) for key in ("value", "low", "high")}
        return {**found, "note": self.note} if self.note else found

    def text(self, digits: int = 3) -> str:
        """Return value and interval, or the note."""
        if not self.known:
            return self.note or "–"
        interval = f" [{fixed(self.low, digits)}, {fixed(self.high, digits)}]" if math.isfinite(self.low) else ""
        return f"{fixed(self.value, digits)}{interval}"

    def percent(self) -> str:
        """Return value and interval of a share in percent, or the note."""
        if not self.known:
            return self.note or "–"
        interval = f" [{fixed(100 * self.low, 1)}, {fixed(100 * self.high, 1)}]" if math.isfinite(self.low) else ""
        return f"{fixed(100 * self.value, 1)} %{interval}"


def fixed(value: float, digits: int) -> str:
    """Return a number with so many digits, and no minus before a zero."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if not text.strip("-0.") else text


UNKNOWN = Estimate(math.nan)


def plain(value: float) -> float | None:
    """Return a number with nine digits as JSON has it: None for NaN and infinity."""
    return float(f"{value:.9g}") if math.isfinite(value) else None


class Draws:
    """Subjects drawn with replacement, as counts: `weights` has shape (1 + resamples, subjects), its first row is ones.

    Parameters
    ----------
    subjects: every subject of the study.
    strata: a stratum per subject; the number drawn from each stays as it is. None: one for all.
    resamples: 0: no intervals. seed: equal seeds give equal draws.
    """

    def __init__(
        self, subjects: Sequence[str], strata: Sequence[Hashable] | None = None, *, resamples: int, seed: int
    ) -> None:
        self.subjects = tuple(subjects)
        self.resamples = resamples
        rng = np.random.default_rng(seed)
        groups: dict[Hashable, list[int]] = {}
        for place, stratum in enumerate(strata if strata is not None else [0] * len(subjects)):
            groups.setdefault(stratum, []).append(place)
        self.weights = np.ones((1 + resamples, len(subjects)))
        for places in groups.values():
            drawn = rng.multinomial(len(places), np.full(len(places), 1 / len(places)), size=resamples)
            self.weights[1:, places] = drawn

    def curve(self, values: Array) -> Array:
        """Return the mean over subjects, then over seeds, of values (seeds, subjects) with NaN where there is none."""
        known = np.isfinite(values)
        sums = np.where(known, values, 0.0) @ self.weights.T
        counts = known.astype(np.float64) @ self.weights.T
        with np.errstate(invalid="ignore", divide="ignore"):
            found = nanmean(sums / counts, axis=0)
        if known.any(axis=0).sum() < 2:
            # One subject has no spread: the resamples would all be the same.
            found[1:] = math.nan
        return found

    def lowest_tenth(self, values: Array) -> Array:
        """Return the mean of the lowest tenth (by number, at least one) of values (conditions, subjects)."""
        known = np.isfinite(values)
        if not known.any():
            return np.full(len(self.weights), math.nan)
        flat, subject = values[known], np.nonzero(known)[1]
        order = np.argsort(flat, kind="stable")
        weights = self.weights[:, subject[order]]
        wanted = np.maximum(1.0, 0.1 * weights.sum(axis=1, keepdims=True))
        before = np.cumsum(weights, axis=1) - weights
        used = np.clip(wanted - before, 0.0, weights)
        total = used.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = (used @ flat[order]) / total
        if known.any(axis=0).sum() < 2:
            found[1:] = math.nan
        return found

    def estimate(self, curve: Array, note: str = "") -> Estimate:
        """Return the value of a curve with its percentile interval."""
        drawn = curve[1:][np.isfinite(curve[1:])]
        if not math.isfinite(curve[0]) or len(drawn) < max(2, _ENOUGH * self.resamples):
            return Estimate(float(curve[0]), note=note)
        tail = 50 * (1 - CONFIDENCE)
        low, high = np.percentile(drawn, [tail, 100 - tail])
        return Estimate(float(curve[0]), float(low), float(high), note)

    def ratio(self, above: Array, below: Array, what: str = "gap", smallest: float = SMALLEST_GAP) -> Estimate:
        """Return above / below, or say that the denominator is too small or not clearly above zero."""
        bottom = self.estimate(below)
        if not bottom.known or not math.isfinite(above[0]):
            return Estimate(math.nan, note="not measured")
        if bottom.value < smallest or bottom.low <= 0:
            return Estimate(math.nan, note=f"unstable: {what} {bottom.text()}")
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.estimate(above / below)


def nanmean(values: Array, axis: int) -> Array:
    """Return the mean without NaN; NaN where there is nothing, without numpy's warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(values, axis=axis))


def panels(
    rows: Iterable[One], seeds: Sequence[str], subjects: Sequence[str], value: int, key: Callable[[One], Key]
) -> dict[Key, Array]:
    """Return the mean of a value over the rows of each subject, by key: arrays (seeds, subjects), NaN without a row.

    `value` is the place of the value in `Scored.values`. Values that are not finite do not enter.
    """
    seed_at = {seed: place for place, seed in enumerate(seeds)}
    subject_at = {subject: place for place, subject in enumerate(subjects)}
    sums: dict[Key, Array] = {}
    for row in rows:
        number = row.values[value]
        name, place = key(row), (seed_at.get(row.seed), subject_at.get(row.subject))
        if name not in sums:
            sums[name] = np.zeros((2, len(seeds), len(subjects)))
        if math.isfinite(number) and place[0] is not None and place[1] is not None:
            sums[name][:, place[0], place[1]] += (number, 1.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {name: total / count for name, (total, count) in sums.items()}


def paired(*values: Array) -> tuple[Array, ...]:
    """Return arrays (seeds, subjects) that are NaN where any of them is."""
    whole = np.logical_and.reduce([np.isfinite(one) for one in values])
    return tuple(np.where(whole, one, math.nan) for one in values)


def seeds_of(values: Array, like: Array) -> Array:
    """Return values with NaN in the seeds in which `like` has nothing; both (seeds, subjects)."""
    return np.where(np.isfinite(like).any(axis=1, keepdims=True), values, math.nan)


def seed_spread(values: Array) -> float:
    """Return the standard deviation over seeds of the means over subjects; NaN with fewer than two seeds."""
    means = nanmean(values, axis=1)
    means = means[np.isfinite(means)]
    return float(means.std(ddof=1)) if len(means) > 1 else math.nan


def crossed(conditions: Mapping[Condition, Array], source: str, targets: Sequence[str]) -> bool:
    """Whether the same subjects were scored everywhere (as in a simulation) with strategy ``none``.

    They were when, on every target with a score, at least half of the subjects have one on the source too. A few people
    who were scanned twice do not make a study of them alone.
    """
    seen = {c.scanner: np.isfinite(v).any(axis=0) for c, v in conditions.items()
            if c.strategy == "none" and c.factor == "scanner"}  # fmt: skip
    base = seen.get(source)
    scored = [seen[name] for name in targets if name in seen and seen[name].any()]
    return base is not None and bool(scored) and all(2 * int((base & one).sum()) >= int(one.sum()) for one in scored)
