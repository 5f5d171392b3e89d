"""Random numbers that begin anew with every epoch, so that a training that is resumed goes on as it would have."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_epoch(seed: int, epoch: int, process: int = 0) -> None:
    """Seed everything random for an epoch of one process of a training."""
    number = int(np.random.SeedSequence([seed, epoch, process]).generate_state(1)[0])
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002  batchgenerators draws from numpy's global state
    torch.manual_seed(number)
