"""How long and how fast a fine-tuning learns, by the number of its subjects."""

from __future__ import annotations

import math
from dataclasses import replace

from nnunet_spine_ext.training.settings import TrainSettings

EPOCHS_SHARE = 0.1
"""Epochs for one subject, as a share of the source's; they grow with the square root of the subjects."""
LARGEST_EPOCHS_SHARE = 1.0
FEWEST_EPOCHS = 5
RATE_SHARE = 0.1
"""Learning rate for one subject, as a share of the source's; it grows with the fourth root of the subjects."""
LARGEST_RATE_SHARE = 0.3


def schedule(train: TrainSettings, n: int) -> TrainSettings:
    """Return the schedule of the source, shortened and slowed down for `n` subjects.

    Epochs: the source's times min(1, 0.1 √n), at least 5 unless the source had fewer. Learning rate: the source's times
    min(0.3, 0.1 n^¼). Few samples are learned by heart soon, and large steps forget the source. Gradients are not
    clipped as the source's were: `clip` is the new trainer's.
    """
    share = min(LARGEST_EPOCHS_SHARE, EPOCHS_SHARE * math.sqrt(n))
    epochs = max(min(FEWEST_EPOCHS, train.num_epochs), round(train.num_epochs * share))
    rate = train.initial_lr * min(LARGEST_RATE_SHARE, RATE_SHARE * n**0.25)
    # Three digits: the value is read by people.
    rate, save_every = float(f"{rate:.3g}"), min(train.save_every, epochs)
    return replace(train, num_epochs=epochs, initial_lr=rate, save_every=save_every, clip=None)
