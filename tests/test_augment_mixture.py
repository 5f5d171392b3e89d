"""Gaussian mixtures on histograms: they find what expectation-maximisation on the voxels finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from augment_checks import images, keys, label_map, pipeline
from numpy.typing import NDArray

from nnunet_spine_ext.augment import table_classes, table_mixture, table_ops
from nnunet_spine_ext.augment.table_axis import axis_on, positions

Parts = tuple[tuple[float, float, float], ...]
CPU = torch.device("cpu")
# Share, mean and standard deviation of air, muscle and fat; the middle of two means is no good border.
PARTS: Parts = ((0.6, 0.02, 0.012), (0.25, 0.35, 0.06), (0.15, 0.8, 0.12))
FOUR: Parts = ((0.4, 0.02, 0.012), (0.25, 0.3, 0.04), (0.2, 0.6, 0.05), (0.15, 0.95, 0.06))


def _voxels(parts: Parts = PARTS, count: int = 60000) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    part = rng.choice(len(parts), size=count, p=[share for share, _, _ in parts])
    means, sds = (np.array(column)[part] for column in list(zip(*parts, strict=True))[1:])
    return np.abs(means + sds * rng.standard_normal(count)), part


def _distribution(values: NDArray[np.float64]) -> table_ops.Distribution:
    sample = torch.from_numpy(values.astype(np.float32))[None]
    one, zero = torch.ones(1), torch.zeros(1)
    scale, offset = positions(zero, one)
    counts = table_ops.histogram(torch.addcmul(offset[:, None], sample, scale[:, None]), None, 1)
    return table_ops.Distribution(axis_on(CPU).expand(1, 1, -1), counts)


def _reference(values: NDArray[np.float64], count: int, rounds: int = 60) -> tuple[NDArray[np.float64], ...]:
    """Expectation-maximisation on the voxels themselves, in double precision."""
    mean = values.max() * (np.arange(count) + 0.5) / count
    sd, weight = np.full(count, values.std() / count), np.full(count, 1 / count)
    for _ in range(rounds):
        density = weight / sd * np.exp(-0.5 * ((values[:, None] - mean) / sd) ** 2) + 1e-300
        likely = density / density.sum(axis=1, keepdims=True)
        total = likely.sum(axis=0)
        mean = (likely * values[:, None]).sum(axis=0) / total
        sd = np.sqrt((likely * (values[:, None] - mean) ** 2).sum(axis=0) / total).clip(0.002)
        weight = total / len(values)
    order = np.argsort(mean)
    return mean[order], sd[order], weight[order]


def _assign(values: NDArray[np.float64], borders: torch.Tensor, distribution: table_ops.Distribution) -> NDArray:
    places = distribution.position(torch.from_numpy(values.astype(np.float32))[None, None])[0, 0].numpy()
    return np.searchsorted(borders[0].numpy(), places)


def test_a_mixture_finds_the_tissues_better_than_k_means() -> None:
    values, part = _voxels()
    distribution, count = _distribution(values), torch.tensor([3.0])
    means, borders = table_mixture.fit(distribution, count, 3)
    width = float(distribution.width) / table_ops.BINS
    found = (means[0] * width + float(distribution.low)).numpy()
    assert found == pytest.approx([mean for _, mean, _ in PARTS], abs=0.01)
    centres = table_classes.centres(distribution, count, 3)
    shares = [
        (_assign(values, b, distribution) == part).mean() for b in (borders, (centres[:, 1:] + centres[:, :-1]) / 2)
    ]
    assert shares[0] > 0.995
    assert 1 - shares[0] < 0.5 * (1 - shares[1])


@pytest.mark.parametrize("parts", [PARTS, FOUR], ids=["three", "four"])
def test_it_agrees_with_the_algorithm_on_voxels(parts: Parts) -> None:
    values, _ = _voxels(parts)
    count = len(parts)
    mean, sd, weight = _reference(values, count)
    density = weight / sd * np.exp(-0.5 * ((values[:, None] - mean) / sd) ** 2)
    distribution = _distribution(values)
    _, borders = table_mixture.fit(distribution, torch.tensor([float(count)]), count)
    assert (_assign(values, borders, distribution) == density.argmax(axis=1)).mean() > 0.99


def test_classes_that_a_table_does_not_have_stay_out_of_reach() -> None:
    values, _ = _voxels()
    distribution = _distribution(np.concatenate([values]))
    few, _ = table_mixture.fit(distribution, torch.tensor([2.0]), 5)
    same, _ = table_mixture.fit(distribution, torch.tensor([2.0]), 2)
    torch.testing.assert_close(few[:, :2], same)
    assert (few[:, 2:] > 1e5).all()


@pytest.mark.parametrize("kind", ["constant", "two", "empty"])
def test_histograms_without_a_mixture_stay_finite(kind: str) -> None:
    values = {"constant": np.full(500, 0.3), "two": np.repeat([0.1, 0.9], 250), "empty": np.zeros(0)}[kind]
    distribution = _distribution(values)
    means, borders = table_mixture.fit(distribution, torch.tensor([6.0]), 6)
    assert means.isfinite().all()
    assert borders.isfinite().all()
    assert (means.diff(dim=1) >= 0).all()
    assert (borders.diff(dim=1) >= 0).all()


@pytest.mark.parametrize("name", ["palette", "gaussian_mixture", "region_palette"])
def test_both_clusterings_are_settings(name: str) -> None:
    image, labels = images(2), label_map(2)
    results = [pipeline({"name": name, "clustering": c})(image, labels, keys(2))[0] for c in ("em", "kmeans")]
    assert not torch.equal(*results)
    assert all(result.isfinite().all() for result in results)
