"""A bank of domains learned from files: written, added to, read, used; and what cannot be learned from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from augment_checks import context, keys, pipeline

from nnunet_spine_ext.augment.batch import measure_levels
from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.domain_bank import QUANTILES, load_bank
from nnunet_spine_ext.augment.learn_bank import learn_bank
from nnunet_spine_ext.augment.pipeline import Pipeline
from nnunet_spine_ext.core.errors import SpineExtError
from nnunet_spine_ext.core.io import write_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.training.settings import AugmentSettings

CLASSES = {1: "cord", 2: "csf", 3: "disc"}
SHAPE = (12, 16, 16)


def _write(folder: Path, number: int, gains: tuple[float, ...] = (0.4, 1.0, 0.2), **change: Any) -> tuple[Path, Path]:
    rng = np.random.default_rng(number)
    labels = np.zeros(SHAPE, dtype=np.uint8)
    image = np.abs(rng.normal(0, 2, SHAPE)).astype(np.float32)
    for label, gain in enumerate(gains, start=1):
        labels[:, 4 * label : 4 * label + 4] = label
        image[:, 4 * label : 4 * label + 4] = 1000 * gain + rng.normal(0, 5, (SHAPE[0], 4, SHAPE[2]))
    image = np.where(change.get("broken", False), np.nan, image)
    affine = np.diag([3.0, 1, 1, 1])
    paths = folder / f"i{number}.nii.gz", folder / f"l{number}.nii.gz"
    write_volume(Volume(image, affine), paths[0])
    affine[:3, 3] = change.get("offset", 0.0)
    write_volume(Volume(labels, affine), paths[1])
    return paths


def test_a_bank_is_learned_from_files_and_grows(tmp_path: Path) -> None:
    bank = tmp_path / "bank.yaml"
    pairs = [_write(tmp_path, n) for n in range(3)]
    learned = learn_bank(*zip(*pairs, strict=True), bank, domain="t2w: mine", classes=CLASSES)
    assert learned["t2w: mine"]["csf"][QUANTILES // 2] == pytest.approx(1.0, abs=0.03)
    assert learned["t2w: mine"]["disc"][QUANTILES // 2] == pytest.approx(0.2, abs=0.03)
    other = _write(tmp_path, 9, (1.0, 0.3, 0.6))
    both = learn_bank([other[0]], [other[1]], bank, domain="t1w", classes=CLASSES)
    assert list(both) == ["t2w: mine", "t1w"]
    assert both["t2w: mine"] == learned["t2w: mine"]
    assert load_bank(bank)["t1w"]["csf"][QUANTILES // 2] == pytest.approx(0.3, abs=0.03)


def test_what_was_learned_is_what_images_become(tmp_path: Path) -> None:
    bank = tmp_path / "bank.yaml"
    pair = _write(tmp_path, 1)
    learned = learn_bank([pair[0]], [pair[1]], bank, domain="mine", classes=CLASSES)["mine"]
    image, labels = torch.zeros(1, 1, *SHAPE), torch.zeros(1, 1, *SHAPE, dtype=torch.int16)
    for label, level in enumerate((0.9, 0.3, 0.6), start=1):
        labels[..., 4 * label : 4 * label + 4, :] = label
        image[..., 4 * label : 4 * label + 4, :] = level
    image += 0.01 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    settings = {"name": "domain_transfer", "bank": str(bank), "mix": 1.0, "blend": 0.0}
    settings["classes"] = {str(label): name for label, name in CLASSES.items()}
    levels = measure_levels(image.flatten(2))
    result, _ = pipeline(settings, facts=context(SHAPE))(image, labels, keys(1))
    for label, name in CLASSES.items():
        level = (result[labels == label].median() - levels.air) / levels.span
        assert level.item() == pytest.approx(learned[name][QUANTILES // 2], abs=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": []}, "1 images, 0 label maps"),
        ({"images": [], "labels": []}, "0 images"),
        ({"classes": {1: "crod"}}, "did you mean 'cord'"),
        ({"classes": {7: "cord"}}, "no labelled tissue"),
        ({"images": ["gone.nii.gz"]}, "E-IN-MISSING"),
    ],
)
def test_what_cannot_be_learned_from_is_said(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    image, label = _write(tmp_path, 0)
    asked = {"images": [image], "labels": [label], "classes": CLASSES, **change}
    with pytest.raises(SpineExtError, match=message):
        learn_bank(asked.pop("images"), asked.pop("labels"), tmp_path / "bank.yaml", domain="x", **asked)
    assert not (tmp_path / "bank.yaml").exists()


@pytest.mark.parametrize(("change", "code"), [({"offset": 5.0}, "E-GEOM-GRID"), ({"broken": True}, "E-AUG-BANK")])
def test_masks_on_other_grids_and_broken_images_are_errors(tmp_path: Path, change: dict[str, Any], code: str) -> None:
    image, label = _write(tmp_path, 0, **change)
    with pytest.raises(SpineExtError, match=code):
        learn_bank([image], [label], tmp_path / "bank.yaml", domain="x", classes=CLASSES)


def test_another_file_is_not_overwritten(tmp_path: Path) -> None:
    image, label = _write(tmp_path, 0)
    path = tmp_path / "mine.yaml"
    path.write_text("a: 1\n")
    with pytest.raises(SpineExtError, match="no bank of domains"):
        learn_bank([image], [label], path, domain="x", classes=CLASSES)
    assert path.read_text() == "a: 1\n"


def test_the_content_of_a_bank_counts_not_its_name(tmp_path: Path) -> None:
    def config(bank: object) -> AugmentConfig:
        entry = {"name": "domain_transfer", "p": 1.0, "bank": bank}
        return AugmentConfig.from_dict({"transforms": [{"one_of": [entry]}, {**entry, "classes": {"1": "cord"}}]})

    text = "version: 1\ndomains:\n  mine: {background: [0.0, 0.5, 1.0], cord: [0.1, 0.2, 0.3]}\n"
    first, moved, other = (tmp_path / name for name in ("a.yaml", "b.yaml", "c.yaml"))
    first.write_text(text)
    moved.write_text("# the same elsewhere\n" + text)
    other.write_text(text.replace("0.3", "0.4"))
    assert config(str(first)).hash == config(str(moved)).hash != config(str(other)).hash
    before = config(str(first)).hash
    written = AugmentSettings(config=config(str(first)).to_dict()).written_out()
    assert written.hash == before
    assert AugmentSettings(config=config(str(first)).to_dict()).without_files().config == written.config
    context = Context((6, 8, 8), (1.0, 1.0, 1.0), labels=(0, 1))
    expected = Pipeline(config(str(first)), context).plan(keys(2)).record
    first.write_text(other.read_text())
    assert config(str(first)).hash == config(str(other)).hash != before
    # What is stored with a model needs no file any more.
    for path in (first, moved, other):
        path.unlink()
    assert written.effective().hash == before
    assert Pipeline(written.effective(), context).plan(keys(2)).record == expected
    with pytest.raises(SpineExtError, match="no bank of domains"):
        config({"version": 1, "domains": {}})
