"""The digital spine is anatomically plausible: numbers over a cohort, geometry, paintings, truth."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import cc3d
import numpy as np
import phantom_cohort as cohort
import pytest
from scipy.ndimage import distance_transform_edt, find_objects

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.phantom.cord import section_factor
from nnunet_spine_ext.phantom.islands import absorb_specks
from nnunet_spine_ext.phantom.model import Pathology
from nnunet_spine_ext.phantom.paint import Painted, paint, vote
from nnunet_spine_ext.phantom.parameters import sample_parameters
from nnunet_spine_ext.phantom.pathology import EDITS, apply
from nnunet_spine_ext.phantom.pose import rotation
from nnunet_spine_ext.phantom.spine import Spine, body_height, build_spine, endplate_gap
from nnunet_spine_ext.phantom.tables import INSTANCE_ID
from nnunet_spine_ext.phantom.tissues import TISSUE_ID, TISSUES

NAMES = tuple(name for name in INSTANCE_ID if name not in ("T13", "L6", "S1"))
LEVELS = np.arange(1.0, 25.0)
ANOMALIES = {"T11": (11, 5), "T13": (13, 5), "L4": (12, 4), "L6": (12, 6), "T11+L6": (11, 6)}


def mean(field: str, name: str) -> float:
    return float(cohort.per_level(field, name).mean())


def areas(tube: str) -> np.ndarray:
    """Areas (spines, levels 1 … 24) of cord or sac in mm²."""
    tubes = [getattr(spine, tube) for spine in cohort.healthy_spines()]
    return np.array([t.at_level(LEVELS, t.area) for t in tubes])


# --- sizes ----------------------------------------------------------------------------------------------------------


def test_posterior_heights_grow_from_c6_to_l2_and_are_lowest_at_c5():
    names = [*NAMES[5:7], *NAMES[7:19], "L1", "L2"]
    heights = [mean("height_post", name) for name in names]
    assert all(low < high for low, high in pairwise(heights))
    cervical = {name: mean("height_post", name) for name in ("C3", "C4", "C5", "C6", "C7")}
    assert min(cervical, key=cervical.__getitem__) in ("C5", "C6")
    assert mean("height_post", "L5") < mean("height_post", "L4") < mean("height_post", "L3")


def test_l5_is_higher_in_front():
    ratio = np.array([body_height(p.vertebra("L5"))[0] / body_height(p.vertebra("L5"))[2] for p in cohort.healthy()])
    assert 1.10 < ratio.mean() < 1.22
    assert np.mean(ratio > 1.0) >= 0.95


def test_widths_and_depths_follow_the_tables():
    width = {name: 0.5 * (mean("width_sup", name) + mean("width_inf", name)) for name in NAMES[1:]}
    depth = {name: 0.5 * (mean("depth_sup", name) + mean("depth_inf", name)) for name in width}
    assert width["C3"] < width["C5"] < width["C7"] < width["T1"]
    plateau = [width[f"T{i}"] for i in range(1, 6)]
    assert all(abs(value / np.mean(plateau) - 1) < 0.03 for value in plateau)
    lower = [width[name] for name in (*(f"T{i}" for i in range(6, 13)), "L1", "L2", "L3", "L4")]
    assert all(low < high for low, high in pairwise(lower))
    assert depth["C5"] < depth["C7"] < depth["T3"] < depth["T8"] < depth["L1"] <= depth["L4"] * 1.02
    assert all(0.97 < width[f"T{i}"] / depth[f"T{i}"] < 1.12 for i in range(4, 9))
    assert all(width[f"L{i}"] / depth[f"L{i}"] > 1.2 for i in range(1, 6))
    assert all(width[f"C{i}"] / depth[f"C{i}"] > 1.0 for i in range(3, 8))


def test_pedicles_and_spinous_processes():
    pedicle = {name: mean("pedicle_width", name) for name in NAMES[7:]}
    narrowest = min(pedicle, key=pedicle.__getitem__)
    assert narrowest in ("T4", "T5", "T6")
    assert pedicle[narrowest] < 6
    assert pedicle["L5"] > 2 * pedicle["T5"]
    medial = [mean("pedicle_medial", f"T{i}") for i in (1, 4, 8, 12)]
    assert medial == sorted(medial, reverse=True)
    assert mean("pedicle_medial", "L1") < mean("pedicle_medial", "L5")
    incline = {f"T{i}": mean("sp_incline", f"T{i}") for i in range(1, 13)}
    assert max(incline, key=incline.__getitem__) in ("T5", "T6", "T7")
    assert max(incline.values()) >= 45
    assert all(mean("sp_incline", f"L{i}") < 20 for i in range(1, 6))


def test_long_spinous_processes_reach_below_their_own_disc():
    for spine in cohort.healthy_spines():
        for i in range(5, 9):
            assert spine.landmark(f"T{i}_spinous_tip")[2] < spine.landmark(f"T{i}/T{i + 1}")[2]


def test_disc_heights():
    ratio = {
        d.above: np.mean([p.disc(d.above).height / p.vertebra(d.above).height_post for p in cohort.healthy()])
        for d in cohort.healthy()[0].discs
    }
    assert all(0.30 < ratio[f"C{i}"] < 0.45 for i in range(3, 8))
    assert all(0.15 < ratio[f"T{i}"] < 0.25 for i in range(3, 9))
    assert all(0.30 < ratio[f"L{i}"] < 0.45 for i in range(1, 6))
    assert min(ratio, key=ratio.__getitem__) in ("T3", "T4", "T5", "T6")
    discs = np.array([sum(d.height for d in p.discs) for p in cohort.healthy()])
    share = discs / (discs + [sum(v.height_post for v in p.vertebrae[1:]) for p in cohort.healthy()])
    assert 0.20 < share.mean() < 0.25
    assert share.min() > 0.16
    assert share.max() < 0.29


def test_column_length():
    for p, spine in zip(cohort.healthy(), cohort.healthy_spines(), strict=True):
        chain = [spine.landmark(name) for name in (*p.names[1:], "S1")]
        length = sum(np.linalg.norm(b - a) for a, b in pairwise(chain[:-1]))
        length += np.linalg.norm(spine.landmark("dens_tip") - chain[0]) + p.vertebra("L5").height_post / 2
        assert length / (615.0 * (p.stature / 1.71) ** 0.8) == pytest.approx(1.0, abs=0.12)


# --- canal and cord -------------------------------------------------------------------------------------------------


def test_cord_areas_have_both_enlargements():
    area = areas("cord").mean(0)
    upper = areas("cord")[:, 1:3].mean(1)
    assert 67 < upper.mean() < 75
    assert upper.min() > 50
    assert upper.max() < 95
    assert 3 + int(np.argmax(area[2:])) in (4, 5)
    assert np.mean(np.argmax(areas("cord")[:, 1:], axis=1) + 2 <= 6) == 1.0
    assert 10 + int(np.argmin(area[9:16])) in (12, 13, 14)
    assert 17 + int(np.argmax(area[16:20])) in (18, 19)
    assert 2.0 < area[3] / area[12] < 2.3


def test_cord_shape():
    for spine in cohort.healthy_spines():
        ratio = spine.cord.at_level(LEVELS[:17], spine.cord.half_front / spine.cord.half_right)
        assert np.all((ratio[1:7] > 0.55) & (ratio[1:7] < 0.76))
        assert np.all((ratio[7:] > 0.65) & (ratio[7:] < 0.82))


def test_cord_ends_at_the_conus():
    levels = np.array([p.cord.conus_level for p in cohort.healthy()])
    assert 19.9 < levels.mean() < 20.6
    assert levels.min() >= 19.0
    assert levels.max() <= 21.5
    for p, spine in zip(cohort.healthy(), cohort.healthy_spines(), strict=True):
        assert spine.cord.level[-1] == pytest.approx(p.cord.conus_level, abs=0.05)
        assert spine.cord.area[-1] < 3.0
        assert 0.8 < np.linalg.norm(np.diff(spine.cord.points[-40:], axis=0), axis=1).mean() / 0.25 < 1.2


def test_sac_areas():
    area = areas("sac").mean(0)
    assert 1 + int(np.argmin(area[:23])) in range(10, 16)
    assert area[0] == area.max()
    assert area[1] > area[2:].max()
    assert area[20] > area[21] < area[22]


@pytest.mark.parametrize("group", [cohort.healthy_spines, cohort.patient_spines])
def test_cord_lies_inside_the_sac(group):
    for spine in group():
        cord, sac = spine.cord, spine.sac
        axis = np.stack([np.interp(cord.level, sac.level, sac.points[:, i]) for i in range(3)], axis=1)
        offset = np.abs(np.sum((cord.points - axis) * cord.front, axis=1))
        room = np.interp(cord.level, sac.level, sac.half_front) - cord.half_front - offset
        assert room.min() > 0.6
        assert (np.interp(cord.level, sac.level, sac.half_right) - cord.half_right).min() > 1.0


# --- posture --------------------------------------------------------------------------------------------------------


def test_global_angles():
    for p in (*cohort.healthy(), *cohort.patients()):
        assert p.pelvic_incidence == pytest.approx(p.pelvic_tilt + p.sacral_slope, abs=1e-6)
        assert 15 <= p.lordosis <= 70
        assert 5 < p.sacral_slope < 60


def test_drawn_angles_are_those_of_the_geometry():
    for p, spine in zip(cohort.healthy(), cohort.healthy_spines(), strict=True):
        if p.scoliosis > 8:
            continue
        slope = {}
        for name in ("L1", "T1", "C7", "C2", "S1"):
            v = spine.bodies[name].v
            tilt = np.rad2deg(np.arctan2(*spine.poses[name].direction((0, 0, 1))[1:]))
            slope[name] = (tilt + v.wedge / 2, tilt - v.wedge / 2)
        assert slope["S1"][0] == pytest.approx(p.sacral_slope, abs=0.1)
        assert slope["S1"][0] - slope["L1"][0] == pytest.approx(p.lordosis, abs=1.5)
        assert slope["C7"][1] - slope["C2"][1] == pytest.approx(p.cervical, abs=1.5)


def test_kyphosis_is_furthest_back_in_the_middle():
    apices = []
    for spine in cohort.healthy_spines():
        points = np.array([spine.landmark(f"T{i}") for i in range(1, 13)])
        chord = (points[-1] - points[0]) / np.linalg.norm(points[-1] - points[0])
        bend = points - points[0] - np.outer((points - points[0]) @ chord, chord)
        apices.append(1 + int(np.argmin(bend[:, 1])))
    assert np.mean([5 <= apex <= 9 for apex in apices]) >= 0.95


@pytest.mark.parametrize("group", [cohort.healthy_spines, cohort.patient_spines])
def test_endplates_never_meet(group):
    for spine in group():
        assert min(endplate_gap(spine, name) for name in spine.joints) >= 1.5 - 1e-3


@pytest.mark.parametrize("cobb", [20.0, 45.0])
def test_scoliosis_bends_the_column_sideways(cobb):
    straight = build_spine(sample_parameters(3, pathologies=False, anomalies="none", scoliosis=0.0))
    bent = build_spine(
        sample_parameters(3, pathologies=False, anomalies="none", scoliosis=cobb, scoliosis_type="thoracic")
    )
    tilt = [np.rad2deg(np.arctan2(*bent.poses[name].direction((0, 0, 1))[[0, 2]])) for name in NAMES[7:23]]
    base = [np.rad2deg(np.arctan2(*straight.poses[name].direction((0, 0, 1))[[0, 2]])) for name in NAMES[7:23]]
    spread = np.array(tilt) - np.array(base)
    assert np.ptp(spread) == pytest.approx(cobb, rel=0.25)


# --- enumeration, determinism, errors -------------------------------------------------------------------------------


@pytest.mark.parametrize(("anomaly", "counts"), ANOMALIES.items())
def test_anomalies_on_request(anomaly, counts):
    p = sample_parameters(11, anomalies=anomaly)
    assert (p.counts["T"], p.counts["L"]) == counts
    assert p.counts["C"] == 7
    spine = build_spine(p)
    assert set(p.names) <= set(spine.poses)
    assert p.vertebra(f"T{counts[0]}").level == pytest.approx(19.0)


def test_natural_enumeration_is_rarely_unusual_and_oversampled_often():
    natural = [sample_parameters(seed, pathologies=False).anomaly for seed in range(80)]
    often = [sample_parameters(seed, pathologies=False, anomalies="oversample").anomaly for seed in range(80)]
    assert 0 < sum(map(bool, natural)) < 20
    assert 20 < sum(map(bool, often)) < 45


def test_equal_seeds_give_equal_spines():
    first, second = sample_parameters(5), sample_parameters(5)
    assert first == second
    assert first != sample_parameters(6)
    a, b = build_spine(first), build_spine(second)
    affine, shape = cohort.grid_for(a, "lumbar", (3.0, 3.0, 3.0))
    one, two = paint(a, affine, shape), paint(b, affine, shape)
    for name in ("tissue", "semantic", "instances", "cord_fraction"):
        assert np.array_equal(getattr(one, name), getattr(two, name))


def test_findings_do_not_change_the_healthy_anatomy():
    healthy, ill = sample_parameters(9, pathologies=False), sample_parameters(9)
    assert [v.width_sup for v in healthy.vertebrae] == [v.width_sup for v in ill.vertebrae]
    assert healthy.lordosis == ill.lordosis


def test_overrides_and_errors():
    p = sample_parameters(1, sex="F", age=30, stature=1.6, lordosis=50.0, conus_level=20.5)
    assert (p.sex, p.age, p.stature, p.lordosis, p.cord.conus_level) == ("F", 30.0, 1.6, 50.0, 20.5)
    for bad in ({"lordose": 40}, {"sex": "x"}, {"findings": [Pathology("melt", "L3")]}):
        with pytest.raises(UsageError):
            sample_parameters(1, **bad)
    with pytest.raises(UsageError):
        sample_parameters(1, anomalies="L9")
    with pytest.raises(UsageError):
        apply(p, [Pathology("bulge", "L6")])
    spine = build_spine(p)
    with pytest.raises(UsageError):
        spine.landmark("L9")
    for region in ("arm", ("A", "B")):
        with pytest.raises(UsageError):
            spine.field_of_view(region)


# --- paintings ------------------------------------------------------------------------------------------------------


def pieces(mask: np.ndarray) -> int:
    return int(cc3d.connected_components(mask, connectivity=26).max())


def largest_share(mask: np.ndarray) -> float:
    """Share of a mask's voxels that lie in its largest component."""
    counts = np.bincount(cc3d.connected_components(mask, connectivity=26).ravel())[1:]
    return float(counts.max() / counts.sum())


@pytest.fixture(scope="module")
def whole() -> tuple[Spine, Painted, np.ndarray]:
    """One spine with usual counts, whole, at 1.25 mm."""
    spine = cohort.healthy_spines()[2]
    affine, shape = cohort.grid_for(spine, "whole", (1.25, 1.25, 1.25))
    return spine, paint(spine, affine, shape), affine


@pytest.mark.parametrize("index", range(cohort.SIZE))
def test_every_spine_of_the_cohort_is_whole(index):
    painted, affine = cohort.coarse(index)
    spine = cohort.patient_spines()[index]
    for name in (*spine.parameters.names, "S1"):
        # Thin processes lose a corner voxel on so coarse a grid; the fine painting below is strict.
        assert largest_share(painted.instances == INSTANCE_ID[name]) > 0.985, name
    assert largest_share(painted.semantic == 11) > 0.985
    assert pieces(np.isin(painted.semantic, (11, 12))) == 1
    counts = np.bincount(painted.semantic.ravel(), minlength=15)
    assert np.all(counts[1:15] > 0)
    for left in (4, 6, 8):
        assert counts[left] / counts[left + 1] == pytest.approx(1.0, abs=0.10)
    _assert_discs_lie_between_their_vertebrae(spine, painted, affine)
    stored = float(painted.cord_fraction.sum()) * cohort.COARSE**3
    assert stored == pytest.approx(np.trapezoid(spine.cord.area, spine.cord.arc), rel=0.005)


def _assert_discs_lie_between_their_vertebrae(spine: Spine, painted: Painted, affine: np.ndarray) -> None:
    """Every disc that is not fused or missing is there, and its middle lies between its two bodies."""
    boxes = find_objects(painted.instances)
    for joint in spine.joints.values():
        if spine.parameters.disc(joint.above).state != "normal":
            continue
        box = boxes[100 + INSTANCE_ID[joint.above] - 1]
        assert box is not None, joint.above
        voxels = np.argwhere(painted.instances[box] == 100 + INSTANCE_ID[joint.above]) + [s.start for s in box]
        middle = joint.pose.local((voxels @ affine[:3, :3].T + affine[:3, 3]).mean(axis=0))
        upper, lower = (joint.pose.local(spine.landmark(name))[2] for name in (joint.above, joint.below))
        assert lower < middle[2] < upper, joint.above


def test_every_vertebra_has_its_parts_in_one_piece(whole):
    spine, painted, _ = whole
    boxes = find_objects(painted.instances)
    for name in spine.parameters.names:
        box = boxes[INSTANCE_ID[name] - 1]
        own = painted.instances[box] == INSTANCE_ID[name]
        labels = set(np.unique(painted.semantic[box][own]).tolist()) - {13}
        assert labels == ({2, 4, 5, 6, 7, 8, 9} if name == "C1" else set(range(2, 11))), name
        assert pieces(own) == 1, name
    assert pieces(painted.instances == 26) == 1
    assert set(np.unique(painted.semantic[painted.instances == 26]).tolist()) == {1}


def _touches_the_border(mask: np.ndarray) -> bool:
    return any(mask.take(end, axis).any() for axis in range(3) for end in (0, -1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spine", "region"),
    [
        pytest.param(lambda: cohort.healthy_spines()[9], "whole", id="healthy"),
        pytest.param(lambda: cohort.patient_spines()[35], "whole", id="spurs-and-protrusions"),
        pytest.param(lambda: build_spine(sample_parameters(4711, anomalies="T13")), "whole", id="thirteen-ribs"),
        pytest.param(lambda: cohort.patient_spines()[11], "cervical", id="cervical"),
        pytest.param(lambda: build_spine(sample_parameters(12, scoliosis=35.0)), "lumbar", id="scoliosis"),
    ],
)
def test_structures_are_in_one_piece_in_other_spines_too(spine, region):
    built = spine()
    affine, shape = cohort.grid_for(built, region, (1.25, 1.25, 1.25))
    painted = paint(built, affine, shape)
    ids = [INSTANCE_ID[name] for name in (*built.parameters.names, "S1")]
    ids += [100 + INSTANCE_ID[d.above] for d in built.parameters.discs if d.state == "normal"]
    masks = {number: painted.instances == number for number in ids}
    # A field of view that ends inside a structure may cut it in two.
    inside = {n: m for n, m in masks.items() if region == "whole" or (m.any() and not _touches_the_border(m))}
    assert len(inside) >= 8
    assert {number: pieces(mask) for number, mask in inside.items() if pieces(mask) != 1} == {}
    assert pieces(painted.semantic == 11) == 1
    assert pieces(np.isin(painted.semantic, (11, 12))) == 1


def test_specks_go_to_what_surrounds_them():
    semantic, instances = np.zeros((2, 12, 12, 12), np.uint8)
    semantic[2:8, 2:8, 2:8], instances[2:8, 2:8, 2:8] = 10, 20
    semantic[2:8, 2:8, 8:10], instances[2:8, 2:8, 8:10] = 14, 120
    # A speck of the body inside the disc, one in the void, and one of the disc's endplate, which may be in pieces.
    semantic[5, 5, 9], instances[5, 5, 9] = 10, 20
    semantic[10, 10, 10], instances[10, 10, 10] = 10, 20
    semantic[0, 0, 0], instances[0, 0, 0] = 13, 220
    before = semantic.copy(), instances.copy()
    absorb_specks(semantic, instances, (2.5, 2.5, 2.5))
    assert np.array_equal(semantic, before[0]), "at this voxel size one voxel is no speck"
    absorb_specks(semantic, instances, (1.0, 1.0, 1.0))
    assert (semantic[5, 5, 9], instances[5, 5, 9]) == (14, 120)
    assert (semantic[10, 10, 10], instances[10, 10, 10]) == (0, 0)
    changed = np.argwhere(semantic != before[0]).tolist()
    assert changed == [[5, 5, 9], [10, 10, 10]]


def test_semantic_and_instances_agree(whole):
    _, painted, _ = whole
    semantic, instances = painted.semantic, painted.instances
    assert np.array_equal((semantic >= 2) & (semantic <= 10), (instances > 0) & (instances < 100) & (instances != 26))
    assert np.array_equal(semantic == 1, instances == 26)
    assert np.array_equal(semantic == 14, (instances >= 100) & (instances < 200))
    assert np.array_equal(semantic == 13, instances >= 200)
    assert np.all(instances[(semantic == 11) | (semantic == 12) | (semantic == 0)] == 0)


def test_discs_lie_between_their_vertebrae_and_close_the_gap(whole):
    spine, painted, affine = whole
    boxes = find_objects(painted.instances)
    for joint in spine.joints.values():
        number = INSTANCE_ID[joint.above]
        box = boxes[100 + number - 1]
        disc = painted.instances[box] == 100 + number
        assert largest_share(disc) > 0.97, joint.above
        start = [s.start for s in box]
        voxels = (np.argwhere(disc) + start) @ affine[:3, :3].T + affine[:3, 3]
        local = joint.pose.local(voxels)
        upper = joint.pose.local(spine.landmark(joint.above))[2]
        lower = joint.pose.local(spine.landmark(joint.below))[2]
        assert lower < local[:, 2].min()
        assert local[:, 2].max() < upper
        # From body to body along the joint's axis there is no voxel without a label.
        line = joint.pose.world(np.linspace([0, 0, lower], [0, 0, upper], 200))
        index = np.rint((line - affine[:3, 3]) / 1.25).astype(int)
        assert np.all(painted.semantic[tuple(index.T)] > 0), joint.above


def test_cord_is_inside_the_canal_and_apart_from_bone(whole):
    spine, painted, affine = whole
    cord = painted.semantic == 11
    bone = np.isin(painted.semantic, (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14))
    assert distance_transform_edt(~bone, sampling=1.25)[cord].min() >= 1.25
    low = np.argwhere(cord)[:, 2].min() * 1.25 + affine[2, 3]
    assert low == pytest.approx(spine.landmark("conus")[2], abs=3.0)


def test_left_and_right_are_where_they_belong(whole):
    spine, painted, affine = whole
    code = painted.instances.astype(np.int32) * 16 + painted.semantic
    x = np.broadcast_to(np.arange(code.shape[0], dtype=float)[:, None, None], code.shape)
    middle = np.bincount(code.ravel(), weights=x.ravel()) / np.maximum(np.bincount(code.ravel()), 1)
    for name in spine.parameters.names:
        first = INSTANCE_ID[name] * 16
        assert all(middle[first + label] < middle[first + label + 1] for label in (4, 6, 8)), name
    assert affine[0, 0] > 0


def test_a_symmetric_spine_is_its_own_mirror_image():
    p = sample_parameters(4, anomalies="none", pathologies=False)
    even = {"pedicle_width": 0, "tp_span": 0, "facet_half": 0, "facet_turn": 0}
    vertebrae = tuple(
        replace(v, coronal_wedge=0.0, **{key: (float(np.mean(getattr(v, key))),) * 2 for key in even})
        for v in p.vertebrae
    )
    discs = tuple(replace(d, lateral=0.0, axial=0.0) for d in p.discs)
    spine = build_spine(replace(p, vertebrae=vertebrae, discs=discs))
    view = spine.field_of_view("lumbar", half_width=50.0)
    shape = (50, int((view[1, 1] - view[0, 1]) / 2), int((view[1, 2] - view[0, 2]) / 2))
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (-49.0, view[0, 1], view[0, 2])
    painted = paint(spine, affine, shape)
    swap = np.arange(15)
    swap[4:10] = (5, 4, 7, 6, 9, 8)
    differing = np.mean(swap[painted.semantic[::-1]] != painted.semantic)
    assert differing < 1e-4


def test_lumbar_volumes(whole):
    spine, painted, _ = whole
    counts = np.bincount(painted.instances.ravel())
    volume = {name: counts[INSTANCE_ID[name]] * 1.25**3 / 1000 for name in spine.parameters.names}
    assert all(20 < volume[f"L{i}"] < 80 for i in range(1, 6))
    assert 5 < volume["C3"] < 12
    assert 12 < volume["T6"] < 25


def test_the_body_around_the_spine(whole):
    _, painted, _ = whole
    found = {TISSUES[i] for i in np.unique(painted.tissue)}
    expected = {"air", "skin", "fat", "muscle", "cortical", "marrow", "csf", "cord_wm", "cord_gm", "lung", "blood_flow"}
    assert expected <= found
    back = painted.tissue[:, 0]
    assert np.mean(back == TISSUE_ID["air"]) > 0.9


def _straightness(edge: np.ndarray) -> float:
    """Return the largest share of an edge that lies on one line parallel to the axes."""
    return float(np.unique(edge, return_counts=True)[1].max() / len(edge))


def test_fat_and_bowel_of_the_belly_have_no_straight_edges():
    spine = cohort.healthy_spines()[7]
    affine, shape = cohort.grid_for(spine, "lumbar", (2.0, 2.0, 2.0), half_width=140.0)
    tissue = paint(spine, affine, shape).tissue
    bowel = tissue == TISSUE_ID["bowel"]
    for name in ("L2", "L3", "L4", "L5"):
        k = int((spine.landmark(name)[2] - affine[2, 3]) / 2.0)
        columns = np.flatnonzero(bowel[:, :, k].any(axis=1))
        assert len(columns) > 30, name
        # Measured 0.1 to 0.3; a plane behind the loops gave 0.7 to 1.
        assert _straightness(bowel[columns, :, k].argmax(axis=1)) < 0.5, name
    # The wall of the belly tapers behind instead of ending in a plane.
    k = int((spine.landmark("L3")[2] - affine[2, 3]) / 2.0)
    wall = tissue[: shape[0] // 6, :, k] == TISSUE_ID["muscle"]
    thickness = wall.sum(axis=0)
    last = thickness[np.flatnonzero(thickness)[0] :][:10]
    assert last[0] < 0.7 * last.max()


def test_stored_areas_equal_the_analytic_ones():
    spine = cohort.healthy_spines()[7]
    affine, shape = cohort.grid_for(spine, ("C2", "T4"), (0.8, 0.8, 2.0), half_width=15.0)
    painted = paint(spine, affine, shape)
    rows = painted.levels["cord"]["slices"]
    sums = painted.cord_fraction.sum((0, 1)) * 0.8**2
    error = []
    for row in rows[2:-2]:
        # A slice cuts an inclined cord obliquely: the section grows by one over the cosine.
        true = row["area_mm2"] / np.cos(np.deg2rad(row["angle_deg"]))
        error.append(sums[row["slice"]] / true - 1)
    assert abs(np.mean(error)) < 0.005
    assert np.abs(error).max() < 0.02
    a, b = spine.cord.half_right[100], spine.cord.half_front[100]
    assert spine.cord.area[100] == pytest.approx(4 * a * b * section_factor(spine.cord.exponent))


@pytest.mark.parametrize("axes", [(1, 2, 0), (2, 0, 1)])
@pytest.mark.parametrize("flip", [False, True])
def test_painting_does_not_depend_on_the_orientation_of_the_grid(axes, flip):
    spine = cohort.healthy_spines()[1]
    affine, shape = cohort.grid_for(spine, ("L3", "L5"), (2.0, 2.0, 2.0))
    reference = paint(spine, affine, shape)
    turned = affine[:, [*axes, 3]].copy()
    size = tuple(shape[axis] for axis in axes)
    if flip:
        turned[:3, 3] += turned[:3, 0] * (size[0] - 1)
        turned[:3, 0] *= -1
    painted = paint(spine, turned, size)
    semantic = painted.semantic[::-1] if flip else painted.semantic
    assert np.mean(semantic != reference.semantic.transpose(axes)) < 2e-4


def test_vote_takes_the_most_frequent_label_and_its_most_frequent_instance():
    semantic = np.zeros((2, 2, 2), np.uint8)
    instances = np.zeros((2, 2, 2), np.uint8)
    semantic.ravel()[:3] = 10
    semantic.ravel()[3:] = 13
    instances.ravel()[:3] = 20
    instances.ravel()[3:5] = 219
    instances.ravel()[5:] = 220
    label, owner = vote(semantic, instances, (2, 2, 2))
    assert (label.item(), owner.item()) == (13, 220)
    assert vote(semantic, instances, (1, 1, 1))[0].shape == (2, 2, 2)


# --- findings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(EDITS))
def test_every_finding_can_be_built_and_painted(kind):
    p = sample_parameters(21, anomalies="none", pathologies=False)
    ill = apply(p, [Pathology(kind, "L3", 0.7, "R")])
    assert ill.pathologies[-1].kind == kind
    assert ill != replace(p, pathologies=ill.pathologies)
    spine = build_spine(ill)
    affine, shape = cohort.grid_for(spine, ("L2", "L5"), (2.0, 2.0, 2.0), half_width=40.0)
    painted = paint(spine, affine, shape)
    assert largest_share(painted.instances == 22) > 0.98
    assert painted.levels["pathologies"][-1]["kind"] == kind
    present = bool(np.any(painted.instances == 122))
    assert present is (kind not in ("fused", "missing_disc"))


def test_fracture_lowers_the_front_most():
    p = sample_parameters(22, anomalies="none", pathologies=False)
    before, after = (body_height(q.vertebra("T12")) for q in (p, apply(p, [Pathology("fracture_wedge", "T12", 0.5)])))
    assert after[0] / before[0] < 0.72
    assert after[2] / before[2] > 0.95


def test_stenosis_narrows_the_sac_at_the_disc():
    p = sample_parameters(23, anomalies="none", pathologies=False)
    free, narrow = build_spine(p).sac, build_spine(apply(p, [Pathology("stenosis", "L4", 0.8)])).sac
    assert narrow.at_level(23.5, narrow.area) < 0.6 * free.at_level(23.5, free.area)
    assert narrow.at_level(22.0, narrow.area) == pytest.approx(float(free.at_level(22.0, free.area)), rel=0.02)


def test_an_oblique_grid_sees_the_same_volumes():
    spine = cohort.healthy_spines()[5]
    affine, shape = cohort.grid_for(spine, ("L2", "L5"), (1.5, 1.5, 1.5))
    straight = paint(spine, affine, shape)
    turn = np.eye(4)
    turn[:3, :3] = rotation(8.0, 6.0, 5.0)
    middle = affine @ [*(0.5 * np.array(shape)), 1.0]
    turn[:3, 3] = middle[:3] - turn[:3, :3] @ middle[:3]
    oblique = paint(spine, turn @ affine, shape)
    for number in (22, 23, 122, 123):
        counts = [int(np.sum(painted.instances == number)) for painted in (straight, oblique)]
        assert counts[1] == pytest.approx(counts[0], rel=0.03), number
