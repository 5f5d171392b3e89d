"""Ranges: every form, every mistake."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_spine_ext.augment.ranges import Range
from nnunet_spine_ext.core.errors import UsageError


def _draws(value: Any, count: int = 2000, **options: Any) -> np.ndarray:
    rng = np.random.default_rng(0)
    drawn = Range.parse(value, **options)
    return np.array([drawn.sample(rng) for _ in range(count)])


def test_a_number_is_always_itself() -> None:
    assert set(_draws(0.5, 5)) == {0.5}


def test_a_pair_is_uniform() -> None:
    draws = _draws([2, 4])
    assert draws.min() >= 2
    assert draws.max() <= 4
    assert draws.mean() == pytest.approx(3, abs=0.05)


def test_log_makes_halving_as_likely_as_doubling() -> None:
    draws = _draws({"log": [0.5, 2]})
    assert (draws < 1).mean() == pytest.approx(0.5, abs=0.04)
    assert draws.min() >= 0.5
    assert draws.max() <= 2


def test_normal_is_clipped_to_the_limits() -> None:
    draws = _draws({"normal": [1, 0.5]}, limits=(0.5, 2))
    assert draws.min() == 0.5
    assert draws.mean() == pytest.approx(1.03, abs=0.05)


def test_choice_takes_each() -> None:
    assert set(_draws({"choice": [3, 5, 7]}, 100)) == {3, 5, 7}


@pytest.mark.parametrize("value", [0.5, [1, 2], {"log": [1, 2]}, {"normal": [0, 1]}, {"choice": [1, 2, 3]}])
def test_plain_form_reads_back(value: Any) -> None:
    drawn = Range.parse(value)
    assert Range.parse(drawn.plain()) == drawn
    assert Range.parse(drawn) == drawn


@pytest.mark.parametrize(
    "value",
    [
        "1", None, True, [1], [1, 2, 3], [2, 1], [1, "2"], [1, float("nan")], float("inf"), {}, {"log": [0, 1]},
        {"log": [-1, 1]}, {"lgo": [1, 2]}, {"normal": [0, -1]}, {"choice": []}, {"log": [1, 2], "choice": [1]}, "ab",
    ],
)  # fmt: skip
def test_anything_else_is_an_error(value: Any) -> None:
    with pytest.raises(UsageError, match="E-CONFIG-RANGE"):
        Range.parse(value)


@pytest.mark.parametrize("value", [-1, [-1, 0.5], [0.5, 2], {"choice": [0.5, 2]}, {"normal": [2, 0.1]}])
def test_what_lies_outside_the_limits_is_an_error(value: Any) -> None:
    with pytest.raises(UsageError, match="outside the limits"):
        Range.parse(value, limits=(0, 1))


def test_a_misspelt_form_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'normal'"):
        Range.parse({"nromal": [0, 1]})


def test_strength_moves_towards_neutral() -> None:
    drawn = Range.parse([2, 2])
    assert drawn.scaled(np.random.default_rng(0), 1.0, 0.5) == pytest.approx(1.5)
    assert drawn.scaled(np.random.default_rng(0), 1.0, 0.0) == 1.0
    assert drawn.scaled(np.random.default_rng(0), None, 0.0) == 2
    assert Range.parse({"log": [4, 4]}).scaled(np.random.default_rng(0), 1.0, 0.5) == pytest.approx(2)


@given(st.floats(0, 3), st.floats(-1, 1), st.floats(0, 1))
def test_no_strength_leaves_the_limits(strength: float, low: float, width: float) -> None:
    limits = (-1.0, 2.0)
    drawn = Range.parse([low, low + width], limits=limits)
    value = drawn.scaled(np.random.default_rng(0), 0.0, strength)
    assert limits[0] <= value <= limits[1]
