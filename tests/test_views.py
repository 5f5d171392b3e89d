"""Views of an image: there and back, nothing random, nothing of the image changed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.inference.view_settings import ViewSettings
from nnunet_spine_ext.inference.views import (
    Bias,
    Composed,
    Gamma,
    Matching,
    Mirror,
    Resize,
    Surroundings,
    View,
    make_views,
)

SPINE = Surroundings(
    mirror_axes=(0, 1), sided_axis=2, exchange=((1, 2),), spacing=(1.0, 1.0, 3.0), left_right=2, channels=(True,)
)
SHAPE = (12, 14, 9)
EVERY: list[View] = [
    Mirror((0,)),
    Mirror((0, 2), ((1, 2),)),
    Gamma(0.7),
    Bias(0.3),
    Matching(torch.zeros(1, *SHAPE), 0.5),
    Resize((0.85, 0.85, 1.0)),
    Composed((Mirror((2,), ((1, 2),)), Resize((1.0, 1.0, 0.8)))),
    Composed(),
]


@pytest.fixture
def image() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(1, *SHAPE, generator=generator).abs()
    return (data - data.mean()) / data.std(correction=0)


@pytest.mark.parametrize("view", EVERY, ids=lambda view: view.name)
def test_a_view_leaves_the_image_alone_is_repeatable_and_comes_back(view: View, image: torch.Tensor) -> None:
    before = image.clone()
    seen = view.forward(image)
    assert torch.equal(image, before)
    assert torch.equal(seen, view.forward(image))
    assert seen.dtype == torch.float32
    assert torch.isfinite(seen).all()
    outputs = torch.randn(4, *seen.shape[1:], generator=torch.Generator().manual_seed(1))
    back = view.backward(outputs, image.shape[1:])
    assert back.shape == (4, *SHAPE)
    # Linear in the outputs: what soft models need.
    assert torch.allclose(view.backward(3 * outputs + 1, image.shape[1:]), 3 * back + 1, atol=1e-5)
    assert view.move(torch.ones(SHAPE, dtype=torch.bool)).all()
    assert view.move(torch.ones(SHAPE, dtype=torch.bool)).shape == seen.shape[1:]
    assert view.restore(torch.ones(seen.shape[1:], dtype=torch.bool), SHAPE).all()
    assert not view.restore(torch.zeros(seen.shape[1:], dtype=torch.bool), SHAPE).any()


@pytest.mark.parametrize("view", [v for v in EVERY if "size" not in v.name], ids=lambda view: view.name)
def test_masks_travel_with_the_image(view: View, image: torch.Tensor) -> None:
    mask = image[0] > 1
    assert torch.equal(view.restore(view.move(mask), SHAPE), mask)
    if view.kind == "mirror":
        assert torch.equal(view.move(mask), view.forward(image)[0] > 1)


def test_mirror_comes_back_with_heads_exchanged(image: torch.Tensor) -> None:
    outputs = torch.cat([image * (k + 1) for k in range(4)])
    view = Mirror((2,), ((1, 2),))
    back = view.backward(torch.flip(outputs, [3]), SHAPE)
    assert torch.equal(back, outputs[[0, 2, 1, 3]])


@pytest.mark.parametrize("view", [Gamma(0.7), Gamma(1.4), Bias(0.5), Bias(-0.5)], ids=lambda view: view.name)
def test_intensity_views_keep_mean_and_deviation_and_change_the_rest(view: View, image: torch.Tensor) -> None:
    data = torch.cat([image, 5 * image + 30])
    seen = view.forward(data)
    assert torch.allclose(seen.mean(dim=(1, 2, 3)), data.mean(dim=(1, 2, 3)), atol=1e-4)
    assert torch.allclose(seen.std(dim=(1, 2, 3)), data.std(dim=(1, 2, 3)), rtol=1e-4)
    # Of a channel that was scaled and shifted, the view is scaled and shifted: units do not matter.
    assert torch.allclose(5 * seen[0] + 30, seen[1], atol=1e-2)
    assert (seen[0] - data[0]).abs().mean() > 0.02


def test_gamma_is_one_rising_curve_and_below_one_lightens_the_dark(image: torch.Tensor) -> None:
    order = image.reshape(-1).argsort()
    for gamma in (0.7, 1.4):
        seen = Gamma(gamma).forward(image).reshape(-1)[order]
        assert (seen.diff() >= -1e-5).all()
        middle = float(seen[len(seen) // 2])
        assert (middle > float(image.median())) == (gamma < 1)


def test_bias_multiplies_what_is_above_black_by_a_smooth_field() -> None:
    flat = torch.ones(1, 32, 32, 32)
    flat[0, :2] = 0  # air, so that there is a black
    for strength in (0.3, -0.3):
        lit = Bias(strength).forward(flat)[0, 2:]
        air = Bias(strength).forward(flat)[0, :2]
        assert air.std() < 1e-5
        ratio = float((lit.max() - air.mean()) / (lit.min() - air.mean()))
        assert 1.15 < ratio <= np.exp(0.3) + 1e-3
        assert lit.diff(dim=0).abs().max() < 0.1
    product = (Bias(0.3).forward(flat)[0, 2:] - Bias(0.3).forward(flat)[0, 0, 0, 0]) * (
        Bias(-0.3).forward(flat)[0, 2:] - Bias(-0.3).forward(flat)[0, 0, 0, 0]
    )
    assert product.std() / product.mean() < 1e-3, "the second field is the inverse of the first"


@pytest.mark.parametrize("data", [torch.zeros(1, 8, 8, 8), torch.full((1, 8, 8, 8), 7.0)])
def test_constant_images_stay(data: torch.Tensor) -> None:
    for view in (Gamma(0.7), Gamma(1.4), Bias(0.3)):
        seen = view.forward(data)
        assert torch.isfinite(seen).all()
        assert view.name.startswith("bias") or torch.equal(seen, data)


def test_channels_with_a_calibrated_scale_are_left_alone(image: torch.Tensor) -> None:
    data = torch.cat([image, image])
    for view in (Gamma(0.7, (True, False)), Bias(0.3, (True, False))):
        seen = view.forward(data)
        assert torch.equal(seen[1], data[1])
        assert not torch.equal(seen[0], data[0])
    ct = replace(SPINE, channels=(False,))
    assert not [v for v in make_views(ViewSettings(), ct) if "gamma" in v.name or "bias" in v.name]


def test_resolution_views_scale_what_is_seen_and_come_back_in_place() -> None:
    line = torch.linspace(0, 1, 40)[None, :, None, None].expand(1, 40, 20, 10).contiguous()
    view = Resize((0.85, 1.15, 1.0))
    seen = view.forward(line)
    assert seen.shape == (1, 34, 23, 10)
    back = view.backward(seen, line.shape[1:])
    assert torch.allclose(back[:, 2:-2], line[:, 2:-2], atol=1e-3)
    assert Resize((0.5, 0.5, 0.5)).forward(torch.zeros(1, 1, 1, 1)).shape == (1, 1, 1, 1)


def test_matching_views_are_mixtures(image: torch.Tensor) -> None:
    other = image.exp()
    assert torch.allclose(Matching(other, 0.0).forward(image), other)
    assert torch.allclose(Matching(other, 0.5).forward(image), (image + other) / 2)


@pytest.mark.parametrize("crossed", [False, True])
def test_matching_views_are_mixed_before_they_are_mirrored_or_resized(image: torch.Tensor, crossed: bool) -> None:
    unmatched = image.exp()
    views = make_views(ViewSettings(crossed=crossed), SPINE, unmatched)
    turned = 0
    for view in views:
        mixed = [part for part in view.parts if isinstance(part, Matching)]
        others = Composed(tuple(part for part in view.parts if not isinstance(part, Matching)))
        if mixed:
            expected = others.forward(torch.lerp(unmatched, image, mixed[0].strength))
            assert torch.equal(view.forward(image), expected), view.name
            turned += any(isinstance(part, Mirror) for part in view.parts)
            assert view.kind == ("resolution" if any(isinstance(p, Resize) for p in view.parts) else "intensity")
    assert turned >= 1


def test_the_list_starts_with_the_image_and_has_each_view_once() -> None:
    views = make_views(ViewSettings(), SPINE)
    names = [view.name for view in views]
    assert names[0] == "plain"
    assert len(set(names)) == len(names) == 17
    parts = [part.name for view in views for part in view.parts]
    assert {n for n in parts if n.startswith("gamma")} == {"gamma0.7", "gamma0.85", "gamma1.2", "gamma1.4"}
    assert {n for n in parts if n.startswith("bias")} == {"bias+0.3", "bias-0.3"}
    # The plane of the slices has the fine axes.
    assert {n for n in parts if n.startswith("size")} == {"size0.85x0.85x1", "size1.15x1.15x1", "size1x1x0.8"}
    alone = [view.parts for view in views if len(view.parts) == 1 and view.kind == "mirror"]
    assert len(alone) == 7
    for view in views:
        for part in view.parts:
            if isinstance(part, Mirror):
                assert bool(part.exchange) == (2 in part.axes)
    # A run that ends after five has seen all kinds.
    assert {view.kind for view in views[:5]} == {"mirror", "intensity", "resolution"}


def test_settings_choose_the_views() -> None:
    def names(**options: object) -> list[str]:
        return [view.name for view in make_views(ViewSettings(**options), SPINE)]  # type: ignore[arg-type]

    assert names(kinds=("resolution",)) == ["plain", "size0.85x0.85x1", "size1.15x1.15x1", "size1x1x0.8"]
    assert names(kinds=("intensity",), gamma=(0.8,), bias=()) == ["plain", "gamma0.8"]
    assert len(names(kinds=("mirror",))) == 8
    assert names(limit=1) == ["plain"]
    assert len(names(crossed=True)) == 8 * 7 * 4
    assert names(crossed=True)[0] == "plain"
    assert len(set(names(crossed=True))) == 8 * 7 * 4
    assert names(kinds=("intensity",), gamma=(1.0,), bias=(0.0,)) == ["plain"], "what changes nothing is no view"


def test_matching_views_only_where_intensities_are_matched(image: torch.Tensor) -> None:
    views = make_views(ViewSettings(kinds=("intensity",)), SPINE, image)
    assert {v.name for v in views} >= {"match0", "match0.5"}
    assert not [v for v in make_views(ViewSettings(), SPINE) if "match" in v.name]


@pytest.mark.parametrize(
    ("spacing", "left_right", "through"),
    [((1, 1, 3), 2, 2), ((3.3, 0.7, 0.7), 2, 0), ((1, 1, 1), 2, 2), ((1, 1, 1.1), 0, 0), ((1, 1, 1), None, 0),
     ((1, 1), 1, 0)],
)  # fmt: skip
def test_slices_lie_across_the_coarsest_axis(spacing: tuple[float, ...], left_right: int | None, through: int) -> None:
    assert replace(SPINE, spacing=spacing, left_right=left_right).through_plane == through


def test_a_model_without_mirroring_gets_none() -> None:
    plain = Surroundings()
    assert not [v for v in make_views(ViewSettings(), plain) if "mirror" in v.name]
    assert len(make_views(ViewSettings(), plain)) == 10


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"gamma": (0.0,)}, "gamma=0"),
        ({"bias": (-0.1,)}, "bias"),
        ({"matching": (1.0,)}, "matching"),
        ({"in_plane": (3.0,)}, "in_plane"),
        ({"through_plane": (float("nan"),)}, "through_plane"),
        ({"limit": 0}, "limit"),
        ({"stop_dice": 1.1}, "stop_dice"),
        ({"stop_after": 0}, "stop_after"),
        ({"temperature": 0.0}, "temperature"),
        ({"kinds": ()}, "no kind"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, object], word: str) -> None:
    with pytest.raises(UsageError, match=word) as caught:
        ViewSettings(**options)  # type: ignore[arg-type]
    assert caught.value.code == "E-CONFIG-RANGE"
