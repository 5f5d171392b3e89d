"""The cases of the instance benchmark on coarse digital spines: without a network, and with an oracle for one."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spine_builder import panoptic

from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.instances import separate

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SPACING = (1.5, 1.5, 3.3)
# Three different voxel sizes: an exchange of axes would show.
UNEVEN = (1.3, 1.7, 3.1)
# Cutouts of the same extent in mm as those of SPINEPS.
CUTOUT = (128, 152, 32)
AFFINE = np.array([[0, 0, 3.3, 0], [-1.5, 0, 0, 0], [0, -1.5, 0, 0], [0, 0, 0, 1]], float)
CASES = (
    "clean", "fused2", "fused4", "fused12", "bridged", "cleft", "missing_body", "missing_2bodies", "missing_discs",
    "cropped", "scoliosis28", "scoliosis45", "kyphosis", "sacralised", "extra_lumbar", "no_posterior", "two", "lumbar",
    "flips", "noise",
)  # fmt: skip
"""Every line of the benchmark's table."""
NOISY = ("flips", "noise")


@pytest.fixture(scope="module")
def phantoms():
    """The benchmark's masks, made once per case."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        from instancing import phantoms

        known: dict[str, Any] = {}

        def make(name: str) -> Any:
            if name not in known:
                known[name] = phantoms.make(phantoms.CASES[name], spacing=SPACING)
            return known[name]

        make.ordered = phantoms.ordered
        make.two = phantoms.make(phantoms.CASES["two"], spacing=UNEVEN)
        make.names = tuple(phantoms.CASES)
        yield make


def instances_of(semantic: Array, predictor: Any = None) -> Array:
    return separate(Volume(semantic, AFFINE), predictor=predictor).instances.array


def by_oracle(phantoms: Any, name: str, **condition: Any) -> tuple[Array, Any]:
    """Return the instances that the answers of an oracle lead to, and the oracle."""
    from instancing.oracle import Condition, Oracle
    from instancing.predictor import OraclePredictor

    phantom = phantoms(name)
    truth = phantoms.ordered(phantom.instances)
    oracle = Oracle(truth, phantom.semantic, Condition(**condition), SPACING)
    return instances_of(phantom.semantic, OraclePredictor(oracle, CUTOUT)), oracle


def test_all_cases_of_the_table_are_tested(phantoms):
    assert phantoms.names == CASES


@pytest.mark.parametrize("name", CASES)
def test_network_free_quality_of_every_case(phantoms, name):
    phantom = phantoms(name)
    found = instances_of(phantom.semantic)
    recognised, _, quality = panoptic(phantom.instances, found, "vertebra")
    assert recognised == 1.0
    assert quality >= 0.95
    if name not in NOISY:
        assert panoptic(phantom.instances, found, "disc")[2] >= 0.99


@pytest.mark.parametrize("name", CASES)
def test_a_perfect_network_makes_every_case_exact(phantoms, name):
    found, oracle = by_oracle(phantoms, name)
    assert oracle.hit == 0
    recognised, _, quality = panoptic(phantoms(name).instances, found, "vertebra")
    assert recognised == 1.0
    # Specks at the surface and holes are the mask's, and large beside these voxels.
    assert quality >= (0.97 if name in NOISY else 0.99)


@pytest.mark.parametrize("mode", ["shift", "merge", "empty", "miss", "boundary", "swap_post", "dropout"])
def test_a_third_of_wrong_answers_is_outvoted(phantoms, mode):
    found, oracle = by_oracle(phantoms, "clean", mode=mode, share=0.4)
    assert oracle.hit >= 4, "the oracle did err"
    assert panoptic(phantoms("clean").instances, found, "vertebra")[2] >= 0.98


def turned(volume: Volume) -> Any:
    """Yield the volume in all 48 orders and directions of its axes."""
    for axes in itertools.permutations(("RL", "AP", "SI")):
        for sides in itertools.product((0, 1), repeat=3):
            yield volume.to("".join(axis[side] for axis, side in zip(axes, sides, strict=True)))


@pytest.fixture(scope="module")
def two(phantoms) -> tuple[Volume, Array]:
    """Two vertebrae of a digital spine, which is not symmetric, cut close and tilted; and their truth."""
    phantom = phantoms.two
    used = [np.flatnonzero((phantom.semantic > 0).any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    box = tuple(slice(int(u[0]), int(u[-1]) + 1) for u in used)
    angle = np.deg2rad(20.0)
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    tilt[:3, 3] = (3.5, -60.25, 410.0)
    return Volume(
        phantom.semantic[box], tilt @ AFFINE @ np.diag([*np.divide(UNEVEN, SPACING), 1.0])
    ), phantom.instances[box]


def test_any_order_and_direction_of_axes_gives_the_same_instances(two):
    semantic, truth = two
    expected = separate(semantic).instances
    assert panoptic(truth, expected.array, "vertebra")[2] >= 0.99
    for volume in turned(semantic):
        found = separate(volume).instances
        np.testing.assert_array_equal(found.affine, volume.affine)
        np.testing.assert_array_equal(found.to(semantic.orientation).array, expected.array)


def test_any_order_of_axes_gives_the_same_instances_with_a_network(two):
    from instancing.oracle import Condition, Oracle
    from instancing.predictor import OraclePredictor

    semantic, truth = two
    ids = np.where((truth > 0) & (truth < 26), truth - truth[truth > 0].min() + 1, 0).astype(np.uint8)
    for condition in (Condition(), Condition("boundary", 1.0)):
        oracle = Oracle(ids, semantic.array, condition, UNEVEN)
        expected = separate(semantic, predictor=OraclePredictor(oracle, CUTOUT)).instances
        assert oracle.asked >= 2
        for volume in itertools.islice(turned(semantic), 0, None, 5):
            found = separate(volume, predictor=OraclePredictor(oracle, CUTOUT)).instances
            np.testing.assert_array_equal(found.to(semantic.orientation).array, expected.array)
