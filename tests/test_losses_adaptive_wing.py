"""The adaptive wing loss: its formula, its seam at θ, its weights, and what every loss has to satisfy."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from loss_checks import SHAPES, batch, check_loss, gradient
from scipy import ndimage
from torch import Tensor

from nnunet_spine_ext.core.config import load_config, to_dict
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.losses.adaptive_wing import AdaptiveWing, weight_map
from nnunet_spine_ext.losses.registry import LossSettings, build_loss, read_loss_settings
from nnunet_spine_ext.losses.wing_dice import WingDice

TARGETS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


def _reference(p: float, y: float, omega: float, epsilon: float, theta: float, alpha: float) -> float:
    """Return the loss of one voxel as the paper writes it, with A and C."""
    power = alpha - y
    ratio = theta / epsilon
    slope = omega * (1 / (1 + ratio**power)) * power * ratio ** (power - 1) / epsilon
    offset = theta * slope - omega * math.log(1 + ratio**power)
    error = abs(y - p)
    return omega * math.log(1 + (error / epsilon) ** power) if error < theta else slope * error - offset


def _scalar(loss: AdaptiveWing, p: float, y: float) -> tuple[float, float]:
    """Return value and derivative of one voxel in float64."""
    one = torch.tensor([[[[y]]]], dtype=torch.float64)
    value, found = gradient(loss, torch.full_like(one, p), one, torch.ones_like(one))
    return float(value), float(found)


@pytest.mark.parametrize(
    "make",
    [
        AdaptiveWing,
        lambda: AdaptiveWing(weighting="dilation"),
        lambda: AdaptiveWing(weighting="paper", reduction="sum"),
        lambda: AdaptiveWing(weighting="dilation", activation="sigmoid", reduction="sum"),
        lambda: AdaptiveWing(activation="sigmoid"),
        WingDice,
        lambda: WingDice(AdaptiveWing(activation="sigmoid"), dice_form="l1", batch_dice=True),
    ],
)
def test_what_every_loss_satisfies(make: Any) -> None:
    check_loss(make)


@pytest.mark.parametrize("omega", [1.0, 8.0, 14.0])
@pytest.mark.parametrize("epsilon", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("theta", [0.1, 0.5, 0.9])
def test_value_and_gradient_are_continuous_at_theta(omega: float, epsilon: float, theta: float) -> None:
    loss = AdaptiveWing(omega=omega, epsilon=epsilon, theta=theta)
    for y, side in itertools.product(TARGETS, (-1, 1)):
        step = 1e-10
        (below, slope_below), (above, slope_above) = (_scalar(loss, y + side * (theta + h), y) for h in (-step, step))
        assert above == pytest.approx(below, abs=1e-7)
        assert slope_above == pytest.approx(slope_below, abs=1e-7)
        assert slope_above * side > 0


@pytest.mark.parametrize("parameters", [(8.0, 1.0, 0.5, 2.1), (14.0, 1.0, 0.5, 2.1), (12.0, 0.5, 0.3, 2.4)])
def test_equals_an_independent_reference(parameters: tuple[float, ...]) -> None:
    omega, epsilon, theta, alpha = parameters
    loss = AdaptiveWing(omega=omega, epsilon=epsilon, theta=theta, alpha=alpha)
    outputs = (-3.0, -0.5, 0.0, 1e-6, 0.2, 0.5, 0.77, 1.0, 1.3, 6.0)
    pairs = list(itertools.product(outputs, (*TARGETS, 1 / 3)))
    expected = [_reference(p, y, *parameters) for p, y in pairs]
    for dtype, digits in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        p, y = (torch.tensor(column, dtype=dtype).reshape(1, 1, 1, -1) for column in zip(*pairs, strict=True))
        found = loss.wing(p, y).flatten().tolist()
        assert found == pytest.approx(expected, rel=digits, abs=digits)
        mean = float(loss(p, y, torch.ones_like(p)))
        assert mean == pytest.approx(sum(expected) / len(expected), rel=digits)
        total = AdaptiveWing(omega=omega, epsilon=epsilon, theta=theta, alpha=alpha, reduction="sum")
        assert float(total(p, y, torch.ones_like(p))) == pytest.approx(sum(expected), rel=digits)


@pytest.mark.parametrize(
    ("y", "slope", "offset", "at_theta"),
    [(0.0, 6.355098, 1.500272, 1.677277), (0.5, 6.350099, 0.894358, 2.280692), (1.0, 5.598771, -0.263733, 3.063119)],
)
def test_measured_constants(y: float, slope: float, offset: float, at_theta: float) -> None:
    loss = AdaptiveWing()
    value, found = _scalar(loss, y + 0.5, y)
    assert value == pytest.approx(at_theta, abs=1e-6)
    assert found == pytest.approx(slope, abs=1e-6)
    far, far_found = _scalar(loss, y + 2.0, y)
    assert far_found == pytest.approx(slope, abs=1e-6)
    assert far_found * 2.0 - far == pytest.approx(offset, abs=1e-6)


@pytest.mark.parametrize(
    ("error", "slopes"),
    [(1e-3, (0.0084, 0.203, 4.41)), (0.01, (0.106, 0.807, 5.52)), (0.1, (1.32, 3.14, 6.48)), (0.5, (6.36, 6.35, 5.60))],
)
def test_measured_gradients(error: float, slopes: tuple[float, float, float]) -> None:
    for y, slope in zip((0.0, 0.5, 1.0), slopes, strict=True):
        assert _scalar(AdaptiveWing(), y + error, y)[1] == pytest.approx(slope, rel=6e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_no_error_no_gradient(dtype: torch.dtype) -> None:
    y = torch.tensor(TARGETS[::3], dtype=dtype).reshape(1, 1, 1, -1)
    value, found = gradient(AdaptiveWing(), y, y, torch.ones_like(y))
    assert value == 0
    assert (found == 0).all()


def _paper_code(p: np.ndarray, y: np.ndarray) -> float:
    """Return the sum that the code of the contrast-agnostic paper computes, its mask included."""
    omega, epsilon, theta, alpha = 8, 1, 0.5, 2.1
    opened = ndimage.binary_opening(np.round(255 * y), np.ones((3,) * y.ndim))
    mask = np.where(opened.astype(int) < 51, 1, 1 + omega)
    power = alpha - y
    ratio = theta / epsilon
    slope = omega * (1 / (1 + ratio**power)) * power * ratio ** (power - 1) * (1 / epsilon)
    offset = theta * slope - omega * np.log(1 + ratio**power)
    error = np.abs(y - p)
    return float(
        (mask * np.where(error < theta, omega * np.log(1 + (error / epsilon) ** power), slope * error - offset)).sum()
    )


def test_compatibility_mode_is_what_the_paper_s_code_computes() -> None:
    output, target = _blob()
    loss = AdaptiveWing(weighting="paper", reduction="sum", weight=99.0)
    expected = _paper_code(output[0, 0].double().numpy(), target[0, 0].double().numpy())
    assert float(loss(output.double(), target.double(), torch.ones_like(target))) == pytest.approx(expected, rel=1e-12)
    assert float(loss(output, target, torch.ones_like(target))) == pytest.approx(expected, rel=1e-6)


def _blob(shape: tuple[int, ...] = (12, 14, 16)) -> tuple[Tensor, Tensor]:
    axes = np.meshgrid(*[np.linspace(-2, 2, n) for n in shape], indexing="ij")
    blob = np.clip(1.6 - sum(axis**2 for axis in axes), 0, 1).astype(np.float32)
    noise = torch.randn((1, 1, *shape), generator=torch.Generator().manual_seed(4))
    target = torch.from_numpy(blob)[None, None]
    return target + 0.3 * noise, target


@pytest.mark.parametrize("shape", [(12, 14, 16), (20, 24)])
def test_weight_map_is_one_plus_weight_where_the_grey_dilation_reaches_a_fifth(shape: tuple[int, ...]) -> None:
    output, blob = _blob(shape)
    # At the border, and in a second sample, too.
    target = torch.cat([blob, blob.roll(tuple(n // 2 for n in shape), tuple(range(2, 2 + len(shape))))])
    dilated = np.stack([ndimage.grey_dilation(sample[0].numpy(), size=(3,) * len(shape)) for sample in target])
    expected = np.where(dilated >= 0.2, 1 + 10.0, 1.0)
    found = weight_map(target, 10.0)[:, 0]
    assert np.array_equal(found.numpy(), expected)
    assert 0.05 < (expected > 1).mean() < 0.9

    outputs = torch.cat([output, output])
    wing = AdaptiveWing().wing(outputs, target)[:, 0].double().numpy()
    value = AdaptiveWing(weighting="dilation")(outputs, target, torch.ones_like(target))
    assert float(value) == pytest.approx((wing * expected).mean(), rel=1e-6)


def test_weight_does_not_spread_from_ignored_voxels() -> None:
    output, target, valid = batch()
    target = torch.where(valid.expand_as(target) > 0, torch.zeros_like(target), torch.ones_like(target))
    plain, weighted = AdaptiveWing(), AdaptiveWing(weighting="dilation")
    assert torch.equal(weighted(output, target, valid), plain(output, target, valid))


@pytest.mark.parametrize("shape", SHAPES)
def test_sigmoid_is_the_wing_of_the_sigmoid(shape: tuple[int, ...]) -> None:
    output, target, valid = batch(shape)
    value = AdaptiveWing(activation="sigmoid")(output, target, valid)
    torch.testing.assert_close(value, AdaptiveWing()(output.sigmoid(), target, valid))


@pytest.mark.parametrize("name", ["adaptive_wing", "soft_dice_bce", "wing_dice"])
def test_compiles_into_one_graph(name: Any) -> None:
    extra = {} if name == "soft_dice_bce" else {"weighting": "dilation"}
    loss = build_loss(read_loss_settings({"name": name, **extra}))
    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    arguments = batch()
    for found, expected in zip(gradient(compiled, *arguments), gradient(loss, *arguments), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("wrong", "code", "words"),
    [
        ({"omga": 3}, "E-CONFIG-KEY", "'omega'"),
        ({"name": "adaptive_wings"}, "E-CONFIG-VALUE", "'adaptive_wing'"),
        ({"weighting": "dilatation"}, "E-CONFIG-VALUE", "'dilation'"),
        ({"omega": 0.0}, "E-LOSS-RANGE", "omega=0.0"),
        ({"epsilon": -1.0}, "E-LOSS-RANGE", "epsilon=-1.0"),
        ({"theta": math.nan}, "E-LOSS-RANGE", "theta=nan"),
        ({"theta": math.inf}, "E-LOSS-RANGE", "theta=inf"),
        ({"alpha": 2.0}, "E-LOSS-RANGE", "alpha above 2"),
        ({"weight": -1.0, "weighting": "dilation"}, "E-LOSS-RANGE", "weight=-1.0"),
        ({"bce_weight": 2.0}, "E-CONFIG-VALUE", "bce_weight"),
        ({"name": "soft_dice_bce", "omega": 9.0}, "E-CONFIG-VALUE", "omega"),
        ({"name": "soft_dice_bce", "activation": "linear"}, "E-LOSS-ACTIVATION", "wing_dice"),
        ({"name": "soft_dice_bce", "smooth": 0.0}, "E-LOSS-RANGE", "smooth=0.0"),
        ({"name": "soft_dice_bce", "dice_weight": 0.0, "bce_weight": 0.0}, "E-LOSS-RANGE", "one of them above 0"),
        ({"name": "wing_dice", "wing_weight": 0.0}, "E-LOSS-RANGE", "adaptive_wing or soft_dice_bce"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any], code: str, words: str) -> None:
    with pytest.raises(UsageError) as error:
        read_loss_settings(wrong)
    assert error.value.code == code
    assert words in str(error.value)


@pytest.mark.parametrize(
    "wrong",
    [{"name": "wing"}, {"weighting": "on"}, {"reduction": "none"}, {"activation": "relu"}, {"levels": "all"}],
)
def test_wrong_choices_are_named_without_a_file_too(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="known") as error:
        LossSettings(**wrong)
    assert error.value.code == "E-LOSS-CHOICE"


@pytest.mark.parametrize("name", ["adaptive_wing", "soft_dice_bce", "wing_dice"])
def test_settings_survive_being_written(name: Any) -> None:
    settings = LossSettings(name=name)
    assert load_config(LossSettings, to_dict(settings)) == settings
    assert settings.output == ("sigmoid" if name == "soft_dice_bce" else "linear")


@pytest.mark.parametrize("case", ["classes", "valid", "spatial"])
def test_shapes_that_do_not_belong_together(case: str) -> None:
    output, target, valid = batch()
    arguments = {
        "classes": (output, target[:, :1], valid),
        "valid": (output, target, target),
        "spatial": (output, target[..., 1:], valid),
    }[case]
    with pytest.raises(UsageError) as error:
        AdaptiveWing()(*arguments)
    assert error.value.code == "E-LOSS-SHAPE"
