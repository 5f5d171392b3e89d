"""Filters by neighbourhood and place: what their names promise, in mm, at borders, in labels, in any batch."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from augment_checks import SHAPES, check_transform, context, images, keys, label_map, pipeline
from scipy import ndimage

from nnunet_spine_ext.augment import local_filters
from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.local_kernels import (
    bump_at_knots,
    extents,
    gaussian_matrix,
    laplace,
    random_kernel,
    scharr,
)
from nnunet_spine_ext.augment.pipeline import Pipeline
from nnunet_spine_ext.augment.transform import registry

NAMES = sorted(name for name, transform in registry().items() if transform.stage == "local")
KEEPING = [name for name in NAMES if registry()[name]().retain_stats]
ISOTROPIC = Context((16, 24, 20), (1.0, 1.0, 1.0), labels=(0, 1, 2, 3))
THICK = Context((16, 24, 20), (3.0, 0.5, 0.5), labels=(0, 1, 2, 3))


def _interior(values: torch.Tensor, margin: int = 2) -> torch.Tensor:
    return values[(..., *[slice(margin, -margin)] * 3)]


def _waves(facts: Context, seed: int = 0) -> torch.Tensor:
    """Return a smooth image, (1, 1, *shape)."""
    noise = np.random.default_rng(seed).standard_normal(facts.shape)
    smooth = ndimage.gaussian_filter(noise, [2.0 / s for s in facts.spacing])
    return torch.from_numpy(smooth / smooth.std()).float()[None, None]


def test_all_filters_are_here() -> None:
    assert NAMES == [
        "blank_rectangle",
        "brightness_gradient",
        "gin",
        "laplace",
        "local_gamma",
        "median",
        "rand_conv",
        "region_palette",
        "scharr",
        "swap_patches",
        "unsharp_mask",
    ]


@pytest.mark.parametrize("settings", [{}, {"where": "in_labels", "mix": 0.5}, {"retain_stats": False}])
@pytest.mark.parametrize("name", NAMES)
def test_every_filter_passes_the_common_checks(name: str, settings: dict) -> None:
    check_transform({"name": name, **settings})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["in_labels", "out_labels", [1, 3]])
def test_labels_not_chosen_keep_their_voxels_bit_by_bit(name: str, where: object) -> None:
    image, labels = images(2), label_map(2)
    labels[1, ..., -1] = 4
    result, _ = pipeline({"name": name, "where": where})(image, labels, keys(2))
    chosen = {"in_labels": (1, 2, 3), "out_labels": (0, -1, 4)}.get(where, where) if isinstance(where, str) else where
    inside = torch.isin(labels, torch.tensor(chosen))
    assert torch.equal(result[~inside], image[~inside])
    assert not torch.equal(result[inside], image[inside])


@pytest.mark.parametrize("name", NAMES)
def test_mix_blends_with_the_original(name: str) -> None:
    image = images(2)
    none, half, full = (
        pipeline({"name": name, "mix": mix, "retain_stats": False})(image, None, keys(2))[0] for mix in (0.0, 0.5, 1.0)
    )
    assert torch.equal(none, image)
    torch.testing.assert_close(half, (image + full) / 2, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", KEEPING)
def test_the_share_of_a_filter_does_not_depend_on_its_gain(name: str) -> None:
    image = _waves(ISOTROPIC)
    results = [pipeline({"name": name, "mix": mix}, facts=ISOTROPIC)(image, None, keys(1))[0] for mix in (0.5, 1.0)]
    likeness = [float(np.corrcoef(image.flatten(), result.flatten())[0, 1]) for result in results]
    # Two images of equal spread with a correlation of r: their mean has one of sqrt((1 + r) / 2) with either.
    assert likeness[0] == pytest.approx(math.sqrt((1 + likeness[1]) / 2), abs=0.01)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["everywhere", "in_labels"])
def test_retain_stats_keeps_mean_and_standard_deviation(name: str, where: str) -> None:
    image, labels = images(2, (16, 32, 32)), label_map(2, (16, 32, 32))
    line = pipeline({"name": name, "retain_stats": True, "where": where}, facts=context((16, 32, 32)))
    result, _ = line(image, labels, keys(2))
    inside = torch.ones_like(labels, dtype=torch.bool) if where == "everywhere" else labels > 0
    for before, after, mask in zip(image, result, inside, strict=True):
        assert after[mask].mean().item() == pytest.approx(before[mask].mean().item(), abs=1e-4)
        assert after[mask].std().item() == pytest.approx(before[mask].std().item(), rel=1e-3)


def test_edges_and_random_filters_keep_statistics_unless_told_otherwise() -> None:
    assert KEEPING == ["gin", "laplace", "rand_conv", "scharr"]


@pytest.mark.parametrize("name", NAMES)
def test_intensities_may_be_in_any_unit(name: str) -> None:
    image = images(2)
    line = pipeline(name)
    plain, _ = line(image, label_map(2), keys(2))
    scaled, _ = line(image * 50 + 300, label_map(2), keys(2))
    torch.testing.assert_close(scaled, plain * 50 + 300, rtol=1e-4, atol=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_flow_and_are_finite(name: str) -> None:
    image = images(2).requires_grad_()
    line = pipeline(name)
    result, _ = line(image, label_map(2), keys(2))
    expected, _ = line(image.detach(), label_map(2), keys(2))
    torch.testing.assert_close(result.detach(), expected)
    result.sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(1, 20, 16), (2, 3, 4), (12, 1, 16), (9, 17, 33), (1, 7), (40, 3)])
def test_any_shape_can_be_filtered(shape: tuple[int, ...]) -> None:
    facts = Context(shape, (1.0,) * len(shape), labels=(0, 1, 2, 3))
    image = torch.randn(2, 1, *shape, generator=torch.Generator().manual_seed(0))
    for name in NAMES:
        result, _ = pipeline(name, facts=facts)(image, label_map(2, shape), keys(2))
        assert result.shape == image.shape
        assert result.isfinite().all()


def test_steps_follow_the_configuration_and_mixed_batches_are_right() -> None:
    image, labels = images(4, channels=2), label_map(4)
    facts = context(channels=2)
    listed = [{"name": name, "p": 0.5, "per_channel": name == "gin"} for name in NAMES]
    line = Pipeline(AugmentConfig.from_dict({"transforms": listed, "order": "random"}), facts)
    plan = line.plan(keys(4, seed=11))
    together, _ = line.apply(image, labels, plan)
    orders = {tuple(applied.name for applied in sample) for sample in plan.samples}
    assert len(orders) == 4
    for index in range(4):
        alone, _ = line(image[index : index + 1], labels[index : index + 1], keys(4, seed=11)[index : index + 1])
        torch.testing.assert_close(alone[0], together[index], rtol=1e-5, atol=2e-5)
    first = pipeline("median", "scharr", facts=ISOTROPIC)(_waves(ISOTROPIC), None, keys(1))[0]
    swapped = pipeline("scharr", "median", facts=ISOTROPIC)(_waves(ISOTROPIC), None, keys(1))[0]
    assert not torch.allclose(first, swapped)


@pytest.mark.parametrize("shape", [(3, 3, 3), (1, 5, 3), (7, 7, 7), (1, 1, 1)])
def test_correlations_are_those_of_scipy(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    planes, kernels = rng.standard_normal((3, 9, 21, 14)), rng.standard_normal((3, *shape))
    result = local_filters.correlate(torch.from_numpy(planes).float(), torch.from_numpy(kernels).float())
    for plane, kernel, own in zip(planes, kernels, result, strict=True):
        np.testing.assert_allclose(own, ndimage.correlate(plane, kernel, mode="nearest"), atol=2e-4)


def test_planes_together_as_on_accelerators_are_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    planes = torch.randn(3, 8, 21, 14, generator=generator)
    kernels = torch.randn(3, 2, 3, 3, 3, generator=generator)
    layers = [(torch.randn(3, 2, 1, 3, 3, 3, generator=generator), torch.randn(3, 2, generator=generator))]
    layers += [(torch.randn(3, 1, 2, 1, 1, 1, generator=generator), torch.randn(3, 1, generator=generator))]

    def filtered() -> list[torch.Tensor]:
        one = kernels[:, :1]
        length, about, small = (
            function(planes, array)
            for function, array in (
                (local_filters.magnitude, kernels),
                (local_filters.about_mean, one),
                (local_filters.network, layers),
            )
        )
        return [length, about, small]

    alone = filtered()
    monkeypatch.setattr(local_filters, "_each_alone", lambda function, planes, *arrays: function(planes, *arrays))
    for one, all_together in zip(alone, filtered(), strict=True):
        torch.testing.assert_close(all_together, one, rtol=1e-5, atol=1e-5)


def test_correlations_in_the_plane_are_those_of_scipy() -> None:
    rng = np.random.default_rng(1)
    planes, kernels = rng.standard_normal((2, 21, 14)), rng.standard_normal((2, 5, 3))
    result = local_filters.correlate(torch.from_numpy(planes).float(), torch.from_numpy(kernels).float())
    for plane, kernel, own in zip(planes, kernels, result, strict=True):
        np.testing.assert_allclose(own, ndimage.correlate(plane, kernel, mode="nearest"), atol=1e-4)


@pytest.mark.parametrize("facts", [ISOTROPIC, THICK], ids=["isotropic", "thick slices"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_scharr_of_a_ramp_is_its_slope_per_mm(facts: Context, axis: int) -> None:
    place = torch.arange(facts.shape[axis]) * facts.spacing[axis]
    ramp = (0.7 * place).reshape([-1 if i == axis else 1 for i in range(3)]).expand(1, 1, *facts.shape).contiguous()
    result, _ = pipeline({"name": "scharr", "mix": 1.0, "retain_stats": False}, facts=facts)(ramp, None, keys(1))
    slope = (_interior(result) - _air(ramp)) / min(facts.spacing)
    torch.testing.assert_close(slope, torch.full_like(slope, 0.7), rtol=1e-4, atol=1e-4)


def test_scharr_hardly_depends_on_the_direction() -> None:
    facts = Context((24, 24, 24), (1.0, 1.0, 1.0))
    grid = torch.stack(torch.meshgrid(*[torch.arange(24.0)] * 3, indexing="ij"))
    kernels = torch.from_numpy(scharr(facts.spacing)).float()
    strengths = []
    for direction in itertools.product((0, 1), (0.3, 1), (0.5, 1)):
        normal = torch.nn.functional.normalize(torch.tensor(direction, dtype=torch.float32), dim=0)
        wave = torch.sin(0.8 * (grid * normal[:, None, None, None]).sum(0))[None]
        parts = torch.stack([local_filters.correlate(wave, kernel[None]) for kernel in kernels])
        strengths.append(_interior(parts.square().sum(0).sqrt()).max())
    assert max(strengths) / min(strengths) < 1.05


@pytest.mark.parametrize("facts", [ISOTROPIC, THICK], ids=["isotropic", "thick slices"])
def test_laplace_of_a_quadratic_is_constant(facts: Context) -> None:
    places = [torch.arange(n) * s for n, s in zip(facts.shape, facts.spacing, strict=True)]
    grid = torch.meshgrid(*places, indexing="ij")
    image = sum(a * x**2 for a, x in zip((0.01, 0.02, 0.03), grid, strict=True)).expand(1, 1, *facts.shape)
    line = pipeline({"name": "laplace", "mix": 1.0, "retain_stats": False}, facts=facts)
    result, _ = line(image, None, keys(1))
    values = (_interior(result) - _air(image)) / min(facts.spacing) ** 2
    torch.testing.assert_close(values, torch.full_like(values, 0.12), rtol=1e-3, atol=1e-4)


def test_signed_laplace_is_about_the_mean() -> None:
    image = _waves(ISOTROPIC)
    line = pipeline({"name": "laplace", "mix": 1.0, "retain_stats": False, "absolute": False}, facts=ISOTROPIC)
    result, _ = line(image, None, keys(1))
    expected = image[0, 0].mean() + torch.from_numpy(ndimage.laplace(image[0, 0].numpy(), mode="nearest"))
    torch.testing.assert_close(result[0, 0], expected, rtol=1e-4, atol=1e-4)
    assert laplace((1.0, 1.0)).shape == (1, 3, 3)
    settings = {"name": "laplace", "mix": 1.0, "retain_stats": False, "absolute": False, "negative": True}
    negative, _ = pipeline(settings, facts=ISOTROPIC)(image, None, keys(1))
    torch.testing.assert_close(negative - image.mean(), image.mean() - result, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("facts", [ISOTROPIC, THICK], ids=["isotropic", "thick slices"])
def test_unsharp_mask_keeps_the_mean_and_sharpens_as_much_as_asked(facts: Context) -> None:
    image = _waves(facts)
    line = pipeline({"name": "unsharp_mask", "sigma": 1.2, "amount": 0.8}, facts=facts)
    result, _ = line(image, None, keys(1))
    assert result.mean().item() == pytest.approx(image.mean().item(), abs=1e-5)
    sigma = [1.2 / s for s in facts.spacing]
    smooth = ndimage.gaussian_filter(image[0, 0].double().numpy(), sigma, mode="reflect")
    expected = image[0, 0] + 0.8 * (image[0, 0] - torch.from_numpy(smooth))
    torch.testing.assert_close(result[0, 0].double(), expected, rtol=0, atol=2e-3)
    assert result.std() > image.std()


def test_smoothing_matrices_keep_means_and_reach_beyond_short_axes() -> None:
    for size, sigma in itertools.product((1, 2, 5, 40), (0.05, 0.8, 7.0)):
        matrix = gaussian_matrix(size, sigma)
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
        np.testing.assert_allclose(matrix.sum(axis=0), 1)


def test_kernels_cover_the_same_length_on_every_axis() -> None:
    assert extents(3, (1, 1, 1)) == (3, 3, 3)
    assert extents(3, (3.3, 0.5, 0.5)) == (1, 3, 3)
    assert extents(7, (1.0, 0.5, 0.5)) == (3, 7, 7)
    assert extents(7, (0.5, 0.5)) == (7, 7)
    assert extents(1, (0.5, 4.0)) == (1, 1)


def test_random_kernels_keep_the_spread_of_tissue() -> None:
    rng = np.random.default_rng(0)
    field = _correlated((48, 48, 48))
    for size in (3, 5, 7):
        gains = []
        for _ in range(20):
            kernel = random_kernel(rng, size, (1, 1, 1))[0]
            gains.append(_interior_std(ndimage.correlate(field, kernel)) / _interior_std(field))
        assert np.exp(np.mean(np.log(gains))) == pytest.approx(1, abs=0.2)
        assert max(gains) < 1.8


@pytest.mark.parametrize("size", [3, 5, 7])
def test_rand_conv_is_one_linear_filter(size: int) -> None:
    line = pipeline({"name": "rand_conv", "size": size, "mix": 1.0, "retain_stats": False}, facts=ISOTROPIC)
    one, other = _waves(ISOTROPIC, 1), _waves(ISOTROPIC, 2)
    plan = line.plan(keys(1))
    parts = [line.apply(image - image.mean(), None, plan)[0] for image in (one, other, one + other)]
    torch.testing.assert_close(parts[0] + parts[1], parts[2], rtol=1e-4, atol=1e-4)
    impulse = torch.zeros(1, 1, *ISOTROPIC.shape)
    impulse[0, 0, 8, 12, 10] = 1
    response = line.apply(impulse, None, plan)[0]
    touched = (response - response[0, 0, 0, 0, 0]).abs() > 1e-5
    assert int(touched.sum()) == size**3


def test_gin_keeps_the_norm_and_the_shapes() -> None:
    image = torch.repeat_interleave(torch.tensor([0.0, 1.0, 2.0, 1.5]), 6).expand(1, 1, 16, 20, 24).contiguous()
    facts = Context((16, 20, 24), (1.0, 1.0, 1.0))
    line = pipeline({"name": "gin", "mix": 1.0}, facts=facts)
    seen = set()
    for seed in range(12):
        result, _ = line(image, None, keys(1, seed))
        assert result.norm().item() == pytest.approx(image.norm().item(), rel=1e-4)
        # Four layers of 3 reach four voxels: in the middle of a wide band it is flat.
        line_of = result[0, 0, 8, 10]
        assert (line_of[0] - line_of[1]).abs() < 0.5
        seen.add(tuple(np.argsort(line_of[2::6].numpy()).tolist()))
    assert len(seen) > 2, "the order of brightness of tissues stays"


def test_gin_is_the_network_that_its_parameters_describe() -> None:
    rng = np.random.default_rng(0)
    arrays = [(rng.standard_normal((2, 1, 3, 3, 3)), rng.standard_normal(2))]
    arrays += [(rng.standard_normal((2, 2, 1, 1, 1)), rng.standard_normal(2))]
    arrays += [(rng.standard_normal((1, 2, 3, 3, 3)), rng.standard_normal(1))]
    layers = [(torch.tensor(k[None]).float(), torch.tensor(s[None]).float()) for k, s in arrays]
    image = _waves(ISOTROPIC)[0]
    result = local_filters.network(image, layers)
    mean, sd = image.mean(), image.std(unbiased=False)
    state = ((image - mean) / sd)[None]
    for number, (kernels, shifts) in enumerate(layers):
        reach = kernels.shape[-1] // 2
        state = torch.nn.functional.pad(state, (reach,) * 6, mode="replicate")
        state = torch.nn.functional.conv3d(state, kernels[0], shifts[0])
        state = state if number == 2 else torch.nn.functional.leaky_relu(state, 0.2)
    torch.testing.assert_close(result, state[0] * sd + mean, rtol=1e-4, atol=1e-4)


def test_the_median_is_that_of_three_along_each_axis() -> None:
    image = torch.randn(1, 1, *ISOTROPIC.shape, generator=torch.Generator().manual_seed(0))
    result, _ = pipeline({"name": "median", "passes": 1}, facts=ISOTROPIC)(image, None, keys(1))
    expected = image[0, 0].numpy()
    for axis in range(3):
        expected = ndimage.median_filter(expected, [3 if i == axis else 1 for i in range(3)], mode="nearest")
    np.testing.assert_array_equal(result[0, 0].numpy(), expected)
    thick, _ = pipeline({"name": "median", "passes": 1}, facts=THICK)(image, None, keys(1))
    assert not torch.equal(thick, result)


def test_the_median_removes_specks_and_noise_and_keeps_edges() -> None:
    step = torch.zeros(1, 1, *ISOTROPIC.shape)
    step[..., 10:] = 1
    line = pipeline({"name": "median", "passes": 1}, facts=ISOTROPIC)
    assert torch.equal(line(step, None, keys(1))[0], step)
    speck = step.clone()
    speck[0, 0, 5, 5, 5] = 9
    assert torch.equal(line(speck, None, keys(1))[0], step)
    noisy = step + 0.1 * torch.randn(step.shape, generator=torch.Generator().manual_seed(0))
    cleaned = line(noisy, None, keys(1))[0] - step
    exact = torch.from_numpy(ndimage.median_filter(noisy[0, 0].numpy(), 3)) - step[0, 0]
    assert cleaned.std() < 0.4 * 0.1
    assert cleaned.std() < 1.3 * exact.std()


def test_local_gamma_is_gamma_on_top_of_its_hill_and_nothing_at_its_foot() -> None:
    facts = Context((32, 32, 32), (1.0, 1.0, 1.0))
    image = torch.full((1, 1, 32, 32, 32), 0.5)
    image[..., 0], image[..., -1] = 0, 1
    line = pipeline({"name": "local_gamma", "gamma": 2.0, "width": 12}, facts=facts)
    for seed in range(4):
        result, _ = line(image, None, keys(1, seed))
        exponent = torch.log(result[..., 1:-1]) / math.log(0.5)
        assert exponent.min() > 0.99
        assert exponent.max() < 2.01
        assert exponent.max() > 1.4
        assert exponent.diff(dim=2).abs().max() < 0.2


def test_a_brightness_gradient_keeps_mean_and_detail() -> None:
    facts = Context((16, 32, 32), (2.0, 1.0, 1.0))
    image = images(1, (16, 32, 32))
    for seed in range(4):
        line = pipeline({"name": "brightness_gradient", "height": 0.5}, facts=facts)
        result, _ = line(image, None, keys(1, seed))
        added = (result - image)[0, 0]
        span = _span(image)
        # The knots outside of the patch belong to the hill, too.
        assert 0.3 * span < added.max() - added.min() <= 0.505 * span
        assert abs(added.mean()) < 0.06 * span
        assert added.diff(dim=1).abs().max() < 0.06 * span


def test_hills_are_between_zero_and_one() -> None:
    facts = Context((16, 32, 32), (2.0, 1.0, 1.0))
    for width in (1.0, 30.0, 2000.0):
        hill = bump_at_knots({"centre": [20.0, -20.0, 0.0], "width": width}, facts)
        assert (hill.min(), hill.max()) == (0, 1)


@pytest.mark.parametrize("fill", ["mean", "air", "noise"])
def test_blank_rectangles_have_the_size_asked_for(fill: str) -> None:
    facts = Context((16, 40, 40), (2.0, 0.5, 0.5))
    image = images(1, (16, 40, 40))
    line = pipeline({"name": "blank_rectangle", "number": 1, "size": 8, "fill": fill}, facts=facts)
    plan = line.plan(keys(1))
    result, _ = line.apply(image, None, plan)
    changed = (result != image)[0, 0]
    assert int(changed.sum()) == pytest.approx(4 * 16 * 16, rel=0.02)
    (low, high), *_ = plan.samples[0][0].params["boxes"]
    box = result[0, 0][tuple(map(slice, low, high))]
    assert [b - a for a, b in zip(low, high, strict=True)] == [4, 16, 16]
    assert (box.std() > 0.1) == (fill == "noise")
    assert box.min() >= _air(image) - 1e-6
    if fill == "mean":
        before = image[0, 0][tuple(map(slice, low, high))]
        assert box.mean().item() == pytest.approx(before.mean().item(), abs=1e-5)


def test_blank_rectangles_never_fill_the_patch() -> None:
    for shape in SHAPES:
        image = images(1, shape)
        line = pipeline({"name": "blank_rectangle", "number": 1, "size": 500}, facts=context(shape))
        result, _ = line(image, None, keys(1))
        assert (result == image).float().mean() > 0.7


@pytest.mark.parametrize(
    ("name", "settings"),
    [("rand_conv", {"size": 0}), ("gin", {"layers": 0}), ("median", {"passes": -1}), ("scharr", {"mix": 2})],
)
def test_impossible_settings_are_refused(name: str, settings: dict) -> None:
    with pytest.raises(Exception, match="range within"):
        pipeline({"name": name, **settings})


def _air(image: torch.Tensor) -> float:
    return float(local_filters.units(image[:, 0])[0])


def _span(image: torch.Tensor) -> float:
    return float(local_filters.units(image[:, 0])[1])


def _correlated(shape: tuple[int, ...]) -> np.ndarray:
    """Return a random field whose correlation falls about as exp(-d / 10)."""
    frequencies = np.meshgrid(*[np.fft.fftfreq(n) * 2 * np.pi for n in shape], indexing="ij")
    spectrum = 1 / (0.1**2 + sum(f**2 for f in frequencies))
    noise = np.fft.fftn(np.random.default_rng(4).standard_normal(shape))
    return np.fft.ifftn(noise * spectrum).real


def _interior_std(field: np.ndarray) -> float:
    return float(field[8:-8, 8:-8, 8:-8].std())
