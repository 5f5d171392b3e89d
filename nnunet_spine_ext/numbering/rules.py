"""What follows what in a spine, and what it costs: the states, steps and ends that the path solver searches.

A state is a level, and for lumbar levels also how many thoracic vertebrae were counted above it (11, 12, 13, or unknown
where the picture begins below). So the price of an anomaly can depend on the other one, and the search stays exact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from nnunet_spine_ext.core.config import check_ranges
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.numbering.levels import INDEX, LEVELS

# How many thoracic vertebrae a lumbar state has above it; 0: not seen.
THORACIC_COUNTS = (0, 11, 12, 13)
_L1, _L6, _T13 = INDEX["L1"], INDEX["L6"], INDEX["T13"]
_LUMBAR = _L6 - _L1 + 1
STATE_LEVEL: Array = np.array([*range(_L1), *[_L1 + k for _ in THORACIC_COUNTS for k in range(_LUMBAR)]])
STATE_COUNT: Array = np.array([0] * _L1 + [count for count in THORACIC_COUNTS for _ in range(_LUMBAR)])
STATES = len(STATE_LEVEL)
NORMAL_THORACIC, NORMAL_LUMBAR = 12, 5
LUMBAR_COUNTS = (4, 5, 6)


@dataclass(frozen=True)
class PathRules:
    """Prices of what is unusual, in nats (natural logarithms of odds; 3 nats are odds of 20 to 1).

    The anomalies cost what they are rare: the logarithm of how often normal counts are over how often these are
    (12 thoracic and 5 lumbar vertebrae 88 %, 11/5 2.5, 13/5 2, 12/4 2, 12/6 3.5, 11/6 1, 13/4 1).

    Parameters
    ----------
    eleven_thoracic: T11 is followed by L1.
    thirteen_thoracic: there is a T13.
    four_lumbar: L4 stands on the sacrum. Charged only where the sacrum is seen directly below.
    six_lumbar: there is an L6.
    eleven_and_six, thirteen_and_four: both at once, which is more frequent than two independent anomalies.
    missing: a vertebra between two others is not in the mask, when nothing is known about the distance.
    gap: distance between two vertebrae that is off by one vertebra, when it is known.
    max_missing: more vertebrae than this are never missing in one place.
    off_sacrum: the vertebra on the sacrum is not L4, L5 or L6; ``.inf`` forbids it.
    enforce: 12 thoracic and 5 lumbar vertebrae, no anomaly.

    Raises
    ------
    UsageError: a price below 0 or above 1000 nats.
    """

    eleven_thoracic: float = 3.6
    thirteen_thoracic: float = 3.8
    four_lumbar: float = 3.8
    six_lumbar: float = 3.2
    eleven_and_six: float = 4.5
    thirteen_and_four: float = 4.5
    missing: float = 4.0
    gap: float = 8.0
    max_missing: int = 3
    off_sacrum: float = 15.0
    enforce: bool = False

    def __post_init__(self) -> None:
        prices = (
            "eleven_thoracic", "thirteen_thoracic", "four_lumbar", "six_lumbar", "eleven_and_six", "thirteen_and_four",
            "missing", "gap",
        )  # fmt: skip
        limits = dict.fromkeys(prices, (0.0, 1e3)) | {"max_missing": (0, len(LEVELS)), "off_sacrum": (0.0, np.inf)}
        check_ranges(self, limits, where="numbering.rules")

    def cheaper(self, share: float) -> PathRules:
        """Return the rules with only this share of the prices of anomalies."""
        names = ("eleven_thoracic", "thirteen_thoracic", "four_lumbar", "six_lumbar")
        pairs = ("eleven_and_six", "thirteen_and_four")
        return replace(self, **{name: share * getattr(self, name) for name in names + pairs})

    def thoracic_price(self, count: int) -> float:
        """Return the price of a number of thoracic vertebrae; 0 stands for unknown."""
        if count in (0, NORMAL_THORACIC):
            return 0.0
        if self.enforce:
            return np.inf
        return self.eleven_thoracic if count < NORMAL_THORACIC else self.thirteen_thoracic

    def lumbar_price(self, lumbar: int, thoracic: int) -> float:
        """Return the price of a number of lumbar vertebrae below so many thoracic ones, whose own price is paid."""
        if lumbar == NORMAL_LUMBAR:
            return 0.0
        if self.enforce:
            return np.inf
        if lumbar > NORMAL_LUMBAR:
            return self.eleven_and_six - self.eleven_thoracic if thoracic == 11 else self.six_lumbar
        return self.thirteen_and_four - self.thirteen_thoracic if thoracic == 13 else self.four_lumbar


@dataclass(frozen=True, eq=False)
class Steps:
    """Tables over states (S = `STATES`).

    Parameters
    ----------
    start: (S,) scores of the uppermost vertebra, minus infinity where it cannot start.
    score: (S, S) score of the step from a state to the one below, distance left out; minus infinity: no such step.
    hidden: (S, S) number of vertebrae that the step passes over.
    last_thoracic: (S, S) whether the step shows that the upper vertebra is the last thoracic one (T13 always is).
    """

    start: Array
    score: Array
    hidden: Array
    last_thoracic: Array


@lru_cache(maxsize=8)
def steps(rules: PathRules) -> Steps:
    """Return the tables of a set of rules."""
    start = np.array([-_arrival(rules, int(s)) if STATE_COUNT[s] == 0 else -np.inf for s in range(STATES)])
    score = np.full((STATES, STATES), -np.inf)
    hidden = np.zeros((STATES, STATES), dtype=np.intp)
    last = np.zeros((STATES, STATES), dtype=bool)
    for above in range(STATES):
        for below in range(STATES):
            passed = _passed(above, below)
            if passed is None or passed > rules.max_missing:
                continue
            hidden[above, below] = passed
            score[above, below] = -_arrival(rules, below) - _crossing(rules, above, below)
            last[above, below] = _is_last_thoracic(above, below)
    return Steps(start, score, hidden, last)


def ends(rules: PathRules, sacrum_gap: float | None) -> tuple[Array, Array]:
    """Return for each state the score of being the lowest vertebra, and the number of lumbar vertebrae it implies.

    Parameters
    ----------
    sacrum_gap: how many vertebrae fit between the lowest one and the sacrum (0: none); None: no sacrum in sight.

    Returns
    -------
    (S,) scores and (S,) counts; 0: unknown.
    """
    score, count = np.zeros(STATES), np.zeros(STATES, dtype=np.intp)
    if sacrum_gap is None:
        return score, count
    score[:] = -rules.off_sacrum
    for state in range(STATES):
        if STATE_LEVEL[state] < _L1:
            continue
        number, thoracic = int(STATE_LEVEL[state]) - _L1 + 1, int(STATE_COUNT[state])
        for total in LUMBAR_COUNTS:
            below = total - number
            if not 0 <= below <= rules.max_missing:
                continue
            # Whoever is an L6 has paid for it on arrival.
            price = 0.0 if number == total == LUMBAR_COUNTS[-1] else rules.lumbar_price(total, thoracic)
            value = -price - rules.gap * abs(below - sacrum_gap)
            if value > score[state]:
                score[state], count[state] = value, total
    return score, count


def _arrival(rules: PathRules, state: int) -> float:
    """Price of a vertebra that few people have, paid where it appears."""
    if STATE_LEVEL[state] == _T13:
        return rules.thoracic_price(13)
    if STATE_LEVEL[state] == _L6:
        return rules.lumbar_price(6, int(STATE_COUNT[state]))
    return 0.0


def _passed(above: int, below: int) -> int | None:
    """How many vertebrae lie between two states; None: the one is not above the other."""
    high, low = int(STATE_LEVEL[above]), int(STATE_LEVEL[below])
    if low < _L1:
        return low - high - 1 if high < low else None
    count = int(STATE_COUNT[below])
    if high >= _L1:
        return low - high - 1 if high < low and count == STATE_COUNT[above] else None
    if count == 0 or (high == _T13 and count != 13):
        return None
    last = INDEX[f"T{count}"]
    return last - high + low - _L1 if high <= last else None


def _crossing(rules: PathRules, above: int, below: int) -> float:
    """Price of the thoracic count, paid where the path leaves the thoracic spine; T13 itself has paid already."""
    high, low = STATE_LEVEL[above], STATE_LEVEL[below]
    if high >= _L1 or low < _L1 or high == _T13:
        return 0.0
    return rules.thoracic_price(int(STATE_COUNT[below]))


def _is_last_thoracic(above: int, below: int) -> bool:
    high, low = int(STATE_LEVEL[above]), int(STATE_LEVEL[below])
    return high < _T13 and low >= _L1 and LEVELS[high] == f"T{STATE_COUNT[below]}"
