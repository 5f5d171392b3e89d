"""Noise beyond that of training scans is reduced before intensities are matched; other scans stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from nnunet_spine_ext.core.errors import CaseError, SetupError
from nnunet_spine_ext.core.io import write_volume
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.harmonize.curves import CaseFacts, channel_facts, read_curves, write_curves
from nnunet_spine_ext.harmonize.denoising import NoiseScore, judged, quieted, relative_noise, smoothed
from nnunet_spine_ext.harmonize.matching import MatchSettings, match
from nnunet_spine_ext.harmonize.noise import noise_deviation
from nnunet_spine_ext.harmonize.reference import ChannelReference, IntensityReference, average_curves, reference_of
from nnunet_spine_ext.inference.matching import channel_volume, match_case, quieted_case, score_case, usable_reference
from nnunet_spine_ext.inference.reading import read_case

SHAPE = (48, 44, 10)
AFFINE = np.diag([1.0, 1.0, 4.0, 1.0])


def clean(seed: int = 0) -> Array:
    """A body of two tissues with smooth borders, in air; (48, 44, 10)."""
    rng = np.random.default_rng(seed)
    x, y, _ = np.indices(SHAPE)
    radius = ((x - 24) / 22) ** 2 + ((y - 22) / 20) ** 2
    tissue = 300 + 500 / (1 + np.exp(((x - 24 + rng.uniform(-2, 2)) ** 2 + (y - 22) ** 2 - 81) / 20))
    return np.where(radius < 1, tissue, 8.0)


def scan(seed: int = 0, noise: float = 8.0, affine: Array = AFFINE) -> Volume:
    """The body with Rician noise."""
    rng = np.random.default_rng(1000 + seed)
    real, imaginary = rng.normal(size=(2, *SHAPE)) * noise
    return Volume(np.hypot(clean(seed) + real, imaginary).astype(np.float32), affine)


def content_of(images: Sequence[Volume]) -> dict[str, Any]:
    facts = {f"c{n}": CaseFacts((channel_facts(image),)) for n, image in enumerate(images)}
    content = average_curves(facts)
    assert content is not None
    return content


def reference_from(images: Sequence[Volume]) -> IntensityReference:
    found = reference_of({"spine_ext": {"reference": {"0": content_of(images)}}}, ())
    assert found is not None
    return found


@pytest.fixture(scope="module")
def whole() -> IntensityReference:
    return reference_from([scan(seed) for seed in range(6)])


@pytest.fixture(scope="module")
def reference(whole: IntensityReference) -> ChannelReference:
    return whole.channels[0]


def read(folder: Path, image: Volume) -> tuple[Array, dict[str, Any]]:
    write_volume(image, folder / "case.nii.gz")
    return read_case([folder / "case.nii.gz"])


# ---- how noisy a scan is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [4.0, 20.0, 60.0])
@pytest.mark.parametrize("thick", [0, 1, 2])
def test_the_deviation_of_noise_is_found_in_the_planes_of_the_finest_voxels(sigma: float, thick: int) -> None:
    rng = np.random.default_rng(0)
    # Across the slices other anatomy follows, which must not count.
    slices = np.where(np.arange(10) % 2, 400, 900)[None, None]
    array = np.moveaxis(slices + sigma * rng.normal(size=SHAPE), 2, thick)
    spacing = [1.0, 1.0, 1.0]
    spacing[thick] = 4.0
    image = Volume(array, np.diag([*spacing, 1.0]))
    found = noise_deviation(image, np.ones(array.shape, bool))
    assert found == pytest.approx(sigma, rel=0.03)
    assert noise_deviation(image, np.ones(array.shape, bool), slices=3) == pytest.approx(sigma, rel=0.06)


def test_a_ramp_is_no_noise_and_too_little_says_nothing() -> None:
    x, y, z = np.indices(SHAPE)
    ramp = Volume((3.0 * x - 2 * y + z), AFFINE)
    assert noise_deviation(ramp, np.ones(SHAPE, bool)) == pytest.approx(0, abs=1e-9)
    assert noise_deviation(ramp, np.zeros(SHAPE, bool)) is None
    assert noise_deviation(Volume(ramp.array[:2], AFFINE), np.ones((2, *SHAPE[1:]), bool)) is None
    strange = ramp.array.astype(np.float32)
    strange[20, 20, 5] = np.nan
    assert noise_deviation(Volume(strange, AFFINE), np.ones(SHAPE, bool)) == pytest.approx(0, abs=1e-5)


def test_a_thinned_scan_has_the_noise_of_the_scan() -> None:
    image = scan(noise=30)
    all_of_it, some = (channel_facts(image, samples=n).noise for n in (1 << 40, 2000))
    assert all_of_it is not None
    assert some == pytest.approx(all_of_it, rel=0.1)
    assert all_of_it == pytest.approx(30, rel=0.15)


# ---- what training scans have ------------------------------------------------------------------------------------


def test_a_reference_knows_the_noise_of_its_scans_and_a_limit(reference: ChannelReference) -> None:
    levels = [relative_noise(channel_facts(scan(seed))) for seed in range(6)]
    assert reference.noise == pytest.approx(float(np.median(np.array(levels, dtype=float))), abs=1e-5)
    assert reference.noise_limit is not None
    assert reference.noise_limit > max(float(level or 0) for level in levels)


def test_one_case_and_facts_of_earlier_versions_tell_no_noise(tmp_path: Path) -> None:
    assert content_of([scan()])["channels"][0]["noise"] is None
    facts = CaseFacts((channel_facts(scan()),))
    write_curves(tmp_path, {"a": facts})
    assert read_curves(tmp_path)["a"].channels[0].noise == pytest.approx(facts.channels[0].noise, abs=1e-5)
    assert read_curves(tmp_path)["a"].current
    earlier = CaseFacts((replace(facts.channels[0], noise=None),), version=2)
    assert not CaseFacts.of(earlier.to_dict()).current
    content = average_curves({"a": earlier, "b": earlier})
    assert content is not None
    channel = content["channels"][0]
    assert (channel["noise"], channel["noise_limit"]) == (None, None)
    for key in ("noise", "noise_limit"):
        del channel[key]
    old = reference_of({"spine_ext": {"reference": {"0": content}}}, ())
    assert old is not None
    noisy = scan(noise=60)
    found = quieted(noisy, old.channels[0])
    assert found.image is noisy
    assert (found.changed, found.to_dict()) == (False, None)


# ---- reducing it -------------------------------------------------------------------------------------------------


def test_noise_beyond_the_limit_goes_and_the_image_comes_nearer_to_the_truth(reference: ChannelReference) -> None:
    noisy = scan(7, noise=60)
    found = quieted(noisy, reference)
    assert found.changed
    assert found.score is not None
    assert found.score.level > found.score.limit
    assert found.after is not None
    assert found.after < found.score.level / 2
    inside = clean(7) > 100
    errors = [np.sqrt(np.mean((image.array - clean(7))[inside] ** 2)) for image in (noisy, found.image)]
    assert errors[1] < 0.55 * errors[0]
    assert np.array_equal(found.image.affine, noisy.affine)
    assert found.image.array.dtype == np.float32


def test_a_scan_within_the_limit_is_the_very_same(reference: ChannelReference) -> None:
    usual = scan(8)
    found = quieted(usual, reference)
    assert found.image is usual
    assert not found.changed
    assert found.score is not None
    assert found.score.excess == 0


def test_what_has_to_go_is_what_is_beyond_usual_noise() -> None:
    assert NoiseScore(5, 3, 4).excess == pytest.approx(4)
    assert NoiseScore(4, 3, 4).excess == 0
    # Of few clean scans the limit may lie below what is usual: nothing is ever made of less noise than that.
    assert NoiseScore(0.2, 0.3, 0.1).excess == 0


def test_an_edge_stays_where_it_is_and_padding_stays_padding() -> None:
    array = np.where(np.arange(48) < 24, 200.0, 800.0)[:, None, None] * np.ones(SHAPE)
    array[:6] = 0
    quiet = smoothed(Volume(array.astype(np.int16), AFFINE), 40).array
    assert not quiet[:6].any()
    assert quiet[18:22].max() < 260
    assert quiet[26:40].min() > 740
    rise = quiet[23:25, 20, 5]
    assert rise[0] < 500 < rise[1]
    assert np.abs(quiet[6:9] - quiet[12]).max() < 10, "tissue beside padding is as bright as elsewhere"


@pytest.mark.parametrize("kind", ["constant", "zero", "nan", "slice", "line"])
def test_images_without_sense_are_left_alone_or_stay_finite(kind: str, reference: ChannelReference) -> None:
    array = np.full(SHAPE, 7.0, np.float32)
    if kind == "zero":
        array[:] = 0
    elif kind == "nan":
        array = scan(noise=60).array.copy()
        array[::7] = np.nan
    elif kind == "slice":
        array = scan(noise=60).array[:, :, 4:5]
    elif kind == "line":
        array = scan(noise=60).array[:1, :, :1]
    found = quieted(Volume(array, AFFINE), reference)
    assert found.image.shape == array.shape
    assert np.array_equal(np.isfinite(found.image.array), np.isfinite(array)), "match warns of what is no number"
    assert found.changed == (kind in ("nan", "slice"))


def test_planes_do_not_depend_on_how_an_isotropic_scan_is_stored() -> None:
    rng = np.random.default_rng(3)
    # Noise that an interpolation has smoothed from left to right looks weaker across the planes that hold that axis.
    array = gaussian_filter(rng.normal(size=(40, 44, 36)), (1.5, 0, 0)) * 50 + 300
    stored = Volume(array.astype(np.float32), np.diag([1.0, 1.0, 1.001, 1.0]))
    turned = Volume(np.moveaxis(stored.array, 0, 2), stored.affine[:, [1, 2, 0, 3]])
    levels = [noise_deviation(image, np.ones(image.shape, bool)) for image in (stored, turned)]
    assert levels[0] == levels[1]
    assert np.array_equal(smoothed(stored, 20).array, np.moveaxis(smoothed(turned, 20).array, 2, 0))


# ---- in prediction -----------------------------------------------------------------------------------------------


def test_a_noisy_case_is_quieted_and_keeps_its_own_normalisation(tmp_path: Path, whole: IntensityReference) -> None:
    data, properties = read(tmp_path, scan(7, noise=40))
    found = match_case(data, properties, whole, "noise")
    (row,) = found.facts["channels"]
    assert row["skipped"]
    assert row["noise"]["after"] < row["noise"]["limit"] < row["noise"]["level"]
    assert not found.skipped
    assert found.kept_intensities
    assert found.standardise == (None,)
    assert not np.array_equal(found.data, data)
    assert found.unmatched is not None
    assert np.array_equal(found.unmatched, found.data)
    # Again with what is there already: the same, without doing it twice.
    again = match_case(data, properties, whole, "noise", quiet=quieted_case(data, properties, whole))
    assert np.array_equal(again.data, found.data)


def test_noise_and_intensities_are_both_matched(tmp_path: Path, whole: IntensityReference) -> None:
    image = scan(7, noise=40)
    bent = image.with_array((1000 * (image.array / 1000) ** 2.5).astype(np.float32))
    data, properties = read(tmp_path, bent)
    found = match_case(data, properties, whole, "body")
    (row,) = found.facts["channels"]
    assert not row["skipped"]
    assert row["noise"]["after"] is not None
    assert found.standardise == (whole.channels[0].normalisation,)
    assert found.unmatched is not None
    assert not np.array_equal(found.unmatched, found.data)
    (quiet,) = quieted_case(data, properties, whole)
    own = match(quiet.image, whole.channels[0], MatchSettings("body")).image.array
    inside = data[0] != 0
    assert np.array_equal(found.data[0][inside], own.transpose(2, 1, 0)[inside])


def test_a_usual_case_is_untouched_and_its_noise_is_told(tmp_path: Path, whole: IntensityReference) -> None:
    data, properties = read(tmp_path, scan(8))
    found = match_case(data, properties, whole, "body")
    assert found.data is data
    assert found.skipped
    assert found.unmatched is None
    told, _ = score_case(data, properties, whole)
    assert told["channels"][0]["noise"] == found.facts["channels"][0]["noise"]
    assert told["channels"][0]["noise"]["after"] is None


def test_a_noisy_case_that_nothing_is_done_about_is_a_warning(tmp_path: Path, whole: IntensityReference) -> None:
    data, properties = read(tmp_path, scan(7, noise=40))
    told, warnings = score_case(data, properties, whole, file="scan.nii.gz")
    assert told["channels"][0]["noise"]["after"] is None
    (problem,) = [warning for warning in warnings if warning.code == "W-MATCH-NOISE"]
    score = told["channels"][0]["noise"]
    assert f"{score['level']:.4f}" in problem.found
    assert f"{score['limit']:.4f}" in problem.expected
    assert score["beyond"]
    assert problem.file == "scan.nii.gz"
    assert "--match noise" in problem.fix
    (after,) = match_case(data, properties, whole, "noise", file="scan.nii.gz").warnings
    assert (after.code, after.file) == ("W-MATCH-NOISE", "scan.nii.gz")
    assert after.found.endswith("it was reduced"), "far too noisy to trust it"
    limit = score["limit"]
    little, properties = read(tmp_path, scan(9, noise=8 * 1.25 * limit / score["usual"]))
    found = match_case(little, properties, whole, "noise")
    assert 1 < found.facts["channels"][0]["noise"]["level"] / limit < 1.5
    assert found.unmatched is not None
    assert not found.warnings, "it was reduced"
    assert [w.code for w in score_case(little, properties, whole)[1]] == ["W-MATCH-NOISE"]
    data[0, 3, 4, 5] = np.nan
    assert [w.code for w in match_case(data, properties, whole, "noise").warnings] == ["W-MATCH-NAN", "W-MATCH-NOISE"]
    usual, properties = read(tmp_path, scan(8))
    assert not [warning for warning in score_case(usual, properties, whole)[1] if warning.code == "W-MATCH-NOISE"]


@pytest.mark.parametrize(
    ("of", "scan_is", "codes", "found"),
    [
        (None, None, ["W-MATCH-CT"], "the reference is of scans of unknown contrast"),
        (None, "CT", ["W-MATCH-CT"], "the reference is of scans of unknown contrast"),
        (None, "CTA_thorax", ["W-MATCH-CT"], ""),
        (None, " unknown ", ["W-MATCH-CT"], ""),
        ("T2w", None, ["W-MATCH-CT"], "the reference is of T2w scans"),
        ("T2w", "unknown", ["W-MATCH-CT"], "the reference is of T2w scans"),
        ("T2w", "HRCT", ["W-MATCH-CONTRAST"], "a scan of contrast HRCT"),
        ("T2w", "CT", ["W-MATCH-CONTRAST"], "a scan of contrast CT"),
        ("CT", "CTA", ["W-MATCH-FAR"], ""),
        ("CT", None, ["W-MATCH-FAR"], ""),
    ],
)
def test_a_ct_is_told_once_and_neither_its_noise_nor_its_distance(
    tmp_path: Path, whole: IntensityReference, of: str | None, scan_is: str | None, codes: list[str], found: str
) -> None:
    image = scan(7, noise=40)
    hounsfield = np.where(clean(7) < 100, -1000.0, image.array - 400)
    data, properties = read(tmp_path, image.with_array(hounsfield.astype(np.float32)))
    known = replace(whole, channels=(replace(whole.channels[0], contrast=of),))
    told = score_case(data, properties, known, contrast=scan_is)[1]
    assert [w.code for w in told] == codes
    assert found in told[0].found


def test_a_ct_like_the_training_scans_is_no_surprise(tmp_path: Path, whole: IntensityReference) -> None:
    """A model that was trained on CT without saying so has a reference of unknown contrast."""
    image = scan(7)
    data, properties = read(tmp_path, image.with_array((image.array - 1000).astype(np.float32)))
    own = whole.channels[0]
    of_such = replace(own, low=own.low - 1000, high=own.high - 1000)
    assert of_such.low < -200
    for low in (of_such, replace(of_such, low=-100.0, high=own.width - 100)):
        known = replace(whole, channels=(low,))
        assert "W-MATCH-CT" not in {w.code for w in score_case(data, properties, known, contrast="CT")[1]}
    mr = replace(whole, channels=(replace(of_such, contrast="T2w"),))
    for contrast in ("T2w", None):
        assert not score_case(data, properties, mr, contrast=contrast)[1], "MR that is stored with an offset"


@pytest.mark.parametrize("affine", [np.diag([-1.0, 1.0, -4.0, 1.0]), np.diag([4.0, 1.0, 1.0, 1.0])[:, [2, 0, 1, 3]]])
def test_geometry_stays(tmp_path: Path, whole: IntensityReference, affine: Array) -> None:
    image = scan(7, noise=40, affine=affine)
    data, properties = read(tmp_path, image)
    found = match_case(data, properties, whole, "noise")
    assert found.data.shape == data.shape
    assert np.corrcoef(found.data.ravel(), data.ravel())[0, 1] > 0.97


def test_channels_are_quieted_one_by_one(tmp_path: Path) -> None:
    facts = {f"c{n}": CaseFacts((channel_facts(scan(n)), channel_facts(scan(n + 20)))) for n in range(6)}
    both = reference_of({"spine_ext": {"reference": {"0": average_curves(facts)}}}, ())
    assert both is not None
    for channel, image in enumerate((scan(7), scan(27, noise=40))):
        write_volume(image, tmp_path / f"case_{channel:04d}.nii.gz")
    data, properties = read_case([tmp_path / f"case_{channel:04d}.nii.gz" for channel in range(2)])
    found = match_case(data, properties, both, "noise")
    assert np.array_equal(found.data[0], data[0])
    assert not np.array_equal(found.data[1], data[1])
    assert [row["noise"]["after"] is None for row in found.facts["channels"]] == [True, False]
    assert found.standardise == (None, None)


def test_folds_that_tell_noise_decide_it(whole: IntensityReference) -> None:
    own, silent = content_of([scan(seed) for seed in range(6)]), content_of([scan()])
    plans = {"spine_ext": {"reference": {"0": own, "1": silent}}}
    found = {folds: reference_of(plans, folds) for folds in (("0",), ("1",), ("0", "1"))}
    noises = {folds: None if one is None else one.channels[0].noise for folds, one in found.items()}
    assert noises == {("0",): whole.channels[0].noise, ("1",): None, ("0", "1"): whole.channels[0].noise}


@pytest.mark.parametrize("method", ["noise", "body"])
def test_a_ct_is_refused_however_noisy(tmp_path: Path, method: Any) -> None:
    # Without air: whole numbers, with fat below -50, are all that tells it.
    rng = np.random.default_rng(0)
    x, y, _ = np.indices((64, 64, 8))
    tissue = np.select([x < 12, np.hypot(x - 40, y - 32) < 8], [-100, 250], 50)
    image = Volume(np.rint(tissue + 60 * rng.normal(size=tissue.shape)).astype(np.int16), AFFINE)
    data, properties = read(tmp_path, image)
    references = reference_from([Volume(scan(seed).array[:, :, :8] * 0.3, AFFINE) for seed in range(6)])
    assert judged(channel_volume(data[0], properties), references.channels[0]).noisy
    with pytest.raises(CaseError) as caught:
        match_case(data, properties, references, method, file="ct.nii.gz")
    assert (caught.value.code, caught.value.file) == ("E-MATCH-CT", "ct.nii.gz")


def test_noise_alone_needs_a_reference_that_tells_it() -> None:
    dataset = {"channel_names": {"0": "T2w"}, "labels": {"background": 0, "cord": 1}}
    plans = {"spine_ext": {"reference": {"0": content_of([scan()])}}, "configurations": {}}
    with pytest.raises(SetupError) as caught:
        usable_reference(plans, dataset, ("0",), "noise", "model")
    assert caught.value.code == "E-MATCH-REFERENCE"
    assert "--overwrite" in str(caught.value)
    assert usable_reference(plans, dataset, ("0",), "body", "model") is not None
