"""Instances of real label maps against the instance files that come with them."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from spine_builder import panoptic

from nnunet_spine_ext.core.io import read_volume
from nnunet_spine_ext.instances import separate
from nnunet_spine_ext.measure import centroids

pytestmark = pytest.mark.real

LUMBAR = "panoptica/semantic/ref.nii.gz", "panoptica/matched_instance/ref.nii.gz"
OTHER = "panoptica/semantic/pred.nii.gz", "panoptica/matched_instance/ref.nii.gz"
MR = (
    "tptbox/sample_mri/sub-mri_seg-subreg_label-6_msk.nii.gz",
    "tptbox/sample_mri/sub-mri_seg-vert_label-6_msk.nii.gz",
)
CT = (
    "tptbox/sample_ct/sub-ct_seg-subreg_label-22_msk.nii.gz",
    "tptbox/sample_ct/sub-ct_seg-vert_label-22_msk.nii.gz",
)


@pytest.mark.parametrize(
    ("pair", "vertebrae", "discs"),
    [(LUMBAR, 0.99, 0.99), (MR, 0.99, 0.99), (CT, 0.99, None), (OTHER, 0.90, 0.85)],
    ids=["lumbar", "mr", "ct", "another segmentation of lumbar"],
)
def test_instances_agree_with_the_file(
    test_data: Path, pair: tuple[str, str], vertebrae: float, discs: float | None
) -> None:
    semantic, truth = (read_volume(test_data / name) for name in pair)
    result = separate(semantic, "spineps")
    recognised, _, quality = panoptic(truth.array, result.instances.array, "vertebra")
    assert recognised == 1.0
    assert quality >= vertebrae
    if discs is not None:
        recognised, _, quality = panoptic(truth.array, result.instances.array, "disc")
        assert recognised == 1.0
        assert quality >= discs
    assert result.instances.same_grid(semantic)
    assert result.warnings == []


def test_it_does_not_matter_which_of_two_codes_is_the_cord(test_data: Path) -> None:
    """The lumbar map codes the canal 60 and the cord 61; everybody else has them the other way round."""
    semantic, truth = (read_volume(test_data / name) for name in LUMBAR)
    other = np.where(semantic.array == 60, 61, np.where(semantic.array == 61, 60, semantic.array))
    assert (other != semantic.array).any()
    found = separate(semantic.with_array(other.astype(semantic.array.dtype)), "spineps").instances.array
    np.testing.assert_array_equal(found, separate(semantic, "spineps").instances.array)
    assert panoptic(truth.array, found, "vertebra")[2] >= 0.95
    assert panoptic(truth.array, found, "disc")[2] >= 0.95


def test_a_clinical_lumbar_volume_takes_seconds(test_data: Path) -> None:
    semantic = read_volume(test_data / LUMBAR[0])
    begin = time.process_time()
    separate(semantic, "spineps")
    assert time.process_time() - begin < 3.0


def test_turning_the_real_volume_changes_nothing(test_data: Path) -> None:
    semantic = read_volume(test_data / MR[0])
    expected = separate(semantic, "spineps").instances.to("RAS").array
    for orientation in ("RAS", "LPS", "ASR", "SLA"):
        turned = separate(semantic.to(orientation), "spineps").instances.to("RAS").array
        np.testing.assert_array_equal(turned, expected)


def test_centroids_lie_in_their_bodies(test_data: Path) -> None:
    semantic = read_volume(test_data / MR[0])
    result = separate(semantic, "spineps")
    bodies = semantic.with_array(np.where(semantic.array == 49, 10, 0).astype(np.uint8))
    points = centroids(result.instances, bodies)
    assert sorted(points) == [1, 2, 3, 101, 102, 201, 202, 203]
    for vertebra in (1, 2, 3):
        index = tuple(round(v) for v in points[vertebra])
        assert semantic.array[index] == 49
        assert result.instances.array[index] == vertebra
