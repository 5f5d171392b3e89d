"""What harmonization is to reach, beside what it reached."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from nnunet_spine_ext.study.claims import Goal, Status
from nnunet_spine_ext.study.harmonization.arms import FULL
from nnunet_spine_ext.study.harmonization.results import Results
from nnunet_spine_ext.study.statistics import Estimate

# Below this loss of Dice on other vendors there is nothing to bring back.
VOID_BELOW = 0.05
RECOVERED, ERROR, EDGES, VOLUME = 0.90, 0.02, 0.97, 0.02
NYUL = "nyul"


def is_void(results: Results) -> tuple[bool, str]:
    """Return whether nothing about segmentation follows from an evaluation, and why (not)."""
    gap = results.gap(results.others)
    what = f"the segmenter of the target loses {gap.text()} Dice on slices of other vendors as they are"
    return not gap.known or gap.value < VOID_BELOW, what


def goals(results: Results, arm: str = FULL) -> tuple[Goal, ...]:
    """Return the goals of an arm, whether measured or not."""
    others, unseen = results.others, results.unseen
    void, _ = is_void(results)
    found = [
        Goal(
            "recovered", "harmonized Dice recovers at least 90 % of the gap", RECOVERED, results.recovered(arm, others),
            where="all vendors but the target", void=void,
        )
    ]  # fmt: skip
    if unseen:
        share = results.recovered(arm, unseen)
        found.append(replace(found[0], key="recovered-unseen", value=share, where=", ".join(unseen)))
    errors = {name: results.error(arm, name, others) for name in results.features}
    means = {name: results.error_of_mean(arm, name, others) for name in results.features}
    found += [
        Goal(
            "radiomics", "relative error of every radiomic feature at most 0.02", ERROR, _worst(errors.items()),
            at_least=False, share=False, where=_named(errors),
        ),
        Goal(
            "radiomics-mean", "relative error of the mean of every radiomic feature at most 0.02", ERROR,
            _worst(means.items()), at_least=False, share=False, where=_named(means),
        ),
        _Below(
            "nyul", "every radiomic feature nearer to the target than with Nyúl: largest difference of the errors", 0.0,
            _worst((name, _to_nyul(results, arm, name)) for name in results.features), at_least=False, share=False,
        ),
        Goal(
            "edges", "edge correlation with the input at least 0.97", EDGES,
            results.estimate(results.geometry(arm, "edge_correlation", others)), share=False,
        ),
        Goal(
            "volume", "change of the segmented area at most 2 %", VOLUME,
            results.estimate(results.geometry(arm, "volume_change", others)), at_least=False,
            where=_rests(results, arm), void=void,
        ),
    ]  # fmt: skip
    return tuple(replace(goal, where=_missing(results, arm, goal.key) or goal.where) for goal in found)


def _missing(results: Results, arm: str, key: str) -> str:
    """Return which arm a goal is about that has no scores, and why; nothing if all have some."""
    needed = (arm, NYUL) if key == "nyul" else (arm,)
    absent = [name for name in needed if name not in results.arms]
    asked = results.measured.facts.get("config")
    wanted = asked.get("arms") if isinstance(asked, dict) else None
    failed = [name for name in absent if isinstance(wanted, list) and name in wanted]
    left_out = [name for name in absent if name not in failed]
    said = [f"arm {name} has no scores, see failures.csv" for name in failed]
    return "; ".join([*said, *(f"arm {name} was not evaluated: add it to arms" for name in left_out)])


@dataclass(frozen=True)
class _Below(Goal):
    """A goal that is missed by the bound itself."""

    @property
    def status(self) -> Status:
        """Return missed where the value is no better than the bound."""
        found = super().status
        return "missed" if found == "reached" and self.value.value == self.bound else found


def _rests(results: Results, arm: str) -> str:
    """Return on how many slices the change of area is known: those where the segmenter found discs before."""
    known, every = results.judged(arm, "volume_change", results.others)
    return f"on {known} of {every} slices, those where discs were found before" if every else ""


def _to_nyul(results: Results, arm: str, feature: str) -> Estimate:
    own, other = (results.radiomic(name, feature, "error", results.others) for name in (arm, NYUL))
    return results.difference(own, other)


def _worst(found: Iterable[tuple[str, Estimate]]) -> Estimate:
    """Return the largest of some estimates; unknown where one is."""
    values = [estimate for _, estimate in found]
    if not values or not all(one.known for one in values):
        return Estimate(math.nan, note="not measured")
    return max(values, key=lambda one: one.value)


def _named(errors: dict[str, Estimate]) -> str:
    """Return how many features reach the goal, and the worst one."""
    known = {name: one.value for name, one in errors.items() if one.known}
    if not known:
        return ""
    reached = sum(value <= ERROR for value in known.values())
    return f"{reached} of {len(known)} features reach it; the worst is {max(known, key=lambda name: known[name])}"
