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


def test_quantised_images_have_as_many_values_as_bits_allow() -> None:
    image = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 4 - 1
    facts = context((32, 32))
    line = pipeline({"name": "quantise", "bits": 4, "used": 0.5}, facts=facts)
    result, _ = line(image, None, keys(1))
    values = result.unique()
    assert 8 <= len(values) <= 10
    steps = values.diff()
    torch.testing.assert_close(steps, steps[:1].expand_as(steps))
    assert (result - image).abs().max() <= steps[0] / 2 + 1e-6


def test_what_is_beyond_the_range_is_cut_off() -> None:
    image = torch.linspace(0, 1, 1024).reshape(1, 1, 32, 32)
    image[..., -1, -1] = 5.0
    line = pipeline({"name": "quantise", "bits": 8, "used": 0.5}, facts=context((32, 32)))
    result, _ = line(image, None, keys(1))
    assert result.max().item() == pytest.approx(2 * float(image.flatten().quantile(0.995)), rel=0.05)


def test_gradients_pass_rounding() -> None:
    image = torch.rand(1, 1, 32, 32, requires_grad=True)
    line = pipeline({"name": "quantise", "bits": 4}, facts=context((32, 32)))
    line(image, None, keys(1))[0].sum().backward()
    assert torch.equal(image.grad, torch.ones_like(image))  # type: ignore[arg-type]
