"""Gradients of unusual samples, kept as long as those of the others.

A sample of another contrast has a gradient several times as long as one of the training data's own. Adam's estimate of
how long gradients are follows the long ones, so that the steps on all others get shorter, and momentum carries them on.
nnU-Net's limit of 12 is never reached: usual norms are below 1, those of such samples are 2 to 8.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

_LAST = 60
_FEWEST = 5
_KEY = "gradient_norms"


class GradientClip:
    """Shortens gradients to `factor` times the median norm of the last 60 steps; a hook before a step of an optimizer.

    The norms are kept in the optimizer's first group of parameters, so checkpoints hold them and a training that is
    resumed goes on as it would have. The first five steps are not changed. Nothing is read back from the device, and
    where gradients are averaged over processes all of them do the same.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Scale the gradients in place."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not gradients:
            return
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))).float()
        group = optimizer.param_groups[0]
        seen: Tensor = group.get(_KEY, torch.full((_LAST,), torch.nan)).to(norm.device)
        many = torch.isfinite(seen).sum() >= _FEWEST
        limit = torch.where(many, self.factor * torch.nanmedian(seen), torch.inf)
        # Not a number stays one: what becomes of such a step is the trainer's business.
        torch._foreach_mul_(gradients, torch.where(norm > limit, limit / norm, 1.0))
        group[_KEY] = torch.cat((seen[1:], torch.where(torch.isfinite(norm), norm, torch.nan).reshape(1)))
