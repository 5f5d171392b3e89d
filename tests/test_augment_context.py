"""The facts about the patches, and what cannot be meant."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.core.errors import UsageError


def test_labels_are_sorted_and_hold_zero() -> None:
    context = Context(shape=(4, 8, 8), spacing=(3, 1, 1), labels=(5, 2))
    assert context.labels == (0, 2, 5)
    assert context.foreground == (2, 5)
    assert context.rows([5, 7, 0]) == [2, 0]
    assert context.extent == (12, 8, 8)
    assert context.source == (4, 8, 8)


def test_facts_read_back_from_json() -> None:
    context = Context((4, 8, 8), (3, 1, 1), (6, 9, 9), 2, (1, 2), ((1, 2),), 2)
    assert Context(**json.loads(json.dumps(context.to_dict()))) == context


@pytest.mark.parametrize(
    "facts",
    [
        {"shape": (4,), "spacing": (1,)},
        {"shape": (4, 0), "spacing": (1, 1)},
        {"shape": (4, 4), "spacing": (1, 1, 1)},
        {"shape": (4, 4), "spacing": ()},
        {"shape": (4, 4), "spacing": (1, 0)},
        {"shape": (4, 4), "spacing": (1, float("nan"))},
        {"shape": (4, 4), "spacing": (1, 1), "source_shape": (4, 3)},
        {"shape": (4, 4), "spacing": (1, 1), "channels": 0},
        {"shape": (4, 4), "spacing": (1, 1), "labels": (-1, 2)},
        {"shape": (4, 4), "spacing": (1, 1), "left_right_axis": 2},
        {"shape": (4, 4), "spacing": (1, 1), "strength": -0.5},
    ],
)
def test_impossible_facts_are_an_error(facts: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="E-AUG-CONTEXT"):
        Context(**facts)
