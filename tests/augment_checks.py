"""What every transform has to satisfy, checked through the pipeline; and small images to check it on."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.augment.pipeline import Pipeline, Plan

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from dispatch_counter import DispatchCounter

SHAPES = ((12, 20, 16), (24, 28))
AIR = -1.0


def keys(count: int, seed: int = 3, epoch: int = 5) -> list[SampleKey]:
    """Return the keys of as many different samples."""
    return [SampleKey(seed, f"case{i:02d}", epoch, i) for i in range(count)]


def context(shape: Sequence[int] = SHAPES[0], **facts: Any) -> Context:
    """Return the context of the images below: labels 0, 1, 2, 3; 3 x 1 x 1 mm."""
    spacing = (3.0, 1.0, 1.0)[-len(shape) :]
    return Context(**{"shape": tuple(shape), "spacing": spacing, "labels": (0, 1, 2, 3), **facts})


def images(count: int = 3, shape: Sequence[int] = SHAPES[0], channels: int = 1, seed: int = 0) -> Tensor:
    """Return (B, C, *shape): half air at -1 with a little noise, half tissue of four brightnesses up to 3."""
    generator = torch.Generator().manual_seed(seed)
    size = (count, channels, *shape)
    noise = torch.randn(size, generator=generator)
    tissue = label_map(count, shape).float() * 0.9 + 0.3
    air = torch.arange(shape[-1]) < shape[-1] // 2
    return AIR + torch.where(air, 0.02 * noise.abs(), (tissue + 0.1 * noise).clamp_min(0))


def label_map(count: int = 3, shape: Sequence[int] = SHAPES[0]) -> Tensor:
    """Return (B, 1, *shape) int16: blocks of 0 to 3 along the second last axis, -1 in the first plane."""
    rows = torch.arange(shape[-2]) * 4 // shape[-2]
    labels = rows[:, None].expand(*shape).clone().to(torch.int16)
    labels[0, ..., 0] = -1
    return labels.expand(count, 1, *shape).clone()


def pipeline(*transforms: str | Mapping[str, Any], facts: Context | None = None, **settings: Any) -> Pipeline:
    """Return a pipeline of transforms, given by name or with settings; p is 1 unless it is given."""
    listed = [{"p": 1.0, **({"name": t} if isinstance(t, str) else t)} for t in transforms]
    return Pipeline(AugmentConfig.from_dict({"transforms": listed, **settings}), facts or context())


def run(transform: str | Mapping[str, Any], image: Tensor, labels: Tensor | None = None, seed: int = 3) -> Tensor:
    """Return what one transform makes of images (B, C, …)."""
    shape = tuple(image.shape[2:])
    facts = context(shape, channels=image.shape[1])
    labels = label_map(image.shape[0], shape) if labels is None else labels
    return pipeline(transform, facts=facts)(image, labels, keys(image.shape[0], seed))[0]


def check_transform(transform: Mapping[str, Any], *, moves_labels: bool = False, fires: bool = True) -> None:
    """Check everything that holds for any transform, in 2-D and 3-D, for one and two channels."""
    for shape in SHAPES:
        for channels in (1, 2):
            _check_on(dict(transform), shape, channels, moves_labels, fires)


def _check_on(transform: dict[str, Any], shape: Sequence[int], channels: int, moves: bool, fires: bool) -> None:
    facts = context(shape, channels=channels)
    image, labels = images(3, shape, channels), label_map(3, shape)
    untouched = image.clone(), labels.clone()
    line = pipeline(transform, facts=facts)
    plan = line.plan(keys(3))
    result, moved = line.apply(image, labels, plan)

    assert torch.equal(image, untouched[0]), "the images given were written to"
    assert torch.equal(labels, untouched[1]), "the labels given were written to"
    assert result.shape == image.shape
    assert result.dtype == image.dtype
    assert result.isfinite().all()
    assert moves or torch.equal(moved, labels), "labels changed"
    assert not fires or not torch.equal(result, image), "nothing happened"

    off = pipeline({**transform, "p": 0.0}, facts=facts)
    assert torch.equal(off(image, labels, keys(3))[0], image), "p = 0 is no identity"
    weak = pipeline(transform, facts=facts.at_strength(0.0))
    assert torch.equal(weak(image, labels, keys(3))[0], image), "strength 0 is no identity"

    again, again_labels = pipeline(transform, facts=facts)(image, labels, keys(3))
    assert torch.equal(again, result), "the same keys give another result"
    assert torch.equal(again_labels, moved), "the same keys give other labels"
    record = json.loads(json.dumps(plan.record))
    replayed, _ = line.apply(image, labels, Plan.from_record(record))
    assert torch.equal(replayed, result), "a replay gives another result"

    for index in range(3):
        alone, alone_labels = line(image[index : index + 1], labels[index : index + 1], keys(3)[index : index + 1])
        # Not bit by bit: matrix products of another size may sum in another order.
        torch.testing.assert_close(alone, result[index : index + 1], rtol=1e-5, atol=2e-5)
        assert torch.equal(alone_labels, moved[index : index + 1]), "the batch changes the labels of a sample"
    other = image.clone()
    other[1:] = images(2, shape, channels, seed=9)
    beside, _ = line.apply(other, labels, plan)
    assert torch.equal(beside[0], result[0]), "a neighbour in the batch changes a sample"

    with DispatchCounter(image.numel()) as counter:
        line.apply(image, labels, plan)
    assert not counter.syncs, f"the host waits for the device: {dict(counter.syncs)}"
    _check_hard_inputs(line, plan, image, labels)


def _check_hard_inputs(line: Pipeline, plan: Plan, image: Tensor, labels: Tensor) -> None:
    """Check that nothing is infinite, and types are kept, for inputs at the edge of what can come."""
    constant, empty = torch.full_like(image, 7.0), torch.zeros_like(image)
    spike = empty.clone()
    spike.flatten()[5] = 1e4
    for hard in (constant, empty, spike, image * 1e4, image * 1e-6, image + 1e4):
        assert line.apply(hard, labels, plan)[0].isfinite().all()
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        result, _ = line.apply(image.to(dtype), labels, plan)
        assert result.dtype == dtype
        assert result.isfinite().all()
    assert line.apply((image * 100).to(torch.int16), labels, plan)[0].dtype == torch.float32
    assert line.apply(image, torch.zeros_like(labels) - 1, plan)[0].isfinite().all()
    assert line.apply(image, None, plan)[0].isfinite().all()
