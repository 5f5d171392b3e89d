"""Clipping at the median norm: against a plain reference, over a resumed training, and without reading the device."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nnunet_spine_ext.training.clipping import GradientClip

STEPS = 90


def parameters() -> list[torch.nn.Parameter]:
    return [
        torch.nn.Parameter(torch.zeros(3, 4)),
        torch.nn.Parameter(torch.zeros(5)),
        torch.nn.Parameter(torch.zeros(2)),
    ]


def gradients(steps: int = STEPS) -> Iterator[list[torch.Tensor]]:
    rng = np.random.default_rng(4)
    for step in range(steps):
        size = 8.0 if step % 7 == 3 else rng.uniform(0.5, 1.0)
        yield [torch.tensor(rng.normal(size=shape) * size, dtype=torch.float32) for shape in ((3, 4), (5,))]


def run(optimizer: torch.optim.Optimizer, steps: Sequence[list[torch.Tensor]]) -> list[float]:
    """Take steps; return the norm of what each step took."""
    norms = []
    for given in steps:
        for parameter, gradient in zip(optimizer.param_groups[0]["params"], given, strict=False):
            parameter.grad = gradient.clone()
        optimizer.step()
        taken = [p.grad for p in optimizer.param_groups[0]["params"] if p.grad is not None]
        norms.append(float(torch.cat([g.flatten() for g in taken]).norm()))
    return norms


def clipped(factor: float = 1.0) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(parameters(), lr=0.01)
    optimizer.register_step_pre_hook(GradientClip(factor))
    return optimizer


@pytest.mark.parametrize("factor", [1.0, 0.5, 3.0])
def test_norms_are_those_of_a_plain_loop(factor: float) -> None:
    given = list(gradients())
    norms = [float(np.linalg.norm(np.concatenate([g.numpy().ravel() for g in step]))) for step in given]
    wanted = []
    for step, norm in enumerate(norms):
        before = sorted(norms[max(0, step - 60) : step])
        # Of an even number of values torch takes the lower of the two in the middle.
        limit = factor * before[(len(before) - 1) // 2] if len(before) >= 5 else np.inf
        wanted.append(min(norm, limit))
    assert run(clipped(factor), given) == pytest.approx(wanted, rel=1e-5)
    assert max(wanted[10:]) < 8 * factor


def test_a_training_that_is_resumed_goes_on_as_it_would_have() -> None:
    given = list(gradients())
    whole = clipped()
    run(whole, given)
    first = clipped()
    run(first, given[:40])
    weights = [p.detach().clone() for p in first.param_groups[0]["params"]]
    again = clipped()
    again.load_state_dict(copy.deepcopy(first.state_dict()))
    for parameter, value in zip(again.param_groups[0]["params"], weights, strict=True):
        parameter.data.copy_(value)
    run(again, given[40:])
    for one, other in zip(whole.param_groups[0]["params"], again.param_groups[0]["params"], strict=True):
        assert one.equal(other)


def test_a_gradient_that_is_not_finite_stays_so_and_leaves_no_trace() -> None:
    given = list(gradients(20))
    given[10][0][0, 0] = torch.nan
    optimizer = torch.optim.SGD(parameters(), lr=0.0)
    optimizer.register_step_pre_hook(GradientClip(1.0))
    norms = run(optimizer, given)
    assert np.isnan(norms[10])
    assert np.isfinite(norms[11:]).all()
    assert int(torch.isfinite(optimizer.param_groups[0]["gradient_norms"]).sum()) == 19


def test_steps_without_any_gradient_do_not_count() -> None:
    given = [[g * (step % 5 == 0) for g in gradient] for step, gradient in enumerate(gradients(300))]
    norms = run(clipped(), given)
    assert min(norms[::5]) > 0.5, "what is there now and then is not clipped away"
    assert sum(norm > 0 for norm in norms) == 60


def test_the_first_group_alone_counts() -> None:
    first, second = torch.nn.Parameter(torch.zeros(4)), torch.nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([{"params": [first]}, {"params": [second]}], lr=0.0)
    optimizer.register_step_pre_hook(GradientClip(1.0))
    for step in range(12):
        first.grad, second.grad = torch.ones(4), torch.full((4,), 50.0 * step)
        optimizer.step()
        assert first.grad.tolist() == [1.0] * 4
        assert second.grad.tolist() == [50.0 * step] * 4


def test_a_scaled_step_that_is_skipped_leaves_no_trace() -> None:
    given = list(gradients(12))
    optimizer, scaler = clipped(), torch.amp.GradScaler("cpu", init_scale=4.0)
    for step, gradient in enumerate(given):
        for parameter, value in zip(optimizer.param_groups[0]["params"], gradient, strict=False):
            parameter.grad = value * (torch.inf if step == 7 else scaler.get_scale())
        scaler.scale(torch.zeros(()))
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    plain = clipped()
    run(plain, given[:7] + given[8:])
    for one, other in zip(optimizer.param_groups[0]["params"], plain.param_groups[0]["params"], strict=True):
        assert torch.allclose(one, other, rtol=1e-5)


def test_a_step_without_gradients_is_none() -> None:
    optimizer = clipped()
    optimizer.step()
    assert "gradient_norms" not in optimizer.param_groups[0]


class NoReads(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "read from the device"
        return func(*args, **(kwargs or {}))


def test_nothing_is_read_from_the_device() -> None:
    weights = parameters()
    optimizer = torch.optim.SGD(weights, lr=0.1)
    for parameter in weights:
        parameter.grad = torch.ones_like(parameter)
    clip = GradientClip(1.0)
    with NoReads():
        for _ in range(8):
            clip(optimizer, (), {})
    with pytest.raises(AssertionError, match="read from"), NoReads():
        float(weights[0].detach().sum())
