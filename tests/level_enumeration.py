"""All sequences of levels of a few vertebrae, by enumeration of whole spines: what the path solver is compared with.

It shares no code with the solver: a spine is a list of names; vertebrae of the picture are a choice of them in order;
prices are looked up by counting.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise, product

import numpy as np

from nnunet_spine_ext.numbering.levels import LEVELS
from nnunet_spine_ext.numbering.path import Evidence
from nnunet_spine_ext.numbering.rules import PathRules


def spine(thoracic: int, lumbar: int) -> list[str]:
    """Return the names of a whole spine."""
    return [
        *(f"C{k}" for k in range(1, 8)),
        *(f"T{k}" for k in range(1, thoracic + 1)),
        *(f"L{k}" for k in range(1, lumbar + 1)),
    ]


def anomaly_price(rules: PathRules, thoracic: int | None, lumbar: int | None) -> float:
    """Price of counts of which some may be unknown (None)."""
    if rules.enforce and (thoracic not in (None, 12) or lumbar not in (None, 5)):
        return np.inf
    if (thoracic, lumbar) == (11, 6):
        return rules.eleven_and_six
    if (thoracic, lumbar) == (13, 4):
        return rules.thirteen_and_four
    price = {11: rules.eleven_thoracic, 13: rules.thirteen_thoracic}.get(thoracic, 0.0)
    return price + {4: rules.four_lumbar, 6: rules.six_lumbar}.get(lumbar, 0.0)


@dataclass(frozen=True)
class Choices:
    """Every sequence of n levels with its explanation: (m, n) levels, prices, missing counts, roles."""

    levels: np.ndarray
    price: np.ndarray
    hidden: np.ndarray
    below: np.ndarray
    roles: np.ndarray
    explanation: np.ndarray


@cache
def choices(count: int, rules: PathRules, sacrum: bool) -> Choices:
    """Enumerate the sequences of `count` vertebrae; `below`: missing above the sacrum, -1 where off the sacrum."""
    rows: dict[tuple, tuple[float, tuple[int, ...], int, tuple[int, ...]]] = {}
    for thoracic, lumbar in product((11, 12, 13), (4, 5, 6)):
        names = spine(thoracic, lumbar)
        for picked in _picks(len(names), count, rules.max_missing):
            seen = [names[k] for k in picked]
            crosses = seen[0][0] != "L" and seen[-1][0] == "L"
            known_t = thoracic if crosses or "T13" in seen else None
            hidden = tuple(b - a - 1 for a, b in pairwise(picked))
            roles = [_role(name, names, seen[k + 1 :], thoracic) for k, name in enumerate(seen)]
            variants = [(-1, 6 if "L6" in seen else None)]
            below = len(names) - 1 - picked[-1]
            if sacrum and seen[-1][0] == "L" and below <= rules.max_missing:
                variants.append((below, lumbar))
            for rest, known_l in variants:
                price = anomaly_price(rules, known_t, known_l)
                if sacrum and rest < 0:
                    price += rules.off_sacrum
                kind = known_t if crosses or "T13" not in seen or seen[-1][0] == "L" else None
                key = (tuple(seen), kind, rest, known_l)
                if np.isfinite(price):
                    rows[key] = (price, hidden, rest, tuple(roles))
    keys = list(rows)
    pack = lambda k, width, kind=int: np.array([rows[key][k] for key in keys], kind).reshape(len(keys), width)  # noqa: E731
    return Choices(
        np.array([[LEVELS.index(name) for name in key[0]] for key in keys], int).reshape(len(keys), count),
        pack(0, 1, float)[:, 0],
        pack(1, count - 1),
        pack(2, 1)[:, 0],
        pack(3, count),
        np.array([key[1] or 0 for key in keys], int),
    )


def _picks(size: int, count: int, max_missing: int) -> list[tuple[int, ...]]:
    picks = [(k,) for k in range(size)]
    for _ in range(count - 1):
        picks = [(*p, k) for p in picks for k in range(p[-1] + 1, min(size, p[-1] + 2 + max_missing))]
    return picks


def _role(name: str, names: list[str], following: list[str], thoracic: int) -> int:
    """0 none, 1 last C, 2 first T, 3 last T, 4 first L, 5 last L (where that is certain without the sacrum)."""
    if name in ("C7", "T1", "L1", "L6", "T13"):
        return {"C7": 1, "T1": 2, "L1": 4, "L6": 5, "T13": 3}[name]
    seen_lumbar = any(other[0] == "L" for other in following)
    return 3 if name == f"T{thoracic}" and seen_lumbar else 0


@dataclass(frozen=True)
class Ranking:
    """Distinct sequences with their best scores, best first, and the probability of each."""

    levels: np.ndarray
    score: np.ndarray
    probability: np.ndarray


def scores(evidence: Evidence, rules: PathRules) -> tuple[Choices, np.ndarray]:
    """Score every explanation of every sequence for one piece of evidence."""
    count = len(evidence.level)
    table = choices(count, rules, evidence.sacrum_gap is not None)
    rows = np.arange(count)
    score = evidence.level[rows, table.levels].sum(axis=1) - table.price
    gaps = np.full(count - 1, np.nan) if evidence.gaps is None else evidence.gaps
    for k, gap in enumerate(gaps):
        missing = table.hidden[:, k]
        score -= rules.missing * missing if np.isnan(gap) else rules.gap * np.abs(missing - gap)
    if evidence.relative is not None:
        score += np.where(table.roles > 0, evidence.relative[rows, table.roles], 0.0).sum(axis=1)
    if evidence.sacrum_gap is not None:
        score -= np.where(table.below >= 0, rules.gap * np.abs(table.below - evidence.sacrum_gap), 0.0)
        if evidence.relative is not None and evidence.sacrum_gap < 0.5:
            lowest = np.isin(table.levels[:, -1], [LEVELS.index("L4"), LEVELS.index("L5")])
            score += np.where(lowest, evidence.relative[-1, 5], 0.0)
    return table, score


def best_two(evidence: Evidence, rules: PathRules) -> tuple[tuple[str, ...], float, float]:
    """Return the best sequence, its score, and the best score of any other sequence."""
    table, score = scores(evidence, rules)
    if len(score) == 0:
        return (), -np.inf, -np.inf
    best = int(score.argmax())
    other = score[(table.levels != table.levels[best]).any(axis=1)]
    second = float(other.max()) if len(other) else -np.inf
    return tuple(LEVELS[k] for k in table.levels[best]), float(score[best]), second


def rank(evidence: Evidence, rules: PathRules) -> Ranking:
    """Return all sequences, best first, and how probable each is."""
    table, score = scores(evidence, rules)
    # Ways to end are one explanation: the best of them counts.
    pairs = np.concatenate([table.levels, table.explanation[:, None]], axis=1)
    explanations, inverse = np.unique(pairs, axis=0, return_inverse=True)
    value = np.full(len(explanations), -np.inf)
    np.maximum.at(value, inverse.reshape(-1), score)
    weight = np.exp(value - value.max())
    unique, inverse = np.unique(explanations[:, :-1], axis=0, return_inverse=True)
    best = np.full(len(unique), -np.inf)
    np.maximum.at(best, inverse.reshape(-1), value)
    share = np.bincount(inverse.reshape(-1), weight) / weight.sum()
    order = np.argsort(-best, kind="stable")
    return Ranking(unique[order], best[order], share[order])


def random_case(rng: np.random.Generator) -> tuple[Evidence, PathRules]:
    """Draw evidence and rules of a size that can be enumerated: few vertebrae with gaps, or many without."""
    long = rng.random() < 0.3
    count = int(rng.integers(5, 27)) if long else int(rng.integers(1, 5))
    rules = PathRules(max_missing=0 if long else int(rng.integers(0, 3)), enforce=bool(rng.random() < 0.1))
    level = rng.normal(size=(count, len(LEVELS))) * rng.choice([0.5, 2.0, 5.0])
    if rng.random() < 0.1:
        level[rng.random(level.shape) < 0.3] = -np.inf
    relative = rng.normal(size=(count, 6)) * 2 if rng.random() < 0.6 else None
    gaps = None
    if rng.random() < 0.5:
        gaps = np.where(rng.random(count - 1) < 0.3, np.nan, 2 * rng.random(count - 1))
    sacrum = float(1.5 * rng.random()) if rng.random() < 0.5 else None
    return Evidence(level, relative, gaps, sacrum), rules
