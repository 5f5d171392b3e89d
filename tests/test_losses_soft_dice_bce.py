"""Soft Dice and cross-entropy: smallest where the prediction equals a soft target; nnU-Net's for hard targets."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import pytest
import torch
from loss_checks import SHAPES, batch, check_loss, gradient
from torch import Tensor

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.losses.registry import LossSettings, build_loss
from nnunet_spine_ext.losses.soft_dice import soft_dice
from nnunet_spine_ext.losses.soft_dice_bce import SoftDiceBCE
from nnunet_spine_ext.losses.wing_dice import WingDice

FORMS = ("l1", "squared")


@pytest.mark.parametrize(
    "make",
    [
        SoftDiceBCE,
        lambda: SoftDiceBCE(batch_dice=True),
        lambda: SoftDiceBCE(bce_weight=0, dice_form="squared"),
        lambda: SoftDiceBCE(dice_weight=0),
        lambda: SoftDiceBCE(bce_weight=0, activation="linear"),
    ],
)
def test_what_every_loss_satisfies(make: Any) -> None:
    check_loss(make)


def _dice(p: Tensor, y: Tensor, **options: Any) -> Tensor:
    return soft_dice(p, y, torch.ones_like(y[:, :1], dtype=torch.bool), **options)


def _stock_dice(p: Tensor, y: Tensor) -> Tensor:
    return 1 - 2 * (p * y).sum() / (p + y).sum()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("smooth", [1e-5, 1.0, 100.0])
def test_dice_is_smallest_at_a_soft_target_and_zero_there(form: Any, batch_dice: bool, smooth: float) -> None:
    _, y, _ = batch()
    y = y.double()
    options = {"form": form, "batch_dice": batch_dice, "smooth": smooth}
    value, found = gradient(lambda p, y, _: _dice(p, y, **options), y, y, y)  # type: ignore[arg-type]
    assert value == 0
    assert (found == 0).all()
    generator = torch.Generator().manual_seed(7)
    for size in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(5):
            noise = size * torch.randn(y.shape, dtype=y.dtype, generator=generator)
            assert _dice(y + noise, y, **options) > 0
    for other in (torch.zeros_like(y), torch.ones_like(y), (y > 0.5).double(), 0.99 * y, 1.01 * y, y + 0.01):
        assert _dice(other, y, **options) > 0


def test_the_usual_dice_is_not_smallest_at_a_soft_target() -> None:
    # Why the usual form is not here: it prefers a prediction of 1 to the target itself.
    y = torch.full((1, 1, 4, 4), 0.5)
    assert _stock_dice(y, y) == 0.5
    assert _stock_dice(torch.ones_like(y), y) == pytest.approx(1 / 3)


@pytest.mark.parametrize("form", FORMS)
def test_dice_alone_learns_a_soft_target(form: Any) -> None:
    y = torch.tensor([0.0, 0.1, 0.3, 0.5, 0.7, 1.0]).reshape(1, 1, 1, -1)
    valid = torch.ones_like(y)
    for activation in ("linear", "sigmoid"):
        loss = SoftDiceBCE(bce_weight=0, dice_form=form, activation=activation)  # type: ignore[arg-type]
        z = torch.full_like(y, 0.2).requires_grad_()
        optimizer = torch.optim.Adam([z], lr=0.05)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
        for _ in range(400):
            optimizer.zero_grad()
            loss(z, y, valid).backward()
            optimizer.step()
            schedule.step()
        p = z.detach().sigmoid() if activation == "sigmoid" else z.detach()
        error = (p - y).abs().flatten()
        assert error[1:-1].max() < 0.01
        # A sigmoid comes near 0 and 1 but never there.
        assert error.max() < 0.06


@pytest.mark.parametrize("form", FORMS)
def test_dice_by_hand(form: Any) -> None:
    p = torch.tensor([[0.2, 0.6, -0.5], [1.0, 0.0, 0.0]]).reshape(2, 1, 1, 3)
    y = torch.tensor([[0.0, 1.0, 0.5], [0.5, 0.0, 0.25]]).reshape(2, 1, 1, 3)
    if form == "l1":
        apart, size = (0.2 + 0.4 + 1.0, 0.5 + 0.25), (1.3 + 1.5, 1.0 + 0.75)
    else:
        apart, size = (0.04 + 0.16 + 1.0, 0.25 + 0.0625), (0.04 + 0.36 + 0.25 + 1.25, 1.0 + 0.25 + 0.0625)
    each = [a / (s + 1) for a, s in zip(apart, size, strict=True)]
    assert float(_dice(p, y, form=form)) == pytest.approx(sum(each) / 2)
    assert float(_dice(p, y, form=form, batch_dice=True)) == pytest.approx(sum(apart) / (sum(size) + 1))


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("smooth", [1e-5, 1.0])
def test_dice_of_hard_targets_is_that_of_nnunet(batch_dice: bool, smooth: float) -> None:
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    output, target, valid = batch(classes=3)
    target = (target > 0.6).float()
    stock = MemoryEfficientSoftDiceLoss(torch.sigmoid, batch_dice=batch_dice, do_bg=True, smooth=smooth, ddp=False)
    ours = SoftDiceBCE(bce_weight=0, batch_dice=batch_dice, smooth=smooth)
    expected, expected_gradient = gradient(lambda o, t, v: stock(o, t, loss_mask=v), output, target, valid)  # type: ignore[arg-type]
    found, found_gradient = gradient(ours, output, target, valid)
    torch.testing.assert_close(found, 1 + expected)
    torch.testing.assert_close(found_gradient, expected_gradient)


def test_cross_entropy_by_hand() -> None:
    pairs = [(-2.0, 0.0), (0.3, 0.25), (1.0, 0.5), (5.0, 1.0), (-30.0, 0.75)]
    expected = []
    for z, y in pairs:
        p = 1 / (1 + math.exp(-z))
        expected.append(-y * math.log(p) - (1 - y) * math.log(1 - p))
    z, y = (torch.tensor(column).reshape(1, 1, 1, -1) for column in zip(*pairs, strict=True))
    loss = SoftDiceBCE(dice_weight=0)
    assert float(loss(z, y, torch.ones_like(y))) == pytest.approx(sum(expected) / len(expected), rel=1e-6)
    y = y.clamp(0.01, 0.99)
    _, found = gradient(loss, torch.logit(y), y, torch.ones_like(y))
    assert found.abs().max() < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_parts_are_weighted(shape: tuple[int, ...]) -> None:
    arguments = batch(shape)
    dice, entropy = SoftDiceBCE(bce_weight=0)(*arguments), SoftDiceBCE(dice_weight=0)(*arguments)
    both = SoftDiceBCE(dice_weight=2.0, bce_weight=0.25)(*arguments)
    torch.testing.assert_close(both, 2 * dice + 0.25 * entropy)

    loss = WingDice(wing_weight=3.0, dice_weight=0.5)
    linear = SoftDiceBCE(bce_weight=0, activation="linear", dice_form="squared")
    torch.testing.assert_close(loss(*arguments), 3 * loss.wing(*arguments) + 0.5 * linear(*arguments))


def test_smoothing_bounds_the_gradient_of_an_empty_target() -> None:
    output = torch.full((1, 1, 16, 16), 1e-4)
    empty = torch.zeros_like(output)
    _, found = gradient(SoftDiceBCE(bce_weight=0, activation="linear"), output, empty, torch.ones_like(output))
    assert found.abs().max() <= 1
    assert found.min() > 0


def test_voxels_outside_zero_to_one_are_pulled_back() -> None:
    # Of a clamped output they would have no gradient.
    y = torch.tensor([0.0, 1.0, 1.0, 1.0]).reshape(1, 1, 1, -1)
    output = torch.tensor([-0.5, 1.5, 0.9, 0.9]).reshape(1, 1, 1, -1)
    for form in FORMS:
        loss = SoftDiceBCE(bce_weight=0, activation="linear", dice_form=form)  # type: ignore[arg-type]
        _, found = gradient(loss, output, y, torch.ones_like(y))
        assert found.flatten()[0] < 0 < found.flatten()[1]


def test_cross_entropy_of_a_linear_output_is_refused() -> None:
    with pytest.raises(UsageError, match="wing_dice") as error:
        SoftDiceBCE(activation="linear")
    assert error.value.code == "E-LOSS-ACTIVATION"
    with pytest.raises(UsageError, match="did you mean 'squared'"):
        SoftDiceBCE(dice_form="square")  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "form"), [("soft_dice_bce", "l1"), ("wing_dice", "squared")])
def test_each_loss_has_the_dice_it_works_with(name: Any, form: str) -> None:
    arguments = batch()
    expected = build_loss(LossSettings(name=name, dice_form=form))(*arguments)  # type: ignore[arg-type]
    assert torch.equal(build_loss(LossSettings(name=name))(*arguments), expected)
    other = "squared" if form == "l1" else "l1"
    assert build_loss(LossSettings(name=name, dice_form=other))(*arguments) != expected  # type: ignore[arg-type]


def _uncertain_discs(spread: float, count: int = 21) -> Tensor:
    """Return discs of about 5 mm radius (count, 1, 36, 36), voxels of 0.5 mm, whose edge varies by `spread` mm."""
    places = [NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)]
    axis = (torch.arange(36) - 17.5) / 2
    edges = 5 + spread * torch.tensor(places)[:, None, None, None]
    return (2 * (edges - torch.hypot(axis[:, None], axis)) + 0.5).clamp(0, 1)


def _area_of_best(settings: LossSettings, labels: Tensor) -> float:
    """Return the area (mm²) of the one map that is best for all labels, minus the mean of their areas."""
    loss, valid = build_loss(settings), torch.ones_like(labels)
    logits = torch.logit(labels.mean(dim=0, keepdim=True).clamp(0.01, 0.99)).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 0.05 if step < 250 else 0.01
        optimizer.zero_grad()
        output = torch.sigmoid(logits) if settings.output == "linear" else logits
        loss(output.expand_as(labels), labels, valid).backward()
        optimizer.step()
    return float(torch.sigmoid(logits.detach()).sum() - labels.sum() / len(labels)) / 4


@pytest.mark.parametrize(
    ("settings", "sure", "unsure"),
    [
        (LossSettings(name="soft_dice_bce", dice_weight=0), 0.03, 0.03),
        (LossSettings(name="soft_dice_bce", batch_dice=True), 0.2, 0.7),
        (LossSettings(name="adaptive_wing"), 2.4, 3.9),
        (LossSettings(name="wing_dice", batch_dice=True), 2.0, 3.6),
    ],
)
def test_how_much_area_an_unsure_border_adds(settings: LossSettings, sure: float, unsure: float) -> None:
    """Documented: only cross-entropy is smallest at the mean, so that areas do not depend on how sure a border is."""
    found = [_area_of_best(settings, _uncertain_discs(spread)) for spread in (0.3, 0.6)]
    assert found == pytest.approx([sure, unsure], abs=0.15)
