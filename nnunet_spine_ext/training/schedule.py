"""Learning rates over a training, set once per epoch as nnU-Net's own schedule is."""

from __future__ import annotations

import math
from typing import Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler


class CosineSchedule(PolyLRScheduler):
    """Half a cosine from `initial_lr` to zero: initial_lr · (1 + cos(π · step / max_steps)) / 2.

    nnU-Net calls a schedule with the number of the epoch; PyTorch's own cosine counts its calls, so that a training
    that is resumed would start at the top again.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, initial_lr: float, max_steps: int, **kwargs: Any) -> None:
        super().__init__(optimizer, initial_lr, max_steps, **kwargs)

    def step(self, current_step: int | None = None) -> None:
        """Set the rate of a step; without one, of the next."""
        if current_step is None or current_step == -1:
            current_step = self.ctr
            self.ctr += 1
        rate = 0.5 * self.initial_lr * (1 + math.cos(math.pi * current_step / self.max_steps))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]
