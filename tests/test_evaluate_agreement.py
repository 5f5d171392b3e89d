"""Statistics of agreement equal those of other people's software, and published examples.

The numbers in fixtures/oracle_statistics.json were computed by statsmodels and pingouin in an environment of their own
(`make oracles`).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_spine_ext.evaluate.agreement import (
    effect_size,
    equivalence,
    icc,
    limits_of_agreement,
    line_fit,
)
from nnunet_spine_ext.evaluate.anova import rm_anova
from nnunet_spine_ext.evaluate.paired import correct

FIXTURE = json.loads((Path(__file__).parent / "fixtures" / "oracle_statistics.json").read_text(encoding="utf-8"))
TABLES = {name: np.array(table) for name, table in FIXTURE["tables"].items()}
NAMES = sorted(TABLES)
# Bland and Altman 1986, table 1: peak flow in l/min of 17 subjects, first reading, large and mini meter.
LARGE = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]


def close(value: Any, expected: Any) -> None:
    assert value == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_fixture_says_what_made_it() -> None:
    assert set(FIXTURE["versions"]) == {"statsmodels", "pingouin", "scipy", "numpy", "pandas"}
    assert FIXTURE["command"].startswith("python tests/oracles/make_statistics.py")


# --- repeated-measures ANOVA ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_anova_equals_statsmodels_and_the_correction_pingouin(name: str) -> None:
    expected, found = FIXTURE["of_table"][name], rm_anova(TABLES[name])
    assert (found.df, found.df_error, found.incomplete) == (expected["df"], expected["df_error"], 0)
    close(found.f, expected["f"])
    close(found.p, expected["p"])
    close(found.epsilon, expected["epsilon"])
    close(found.partial_eta_squared, expected["np2"])
    if found.conditions > 2:
        close(found.p_corrected, expected["p_gg"])
    else:
        close(found.p_corrected, found.p)


def test_subjects_with_a_missing_value_leave_the_anova_whole() -> None:
    table = TABLES["cohort"].copy()
    table = np.vstack([table, table[:2] + 5])
    table[12, 3], table[13, 0] = math.nan, math.inf
    found = rm_anova(table)
    assert (found.subjects, found.incomplete) == (12, 2)
    close(found.f, FIXTURE["of_table"]["cohort"]["f"])


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (np.ones((5, 1)), "1 condition"),
        (np.array([[1.0, 2.0], [3.0, math.nan]]), "1 subject"),
        (np.empty((0, 3)), "0 subject"),
        (np.ones((5, 3)), "same amounts"),
        (np.arange(5.0)[:, None] + np.arange(3.0), "same amounts"),
        (np.full((4, 3), 77.123456789), "same amounts"),
    ],
)
def test_an_anova_that_cannot_be_made_says_why(table: np.ndarray, reason: str) -> None:
    found = rm_anova(table)
    assert math.isnan(found.p)
    assert reason in found.reason


# --- ICC -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_icc_equals_pingouin(name: str) -> None:
    expected, found = FIXTURE["of_table"][name]["icc"], icc(TABLES[name])
    close(found.agreement, expected["ICC(A,1)"]["value"])
    close(found.agreement_interval, expected["ICC(A,1)"]["interval"])
    close(found.consistency, expected["ICC(C,1)"]["value"])
    close(found.consistency_interval, expected["ICC(C,1)"]["interval"])


def test_icc_of_the_published_example() -> None:
    """Shrout and Fleiss 1979, tables 2 and 4: ICC(2,1) .29 and ICC(3,1) .71."""
    found = icc(TABLES["shrout_fleiss"])
    assert (round(found.agreement, 2), round(found.consistency, 2)) == (0.29, 0.71)


def test_a_constant_difference_lowers_agreement_but_not_consistency() -> None:
    table = TABLES["null"]
    moved = table + np.array([0.0, 5.0, 10.0])
    assert icc(moved).agreement < icc(table).agreement - 0.1
    close(icc(moved).consistency, icc(table).consistency)


def test_icc_without_variance_or_subjects_says_why() -> None:
    assert icc(np.ones((5, 2))).reason == "all values are equal"
    assert "1 subject" in icc(np.array([[1.0, 2.0], [math.nan, 2.0]])).reason
    perfect = icc(np.repeat(np.arange(5.0)[:, None], 2, axis=1))
    assert (perfect.agreement, perfect.consistency) == (1.0, 1.0)
    assert "no intervals" in perfect.reason


# --- limits of agreement -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_limits_and_their_intervals_equal_pingouin(name: str) -> None:
    a, b = TABLES[name][:, 0], TABLES[name][:, 1]
    found = limits_of_agreement(b - a)
    expected = FIXTURE["of_pair"][name]
    lines = [value for value in expected["lines"] if value]
    assert [found.low, found.bias, found.high] == pytest.approx(lines, abs=1e-6)
    low, bias, high = sorted(map(tuple, expected["spans"]))
    close(found.bias_interval, bias)
    # pingouin takes 3/n for 1/n + 1.96^2 / (2 (n - 1)), as Bland and Altman did in 1986.
    wider = math.sqrt((1 / found.n + 1.959963984540054**2 / (2 * (found.n - 1))) * found.n / 3)
    for own, middle, other in ((found.low_interval, found.low, low), (found.high_interval, found.high, high)):
        close(own, tuple(middle + wider * (edge - middle) for edge in other))


def test_limits_of_the_published_example() -> None:
    """Bland and Altman 1986: bias -2.1 (-22.0 to 17.8), sd 38.8, limits -79.7 and 75.5 made with 2 sd."""
    found = limits_of_agreement([x - y for x, y in zip(LARGE, MINI, strict=True)])
    assert (round(found.bias, 1), round(found.sd, 1)) == (-2.1, 38.8)
    assert found.bias_interval == pytest.approx((-22.0, 17.8), abs=0.1)
    # The paper writes 2 for 1.96, and 3/n for the variance of a limit.
    assert (found.low, found.high) == pytest.approx((-79.7, 75.5), abs=1.7)
    assert found.high_interval == pytest.approx((40.9, 110.1), abs=2.5)


def test_limits_of_repeated_measurements_use_the_variance_components() -> None:
    values, expected = np.array(FIXTURE["repeated"]), FIXTURE["of_repeated"]
    subjects = [f"s{k}" for k in range(10) for _ in range(4)]
    found = limits_of_agreement(values.ravel(), subjects, resamples=200)
    assert found.repeated
    close(found.bias, expected["mean"])
    between = (expected["between_mean_square"] - expected["within_mean_square"]) / 4
    close(found.sd, math.sqrt(between + expected["within_mean_square"]))
    reml = math.sqrt(expected["reml_between"] + expected["reml_within"])
    assert found.sd == pytest.approx(reml, rel=1e-4)
    assert found.low_interval[0] < found.low < found.low_interval[1] < found.bias < found.high_interval[1]


def test_repeated_measurements_do_not_pass_for_new_subjects() -> None:
    values = np.array(FIXTURE["repeated"]).ravel()
    subjects = [f"s{k}" for k in range(10) for _ in range(4)]
    honest = limits_of_agreement(values, subjects)
    naive = limits_of_agreement(values)
    width = [low[1] - low[0] for low in (honest.bias_interval, naive.bias_interval)]
    assert width[0] > 1.3 * width[1]
    again = limits_of_agreement(values, subjects)
    assert again == honest
    assert limits_of_agreement(values, subjects, seed=1) != honest


def test_limits_of_one_subject_say_why_there_are_none() -> None:
    assert "1 subject" in limits_of_agreement([1.0, 2.0], ["a", "a"]).reason
    assert "0 subject" in limits_of_agreement([]).reason


def test_the_intervals_hold_what_they_promise() -> None:
    """In 400 drawn cohorts of 30 the 95 % intervals hold the true bias and the true limit 93 to 97 % of the time."""
    rng = np.random.default_rng(0)
    held = np.zeros(2)
    for _ in range(400):
        found = limits_of_agreement(rng.normal(1.0, 2.0, 30))
        held += [
            found.bias_interval[0] < 1.0 < found.bias_interval[1],
            found.high_interval[0] < 1.0 + 1.959964 * 2.0 < found.high_interval[1],
        ]
    assert held / 400 == pytest.approx([0.95, 0.95], abs=0.025)


# --- equivalence, effect size, corrections, fit --------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("margin", ["0.5", "2.0", "4.0"])
def test_equivalence_equals_statsmodels_and_pingouin(name: str, margin: str) -> None:
    a, b = TABLES[name][:, 0], TABLES[name][:, 1]
    found, expected = equivalence(b - a, float(margin)), FIXTURE["of_pair"][name]["tost"][margin]
    close(found.p, expected["p"])
    close(found.p, expected["pingouin"])
    close((found.p_lower, found.p_upper), (expected["p_lower"], expected["p_upper"]))
    assert found.equivalent == (expected["p"] < 0.05)
    # The 90 % interval lies inside the margin exactly when the test says so.
    assert found.equivalent == (-float(margin) < found.low and found.high < float(margin))


def test_equivalence_without_spread_or_pairs() -> None:
    assert equivalence([0.5, 0.5, 0.5], 1.0).equivalent is True
    assert equivalence([1.5, 1.5, 1.5], 1.0).equivalent is False
    assert equivalence([1.0, 1.0], 1.0).equivalent is False
    alone = equivalence([0.1], 1.0)
    assert alone.equivalent is None
    assert "1 pair," in alone.reason


@pytest.mark.parametrize("name", NAMES)
def test_effect_sizes_equal_pingouin_and_scipy(name: str) -> None:
    a, b = TABLES[name][:, 0], TABLES[name][:, 1]
    found, expected = effect_size(a, b), FIXTURE["of_pair"][name]
    close(found.d_av, expected["d_av"])
    close(found.d_z, expected["d_z"])


def test_effect_sizes_without_spread_are_undefined() -> None:
    assert math.isnan(effect_size([1.0, 2.0], [2.0, 3.0]).d_z)
    assert math.isnan(effect_size([1.0], [2.0]).d_av)


@pytest.mark.parametrize("method", ["holm", "bonferroni"])
def test_corrections_equal_statsmodels(method: Any) -> None:
    close(correct(FIXTURE["p"], method), FIXTURE["corrected"][method])
    # Tests that were not made do not count.
    with_gap = correct([*FIXTURE["p"], math.nan], method)
    close(with_gap[:-1], FIXTURE["corrected"][method])


def test_the_line_equals_scipy() -> None:
    from scipy.stats import linregress

    a, b = TABLES["cohort"][:, 0], TABLES["cohort"][:, 3]
    found, expected = line_fit(a, b), linregress(a, b)
    close((found.slope, found.intercept, found.r_squared), (expected.slope, expected.intercept, expected.rvalue**2))
    assert math.isnan(line_fit([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]).slope)
    assert math.isnan(line_fit([], []).slope)
