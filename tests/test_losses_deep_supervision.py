"""Soft targets at coarser levels: volume, what is ignored, weights, and the wrapper that brings them together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from loss_checks import IGNORED, DispatchCounter
from torch import Tensor, nn

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.losses.deep_supervision import SoftDeepSupervision, level_weights, pooled, soft_targets
from nnunet_spine_ext.losses.registry import LossSettings, build_deep_supervision

LOSSES = ("adaptive_wing", "soft_dice_bce", "wing_dice")
# Anisotropic, as nnU-Net pools thick slices.
SIZES = ((12, 16, 8), (12, 8, 4), (6, 4, 2), (3, 2, 1))
FLAT = ((16, 8), (8, 4), (4, 2), (2, 1))


def _target(shape: tuple[int, ...], classes: int = 2, count: int = 2, ignored: int = 0) -> Tensor:
    """Return (B, K+1, *shape): random values, validity 0 in the first planes of the first axis."""
    target = torch.rand((count, classes + 1, *shape), generator=torch.Generator().manual_seed(2))
    target[:, -1] = 1
    target[:, -1, :ignored] = 0
    return target


def _outputs(sizes: tuple[tuple[int, ...], ...], classes: int = 2, count: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn((count, classes + 1, *size), generator=generator).requires_grad_() for size in sizes]


@pytest.mark.parametrize("sizes", [SIZES, FLAT])
def test_means_over_blocks_keep_the_volume(sizes: tuple[tuple[int, ...], ...]) -> None:
    target = _target(sizes[0])
    for size, level in zip(sizes, soft_targets(target, sizes), strict=True):
        assert level.shape == (2, 3, *size)
        assert (level[:, -1] == 1).all()
        steps = [old // new for old, new in zip(sizes[0], size, strict=True)]
        split = [n for pair in zip(size, steps, strict=True) for n in pair]
        blocks = target[:, :-1].double().numpy().reshape(2, 2, *split)
        expected = blocks.mean(axis=tuple(range(3, blocks.ndim, 2)))
        np.testing.assert_allclose(level[:, :-1].numpy(), expected, atol=1e-6)
        volume = level[:, :-1].double().sum() * np.prod(steps)
        assert float(volume) == pytest.approx(float(target[:, :-1].double().sum()), rel=1e-6)


def test_a_small_structure_is_not_lost_between_samples() -> None:
    # Trilinear interpolation without a filter reads only the middle 2 x 2 x 2 voxels of a block of 8 x 8 x 8.
    target = _target((16, 16, 16), classes=1, count=1)
    target[:, 0] = 0
    target[:, 0, 0, 0, 0] = 1
    missed = nn.functional.interpolate(target[:, :1], size=(2, 2, 2), mode="trilinear", align_corners=False)
    assert missed.sum() == 0
    assert soft_targets(target, [(2, 2, 2)])[0][:, 0].sum() == pytest.approx(1 / 512)


@pytest.mark.parametrize(("shape", "size"), [((10, 9, 7), (5, 4, 3)), ((10, 7), (4, 3))])
def test_sizes_that_do_not_divide(shape: tuple[int, ...], size: tuple[int, ...]) -> None:
    target = _target(shape)
    level = soft_targets(target, [size])[0]
    assert level.shape[2:] == size
    assert level[:, :-1].mean() == pytest.approx(float(target[:, :-1].mean()), abs=0.05)
    constant = target.clone()
    constant[:, :-1] = 0.3
    torch.testing.assert_close(soft_targets(constant, [size])[0][:, :-1], torch.full((2, 2, *size), 0.3))
    slab = _target(shape, ignored=3)
    slab[:, :-1, :3] = torch.nan
    values, valid = pooled(slab[:, :-1], slab[:, -1:], size)
    assert values.isfinite().all()
    # The first block that begins behind the slab.
    first = next(i for i in range(size[0]) if i * shape[0] // size[0] >= 3)
    assert (valid[:, :, :first] == 0).all()
    assert (valid[:, :, first:] == 1).all()


@pytest.mark.parametrize("held", IGNORED)
def test_what_is_ignored_does_not_enter_the_means(held: float) -> None:
    values = torch.tensor([0.2, 0.4, held, 0.6, held, held]).reshape(1, 1, 1, 6)
    valid = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 0.0]).reshape(1, 1, 1, 6)
    means, still = pooled(values, valid, (1, 3))
    torch.testing.assert_close(means.flatten(), torch.tensor([0.3, 0.6, 0.0]))
    assert still.flatten().tolist() == [1, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_means_are_taken_in_full_precision(dtype: torch.dtype) -> None:
    values = torch.full((1, 1, 16, 16, 16), 0.5, dtype=dtype)
    means, valid = pooled(values, torch.ones_like(values), (1, 1, 1))
    assert means.dtype == torch.promote_types(dtype, torch.float32)
    assert float(means) == 0.5
    assert float(valid) == 1


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("levels", ["nnunet", "paper"])
@pytest.mark.parametrize("sizes", [SIZES, FLAT])
def test_an_ignored_slab_has_no_gradient_on_any_level(name: Any, levels: Any, sizes: Any) -> None:
    loss = build_deep_supervision(LossSettings(name=name, levels=levels), last=1e-3)
    planes = sizes[0][0] // 3
    expected = None
    for held in IGNORED:
        target = _target(sizes[0], ignored=planes)
        target[:, :-1, :planes] = held
        outputs = _outputs(sizes)
        loss(outputs, soft_targets(target, sizes)).backward()
        gradients = [output.grad for output in outputs]
        for size, found in zip(sizes, gradients, strict=True):
            assert found is not None
            # A coarse voxel that holds any ignored one is ignored as well.
            ignored = -(-planes * size[0] // sizes[0][0])
            assert (found[:, :, :ignored] == 0).all()
            assert (found[:, 0] == 0).all(), "the background was read"
            if ignored < size[0]:
                assert (found[:, 1:, ignored:] != 0).float().mean() > 0.9
        expected = gradients if expected is None else expected
        for found, first in zip(gradients, expected, strict=True):
            assert torch.equal(found, first)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_that_is_ignored_as_a_whole(name: Any) -> None:
    loss = build_deep_supervision(LossSettings(name=name, levels="paper"))
    outputs = _outputs(SIZES)
    target = torch.full_like(_target(SIZES[0]), -1)
    value = loss(outputs, target)
    value.backward()
    assert value == 0
    assert all((output.grad == 0).all() for output in outputs)


@pytest.mark.parametrize(
    ("n", "scheme", "last", "expected"),
    [
        (1, "nnunet", 0.0, (1.0,)),
        (2, "nnunet", 0.0, (1.0, 0.0)),
        (3, "nnunet", 0.0, (2 / 3, 1 / 3, 0.0)),
        (5, "nnunet", 0.0, (8 / 15, 4 / 15, 2 / 15, 1 / 15, 0.0)),
        (1, "paper", 0.0, (1.0,)),
        (4, "paper", 0.0, (0.25, 0.125, 0.0625, 0.03125)),
    ],
)
def test_level_weights(n: int, scheme: Any, last: float, expected: tuple[float, ...]) -> None:
    assert level_weights(n, scheme, last=last) == pytest.approx(expected)


@pytest.mark.parametrize("last", [0.0, 1e-6])
@pytest.mark.parametrize("n", [2, 5, 6])
def test_level_weights_are_those_of_nnunet(n: int, last: float) -> None:
    weights = np.array([1 / (2**i) for i in range(n)])
    weights[-1] = last
    assert level_weights(n, last=last) == pytest.approx(weights / weights.sum(), rel=1e-12)


class _Seen(nn.Module):
    """Keep what it is called with; return the mean output."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        self.calls.append((output, target, valid))
        return output.mean()


def test_levels_are_weighted_and_those_without_weight_left_out() -> None:
    outputs, target = _outputs(SIZES), _target(SIZES[0])
    targets = soft_targets(target, SIZES)
    means = [float(output[:, 1:].detach().mean()) for output in outputs]
    for scheme, last, seen in (("nnunet", 0.0, 3), ("nnunet", 1e-6, 4), ("paper", 0.0, 4)):
        loss = _Seen()
        total = SoftDeepSupervision(loss, scheme=scheme, last=last)(outputs, targets)  # type: ignore[arg-type]
        weights = level_weights(4, scheme, last=last)  # type: ignore[arg-type]
        assert len(loss.calls) == seen
        assert float(total.detach()) == pytest.approx(sum(w * m for w, m in zip(weights, means, strict=True)), rel=1e-5)
        for (output, values, valid), whole, level in zip(loss.calls, outputs, targets, strict=False):
            assert torch.equal(output, whole[:, 1:])
            assert torch.equal(values, level[:, :-1])
            assert torch.equal(valid, level[:, -1:])


@pytest.mark.parametrize("name", LOSSES)
def test_one_output_and_one_target(name: Any) -> None:
    loss = build_deep_supervision(LossSettings(name=name))
    outputs, target = _outputs(SIZES), _target(SIZES[0], ignored=5)
    alone = loss(outputs[0], target)
    assert torch.equal(alone, loss([outputs[0]], [target]))
    assert torch.equal(alone, loss.loss(outputs[0][:, 1:], target[:, :-1], target[:, -1:]))
    assert torch.equal(loss(outputs, target), loss(outputs, soft_targets(target, SIZES)))


def test_nothing_is_read_by_the_host() -> None:
    loss = build_deep_supervision(LossSettings(weighting="dilation"))
    outputs, target = _outputs(SIZES), _target(SIZES[0], ignored=5)
    with DispatchCounter(target.numel()) as counter:
        loss(outputs, target).backward()
    assert not counter.syncs


def test_one_hot_targets_stay_a_share_of_the_block() -> None:
    target = _target((8, 8), classes=2, count=1)
    hard = (torch.arange(64).reshape(8, 8) % 3 == 1).float()
    target[:, 0], target[:, 1] = hard, 1 - hard
    level = soft_targets(target, [(4, 4)])[0]
    torch.testing.assert_close(level[:, 0] + level[:, 1], torch.ones(1, 4, 4))
    assert set(level[:, 0].unique().tolist()) <= {0.0, 0.25, 0.5}
    assert ((level[:, 0] > 0) & (level[:, 0] < 1)).any()


@pytest.mark.parametrize("size", [(8,), (8, 8, 8), (9, 4), (0, 4)])
def test_impossible_levels(size: tuple[int, ...]) -> None:
    with pytest.raises(UsageError) as error:
        soft_targets(_target((8, 8)), [size])
    assert error.value.code == "E-LOSS-SHAPE"


@pytest.mark.parametrize("case", ["count", "none", "channels"])
def test_outputs_and_targets_that_do_not_belong_together(case: str) -> None:
    loss = build_deep_supervision(LossSettings())
    outputs, target = _outputs(FLAT), _target(FLAT[0])
    arguments = {
        "count": (outputs, soft_targets(target, FLAT[:2])),
        "none": ([], []),
        "channels": (outputs, target[:, 1:]),
    }[case]
    with pytest.raises(UsageError) as error:
        loss(*arguments)
    assert error.value.code == "E-LOSS-SHAPE"
    with pytest.raises(UsageError, match="scheme"):
        SoftDeepSupervision(_Seen(), scheme="nnUNet")  # type: ignore[arg-type]
