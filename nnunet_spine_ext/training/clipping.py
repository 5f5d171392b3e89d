"""Gradients of unusual samples, kept as long as those of the others.

A sample of another contrast has a gradient several times as long as one of the training data's own. Adam's estimate of
how long gradients are follows the long ones, so that the steps on all others get shorter, and momentum carries them on.
nnU-Net's limit of 12 is hardly ever reached: half of the norms are below 0.6, one in a hundred is above 2 to 6.
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

    Of an optimizer's groups of parameters the first counts, that of the network. The norms are kept in it, so
    checkpoints hold them and a training that is resumed goes on as it would have. The first five steps are not changed,
    and steps without any gradient (all of a batch is ignored) do not count. Nothing is read back from the device, and
    where gradients are averaged over processes all of them do the same.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Scale the gradients in place."""
        group = optimizer.param_groups[0]
        gradients = [parameter.grad for parameter in group["params"] if parameter.grad is not None]
        if not gradients:
            return
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))).float()
        seen: Tensor = group[_KEY].to(norm.device) if _KEY in group else norm.new_full((_LAST,), torch.nan)
        many = torch.isfinite(seen).sum()
        # What is not a number is sorted to the end; of an even number of norms it is the lower one in the middle.
        middle = ((many - 1).clamp(min=0) // 2).reshape(1)
        limit = torch.where(many >= _FEWEST, self.factor * seen.sort().values.gather(0, middle)[0], torch.inf)
        torch._foreach_mul_(gradients, torch.where(norm > limit, limit / norm, 1.0))
        counts = torch.isfinite(norm) & (norm > 0)
        group[_KEY] = torch.cat((seen[1:], torch.where(counts, norm, torch.nan).reshape(1)))
