"""Matching: what it restores, what it must leave alone, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnunet_spine_ext.core.errors import CaseError, UsageError
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.harmonize.curves import CaseFacts, channel_facts
from nnunet_spine_ext.harmonize.distribution import ood_score
from nnunet_spine_ext.harmonize.maps import SLOPE_LIMITS, IntensityMap, fitted, through
from nnunet_spine_ext.harmonize.matching import (
    MATCH_METHODS,
    MatchMethod,
    MatchSettings,
    load_landmarks,
    match,
    save_landmarks,
)
from nnunet_spine_ext.harmonize.nyul import NyulLandmarks, landmarks_of
from nnunet_spine_ext.harmonize.reference import ChannelReference, average_curves, reference_of
from nnunet_spine_ext.harmonize.structures import REGION, structure_ids, structure_masks, structures_of

SHAPE = (48, 44, 16)
AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])
METHODS: tuple[MatchMethod, ...] = ("body", "nyul", "cdf", "anchored")


def scan(seed: int = 0, gamma: float = 1.0) -> tuple[Volume, dict[str, Array]]:
    """Return a body with fat, muscle, a bright canal, a cord in it and a row of bodies, and the masks of three."""
    rng = np.random.default_rng(seed)
    # Scans of one scanner differ a little; the scan of seed 0 is the one in the middle.
    fat, muscle, bone, water, cord = np.asarray([420, 150, 260, 800, 330]) * rng.normal(1, 0.02 * (seed > 0), 5)
    values = np.full(SHAPE, 6.0)
    values[6:42, 4:40] = fat
    values[9:38, 6:38] = muscle
    values[16:26, 6:38] = bone
    masks = {name: np.zeros(SHAPE, np.float32) for name in ("corpus", "canal", "cord")}
    masks["corpus"][16:26, 6:38, 3:13] = 1
    masks["canal"][28:34, 6:38, 4:12] = 1
    masks["cord"][30:32, 6:38, 6:10] = 1
    masks["canal"] -= masks["cord"]
    values[masks["canal"] > 0] = water
    values[masks["cord"] > 0] = cord
    values = values * rng.normal(1, 0.15, SHAPE)
    noisy = np.hypot(values + rng.normal(0, 5, SHAPE), rng.normal(0, 5, SHAPE))
    return Volume((1000 * (noisy / 1000) ** gamma).astype(np.float32), AFFINE), masks


def reference_from(*cases: tuple[Volume, dict[str, Array]], contrast: str | None = "T2w") -> ChannelReference:
    facts = {f"c{k}": CaseFacts((channel_facts(*case),), (4.0, 4.0, 4.0)) for k, case in enumerate(cases)}
    content = average_curves(facts, contrasts=dict.fromkeys(facts, contrast))
    found = reference_of({"spine_ext": {"reference": {"0": content}}}, [0])
    assert found is not None
    return found.channels[0]


@pytest.fixture(scope="module")
def reference() -> ChannelReference:
    return reference_from(*(scan(seed) for seed in range(1, 5)))


def error(result: Array, truth: Array) -> float:
    body = truth > 50
    return float(np.sqrt(((result - truth)[body] ** 2).mean()) / truth[body].std())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("gamma", [0.5, 1.8])
def test_another_scanner_is_brought_back(method: MatchMethod, gamma: float, reference: ChannelReference) -> None:
    truth, masks = scan()
    other = Volume((2.3 * 1000 * (truth.array / 1000) ** gamma + 40).astype(np.float32), AFFINE)
    before = other.array.copy()
    result = match(other, reference, MatchSettings(method), posteriors=masks if method == "anchored" else None)
    assert not result.skipped
    assert (other.array == before).all()
    assert (result.image.array.dtype, result.image.shape) == (np.float32, truth.shape)
    assert result.image.same_grid(truth)
    # The map of the body is drawn to an affine one.
    assert error(result.image.array, truth.array) < (0.2 if method == "body" else 0.12)
    assert result.before is not None
    assert result.after is not None
    assert result.after.body < (0.4 if method == "body" else 0.35) * result.before.body
    assert (np.diff(result.knots, axis=0) >= 0).all()
    assert result.to_dict()["method"] == method
    again = match(other, reference, MatchSettings(method), posteriors=masks if method == "anchored" else None)
    assert (again.image.array == result.image.array).all()


def test_a_scan_in_distribution_stays_as_it_is_bit_by_bit(reference: ChannelReference) -> None:
    image, _ = scan(2)
    for other in (image, Volume(3 * image.array + 7, AFFINE)):
        result = match(other, reference, MatchSettings("cdf"))
        assert result.skipped, "moving and scaling is what a z-score undoes anyway"
        assert "in distribution" in result.why
        assert (result.image.array == other.array).all()
    shifted = scan(2, gamma=0.5)[0]
    assert not match(shifted, reference, MatchSettings("cdf")).skipped
    assert not match(image, reference, MatchSettings("cdf", skip_in_distribution=False)).skipped


def test_strength_zero_is_what_a_z_score_undoes(reference: ChannelReference) -> None:
    other = scan(0, gamma=0.5)[0]
    matched = match(other, reference, MatchSettings("cdf", strength=0.0)).image.array
    whole = match(other, reference, MatchSettings("cdf")).image.array
    half = match(other, reference, MatchSettings("cdf", strength=0.5)).image.array

    def z(array: Array) -> Array:
        return (array - array.mean()) / array.std()

    assert np.allclose(z(matched), z(other.array), atol=2e-3)
    assert np.abs(z(whole) - z(other.array)).max() > 0.2
    assert np.allclose(half, (whole + matched) / 2, atol=2)


def test_a_crop_is_brought_back_by_its_structures(reference: ChannelReference) -> None:
    truth, masks = scan()
    box = (slice(13, 37), slice(8, 36), slice(2, 14))
    other = Volume(1000 * (truth.array[box] / 1000) ** 0.5, AFFINE)
    cut = {name: mask[box] for name, mask in masks.items()}
    errors = {
        method: error(
            match(
                other, reference, MatchSettings(method), posteriors=cut if method == "anchored" else None
            ).image.array,
            truth.array[box],
        )
        for method in METHODS
    }
    assert errors["anchored"] < 0.25
    # Without fat and muscle the body's quantiles are those of other tissue.
    assert errors["anchored"] < 0.2 * min(errors["cdf"], errors["nyul"], errors["body"])


def test_without_a_known_structure_the_body_decides_and_it_is_said(reference: ChannelReference) -> None:
    other, masks = scan(0, gamma=0.5)
    result = match(other, reference, MatchSettings("anchored"), posteriors={"cord": np.zeros(SHAPE, np.float32)})
    assert "W-MATCH-ANCHORS" in [problem.code for problem in result.warnings]
    assert result.confidence == 0
    assert (result.image.array == match(other, reference, MatchSettings("body")).image.array).all()
    turned = Volume(np.where(other.array > 100, 1000 - other.array, other.array).clip(0), AFFINE)
    result = match(turned, reference, MatchSettings("anchored", skip_in_distribution=False), posteriors=masks)
    assert "W-MATCH-ORDER" in [problem.code for problem in result.warnings]


def test_metal_does_not_change_the_map_and_stays_bounded(reference: ChannelReference) -> None:
    other, masks = scan(0, gamma=0.5)
    spiked = other.array.copy()
    spiked[20:24, 20:24, 6:8] *= 20
    for method in METHODS:
        posteriors = masks if method == "anchored" else None
        plain = match(other, reference, MatchSettings(method), posteriors=posteriors)
        result = match(Volume(spiked, AFFINE), reference, MatchSettings(method), posteriors=posteriors)
        away = np.ones(SHAPE, bool)
        away[20:24, 20:24, 6:8] = False
        assert np.abs(result.image.array - plain.image.array)[away].max() < 0.05 * reference.width
        slope = reference.width / (np.quantile(other.array[other.array > 200], [0.1, 0.9]) @ [-1, 1])
        assert result.image.array.max() < 1.3 * slope * spiked.max() + reference.high


def test_a_lesion_keeps_its_contrast(reference: ChannelReference) -> None:
    other, masks = scan(0, gamma=0.5)
    lesion = other.array.copy()
    lesion[18:23, 10:34, 5:11] *= 0.6
    result = match(Volume(lesion, AFFINE), reference, MatchSettings("anchored"), posteriors=masks)
    bone = masks["corpus"] > 0
    inside = np.zeros(SHAPE, bool)
    inside[18:23, 10:34, 5:11] = True
    ratio = np.median(result.image.array[inside]) / np.median(result.image.array[bone & ~inside])
    assert ratio < 0.6


@pytest.mark.parametrize(
    ("array", "code"),
    [
        (np.full(SHAPE, 7, np.int16), "W-MATCH-FLAT"),
        (np.zeros(SHAPE, np.float32), "W-MATCH-FLAT"),
        (np.full(SHAPE, np.nan, np.float32), "W-MATCH-NAN"),
    ],
    ids=["constant", "all air", "all NaN"],
)
@pytest.mark.parametrize("method", METHODS)
def test_a_scan_of_nothing_is_left_alone(
    array: Array, code: str, method: MatchMethod, reference: ChannelReference
) -> None:
    posteriors = {"cord": np.ones(SHAPE, np.float32)} if method == "anchored" else None
    result = match(Volume(array, AFFINE), reference, MatchSettings(method), posteriors=posteriors, file="x.nii.gz")
    assert result.skipped
    assert code in [problem.code for problem in result.warnings]
    assert all(problem.file == "x.nii.gz" for problem in result.warnings)


def test_nan_int16_extremes_and_one_slice(reference: ChannelReference) -> None:
    other, _ = scan(0, gamma=0.5)
    holes = other.array.copy()
    holes[10, 10, 5], holes[11, 10, 5] = np.nan, np.inf
    result = match(Volume(holes, AFFINE), reference, MatchSettings("body"))
    assert "W-MATCH-NAN" in [problem.code for problem in result.warnings]
    assert np.isfinite(result.image.array).all()
    whole = np.rint(other.array).astype(np.int16)
    whole[0, 0, 0], whole[1, 0, 0] = -32768, 32767
    result = match(Volume(whole, AFFINE), reference, MatchSettings("body"))
    plain = match(Volume(np.rint(other.array).astype(np.int16), AFFINE), reference, MatchSettings("body"))
    assert np.abs(result.image.array - plain.image.array)[2:].max() < 0.05 * reference.width
    for method in ("body", "nyul", "cdf"):
        result = match(Volume(other.array[:, :, 8:9], AFFINE), reference, MatchSettings(method))
        assert np.isfinite(result.image.array).all()


def test_ct_is_refused_and_another_contrast_is_said(reference: ChannelReference, test_data_ct: Volume) -> None:
    for image, contrast in ((test_data_ct, None), (scan()[0], "CT")):
        with pytest.raises(CaseError, match="E-MATCH-CT"):
            match(image, reference, MatchSettings("body"), contrast=contrast)
    with pytest.raises(CaseError, match="E-MATCH-CT"):
        match(scan()[0], reference_from(scan(), contrast="CT"), MatchSettings("body"))
    (problem,) = match(scan(0, 0.5)[0], reference, MatchSettings("body"), contrast="T1w").warnings
    assert problem.code == "W-MATCH-CONTRAST"
    assert "T1w" in problem.found
    assert "T2w" in problem.found
    far = match(scan(0, 4.0)[0], reference, MatchSettings("body"))
    assert [problem.code for problem in far.warnings] == ["W-MATCH-FAR"]


@pytest.fixture
def test_data_ct() -> Volume:
    """Return whole numbers in Hounsfield units: air, fat, soft tissue, bone."""
    rng = np.random.default_rng(0)
    values = np.full(SHAPE, -1000.0)
    values[6:42, 4:40] = -90
    values[9:38, 6:38] = 50
    values[16:26, 6:38] = 400
    return Volume(np.rint(values + rng.normal(0, 15, SHAPE)).astype(np.int16), AFFINE)


def test_wrong_settings_and_missing_posteriors(reference: ChannelReference) -> None:
    for settings in ({"method": "best"}, {"strength": 1.5}, {"slope_limits": (2.0, 4.0)}, {"slope_limits": (1.0, 1.0)}):
        with pytest.raises(UsageError, match="E-MATCH-SETTINGS"):
            MatchSettings(**settings)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="E-MATCH-POSTERIORS"):
        match(scan()[0], reference, MatchSettings("anchored"))
    result = match(scan(0, 0.5)[0], reference, MatchSettings("none"))
    assert (result.skipped, result.before) == (True, None)
    assert set(METHODS) | {"none", "noise"} == set(MATCH_METHODS)


def test_landmarks_are_saved_loaded_and_used(reference: ChannelReference, tmp_path: Path) -> None:
    landmarks = landmarks_of(reference)
    loaded = load_landmarks(save_landmarks(tmp_path / "marks.json", landmarks))
    other = scan(0, gamma=0.5)[0]
    own, given = (match(other, reference, MatchSettings("nyul"), landmarks=marks) for marks in (None, loaded))
    assert np.allclose(own.image.array, given.image.array, atol=1e-3)
    twice = NyulLandmarks(loaded.probabilities, 2 * loaded.values)
    brighter = match(other, reference, MatchSettings("nyul", slope_limits=(0.1, 9)), landmarks=twice)
    assert np.median(brighter.image.array) > 1.5 * np.median(own.image.array)
    # They need not bring a scan nearer to the reference to be used.
    low, span = loaded.values[0], np.ptp(loaded.values)
    bent = NyulLandmarks(loaded.probabilities, low + span * ((loaded.values - low) / span) ** 0.3)
    used = match(other, reference, MatchSettings("nyul", slope_limits=(0.01, 99)), landmarks=bent)
    assert used.after is not None
    assert used.before is not None
    assert used.after.body > used.before.body
    for text in ("{}", '{"kind": "nyul_landmarks", "probabilities": [0.1, 0.9], "values": [2, 1]}', "[1]"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(CaseError, match="E-MATCH-LANDMARKS"):
            load_landmarks(tmp_path / "bad.json")


def test_slopes_are_bounded_and_maps_never_fall() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        source, target = np.sort(rng.gamma(2, 100, 33)), np.sort(rng.gamma(0.3, 300, 33))
        for found in (
            through(source, target, 1.0),
            fitted(source[::4], source, target, np.ones(33), 1.0, ridge=0.1, scale=10.0),
        ):
            slopes = np.diff(found.y) / np.diff(found.x)
            assert slopes.min() >= SLOPE_LIMITS[0] - 1e-6
            assert slopes.max() <= SLOPE_LIMITS[1] + 1e-6
            assert 0 <= min(found.below, found.above) <= max(found.below, found.above) <= 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint8, np.int32])
def test_the_table_is_the_map(dtype: type) -> None:
    rng = np.random.default_rng(0)
    array = rng.gamma(2, 30, (20, 21, 22)).clip(0, 255).astype(dtype)
    found = IntensityMap(np.asarray([5.0, 20, 60, 150]), np.asarray([0.0, 100, 130, 400]), 0.5, 2.0)
    assert np.abs(found.apply(array) - found(array)).max() < 0.02


def test_structures_of_schemes_and_of_names() -> None:
    assert structure_ids("nnunet14")["arch"] == tuple(range(1, 10))
    assert structure_ids("nnunet14")["disc"] == (14,)
    assert structure_ids("custom") == structure_ids("sct_discs") == {}
    assert set(structure_ids("spider")) == {"vertebra", "disc", "canal"}
    assert structures_of({"labels": {"background": 0, "spinal_cord": 1, "CSF": 2, "liver": 3}}) == {
        "cord": (1,), "canal": (2,),
    }  # fmt: skip
    masks = structure_masks(np.asarray([[[0, 14, 11]]]), structure_ids("nnunet14"))
    assert set(masks) == {"disc", "cord"}


def test_a_score_names_structures_and_needs_a_bar(reference: ChannelReference) -> None:
    image, masks = scan(0)
    score = ood_score(image, reference, masks=masks)
    assert score.in_distribution
    assert set(score.structures) == {"corpus", "canal", "cord", REGION}
    assert max(score.structures.values()) < 0.15
    assert not ood_score(image, reference_from(scan(1))).in_distribution, "one case gives no bar"


def test_what_normalises_training_scans_normalises_a_matched_one_with_more_air(reference: ChannelReference) -> None:
    truth, _ = scan()
    wide = np.hypot(*np.random.default_rng(3).normal(0, 6, (2, 3 * SHAPE[0], *SHAPE[1:])))
    wide[SHAPE[0] : 2 * SHAPE[0]] = truth.array
    wide = 1000 * (wide / 1000) ** 0.5
    matched = match(Volume(wide.astype(np.float32), AFFINE), reference, MatchSettings("cdf")).image.array
    part = matched[SHAPE[0] : 2 * SHAPE[0]]
    assert reference.normalisation is not None
    mean, sd = reference.normalisation
    wanted = (truth.array - truth.array.mean()) / truth.array.std()
    body = truth.array > 50
    own = np.abs((part - matched.mean()) / matched.std() - wanted)[body].mean()
    kept = np.abs((part - mean) / sd - wanted)[body].mean()
    assert kept < 0.15
    assert own > 4 * kept
