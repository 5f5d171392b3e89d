"""The intensity reference: what it measures, and what must not disturb it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from nnunet_spine_ext.core.io import read_volume, write_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.harmonize.curves import CURVES_VERSION
from nnunet_spine_ext.harmonize.reference import (
    CURVES_FILE,
    KNOTS,
    PROBABILITIES,
    REFERENCE_VERSION,
    average_curves,
    body_mask,
    curves_of_files,
    intensity_curve,
    read_curves,
    write_curves,
)

SHAPE = (40, 48, 44)


def scan(seed: int = 0, *, scale: float = 1.0) -> tuple[Volume, np.ndarray]:
    """Return an image of a body of several tissues in noisy air, and where the body is."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    body = sum((g / r) ** 2 for g, r in zip(grid, (0.8, 0.75, 1.2), strict=True)) < 1
    tissue = gaussian_filter(rng.normal(size=SHAPE), 3.0)
    values = 350 + 220 * tissue / tissue.std()
    values = np.where(body, np.clip(values, 90, 1200), 0)
    noisy = np.hypot(values + rng.normal(0, 12, SHAPE), rng.normal(0, 12, SHAPE))
    return Volume((noisy * scale).astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0])), body


def padded(volume: Volume, share: float, sigma: float) -> Volume:
    """Return the volume in a larger one, of which `share` is padding: zeros, or noise as air has it."""
    wide = round(volume.shape[1] * share / (1 - share))
    size = (volume.shape[0], volume.shape[1] + wide, volume.shape[2])
    assert wide / size[1] == pytest.approx(share, abs=0.02)
    outside = np.hypot(*np.random.default_rng(5).normal(0, sigma, (2, *size)))
    outside[:, wide // 2 : wide // 2 + volume.shape[1]] = volume.array
    return Volume(outside.astype(np.float32), volume.affine)


def change(curve: np.ndarray, other: np.ndarray) -> float:
    """Return the largest difference in units of the curve's 10th to 90th percentile range."""
    width = np.interp(0.9, PROBABILITIES, curve) - np.interp(0.1, PROBABILITIES, curve)
    return float(np.abs(other - curve).max() / width)


def test_a_curve_has_33_knots_that_do_not_decrease() -> None:
    curve = intensity_curve(scan()[0])
    assert curve.shape == (KNOTS,) == PROBABILITIES.shape == (33,)
    assert (np.diff(curve) >= 0).all()
    assert curve[0] > 60, "air is not part of it"


def test_the_mask_is_the_body() -> None:
    volume, body = scan()
    found = body_mask(volume)
    overlap = 2 * np.count_nonzero(found & body) / (found.sum() + body.sum())
    assert overlap > 0.97


@pytest.mark.parametrize("sigma", [0, 12], ids=["zeros", "air"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_padding_and_more_air_hardly_change_it(sigma: float, seed: int) -> None:
    volume, _ = scan(seed)
    assert change(intensity_curve(volume), intensity_curve(padded(volume, 0.4, sigma))) < 0.02


def test_real_scans_with_more_padding_and_air_keep_their_curve(test_data: Path) -> None:
    volume = read_volume(test_data / "sct-errsm/errsm_11/t2/t2.nii.gz")
    volume = Volume(volume.array[::2, ::2, ::2], volume.affine)  # every second voxel: quicker
    curve = intensity_curve(volume)
    air = volume.array[~body_mask(volume)]
    # The median of Rician noise without signal is 1.18 sigma.
    for sigma in (0, np.median(air[air > 0]) / 1.18):
        assert change(curve, intensity_curve(padded(volume, 0.4, sigma))) < 0.02, sigma


def test_it_scales_with_the_image_and_so_not_in_its_own_units() -> None:
    curve = intensity_curve(scan(scale=1.0)[0])
    scaled = intensity_curve(scan(scale=7.5)[0])
    assert np.allclose(scaled, 7.5 * curve, rtol=1e-4)
    first, second = (average_curves({"a": [c]}) for c in (curve, scaled))
    assert first is not None
    assert second is not None
    assert np.allclose(first["channels"][0]["mean"], second["channels"][0]["mean"], atol=1e-3)
    assert second["channels"][0]["low"] == pytest.approx(7.5 * first["channels"][0]["low"], rel=1e-3)


@pytest.mark.parametrize("value", [0, 7, -3])
def test_a_constant_image_gives_a_constant_curve(value: int) -> None:
    curve = intensity_curve(Volume(np.full((4, 5, 6), value, dtype=np.int16), np.eye(4)))
    assert (curve == value).all()


@given(st.integers(0, 1000), st.integers(1, 4), st.booleans())
def test_the_mean_of_curves_does_not_decrease(seed: int, cases: int, flat: bool) -> None:
    rng = np.random.default_rng(seed)
    curves = {str(k): np.sort(rng.gamma(2, 200, (2, KNOTS)), axis=1) for k in range(cases)}
    if flat:
        curves["0"][:] = 5.0
    reference = average_curves(curves)
    assert reference is not None
    assert (reference["version"], reference["cases"]) == (REFERENCE_VERSION, cases)
    assert len(reference["channels"]) == 2
    for channel in reference["channels"]:
        assert len(channel["mean"]) == len(channel["spread"]) == KNOTS
        assert np.isfinite([channel["low"], channel["high"], *channel["mean"], *channel["spread"]]).all()
        assert (np.diff(channel["mean"]) >= -1e-9).all()
        assert min(channel["spread"]) >= 0
    assert len(json.dumps(reference)) < 10_000


def test_only_the_given_cases_enter() -> None:
    curves = {name: [np.linspace(0, top, KNOTS) ** power] for name, top, power in (("a", 9, 1), ("b", 5, 2))}
    alone = average_curves({"a": curves["a"]})
    both = average_curves(curves)
    assert alone is not None
    assert both is not None
    assert np.allclose(alone["channels"][0]["spread"], 0)
    assert max(both["channels"][0]["spread"]) > 0.05
    assert both == average_curves(dict(reversed(curves.items()))), "the order of the cases does not matter"
    assert average_curves({}) is None


def test_curves_are_stored_with_their_version(tmp_path: Path) -> None:
    assert read_curves(tmp_path) == {}
    files = []
    for channel in (0, 1):
        files.append(tmp_path / f"a_{channel:04d}.nii.gz")
        write_volume(scan(channel)[0], files[-1])
    curves = curves_of_files({"a": files})
    assert [channel.body.shape for channel in curves["a"].channels] == [(KNOTS,)] * 2
    assert np.allclose(curves["a"].channels[1].body, intensity_curve(scan(1)[0]), rtol=1e-5)
    write_curves(tmp_path, curves)
    assert read_curves(tmp_path)["a"].to_dict() == curves["a"].to_dict()
    content = json.loads((tmp_path / CURVES_FILE).read_text())
    assert content["version"] == CURVES_VERSION
    assert np.allclose(content["probabilities"], PROBABILITIES)


@pytest.mark.parametrize(
    "content", ['{"version": 2, "cases": {"a": {"knots": 65}}}', '{"cases": {}}', "[1, 2]", '{"version": 1, "ca']
)
def test_curves_of_another_version_are_not_read_as_ours(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / CURVES_FILE).write_text(content)
    assert read_curves(tmp_path) == {}
    assert CURVES_FILE in caplog.text
    assert "made anew" in caplog.text
