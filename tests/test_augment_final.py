"""The last stage gives back what mean and standard deviation were, or those asked for."""

from __future__ import annotations

import pytest
import torch
from augment_checks import context, images, keys, pipeline

SHAPE = (16, 40, 40)
FACTS = context(SHAPE)


def test_statistics_of_the_input_come_back() -> None:
    image = images(2, SHAPE)
    line = pipeline(
        {"name": "brightness", "factor": 3.0}, {"name": "rician_noise", "sigma": 0.2}, "renormalise", facts=FACTS
    )
    result, _ = line(image, None, keys(2))
    for before, after in zip(image, result, strict=True):
        assert after.mean().item() == pytest.approx(before.mean().item(), abs=0.01)
        assert after.std().item() == pytest.approx(before.std().item(), rel=0.01)


def test_statistics_near_those_of_the_input() -> None:
    image = images(2, SHAPE)
    line = pipeline("gamma", {"name": "renormalise", "shift": 0.5, "gain": 1.25}, facts=FACTS)
    result, _ = line(image, None, keys(2))
    for before, after in zip(image, result, strict=True):
        assert after.mean().item() == pytest.approx((before.mean() + 0.5 * before.std()).item(), abs=0.01)
        assert after.std().item() == pytest.approx(1.25 * before.std().item(), rel=0.01)


def test_a_z_score() -> None:
    line = pipeline("gamma", {"name": "renormalise", "to": "values"}, facts=FACTS)
    result, _ = line(images(2, SHAPE) * 50 + 300, None, keys(2))
    assert result.mean(dim=(1, 2, 3, 4)).tolist() == pytest.approx([0, 0], abs=0.01)
    assert result.std(dim=(1, 2, 3, 4)).tolist() == pytest.approx([1, 1], rel=0.01)


def test_only_the_samples_that_asked_for_it() -> None:
    image = images(8, SHAPE)
    line = pipeline({"name": "renormalise", "to": "values", "p": 0.5}, facts=FACTS)
    plan = line.plan(keys(8))
    result, _ = line.apply(image, None, plan)
    for index, applied in enumerate(plan.samples):
        assert torch.equal(result[index], image[index]) == (not applied)


def test_a_flat_image_becomes_flat_at_the_mean() -> None:
    line = pipeline({"name": "renormalise", "to": "values", "mean": 2.0}, facts=FACTS)
    result, _ = line(torch.full((1, 1, *SHAPE), 5.0), None, keys(1))
    torch.testing.assert_close(result, torch.full_like(result, 2.0))
