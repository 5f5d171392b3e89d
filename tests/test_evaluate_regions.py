"""Regions: which instance is where, the map of nearest instances, and scores of parts that add up to the whole."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from evaluation_folders import AFFINE, Folders, instances, save, semantic
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial import cKDTree

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.evaluate.pairs import MaskPair, score
from nnunet_spine_ext.evaluate.regions import REGIONS, region_map, region_of, region_parts
from nnunet_spine_ext.evaluate.registry import METRICS

IDS = (0, 0, 0, 7, 19, 24, 26, 107, 119, 224, 27, 28)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def test_every_instance_has_its_region() -> None:
    names = {
        "cervical": (1, 7, 107, 207),
        "thoracic": (8, 19, 28, 119),
        "lumbar": (20, 25, 124),
        "sacral": (26, 27, 33),
    }
    for region, ids in names.items():
        assert {region_of(label) for label in ids} == {region}
    assert region_of(50) is None


@given(arrays(np.uint16, (4, 5, 3), elements=st.sampled_from(IDS)), st.tuples(*[st.floats(1.6, 4.0)] * 3))
def test_every_voxel_belongs_to_the_nearest_instance(array: np.ndarray, spacing: tuple[float, float, float]) -> None:
    found = region_map(array, spacing)
    points = np.argwhere(array > 0)
    if len(points) == 0:
        assert found is None
        return
    assert found is not None
    regions = np.array([REGIONS.index(region_of(label)) + 1 for label in array[tuple(points.T)]])
    tree = cKDTree(points * np.asarray(spacing))
    for voxel in np.ndindex(array.shape):
        place = np.asarray(voxel) * spacing
        near = tree.query_ball_point(place, tree.query(place)[0] * (1 + 1e-9) + 1e-9)
        assert found[voxel] in regions[near]


def test_a_fine_grid_is_right_within_two_voxels_of_the_border() -> None:
    array = np.zeros((60, 6, 6), np.uint16)
    array[10, 3, 3], array[50, 3, 3] = 19, 20
    found = region_map(array, (0.5, 0.5, 0.5))
    assert found is not None
    assert (found[:26] == 2).all()
    assert (found[34:] == 3).all()
    # A single voxel between the samples of the coarse grid is not lost.
    lonely = np.zeros((9, 9, 9), np.uint16)
    lonely[1, 1, 1] = 3
    assert (region_map(lonely, (0.5, 0.5, 0.5)) == 1).all()


@given(
    arrays(np.bool_, (6, 5, 4)), arrays(np.bool_, (6, 5, 4)), arrays(np.uint8, (6, 5, 4), elements=st.integers(1, 4))
)
def test_parts_add_up_to_the_whole(ref: np.ndarray, pred: np.ndarray, regions: np.ndarray) -> None:
    pair = MaskPair(ref, pred, (1.0, 2.0, 1.5))
    parts = [part for _, part in region_parts(pair, regions)]
    for name in ("ref_voxels", "pred_voxels", "overlap"):
        assert sum(getattr(part, name) for part in parts) == getattr(pair, name)
    assert sum(score(METRICS["volume_error"], part) for part in parts) == pytest.approx(
        score(METRICS["volume_error"], pair) if ref.any() or pred.any() else 0.0
    )
    for region, part in region_parts(pair, regions):
        assert part.ref_voxels or not ref.any()
        own = regions == 1 + REGIONS.index(region)
        inside = part.parts == part.number
        # Nothing of a region goes elsewhere; what comes from elsewhere is from regions without reference.
        assert inside[own].all()
        assert not ref[inside & ~own].any()
        cut = MaskPair(ref & inside, pred & inside, pair.spacing)
        for name in ("dice", "iou", "precision", "recall"):
            assert score(METRICS[name], part) == pytest.approx(score(METRICS[name], cut), nan_ok=True)
    if ref.any() and pred.any():
        check_surfaces(pair, regions)


def check_surfaces(pair: MaskPair, regions: np.ndarray) -> None:
    parts = [part for _, part in region_parts(pair, regions)]
    for kind in ("surfaces", "boundaries"):
        whole = getattr(pair, kind)
        for side in ("ref", "pred"):
            areas = [getattr(getattr(part, kind), f"{side}_areas") for part in parts]
            assert sum(a.sum() for a in areas) <= getattr(whole, f"{side}_areas").sum() * (1 + 1e-9)
    # Regions that neither mask reaches may still hold corners of surfels; boundary voxels are always inside.
    boundaries = [part.boundaries for part in parts]
    total = sum((b.ref_to_pred).sum() for b in boundaries)
    assert total == pytest.approx(pair.boundaries.ref_to_pred.sum())


def test_cutting_a_structure_makes_no_new_surface() -> None:
    # A rod across two regions, predicted one voxel too thick on one side.
    ref, pred = np.zeros((40, 9, 9), bool), np.zeros((40, 9, 9), bool)
    ref[2:38, 3:6, 3:6], pred[2:38, 3:7, 3:6] = True, True
    regions = np.ones((40, 9, 9), np.uint8)
    regions[20:] = 2
    pair = MaskPair(ref, pred, (1.0, 1.0, 1.0))
    parts = dict(region_parts(pair, regions))
    for name in ("assd", "assd_voxel", "nsd", "hd95"):
        whole = score(METRICS[name], pair)
        for part in parts.values():
            assert score(METRICS[name], part) == pytest.approx(whole, rel=0.05), name
    top, bottom = np.where(regions == 1, ref, 0).astype(bool), np.where(regions == 1, pred, 0).astype(bool)
    # Scoring the cut masks would count the cut itself as a perfect surface.
    assert score(METRICS["assd"], MaskPair(top, bottom, pair.spacing)) < score(METRICS["assd"], parts["cervical"])


def test_a_prediction_that_leaks_into_the_next_region_is_no_structure_of_its_own() -> None:
    # Regions of five slices each; the structure is in the thoracic and lumbar ones.
    regions = np.repeat(np.arange(1, 5, dtype=np.uint8), 5)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    ref = np.zeros(regions.shape, bool)
    ref[5:15] = True
    pred = ref.copy()
    pred[4, 0, 0] = pred[15, 0, 0] = pred[16, 0, 0] = True
    found = dict(region_parts(MaskPair(ref, pred, (1.0, 1.0, 1.0)), regions))
    assert set(found) == {"thoracic", "lumbar"}
    assert [found[region].pred_voxels for region in ("thoracic", "lumbar")] == [81, 82]
    # Without any reference every part is a false alarm where it is.
    assert set(dict(region_parts(MaskPair(ref & False, pred, (1.0, 1.0, 1.0)), regions))) == set(REGIONS)


def test_rows_of_classes_instances_and_levels_by_region(folders: Folders) -> None:
    found = instances()
    found[found == 20] = 0
    worse = semantic()
    worse[1:3] = 0
    folders.add("a", semantic(), worse)
    folders.add_instances("a", instances(), found)
    result = folders.run(regions=True)
    rows = {(row.label, row.metric): row for row in result.rows if row.scope == "region"}
    assert rows["thoracic vertebra", "pq"].value == 1.0
    assert rows["lumbar vertebra", "pq"].value == 0.0
    assert rows["lumbar vertebra", "level_dice"].value == 0.0
    assert math.isinf(rows["lumbar vertebra", "level_assd"].value)
    assert rows["lumbar disc", "level_dice"].value == 1.0
    assert rows["thoracic cord", "dice"].value < rows["lumbar cord", "dice"].value == 1.0
    assert {row.region for row in rows.values()} == {"thoracic", "lumbar"}
    lines = folders.summary()["regions"]
    assert [line["label"] for line in lines if line["region"] == "lumbar"] == [
        "lumbar vertebra", "lumbar disc", "lumbar cord", "lumbar canal",
    ]  # fmt: skip
    text = (folders.out / "summary.md").read_text(encoding="utf-8")
    assert "## Regions" in text
    assert "| lumbar cord | 1.000 (1) |" in text
    line = next(row for row in (folders.out / "metrics.csv").read_text().splitlines() if "lumbar cord,dice" in row)
    assert line == "a,1,lumbar cord,dice,1.0,region,done,lumbar"
    # The other scopes do not change.
    before = {(r.label, r.metric): r.value for r in folders.run().rows}
    after = {(r.label, r.metric): r.value for r in result.rows if r.scope != "region"}
    assert before == pytest.approx(after, nan_ok=True)


def test_regions_need_only_the_instances_of_the_reference(folders: Folders) -> None:
    folders.add("a", semantic(), semantic())
    folders.add("b", semantic(), None)
    folders.add("c", semantic(), semantic())
    for case in "ab":
        save(folders.ref_instances / f"{case}.nii.gz", instances())
    result = folders.run(regions=True, metrics=("dice",))
    values = folders.values()
    assert values["a", "thoracic cord", "dice"] == 1.0
    assert values["b", "thoracic cord", "dice"] == 0.0
    assert ("c", "thoracic cord", "dice") not in values
    assert [problem.code for problem in result.summary.warnings["c"]] == ["W-EVAL-NOREF"]


def test_instances_on_another_grid_say_nothing_about_classes(folders: Folders) -> None:
    folders.add("a", semantic(), semantic())
    shifted = AFFINE.copy()
    shifted[:3, 3] += 30
    folders.pred_instances.mkdir()
    for folder in (folders.ref_instances, folders.pred_instances):
        save(folder / "a.nii.gz", instances(), shifted)
    result = folders.run(regions=True)
    assert [problem.code for problem in result.summary.warnings["a"]] == ["W-EVAL-NOREGION"]
    labels = {row.label for row in result.rows if row.scope == "region"}
    assert labels == {"thoracic vertebra", "lumbar vertebra", "thoracic disc", "lumbar disc"}


def test_regions_without_instances_or_numbers_are_wrong_usage(folders: Folders) -> None:
    folders.add("a", semantic(), semantic())
    with pytest.raises(UsageError, match="E-EVAL-INSTANCES"):
        folders.run(regions=True)
    with pytest.raises(UsageError, match="--regions with --instance-ids any"):
        folders.run(regions=True, instance_ids="any")
    assert not folders.out.exists()
