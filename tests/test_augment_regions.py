"""Repainting by region of space, and pieces exchanged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from augment_checks import context, images, keys, label_map, pipeline
from dispatch_counter import DispatchCounter

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.region_tables import cell_lines, nearest_place

SHAPE = (16, 32, 32)
FACTS = context(SHAPE)


def _scene() -> torch.Tensor:
    """Return air and two tissues, as stripes that run through all regions."""
    image = torch.zeros(1, 1, *SHAPE)
    image[..., 12:22, :], image[..., 22:, :] = 0.5, 1.0
    return image


@pytest.mark.parametrize("facts", [FACTS, context((24, 28)), Context((9, 7, 11), (0.5, 2.0, 1.0))])
def test_every_voxel_belongs_to_the_nearest_place(facts: Context) -> None:
    rng = np.random.default_rng(1)
    places = rng.uniform(-0.6, 0.6, (2, 6, facts.dim)) * np.array(facts.extent)
    per_axis = zip(*(cell_lines(facts, own) for own in places), strict=True)
    found = nearest_place([torch.from_numpy(np.stack(lines)).float() for lines in per_axis])
    voxels = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(facts.shape, facts.spacing, strict=True)]
    grid = np.stack(np.meshgrid(*voxels, indexing="ij"), axis=-1).reshape(-1, 1, facts.dim)
    for own, row in zip(places, found, strict=True):
        assert (np.linalg.norm(grid - own, axis=-1).argmin(axis=1) == row.numpy()).mean() > 0.999


@pytest.mark.parametrize("clustering", ["kmeans", "em"])
def test_classes_of_a_region_get_the_values_drawn_for_it(clustering: str) -> None:
    settings = {"name": "region_palette", "classes": 3, "regions": 4, "texture": 0.0, "variation": 1.0, "air": 1.0}
    line = pipeline({**settings, "border": 0.0, "clustering": clustering}, facts=FACTS)
    # Values further apart than this are drawn nearer: noise is not to be amplified.
    plan = line.plan(keys(1, seed=2))
    result = line.apply(_scene(), None, plan)[0][0, 0]
    params = plan.samples[0][0].params
    lines = [torch.from_numpy(v)[None].float() for v in cell_lines(FACTS, params["places"])]
    cell = nearest_place(lines).view(SHAPE)
    scene = _scene()[0, 0]
    for number, values in enumerate(params["values"]):
        for level, value in zip((0.0, 0.5, 1.0), values, strict=True):
            voxels = result[(cell == number) & (scene == level)]
            if len(voxels):
                assert voxels.std(unbiased=False) < 1e-5
                assert voxels.mean().item() == pytest.approx(value, abs=0.02)
    assert (result[scene == 0] == 0).all()


@pytest.mark.parametrize("places", [2, 5])
def test_cells_pass_into_each_other_over_the_border(places: int) -> None:
    """Inside a cell nothing changes; between cells there is no seam, however many of them meet."""
    settings = {"name": "region_palette", "classes": 2, "regions": places, "texture": 0.0, "variation": 1.0}
    scene = _scene().clamp_max(0.5)
    seams, steps = [], []
    for seed in range(4):
        sharp, narrow, smooth = (
            pipeline({**settings, "border": border}, facts=FACTS)(scene, None, keys(1, seed))[0][0, 0, :, 12:]
            for border in (0.0, 1.0, 8.0)
        )
        seams.append(max(sharp.diff(dim=axis).abs().max() for axis in range(3)))
        steps.append(max(smooth.diff(dim=axis).abs().max() for axis in range(3)))
        assert torch.isclose(narrow, sharp, atol=1e-5).float().mean() > 0.7
        assert smooth.max() <= sharp.max() + 1e-5
    assert max(steps) < 0.4 * max(seams)


def test_without_variation_regions_do_not_show() -> None:
    settings = {"name": "region_palette", "regions": 5, "texture": 1.0, "variation": 0.0, "classes": 3}
    result = pipeline(settings, facts=FACTS)(_scene(), None, keys(1))[0][0, 0]
    for level in (0.0, 0.5, 1.0):
        assert result[_scene()[0, 0] == level].std() < 1e-5


def test_regions_are_drawn_per_sample_and_channel() -> None:
    facts = context(SHAPE, channels=2)
    scene = _scene().expand(3, 2, *SHAPE).clone()
    result, _ = pipeline({"name": "region_palette", "per_channel": True}, facts=facts)(scene, None, keys(3))
    flat = result.flatten(0, 1)
    assert all(not torch.equal(flat[i], flat[j]) for i in range(6) for j in range(i))


def test_the_work_does_not_grow_with_labels_and_the_host_does_not_wait() -> None:
    image, labels = images(3), label_map(3)
    line = pipeline({"name": "region_palette", "regions": 6, "classes": 4})
    plan = line.plan(keys(3))
    with DispatchCounter(image.numel()) as counter:
        line.apply(image, labels, plan)
    assert not counter.syncs


def test_swapped_blocks_change_places_and_nothing_is_lost() -> None:
    image = torch.arange(16 * 32 * 32, dtype=torch.float32).view(1, 1, *SHAPE)
    line = pipeline({"name": "swap_patches", "number": 1, "size": 6}, facts=FACTS)
    plan = line.plan(keys(1, seed=4))
    result, _ = line.apply(image, None, plan)
    first, second, size = plan.samples[0][0].params["pairs"][0]
    assert size == [2, 6, 6]
    one, other = (tuple(slice(a, a + n) for a, n in zip(low, size, strict=True)) for low in (first, second))
    assert torch.equal(result[0, 0][one], image[0, 0][other])
    assert torch.equal(result[0, 0][other], image[0, 0][one])
    assert torch.equal(result.flatten().sort().values, image.flatten())
    assert (result != image).sum() == 2 * 2 * 6 * 6


def test_blocks_that_change_places_never_overlap() -> None:
    image = torch.arange(16 * 32 * 32, dtype=torch.float32).view(1, 1, *SHAPE)
    line = pipeline({"name": "swap_patches", "number": 4, "size": 14}, facts=FACTS)
    for seed in range(20):
        result, _ = line(image, None, keys(1, seed))
        assert torch.equal(result.flatten().sort().values, image.flatten())
