"""Clean-up of semantic and instance masks: each step alone, what it reports, and that it can be switched off."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from spine_builder import LEVELS, Spine, build, panoptic

from nnunet_spine_ext.core.config import load_config
from nnunet_spine_ext.core.labels import convert_labels
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.instances import InstanceResult, InstanceSettings, separate

PAIR = Spine(("L1", "L2"), spacing=(3.0, 1.0, 1.0))
FINE = (1.65, 0.75, 0.75)


def separated(semantic: Volume, scheme: str = "nnunet14", **parts: Any) -> InstanceResult:
    return separate(semantic, scheme, settings=load_config(InstanceSettings, parts))


def middle_of(array: np.ndarray, label: int) -> tuple[int, ...]:
    return tuple(int(k) for k in np.round(np.argwhere(array == label).mean(axis=0)))


def with_change(volume: Volume, place: tuple[Any, ...], value: int) -> Volume:
    array = volume.array.copy()
    array[place] = value
    return volume.with_array(array)


def test_a_clean_mask_is_handed_back_itself() -> None:
    semantic, _ = build(PAIR)
    assert separate(semantic).semantic is semantic


def noisy(semantic: Volume, share: float) -> Volume:
    """Give a share of all voxels a random class or none."""
    rng = np.random.default_rng(3)
    hit = rng.random(semantic.shape) < share
    return semantic.with_array(np.where(hit, rng.integers(0, 15, semantic.shape), semantic.array).astype(np.uint8))


@pytest.mark.parametrize("scheme", ["nnunet14", "spineps"])
def test_noise_takes_the_class_of_its_surroundings_in_both_masks(scheme: str) -> None:
    clean, truth = build(Spine(("L1", "L2", "L3"), spacing=FINE))
    if scheme == "spineps":
        clean = clean.with_array(convert_labels(clean.array, "nnunet14", "spineps"))
        noise = noisy(build(Spine(("L1", "L2", "L3"), spacing=FINE))[0], 0.02)
        mask = noise.with_array(convert_labels(noise.array, "nnunet14", "spineps"))
    else:
        mask = noisy(clean, 0.02)
    unsplit = {"split_endplates": False}
    result = separated(mask, scheme, tidy=unsplit)
    off = separated(mask, scheme, tidy=unsplit | {"relabel_voxels": 0})
    assert result.qc["voxels_relabelled"] > 1000
    assert "voxels_relabelled" not in off.qc
    wrong, wrong_off = ((r.semantic.array != clean.array).mean() for r in (result, off))
    assert wrong < 0.15 * wrong_off
    assert panoptic(truth.array, result.instances.array, "vertebra")[0] > 0.99
    assert ((result.instances.array > 0) <= (result.semantic.array > 0)).all()


def test_single_voxels_of_a_clean_mask_stay() -> None:
    semantic, _ = build(PAIR)
    marked = with_change(semantic, (0, 0, 0), 3)
    assert separated(marked).semantic is marked
    always = separated(marked, tidy={"noisy_share": 0.0})
    assert always.qc["voxels_relabelled"] >= 1
    assert always.semantic.array[0, 0, 0] == 0


@pytest.mark.parametrize("inside", [0, 14, 3])
def test_holes_are_filled_in_both_masks(inside: int) -> None:
    semantic, truth = build(PAIR)
    x, y, z = middle_of(truth.array * (semantic.array == 10), 1)
    hole = (slice(x, x + 1), slice(y, y + 2), slice(z, z + 3))
    holed = with_change(semantic, hole, inside)
    result = separate(holed)
    assert (result.qc["holes_filled"], result.qc["holes_filled_mm3"]) == (1, 18.0)
    np.testing.assert_array_equal(result.instances.array, truth.array)
    np.testing.assert_array_equal(result.semantic.array, semantic.array)
    assert result.semantic.array.dtype == semantic.array.dtype
    kept = separated(holed, tidy={"fill_holes": False})
    assert kept.semantic is holed
    assert "holes_filled" not in kept.qc
    # A speck of another class of vertebrae belongs to the vertebra all the same.
    assert (kept.instances.array[hole] == 1).all() == (inside == 3)


def test_large_holes_and_holes_of_two_owners_stay() -> None:
    semantic, truth = build(PAIR)
    x, y, z = middle_of(truth.array * (semantic.array == 10), 1)
    large = with_change(semantic, (slice(x - 1, x + 2), slice(y - 4, y + 4), slice(z - 4, z + 4)), 0)
    assert separate(large).semantic is large
    border = int(np.argwhere(truth.array[x, y] == 201)[:, 0].max())
    between = with_change(semantic, (x, y, border), 0)
    assert separate(between).semantic is between


def test_filled_holes_take_the_ids_of_the_scheme_of_the_input() -> None:
    semantic, truth = build(PAIR)
    ids = convert_labels(semantic.array, "nnunet14", "spineps").astype(np.int16)
    x, y, z = middle_of(truth.array * (semantic.array == 10), 1)
    holed = semantic.with_array(ids.copy())
    holed.array[x, y, z] = 0
    result = separated(holed, "spineps", tidy={"split_endplates": False})
    np.testing.assert_array_equal(result.semantic.array, ids)
    assert result.semantic.array.dtype == np.int16


def test_endplates_are_split_where_the_scheme_has_ids_for_it() -> None:
    semantic, truth = build(Spine(("L1", "L2", "L3")))
    spineps = semantic.with_array(convert_labels(semantic.array, "nnunet14", "spineps"))
    result = separate(spineps, "spineps")
    plates = truth.array > 200
    assert set(np.unique(result.semantic.array[plates])) == {52, 53}
    np.testing.assert_array_equal(result.semantic.array[~plates], spineps.array[~plates])
    counts = {k: int((result.semantic.array == k).sum()) for k in (52, 53)}
    assert counts[52] == result.qc["endplate_voxels_superior"]
    assert counts[53] == result.qc["endplate_voxels_inferior"]
    for vertebra in (1, 2, 3):
        upper = np.argwhere((truth.array == 200 + vertebra) & (result.semantic.array == 53))[:, 2]
        lower = np.argwhere((truth.array == 200 + vertebra) & (result.semantic.array == 52))[:, 2]
        assert upper.mean() > lower.mean() + 4
    assert separate(semantic).semantic is semantic, "nnunet14 has one id for endplates"
    assert separated(spineps, "spineps", tidy={"split_endplates": False}).semantic is spineps


def test_endplates_may_be_numbered_after_their_own_vertebra() -> None:
    semantic, truth = build(Spine(("L1", "L2", "L3")))
    spineps = semantic.with_array(convert_labels(semantic.array, "nnunet14", "spineps"))
    result = separated(spineps, "spineps", tidy={"own_endplates": True})
    own, split = result.instances.array, result.semantic.array
    assert set(np.unique(own[own > 200])) == {201, 202, 203, 226}
    np.testing.assert_array_equal(own[own < 200], truth.array[own < 200])
    np.testing.assert_array_equal(own[split == 53], truth.array[split == 53])
    np.testing.assert_array_equal(
        own[(split == 52) & (truth.array < 203)], truth.array[(split == 52) & (truth.array < 203)] + 1
    )
    assert (own[(split == 52) & (truth.array == 203)] == 226).all()


def test_specks_are_removed_on_request() -> None:
    option = {"remove_specks": True}
    # Some processes of the built spine are cut into pieces that are no larger than specks.
    semantic = separated(build(PAIR)[0], tidy=option).semantic
    noisy = with_change(semantic, (slice(1, 3), slice(1, 3), slice(1, 3)), 3)
    noisy = with_change(noisy, (1, slice(10, 12), 20), 11)
    assert separate(noisy).semantic is noisy
    result = separated(noisy, tidy=option)
    assert result.qc["specks_removed_voxels"] == 10
    np.testing.assert_array_equal(result.semantic.array, semantic.array)
    np.testing.assert_array_equal(result.instances.array, separate(semantic).instances.array)


def test_voxels_of_no_instance_are_removed_on_request() -> None:
    semantic, truth = build(PAIR)
    loose = with_change(semantic, (slice(0, 4), slice(0, 6), slice(0, 6)), 2)
    kept = separate(loose)
    assert kept.semantic is loose
    assert kept.qc["unassigned_voxels"] == 144
    result = separated(loose, tidy={"remove_unassigned": True})
    assert result.qc["unassigned_removed_voxels"] == 144
    np.testing.assert_array_equal(result.semantic.array, semantic.array)
    np.testing.assert_array_equal(result.instances.array, truth.array)


def test_what_is_far_from_the_canal_is_cut_on_request() -> None:
    semantic, truth = build(Spine(("L1", "L2", "L3"), spacing=(3.0, 1.0, 1.0)))
    size = semantic.shape[1] + 60
    array = np.zeros((semantic.shape[0], size, semantic.shape[2]), dtype=np.uint8)
    array[:, : semantic.shape[1]] = semantic.array
    array[8:12, size - 12 : size - 4, 40:60] = 2
    wide = Volume(array, semantic.affine)
    assert (separate(wide).semantic.array == array).all()
    result = separated(wide, tidy={"canal_range_mm": 64.0})
    assert not result.semantic.array[:, size - 12 :].any()
    assert result.qc["beyond_canal_removed_voxels"] == 4 * 8 * 20
    np.testing.assert_array_equal(result.semantic.array[:, : semantic.shape[1]], semantic.array)
    np.testing.assert_array_equal(result.instances.array[:, : semantic.shape[1]], truth.array)
    without = wide.with_array(np.where(np.isin(array, (11, 12)), 0, array).astype(np.uint8))
    assert separated(without, tidy={"canal_range_mm": 64.0}).qc["beyond_canal_removed_voxels"] == 0


def test_an_arch_of_the_wrong_level_changes_its_vertebra() -> None:
    from nnunet_spine_ext.instances.clean import CleanSettings, reassign_stray
    from nnunet_spine_ext.instances.cuts import SeedSettings
    from nnunet_spine_ext.instances.frame import make_frame
    from nnunet_spine_ext.instances.seeds import find_bodies
    from nnunet_spine_ext.instances.voxels import read_voxels
    from nnunet_spine_ext.measure.centreline import centreline

    semantic, truth = build(Spine(("L1", "L2", "L3"), spacing=(3.0, 1.0, 1.0)))
    frame = make_frame(semantic, "nnunet14")
    assert frame is not None
    line = centreline(frame.volume())
    assert line is not None
    voxels = read_voxels(frame).along(line)
    bodies = find_bodies(voxels, SeedSettings())
    right = truth.array[frame.box].reshape(-1)[voxels.flat].astype(np.int16)
    right[right > 3] = 0
    wrong = right.copy()
    wrong[(right == 2) & (voxels.label == 3)] = 1
    found = wrong.copy()
    steps = reassign_stray(voxels, found, bodies, CleanSettings(stray_share=0.0))
    assert steps["posterior_parts_moved"] == 1
    np.testing.assert_array_equal(found, right)
    off = CleanSettings(reassign_stray=False, repair_posterior=False)
    assert sum(reassign_stray(voxels, wrong.copy(), bodies, off).values()) == 0


def test_a_dens_that_is_cut_off_stays_with_its_body() -> None:
    semantic, truth = build(Spine(LEVELS[:6], spacing=(2.0, 1.0, 1.0), lordosis=0.0))
    dens = np.argwhere((truth.array == 1) & (semantic.array == 10))
    cut = int(dens[:, 2].max()) - 19
    holed = semantic.array.copy()
    holed[:, :, cut][truth.array[:, :, cut] == 1] = 0
    result = separate(semantic.with_array(holed))
    assert result.qc["rejoined"] == [1]
    assert panoptic(truth.array, result.instances.array, "vertebra")[2] > 0.97
    assert result.qc["c1"].startswith("left out")


def test_c1_is_taken_from_its_ring() -> None:
    semantic, truth = build(Spine(LEVELS[:6], spacing=(2.0, 1.0, 1.0), lordosis=0.0))
    x, y, z = np.argwhere((truth.array == 1) & (semantic.array == 10)).T
    top = int(z.max())
    across, along = np.ogrid[: semantic.shape[0], : semantic.shape[1]]
    radius = np.hypot((across - x[z == top].mean()) * 2.0, along - y[z == top].mean() + 10)
    ring = (
        ((radius > 15) & (radius < 22))[:, :, None]
        & (np.arange(semantic.shape[2]) < top)
        & (np.arange(semantic.shape[2]) > top - 9)
    )
    array = np.where(ring & (semantic.array == 0), 2, semantic.array).astype(np.uint8)
    result = separate(semantic.with_array(array))
    assert result.qc["c1"] == "found"
    assert result.qc["without_body"] == [1]
    expected = np.where(truth.array % 100 < 26, truth.array + (truth.array > 0), truth.array)
    expected = np.where((truth.array == 26) | (truth.array == 0), truth.array, expected)
    expected = np.where((array == 2) & (semantic.array == 0), 1, expected)
    assert panoptic(expected, result.instances.array, "vertebra")[2] > 0.95


def test_noise_costs_little_at_the_voxel_size_of_the_networks() -> None:
    semantic, truth = build(Spine(("T12", "L1", "L2", "L3"), spacing=FINE, noise=0.02))
    result = separate(semantic)
    for kind, least in (("vertebra", 0.97), ("disc", 0.97), ("endplate", 0.95)):
        recognised, _, quality = panoptic(truth.array, result.instances.array, kind)
        assert recognised == 1.0
        assert quality >= least
    assert result.qc["holes_filled"] > 100


def test_every_orientation_gives_the_same_masks_and_facts() -> None:
    semantic, _ = build(Spine(("L1", "L2"), spacing=(4.0, 0.75, 1.5), noise=0.01, scoliosis=6.0))
    spineps = semantic.with_array(convert_labels(semantic.array, "nnunet14", "spineps"))
    options = {"remove_specks": True, "remove_unassigned": True, "canal_range_mm": 70.0, "own_endplates": True}
    expected = separated(spineps, "spineps", tidy=options)
    assert expected.semantic is not spineps
    for axes in itertools.permutations(("RL", "AP", "SI")):
        for sides in ((0, 0, 0), (1, 0, 1), (0, 1, 1)):
            orientation = "".join(axis[side] for axis, side in zip(axes, sides, strict=True))
            result = separated(spineps.to(orientation), "spineps", tidy=options)
            assert result.qc == expected.qc
            for found, wanted in ((result.instances, expected.instances), (result.semantic, expected.semantic)):
                np.testing.assert_array_equal(found.to("RAS").array, wanted.array)


def test_instances_lie_inside_the_semantic_mask() -> None:
    semantic, _ = build(Spine(("L1", "L2", "L3"), spacing=FINE, noise=0.03))
    result = separate(semantic)
    assert not (result.instances.array[result.semantic.array == 0]).any()


@pytest.mark.parametrize("everything", [True, False])
def test_a_mask_of_specks_becomes_empty_or_stays(everything: bool) -> None:
    array = np.zeros((20, 30, 30), dtype=np.uint8)
    array[5, 5, 5] = array[9, 9, 9] = 10
    volume = Volume(array, np.eye(4))
    result = separated(volume, tidy={"remove_specks": everything})
    assert [w.code for w in result.warnings] == ["W-INST-NONE"]
    assert result.semantic.array.any() != everything
