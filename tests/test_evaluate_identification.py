"""Identification rate, localisation distance, perfect sequences, and matching by largest overlap, by brute force."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from evaluation_folders import Folders, instances, semantic
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import center_of_mass

from nnunet_spine_ext.core.io import write_json
from nnunet_spine_ext.evaluate.identification import locate
from nnunet_spine_ext.evaluate.matching import Matching, match_overlap, overlap_table
from nnunet_spine_ext.evaluate.panoptic import Group, score_group
from nnunet_spine_ext.evaluate.registry import DEFAULT_METRICS, METRICS, select
from nnunet_spine_ext.evaluate.scoring import Settings, score_instances

POINTS = st.dictionaries(st.integers(1, 7), st.tuples(*[st.floats(-60, 60)] * 3), max_size=7)
LEVELS = st.sampled_from((0, 3, 4, 20, 21, 120, 121, 220))
SPACING = (1.0, 3.0, 12.0)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def identified_by_hand(ref: dict[int, tuple], pred: dict[int, tuple]) -> dict[int, float]:
    """Return the distance of every identified vertebra, written from the challenge's text alone."""
    hits = {}
    for label in ref:
        if label in pred:
            nearest, shortest = None, math.inf
            for other, centre in ref.items():
                apart = math.dist(centre, pred[label])
                # The right one wins a draw.
                if apart < shortest or (apart == shortest and other == label):
                    nearest, shortest = other, apart
            if nearest == label and shortest < 20:
                hits[label] = shortest
    return hits


def check(group: Group, ref: dict[int, tuple], pred: dict[int, tuple], penalty: float | None) -> None:
    hits = identified_by_hand(ref, pred)
    value = {name: score_group(METRICS[name], group) for name in ("id_rate", "localisation_distance")}
    perfect = score_group(METRICS["perfect_sequence"], group)
    if not ref:
        assert all(map(math.isnan, (*value.values(), perfect)))
        return
    assert value["id_rate"] == pytest.approx(len(hits) / len(ref), abs=1e-12)
    assert perfect == float(len(hits) == len(ref))
    charged = [] if penalty is None else [penalty] * (len(ref) - len(hits))
    distances = [*hits.values(), *charged]
    expected = sum(distances) / len(distances) if distances else math.inf
    assert value["localisation_distance"] == pytest.approx(expected, rel=1e-9)


@given(POINTS, POINTS, st.sampled_from((None, 1000.0)))
def test_identification_equals_brute_force(ref: dict, pred: dict, penalty: float | None) -> None:
    matching = Matching((), tuple(ref), tuple(pred))
    check(Group(matching, {}, locate(ref, pred), penalty), ref, pred, penalty)


@given(arrays(np.uint8, (5, 4, 3), elements=LEVELS), arrays(np.uint8, (5, 4, 3), elements=LEVELS))
def test_masks_give_the_values_of_their_centres(true: np.ndarray, found: np.ndarray) -> None:
    settings = Settings((), tuple(select(DEFAULT_METRICS, "group")), tuple(select(DEFAULT_METRICS, "level")), 1, 0.5,
                        "spineps")  # fmt: skip
    rows, _ = score_instances("case", true, found, SPACING, settings)
    values = {(row.label, row.metric): row.value for row in rows}
    for kind, ids in (("vertebra", (3, 4, 20, 21)), ("disc", (120, 121))):
        ref, pred = (
            {n: tuple(np.multiply(center_of_mass(side == n), SPACING)) for n in ids if (side == n).any()}
            for side in (true, found)
        )
        if ref:
            hits = identified_by_hand(ref, pred)
            assert values[kind, "id_rate"] == pytest.approx(len(hits) / len(ref))
            expected = sum(hits.values()) / len(hits) if hits else math.inf
            assert values[kind, "localisation_distance"] == pytest.approx(expected, abs=1e-9)


def test_twenty_millimetres_are_too_far() -> None:
    ref, pred = {3: (0.0, 0.0, 0.0)}, {3: (0.0, 0.0, 20.0)}
    assert not locate(ref, pred)[3].identified
    assert locate(ref, {3: (0.0, 0.0, 19.999)})[3].identified


def test_numbers_shifted_by_one_level_identify_nothing() -> None:
    ref = {label: (0.0, 0.0, 15.0 * label) for label in range(8, 20)}
    shifted = {label + 1: point for label, point in ref.items()}
    found = locate(ref, shifted)
    # The neighbour is only 15 mm away, but it is nearer to another vertebra.
    assert not any(place.identified for place in found.values())
    assert found[8].distance == math.inf
    assert found[9].distance == pytest.approx(15.0)


def test_rates_over_all_cases_are_pooled_and_missing_cases_count(folders: Folders) -> None:
    wrong = instances()
    wrong[wrong == 20] = 22
    for case, found in (("a", instances()), ("b", wrong), ("c", None)):
        folders.add(case, semantic(), semantic() if case != "c" else None)
        folders.add_instances(case, instances(), found)
    result = folders.run()
    assert result.exit_code == 3
    values = folders.values()
    assert [values[case, "vertebra", "id_rate"] for case in "abc"] == [1.0, 0.5, 0.0]
    assert [values[case, "vertebra", "perfect_sequence"] for case in "abc"] == [1.0, 0.0, 0.0]
    assert [values[case, "L1", "level_identified"] for case in "abc"] == [1.0, 0.0, 0.0]
    assert math.isinf(values["c", "vertebra", "localisation_distance"])
    pooled = folders.summary()["identification"]["vertebra"]
    assert pooled == {
        "instances": 6, "identified": 3, "rate": 0.5, "mean_distance_mm": 0.0, "cases": 3, "perfect_sequences": 1,
        "perfect_rate": pytest.approx(1 / 3),
    }  # fmt: skip
    assert "| vertebra | 3 of 6 | 0.500 | 0.000 | 1 of 3 |" in result.render()
    folders.run(missing_distance=30.0)
    assert folders.values()["c", "vertebra", "localisation_distance"] == 30.0
    assert folders.values()["b", "vertebra", "localisation_distance"] == 15.0


def test_a_missing_case_is_the_worst_case_in_every_metric(folders: Folders) -> None:
    folders.add("a", semantic(), semantic())
    folders.add("b", semantic(), None)
    folders.add_instances("a", instances(), instances())
    folders.add_instances("b", instances(), None)
    folders.run(metrics=tuple(METRICS), regions=True)
    content = folders.summary()
    lines = [line for part in ("classes", "groups", "levels", "regions") for line in content[part]]
    checked = set()
    for line in lines:
        for name, found in line["metrics"].items():
            row = METRICS[name]
            if found["excluded_undefined"] == 2:
                continue  # a class that is in no reference
            checked.add(name)
            worst = row.edge_case(ref_empty=False, pred_empty=True)
            if worst is not None and math.isfinite(worst):
                assert found["n"] == 2
                assert worst in (found["lowest"], found["highest"])
            elif row.unit == "mL":
                assert found["lowest"] < 0
            else:
                assert (found["n"], found["excluded_infinite"]) == (1, 1), name
    assert checked == set(METRICS)


# --- SPIDER's matching ----------------------------------------------------------------------------------------------


@given(arrays(np.uint8, (4, 4, 3), elements=st.integers(0, 5)), arrays(np.uint8, (4, 4, 3), elements=st.integers(0, 5)))
def test_largest_overlap_equals_brute_force(ref: np.ndarray, pred: np.ndarray) -> None:
    found = match_overlap(overlap_table(ref, pred))
    partner = {}
    for label in np.unique(ref[ref > 0]).tolist():
        inside = pred[(ref == label) & (pred > 0)].tolist()
        if inside:
            partner[label] = max(sorted(set(inside)), key=inside.count)
    assert found.partner == partner
    assert sorted(found.missed) == sorted(set(np.unique(ref[ref > 0]).tolist()) - partner.keys())
    assert sorted(found.spurious) == sorted(set(np.unique(pred[pred > 0]).tolist()) - set(partner.values()))
    assert found.n_pred == len(np.unique(pred[pred > 0]))
    for m in found.matches:
        r, p = ref == m.ref, pred == m.pred
        assert m.dice == pytest.approx(2 * (r & p).sum() / (r.sum() + p.sum()))
    for name in ("instance_precision", "instance_recall", "instance_dice"):
        value = score_group(METRICS[name], Group(found))
        assert math.isnan(value) or 0 <= value <= 1


def test_one_predicted_vertebra_may_stand_for_two(folders: Folders) -> None:
    merged = instances()
    merged[merged == 20] = 19
    folders.add("a", semantic(), semantic())
    folders.add_instances("a", instances(), merged)
    result = folders.run(matching="overlap")
    values = folders.values()
    assert values["a", "T12", "level_dice"] == values["a", "L1", "level_dice"] == pytest.approx(2 / 3)
    assert values["a", "vertebra", "instance_dice"] == pytest.approx(2 / 3)
    assert math.isfinite(values["a", "vertebra", "instance_assd"])
    assert ("a", "vertebra", "pq") not in values
    assert result.remarks == ["rq, sq, pq not computed: with --matching overlap one instance may stand for several."]
    assert folders.summary()["cases"]["a"]["instances"]["vertebra"]["matched"] == {"19": 19, "20": 19}
    folders.run()
    assert folders.values()["a", "L1", "level_dice"] in (0.0, pytest.approx(2 / 3))
    assert folders.values()["a", "vertebra", "rq"] == pytest.approx(2 / 3)


def test_numbers_that_mean_nothing_identify_nothing(folders: Folders) -> None:
    folders.add("a", semantic(), semantic())
    folders.add_instances("a", instances(), instances())
    result = folders.run(instance_ids="any")
    assert "id_rate, localisation_distance, perfect_sequence, level_identified" in result.remarks[0]
    assert not {"id_rate", "level_distance"} & {row.metric for row in result.rows}
    assert folders.summary()["identification"] == {}


def _counted() -> np.ndarray:
    """Return the instances of the reference with the ids of our network-free step: 1, 2, … from the top."""
    found = instances()
    for count, level in enumerate((19, 20), start=1):
        found[found == level], found[found == 100 + level] = count, 100 + count
    found[13, 11, 5] = 3
    return found


@pytest.mark.parametrize("file", ["qc", "centroids"])
def test_counted_instances_are_matched_but_never_taken_for_levels(file: str, folders: Folders) -> None:
    for case, found in (("a", instances()), ("b", _counted())):
        folders.add(case, semantic(), semantic())
        folders.add_instances(case, instances(), found)
    says = {"numbered": False}
    write_json(folders.pred / file / "b.json", says if file == "qc" else [says, {}])
    result = folders.run(metrics=("all",), regions=True)
    values = folders.values()
    assert values["b", "vertebra", "instance_recall"] == values["b", "L1", "level_dice"] == 1.0
    for label, metric in (
        ("vertebra", "id_rate"), ("vertebra", "perfect_sequence"), ("disc", "localisation_distance"),
        ("L1", "level_identified"), ("L1", "level_distance"), ("lumbar vertebra", "id_rate"),
    ):  # fmt: skip
        assert math.isnan(values["b", label, metric]), (label, metric)
        assert math.isfinite(values["a", label, metric]), (label, metric)
    # The speck numbered 3 lies beside L1; by its number it would be cervical.
    assert values["b", "lumbar vertebra", "instance_precision"] == 0.5
    assert "cervical" not in {row.region for row in result.rows}
    pooled = folders.summary()["identification"]["vertebra"]
    assert (pooled["instances"], pooled["rate"], pooled["cases"]) == (2, 1.0, 1)
    assert any("1 case (b): the predicted vertebrae are counted" in remark for remark in result.remarks)


def test_without_any_numbers_there_is_no_identification_over_all_cases(folders: Folders) -> None:
    folders.add("b", semantic(), semantic())
    folders.add_instances("b", instances(), _counted())
    # A missing prediction of such a model is no rate of zero either.
    folders.add("c", semantic(), None)
    folders.add_instances("c", instances(), None)
    write_json(folders.pred / "qc" / "b.json", {"numbered": False})
    text = folders.run().render()
    assert math.isnan(folders.values()["c", "vertebra", "id_rate"])
    assert folders.values()["c", "vertebra", "pq"] == 0.0
    assert folders.summary()["identification"] == {}
    assert "Identification over all cases" not in text
    assert "counted from the top" in text
