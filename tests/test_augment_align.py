"""Steps of several tables that share operations: in everybody's own order, and as few as two chains allow."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from augment_checks import context, images, keys, label_map

from nnunet_spine_ext.augment.pipeline import Pipeline
from nnunet_spine_ext.augment.table_align import line_up

NAMES = ("contrast", "equalise", "clamp", "signal_equations", "redistribute", "palette")


def _shortest(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    """Return the length of the shortest common supersequence: all less what the two share in order."""
    shared = max(
        number
        for number in range(len(first) + 1)
        if any(set(itertools.combinations(first, number)) & {chain} for chain in itertools.combinations(second, number))
    )
    return len(first) + len(second) - shared


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_every_chain_keeps_its_order(number: int) -> None:
    rng = random.Random(number)
    for _ in range(50):
        chains = [tuple(rng.choices("abcd", k=rng.randint(0, 6))) for _ in range(number)]
        operations = line_up(chains)
        for index, chain in enumerate(chains):
            steps = [(kind, places[index]) for kind, places in operations if index in places]
            assert steps == list(zip(chain, range(len(chain)), strict=True))
        if number == 2:
            assert len(operations) == _shortest(*chains)


def test_chains_in_another_order_share_what_they_can() -> None:
    operations = line_up([("a", "b", "c"), ("b", "c", "a")])
    assert operations == [("a", {0: 0}), ("b", {0: 1, 1: 0}), ("c", {0: 2, 1: 1}), ("a", {1: 2})]
    assert line_up([(), ()]) == []


@pytest.mark.parametrize("seed", range(6))
def test_whom_a_sample_shares_operations_with_changes_nothing(seed: int) -> None:
    shape = (12, 20, 16)
    config = {"order": "random", "transforms": [{"name": name, "p": 1.0, "retain_stats": True} for name in NAMES]}
    line = Pipeline(config, context(shape))
    image, labels, three = images(3, shape), label_map(3, shape), keys(3, seed)
    together = line(image, labels, three)[0]
    for index in range(3):
        part = slice(index, index + 1)
        assert torch.equal(line(image[part], labels[part], three[part])[0], together[part])
