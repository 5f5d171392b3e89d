"""A voxel that is no number reaches no other sample, and no memory beyond a table's end."""

from __future__ import annotations

import pytest
import torch
from augment_checks import context, images, keys, label_map

from nnunet_spine_ext.augment import batch
from nnunet_spine_ext.augment.pipeline import Pipeline
from nnunet_spine_ext.augment.transform import registry

SHAPE = (8, 20, 16)


@pytest.mark.parametrize("piecewise", [("cpu",), ()], ids=["processor", "accelerator"])
@pytest.mark.parametrize("name", registry())
def test_its_neighbour_is_what_it_would_be(
    name: str, piecewise: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "PIECEWISE", piecewise)
    pipeline = Pipeline({"transforms": [{"name": name, "p": 1.0}]}, context(SHAPE))
    image, labels = images(2, SHAPE), label_map(2, SHAPE)
    expected = pipeline(image.clone(), labels.clone(), keys(2))[0][0]
    image[1, 0, 2, 3, 4] = torch.nan
    # On an accelerator an index beyond the end would stop everything, at some later time.
    found = pipeline(image, labels, keys(2))[0][0]
    assert torch.equal(found, expected)
