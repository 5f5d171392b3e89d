"""Every transform of the table, field, noise and last stage, as it comes, through the common checks."""

from __future__ import annotations

import pytest
import torch
from augment_checks import check_transform, context, images, keys, label_map, pipeline

from nnunet_spine_ext.augment.transform import STAGES, build, registry

OWN = ("table", "field", "noise", "final")
NAMES = sorted(name for name, transform in registry().items() if transform.stage in OWN)
TABLES = [name for name in NAMES if registry()[name].stage == "table"]


@pytest.mark.parametrize("name", NAMES)
def test_every_transform_passes_the_common_checks(name: str) -> None:
    settings = {"to": "values"} if name == "renormalise" else {}
    if name in ("signal_equations", "domain_transfer"):
        settings["classes"] = {"1": "cord", "2": "csf", "3": "disc"}
    check_transform({"name": name, **settings}, fires=True)


@pytest.mark.parametrize("name", registry())
def test_defaults_are_as_the_base_class_promises(name: str) -> None:
    transform = build(name)
    assert transform.stage in STAGES
    assert transform.name == name
    assert build(name, {k: v for k, v in transform.to_dict().items() if k != "name"}) == transform
    assert type(transform).__doc__
    assert type(transform).__module__.endswith(f".transforms.{name}")


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("where", ["in_labels", "out_labels", [1, 3]])
def test_labels_not_chosen_keep_their_voxels_bit_by_bit(name: str, where: object) -> None:
    image, labels = images(2), label_map(2)
    settings = (
        {"classes": {"1": "cord", "2": "csf", "3": "disc"}} if name in ("signal_equations", "domain_transfer") else {}
    )
    line = pipeline({"name": name, "where": where, **settings}, facts=context())
    result, _ = line(image, labels, keys(2))
    chosen = {"in_labels": (1, 2, 3), "out_labels": (0, -1)}.get(where, where) if isinstance(where, str) else where
    outside = ~torch.isin(labels, torch.tensor(chosen))
    assert torch.equal(result[outside], image[outside])


@pytest.mark.parametrize("name", TABLES)
def test_mix_zero_changes_nothing(name: str) -> None:
    image = images(2)
    result, _ = pipeline({"name": name, "mix": 0.0})(image, label_map(2), keys(2))
    assert torch.equal(result, image)


@pytest.mark.parametrize("name", TABLES)
def test_retain_stats_keeps_mean_and_standard_deviation(name: str) -> None:
    image = images(2, (16, 32, 32))
    line = pipeline({"name": name, "retain_stats": True}, facts=context((16, 32, 32)))
    result, _ = line(image, label_map(2, (16, 32, 32)), keys(2))
    for before, after in zip(image, result, strict=True):
        # Tables are linear between nodes of 0.2 % of the span; the noise of synthesis comes on top.
        assert after.mean() == pytest.approx(float(before.mean()), abs=0.02 * float(before.std()))
        assert after.std() == pytest.approx(float(before.std()), rel=0.03)
