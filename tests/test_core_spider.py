"""SPIDER's numbering: counted within a mask, translated to levels and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.labels import VERTEBRAE, vertebra_id
from nnunet_spine_ext.core.spider import (
    counted_from_below,
    instances_to_spider,
    is_known,
    level_of,
    levels_labels,
    levels_table,
    levels_to_spider,
    levels_upwards,
    spider_table,
)


def _names(ids: list[int]) -> str:
    return " ".join(VERTEBRAE[number] for number in ids)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({}, "L5 L4 L3 L2 L1 T12 T11"),
        ({"lowest": "L6"}, "L6 L5 L4 L3 L2 L1 T12"),
        ({"lowest": "S1"}, "S1 L5 L4 L3 L2 L1 T12"),
        ({"lowest": "S1", "lumbar": 6}, "S1 L6 L5 L4 L3 L2 L1"),
        ({"lowest": "L4"}, "L4 L3 L2 L1 T12 T11 T10"),
        ({"lowest": "S1", "lumbar": 4}, "S1 L4 L3 L2 L1 T12 T11"),
        ({"thoracic": 13}, "L5 L4 L3 L2 L1 T13 T12"),
        ({"thoracic": 11}, "L5 L4 L3 L2 L1 T11 T10"),
        ({"lowest": "T9"}, "T9 T8 T7 T6 T5 T4 T3"),
    ],
)
def test_levels_upwards(counts: dict[str, object], expected: str) -> None:
    assert _names(levels_upwards(**counts)[:7]) == expected  # type: ignore[arg-type]
    assert levels_upwards(**counts)[-1] == 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"lowest": "L7"}, "known: C1"),
        ({"lowest": "coccyx"}, "a vertebra such as L5"),
        ({"lowest": "L6", "lumbar": 5}, "a spine with 12 thoracic and 5 lumbar"),
        ({"lowest": "T12", "thoracic": 11}, "a spine with 11 thoracic"),
        ({"thoracic": 10}, "11 to 13"),
        ({"lumbar": 7}, "4 to 6"),
    ],
)
def test_impossible_spines_are_usage_errors(counts: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        levels_upwards(**counts)  # type: ignore[arg-type]
    assert caught.value.code == "E-SPIDER-LOWEST"


def test_the_published_numbering() -> None:
    table = spider_table([1, 2, 6, 107, 100, 201, 206])
    assert table == {1: 24, 2: 23, 6: 19, 107: 18, 100: 0, 201: 124, 206: 119}


@pytest.mark.parametrize("first", [1, 18])
def test_counted_from_above_the_largest_number_is_the_lowest(first: int) -> None:
    # 1.. from the first vertebra of the image, or 18 (T11) .. 24 (L5) from C1.
    ids = [100, *range(first, first + 6), 100 + first, 200 + first, 200 + first + 6, first + 6]
    below = counted_from_below(ids, "top-down")
    assert below[first + 6] == 1
    assert below[200 + first + 6] == 201
    assert (below[first], below[100 + first], below[200 + first], below[100]) == (7, 107, 207, 100)
    assert spider_table(ids, order="top-down")[first + 6] == vertebra_id("L5")


def test_ids_that_spider_does_not_have_are_left_out() -> None:
    assert spider_table([0, 1, 26, 99, 126, 200, 226, -3]) == {1: 24}
    # Twenty-four vertebrae above L5 end at C1: a level 25 has no name.
    assert spider_table([24, 25, 125, 225]) == {24: 1}
    with pytest.raises(ValueError, match="neither"):
        level_of(100)


def test_an_unknown_order_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="did you mean 'bottom-up'"):
        spider_table([1], order="bottomup")  # type: ignore[arg-type]


def test_instances_become_numbers_from_the_lowest() -> None:
    table = instances_to_spider([26, 29, 24, 23, 20, 19, 124, 119, 224, 219])
    assert table == {26: 0, 29: 0, 24: 1, 23: 2, 20: 5, 19: 6, 124: 201, 119: 206, 224: 0, 219: 0}
    # A spine with L6 and T13 has two numbers more below T12.
    assert instances_to_spider([25, 24, 20, 28, 19, 128]) == {25: 1, 24: 2, 20: 6, 28: 7, 19: 8, 128: 207}
    # A disc may be the lowest that is seen of a level.
    assert instances_to_spider([124, 23]) == {124: 201, 23: 2}
    assert instances_to_spider([26, 224]) == {26: 0, 224: 0}
    assert instances_to_spider([26, 24, 23], lowest="S1") == {26: 1, 24: 2, 23: 3}
    assert instances_to_spider([24, 23], lowest="L4") == {24: 0, 23: 1}


_SPINES = st.tuples(st.sampled_from(["L4", "L5", "L6"]), st.sampled_from([11, 12, 13]), st.integers(1, 20))


@given(_SPINES, st.sampled_from(["bottom-up", "top-down"]))
def test_round_trip_of_ids(spine: tuple[str, int, int], order: str) -> None:
    lowest, thoracic, count = spine
    ids = [*range(1, count + 1), *range(201, 201 + count)]
    there = spider_table(ids, order=order, lowest=lowest, thoracic=thoracic)  # type: ignore[arg-type]
    back = instances_to_spider(list(there.values()), lowest=lowest, thoracic=thoracic)
    expected = counted_from_below(ids, order)  # type: ignore[arg-type]
    assert {number: back[there[number]] for number in ids} == expected
    assert len(set(there.values())) == len(ids)


@given(st.integers(1, 25))
def test_classes_of_levels_come_back(levels: int) -> None:
    labels, table, back = levels_labels(levels), levels_table(levels), levels_to_spider(levels)
    assert list(labels.values()) == list(range(1, 2 * levels + 2))
    assert sorted(set(table.values())) == list(labels.values())
    assert all(is_known(number) for number in table)
    assert {label: table[number] for label, number in back.items()} == {label: label for label in labels.values()}
    assert labels["canal"] == table[100]
    assert labels["disc_1"] == table[201]
    assert labels["vertebra_1"] == table[1] == table[101]
