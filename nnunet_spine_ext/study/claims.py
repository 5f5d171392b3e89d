"""Goals of the study, and what the paper claims beside what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.study import paper
from nnunet_spine_ext.study.cohort import TITLES
from nnunet_spine_ext.study.components import COMPONENTS, Drop, first_share
from nnunet_spine_ext.study.fits import Straight
from nnunet_spine_ext.study.measured import SCANNER
from nnunet_spine_ext.study.results import Results
from nnunet_spine_ext.study.statistics import Estimate

Status = Literal["reached", "missed", "not measured", "void"]


@dataclass(frozen=True)
class Goal:
    """A number to reach; `at_least` False: not to pass. `where` says over what the value is, if not all targets."""

    key: str
    text: str
    bound: float
    value: Estimate
    at_least: bool = True
    share: bool = True
    where: str = ""
    void: bool = False

    @property
    def status(self) -> Status:
        """Return reached or missed by the value itself, not by its interval; void: nothing follows from the study."""
        if self.void:
            return "void"
        if not self.value.known:
            return "not measured"
        over = self.value.value >= self.bound if self.at_least else self.value.value <= self.bound
        return "reached" if over else "missed"

    @property
    def measured(self) -> str:
        """Return the value as text."""
        return self.value.percent() if self.share else self.value.text(4)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {
            "goal": self.text, "bound": self.bound, "at_least": self.at_least, "value": self.value.to_dict(),
            "status": self.status, "where": self.where,
        }  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """One statement of the paper, and the same of this study."""

    subject: str
    paper: str
    here: str
    agrees: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {"subject": self.subject, "paper": self.paper, "here": self.here, "agrees": self.agrees}


def goals(results: Results) -> tuple[Goal, ...]:
    """Return the goals, whether measured or not."""
    shift = results.outcome("shift") or results.outcome("shift-dann")
    tuned, where = _fine_tuned(results, 10)
    matching = results.outcome("match")
    widened = results.outcome("anchored+tta") or results.outcome("match+tta")
    found = (
        _share_goal(results, "match+tta", "matching + TTA recovers at least 74 % of the gap", 0.74),
        _share_goal(results, "anchored+tta", "anchored matching + TTA recovers at least 80 % of the gap", 0.80),
        Goal(
            "shift", "training with simulated shifts, without target data, recovers at least 90 % of the gap", 0.90,
            shift.share if shift else Estimate(math.nan, note="not run"), where=_where(results, "shift"),
        ),
        Goal("finetuned@10", "fine-tuning with N = 10 recovers at least 69 % of the gap", 0.69, tuned, where=where),
        Goal(
            "source", "matching changes Dice on the source by at most 0.001", 0.001,
            _size(matching.source_change) if matching else Estimate(math.nan, note="not run"), False, False,
        ),
        Goal(
            "regions", "with adaptation the cervical-lumbar gap is at most 1.5 times that of the source", 1.5,
            widened.region_gap if widened else Estimate(math.nan, note="not run"), False, False,
            widened.variant.title if widened else "",
        ),
    )  # fmt: skip
    return tuple(replace(goal, void=results.verdict.void) for goal in found)


def _size(change: Estimate) -> Estimate:
    """Absolute change; its interval is that of the change, folded at 0."""
    if not change.known or not math.isfinite(change.low):
        return Estimate(abs(change.value), note=change.note)
    low = 0.0 if change.low <= 0 <= change.high else min(abs(change.low), abs(change.high))
    return Estimate(abs(change.value), low, max(abs(change.low), abs(change.high)))


def _share_goal(results: Results, strategy: str, text: str, bound: float) -> Goal:
    found = results.outcome(strategy)
    share = found.share if found else Estimate(math.nan, note="not run")
    return Goal(strategy, text, bound, share, where=_where(results, strategy))


def _where(results: Results, strategy: str) -> str:
    found, every = results.outcome(strategy), len(results.cohort.study.targets)
    return "" if found is None or len(found.scanners) == every else f"on {len(found.scanners)} of {every} targets"


def _fine_tuned(results: Results, n: int) -> tuple[Estimate, str]:
    """The share with n samples: over the targets if it was run there, else from the curve of sample size."""
    found = results.outcome("finetuned", n)
    if found is not None:
        return found.share, _where(results, "finetuned")
    for curve in results.samples:
        if curve.strategy == "finetuned" and curve.share_at(n).note != "not measured":
            return curve.share_at(n), f"on {curve.scanner} alone"
    return Estimate(math.nan, note="not run"), ""


def claims(results: Results) -> tuple[Claim, ...]:
    """Return the paper's statements that this study measured, in the order of the paper."""
    found = [*_losses(results), *_components(results), *_regions(results), *_strategies(results), *_rest(results)]
    # Without a gap orders and shares are chance: they neither agree nor disagree.
    return tuple(replace(claim, agrees=None) for claim in found) if results.verdict.void else tuple(found)


def _losses(results: Results) -> Iterator[Claim]:
    gap = results.verdict.gap
    if gap.known:
        yield Claim(
            "mean loss of Dice on other scanners", f"{paper.MEAN_DROP:.3f}", gap.text(), gap.holds(paper.MEAN_DROP)
        )
    none = results.none
    if none.ran and len(none.scanners) > 1:
        yield Claim(
            "worst scanner",
            f"philips-1.5t ({paper.DICE['philips-1.5t']:.3f})",
            f"{none.worst_scanner} ({none.worst.text()})",
            none.worst_scanner == "philips-1.5t" if "philips-1.5t" in none.scanners else None,
        )
    low = [none.dice[name].value for name in none.scanners if name.endswith("1.5t")]
    high = [none.dice[name].value for name in none.scanners if name.endswith("-3t")]
    if low and high:
        yield Claim(
            "all 1.5 T scanners are worse than all 3 T ones",
            "yes (0.405 to 0.638 against 0.694 to 0.772)",
            f"{'yes' if max(low) < min(high) else 'no'} ({min(low):.3f} to {max(low):.3f} against {min(high):.3f} "
            f"to {max(high):.3f})",
            max(low) < min(high),
        )


def _components(results: Results) -> Iterator[Claim]:
    singles = [d for d in results.headline if d.place.parts[0] in COMPONENTS]
    by_name = {d.place.parts[0]: d for d in singles}
    if len(singles) > 1:
        top = max(range(len(singles)), key=lambda k: singles[k].drop.value)
        sure = first_share(singles, top)
        often = f"; first in {100 * sure:.0f} % of resamples" if math.isfinite(sure) else ""
        name = singles[top].place.parts[0]
        yield Claim(
            "component that costs most", f"resolution ({paper.DROPS['resolution']:.3f})",
            f"{name} ({singles[top].drop.text()}){often}", name == "resolution",
        )  # fmt: skip
    if len(singles) > 2:
        here = [d.place.parts[0] for d in sorted(singles, key=lambda d: -d.drop.value)]
        theirs = sorted(by_name, key=lambda part: -paper.DROPS[part])
        yield Claim(
            "components from most to least costly",
            " > ".join(theirs),
            f"{' > '.join(here)}; {_rank_correlation(singles)}",
            here == theirs,
        )
    if {"field", "manufacturer"} <= by_name.keys():
        difference = _difference(results, by_name["field"], by_name["manufacturer"])
        yield Claim(
            "field strength costs more than manufacturer",
            f"yes, by {paper.DROPS['field'] - paper.DROPS['manufacturer']:.3f}",
            f"{'yes' if difference.value > 0 else 'no'}, difference {difference.text()}",
            difference.value > 0,
        )
    pairs = [d for d in results.drops if len(d.place.parts) == 2 and d.interaction.known]
    if pairs:
        more = sum(d.interaction.low > 0 for d in pairs)
        less = sum(d.interaction.high < 0 for d in pairs)
        yield Claim(
            "components compound",
            "said, not measured",
            f"{len(pairs)} pairs: {more} cost more than the sum of their parts, {less} less, "
            f"{len(pairs) - more - less} not told apart from it",
        )


def _rank_correlation(singles: list[Drop]) -> str:
    from scipy.stats import spearmanr

    here = [d.drop.value for d in singles]
    if len(set(here)) < 2:
        return "rank correlation: all the same"
    found = spearmanr([paper.DROPS[d.place.parts[0]] for d in singles], here)
    return f"rank correlation {found.statistic:.2f}"


def _difference(results: Results, one: Drop, other: Drop) -> Estimate:
    return results.cohort.draws.estimate(one.curve - other.curve)


def _regions(results: Results) -> Iterator[Claim]:
    means = _region_curves(results)
    if len(means) > 1:
        worst = min(means, key=lambda region: means[region][0])
        found = results.cohort.draws.estimate(means[worst])
        yield Claim(
            "region with the lowest Dice on the targets", "cervical", f"{worst} ({found.text()})", worst == "cervical"
        )
    widened = results.none.region_gap
    if widened.known:
        ratio = paper.REGION_GAP_WORST / paper.REGION_GAP_SOURCE
        yield Claim(
            "lumbar minus cervical Dice, times that of the source", f"{ratio:.1f} (worst scanner)",
            f"{widened.text(1)} (mean of targets)", widened.value > 1,
        )  # fmt: skip


def _region_curves(results: Results) -> dict[str, Array]:
    cohort, found = results.cohort, {}
    for region in cohort.region_names:
        curves = [
            cohort.draws.curve(values)
            for (condition, name), values in cohort.regions.items()
            if name == region and condition.strategy == "none" and condition.factor == SCANNER
            and condition.scanner in cohort.study.targets and np.isfinite(values).any()
        ]  # fmt: skip
        if curves:
            found[region] = np.mean(curves, axis=0)
    return found


def _strategies(results: Results) -> Iterator[Claim]:
    for strategy, share in paper.SHARES.items():
        found = results.outcome(strategy)
        if found is not None and found.ran:
            n = f", N = {found.variant.n}" if found.variant.n is not None else ""
            yield Claim(
                f"share of the gap recovered: {TITLES[strategy].title}{n}",
                f"{100 * share:.1f} %", found.share.percent(), found.share.holds(share),
            )  # fmt: skip
    best = results.best()
    if best is not None:
        here = f"{best.variant.title} ({best.mean.text()}){results.no_better(best)}"
        yield Claim(
            "best strategy", "fine-tuning (0.890)", here,
            best.variant.strategy == "finetuned" if results.outcome("finetuned") else None,
        )  # fmt: skip


def _rest(results: Results) -> Iterator[Claim]:
    for curve in results.samples:
        for n in (10, 50, 100, 200):
            if curve.strategy == "finetuned" and curve.share_at(n).known:
                share, theirs = curve.share_at(n), paper.sample_share(n)
                yield Claim(
                    f"share recovered by fine-tuning with N = {n}, {curve.scanner}",
                    f"{100 * theirs:.0f} % (ge-1.5t)", share.percent(), share.holds(theirs),
                )  # fmt: skip
    for effect in results.gaps:
        if effect.line is not None:
            yield Claim(
                f"Dice falls linearly with the gap ({effect.measure.replace('_', ' ')})",
                f"yes, slope {paper.SLOPE:.2f} of a gap of its own",
                f"{effect.line.verdict}; R² {effect.line.r_squared.text(2)}, slope {effect.line.slope.text(3)}, "
                f"r of gap and loss {effect.pearson.text(2)}",
                _is_line(effect.line),
            )


def _is_line(line: Straight) -> bool | None:
    """Whether Dice falls along a line; None where it cannot be told, for want of points or of a slope that is known."""
    if line.verdict == "bends" or line.slope.high < 0:
        return False
    return True if line.verdict != "too few" and line.slope.low > 0 else None
