"""Small numbered spines with images, for the tests of numbering: the geometric spine, its ids turned into levels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from spine_builder import Spine, build

from nnunet_spine_ext.core.dataset import DatasetSpec, RawCase, write_raw_dataset
from nnunet_spine_ext.core.labels import scheme, vertebra_id
from nnunet_spine_ext.core.volume import Volume

SPACING = (3.0, 2.0, 2.0)
# Signal of each class of nnunet14, 0 to 14.
_SIGNAL = np.array([40, 120, 90, 90, 90, 90, 90, 90, 90, 150, 160, 100, 300, 60, 220], dtype=np.float32)


def numbered(levels: Sequence[str], spine: Spine) -> tuple[Volume, Volume, Volume]:
    """Return (image, semantic, instances): ids of `levels` in the place of positions; `spine` says the shapes."""
    semantic, instances = build(spine)
    table = np.arange(300, dtype=np.uint16)
    for position, level in enumerate(levels, start=1):
        for offset in (0, 100, 200):
            table[offset + position] = offset + vertebra_id(level)
    noise = np.random.default_rng(spine.seed).normal(0, 5, semantic.shape).astype(np.float32)
    image = semantic.with_array(np.maximum(_SIGNAL[semantic.array] + noise, 1))
    return image, semantic, instances.with_array(table[instances.array])


def lumbar(
    seed: int = 0, levels: Sequence[str] = ("L3", "L4", "L5"), **changes: object
) -> tuple[Volume, Volume, Volume]:
    """Return a lumbar spine; seeds have other curves."""
    spine = Spine(levels=tuple(levels), spacing=SPACING, lordosis=8.0 + 2 * (seed % 4), seed=seed)
    return numbered(levels, Spine(**{**vars(spine), **changes}))


def write_dataset(raw: Path, cases: Sequence[tuple[str, tuple[Volume, Volume, Volume]]], **facts: object) -> Path:
    """Write a raw dataset 7 of cases (name, (image, semantic, instances)); every case is a subject of its own."""
    labels = {name: k for k, name in scheme("nnunet14").labels.items() if k}
    spec = DatasetSpec(7, "Toy", {0: "T2w"}, labels, "nnunet14", ((4, 5), (6, 7), (8, 9)))
    rows = [
        RawCase(name, f"s_{name}", [image], semantic, instances, dict(facts))
        for name, (image, semantic, instances) in cases
    ]
    return write_raw_dataset(raw, spec, rows, folds=2)
