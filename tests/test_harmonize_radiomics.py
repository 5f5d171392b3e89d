"""All 58 features: PyRadiomics' values on real and synthetic slices, counts by hand, and input that has no features."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles import radiomic_slices

from nnunet_spine_ext.core.errors import CaseError, UsageError
from nnunet_spine_ext.harmonize.radiomics import FEATURE_NAMES, all_features, features_of_slices, rescaled
from nnunet_spine_ext.harmonize.texture import directions, glrlm_features

ORACLE: dict[str, Any] = json.loads((Path(__file__).parent / "fixtures" / "oracle_radiomics.json").read_text())
TOLERANCE = 1e-8


def _compare(row: Mapping[str, Any], image: np.ndarray, mask: np.ndarray) -> None:
    assert radiomic_slices.digest(image, mask) == row["sha256"], "other arrays than the reference had"
    textures = [name for name in ORACLE["names"] if not name.startswith("firstorder")]
    for names, wanted, found in (
        (ORACLE["names"], row["width"], all_features(image, mask, bin_width=ORACLE["bin_width"])),
        (textures, row["count"], all_features(image, mask, bin_count=ORACLE["bin_count"])),
    ):
        for name, value in zip(names, map(float, wanted), strict=True):
            assert found[name] == pytest.approx(value, rel=TOLERANCE, abs=1e-12, nan_ok=True), name


def test_features_are_those_of_pyradiomics_in_number_and_name() -> None:
    assert set(FEATURE_NAMES) == set(ORACLE["names"])
    assert len(FEATURE_NAMES) == 18 + 24 + 16


@pytest.mark.parametrize("row", ORACLE["synthetic"], ids=lambda row: row["name"])
def test_synthetic_slices_equal_pyradiomics(row: Mapping[str, Any]) -> None:
    _compare(row, *radiomic_slices.synthetic(row["name"]))


@pytest.mark.parametrize("row", ORACLE["sparse"], ids=lambda row: str(row["seed"]))
def test_sparse_regions_equal_pyradiomics(row: Mapping[str, Any]) -> None:
    _compare(row, *radiomic_slices.sparse(row["seed"]))


@pytest.mark.parametrize("region", radiomic_slices.REGIONS)
def test_real_slices_equal_pyradiomics(test_data: Path, region: str) -> None:
    rows = [row for row in ORACLE["real"] if row["region"] == region]
    assert len(rows) == 20
    for row in rows:
        image = radiomic_slices.real_slice(row, test_data)
        _compare(row, image, radiomic_slices.region(region, image))


def test_counts_by_hand() -> None:
    # Levels 1 1 2 / 1 2 2: pairs to the right 11 12 12 22, so symmetric counts are 11: 2, 12: 2, 21: 2, 22: 2 of 8.
    image = np.asarray([[0.0, 0.0, 30.0], [0.0, 30.0, 30.0]])
    only_rows = np.asarray([[1, 1, 2]])
    found = glrlm_features(only_rows)
    assert found["ShortRunEmphasis"] == pytest.approx((1 / 4 + 1) / 2)
    assert found["RunPercentage"] == pytest.approx(2 / 3)
    # Per direction contrast is the share of unequal pairs: 2/4 right, 1/3 down, 2/2 down and right, 0/2 down and left.
    assert all_features(image)["glcm_Contrast"] == pytest.approx((1 / 2 + 1 / 3 + 1 + 0) / 4)
    assert all_features(image)["glcm_MaximumProbability"] == pytest.approx((1 / 4 + 1 / 3 + 1 / 2 + 1 / 2) / 4)


def test_a_gap_in_the_region_ends_a_run() -> None:
    row = np.full((1, 7), 50.0)
    region = np.asarray([[1, 1, 1, 0, 1, 1, 0]])
    found = all_features(row, region)
    assert found["glrlm_LongRunEmphasis"] == pytest.approx((9 + 4) / 2)
    assert found["glrlm_RunPercentage"] == pytest.approx(2 / 5)


def test_directions_of_slices_blocks_and_lines() -> None:
    assert len(directions((5, 4))) == 4
    assert len(directions((3, 5, 4))) == 13
    assert len(directions((1, 5, 4))) == 4
    assert directions((1, 9)) == ((0, 1),)


def test_what_lies_outside_the_region_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 255, (20, 18))
    region = np.zeros(image.shape, np.uint8)
    region[4:15, 3:12] = 1
    region[7, 6] = 0
    changed = np.where(region > 0, image, np.nan)
    assert all_features(image, region) == all_features(changed, region)


def test_volume_of_a_voxel_scales_total_energy_alone() -> None:
    image = np.random.default_rng(0).uniform(0, 255, (9, 8))
    one, other = all_features(image), all_features(image, voxel_volume=2.5)
    assert [name for name in one if one[name] != other[name]] == ["firstorder_TotalEnergy"]
    assert other["firstorder_TotalEnergy"] == pytest.approx(2.5 * one["firstorder_TotalEnergy"])


def test_one_pixel_has_no_texture() -> None:
    found = all_features(np.asarray([[7.0, 8.0]]), np.asarray([[1, 0]]))
    assert found["firstorder_Mean"] == 7.0
    assert math.isnan(found["glcm_Idmn"])
    assert math.isnan(found["glrlm_ShortRunEmphasis"])


@pytest.mark.filterwarnings("error")
def test_what_two_pixels_leave_undefined_is_nan_without_a_warning() -> None:
    region = np.zeros((4, 4))
    region[0, 0] = region[1, 2] = 1
    found = all_features(np.arange(16.0).reshape(4, 4) * 9, region)
    undefined = {name for name, value in found.items() if math.isnan(value)}
    textures = {name for name in FEATURE_NAMES if not name.startswith("firstorder")}
    assert undefined == textures | {"firstorder_RobustMeanAbsoluteDeviation"}


@pytest.mark.parametrize("scaling", ["minmax", "robust", "none"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_slice_with_values_that_are_no_numbers_is_no_black_one(scaling: Any, value: float) -> None:
    images = np.random.default_rng(0).uniform(0, 255, (3, 9, 8)).astype(np.float32)
    images[2, 4, 4] = value
    with pytest.raises(CaseError) as caught:
        features_of_slices(images, scaling=scaling)
    assert (caught.value.code, caught.value.file) == ("E-RADIOMICS-VALUES", "slice 2")


@pytest.mark.parametrize(
    ("image", "roi", "bins", "kind", "code"),
    [
        (np.zeros((4, 4)), np.zeros((4, 4)), {}, CaseError, "E-RADIOMICS-ROI"),
        (np.full((4, 4), np.nan), None, {}, CaseError, "E-RADIOMICS-VALUES"),
        (np.zeros((4, 4)), np.ones((4, 5)), {}, UsageError, "E-RADIOMICS-SHAPE"),
        (np.zeros(4), None, {}, UsageError, "E-RADIOMICS-SHAPE"),
        (np.zeros((0, 4)), None, {}, UsageError, "E-RADIOMICS-SHAPE"),
        (np.eye(4), None, {"bin_width": 0.0}, UsageError, "E-RADIOMICS-BINS"),
        (np.eye(4), None, {"bin_width": 1e-5}, UsageError, "E-RADIOMICS-BINS"),
        (np.eye(4), None, {"bin_width": math.nan}, UsageError, "E-RADIOMICS-BINS"),
        (np.eye(4), None, {"bin_count": 0}, UsageError, "E-RADIOMICS-BINS"),
    ],
)
def test_input_without_features_is_refused(
    image: np.ndarray, roi: np.ndarray | None, bins: dict[str, Any], kind: type, code: str
) -> None:
    with pytest.raises(kind) as caught:
        all_features(image, roi, **bins)
    assert caught.value.code == code


def test_regions_of_many_slices_are_scaled_again() -> None:
    images = np.random.default_rng(0).uniform(50, 100, (3, 12, 10)).astype(np.float32)
    windows = [(slice(0, 12), slice(2, 8))] * 3
    scaled, plain = features_of_slices(images, windows), features_of_slices(images, windows, scaling="none")
    assert [row["firstorder_Range"] for row in scaled] == [255.0] * 3
    assert max(row["firstorder_Range"] for row in plain) <= 50
    assert scaled[1] == all_features(rescaled(images[1, :, 2:8]))
    hot = np.random.default_rng(0).uniform(50, 100, (1, 40, 30))
    hot[0, 0, 3] = 5000.0
    by_ends, by_percentiles = (features_of_slices(hot, scaling=kind)[0] for kind in ("minmax", "robust"))
    assert by_ends["firstorder_Mean"] < 10
    assert by_percentiles["firstorder_Mean"] > 100
    # A constant region has features too: nothing is divided by its range.
    assert features_of_slices(np.full((1, 5, 5), 9.0))[0]["firstorder_Mean"] == 0.0
