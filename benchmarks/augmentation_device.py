"""What ours asks of a graphics card, counted without one: the plan is applied to tensors that only pretend to be there.

The stages do other things on a card than on a processor, where they work in pieces that fit its cache. PyTorch's fake
tensors have shape, type and device, but no content; reading one back is an error, so this also shows that nothing is.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from unittest import mock

import augmentation_measure as measure
import torch
from augmentation_arms import Ours
from dispatch_counter import DispatchCounter
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

# One for the whole process: what was once sent to the device stays in caches of ours.
_FAKE = FakeTensorMode(allow_non_fake_inputs=True)


def counted(runner: Ours, patch: measure.Patch, seed: int, only: str | None = None) -> DispatchCounter:
    """Return the counter of one batch on a device that need not exist; its `table` says what is asked for."""
    runner.load(patch)
    runner.begin(seed, only)
    runner.step("plan")
    with warnings.catch_warnings(), mock.patch("nnunet_spine_ext.augment.packing._copy", _sent), _FAKE:
        warnings.simplefilter("ignore")
        # The first time also fills caches.
        for _ in range(2):
            image = torch.empty(patch.image.shape, device="cuda")
            labels = torch.empty(patch.labels.shape, dtype=patch.labels.dtype, device="cuda")
            with DispatchCounter(patch.volume, 4) as counter:
                runner.apply(image, labels)
    return counter


def device_counts(
    runner: Ours, patch: measure.Patch, seeds: Sequence[int], only: str | None = None
) -> dict[str, float]:
    """Return the mean counts per batch."""
    rows = [counted(runner, patch, seed, only).summary() for seed in seeds]
    return {key: round(sum(row[key] for row in rows) / len(rows), 1) for key in rows[0]}


def _sent(values: object, device: torch.device) -> Tensor:
    """Copy to the device without page-locked memory, which needs a real one."""
    return torch.as_tensor(values).to(device)
