"""Instances from synthetic spines: every difficulty, every orientation, every unusable mask."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spine_builder import LEVELS, Spine, build, panoptic

from nnunet_spine_ext.core.config import load_config, to_dict
from nnunet_spine_ext.core.errors import CaseError, UsageError
from nnunet_spine_ext.core.labels import convert_labels
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.instances import InstanceSettings, separate
from nnunet_spine_ext.instances.interface import _of_positions, _positions

LOW = ("T10", "T11", "T12", "L1", "L2", "L3", "L4", "L5")
NECK = tuple(LEVELS[:8])
WHOLE = tuple(LEVELS)
COARSE = (4.0, 2.0, 2.0)
MEDIUM = (3.0, 1.5, 1.5)

# name: spine, least vertebra PQ. The builder lets touching spinous processes run into each other, so 1 is not reached.
CASES = {
    "lumbar": (Spine(), 0.99),
    "thoracolumbar": (Spine(LOW), 0.95),
    "cervical with dens": (Spine(NECK), 0.99),
    "whole": (Spine(WHOLE, spacing=MEDIUM), 0.97),
    "kyphosis and lordosis": (Spine(WHOLE, spacing=MEDIUM, lordosis=20.0), 0.96),
    "scoliosis 28 mm": (Spine(WHOLE, spacing=MEDIUM, scoliosis=28.0), 0.98),
    "scoliosis 45 mm": (Spine(LOW, scoliosis=45.0), 0.95),
    "two bodies fused": (Spine(LOW, fused=(("L1", "L2"),)), 0.95),
    "two cervical bodies fused": (Spine(NECK, fused=(("C4", "C5"),)), 0.98),
    "four bodies fused": (Spine(LOW, fused=(("T12", "L1", "L2", "L3"),)), 0.95),
    "twelve bodies fused": (Spine(WHOLE, spacing=MEDIUM, fused=(WHOLE[6:18],)), 0.95),
    "missing discs": (Spine(LOW, missing_disc=("L1", "L2", "L3")), 0.95),
    "no discs": (Spine(LOW, discs=False), 0.95),
    "no canal": (Spine(LOW, canal=False), 0.95),
    "no posterior elements": (Spine(LOW, posterior=False), 1.0),
    "missing body": (Spine(LOW, missing_body=("T12",)), 0.95),
    "two missing bodies": (Spine(WHOLE, spacing=MEDIUM, missing_body=("T6", "T7")), 0.97),
    "cleft body": (Spine(LOW, cleft=("L2",)), 0.95),
    "separate facets": (Spine(LOW, gap_mm=2.0), 0.95),
    "cropped above and below": (Spine(WHOLE, spacing=MEDIUM, crop=(80.0, 20.0)), 0.97),
    "cropped through the thorax": (Spine(WHOLE, spacing=MEDIUM, crop=(100.0, 200.0)), 0.95),
    "thick sagittal slices": (Spine(LOW, spacing=(5.0, 0.8, 0.8)), 0.95),
    "axial slices": (Spine(LOW, spacing=(0.8, 0.8, 4.0)), 0.95),
    "two vertebrae": (Spine(("L1", "L2"), sacrum=False), 1.0),
    "one vertebra": (Spine(("L3",), sacrum=False), 1.0),
}


@pytest.mark.parametrize("name", list(CASES))
def test_vertebrae_and_discs_are_separated(name: str) -> None:
    spine, least = CASES[name]
    semantic, truth = build(spine)
    result = separate(semantic)
    recognised, _, quality = panoptic(truth.array, result.instances.array, "vertebra")
    assert recognised == 1.0
    assert quality >= least
    assert panoptic(truth.array, result.instances.array, "disc")[2] >= 0.999
    assert panoptic(truth.array, result.instances.array, "endplate")[2] >= 0.999
    np.testing.assert_array_equal(result.instances.array == 26, truth.array == 26)


@pytest.mark.parametrize(("share", "least"), [(0.02, 0.93), (0.05, 0.90)])
def test_label_noise_changes_little(share: float, least: float) -> None:
    semantic, truth = build(Spine(LOW, noise=share))
    result = separate(semantic)
    assert panoptic(truth.array, result.instances.array, "vertebra")[0] == 1.0
    assert panoptic(truth.array, result.instances.array, "vertebra")[2] >= least
    assert panoptic(truth.array, result.instances.array, "disc")[2] >= least - 0.02


def test_ids_count_from_the_top_and_say_that_they_are_no_levels() -> None:
    semantic, truth = build(Spine())
    result = separate(semantic)
    np.testing.assert_array_equal(result.instances.array, truth.array)
    assert result.instances.array.dtype == np.uint16
    assert result.qc["numbered"] is False
    assert (result.qc["vertebrae"], result.qc["discs"], result.qc["without_body"]) == (5, 5, [])
    assert json.loads(json.dumps(result.qc)) == result.qc
    assert result.warnings == []


def test_a_missing_body_keeps_its_place_in_the_count() -> None:
    semantic, truth = build(Spine(LOW, missing_body=("T12",)))
    result = separate(semantic)
    assert result.qc["without_body"] == [3]
    discs = truth.array > 100
    np.testing.assert_array_equal(result.instances.array[discs], truth.array[discs])


def test_a_disc_above_the_first_body_belongs_to_a_vertebra_outside_the_picture() -> None:
    semantic, truth = build(Spine(posterior=False, lordosis=0.0))
    top = np.argwhere(truth.array == 101)[:, 2].max()
    cut = (slice(None), slice(None), slice(0, int(top) + 1))
    result = separate(semantic.crop(cut))
    assert result.qc["without_body"] == [1]
    found = result.instances.array[truth.array[cut] == 101]
    assert (found == 101).all()


@pytest.mark.parametrize("vertebra", [False, True])
def test_a_few_voxels_at_the_edge_of_the_picture_are_no_vertebra(vertebra: bool) -> None:
    semantic, truth = build(Spine(posterior=False, lordosis=0.0))
    top = int(np.argwhere(truth.array == 101)[:, 2].max())
    labels = semantic.array[:, :, : top + 1].copy()
    behind = np.argwhere(labels == 14)[:, 1].min() - 8
    size = (8, 6, 6) if vertebra else (3, 4, 4)
    middle = labels.shape[0] // 2
    labels[middle : middle + size[0], behind : behind + size[1], top - size[2] + 1 : top + 1] = 3
    result = separate(Volume(labels, semantic.affine))
    found = int((result.instances.array == 1).sum())
    assert (found > 0) is vertebra
    assert (result.instances.array == 101).any(), "the disc keeps the number of the vertebra above it"


def test_fused_and_rejoined_bodies_are_reported() -> None:
    fused = separate(build(Spine(LOW, fused=(("L1", "L2"),)))[0])
    assert fused.qc["cut_apart"] == [4, 5]
    assert [w.code for w in fused.warnings] == ["W-INST-FUSED"]
    assert all(w.severity == "warning" for w in fused.warnings)
    cleft = separate(build(Spine(LOW, cleft=("L2",)))[0])
    assert cleft.qc["rejoined"] == [5]


def test_all_48_orientations_give_the_same_instances_in_the_world() -> None:
    semantic, _ = build(Spine(("L1", "L2", "L3"), spacing=(5.0, 2.5, 2.5), scoliosis=6.0, sacrum=False))
    expected = separate(semantic).instances
    assert set(np.unique(expected.array)) >= {1, 2, 3, 101, 102, 201}
    for axes in itertools.permutations(("RL", "AP", "SI")):
        for sides in itertools.product((0, 1), repeat=3):
            orientation = "".join(axis[side] for axis, side in zip(axes, sides, strict=True))
            turned = semantic.to(orientation)
            result = separate(turned).instances
            assert result.orientation == orientation
            np.testing.assert_array_equal(result.affine, turned.affine)
            np.testing.assert_array_equal(result.to("RAS").array, expected.array)


def test_an_oblique_grid_is_kept_exactly() -> None:
    semantic, _ = build(Spine(("L1", "L2"), spacing=COARSE))
    angle = np.deg2rad(17.0)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn[:3, 3] = (12.5, -80.25, 310.0)
    oblique = Volume(semantic.array, turn @ semantic.affine)
    result = separate(oblique).instances
    np.testing.assert_array_equal(result.affine, oblique.affine)
    np.testing.assert_array_equal(result.array, separate(semantic).instances.array)


def test_the_input_is_untouched_and_a_second_run_is_equal() -> None:
    semantic, _ = build(Spine(("L1", "L2"), spacing=COARSE))
    before = semantic.array.copy()
    first, second = separate(semantic), separate(semantic)
    np.testing.assert_array_equal(semantic.array, before)
    np.testing.assert_array_equal(first.instances.array, second.instances.array)
    assert first.qc == second.qc


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_any_number_type_is_read(dtype: type) -> None:
    semantic, truth = build(Spine(("L1", "L2"), spacing=COARSE))
    result = separate(semantic.with_array(semantic.array.astype(dtype)))
    np.testing.assert_array_equal(result.instances.array, separate(semantic).instances.array)
    assert panoptic(truth.array, result.instances.array, "vertebra")[0] == 1.0


def test_the_spineps_scheme_gives_the_same() -> None:
    semantic, _ = build(Spine(("L1", "L2"), spacing=COARSE))
    spineps = semantic.with_array(convert_labels(semantic.array, "nnunet14", "spineps"))
    np.testing.assert_array_equal(separate(spineps, "spineps").instances.array, separate(semantic).instances.array)


@pytest.mark.parametrize("keep", [(), (2, 3, 8), (14,), (11, 12), (1,), (13,)])
def test_a_mask_without_bodies_gives_a_warning(keep: tuple[int, ...]) -> None:
    semantic, truth = build(Spine(("L1", "L2"), spacing=COARSE))
    mask = semantic.with_array(np.where(np.isin(semantic.array, keep), semantic.array, 0).astype(np.uint8))
    result = separate(mask)
    assert [w.code for w in result.warnings] == ["W-INST-NONE"]
    assert result.qc["vertebrae"] == 0
    expected = np.where(truth.array == 26, 26, 0) if 1 in keep else np.zeros(semantic.shape)
    np.testing.assert_array_equal(result.instances.array, expected)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 40, 40), (40, 1, 40), (40, 40, 1), (3, 3, 3)])
def test_tiny_and_flat_volumes_do_not_crash(shape: tuple[int, int, int]) -> None:
    array = np.full(shape, 10, dtype=np.uint8)
    result = separate(Volume(array, np.diag([1.0, 1.0, 1.0, 1.0])))
    assert result.instances.shape == shape


@pytest.mark.parametrize("thickness", [1, 2])
def test_a_body_of_one_voxel_layer_does_not_crash(thickness: int) -> None:
    array = np.zeros((40, 40, 60), dtype=np.uint8)
    array[10:30, 10:30, 30:40] = array[10:30, 10:30, 20 : 20 + thickness] = 10
    result = separate(Volume(array, np.diag([2.0, 2.0, 2.0, 1.0])))
    assert result.qc["vertebrae"] == 2


def test_a_block_of_random_labels_does_not_crash() -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 15, (24, 30, 36)).astype(np.uint8)
    result = separate(Volume(array, np.diag([2.0, 1.5, 1.5, 1.0])))
    assert result.instances.array.dtype == np.uint16


def test_unknown_labels_and_schemes_are_errors() -> None:
    array = np.zeros((4, 4, 4), dtype=np.uint8)
    array[1, 1, 1] = 77
    with pytest.raises(CaseError, match="77"):
        separate(Volume(array, np.eye(4)))
    with pytest.raises(UsageError):
        separate(Volume(array, np.eye(4)), "no-such-scheme")


@pytest.mark.parametrize(("value", "named"), [(10.5, r"10\.5"), (-3.0, "-3"), (np.nan, "nan"), (5000.0, "5000")])
def test_values_that_are_no_ids_are_errors(value: float, named: str) -> None:
    array = np.zeros((4, 4, 4))
    array[1, 1, 1] = value
    with pytest.raises(CaseError, match=named):
        separate(Volume(array, np.eye(4)))


@pytest.mark.parametrize("dtype", [np.complex64, object, "U2"])
def test_masks_that_hold_no_numbers_are_errors(dtype: type) -> None:
    with pytest.raises(CaseError, match="E-INST-TYPE"):
        separate(Volume(np.zeros((4, 4, 4), dtype=dtype), np.eye(4)))


def test_a_flat_array_is_no_volume() -> None:
    with pytest.raises(ValueError, match="3-D"):
        separate(Volume(np.zeros((4, 4), dtype=np.uint8), np.eye(4)))


def test_a_mask_of_booleans_is_read() -> None:
    result = separate(Volume(np.ones((4, 4, 4), dtype=bool), np.eye(4)))
    assert (result.instances.array == 26).all(), "id 1 of nnunet14 is the sacrum"


@pytest.mark.parametrize("wrong", [3.0, 0.2])
def test_a_wrong_voxel_size_is_a_warning(wrong: float) -> None:
    semantic, _ = build(Spine(("L1", "L2", "L3"), spacing=COARSE))
    affine = semantic.affine.copy()
    affine[:3, :3] *= wrong
    codes = [w.code for w in separate(Volume(semantic.array, affine)).warnings]
    assert set(codes) & {"W-INST-SIZE", "W-INST-NONE"}


def test_importing_the_instance_step_is_quick_and_needs_no_torch() -> None:
    code = (
        "import sys, time; begin = time.process_time(); import nnunet_spine_ext.instances;"
        "print(time.process_time() - begin, 'torch' in sys.modules)"
    )
    seconds, torch = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert float(seconds) < 1.0
    assert torch == "False"


def test_time_and_memory_at_ten_million_voxels() -> None:
    code = """
import resource, sys, time
sys.path.insert(0, sys.argv[1])
import cc3d, numpy as np, scipy.ndimage, scipy.spatial
from spine_builder import LEVELS, Spine, build
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.instances import separate
semantic, _ = build(Spine(tuple(LEVELS), spacing=(1.65, 0.75, 0.75)))
wide = np.zeros((64, 184, 880), dtype=np.uint8)
wide[4:59, :179, :864] = semantic.array
semantic = Volume(wide, semantic.affine)
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
kib = {line.split()[0]: int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")}
begin = time.process_time()
separate(semantic)
seconds = time.process_time() - begin
kib |= {line.split()[0]: int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")}
print(seconds, (kib["VmHWM:"] - kib["VmRSS:"]) / 1024)
"""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("needs Linux to measure the peak memory of a process")
    folder = str(Path(__file__).parent)
    seconds, mebibytes = subprocess.run(
        [sys.executable, "-c", code, folder], capture_output=True, text=True, check=True
    ).stdout.split()
    # Measured 0.8 s and 66 MiB (libraries left out); a machine that is shared may need twice the time.
    assert float(seconds) < 3.0
    assert float(mebibytes) < 85.0


def test_more_vertebrae_than_positions_is_a_warning() -> None:
    levels = ("T6",) * 27
    semantic, _ = build(Spine(levels, spacing=COARSE, posterior=False, sacrum=False))
    result = separate(semantic)
    assert [w.code for w in result.warnings] == ["W-INST-MANY"]
    ids = np.unique(result.instances.array)
    assert ids[ids < 100].max() == 25


def test_of_too_many_the_smallest_are_left_out() -> None:
    sizes = np.full(30, 50)
    sizes[[2, 3, 11, 20, 21]] = (3, 4, 5, 6, 7)
    vertebra = np.repeat(np.arange(1, 31), sizes)
    position, warnings = _positions(vertebra, 30)
    assert [w.code for w in warnings] == ["W-INST-MANY"]
    assert np.flatnonzero(position == 0).tolist() == [0, 3, 4, 12, 21, 22]
    assert position[position > 0].tolist() == list(range(1, 26))
    # Equal ones: those at the bottom, and up to 25 keep their order whatever their size.
    assert _positions(np.arange(1, 28), 27)[0].tolist() == [*range(26), 0, 0]
    assert _positions(vertebra[vertebra < 26], 25)[0].tolist() == list(range(26))


def test_settings_come_from_plain_values() -> None:
    settings = load_config(InstanceSettings, {"assign": {"prior_strength": 0.0}, "clean": {"attach_mm": 0.0}})
    assert load_config(InstanceSettings, to_dict(settings)) == settings
    semantic, truth = build(Spine(("L1", "L2"), spacing=COARSE))
    result = separate(semantic, settings=settings)
    assert panoptic(truth.array, result.instances.array, "vertebra")[0] == 1.0


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"assign": {"prior_strength": -1.0}}, "instances.assign"),
        ({"smoothing_mm": float("nan")}, "smoothing_mm=nan"),
        ({"smoothing_mm": -5.0}, "instances"),
        ({"seeds": {"min_body_mm3": float("nan")}}, "min_body_mm3"),
        ({"seeds": {"length_spread": 0.0}}, "length_spread"),
        ({"clean": {"stray_share": 2.0}}, "0 to 1"),
        ({"tidy": {"max_hole_mm3": -1.0}}, "instances.tidy"),
        ({"network": {"reseed": -1}}, "instances.network"),
        ({"network": {"fusion": {"agree": 1.5}}}, "instances.network.fusion"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match="E-CONFIG-RANGE") as caught:
        load_config(InstanceSettings, settings)
    assert named in str(caught.value)


def test_priors_decide_where_distance_alone_is_wrong() -> None:
    semantic, truth = build(Spine(NECK))
    plain = load_config(InstanceSettings, {"assign": {"prior_strength": 0.0, "vote": False}})
    without = panoptic(truth.array, separate(semantic, settings=plain).instances.array, "vertebra")[2]
    assert panoptic(truth.array, separate(semantic).instances.array, "vertebra")[2] > without + 0.05


def test_values_of_places_follow_them_where_two_lie_at_one_height() -> None:
    # Two places of one arc length, of which the first goes.
    kept = np.array([False, True, False, True])
    values = {"agreement": {2: 0.5, 3: 0.1, 4: 0.9}}
    assert _of_positions(values, kept, np.arange(3)) == {"agreement": {"1": 0.5, "2": 0.9}}
    # Of those that were kept the first has no id.
    assert _of_positions(values, kept, np.array([0, 0, 1])) == {"agreement": {"1": 0.9}}
