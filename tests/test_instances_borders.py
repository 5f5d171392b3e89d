"""Borders that answers put a little beside the end of a part: moved there, and left where parts have grown together."""

from __future__ import annotations

import numpy as np
import pytest
from instance_oracle import Errors, Oracle
from spine_builder import LEVELS, Spine, build, panoptic

from nnunet_spine_ext.core.config import load_config
from nnunet_spine_ext.instances import InstanceSettings, separate
from nnunet_spine_ext.instances.borders import settle_borders
from nnunet_spine_ext.instances.cutouts import CutoutSpec
from nnunet_spine_ext.instances.frame import Frame
from nnunet_spine_ext.instances.voxels import Voxels, read_voxels

SPEC = CutoutSpec(size=(96, 112, 32), spacing=(2.0, 2.0, 3.0))
OFF = load_config(InstanceSettings, {"network": {"border_mm": 0.0}})
PROCESS, NEIGHBOUR = 2, 3


def a_process(count: int, edge_mm: float = 1.0) -> tuple[Voxels, np.ndarray, np.ndarray]:
    """A process of 4 × 4 × 14 voxels between arches: voxels, answers about it (a slice is the neighbour's), paths."""
    labels = np.zeros((6, 6, 20), dtype=np.uint8)
    labels[1:5, 1:5, 3:17] = 8
    labels[1:5, 1:5, :3] = labels[1:5, 1:5, 17:] = 2
    free = np.full(labels.shape, PROCESS, dtype=np.int16)
    free[:, :, 17:] = NEIGHBOUR
    answers = free.copy()
    answers[:, :, 17 - count : 17] = NEIGHBOUR
    voxels = read_voxels(Frame(labels, (edge_mm,) * 3, (slice(0, 6), slice(0, 6), slice(0, 20)), (6, 6, 20)))
    return voxels, answers.reshape(-1)[voxels.flat], free.reshape(-1)[voxels.flat]


# Three voxels of 1.1 mm are 3.3 mm, whatever sums of such numbers are.
@pytest.mark.parametrize(
    ("count", "edge_mm", "moved"), [(0, 1.0, 0), (1, 1.0, 16), (3, 1.0, 48), (4, 1.0, 0), (3, 1.1, 48), (3, 1.11, 0)]
)
def test_a_thin_slice_comes_back_and_a_thick_one_stays(count: int, edge_mm: float, moved: int) -> None:
    voxels, answers, free = a_process(count, edge_mm)
    found = answers.copy()
    assert settle_borders(voxels, found, free, share=2 / 3, reach_mm=3.3) == moved
    np.testing.assert_array_equal(found, free if moved else answers)


def test_answers_stay_where_anything_speaks_for_them() -> None:
    voxels, answers, free = a_process(3)
    divided, apart, none = free.copy(), answers.copy(), free.copy()
    process = np.flatnonzero(voxels.label == 8)
    divided[process[-1]] = NEIGHBOUR
    apart[answers == NEIGHBOUR] = PROCESS + 2
    none[process] = 0
    for vertebra, paths, share, reach in (
        (answers, divided, 2 / 3, 3.3),
        (apart, free, 2 / 3, 3.3),
        (answers, none, 2 / 3, 3.3),
        (answers, free, 0.9, 3.3),
        (answers, free, 2 / 3, 0.0),
    ):
        found = vertebra.copy()
        assert settle_borders(voxels, found, paths, share=share, reach_mm=reach) == 0
        np.testing.assert_array_equal(found, vertebra)


def test_borders_that_neighbouring_cutouts_displace_alike_are_moved_back() -> None:
    semantic, truth = build(Spine(tuple(LEVELS), spacing=(3.0, 1.5, 1.5)))
    spec = CutoutSpec(size=(128, 160, 32), spacing=(1.5, 1.5, 3.0))
    oracle = Oracle(semantic, truth, spec, Errors("boundary", 0.8, True, 1))
    quality = {}
    for name, settings in (("off", OFF), ("on", InstanceSettings())):
        result = separate(semantic, settings=settings, predictor=oracle)
        quality[name] = panoptic(truth.array, result.instances.array, "vertebra")[2]
        assert (result.qc["voxels_moved_at_borders"] > 0) == (name == "on")
    assert quality["on"] > quality["off"] + 0.005


def test_processes_grown_together_in_one_class_are_divided_as_the_network_says() -> None:
    # Without a network some of these joints are of one vertebra, wholly and wrongly.
    semantic, truth = build(Spine(("L1", "L2", "L3", "L4", "L5"), spacing=(2.0, 1.5, 1.5)))
    array = semantic.array
    one = semantic.with_array(np.where(np.isin(array, (6, 7)), array + 2, array).astype(np.uint8))
    joints = np.isin(one.array, (8, 9))
    shares = {}
    for border_mm in (0.0, InstanceSettings().network.border_mm, 60.0):
        settings = load_config(InstanceSettings, {"network": {"border_mm": border_mm}})
        found = separate(one, settings=settings, predictor=Oracle(one, truth, SPEC)).instances.array
        # The process above the first body has a place of its own.
        shares[border_mm] = float((found.astype(int) - 1 == truth.array)[joints].mean())
    off, on, wide = shares.values()
    assert on >= off - 0.001 > 0.85
    assert wide < on - 0.02
