"""Structures that a first prediction got wrong must not ruin the map, and little of them must be said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.harmonize.curves import ALL, CaseFacts, channel_facts
from nnunet_spine_ext.harmonize.matching import MatchMethod, MatchSettings, match
from nnunet_spine_ext.harmonize.reference import ChannelReference, average_curves, reference_of

SHAPE = (64, 72, 72)
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])


def scan(seed: int = 0, gamma: float = 1.0) -> tuple[Volume, dict[str, Array]]:
    """Return a body (R, A, S) whose upper half is lit twice as much, with bone, discs and a cord, and their masks."""
    rng = np.random.default_rng(seed)
    fat, muscle, bone, disc, cord = np.asarray([420, 150, 260, 60, 700]) * rng.normal(1, 0.02 * (seed > 0), 5)
    values = np.full(SHAPE, 6.0)
    values[6:58, 6:66, 3:69] = fat
    values[10:54, 10:60, 3:69] = muscle
    masks = {name: np.zeros(SHAPE, np.float32) for name in ("corpus", "disc", "cord")}
    masks["corpus"][26:38, 30:42, 4:68] = 1
    for k in range(10, 68, 10):
        masks["disc"][26:38, 30:42, k : k + 3] = 1
    masks["corpus"] -= masks["disc"]
    masks["cord"][29:35, 23:29, 4:68] = 1
    for name, value in (("corpus", bone), ("disc", disc), ("cord", cord)):
        values[masks[name] > 0] = value
    values[6:58, 6:66, 3:69] *= np.linspace(0.6, 1.8, 66)
    values *= rng.normal(1, 0.1, SHAPE)
    noisy = np.hypot(values + rng.normal(0, 4, SHAPE), rng.normal(0, 4, SHAPE))
    return Volume((1000 * (noisy / 1000) ** gamma).astype(np.float32), AFFINE), masks


def content_of(*cases: tuple[Volume, dict[str, Array]], scales: tuple[float, ...] = ()) -> dict[str, Any]:
    scaled = [
        (image.with_array(image.array * scale), masks)
        for (image, masks), scale in zip(cases, scales or (1.0,) * len(cases), strict=True)
    ]
    facts = {f"c{k}": CaseFacts((channel_facts(*case, samples=ALL),), (3.0, 3.0, 3.0)) for k, case in enumerate(scaled)}
    content = average_curves(facts)
    assert content is not None
    return content


def read(*contents: dict[str, Any]) -> ChannelReference:
    stored = {str(k): content for k, content in enumerate(contents)}
    found = reference_of({"spine_ext": {"reference": stored}}, list(stored))
    assert found is not None
    return found.channels[0]


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    return content_of(*(scan(seed) for seed in range(1, 4)))


@pytest.fixture(scope="module")
def reference(content: dict[str, Any]) -> ChannelReference:
    return read(content)


def blob(where: tuple[int, int, int], size: tuple[int, int, int]) -> Array:
    mask = np.zeros(SHAPE, np.float32)
    mask[tuple(slice(a, a + n) for a, n in zip(where, size, strict=True))] = 1
    return mask


@pytest.fixture(scope="module")
def cord_only() -> ChannelReference:
    """Return the reference of a model that knows the cord alone."""
    scans = [(image, {"cord": masks["cord"]}) for image, masks in (scan(seed) for seed in range(1, 4))]
    return read(content_of(*scans))


def error(
    image: Volume,
    truth: Volume,
    known: ChannelReference,
    method: MatchMethod,
    posteriors: dict[str, Array] | None = None,
) -> tuple[float, float, list[str]]:
    """Return the error in standard deviations of the body, the confidence and the codes of warnings."""
    found = match(image, known, MatchSettings(method, skip_in_distribution=False), posteriors=posteriors)
    body = truth.array > 50
    off = (found.image.array - truth.array)[body]
    codes = [warning.code for warning in found.warnings]
    return float(np.sqrt((off**2).mean()) / truth.array[body].std()), found.confidence, codes


FALSE = {
    "a crumb": ((52, 60, 60), (5, 5, 6)),
    "a crumb in a corner": ((6, 6, 3), (4, 4, 4)),
    "a slab of fat": ((10, 7, 10), (40, 3, 40)),
    "much fat": ((7, 7, 5), (50, 3, 60)),
    "the rim": ((6, 20, 10), (4, 30, 40)),
    "muscle": ((12, 14, 10), (12, 10, 40)),
    "air": ((0, 0, 0), (5, 72, 72)),
}


@pytest.mark.parametrize("gamma", [0.6, 1.5])
@pytest.mark.parametrize("name", ["corpus", "disc", "cord"])
@pytest.mark.parametrize("place", list(FALSE))
def test_one_false_mask_among_right_ones_is_harmless(
    place: str, name: str, gamma: float, reference: ChannelReference
) -> None:
    truth, masks = scan()
    other = scan(0, gamma)[0]
    alone, _, _ = error(other, truth, reference, "body")
    found, confidence, codes = error(other, truth, reference, "anchored", {**masks, name: blob(*FALSE[place])})
    assert found < alone + 0.03
    # A cord as dark as air turns the order of structures, and then the body decides.
    assert confidence == 1 or "W-MATCH-ORDER" in codes


@pytest.mark.parametrize("place", list(FALSE))
def test_a_false_mask_without_others_decides_little(place: str, cord_only: ChannelReference) -> None:
    truth, _ = scan()
    other = scan(0, 0.6)[0]
    alone, _, _ = error(other, truth, cord_only, "body")
    found, confidence, codes = error(other, truth, cord_only, "anchored", {"cord": blob(*FALSE[place])})
    assert found < alone + 0.03
    assert confidence < 0.5
    assert confidence > 0 or "W-MATCH-ANCHORS" in codes


@pytest.mark.parametrize("gamma", [0.6, 1.5])
@pytest.mark.parametrize("only_cord", [True, False])
def test_right_masks_do_better_than_the_body(
    only_cord: bool, gamma: float, reference: ChannelReference, cord_only: ChannelReference
) -> None:
    truth, masks = scan()
    other = scan(0, gamma)[0]
    known, given = (cord_only, {"cord": masks["cord"]}) if only_cord else (reference, masks)
    alone, _, _ = error(other, truth, known, "body")
    found, confidence, codes = error(other, truth, known, "anchored", given)
    assert found < alone - 0.005
    assert confidence == 1
    assert set(codes) <= {"W-MATCH-FAR"}


def test_structures_that_agree_with_each_other_outvote_a_body_of_other_tissue(reference: ChannelReference) -> None:
    truth, masks = scan()
    other = scan(0, 0.6)[0]
    box = (slice(14, 50), slice(12, 50), slice(10, 62))
    truth, other = (Volume(np.ascontiguousarray(image.array[box]), AFFINE) for image in (truth, other))
    inside = {name: np.ascontiguousarray(mask[box]) for name, mask in masks.items()}
    alone, _, _ = error(other, truth, reference, "body")
    right, confidence, _ = error(other, truth, reference, "anchored", inside)
    assert right < 0.3 * alone
    assert confidence == 1
    inside["cord"] = np.ascontiguousarray(blob((14, 40, 14), (30, 8, 20))[box])
    wrong, confidence, _ = error(other, truth, reference, "anchored", inside)
    assert wrong < 0.85 * alone
    assert confidence == 1


def test_little_of_one_structure_decides_little(reference: ChannelReference) -> None:
    image, masks = scan(0, 0.6)
    nothing = np.zeros(SHAPE, np.float32)
    few = {"cord": blob((30, 24, 30), (5, 5, 4)), "corpus": nothing, "disc": nothing}
    assert match(image, reference, MatchSettings("anchored"), posteriors=few).confidence < 0.5
    assert match(image, reference, MatchSettings("anchored"), posteriors=masks).confidence == 1
