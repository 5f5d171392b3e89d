"""Resampling, fits and correlations of the study against plain loops, scipy and planted truths."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import curve_fit
from scipy.stats import spearmanr
from study_cohort import POWER, SIZES

from nnunet_spine_ext.study.claims import _is_line
from nnunet_spine_ext.study.fits import Straight, correlations, correlations_of_means, power_law, straight
from nnunet_spine_ext.study.statistics import Draws, Estimate, fixed, paired, panels, seed_spread

NAMES = [f"s{k}" for k in range(10)]


def _draws(n: int = 10, resamples: int = 300, strata: list[str] | None = None) -> Draws:
    return Draws([f"s{k}" for k in range(n)], strata, resamples=resamples, seed=42)


def test_draws_take_as_many_subjects_as_there_are_and_depend_on_the_seed_alone() -> None:
    draws = _draws()
    assert draws.weights.shape == (301, 10)
    assert (draws.weights[0] == 1).all()
    assert (draws.weights.sum(axis=1) == 10).all()
    assert (draws.weights == _draws().weights).all()
    assert (draws.weights != Draws(NAMES, resamples=300, seed=43).weights).any()


def test_strata_keep_their_size() -> None:
    draws = _draws(strata=["a"] * 4 + ["b"] * 6)
    assert (draws.weights[:, :4].sum(axis=1) == 4).all()


def test_curve_is_the_mean_over_subjects_then_over_seeds() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 10))
    values[1, 4] = math.nan
    draws = _draws(resamples=5)
    curve = draws.curve(values)
    for row, weights in enumerate(draws.weights):
        picked = np.repeat(np.arange(10), weights.astype(int))
        assert curve[row] == pytest.approx(np.mean([np.nanmean(seed[picked]) for seed in values]))


def test_one_subject_has_a_value_and_no_interval() -> None:
    values = np.full((1, 10), math.nan)
    values[0, 3] = 0.5
    draws = _draws()
    found = draws.estimate(draws.curve(values))
    assert found.value == 0.5
    assert math.isnan(found.low)


def test_interval_covers_the_true_mean_in_about_95_of_100_samples() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    draws = Draws([str(k) for k in range(40)], resamples=400, seed=0)
    for _ in range(300):
        found = draws.estimate(draws.curve(rng.normal(0.7, 0.1, (1, 40))))
        hits += found.low <= 0.7 <= found.high
    assert 0.90 <= hits / 300 <= 0.985


def test_lowest_tenth_is_that_of_a_sorted_list() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=(5, 10))
    draws = _draws(resamples=20)
    found = draws.lowest_tenth(values)
    assert found[0] == pytest.approx(np.sort(values.ravel())[:5].mean())
    picked = np.repeat(np.arange(10), draws.weights[7].astype(int))
    assert found[7] == pytest.approx(np.sort(values[:, picked].ravel())[:5].mean())


def test_a_ratio_with_a_small_or_uncertain_denominator_is_no_number() -> None:
    draws = _draws()
    rng = np.random.default_rng(3)
    wide = draws.curve(rng.normal(0.05, 0.5, (1, 10)))
    for below in (np.full(301, 0.01), wide):
        found = draws.ratio(np.full(301, 0.01), below)
        assert not found.known
        assert found.note.startswith("unstable: gap")
    assert draws.ratio(np.full(301, 0.05), np.full(301, 0.1)).value == pytest.approx(0.5)
    assert draws.ratio(np.full(301, math.nan), np.full(301, 0.1)).note == "not measured"


def test_paired_values_are_those_that_both_have() -> None:
    a, b = paired(np.array([[1.0, math.nan, 3.0]]), np.array([[1.0, 2.0, math.nan]]))
    assert np.isfinite(a).tolist() == np.isfinite(b).tolist() == [[True, False, False]]


def test_spread_over_seeds_needs_two() -> None:
    assert math.isnan(seed_spread(np.ones((1, 4))))
    assert seed_spread(np.array([[0.1, 0.3], [0.4, 0.6]])) == pytest.approx(np.std([0.2, 0.5], ddof=1))


def test_panels_of_nothing_are_nothing() -> None:
    assert panels([], ["0"], NAMES, 0, lambda row: row.condition) == {}


@pytest.mark.parametrize(("value", "text"), [(-0.0001, "0.00"), (0.0, "0.00"), (-0.01, "-0.01"), (10.0, "10.00")])
def test_no_minus_before_a_zero(value: float, text: str) -> None:
    assert fixed(value, 2) == text


def test_texts_of_estimates() -> None:
    assert Estimate(0.7379, 0.7, 0.78).percent() == "73.8 % [70.0, 78.0]"
    assert Estimate(0.5).text() == "0.500"
    assert Estimate(math.nan, note="too few").text() == Estimate(math.nan, note="too few").percent() == "too few"
    assert Estimate(math.nan).text() == "–"


def _curves(draws: Draws, noise: float = 0.0, power: tuple[float, float, float] = POWER) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    a, b, c = power
    own = rng.normal(0, 0.02, len(draws.subjects)) if noise else 0.0
    return [draws.curve((a - b * (n + 1) ** -c + own + rng.normal(0, noise, len(draws.subjects)))[None]) for n in SIZES]


def test_power_law_finds_what_was_planted() -> None:
    draws = _draws(12)
    fit = power_law(draws, SIZES, _curves(draws, noise=1e-9))
    assert fit.converged
    assert [fit.a.value, fit.b.value, fit.c.value] == pytest.approx(POWER, abs=0.004)
    assert fit.rmse < 5e-4
    assert fit.at([0, 10])[0] == pytest.approx([0.5, 0.88 - 0.38 / math.sqrt(11)], abs=2e-3)


def test_power_law_agrees_with_scipy() -> None:
    draws = _draws(12)
    curves = _curves(draws, noise=0.03)
    fit = power_law(draws, SIZES, curves)
    y = [curve[0] for curve in curves]
    best, _ = curve_fit(lambda n, a, b, c: a - b * (n + 1) ** -c, np.array(SIZES, dtype=float), y, p0=(0.9, 0.4, 0.5))
    assert [fit.a.value, fit.b.value, fit.c.value] == pytest.approx(best, abs=0.01)
    assert fit.c.low < POWER[2] < fit.c.high


@pytest.mark.parametrize(
    ("sizes", "values", "reason"),
    [
        ((0, 1, 5), (0.4, 0.5, 0.6), "too few sizes"),
        ((0, 1, 5, 10), (0.8, 0.7, 0.6, 0.5), "do not rise"),
        ((0, 1, 5, 10), (0.5, 0.5, 0.5, 0.5), "do not rise"),
        ((0, 1, 5, 10, 50), (0.4, 0.8, 0.8, 0.8, 0.8), "first step"),
        ((0, 1, 3, 7, 15, 31), (0.30, 0.40, 0.50, 0.60, 0.70, 0.80), "no plateau"),
    ],
)
def test_power_law_says_when_it_does_not_converge(
    sizes: tuple[int, ...], values: tuple[float, ...], reason: str
) -> None:
    draws = _draws()
    fit = power_law(draws, sizes, [np.full(301, value) for value in values])
    assert not fit.converged
    assert reason in fit.reason
    assert np.isnan(fit.at([3])).all()


def test_plateau_is_never_above_a_perfect_score() -> None:
    draws = _draws()
    # The sample rises to 0.95, resamples to more than 1.
    curves = [np.full(301, 0.95 - 0.6 * (n + 1) ** -0.5) for n in (0, 1, 5, 10, 50)]
    for curve in curves:
        curve[1:] += 0.1
    fit = power_law(draws, (0, 1, 5, 10, 50), curves)
    assert fit.converged
    assert fit.a.value == pytest.approx(0.95, abs=0.01)
    assert fit.a.high == 1.0


@pytest.mark.parametrize(("power", "verdict"), [(1.0, "a line is not contradicted"), (0.5, "bends"), (2.0, "bends")])
def test_straightness_is_found_and_its_absence_too(power: float, verdict: str) -> None:
    rng = np.random.default_rng(6)
    draws = _draws(20)
    gaps, scores = [], []
    for gap in (0.0, 0.16, 0.25, 0.31, 0.55, 0.57):
        gaps.append(draws.curve(np.full((1, 20), gap)))
        noise = rng.normal(0, 0.02, 20)
        scores.append(draws.curve((0.9 - 0.8 * gap**power + noise - noise.mean())[None]))
    found = straight(draws, gaps, scores)
    assert found is not None
    assert found.verdict == verdict
    if power == 1.0:
        assert found.slope.low < 0.8 < found.slope.high
        assert found.intercept.low < 0.9 < found.intercept.high


def test_a_line_needs_scanners_that_differ() -> None:
    draws = _draws()
    same = [np.full(301, 0.3)] * 5
    assert straight(draws, same, same) is None
    assert straight(draws, [np.full(301, v) for v in (0.1, 0.2, 0.3)], same[:3]) is None


def test_correlations_weight_subjects_as_often_as_they_are_drawn() -> None:
    rng = np.random.default_rng(7)
    draws = _draws(resamples=4)
    gap = np.round(rng.normal(size=(3, 10)), 1)
    drop = gap + np.round(rng.normal(size=(3, 10)), 1)
    pearson, spearman = correlations(draws, gap, drop)
    assert pearson.value == pytest.approx(np.corrcoef(gap.ravel(), drop.ravel())[0, 1])
    assert spearman.value == pytest.approx(spearmanr(gap.ravel(), drop.ravel()).statistic)
    # Ranks of a resample are those of its points, each as often as it was drawn.
    single = Draws(draws.subjects, resamples=1, seed=3)
    picked = np.repeat(np.arange(10), single.weights[1].astype(int))
    swapped = Draws(draws.subjects, resamples=1, seed=3)
    swapped.weights = single.weights[::-1]
    _, drawn = correlations(swapped, gap, drop)
    assert drawn.value == pytest.approx(spearmanr(gap[:, picked].ravel(), drop[:, picked].ravel()).statistic)


def test_correlations_of_few_or_equal_values_are_no_numbers() -> None:
    draws = _draws()
    assert correlations(draws, np.ones((2, 10)), np.ones((2, 10)))[0].note == "too few"
    three = [np.full(301, v) for v in (0.1, 0.2, 0.3)]
    assert correlations_of_means(draws, three, three)[1].note == "too few"


@pytest.mark.parametrize(("subjects", "least"), [(12, 0.85), (50, 0.90)])
def test_the_interval_of_a_share_covers_it_about_as_often_as_the_documentation_says(
    subjects: int, least: float
) -> None:
    rng = np.random.default_rng(1)
    draws = Draws([str(k) for k in range(subjects)], resamples=300, seed=42)
    hits = 0
    for _ in range(150):
        own, gap = rng.normal(0.9, 0.04, subjects), rng.normal(0.25, 0.06, subjects)
        gained = 0.6 * gap + rng.normal(0, 0.04, subjects)
        source, none, strategy = (draws.curve(v[None]) for v in (own, own - gap, own - gap + gained))
        found = draws.ratio(strategy - none, source - none)
        hits += found.low <= 0.6 <= found.high
    assert least <= hits / 150 < 1.0


STRAIGHT, BENT, UNKNOWN = Estimate(0.1, -1, 1), Estimate(2, 1, 3), Estimate(0.1, note="too few")


@pytest.mark.parametrize(
    ("bend", "slope", "expected"),
    [
        (STRAIGHT, Estimate(2, 1, 3), True),
        (STRAIGHT, Estimate(2, -1, 3), None),
        (STRAIGHT, Estimate(2), None),
        (STRAIGHT, Estimate(-2, -3, -1), False),
        (BENT, Estimate(2, -1, 3), False),
        (UNKNOWN, Estimate(2, 1, 3), None),
        (UNKNOWN, Estimate(-2, -3, -1), False),
        (UNKNOWN, Estimate(-2), None),
    ],
)
def test_a_line_of_unknown_slope_agrees_with_nothing(bend: Estimate, slope: Estimate, expected: bool | None) -> None:
    assert _is_line(Straight(slope, intercept=STRAIGHT, r_squared=STRAIGHT, bend=bend)) is expected
