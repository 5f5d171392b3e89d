"""Left and right of labels and of regions: which outputs change places, wherever prediction mirrors."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from model_builder import LABELS14, SIDED14, make_image, make_model

from nnunet_spine_ext.inference import sides
from nnunet_spine_ext.inference.adaptation.guards import mirror_views
from nnunet_spine_ext.inference.predict import predict
from nnunet_spine_ext.inference.predictor import SpinePredictor
from nnunet_spine_ext.inference.sides import paired_outputs, regions_of, sided_view
from nnunet_spine_ext.inference.tta import surroundings_of
from nnunet_spine_ext.inference.view_settings import ViewSettings
from nnunet_spine_ext.networks.mirror import SidedMirrorNetwork
from nnunet_spine_ext.training.settings import data_facts

BOTH = {"background": 0, "spine": [1, 2, 3], "left": [2], "right": 3}
ONE = {"background": 0, "spine": [1, 2, 3], "left": [1, 2], "body": 1}


def make_regions(folder: Path, labels: dict[str, Any]) -> Path:
    """Write a model of three regions over one label without a side and a pair (2, 3)."""
    model = make_model(folder, labels={"background": 0, "a": 1, "b": 2}, sided=[[2, 3]])
    content = json.loads((model / "dataset.json").read_text())
    content |= {"labels": labels, "regions_class_order": [1, 2, 3]}
    (model / "dataset.json").write_text(json.dumps(content))
    return model


def predictor(model: Path, **options: Any) -> SpinePredictor:
    made = SpinePredictor(device=torch.device("cpu"), progress=False, **options)
    made.initialize_from_trained_model_folder(model, None)
    return made


def test_regions_are_paired_by_their_labels() -> None:
    assert paired_outputs([(4, 5), (6, 7)], ()) == ((4, 5), (6, 7))
    assert paired_outputs([(2, 3)], ((1, 2, 3), (2,), (3,))) == ((1, 2),)
    assert paired_outputs([(2, 3)], ((1, 3), (2, 3), (1,), (2, 1))) == ((0, 3),)
    assert paired_outputs([(2, 3)], ((1, 2, 3), (1,))) == ()
    assert paired_outputs([(2, 3)], ((1, 2, 3), (2,))) is None


def test_regions_are_those_of_the_outputs() -> None:
    assert regions_of({"labels": {**BOTH, "ignore": 4}}) == ((1, 2, 3), (2,), (3,))
    assert regions_of({"labels": {"background": 0, "a": [1], "b": 2}}) == ()
    assert data_facts({"labels": BOTH, "spine_ext": {"sided_labels": [[2, 3]]}}).regions == ((1, 2, 3), (2,), (3,))


@pytest.mark.parametrize("tta", ["mirror", "full"])
def test_a_mirrored_image_gets_the_mirrored_answer_with_sides_exchanged(tmp_path: Path, tta: Any) -> None:
    views = ViewSettings(stop=False, kinds=("mirror",))
    made = predictor(make_regions(tmp_path / "model", BOTH), tta=tta, views=views)
    data = torch.randn((1, 16, 16, 16), generator=torch.Generator().manual_seed(1))
    found = made.posterior(data)
    assert torch.allclose(made.posterior(data.flip(3)), found.flip(3)[[0, 2, 1]], atol=1e-5)
    assert not torch.allclose(found, found.flip(3)[[0, 2, 1]], atol=1e-3), "the test would show nothing"


def test_every_place_that_mirrors_exchanges_the_same(tmp_path: Path) -> None:
    made = predictor(make_regions(tmp_path / "model", BOTH), tta="mirror")
    plans = made.plans_manager.plans
    assert isinstance(made.network, SidedMirrorNetwork)
    assert (made.network.axis, made.network.sided_channels) == (2, [(1, 2)])
    around = surroundings_of(plans, made.configuration_manager, (0, 1))
    assert (around.sided_axis, around.exchange) == (2, ((1, 2),))
    assert mirror_views(plans, (0, 1), 3).sided == (2, ((1, 2),))
    labels = predictor(make_model(tmp_path / "labels", labels=LABELS14, sided=SIDED14))
    assert sided_view(labels.plans_manager.plans, 3) == (2, tuple(tuple(pair) for pair in SIDED14))


def test_a_region_without_partner_is_not_mirrored_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sides._say_once.cache_clear()
    model = make_regions(tmp_path / "model", ONE)
    for name in "ab":
        make_image(tmp_path / "in" / f"{name}_0000.nii.gz", shape=(16, 16, 16))
    with caplog.at_level(logging.WARNING):
        for tta in ("mirror", "full"):
            options: dict[str, Any] = {"tta": tta, "all_views": tta == "full"}
            result = predict(tmp_path / "in", tmp_path / tta, m=model, device="cpu", **options)
            assert result.exit_code == 0
    assert caplog.text.count("W-PLANS-SIDES") == 1
    rows = map(json.loads, (tmp_path / "full" / "cases.jsonl").read_text().splitlines())
    mirrored = {axes for row in rows for name in row["views"]["names"] for axes in re.findall(r"mirror(\d+)", name)}
    assert mirrored == {"0", "1", "01"}
    assert not isinstance(predictor(model, tta="mirror").network, SidedMirrorNetwork)
