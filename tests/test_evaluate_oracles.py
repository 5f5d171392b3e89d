"""Every metric equals the implementation that its registry row names, on random and on real pairs.

The numbers in fixtures/oracle_metrics.json were computed by panoptica and surface-distance in environments of their
own (`make oracles`).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from oracles import pairs

from nnunet_spine_ext.core.io import read_volume, sha256
from nnunet_spine_ext.evaluate.matching import Matching, match, overlap_table
from nnunet_spine_ext.evaluate.pairs import MaskPair, label_pairs, score
from nnunet_spine_ext.evaluate.panoptic import Group, score_group
from nnunet_spine_ext.evaluate.registry import METRICS
from nnunet_spine_ext.evaluate.surface import surfel_areas

FIXTURE = json.loads((Path(__file__).parent / "fixtures" / "oracle_metrics.json").read_text(encoding="utf-8"))
PANOPTICA, SURFACE = FIXTURE["panoptica"], FIXTURE["surface-distance"]
GROUPS = {"vertebra": range(1, 100), "disc": range(101, 200)}
GROUP_NAMES = {
    "rq": "rq", "sq": "sq", "pq": "pq", "instance_dice": "sq_dsc", "instance_precision": "prec",
    "instance_recall": "rec",
}  # fmt: skip
SEEDS = range(pairs.N_RANDOM)
REAL = [row["name"] for row in pairs.REAL]
UNIT = (1.0, 1.0, 1.0)


def equal(value: float, expected: float | str) -> None:
    assert value == pytest.approx(float(expected), abs=1e-6, rel=1e-6, nan_ok=True)


def check_class(pair: MaskPair, overlap: dict[str, Any], distances: dict[str, Any]) -> None:
    ours = {name: score(row, pair) for name, row in METRICS.items() if row.scope == "class"}
    ref_empty, pred_empty = overlap["empty"]
    for name in ("dice", "iou"):
        equal(ours[name], overlap.get(name, "nan"))
    if not ref_empty:
        equal(ours["relative_volume_error"], 100 * overlap["rvd"])
        equal(ours["volume_error"], overlap["rvd"] * pair.ref_voxels * math.prod(pair.spacing) / 1000)
    if ref_empty or pred_empty:
        return
    equal(ours["assd_voxel"], overlap["assd"])
    if tuple(pair.spacing) == UNIT:
        # Without a voxel size panoptica takes 1 for every edge.
        equal(ours["assd_in_voxels"], overlap["assd"])
    check_surface("", pair, distances)


def check_surface(prefix: str, pair: MaskPair, distances: dict[str, Any]) -> None:
    ours = {
        name: score(METRICS[name], pair) for name in METRICS if name.startswith(prefix) and "_voxel" not in name
        if METRICS[name].function.startswith("surface:")
    }  # fmt: skip
    there, back = distances["average"]
    equal(ours[f"{prefix}assd"], (there + back) / 2)
    equal(ours[f"{prefix}hd95"], distances["hd95"])
    if not prefix:
        for name, expected in (("msd", (there + back) / 2), ("msd_ref_to_pred", there), ("msd_pred_to_ref", back)):
            equal(ours[name], expected)
    for tolerance, expected in zip(SURFACE["nsd_tolerances_mm"], distances["nsd"], strict=True):
        equal(score(METRICS[f"{prefix}nsd"], MaskPair(pair.ref, pair.pred, pair.spacing, tolerance)), expected)


def check_group(matching: Matching, expected: dict[str, Any]) -> None:
    assert [len(matching.matches), len(matching.spurious), len(matching.missed)] == [
        expected["tp"],
        expected["fp"],
        expected["fn"],
    ]
    for name, theirs in GROUP_NAMES.items():
        # Without instances on one side panoptica divides by zero; the registry declares what we say.
        if theirs in expected:
            equal(score_group(METRICS[name], Group(matching)), expected[theirs])
    for own, theirs in zip(
        sorted(m.dice for m in matching.matches), expected.get("dice_of_matches", []), strict=True
    ):  # fmt: skip
        equal(own, theirs)


def check_levels(
    true: np.ndarray, found: np.ndarray, matching: Matching, spacing: Any, overlap: dict, distances: dict
) -> None:  # fmt: skip
    level = {m.ref: MaskPair(true == m.ref, found == m.pred, spacing) for m in matching.matches}
    for m in matching.matches:
        equal(score(METRICS["level_dice"], level[m.ref]), m.dice)
        if m.iou > 0.5:
            assert distances[str(m.ref)]["pred"] == m.pred
            check_surface("level_", level[m.ref], distances[str(m.ref)])
    group = Group(matching, level)
    if level:
        equal(score_group(METRICS["instance_assd_voxel"], group), overlap["sq_assd"])
        if tuple(spacing) == UNIT:
            equal(score_group(METRICS["instance_assd_in_voxels"], group), overlap["sq_assd"])
    if level and all(m.iou > 0.5 for m in matching.matches):
        averages = [sum(distances[str(m.ref)]["average"]) / 2 for m in matching.matches]
        equal(score_group(METRICS["instance_assd"], group), sum(averages) / len(averages))


def check_pair(pair: dict[str, Any], overlap: dict[str, Any], distances: dict[str, Any]) -> None:
    assert pair["spacing"] == pytest.approx(overlap["spacing"], rel=1e-7)
    if "ref" in pair:
        labels = [int(label) for label in overlap["classes"]]
        for label, masks in label_pairs(pair["ref"], pair["pred"], labels, pair["spacing"]):
            check_class(masks, overlap["classes"][str(label)], distances["classes"][str(label)])
    if "true" in pair:
        table = overlap_table(pair["true"], pair["found"])
        for name, ids in GROUPS.items():
            matching = match(table, ids)
            check_group(matching, overlap["groups"][name])
            check_levels(
                pair["true"], pair["found"], matching, pair["spacing"], overlap["groups"][name],
                distances["groups"][name],
            )  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
def test_random_pair(seed: int) -> None:
    overlap, distances = PANOPTICA["random"][seed], SURFACE["random"][seed]
    pair = pairs.random_pair(seed)
    assert pairs.digest(pair) == overlap["sha256"] == distances["sha256"], "other arrays than the reference saw"
    check_pair(pair, overlap, distances)


@pytest.mark.parametrize("name", REAL)
def test_real_pair(name: str, test_data: Path) -> None:
    index = REAL.index(name)
    row, overlap, distances = pairs.REAL[index], PANOPTICA["real"][index], SURFACE["real"][index]
    assert overlap["name"] == distances["name"] == name
    for side in ("ref", "pred"):
        assert sha256(test_data / row[side]) == overlap[f"{side}_sha256"] == distances[f"{side}_sha256"]
    pair = pairs.real_pair(row, test_data)
    volume = read_volume(test_data / row["ref"])
    assert volume.spacing == pytest.approx(pair["spacing"], rel=1e-12)
    if "ref" in pair:
        assert np.array_equal(volume.array, pair["ref"])
    check_pair(pair, overlap, distances)


@pytest.mark.parametrize("spacing", pairs.SPACINGS)
def test_area_of_every_surface_cube(spacing: tuple[float, float, float]) -> None:
    expected = SURFACE["surfel_areas"]["x".join(map(str, spacing))]
    assert surfel_areas(spacing) == pytest.approx(expected, rel=1e-12)


def test_fixture_says_where_it_comes_from() -> None:
    for name, section in FIXTURE.items():
        assert f"make_metrics.py --oracle {name}" in section["command"]
        assert len(section["versions"]) >= 3
        assert len(section["random"]) == pairs.N_RANDOM >= 20
        assert len(section["real"]) == len(pairs.REAL) >= 5
    assert PANOPTICA["versions"]["panoptica"] == "2.1.7"


def test_every_registry_row_names_an_oracle_of_the_fixture() -> None:
    stored = {"panoptica 2.1.7", "surface-distance 0.1 (DeepMind)"}
    # SimpleITK is installed with the project; test_evaluate_identification.py has VerSe's definition by brute force.
    assert {row.equals.split(", ")[0] for row in METRICS.values()} == stored | {"SimpleITK", "VerSe's definition"}


@pytest.mark.parametrize("seed", SEEDS)
def test_precision_and_recall_equal_simpleitk(seed: int) -> None:
    pair = pairs.random_pair(seed)
    for label, masks in label_pairs(pair["ref"], pair["pred"], pairs.LABELS, pair["spacing"]):
        if masks.ref_voxels and masks.pred_voxels:
            theirs = sitk.LabelOverlapMeasuresImageFilter()
            theirs.Execute(*(sitk.GetImageFromArray(pair[side]) for side in ("pred", "ref")))
            equal(score(METRICS["precision"], masks), 1 - theirs.GetFalseDiscoveryRate(label))
            equal(score(METRICS["recall"], masks), 1 - theirs.GetFalseNegativeError(label))
