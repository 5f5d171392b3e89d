"""Tables: exact where nothing changes, accurate where something does, and as cheap for 50 labels as for 4."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from augment_checks import DispatchCounter, context, images, keys, label_map, pipeline
from torch import Tensor

from nnunet_spine_ext.augment import table_ops
from nnunet_spine_ext.augment.batch import SAMPLE_VOXELS, measure_levels, thin
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.augment.pipeline import Pipeline
from nnunet_spine_ext.augment.table_axis import AXIS, HIGH, LOW, NODES, on_unit, pieces, positions
from nnunet_spine_ext.augment.table_classes import centres, repaint
from nnunet_spine_ext.augment.table_lookup import Rows, Tables, apply_tables

KEYS = [SampleKey(0, "c", 0, 0)]


def _signal(image: Tensor) -> Tensor:
    """Return an image in units of its signal."""
    levels = measure_levels(thin(image, SAMPLE_VOXELS))
    shape = (*levels.air.shape, *[1] * (image.dim() - 2))
    return (image - levels.air.view(shape)) / levels.span.view(shape)


def _through(change: Tensor, image: Tensor, air: float, span: float) -> Tensor:
    levels = torch.tensor([air]), torch.tensor([span])
    scale, offset = positions(*levels)
    return apply_tables(image[None], None, Tables(pieces(change, *levels)[None], scale, offset), None)[0]


def test_a_table_without_change_is_the_identity_bit_by_bit() -> None:
    image = torch.randn(10_000) * 3 + 1e3
    assert torch.equal(_through(torch.zeros(1, NODES), image, 999.0, 5.0), image)


def test_a_table_is_linear_between_and_beyond_its_nodes() -> None:
    u = torch.linspace(LOW - 1, HIGH + 1, 4001)
    change = torch.from_numpy(0.5 * AXIS + 0.2)[None].float()
    torch.testing.assert_close(_through(change, u * 2 - 1, -1.0, 2.0), (1.5 * u + 0.2) * 2 - 1, rtol=0, atol=1e-4)


def test_a_curve_is_accurate_to_a_hundredth_of_a_percent_of_the_signal() -> None:
    u = torch.linspace(0, 1.5, 5000)
    change = torch.from_numpy(on_unit(lambda v: v**1.4)(AXIS) - AXIS)[None].float()
    inside = u <= 1
    torch.testing.assert_close(_through(change, u, 0.0, 1.0)[inside], u[inside] ** 1.4, rtol=0, atol=1e-4)


def test_slopes_at_the_ends_are_bounded() -> None:
    change = torch.zeros(1, NODES)
    change[0, -1], change[0, 0] = 8.0, -8.0
    far = _through(change, torch.tensor([-1e3, 1e3]), 0.0, 1.0)
    assert (far.abs() < 5e3).all()


def test_batched_and_chunked_lookup_agree() -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn((3, 70_000), generator=generator)
    rows = torch.randint(0, 4, (3, 70_000), generator=generator, dtype=torch.int16)
    noise = torch.randn((3, 70_000), generator=generator)
    air, span = torch.tensor([-2.0, -3.0, -1.0]), torch.tensor([4.0, 5.0, 3.0])
    change = torch.randn((3, 4, NODES), generator=generator).cumsum(-1) * 1e-3
    table = pieces(change.flatten(0, 1), air.repeat_interleave(4), span.repeat_interleave(4)).view(3, 4, -1)
    # Values are continuous at the nodes: it does not show to which side rounding puts a voxel that lies on one.
    quiet = Tables(table, *positions(air, span))
    chunked = apply_tables(image, rows, quiet, None)
    sampled = apply_tables(image.clone().requires_grad_(), rows, quiet, None).detach()
    torch.testing.assert_close(chunked, sampled, rtol=0, atol=2e-6)
    # Noise levels are not: there such a voxel, one in ten thousand at most, has the level of the next segment.
    levels = torch.rand((3, 4, 1), generator=generator) * torch.linspace(0.5, 1, NODES + 1)
    tables = Tables(table, *positions(air, span), levels)
    chunked = apply_tables(image, rows, tables, noise)
    sampled = apply_tables(image.clone().requires_grad_(), rows, tables, noise).detach()
    apart = (chunked - sampled).abs()
    assert (apart > 2e-6).float().mean() < 1e-4
    assert (apart <= noise.abs() * 0.5 / NODES + 2e-6).all()
    # Ids beyond the rows, and those before the first, take the rows at the ends: in both.
    far = torch.where(rows == 3, 40, torch.where(rows == 0, -1, rows)).to(torch.int16)
    assert torch.equal(apply_tables(image, far, tables, noise), chunked)
    assert torch.equal(apply_tables(image.clone().requires_grad_(), far, tables, noise).detach(), sampled)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.float32])
def test_rows_of_labels(dtype: torch.dtype) -> None:
    labels = torch.tensor([-1, 0, 1, 2, 3, 9]).to(dtype)
    assert Rows((0, 1, 2, 3), lambda: torch.zeros(5))(labels).tolist() == [0, 0, 1, 2, 3, 4]
    lookup = torch.tensor([0, 0, 1, 0, 0, 0, 0, 0, 0, 2, 0])
    assert Rows((0, 2, 9), lambda: lookup)(labels).tolist() == [0, 0, 0, 1, 0, 2]


@pytest.mark.parametrize("known", [(0, 1, 2), (0, 2)])
def test_a_label_that_is_not_known_counts_as_not_labelled(known: tuple[int, ...]) -> None:
    image, labels = images(1), label_map(1)
    result, _ = pipeline({"name": "brightness", "where": "in_labels"}, facts=context(labels=known))(image, labels, KEYS)
    unknown = ~torch.isin(labels, torch.tensor(known[1:]))
    assert torch.equal(result[unknown], image[unknown])
    assert (result != image)[~unknown].any()


def test_labels_with_gaps_in_their_ids_work_as_well() -> None:
    image, labels = images(2), label_map(2)
    dense, _ = pipeline({"name": "redistribute", "where": [1, 3]})(image, labels, keys(2))
    ids = torch.tensor([0, 26, 60, 100], dtype=torch.int16)
    gaps = torch.where(labels < 0, labels, ids[labels.clamp_min(0).long()])
    facts = context(labels=(0, 26, 60, 100))
    sparse, _ = pipeline({"name": "redistribute", "where": [26, 100]}, facts=facts)(image, gaps, keys(2))
    assert torch.equal(sparse != image, dense != image)


def test_cost_does_not_depend_on_the_number_of_labels() -> None:
    shape = (32, 64, 64)
    image = torch.rand(1, 1, *shape)
    counts = []
    for number in (6, 50):
        labels = torch.randint(0, number, (1, 1, *shape), dtype=torch.int16)
        facts = Context(shape, (1, 1, 1), labels=range(number))
        line = Pipeline({"transforms": [{"name": "brightness", "p": 1, "where": "in_labels"}]}, facts)
        plan = line.plan(KEYS)
        # The axis of a table of this size is made once.
        line.apply(image, labels, plan)
        with DispatchCounter(image.numel()) as counter:
            line.apply(image, labels, plan)
        counts.append(counter.summary())
    assert counts[0]["operations"] == counts[1]["operations"]
    # 131,000 voxels: tables of 50 labels are not negligible here as they are in a patch of a million.
    assert counts[1]["volume_operations"] < counts[0]["volume_operations"] + 3


def test_many_maps_cost_one_lookup() -> None:
    shape = (32, 64, 64)
    image, labels = torch.rand(1, 1, *shape), torch.zeros((1, 1, *shape), dtype=torch.int16)
    facts = Context(shape, (1, 1, 1), labels=range(3))
    names = ("brightness", "gamma", "inverse", "sqrt", "log1p", "sin", "bezier", "contrast", "equalise", "clamp")
    line = Pipeline({"transforms": [{"name": name, "p": 1} for name in names]}, facts)
    with DispatchCounter(image.numel()) as counter:
        line.apply(image, labels, line.plan(KEYS))
    assert counter.operations["index_select"] <= 8
    assert counter.volumes["addcmul"] < 3.6


@pytest.mark.parametrize("gamma", [0.6, 1.7])
def test_gamma_is_a_power_of_the_signal(gamma: float) -> None:
    image = images(1, (16, 32, 32))
    line = pipeline({"name": "gamma", "gamma": gamma, "retain_stats": False}, facts=context((16, 32, 32)))
    result, _ = line(image, None, KEYS)
    u = _signal(image)
    inside = (u > 0.02) & (u < 1)
    # Both in the units of the original: brightest stays brightest.
    levels = measure_levels(thin(image, SAMPLE_VOXELS))
    v = (result - levels.air.item()) / levels.span.item()
    torch.testing.assert_close(v[inside], u[inside] ** gamma, rtol=0, atol=2e-3)


def test_inverse_turns_the_order_round() -> None:
    image = images(1)
    result, _ = pipeline({"name": "inverse", "retain_stats": False})(image, None, KEYS)
    assert torch.corrcoef(torch.stack([image.flatten(), result.flatten()]))[0, 1] < -0.999


def test_brightness_leaves_air_where_it_is() -> None:
    image = images(1)
    result, _ = pipeline({"name": "brightness", "factor": 2.0})(image, None, KEYS)
    air = image[..., : image.shape[-1] // 2]
    levels = measure_levels(thin(image, SAMPLE_VOXELS))
    assert (result[..., : image.shape[-1] // 2] - air).abs().max() < 0.05 * levels.span.item()
    torch.testing.assert_close(_scaled(result, image), 2 * _signal(image), rtol=0, atol=2e-3)


def _scaled(result: Tensor, image: Tensor) -> Tensor:
    levels = measure_levels(thin(image, SAMPLE_VOXELS))
    return (result - levels.air.item()) / levels.span.item()


def test_contrast_stretches_about_the_mean_within_the_range() -> None:
    image = images(1)
    free, _ = pipeline({"name": "contrast", "factor": 1.5, "preserve_range": False})(image, None, KEYS)
    assert free.std() == pytest.approx(1.5 * image.std().item(), rel=0.01)
    assert free.mean() == pytest.approx(image.mean().item(), abs=0.02)
    kept, _ = pipeline({"name": "contrast", "factor": 1.5})(image, None, KEYS)
    assert kept.max() < image.max() + 0.02
    assert kept.min() > image.min() - 0.02


def test_equalisation_flattens_the_histogram() -> None:
    image = (torch.randn(1, 1, 32, 64, 64, generator=torch.Generator().manual_seed(0)).exp()).clamp_max(10)
    settings = {"name": "equalise", "mix": 1.0, "retain_stats": False}
    result, _ = pipeline(settings, facts=context((32, 64, 64)))(image, None, KEYS)
    low, high = np.quantile(result.numpy(), (0.001, 0.999))
    counts, _ = np.histogram(result.numpy(), bins=16, range=(low, high))
    assert counts.max() / counts.mean() < 1.15
    assert counts.min() / counts.mean() > 0.85


def test_clamp_clips_the_shares_asked_for() -> None:
    image = torch.randn(1, 1, 32, 64, 64, generator=torch.Generator().manual_seed(0))
    settings = {"name": "clamp", "low": 0.1, "high": 0.2}
    result, _ = pipeline(settings, facts=context((32, 64, 64)))(image, None, KEYS)
    assert result.min() == pytest.approx(np.quantile(image.numpy(), 0.1), abs=0.03)
    assert result.max() == pytest.approx(np.quantile(image.numpy(), 0.8), abs=0.03)


def test_maps_that_are_monotone_keep_the_order() -> None:
    image = images(1)
    order = image.flatten().argsort()
    for name in ("gamma", "inverse_gamma", "sqrt", "log1p", "exp", "sigmoid", "histogram_shift", "equalise", "bezier"):
        result, _ = pipeline(name)(image, None, KEYS)
        falls = result.flatten()[order].diff().clamp_max(0)
        assert falls.min() > -1e-2, name


def test_histogram_counts_every_voxel_once() -> None:
    position = torch.rand(2, 5000) * (NODES + 40) - 20
    rows = torch.randint(0, 3, (2, 5000))
    counts = table_ops.histogram(position, rows, 3)
    assert counts.shape == (2, 3, NODES)
    assert (counts.sum((1, 2)) == 5000).all()
    assert torch.equal(counts.sum(2), torch.stack([torch.bincount(r, minlength=3) for r in rows]))


def test_statistics_of_rows_and_of_empty_rows() -> None:
    values = torch.arange(6.0).view(1, 2, 3)
    counts = torch.tensor([[[1, 0, 1], [0, 0, 0]]])
    mean, sd = table_ops.statistics(values, counts)
    assert (mean.item(), sd.item()) == (1.0, 1.0)
    rows, _ = table_ops.row_statistics(values, counts)
    assert rows.flatten().tolist() == [1.0, 1.0]
    assert table_ops.statistics(values, counts * 0)[0].item() == 0
    assert table_ops.keep_statistics(values * 0, values, counts * 0).isfinite().all()


def test_matching_gives_each_row_the_quantiles_of_its_target() -> None:
    values = torch.from_numpy(AXIS).float().expand(1, 2, NODES)
    counts = torch.ones(1, 2, NODES, dtype=torch.int64)
    targets = torch.tensor([[[0.0, 0.1, 0.8], [0.5, 0.6, 0.7]]])
    matched = table_ops.match(values, counts, targets)
    torch.testing.assert_close(matched[..., [0, NODES // 2, -1]], targets, rtol=0, atol=0.01)


def test_matching_is_no_steeper_than_texture_bears() -> None:
    """Two bright tissues side by side, to be as far apart as air and fat: their difference is doubled."""
    axis = torch.from_numpy(AXIS).float().view(1, 1, -1)
    counts = ((axis > 0.8) & (axis < 1.0)).to(torch.int64) * 20
    targets = torch.linspace(0, 1, 9).view(1, 1, -1)
    matched = table_ops.match(axis, counts, targets)
    slope = matched.diff(dim=2) / axis.diff(dim=2)
    assert slope.max() < 2.1
    assert slope.min() >= 0
    inside = matched[counts > 0]
    assert inside.median().item() == pytest.approx(0.5, abs=0.03)


def test_matching_leaves_air_to_itself() -> None:
    """A third of the voxels is air, in the target an eighth: those that are too many do not become tissue."""
    axis = torch.from_numpy(AXIS).float().view(1, 1, -1)
    counts = torch.zeros(1, 1, NODES, dtype=torch.int64)
    counts[(axis >= 0) & (axis < 0.04)], counts[(axis > 0.3) & (axis < 0.9)] = 500, 67
    targets = torch.linspace(0.4, 0.6, 9).view(1, 1, -1)
    matched = table_ops.match(axis, counts, targets, torch.ones(1, 1), torch.tensor([0.05]))
    assert torch.equal(matched[axis <= 0.05], axis[axis <= 0.05])
    assert matched.diff(dim=2).max() < 3.2 * (AXIS[1] - AXIS[0])
    assert matched[(axis > 0.3) & (axis < 0.9)].median().item() == pytest.approx(0.5, abs=0.03)
    label = table_ops.match(axis, counts, targets, torch.zeros(1, 1), torch.tensor([0.05]))
    assert label[axis == 0].item() > 0.3


def test_classes_are_found_where_the_voxels_are() -> None:
    values = torch.from_numpy(AXIS).float().view(1, 1, -1)
    counts = torch.zeros(1, 1, NODES, dtype=torch.int64)
    for peak in (100, 400, 800):
        counts[..., peak - 5 : peak + 6] = 50
    distribution = table_ops.Distribution(values, counts)
    found = centres(distribution, torch.tensor([3.0]), 5)
    places = distribution.low[0, 0] + found[0, :3] / table_ops.BINS * distribution.width[0, 0]
    torch.testing.assert_close(places.double(), torch.from_numpy(AXIS[[100, 400, 800]]), rtol=0, atol=0.01)
    assert (found[0, 3:] > 1e5).all()

    means, zeros = torch.tensor([[0.9, 0.1, 0.5]]), torch.zeros(1, 3)
    painted, noise = repaint(values, counts, torch.tensor([3.0]), means, zeros, torch.ones(1), zeros + 0.1)
    torch.testing.assert_close(painted[0, 0, [100, 400, 800]], means[0], rtol=0, atol=0.03)
    assert torch.allclose(noise, torch.tensor(0.1))


def test_classes_that_lie_close_get_similar_means() -> None:
    values = torch.from_numpy(AXIS).float().view(1, 1, -1)
    counts = torch.zeros(1, 1, NODES, dtype=torch.int64)
    counts[..., 300:320] = 50
    zeros = torch.zeros(1, 2)
    means = torch.tensor([[0.0, 1.0]])
    painted, _ = repaint(values, counts, torch.tensor([2.0]), means, zeros, torch.ones(1), zeros)
    assert painted.diff(dim=2).abs().max() < 5.5 * (AXIS[1] - AXIS[0])


def test_what_cuts_a_texture_in_two_is_no_steep_border() -> None:
    """One tissue with much texture, divided into classes in its middle: its voxels are no salt and pepper."""
    values = torch.from_numpy(AXIS).float().view(1, 1, -1)
    counts = torch.zeros(1, 1, NODES, dtype=torch.int64)
    counts[..., 450:600] = 50
    zeros, sharpness = torch.zeros(1, 2), torch.full((1,), 2.0)
    painted, _ = repaint(values, counts, torch.tensor([2.0]), torch.tensor([[0.0, 1.0]]), zeros, sharpness, zeros)
    steps = painted.diff(dim=2).abs().max() / (AXIS[1] - AXIS[0])
    assert 1 < steps < 3
