"""A training in several processes, each with its share of every batch: gradients are averaged before every step.

Not torch's DistributedDataParallel: a step runs each generator three times and freezes the discriminators halfway,
which its hooks are not made for. All losses are means over slices, so equal shares give the gradient of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True)
class Processes:
    """Which process this is, of how many; by default the only one."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and tells how far it is."""
        return self.rank == 0

    def share(self, batch: int) -> slice:
        """Return which part of a batch is this process's; `batch` is a multiple of the count."""
        size = batch // self.count
        return slice(self.rank * size, (self.rank + 1) * size)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their mean over all processes."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        whole = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(whole)
        whole /= self.count
        parts = whole.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def average(self, values: Tensor) -> Tensor:
        """Return the mean of a tensor over all processes."""
        if self.count > 1:
            distributed.all_reduce(values)
            values = values / self.count
        return values

    def on_first(self, action: Callable[[], None]) -> None:
        """Run an action in the first process; the others wait for it."""
        if self.first:
            action()
        if self.count > 1:
            distributed.barrier()
