"""Properties of the metrics: bounds, symmetry, geometry, edge cases, matching."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist

from nnunet_spine_ext.evaluate.identification import locate
from nnunet_spine_ext.evaluate.matching import Matching, match, overlap_table
from nnunet_spine_ext.evaluate.pairs import MaskPair, label_pairs, score
from nnunet_spine_ext.evaluate.panoptic import Group, score_group
from nnunet_spine_ext.evaluate.registry import METRICS, Metric
from nnunet_spine_ext.evaluate.surface import surface_distances, surfel_areas
from nnunet_spine_ext.evaluate.tables import statistic

MASK_METRICS = [row for row in METRICS.values() if row.scope in ("class", "level") and not row.needs_centres]
MATCHING_METRICS = [
    row for row in METRICS.values() if row.scope == "group" and not (row.unit or row.needs_spacing or row.needs_centres)
]
# What a metric becomes when reference and prediction change places.
TWINS = {"precision": "recall", "recall": "precision", "msd_ref_to_pred": "msd_pred_to_ref"}
TWINS |= {"msd_pred_to_ref": "msd_ref_to_pred", "level_precision": "level_recall", "level_recall": "level_precision"}
SHAPES = st.tuples(*[st.integers(1, 6)] * 3)
SPACINGS = st.tuples(*[st.floats(0.3, 5.0, allow_nan=False)] * 3)
FEW = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


def masks(shape: tuple[int, int, int]) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.bool_, shape, elements=st.booleans(), fill=st.booleans())


@st.composite
def mask_pairs(draw: Callable[..., Any]) -> MaskPair:
    shape = draw(SHAPES)
    ref, pred = draw(masks(shape)), draw(masks(shape))
    assume(ref.any() and pred.any())
    return MaskPair(ref, pred, draw(SPACINGS))


@st.composite
def instance_pairs(draw: Callable[..., Any]) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(SHAPES)
    ids = st.integers(0, 5)
    return draw(arrays(np.uint8, shape, elements=ids)), draw(arrays(np.uint8, shape, elements=ids))


def close(a: float, b: float) -> bool:
    return a == pytest.approx(b, rel=1e-9, abs=1e-12, nan_ok=True)


# --- two masks -----------------------------------------------------------------------------------------------------


@FEW
@given(mask_pairs())
def test_values_stay_in_the_declared_bounds_and_roles_can_be_exchanged(pair: MaskPair) -> None:
    exchanged = MaskPair(pair.pred, pair.ref, pair.spacing)
    for row in MASK_METRICS:
        value, back = score(row, pair), score(METRICS[TWINS.get(row.name, row.name)], exchanged)
        assert row.bounds[0] <= value <= row.bounds[1] + 1e-12, row.name
        if row.unit == "mL":
            assert close(value, -back)
        elif row.direction != "zero":
            assert close(value, back), row.name


@FEW
@given(mask_pairs())
def test_a_perfect_prediction_gets_the_best_value(pair: MaskPair) -> None:
    same = MaskPair(pair.ref, pair.ref.copy(), pair.spacing)
    for row in MASK_METRICS:
        assert close(score(row, same), 1.0 if row.direction == "higher" else 0.0), row.name


@FEW
@given(mask_pairs(), st.permutations(range(3)), st.tuples(*[st.integers(0, 3)] * 6))
def test_values_do_not_depend_on_axis_order_flips_or_the_room_around(
    pair: MaskPair, order: list[int], room: tuple[int, ...]
) -> None:
    margins = [(room[2 * axis], room[2 * axis + 1]) for axis in range(3)]

    def moved(mask: np.ndarray) -> np.ndarray:
        return np.flip(np.pad(mask.transpose(order), margins), axis=room[0] % 3)

    spacing = tuple(pair.spacing[axis] for axis in order)
    other = MaskPair(moved(pair.ref), moved(pair.pred), spacing)  # type: ignore[arg-type]
    for row in MASK_METRICS:
        assert close(score(row, other), score(row, pair)), row.name


@FEW
@given(mask_pairs())
def test_spacing_enters_exactly_where_the_registry_says(pair: MaskPair) -> None:
    doubled = tuple(2 * size for size in pair.spacing)
    other = MaskPair(pair.ref, pair.pred, doubled, 2 * pair.tolerance_mm)  # type: ignore[arg-type]
    for row in MASK_METRICS:
        factor = {"mm": 2.0, "mL": 8.0}.get(row.unit, 1.0)
        assert close(score(row, other), factor * score(row, pair)), row.name
        if not row.needs_spacing:
            assert score(row, MaskPair(pair.ref, pair.pred, (0.1, 7.0, 3.0))) == score(row, pair)


@FEW
@given(mask_pairs())
def test_dice_and_iou_say_the_same(pair: MaskPair) -> None:
    iou = score(METRICS["iou"], pair)
    assert close(score(METRICS["dice"], pair), 2 * iou / (1 + iou))


@FEW
@given(mask_pairs())
def test_surface_distances_equal_brute_force(pair: MaskPair) -> None:
    def surface(mask: np.ndarray) -> np.ndarray:
        padded = np.pad(mask, 1)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (2, 2, 2)).reshape(*(n + 1 for n in mask.shape), 8)
        return np.argwhere(windows.any(axis=-1) & ~windows.all(axis=-1)) * np.asarray(pair.spacing)

    found = surface_distances(pair.ref, pair.pred, pair.spacing)
    apart = cdist(surface(pair.ref), surface(pair.pred))
    np.testing.assert_allclose(found.ref_to_pred, apart.min(axis=1), atol=1e-9)
    np.testing.assert_allclose(found.pred_to_ref, apart.min(axis=0), atol=1e-9)
    assert found.ref_areas.min() > 0


def test_area_of_a_flat_face_is_exact() -> None:
    slab = np.zeros((12, 12, 4), dtype=bool)
    slab[:, :, 1:3] = True
    spacing = (0.5, 2.0, 3.0)
    inner = surface_distances(slab, slab, spacing).ref_areas
    # 11 x 11 cubes lie inside each large face, away from the rim.
    assert np.isclose(inner, 0.5 * 2.0).sum() == 2 * 11 * 11


def test_a_sphere_has_its_area() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(-20, 21)] * 3, indexing="ij"))
    ball = (grid**2).sum(axis=0) <= 16.5**2
    area = surface_distances(ball, ball, (1.0, 1.0, 1.0)).ref_areas.sum()
    # Half-way vertices make a faceted ball: about 9 % too much surface at any resolution.
    assert area == pytest.approx(4 * math.pi * 16.5**2, rel=0.1)
    assert len(surfel_areas((1.0, 1.0, 1.0))) == 256


def test_shifted_cube_by_hand() -> None:
    ref = np.zeros((10, 10, 10), dtype=bool)
    ref[2:6, 2:6, 2:6] = True
    pair = MaskPair(ref, np.roll(ref, 2, axis=0), (1.5, 1.0, 1.0))
    assert score(METRICS["dice"], pair) == 0.5
    assert score(METRICS["iou"], pair) == pytest.approx(1 / 3)
    assert score(METRICS["volume_error"], pair) == 0.0
    assert score(METRICS["hd95"], pair) == pytest.approx(3.0)
    bigger = MaskPair(ref, ref | np.roll(ref, 2, axis=0), (1.5, 1.0, 1.0))
    assert score(METRICS["volume_error"], bigger) == pytest.approx(32 * 1.5 / 1000)
    assert score(METRICS["relative_volume_error"], bigger) == pytest.approx(50.0)


# --- edge cases ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", METRICS.values(), ids=lambda row: row.name)
@pytest.mark.parametrize("empty", [(True, False), (False, True), (True, True)], ids=("ref", "pred", "both"))
def test_empty_sides_give_the_declared_value_and_never_break_a_mean(row: Metric, empty: tuple[bool, bool]) -> None:
    declared = row.edge_case(ref_empty=empty[0], pred_empty=empty[1])
    if row.scope == "group" or row.needs_centres:
        sides = [() if is_empty else (3, 4) for is_empty in empty]
        locations = locate(*({label: (0.0, 0.0, 9.0 * label) for label in side} for side in sides))
        if row.scope == "level":
            value = row.resolve()(locations[3]) if 3 in locations else math.nan
        else:
            value = score_group(row, Group(Matching((), sides[0], sides[1]), {}, locations))
    else:
        full = np.ones((2, 3, 4), dtype=bool)
        ref, pred = (full & (not is_empty) for is_empty in empty)
        value = score(row, MaskPair(ref, pred, (1.0, 1.0, 2.0)))
    if declared is None:
        # Nobody was found, so there is no distance; a penalty may be charged instead.
        assert math.isfinite(value) or row.name == "localisation_distance"
    elif row.scope == "level" and row.needs_centres and empty[0]:
        assert math.isnan(value)
    else:
        assert close(value, declared)
    found = statistic([0.25, value, 0.75])
    assert found.n + found.excluded_undefined + found.excluded_infinite == 3
    assert found.mean is not None
    assert math.isfinite(found.mean)


def test_statistics_count_what_they_leave_out() -> None:
    found = statistic([1.0, 3.0, math.nan, math.inf, math.inf])
    assert (found.n, found.mean, found.median, found.excluded_undefined, found.excluded_infinite) == (2, 2.0, 2.0, 1, 2)
    assert found.sd == pytest.approx(math.sqrt(2))
    assert statistic([math.nan]).mean is None
    assert statistic([2.0]).sd is None


# --- instances -----------------------------------------------------------------------------------------------------


@FEW
@given(instance_pairs(), st.permutations(range(1, 6)), st.permutations(range(1, 6)))
def test_numbers_of_instances_do_not_matter(
    pair: tuple[np.ndarray, np.ndarray], ref_order: list[int], pred_order: list[int]
) -> None:
    # Above one half the matching is unique; at exactly one half ties are broken by number.
    before = match(overlap_table(*pair), threshold=0.5 + 1e-9)
    renumbered = [
        np.asarray([0, *order], np.uint8)[side] for side, order in zip(pair, (ref_order, pred_order), strict=True)
    ]
    after = match(overlap_table(*renumbered), threshold=0.5 + 1e-9)
    for row in MATCHING_METRICS:
        assert close(score_group(row, Group(before)), score_group(row, Group(after))), row.name
    assert {(ref_order[m.ref - 1], pred_order[m.pred - 1]) for m in before.matches} == {
        (m.ref, m.pred) for m in after.matches
    }


@FEW
@given(instance_pairs())
def test_matching_is_one_to_one_complete_and_equals_brute_force(pair: tuple[np.ndarray, np.ndarray]) -> None:
    ref, pred = pair
    found = match(overlap_table(ref, pred))
    refs, preds = [m.ref for m in found.matches], [m.pred for m in found.matches]
    assert sorted([*refs, *found.missed]) == np.unique(ref[ref > 0]).tolist()
    assert sorted([*preds, *found.spurious]) == np.unique(pred[pred > 0]).tolist()
    assert len(set(refs)) == len(refs)
    for m in found.matches:
        r, p = ref == m.ref, pred == m.pred
        assert m.iou == pytest.approx((r & p).sum() / (r | p).sum())
        assert m.iou >= 0.5
    for r in np.unique(ref[ref > 0]):
        for p in np.unique(pred[pred > 0]):
            if 2 * ((ref == r) & (pred == p)).sum() > ((ref == r) | (pred == p)).sum():
                assert (int(r), int(p)) in set(zip(refs, preds, strict=True))
    if refs or found.missed or found.spurious:
        rq, sq, pq = (score_group(METRICS[name], Group(found)) for name in ("rq", "sq", "pq"))
        assert 0 <= rq <= 1
        assert pq == pytest.approx(rq * sq)


def test_best_overlap_wins_below_one_half_and_kinds_are_never_mixed() -> None:
    ref, pred = np.zeros((10, 1, 1), np.uint16), np.zeros((10, 1, 1), np.uint16)
    ref[0:6], pred[0:2], pred[2:6] = 3, 8, 9
    loose = match(overlap_table(ref, pred), threshold=0.1)
    assert [(m.ref, m.pred) for m in loose.matches] == [(3, 9)]
    assert loose.spurious == (8,)
    disc = match(overlap_table(ref, np.where(pred > 0, 103, 0).astype(np.uint16)), range(1, 100))
    assert disc.matches == ()
    assert disc.missed == (3,)


def test_labels_are_scored_inside_their_own_box() -> None:
    ref, pred = np.zeros((30, 30, 9), np.uint8), np.zeros((30, 30, 9), np.uint8)
    ref[2:5, 3:6, 1:4], pred[3:6, 3:6, 1:4], ref[20:25, 20:25, :], pred[0, 0, 0] = 1, 1, 2, 7
    found = dict(label_pairs(ref, pred, [1, 2, 5], (1.0, 1.0, 1.0)))
    assert found[1].ref.shape == (4, 3, 3)
    assert found[2].pred_voxels == 0
    assert found[5].ref.size == 0
    assert math.isnan(score(METRICS["assd"], found[5]))
