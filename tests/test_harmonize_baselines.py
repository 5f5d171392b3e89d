"""Harmonizers without a network: what each makes equal, what none may change, and their folders."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nnunet_spine_ext.core.errors import CaseError, SetupError, UsageError
from nnunet_spine_ext.harmonize import baselines
from nnunet_spine_ext.harmonize.baselines import (
    BASELINES,
    STYLE_FILE,
    Baseline,
    BaselineMethod,
    BaselineSettings,
    body_of,
    fit_baseline,
    shown_of,
    write_baseline,
)
from nnunet_spine_ext.harmonize.harmonizer import HarmonizerModel, load_harmonizer, write_harmonizer
from nnunet_spine_ext.harmonize.nyul import LANDMARKS
from nnunet_spine_ext.harmonize.slice_grid import SliceSettings
from nnunet_spine_ext.harmonize.slice_set import SliceFacts, SliceSet

SIZE = (96, 112)
SLICES = SliceSettings(size=SIZE, spacing=2.0)


def _slice(seed: int, gamma: float = 1.0, air: int = 56) -> np.ndarray:
    """Return a body with a fifth of dark tissue beside air, 0 to 255."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    tissue = 0.7 + 0.1 * np.cos(x / 5.0) - 0.4 * ((y + seed) % 15 < 3) + rng.normal(0, 0.02, SIZE)
    image = 255 * np.clip(tissue, 0, 1) ** gamma
    image[:, :air] = rng.uniform(1, 4, (SIZE[0], air))
    return image.astype(np.float32)


def _set(images: list[np.ndarray]) -> SliceSet:
    facts = tuple(SliceFacts("D", f"c{k}", f"s{k}", "Siemens", 0, 0.0, False) for k in range(len(images)))
    return SliceSet(np.stack(images), None, facts, (1.0, 1.0))


@pytest.fixture(scope="module")
def target() -> SliceSet:
    return _set([_slice(seed) for seed in range(6)])


def _fit(method: BaselineMethod, target: SliceSet, **settings: Any) -> Baseline:
    return fit_baseline(method, target, SLICES, BaselineSettings(**settings))


def _apply(harmonizer: Baseline, *images: np.ndarray) -> np.ndarray:
    return harmonizer(torch.from_numpy(np.stack(images)[:, None])).numpy()[:, 0]


def _body(image: np.ndarray) -> np.ndarray:
    return image[:, 60:].ravel()


@pytest.mark.parametrize("method", BASELINES)
def test_another_rendering_becomes_the_target(method: BaselineMethod, target: SliceSet) -> None:
    shifted = 0.6 * _slice(3) + 30 if method == "zscore" else 255 * (_slice(3) / 255) ** 1.8
    found = _apply(_fit(method, target), shifted.astype(np.float32))[0]
    before, after = (np.abs(_body(image) - _body(_slice(3))).mean() for image in (shifted, found))
    assert after < 0.15 * before


def test_zscore_gives_mean_and_deviation_of_the_target(target: SliceSet) -> None:
    harmonizer = _fit("zscore", target)
    found = _apply(harmonizer, 0.5 * _slice(9) + 40)[0]
    inside = found[body_of(0.5 * _slice(9) + 40, (1.0, 1.0))]
    bodies = [image[body_of(image, (1.0, 1.0))] for image in target.images]
    assert inside.mean() == pytest.approx(np.mean([b.mean() for b in bodies]), abs=0.05)
    assert inside.std() == pytest.approx(np.mean([b.std() for b in bodies]), abs=0.05)


def test_nyul_averages_stretched_landmarks_of_all_slices() -> None:
    images = [_slice(0), np.minimum(0.5 * _slice(1), 255), _slice(2, 1.5)]
    harmonizer = _fit("nyul", _set(images), region="slice")
    own = np.stack([np.quantile(image, LANDMARKS) for image in images])
    low, high = own[:, 0].mean(), own[:, -1].mean()
    stretched = low + (own - own[:, :1]) / (own[:, -1:] - own[:, :1]) * (high - low)
    assert harmonizer.landmarks is not None
    assert harmonizer.landmarks.values == pytest.approx(stretched.mean(axis=0), rel=1e-5)


def test_histogram_reaches_quantiles_that_landmarks_leave_out() -> None:
    # Two grey values, half of the slice each, and nothing in between.
    two = np.where(np.arange(SIZE[0])[:, None] < SIZE[0] // 2, 50.0, 200.0) * np.ones(SIZE)
    harmonizer = _fit("histogram", _set([two.astype(np.float32)]), region="slice")
    assert harmonizer.landmarks is not None
    between = (harmonizer.landmarks.values > 51) & (harmonizer.landmarks.values < 199)
    assert not between.any()
    found = _apply(harmonizer, _slice(4, air=0))[0]
    # What lies between two probabilities is drawn from one value to the other.
    assert ((found < 51) | (found > 199)).mean() > 0.99


def test_every_slice_of_a_target_weighs_the_same() -> None:
    small, large = _slice(0, air=80), np.minimum(1.3 * _slice(1), 255)
    harmonizer = _fit("histogram", _set([small, large]))
    assert harmonizer.landmarks is not None
    bodies = [image[body_of(image, (1.0, 1.0))] for image in (small, large)]
    middle = harmonizer.landmarks.values[128]
    assert np.mean([(body < middle).mean() for body in bodies]) == pytest.approx(0.5, abs=0.01)
    assert (np.concatenate(bodies) < middle).mean() < 0.45


@pytest.mark.parametrize("method", BASELINES)
def test_order_range_and_single_slices(method: BaselineMethod, target: SliceSet) -> None:
    harmonizer = _fit(method, target)
    images = [_slice(7, 0.6), _slice(8, 1.6)]
    together = _apply(harmonizer, *images)
    for image, found in zip(images, together, strict=True):
        assert np.array_equal(_apply(harmonizer, image)[0], found)
        rising = found.ravel()[np.argsort(image.ravel(), kind="stable")]
        assert (np.diff(rising) >= -1e-3).all()
    assert together.min() >= 0
    assert together.max() <= 255
    assert together.dtype == np.float32
    needs = torch.from_numpy(images[0][None, None]).requires_grad_()
    assert not harmonizer(needs).requires_grad
    # Slices of another size than the target's are taken too.
    assert harmonizer(needs[:, :, :60, :70]).shape == (1, 1, 60, 70)


@pytest.mark.parametrize("method", BASELINES)
@pytest.mark.parametrize("region", ["body", "slice"])
def test_padding_stays_black_and_changes_nothing(method: BaselineMethod, region: str, target: SliceSet) -> None:
    bright = _set([np.clip(0.5 * image + 100, 0, 255).astype(np.float32) for image in target.images])
    harmonizer = _fit(method, bright, region=region)
    image = _slice(7)
    image[10, 60] = 0.0
    padded = np.pad(image, ((12, 20), (8, 0)))
    alone, found = _apply(harmonizer, image)[0], _apply(harmonizer, padded)[0]
    assert alone.min() > 20, "the test would show nothing"
    inside = np.zeros(padded.shape, dtype=bool)
    inside[12:-20, 8:] = True
    assert (found[~inside] == 0).all()
    # A dark pixel inside is no padding.
    assert found[22, 68] > 0
    if region == "slice":
        assert np.array_equal(found[12:-20, 8:], alone)
        again = _fit(method, _set([np.pad(one, ((12, 20), (8, 0))) for one in bright.images]), region=region)
        assert (again.mean, again.sd) == (harmonizer.mean, harmonizer.sd)


@pytest.mark.parametrize("region", ["body", "slice"])
def test_what_a_slice_shows_is_looked_for_once(region: str, target: SliceSet, monkeypatch: pytest.MonkeyPatch) -> None:
    harmonizer = _fit("nyul", target, region=region)
    looked = []
    monkeypatch.setattr(baselines, "shown_of", lambda image: looked.append(image.shape) or shown_of(image))
    _apply(harmonizer, *(_slice(k) for k in range(3)))
    assert looked == [SIZE] * 3


@pytest.mark.parametrize("method", BASELINES)
def test_slices_without_intensities_stay(method: BaselineMethod, target: SliceSet) -> None:
    harmonizer = _fit(method, target)
    for image in (np.zeros(SIZE, np.float32), np.full(SIZE, 80, np.float32), np.eye(4, dtype=np.float32)):
        assert np.array_equal(_apply(harmonizer, image)[0], image)


def test_more_air_in_view_does_not_change_the_body(target: SliceSet) -> None:
    narrow = _slice(5, 1.5)
    wide = np.concatenate([np.random.default_rng(0).uniform(1, 4, (SIZE[0], 60)).astype(np.float32), narrow], axis=1)

    def moved(region: str) -> float:
        harmonizer = _fit("nyul", target, region=region)
        return float(np.abs(_body(_apply(harmonizer, narrow)[0]) - _body(_apply(harmonizer, wide)[0][:, 60:])).mean())

    assert moved("body") < 0.5
    assert moved("slice") > 20


@pytest.mark.parametrize("method", BASELINES)
def test_the_intensities_of_all_slices_are_never_in_memory_together(method: BaselineMethod) -> None:
    count = 120
    many = _set([_slice(0)] * count)
    tracemalloc.start()
    try:
        _fit(method, many, region="slice")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < many.images.nbytes


def test_so_many_slices_are_taken_evenly(target: SliceSet) -> None:
    assert _fit("nyul", target).used == 6
    harmonizer = _fit("nyul", target, slices=2)
    ends = _fit("nyul", target.subset([0, 5]))
    assert harmonizer.used == 2
    assert harmonizer.landmarks is not None
    assert ends.landmarks is not None
    assert np.array_equal(harmonizer.landmarks.values, ends.landmarks.values)


def _write(folder: Path, harmonizer: Baseline) -> HarmonizerModel:
    return write_baseline(folder, HarmonizerModel("cyclegan", SliceSettings(), (2.0, 2.0), ("Siemens",)), harmonizer)


@pytest.mark.parametrize("method", BASELINES)
def test_a_model_folder_gives_the_same_harmonizer(method: BaselineMethod, target: SliceSet, tmp_path: Path) -> None:
    harmonizer = _fit(method, target, slope_limits=(0.1, 8.0))
    model = _write(tmp_path, harmonizer)
    loaded = load_harmonizer(tmp_path)
    assert (loaded.method, loaded.size, loaded.spacing, loaded.slices) == (method, SIZE, (1.0, 1.0), SLICES)
    assert isinstance(loaded, Baseline)
    assert (loaded.settings, loaded.used) == (harmonizer.settings, 6)
    image = torch.from_numpy(_slice(7, 1.7)[None, None])
    assert torch.equal(loaded(image), harmonizer(image))
    assert _write(tmp_path / "again", _fit(method, target, slope_limits=(0.1, 8.0))).files == model.files


@pytest.mark.parametrize("damage", ["falling", "not finite", "no values", "no spread"])
def test_other_numbers_are_no_style(damage: str, target: SliceSet, tmp_path: Path) -> None:
    harmonizer = _fit("nyul", target)
    model = _write(tmp_path, harmonizer)
    content = load_file(tmp_path / STYLE_FILE)
    if damage == "falling":
        content["values"] = content["values"].flip(0).contiguous()
    elif damage == "not finite":
        content["values"][3] = float("nan")
    elif damage == "no values":
        del content["values"]
    else:
        content["moments"][1] = 0.0
    write_harmonizer(tmp_path, model, {STYLE_FILE: content})
    with pytest.raises(SetupError) as caught:
        load_harmonizer(tmp_path)
    assert caught.value.code == "E-MODEL-HARMONIZER"
    assert STYLE_FILE in caught.value.file


def test_a_style_that_was_exchanged_is_refused(target: SliceSet, tmp_path: Path) -> None:
    _write(tmp_path, _fit("zscore", target))
    save_file({"moments": torch.tensor([1.0, 2.0])}, tmp_path / STYLE_FILE)
    with pytest.raises(SetupError, match="another content"):
        load_harmonizer(tmp_path)


def test_targets_without_a_style_and_wrong_settings(target: SliceSet) -> None:
    blank = _set([np.zeros(SIZE, np.float32), np.full(SIZE, 9, np.float32)])
    for bad, kind, code in (
        (lambda: fit_baseline("nyul", blank, SLICES), CaseError, "E-SLICE-STYLE"),
        (lambda: fit_baseline("nyul", target.subset([]), SLICES), CaseError, "E-SLICE-STYLE"),
        (lambda: fit_baseline("nyull", target, SLICES), UsageError, "E-CONFIG-VALUE"),  # type: ignore[arg-type]
        (lambda: BaselineSettings(slope_limits=(2.0, 4.0)), UsageError, "E-CONFIG-RANGE"),
        (lambda: BaselineSettings(slices=0), UsageError, "E-CONFIG-RANGE"),
    ):
        with pytest.raises(kind) as caught:
            bad()
        assert caught.value.code == code
