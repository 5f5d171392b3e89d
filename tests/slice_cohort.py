"""Small raw datasets of stripes that stand for spines, for tests of slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.dataset import DatasetSpec, RawCase, write_raw_dataset
from nnunet_spine_ext.core.volume import Array, Volume

SPACING = (4.0, 1.0, 1.0)


def spine(seed: int = 0, *, slices: int = 5, shift: int = 0, size: int = 96) -> tuple[Volume, Volume]:
    """Return an image and its mask of discs (14) in LIP, 4 mm slices of 1 mm pixels; discs every 20 rows."""
    rng = np.random.default_rng(seed)
    image = np.full((slices, size, size), 40.0)
    mask = np.zeros(image.shape, np.uint8)
    image[:, :, 20:80] = 200
    image[:, :, 40:60] = 400
    for top in range(8 + shift, size - 8, 20):
        image[1:-1, top : top + 6, 40:60] = 900
        mask[1:-1, top : top + 6, 40:60] = 14
    image += rng.normal(0, 5, image.shape)
    affine = np.diag([-SPACING[0], -SPACING[2], -SPACING[1], 1.0])[:, [0, 2, 1, 3]]
    return Volume(image.astype(np.float32), affine), Volume(mask, affine)


def dataset(
    root: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    number: int = 930,
    labels: Mapping[str, int] | None = None,
    scheme: str = "nnunet14",
    ignore: bool = False,
) -> Path:
    """Write a raw dataset.

    Each row names a case and may hold ``image`` (Volume), ``mask`` (Volume or None), ``subject``, ``test`` and facts of
    cases.json; images and masks are those of `spine` by default.
    """
    names = {f"class{k}": k for k in range(1, 14)} | {"disc": 14}
    spec = DatasetSpec(number, "Slices", {0: "T1w"}, labels or names, scheme=scheme, ignore=ignore)
    cases = []
    for k, row in enumerate(rows):
        facts = dict(row)
        image, mask = spine(k)
        image, mask = facts.pop("image", image), facts.pop("mask", mask)
        subject, test = facts.pop("subject", facts["case"]), facts.pop("test", False)
        cases.append(RawCase(facts.pop("case"), subject, [image], mask, info={"contrast": "T1w"} | facts, test=test))
    return write_raw_dataset(root, spec, cases)


def disc_rows(mask: Array) -> Array:
    """Return the rows of a slice's mask that hold discs."""
    return np.flatnonzero((mask == 1).any(axis=1))
