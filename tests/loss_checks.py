"""Batches for losses, and what every loss for soft labels has to satisfy."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from dispatch_counter import DispatchCounter

SHAPES = ((6, 8, 10), (8, 10))
# What an ignored voxel may hold: the value on disk, and what a damaged one could.
IGNORED = (-1.0, float("nan"), float("inf"), -float("inf"), 3.0)


def batch(shape: tuple[int, ...] = SHAPES[0], classes: int = 2, count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Return output, target in [0, 1] with exact 0 and 1 in it, and validity with an ignored first half of one axis."""
    generator = torch.Generator().manual_seed(0)
    output = torch.randn((count, classes, *shape), generator=generator)
    target = (1.6 * torch.rand((count, classes, *shape), generator=generator) - 0.3).clamp(0, 1)
    valid = torch.ones((count, 1, *shape))
    valid[:, :, : shape[0] // 2] = 0
    return output, target, valid


def gradient(loss: nn.Module, output: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return the value of a loss and its gradient by the output."""
    output = output.detach().clone().requires_grad_()
    value = loss(output, target, valid)
    (by_output,) = torch.autograd.grad(value, output)
    return value.detach(), by_output


class AutocastSeen(TorchFunctionMode):
    """Keep whether autocast was on in any sum, which every loss ends with."""

    def __init__(self) -> None:
        super().__init__()
        self.states: set[bool] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.sum:
            self.states.add(torch.is_autocast_enabled("cpu"))
        return func(*args, **(kwargs or {}))


def check_loss(make: Callable[[], nn.Module]) -> None:
    """Check everything that holds for any loss of (output, target, valid), in 2-D and 3-D."""
    for shape in SHAPES:
        for check in (_mean_over_classes, _ignored, _types_of_validity, _all_ignored, _clamped, _order, _half, _empty):
            check(make(), shape)
        _no_host_sync(make(), shape)
    _differentiable(make())


def _ignored(loss: nn.Module, shape: tuple[int, ...]) -> None:
    output, target, valid = batch(shape)
    expected, expected_gradient = gradient(loss, output, target, valid)
    ignored = (valid < 1).expand_as(output)
    assert (expected_gradient[ignored] == 0).all()
    assert (expected_gradient[~ignored] != 0).float().mean() > 0.9
    for held in IGNORED:
        for not_valid in (0.0, 0.999, 0.5, float("nan")):
            value, found = gradient(
                loss,
                torch.where(ignored, torch.full_like(output, held), output),
                torch.where(ignored, torch.full_like(target, held), target),
                torch.where(valid < 1, torch.full_like(valid, not_valid), valid),
            )
            assert torch.equal(value, expected)
            assert torch.equal(found, expected_gradient)


def _mean_over_classes(loss: nn.Module, shape: tuple[int, ...]) -> None:
    output, target, valid = batch(shape)
    each = [loss(output[:, k : k + 1], target[:, k : k + 1], valid) for k in range(output.shape[1])]
    total = torch.stack(each).sum() if getattr(loss, "reduction", "mean") == "sum" else torch.stack(each).mean()
    torch.testing.assert_close(loss(output, target, valid), total)


def _types_of_validity(loss: nn.Module, shape: tuple[int, ...]) -> None:
    output, target, valid = batch(shape)
    expected = loss(output, target, valid)
    for dtype in (torch.bool, torch.uint8, torch.float16, torch.bfloat16, torch.float64):
        assert torch.equal(loss(output, target, valid.to(dtype)), expected)


def _all_ignored(loss: nn.Module, shape: tuple[int, ...]) -> None:
    output, target, valid = batch(shape)
    value, found = gradient(loss, output, torch.full_like(target, -1), torch.zeros_like(valid))
    assert value == 0
    assert (found == 0).all()
    # A sample ignored as a whole is not there.
    valid[0] = 0
    torch.testing.assert_close(loss(output, target, valid), loss(output[1:], target[1:], valid[1:]))


def _clamped(loss: nn.Module, shape: tuple[int, ...]) -> None:
    output, target, valid = batch(shape)
    outside = torch.where(target == 1, 1.2 + target, torch.where(target == 0, target - 0.7, target))
    assert torch.equal(loss(output, outside, valid), loss(output, target, valid))


def _order(loss: nn.Module, shape: tuple[int, ...]) -> None:
    output, target, valid = batch(shape)
    order = [2, 0, 1]
    value, found = gradient(loss, output, target, valid)
    other, other_found = gradient(loss, output[order], target[order], valid[order])
    torch.testing.assert_close(other, value)
    torch.testing.assert_close(other_found, found[order])


def _half(loss: nn.Module, shape: tuple[int, ...]) -> None:
    output, target, valid = batch(shape)
    for dtype in (torch.bfloat16, torch.float16):
        low = output.to(dtype)
        expected = loss(low.float(), target, valid)
        with torch.autocast("cpu", dtype=dtype):
            value, found = gradient(loss, low, target, valid)
            with AutocastSeen() as seen:
                loss(low, target, valid)
            assert seen.states == {False}
        assert value.dtype == torch.float32
        assert found.dtype == dtype
        assert torch.equal(value, expected)
        assert found.isfinite().all()
        # The largest number of float16 in every voxel.
        value, found = gradient(loss, torch.full_like(low, 6e4), target, valid)
        assert value.isfinite()
        assert found.isfinite().all()
    for far in (1e4, 1e15, -1e15):
        value, found = gradient(loss, torch.full_like(output, far), target, valid)
        assert value.isfinite()
        assert found.isfinite().all()


def _empty(loss: nn.Module, shape: tuple[int, ...]) -> None:
    output, target, valid = batch(shape)
    value, found = gradient(loss, output, torch.zeros_like(target), valid)
    assert value > 0
    assert found.isfinite().all()
    assert found.abs().sum() > 0


def _fake(loss: nn.Module, shape: tuple[int, ...]) -> None:
    # Tensors without data: whatever a host would read of them is an error here.
    with FakeTensorMode() as mode:
        output, target, valid = (mode.from_tensor(t) for t in batch(shape))
        loss(output.requires_grad_(), target, valid).backward()


def _no_host_sync(loss: nn.Module, shape: tuple[int, ...]) -> None:
    output, target, valid = batch(shape)
    with DispatchCounter(output.numel()) as counter:
        loss(output.requires_grad_(), target, valid).backward()
    assert counter.summary()["operations"] > 5
    assert not counter.syncs, f"the host waits for the device: {dict(counter.syncs)}"
    _fake(loss, shape)


def _differentiable(loss: nn.Module) -> None:
    # Away from kinks, where a finite difference means nothing: d = 0 and d = θ.
    generator = torch.Generator().manual_seed(1)
    target = torch.rand((2, 2, 3, 4), dtype=torch.float64, generator=generator)
    output = torch.randn((2, 2, 3, 4), dtype=torch.float64, generator=generator)
    valid = torch.ones((2, 1, 3, 4), dtype=torch.float64)
    valid[:, :, 0] = 0
    torch.autograd.gradcheck(lambda o: loss(o, target, valid), (output.requires_grad_(),), raise_exception=True)
