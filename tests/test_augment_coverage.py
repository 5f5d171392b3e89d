"""The page that lists what other software has names what exists; presets do what they say."""

from __future__ import annotations

import dataclasses
import importlib
import re

import torch
from augment_checks import keys
from house import ROOT

from nnunet_spine_ext.augment.config import AugmentConfig, Schedule
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.pipeline import Pipeline
from nnunet_spine_ext.augment.transform import registry

PAGE = ROOT / "docs" / "reference" / "augmentation-coverage.md"
SHAPE = (16, 40, 40)


def _named() -> list[tuple[str, str]]:
    """Return what stands in the second column: names and settings."""
    rows = [line.split("|")[2] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    found = [token for row in rows for token in re.findall(r"`([^`]+)`", row)]
    return [(name, setting.strip()) for name, _, setting in (token.partition(":") for token in found)]


def test_everything_named_on_the_page_exists() -> None:
    known = {name: {item.name for item in dataclasses.fields(cls)} for name, cls in registry().items()}
    known["schedule"] = {item.name for item in dataclasses.fields(Schedule)}
    known["clean"] = set()
    for name, setting in _named():
        if "." in name:
            importlib.import_module(name)
        else:
            assert name in known, name
            assert not setting or setting in known[name], f"{name}: {setting}"


def test_every_transform_is_on_the_page() -> None:
    assert set(registry()) <= {name for name, _ in _named()}


def _scene(levels: tuple[float, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.zeros(1, 1, *SHAPE, dtype=torch.int16)
    image = torch.zeros(1, 1, *SHAPE)
    for label, level in enumerate(levels):
        labels[..., 10 * label : 10 * label + 10, 8:] = label
        image[..., 10 * label : 10 * label + 10, 8:] = level
    return image, labels


def test_the_preset_synthseg_leaves_nothing_of_the_contrast() -> None:
    facts = Context(SHAPE, (3.0, 1.0, 1.0), labels=range(4))
    transforms = [
        item for item in AugmentConfig.load("synthseg").to_dict()["transforms"] if "name" in item and item["p"] == 1
    ]
    assert {"gaussian_mixture", "renormalise", "blur"} <= {item["name"] for item in transforms}
    line = Pipeline({"transforms": transforms}, facts)
    means = []
    for levels in ((0.4, 1.0, 0.6, 0.2), (0.4, 0.3, 0.9, 1.0)):
        image, labels = _scene(levels)
        image += 0.02 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
        result = torch.cat([line(image, labels, [key])[0] for key in keys(20)])
        inside = labels.expand_as(result)
        means.append(torch.stack([result[i][inside[i] == n].mean() for i in range(20) for n in (1, 2, 3)]).view(20, 3))
    # The same draws on two contrasts give the same contrast, up to the level of the whole image.
    differences = [values - values.mean(dim=1, keepdim=True) for values in means]
    assert torch.corrcoef(torch.stack([d.flatten() for d in differences]))[0, 1] > 0.97


def test_the_preset_synthseg_runs_as_it_comes() -> None:
    facts = Context(SHAPE, (3.0, 1.0, 1.0), labels=range(4))
    image, labels = _scene((0.4, 1.0, 0.6, 0.2))
    line = Pipeline("synthseg", facts)
    for key in keys(10):
        result, moved = line(image, labels, [key])
        assert result.isfinite().all()
        assert result.std() > 0.3
        assert set(moved.unique().tolist()) <= {-1, 0, 1, 2, 3}
