"""Distances between domains: zero for equal ones, free of scale, finite; a loss that counts domains alike."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from nnunet_spine_ext.losses.domain import DISTANCES, balanced_cross_entropy, coral_distance, mmd_distance, unshared

DOMAINS = torch.tensor([0, 1])
each = pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)


def features(stretch: float = 1.0, *, seed: int = 0) -> torch.Tensor:
    """Two samples of five correlated channels; those of the second are stretched along one of them."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(2, 5, 6, 7, 8, generator=generator)
    values[:, 1] += values[:, 0]
    values[1, 2] *= stretch
    return values


@each
def test_more_different_is_farther_and_scale_does_not_matter(distance: Callable[..., torch.Tensor]) -> None:
    found = [float(distance(features(s), DOMAINS, voxels=4096)) for s in (1.0, 2.0, 4.0)]
    assert 0 <= found[0] < found[1] < found[2]
    assert found[0] < 0.05
    scaled = float(distance(features(2.0) * 1e-2, DOMAINS, voxels=4096))
    assert scaled == pytest.approx(found[1], rel=1e-3), "smaller features are not nearer"


@each
def test_equal_domains_have_no_distance_and_one_domain_gives_zero(distance: Callable[..., torch.Tensor]) -> None:
    same = features()
    same[1] = same[0]
    same.requires_grad_()
    value = distance(same, DOMAINS)
    assert float(value) == pytest.approx(0, abs=1e-6)
    alone = distance(same, torch.tensor([1, 1]))
    alone.backward()
    assert float(alone) == 0
    assert torch.equal(same.grad, torch.zeros_like(same))  # type: ignore[arg-type]


@each
@pytest.mark.parametrize("values", ["constant", "zero", "huge"])
def test_degenerate_features_have_finite_gradients(distance: Callable[..., torch.Tensor], values: str) -> None:
    made = {"constant": torch.ones(2, 3, 4, 4), "zero": torch.zeros(2, 3, 4, 4), "huge": torch.randn(2, 3, 4, 4) * 1e4}
    given = made[values].requires_grad_()
    value = distance(given, DOMAINS)
    value.backward()
    assert math.isfinite(float(value))
    assert torch.isfinite(given.grad).all()  # type: ignore[arg-type]


@each
def test_gradients_are_right(distance: Callable[..., torch.Tensor]) -> None:
    # In single precision inside: compare a directional derivative, not every number.
    given = features(3.0)[:, :, :3, :3, :3].contiguous().requires_grad_()
    distance(given, DOMAINS).backward()
    direction = torch.randn(given.shape, generator=torch.Generator().manual_seed(1))
    step = 1e-2
    with torch.no_grad():
        ahead, behind = (float(distance(given + s * step * direction, DOMAINS)) for s in (1, -1))
    predicted = float((given.grad * direction).sum())  # type: ignore[operator]
    # The median that scales the kernels is taken for a constant.
    assert predicted == pytest.approx((ahead - behind) / (2 * step), rel=0.1, abs=2e-4)


def test_several_domains_are_compared_in_pairs() -> None:
    three = torch.cat((features(4.0), features(1.0)[:1]))
    numbers = torch.tensor([0, 1, 2])
    pairs = [three[[0, 1]], three[[0, 2]], three[[1, 2]]]
    for distance in (coral_distance, mmd_distance):
        expected = sum(float(distance(pair, DOMAINS)) for pair in pairs) / 3
        assert float(distance(three, numbers)) == pytest.approx(expected, rel=1e-4)


def test_every_domain_counts_the_same() -> None:
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.5, 0.0]])
    few = torch.tensor([0, 0, 0, 1])
    losses = torch.nn.functional.cross_entropy(logits, few, reduction="none")
    expected = (losses[:3].mean() + losses[3]) / 2
    assert torch.allclose(balanced_cross_entropy(logits, few), expected)
    weights = torch.tensor([1.0, 0.0, 0.0, 5.0])
    assert torch.allclose(balanced_cross_entropy(logits, few, weights=weights), (losses[0] + losses[3]) / 2)
    smooth = balanced_cross_entropy(torch.tensor([[50.0, -50.0]]), torch.tensor([0]), label_smoothing=0.1)
    assert float(smooth) == pytest.approx(0.05 * 100, rel=1e-3), "certainty costs something"


def test_the_share_within_pairs_is_that_of_an_analysis_of_variance() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=(9, 4)) * np.array([1, 5, 0.1, 2])
    second = first + rng.normal(size=first.shape) * np.array([0.1, 5, 0.1, 0])
    shares = []
    for a, b in zip(first.T, second.T, strict=True):
        within = sum((x - (x + y) / 2) ** 2 + (y - (x + y) / 2) ** 2 for x, y in zip(a, b, strict=True))
        grand = (a.sum() + b.sum()) / (2 * len(a))
        between = sum(2 * ((x + y) / 2 - grand) ** 2 for x, y in zip(a, b, strict=True))
        shares.append(within / (within + between))
    tensors = torch.from_numpy(first), torch.from_numpy(second)
    assert float(unshared(*tensors)) == pytest.approx(np.mean(shares))
    assert float(unshared(*(1e-3 * t + 7 for t in tensors))) == pytest.approx(np.mean(shares), rel=1e-4)
    assert float(unshared(tensors[0], tensors[0])) == 0
    assert float(unshared(tensors[0], 2 * tensors[0].mean(dim=0) - tensors[0])) == pytest.approx(1)


@pytest.mark.parametrize("count", [2, 5, 50])
def test_alike_only_by_chance_is_about_one_half(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, count, 20000, generator=generator)
    assert float(unshared(first, second)) == pytest.approx(count / (2 * count - 1), abs=0.01)


def test_the_share_within_pairs_has_the_right_gradient_and_is_finite() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(5, 3, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(unshared, (first, second))
    constant = torch.ones(5, 3, requires_grad=True)
    value = unshared(constant, torch.ones(5, 3))
    value.backward()
    assert float(value.detach()) == 0
    assert torch.isfinite(constant.grad).all()  # type: ignore[arg-type]
    for sides in ((first[:1], second[:1]), (first, second[:4])):
        with pytest.raises(ValueError, match="2 pairs or more"):
            unshared(*sides)
