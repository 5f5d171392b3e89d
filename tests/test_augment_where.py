"""Noise and fields within labels or outside them, and what refuses to be restricted."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from augment_checks import context, images, keys, label_map

from nnunet_spine_ext.augment import batch
from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.pipeline import Pipeline, Plan
from nnunet_spine_ext.augment.transform import build, registry
from nnunet_spine_ext.core.errors import UsageError

SHAPE = (12, 20, 16)
RESTRICTED = tuple(name for name, cls in registry().items() if cls.stage in ("field", "noise"))
WHOLE = tuple(name for name, cls in registry().items() if cls.stage in ("warp", "axis", "kspace", "final"))
STRONG: dict[str, dict[str, Any]] = {
    **{name: {"sigma": 0.3} for name in ("rician_noise", "chi_noise", "gaussian_noise", "coloured_noise")},
    "bias_spline": {"sd": 0.3},
    "bias_polynomial": {"coefficient": 0.5},
    "surface_coils": {"residual": 1.0},
}


def _line(*entries: dict[str, Any]) -> Pipeline:
    return Pipeline({"transforms": [{"p": 1.0, **STRONG[entry["name"]], **entry} for entry in entries]}, context(SHAPE))


@pytest.fixture(params=[("cpu",), ()], ids=["processor", "accelerator"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go the way of a processor, then that of an accelerator."""
    monkeypatch.setattr(batch, "PIECEWISE", request.param)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", RESTRICTED)
def test_only_the_labels_chosen_change(name: str) -> None:
    image, labels = images(2, SHAPE), label_map(2, SHAPE)
    everywhere = _line({"name": name})(image, labels, keys(2))[0]
    for where, chosen in (
        ("in_labels", labels > 0),
        ("out_labels", labels <= 0),
        ([2], labels == 2),
        ({"in_labels": 1.0}, labels > 0),
    ):
        result = _line({"name": name, "where": where})(image, labels, keys(2))[0]
        # Inside it is what it would be everywhere, outside nothing happens, to the last bit.
        assert torch.equal(result, torch.where(chosen, everywhere, image))
        assert not torch.equal(result, image)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("names", [("rician_noise", "gaussian_noise"), ("bias_spline", "surface_coils")])
def test_two_on_different_labels_meet_in_neither(names: tuple[str, str]) -> None:
    image, labels = images(2, SHAPE), label_map(2, SHAPE)
    first, second = ({"name": name, "where": where} for name, where in zip(names, ([1], [2]), strict=True))
    both = _line(first, second)(image, labels, keys(2))[0]
    alone = [_line(entry)(image, labels, keys(2))[0] for entry in (first, second)]
    assert torch.equal(both, torch.where(labels == 1, alone[0], torch.where(labels == 2, alone[1], image)))


@pytest.mark.usefixtures("way")
def test_one_sample_restricted_and_its_neighbour_not() -> None:
    image, labels = images(3, SHAPE), label_map(3, SHAPE)
    line = _line(*({"name": name, "p": 0.7, "where": {"in_labels": 0.5}} for name in RESTRICTED))
    for seed in range(5):
        three = keys(3, seed)
        together = line(image, labels, three)[0]
        assert together.isfinite().all()
        for index in range(3):
            part = slice(index, index + 1)
            assert torch.equal(line(image[part], labels[part], three[part])[0], together[part])


@pytest.mark.parametrize("name", RESTRICTED)
def test_without_labels_all_is_outside_of_them(name: str) -> None:
    image = images(1, SHAPE)
    everywhere = _line({"name": name})(image, None, keys(1))[0]
    assert torch.equal(_line({"name": name, "where": "in_labels"})(image, None, keys(1))[0], image)
    assert torch.equal(_line({"name": name, "where": "out_labels"})(image, None, keys(1))[0], everywhere)


@pytest.mark.parametrize("name", RESTRICTED)
def test_records_and_hashes_know_it_where_it_is_said(name: str) -> None:
    image, labels = images(1, SHAPE), label_map(1, SHAPE)
    plain, line = _line({"name": name}), _line({"name": name, "where": [1, 2]})
    plan = line.plan(keys(1))
    record = json.loads(json.dumps(plan.record))
    assert torch.equal(line.apply(image, labels, Plan.from_record(record))[0], line.apply(image, labels, plan)[0])
    assert plan.samples[0][0].params["labels"] == [1, 2]
    assert "labels" not in plain.plan(keys(1)).samples[0][0].params, "records from before replay"
    assert "where" not in plain.config.to_dict()["transforms"][0], "hashes stay what they were"
    assert AugmentConfig.load(line.config.to_dict()).hash == line.config.hash != plain.config.hash


def test_labels_that_do_not_occur_are_an_error() -> None:
    with pytest.raises(UsageError, match="E-AUG-CONTEXT"):
        _line({"name": "rician_noise", "where": [99]})


@pytest.mark.parametrize("name", WHOLE)
def test_what_a_scanner_does_to_the_whole_image_refuses_labels(name: str) -> None:
    with pytest.raises(UsageError, match="of the stages table, local, field and noise alone"):
        build(name, {"where": "in_labels"})
