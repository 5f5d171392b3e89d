"""Up to where a scan is in distribution: scans of the training scanner are left alone, others are matched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.harmonize.curves import CaseFacts, channel_facts
from nnunet_spine_ext.harmonize.distribution import DistributionScore, ood_score
from nnunet_spine_ext.harmonize.limit import LEAST, prediction_limit
from nnunet_spine_ext.harmonize.matching import MatchMethod, MatchSettings, kind_warnings, match
from nnunet_spine_ext.harmonize.reference import ChannelReference, average_curves, reference_of

AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])
SHAPE = (40, 36, 12)


def person(seed: int) -> Volume:
    """Return a scan of one scanner: the same tissues in everybody, more or less fat, in air."""
    rng = np.random.default_rng(seed)
    values = np.full(SHAPE, 5.0)
    values[4:36, 4:32] = 420
    fat = int(rng.integers(2, 9))
    values[4 + fat : 36 - fat, 6:30] = 150
    values[16:24, 6:30] = 260
    values[25:28, 6:30] = 800
    noisy = np.hypot(values * rng.normal(1, 0.1, SHAPE) + rng.normal(0, 4, SHAPE), rng.normal(0, 4, SHAPE))
    return Volume(noisy.astype(np.float32), AFFINE)


def content_of(images: list[Volume]) -> dict[str, Any]:
    facts = {f"c{k}": CaseFacts((channel_facts(image),), (4.0, 4.0, 4.0)) for k, image in enumerate(images)}
    content = average_curves(facts)
    assert content is not None
    return content


def channel(content: dict[str, Any]) -> ChannelReference:
    found = reference_of({"spine_ext": {"reference": {"0": content}}}, [0])
    assert found is not None
    return found.channels[0]


@pytest.fixture(scope="module")
def people() -> list[Volume]:
    return [person(seed) for seed in range(40)]


@pytest.mark.parametrize(("scans", "highest"), [(3, 0.02), (5, 0.02), (20, 0.02)])
def test_about_one_new_scan_in_a_hundred_exceeds_the_limit(scans: int, highest: float) -> None:
    rng = np.random.default_rng(scans)
    beyond, beyond_percentile = [], []
    for _ in range(400):
        distances = np.exp(rng.normal(-3, 0.55, scans + 50))
        known, new = distances[:scans], distances[scans:]
        beyond.append((new > prediction_limit(known)).mean())
        beyond_percentile.append((new > np.quantile(known, 0.95)).mean())
    assert 0.001 < np.mean(beyond) < highest
    assert np.mean(beyond_percentile) > 0.06, "the 95th percentile is none"


def test_the_limit_is_a_multiple_of_the_distances_and_never_next_to_nothing() -> None:
    known = [0.02, 0.03, 0.05, 0.04]
    assert prediction_limit(np.multiply(known, 3)) == pytest.approx(3 * prediction_limit(known))
    assert prediction_limit(known, risk=0.05) < prediction_limit(known) < prediction_limit(known, risk=0.001)
    assert prediction_limit([0.04, 0.04]) > prediction_limit([0.04] * 20) > 0.04, "few scans tell less"
    assert prediction_limit([0.0, 0.0, 0.0]) == LEAST


def test_people_with_more_fat_are_left_alone_and_other_scanners_are_not(people: list[Volume]) -> None:
    reference = channel(content_of(people[:12]))
    assert reference.limit is not None
    assert reference.distance is not None
    assert reference.limit > reference.distance
    assert all(match(image, reference, MatchSettings()).skipped for image in people[12:])
    beyond = [image for image in people[12:] if ood_score(image, reference).body > reference.distance]
    assert beyond, "the 95th percentile took some for another scanner"
    for image in people[12:16]:
        # Fluid becomes the darkest tissue: not what any of the training scans looked like.
        turned = image.with_array(np.where(image.array > 30, 900 - image.array, image.array).clip(1))
        assert not match(turned, reference, MatchSettings()).skipped


def test_a_reference_of_an_earlier_version_keeps_its_bar(people: list[Volume]) -> None:
    content = content_of(people[:8])
    del content["channels"][0]["limit"]
    older = channel(content)
    assert (older.limit, older.bar) == (None, older.distance)
    assert ood_score(people[0], older).bar == older.distance
    assert channel(content_of(people[:1])).bar is None


def test_another_kind_of_scan_is_told_by_the_training_scans_not_by_the_limit(people: list[Volume]) -> None:
    reference = channel(content_of(people[:8]))
    inverse = people[9].with_array(np.where(people[9].array > 30, 900 - people[9].array, people[9].array).clip(1))
    score = ood_score(inverse, reference)
    assert reference.distance is not None
    assert reference.limit is not None
    assert score.body > 3 * reference.distance
    assert [problem.code for problem in kind_warnings(score, reference)] == ["W-MATCH-FAR"]


def test_a_scan_in_distribution_is_not_far(people: list[Volume]) -> None:
    # Of two training scans the limit is five times as far as nearly all of them are.
    reference = channel(content_of(people[:2]))
    assert reference.distance is not None
    assert reference.limit is not None
    assert reference.limit > 4 * reference.distance
    within, beyond = (DistributionScore(factor * reference.limit, {}, reference.bar) for factor in (0.9, 1.1))
    assert kind_warnings(within, reference) == []
    assert [problem.code for problem in kind_warnings(beyond, reference)] == ["W-MATCH-FAR"]


@pytest.mark.parametrize("method", ["body", "nyul", "cdf"])
def test_a_map_never_brings_a_scan_farther_away(method: MatchMethod, people: list[Volume]) -> None:
    reference = channel(content_of(people[:1]))
    moved = Volume(2.3 * people[0].array + 40, AFFINE)
    result = match(moved, reference, MatchSettings(method))
    assert result.before is not None
    assert result.after is not None
    assert result.after.body <= result.before.body
    if method == "body":
        # Its few knots miss the quantiles of a scan that is the training scan but for scale: the map is a straight one.
        knots = np.asarray(result.knots)
        slopes = np.diff(knots[:, 1]) / np.diff(knots[:, 0])
        assert np.allclose(slopes, 1 / 2.3, rtol=1e-3)
