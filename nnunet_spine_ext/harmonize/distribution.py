"""How far a scan's intensities are from those of the training images, and whether that is far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.harmonize.curves import HIGH, LOW, ChannelFacts, channel_facts
from nnunet_spine_ext.harmonize.reference import ChannelReference, at


@dataclass(frozen=True)
class DistributionScore:
    """Distances of a scan from a reference, each the mean difference of 33 quantiles.

    Parameters
    ----------
    body: in units of the 10th to 90th percentile range of each body: neither moving nor scaling all intensities
        changes it, no more than they change what nnU-Net's z-score makes of the image.
    structures: the same per structure, for those that masks were given for.
    bar: `body` up to it is in distribution; None where the reference has none, and then nothing is in distribution.
    """

    body: float
    structures: Mapping[str, float] = field(default_factory=dict)
    bar: float | None = None

    @property
    def in_distribution(self) -> bool:
        """Whether the body is so near to the reference that it may be a scan of the training scanner."""
        return self.bar is not None and self.body <= self.bar

    def to_dict(self) -> dict[str, Any]:
        """Return the score as plain JSON."""
        return {
            "body": round(self.body, 4),
            "structures": {name: round(value, 4) for name, value in self.structures.items()},
            "bar": self.bar,
            "in_distribution": self.in_distribution,
        }


def ood_score(
    image: Volume, reference: ChannelReference, *, masks: Mapping[str, Array] | None = None
) -> DistributionScore:
    """Return how far an image is from a reference.

    Parameters
    ----------
    masks: per structure, weights 0 to 1 on the grid of the image, shape (i, j, k).
    """
    return score_of(channel_facts(image, masks), reference)


def score_of(facts: ChannelFacts, reference: ChannelReference) -> DistributionScore:
    """Return how far a scan with these facts is from a reference."""
    low = float(at(facts.body, LOW))
    width = max(float(at(facts.body, HIGH)) - low, 1e-9)

    def away(curve: Array, mean: Array) -> float:
        return float(np.abs((curve - low) / width - mean).mean())

    structures = {
        name: away(curve, reference.structures[name].mean)
        for name, curve in facts.structures.items()
        if name in reference.structures
    }
    return DistributionScore(away(facts.body, reference.mean), structures, reference.bar)
