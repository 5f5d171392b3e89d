"""What a batch costs, in counts that no machine changes: operations on volumes, memory passes, reads by the host.

Counted on the way of accelerators, that processors take too when `batch.PIECEWISE` is empty. The limits are what was
measured, and a little more; where they are exceeded something has become a pass of its own that need not be one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from augment_checks import DispatchCounter, context, images, keys, label_map

from nnunet_spine_ext.augment import batch
from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.pipeline import Pipeline
from nnunet_spine_ext.augment.transform import registry

# So large that tables and statistics are small beside it, and the patch that is measured elsewhere too.
SHAPE = (64, 128, 128)
COUNT = 2


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the way of accelerators."""
    monkeypatch.setattr(batch, "PIECEWISE", ())


def _counted(config: AugmentConfig | Mapping[str, Any], plans: int = 4, labels: int = 15) -> dict[str, float]:
    """Return the mean counts of batches of two, with a label drawn for each voxel."""
    line = Pipeline(config, Context(SHAPE, (1.0, 1.0, 1.0), labels=range(labels)))
    image = images(COUNT, SHAPE)
    ids = torch.randint(labels, image.shape, dtype=torch.int16, generator=torch.Generator().manual_seed(0))
    rows = []
    for number in range(-1, plans):
        plan = line.plan(keys(COUNT, max(0, number), epoch=1000))
        with DispatchCounter(image.numel()) as counter:
            line.apply(image, ids, plan)
        if number >= 0:  # The first time constants are made as well.
            rows.append(counter.summary())
    return {key: sum(row[key] for row in rows) / plans for key in rows[0]}


def _everything() -> AugmentConfig:
    """Return the preset `shift` with all that is left to chance for certain: one of each group, all else."""
    preset = AugmentConfig.load("shift")
    entries = tuple(replace(entry, p=1.0) for entry in preset.transforms)
    return replace(preset, transforms=entries, schedule=replace(preset.schedule, clean_share=0.0))


@pytest.mark.usefixtures("accelerator")
def test_everything_on_at_once() -> None:
    counts = _counted(_everything(), plans=6)
    assert counts["host_reads"] == 0
    assert counts["operations"] < 800
    assert counts["volume_operations"] < 44.5
    assert counts["memory_passes"] < 108


@pytest.mark.usefixtures("accelerator")
def test_a_batch_as_the_preset_draws_it() -> None:
    counts = _counted("shift", plans=16)
    assert counts["host_reads"] == 0
    assert counts["operations"] < 235
    assert counts["volume_operations"] < 12
    assert counts["memory_passes"] < 26


def _one_stage(*names: str) -> dict[str, Any]:
    return {"transforms": [{"name": name, "p": 1} for name in names]}


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize(
    ("names", "operations", "passes"),
    [
        (("rotate", "scale"), 8.4, 21.8),
        (("brightness", "contrast", "gamma", "inverse", "sqrt", "exp", "equalise", "bezier"), 4.4, 11.0),
        (("resolution", "blur", "gibbs"), 5.2, 11.6),
        (("ghosting",), 7.4, 18.0),
        (("bias_spline", "surface_coils"), 6.0, 14.0),
        (("rician_noise",), 4.3, 10.4),
        (("renormalise",), 1.4, 2.6),
        (("unsharp_mask",), 4.2, 9.4),
        # Where the images belong to the batch, what is added is added in the product that makes it.
        (("rotate", "unsharp_mask"), 11.4, 28.8),
        (("resolution", "rician_noise"), 10.4, 23.5),
        (("rand_conv",), 10.2, 22.5),
    ],
)
def test_each_stage_alone(names: tuple[str, ...], operations: float, passes: float) -> None:
    counts = _counted(_one_stage(*names), plans=2)
    assert counts["host_reads"] == 0
    assert counts["volume_operations"] < operations
    assert counts["memory_passes"] < passes


def _with_tissues(names: tuple[str, ...], labels: int) -> dict[str, Any]:
    """Return transforms that know what every label is made of: else some leave all labels alone."""
    tissues = ("marrow", "cord", "csf", "disc")
    classes = {str(label): tissues[label % len(tissues)] for label in range(1, labels)}
    known = {name: {"classes": classes} for name in ("signal_equations", "domain_transfer")}
    return {"transforms": [{"name": name, "p": 1, **known.get(name, {})} for name in names]}


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize(
    ("names", "most"),
    [
        (("redistribute", "gamma"), 1.1),
        # What measures every label alone has more to do with the tables, which are small; not with the volume.
        (("signal_equations", "equalise"), 1.2),
        (("domain_transfer",), 1.2),
    ],
)
def test_fifty_labels_cost_what_six_cost(names: tuple[str, ...], most: float) -> None:
    few, many = (_counted(_with_tissues(names, number), plans=2, labels=number) for number in (6, 50))
    assert many["operations"] == few["operations"]
    assert many["volume_operations"] < most * few["volume_operations"]
    assert many["memory_passes"] < most * few["memory_passes"]


# Transforms of all stages: what is known on the host, on tables, on neighbours, in the plane and in k-space.
NAMES = tuple(registry())


@pytest.mark.parametrize("name", NAMES)
def test_accelerators_give_what_processors_give(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (12, 40, 32)
    line = Pipeline(_one_stage(name), context(shape, channels=2))
    image, labels = images(3, shape, channels=2), label_map(3, shape)
    plan = line.plan(keys(3))
    expected, expected_labels = line.apply(image, labels, plan)
    monkeypatch.setattr(batch, "PIECEWISE", ())
    found, found_labels = line.apply(image, labels, plan)
    assert expected_labels is not None
    assert found_labels is not None
    assert (found_labels != expected_labels).float().mean() < 2e-3
    # A voxel at the border of two classes, or two segments of a table, may fall to either side.
    assert torch.isclose(found, expected, rtol=1e-3, atol=1e-3).float().mean() > 0.999
    again, _ = line.apply(image, labels, plan)
    assert torch.equal(again, found)


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize("name", NAMES)
def test_what_accelerators_give_is_finite(name: str) -> None:
    shape = (12, 20, 16)
    line = Pipeline(_one_stage(name), context(shape))
    image, labels = images(2, shape), label_map(2, shape)
    plan = line.plan(keys(2))
    spike = torch.zeros_like(image)
    spike.flatten()[5] = 1e4
    for hard in (torch.full_like(image, 7.0), torch.zeros_like(image), spike, image * 1e4, image * 1e-6, image + 1e4):
        assert line.apply(hard, labels, plan)[0].isfinite().all()
    assert line.apply(image.half(), labels, plan)[0].isfinite().all()
    assert line.apply(image, torch.full_like(labels, -1), plan)[0].isfinite().all()


@pytest.mark.parametrize("name", ["rician_noise", "chi_noise"])
@pytest.mark.parametrize("pieces", [("cpu",), ()])
def test_noise_of_an_image_without_span_is_finite(
    name: str, pieces: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "PIECEWISE", pieces)
    shape = (40, 64, 64)
    image = torch.zeros(1, 1, *shape)
    image[0, 0, 1, 1, 1] = 1e16  # between the voxels that levels are measured on
    result, _ = Pipeline(_one_stage(name), context(shape))(image, None, keys(1))
    assert result.isfinite().all()
    assert result.max() == pytest.approx(1e16, rel=1e-4)


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize("seed", range(8))
def test_neighbours_change_nothing_on_accelerators(seed: int) -> None:
    """Whether a sample is changed in its own place depends on its neighbours; its numbers must not."""
    shape = (12, 20, 16)
    names = (
        "rotate",
        "unsharp_mask",
        "scharr",
        "resolution",
        "chemical_shift",
        "signal_void",
        "rician_noise",
        "chi_noise",
    )
    line = Pipeline({"order": "random", "transforms": [{"name": name, "p": 0.6} for name in names]}, context(shape))
    image, labels, three = images(3, shape), label_map(3, shape), keys(3, seed)
    together = line(image, labels, three)[0]
    for index in range(3):
        part = slice(index, index + 1)
        alone = line(image[part].clone(), labels[part], three[part])[0]
        assert torch.equal(alone, together[part])
        pair = [index, (index + 1) % 3]
        beside = line(image[pair], labels[pair], [three[i] for i in pair])[0]
        assert torch.equal(beside[:1], together[part])
