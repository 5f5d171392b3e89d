"""Radiomic features equal PyRadiomics, their gradients are right, and the loss moves an image to its target.

PyRadiomics computed the numbers in fixtures/oracle_radiomics.json in an environment of its own (`make oracles`).
"""

from __future__ import annotations

import json
import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import radiomic_slices
from torch import Tensor

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.losses import grey_levels, radiomics
from nnunet_spine_ext.losses.radiomics import FEATURES, RadiomicLoss, radiomic_features

FIXTURE = json.loads((Path(__file__).parent / "fixtures" / "oracle_radiomics.json").read_text(encoding="utf-8"))
NAMES = [*(f"glcm_{name}" for name in FEATURES[:4]), "glrlm_ShortRunEmphasis"]
TARGETS = (0.97, 0.8, 2.5, 1.5, 0.6)
bins = pytest.mark.parametrize("bins", ["width", "count"])


def tensors(image: np.ndarray, mask: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.tensor(np.ascontiguousarray(image))[None, None], torch.tensor(mask)[None, None]


def smooth_images(count: int = 2, shape: tuple[int, ...] = (14, 11), dtype: torch.dtype = torch.float64) -> Tensor:
    """Images between 10 and 240 with both in them: no step of a difference quotient changes their number of levels."""
    generator = torch.Generator().manual_seed(3)
    images = torch.rand((count, 1, *shape), generator=generator, dtype=torch.float64)
    images = (images + images.roll(1, -1) + images.roll(1, -2)).flatten(1)
    low, high = images.amin(1, keepdim=True), images.amax(1, keepdim=True)
    return ((images - low) / (high - low) * 230 + 10).view(count, 1, *shape).to(dtype)


def half_region(images: Tensor) -> Tensor:
    region = torch.ones_like(images, dtype=torch.bool)
    region[..., :2] = False
    region[..., ::5, 4] = False
    return region


# --- values -------------------------------------------------------------------------------------------------------


def equals_pyradiomics(row: dict[str, Any], image: np.ndarray, mask: np.ndarray, kind: str) -> None:
    assert radiomic_slices.digest(image, mask) == row["sha256"], "the fixture is of another image"
    known = FIXTURE["names"] if kind == "width" else [n for n in FIXTURE["names"] if not n.startswith("firstorder")]
    expected = [dict(zip(known, row[kind], strict=True))[name] for name in NAMES]
    count = FIXTURE["bin_count"] if kind == "count" else None
    for mode in ("straight-through", "hard"):
        found = radiomic_features(*tensors(image, mask), bin_count=count, mode=mode)[0]
        # Entropies of one grey level are -3e-16 there.
        assert found.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-12)


@bins
@pytest.mark.parametrize("row", FIXTURE["synthetic"], ids=lambda row: row["name"])
def test_equals_pyradiomics(row: dict[str, Any], bins: str) -> None:
    equals_pyradiomics(row, *radiomic_slices.synthetic(row["name"]), bins)


@bins
@pytest.mark.parametrize("row", FIXTURE["sparse"], ids=lambda row: str(row["seed"]))
def test_equals_pyradiomics_where_directions_have_no_neighbours(row: dict[str, Any], bins: str) -> None:
    equals_pyradiomics(row, *radiomic_slices.sparse(row["seed"]), bins)


@bins
@pytest.mark.parametrize("region", radiomic_slices.REGIONS)
def test_equals_pyradiomics_on_real_slices(test_data: Path, region: str, bins: str) -> None:
    rows = [row for row in FIXTURE["real"] if row["region"] == region]
    assert len(rows) == 20
    for row in rows:
        image = radiomic_slices.real_slice(row, test_data)
        equals_pyradiomics(row, image, radiomic_slices.region(region, image), bins)


def test_a_batch_equals_its_samples_and_a_plane_equals_a_slice() -> None:
    images = smooth_images(3)
    images[1] = 90 + images[1] / 4
    for mode in ("straight-through", "soft"):
        together = radiomic_features(images, half_region(images), mode=mode)
        alone = [radiomic_features(image[None], half_region(image[None]), mode=mode) for image in images]
        assert torch.allclose(together, torch.cat(alone), rtol=1e-12)
        planes = radiomic_features(images[:, :, None], half_region(images)[:, :, None], mode=mode)
        assert torch.equal(together, planes)


def test_nothing_outside_the_region_matters() -> None:
    images, region = smooth_images(), half_region(smooth_images())
    images.requires_grad_()
    other = torch.where(region, images, torch.tensor([torch.nan, torch.inf], dtype=images.dtype)[:, None, None, None])
    for mode in ("straight-through", "soft"):
        features = radiomic_features(images, region, mode=mode)
        assert torch.equal(features, radiomic_features(other, region, mode=mode))
        (gradient,) = torch.autograd.grad(radiomic_features(other, region, mode=mode).sum(), images, retain_graph=True)
        assert gradient.isfinite().all()
        assert (gradient[~region] == 0).all()
        assert (gradient[region] != 0).any()


def test_soft_features_become_the_exact_ones() -> None:
    # Values that keep away from edges.
    images = (smooth_images() / 25).floor() * 25 + 12.5
    exact = radiomic_features(images, mode="hard")
    errors = [(radiomic_features(images, mode="soft", tau=tau) - exact).abs().max() for tau in (8, 4, 2, 1, 0.25)]
    assert all(later < earlier for earlier, later in pairwise(errors))
    assert errors[0] > 0.1
    assert errors[-1] < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_full(dtype: torch.dtype) -> None:
    images = smooth_images(dtype=dtype)
    expected = radiomic_features(images.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = radiomic_features(images)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


# --- gradients ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [None, 6], ids=["width", "count"])
@pytest.mark.parametrize("shape", [(9, 8), (3, 5, 6)], ids=["slice", "volume"])
def test_the_gradient_of_the_soft_features_equals_finite_differences(shape: tuple[int, ...], count: int | None) -> None:
    images = smooth_images(1, shape)
    region = half_region(images)

    def values(given: Tensor) -> Tensor:
        return radiomic_features(given, region, mode="soft", bin_count=count)[0]

    assert torch.autograd.gradcheck(values, images.requires_grad_(), eps=1e-5, rtol=1e-3, atol=1e-9)


def soft_windows(equal: Tensor, offset: int) -> Tensor:
    """The defining sum over windows of every length, one by one."""
    window, total = equal, equal.new_zeros(len(equal))
    for pixels in range(2, equal.shape[1]):
        inverse = [1 / n**2 if n else 0.0 for n in (pixels, pixels - 1, pixels - 2)]
        total = total + (inverse[0] - 2 * inverse[1] + inverse[2]) * window.sum(dim=1)
        if (pixels - 1) * offset >= equal.shape[1]:
            break
        window = window[:, :-offset] * equal[:, (pixels - 1) * offset :]
    return total


@pytest.mark.parametrize("count", [None, 6], ids=["width", "count"])
@pytest.mark.parametrize("shape", [(14, 11), (4, 6, 7)], ids=["slice", "volume"])
def test_straight_through_is_hard_forward_and_soft_backward(
    shape: tuple[int, ...], count: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = smooth_images(2, shape)
    region = half_region(images)
    # Runs of several pixels.
    images[..., : shape[-2] // 2, :] = 0.2 * images[..., : shape[-2] // 2, :] + 60

    def gradients() -> tuple[Tensor, list[Tensor]]:
        given = images.clone().requires_grad_()
        features = radiomic_features(given, region, bin_count=count)
        return features.detach(), [torch.autograd.grad(f.sum(), given, retain_graph=True)[0] for f in features.T]

    values, found = gradients()

    def step(x: Tensor, edges: Tensor, tau: float) -> Tensor:
        soft = torch.sigmoid((x - edges) / tau)
        # The bracket is exactly 0.
        return (x >= edges).to(x.dtype) + (soft - soft.detach())

    monkeypatch.setattr(grey_levels._HardStep, "apply", step)
    monkeypatch.setattr(grey_levels._HardRuns, "apply", soft_windows)
    expected_values, expected = gradients()
    assert torch.allclose(values, expected_values, rtol=1e-10)
    for mine, theirs in zip(found, expected, strict=True):
        assert theirs.abs().max() > 0
        assert torch.allclose(mine, theirs, rtol=1e-7, atol=1e-9 * float(theirs.abs().max()))


def test_hard_features_have_no_gradient() -> None:
    assert not radiomic_features(smooth_images().requires_grad_(), mode="hard").requires_grad


def test_the_loss_moves_features_of_exact_levels_to_their_targets() -> None:
    source, target = smooth_images(1, (24, 20)), smooth_images(2, (24, 20))[1:]
    goal = radiomic_features(target / 3 + 60, mode="hard")[0]
    loss = RadiomicLoss(goal, normalisation="relative")
    images = source.clone().requires_grad_()
    start = loss(images)
    optimiser = torch.optim.Adam([images], lr=1.0)
    for _ in range(120):
        optimiser.zero_grad()
        loss(images).backward()
        optimiser.step()
    assert loss(images) < start / 4


# --- what may go wrong --------------------------------------------------------------------------------------------

MODES = ("straight-through", "soft")


def regions_without_features() -> dict[str, Tensor]:
    empty = torch.zeros(1, 1, 14, 11, dtype=torch.bool)
    one, scattered = empty.clone(), empty.clone()
    one[..., 4, 5] = True
    scattered[..., 1::4, 1::4] = True
    return {"empty": empty, "one pixel": one, "scattered": scattered}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", regions_without_features())
def test_a_region_without_neighbours_has_no_features_and_no_gradient(name: str, mode: Any) -> None:
    region = regions_without_features()[name]
    images = smooth_images().requires_grad_()
    both = torch.cat((region, torch.ones_like(region)))
    features = radiomic_features(images, both, mode=mode)
    assert features[0, :4].isnan().all()
    assert features[1].isfinite().all()
    # Every run of single pixels is a short one; a single pixel has no direction, nor has PyRadiomics a value for it.
    assert features[0, 4].item() == 1 if name == "scattered" else features[0, 4].isnan()
    loss = RadiomicLoss(TARGETS, mode=mode)
    value = loss(images, both)
    (gradient,) = torch.autograd.grad(value, images)
    assert torch.allclose(value, loss(images[1:]))
    assert (gradient[0] == 0).all()
    assert gradient.isfinite().all()
    nothing = loss(images[:1], region)
    (gradient,) = torch.autograd.grad(nothing, images)
    assert nothing == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("level", [0.0, 125.0, 131.0, 255.0])
@pytest.mark.parametrize("count", [None, 32], ids=["width", "count"])
def test_a_constant_image_has_finite_features_and_gradients(level: float, count: int | None, mode: Any) -> None:
    images = torch.full((1, 1, 14, 11), level, requires_grad=True)
    features = radiomic_features(images, mode=mode, bin_count=count)
    assert features[0, :4].tolist() == pytest.approx([1, 1, 0, 0], abs=1e-12)
    assert features[0, 4] < 0.1
    (gradient,) = torch.autograd.grad(RadiomicLoss(TARGETS, mode=mode, bin_count=count)(images), images)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_an_image_with_nan_makes_the_loss_nan_but_no_gradient(value: float, mode: Any) -> None:
    images = smooth_images()
    images[0, 0, 3, 3] = value
    images.requires_grad_()
    features = radiomic_features(images, mode=mode)
    assert features[0].isnan().all()
    assert torch.equal(features[1], radiomic_features(images[1:], mode=mode)[0])
    loss = RadiomicLoss(TARGETS, mode=mode)(images)
    (gradient,) = torch.autograd.grad(loss, images)
    assert loss.isnan()
    assert (gradient[0] == 0).all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"mode": "softer"}, "E-LOSS-CHOICE"),
        ({"tau": 0.0}, "E-LOSS-RANGE"),
        ({"bin_width": float("nan")}, "E-LOSS-RANGE"),
        ({"bin_width": 0.1}, "E-LOSS-RANGE"),
        ({"bin_count": 1}, "E-LOSS-RANGE"),
        ({"bin_count": 8.5}, "E-LOSS-RANGE"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        radiomic_features(smooth_images(), **options)
    assert caught.value.code == code


def test_devices_without_double_precision_leave_the_counting_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    images = smooth_images(dtype=torch.float32)
    region, loss = half_region(images), RadiomicLoss(TARGETS)
    expected = radiomic_features(images, region), loss(images, region)
    assert {buffer.dtype for buffer in loss.buffers()} == {torch.float32}
    moved: list[torch.Size] = []
    to_cpu = Tensor.cpu
    monkeypatch.setattr(Tensor, "cpu", lambda tensor: moved.append(tensor.shape) or to_cpu(tensor))
    # This device plays one that has none.
    monkeypatch.setattr(radiomics, "_WITHOUT_DOUBLES", ("cpu",))
    assert torch.equal(radiomic_features(images, region), expected[0])
    assert torch.equal(loss(images, region), expected[1])
    assert len(moved) == 4


@pytest.mark.parametrize(
    ("images", "roi"),
    [
        (torch.zeros(14, 11), None),
        (torch.zeros(1, 3, 14, 11), None),
        (torch.zeros(1, 1, 14, 11, dtype=torch.uint8), None),
        (torch.zeros(0, 1, 14, 11), None),
        (torch.zeros(1, 1, 14, 11), torch.ones(1, 1, 11, 14)),
    ],
)
def test_wrong_shapes_are_refused(images: Tensor, roi: Tensor | None) -> None:
    with pytest.raises(UsageError) as caught:
        radiomic_features(images, roi)
    assert caught.value.code == "E-LOSS-SHAPE"


@pytest.mark.parametrize("name", ["images", "roi"])
def test_arrays_of_numpy_are_refused_by_name(name: str) -> None:
    images, roi = smooth_images(), torch.ones(2, 1, 14, 11, dtype=torch.bool)
    given: dict[str, Any] = {"images": images, "roi": roi} | {name: {"images": images, "roi": roi}[name].numpy()}
    for measure in (radiomic_features, RadiomicLoss(TARGETS)):
        with pytest.raises(UsageError) as caught:
            measure(given["images"], given["roi"])
        assert caught.value.code == "E-LOSS-TYPE"
        assert f"{name} of type numpy.ndarray" in caught.value.found


@pytest.mark.parametrize("kind", ["features", "loss"])
def test_images_between_0_and_1_are_told_once(
    kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(radiomics, "_said", set())
    caplog.set_level("WARNING", radiomics.__name__)
    monkeypatch.setattr(logging.getLogger("nnunet_spine_ext"), "propagate", True)
    measure = radiomic_features if kind == "features" else RadiomicLoss(TARGETS)
    unit = smooth_images() / 255
    for images in (smooth_images(), torch.zeros_like(unit), torch.full_like(unit, 0.5), unit * 30):
        measure(images)
    radiomic_features(unit, bin_width=0.1)
    radiomic_features(unit, bin_count=8)
    assert not caplog.messages
    measure(unit)
    measure(unit)
    assert len(caplog.messages) == 1
    assert "W-LOSS-SCALE" in caplog.messages[0]


def test_the_scale_of_images_is_not_read_in_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def looked(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(radiomics, "_warn_of_scale", looked)
    RadiomicLoss(TARGETS)(smooth_images())


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"targets": (1.0, 2.0)}, "E-LOSS-RANGE"),
        ({"targets": (1.0, 2.0, float("nan"), 1.0, 1.0)}, "E-LOSS-RANGE"),
        ({"targets": (0.9, 0.0, 1.0, 1.0, 1.0), "normalisation": "relative"}, "E-LOSS-RANGE"),
        ({"targets": TARGETS, "normalisation": "zscore"}, "E-LOSS-RANGE"),
        ({"targets": TARGETS, "spread": (0.1, 0.0, 0.1, 0.1, 0.1), "normalisation": "zscore"}, "E-LOSS-RANGE"),
        ({"targets": TARGETS, "normalisation": "none"}, "E-LOSS-CHOICE"),
        ({"targets": TARGETS, "tau": -1.0}, "E-LOSS-RANGE"),
    ],
)
def test_wrong_targets_are_refused(arguments: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        RadiomicLoss(**arguments)
    assert caught.value.code == code


def test_normalisations_divide_the_differences() -> None:
    images, spread = smooth_images(), (0.01, 0.2, 0.3, 0.4, 0.5)
    apart = (radiomic_features(images) - torch.tensor(TARGETS)).abs()
    found = {
        name: float(RadiomicLoss(TARGETS, spread, normalisation=name)(images))
        for name in ("absolute", "relative", "zscore")
    }
    expected = {
        "absolute": float(apart.mean()),
        "relative": float((apart / torch.tensor(TARGETS)).mean()),
        "zscore": float((apart / torch.tensor(spread)).mean()),
    }
    assert found == pytest.approx(expected, rel=1e-6)
    annealed = RadiomicLoss(TARGETS, mode="soft", tau=8.0)
    before = float(annealed(images))
    annealed.tau = 1.0
    assert float(annealed(images)) != before
