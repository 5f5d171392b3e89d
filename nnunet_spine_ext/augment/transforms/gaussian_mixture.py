"""Every label a random grey value and noise: contrast synthesis in the manner of SynthSeg."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.noise_pool import draw_offset
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Selective
from nnunet_spine_ext.augment.table_build import MOST_WITHIN
from nnunet_spine_ext.augment.transform import Params

_SHARPNESS = 2.0
_QUANTITIES = ("mean", "sd", "texture")


@dataclass(frozen=True, kw_only=True)
class GaussianMixture(Selective, stage="table"):
    """Labels get a new mean and spread; what is not labelled is divided into intensity classes that do too.

    `mean`, `sd`: of labels and classes, in units of the signal. `texture`: part of the image's own texture that stays.
    `within`: number of classes, found by their intensity, that each label is divided into. `background`: number of
    classes of unlabelled voxels, found in the histogram by `clustering`: a Gaussian mixture ("em") or k-means. `air`:
    probability that the darkest of them stays dark.
    """

    p: float = 0.1
    graded = False
    mean: Range = spread([0.05, 1.0], limits=(0.0, 2.0))
    sd: Range = spread([0.0, 0.08], limits=(0.0, 1.0))
    texture: Range = spread([0.0, 0.8], limits=(0.0, 2.0))
    within: Range = spread(1.0, limits=(1, MOST_WITHIN))
    background: Range = spread([3, 8], limits=(2, 12))
    air: float = 0.8
    clustering: Literal["em", "kmeans"] = "em"

    def __post_init__(self) -> None:
        """Check the probability."""
        super().__post_init__()
        self.check_share("air")

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw means, spreads and textures of labels, or of their classes, and of background classes."""
        number, within = (round(self.draw(rng, name, context)) for name in ("background", "within"))
        labels = {
            str(n): [[self.draw(rng, name, context) for name in _QUANTITIES] for _ in range(within)]
            for n in context.foreground
        }
        classes = [[self.draw(rng, name, context) for name in _QUANTITIES] for _ in range(number)]
        if rng.random() < self.air:
            classes[0] = [0.0, 0.0, 1.0]
        params = {**self.select(rng, context), "clustering": self.clustering}
        return {**params, "of_labels": labels, "of_classes": classes, "noise_offset": draw_offset(rng)}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the classes of label 0 and the new means of the others."""
        chosen = list(context.labels) if params["labels"] is None else params["labels"]
        means, noises, textures = (list(column) for column in zip(*params["of_classes"], strict=True))
        background = {**params, "labels": [label for label in chosen if label == 0]}
        builder.classes(
            index,
            background,
            means=means,
            texture=textures,
            noise=noises,
            sharpness=_SHARPNESS,
            mixture=params["clustering"] == "em",
        )
        drawn = params["of_labels"]
        within = len(next(iter(drawn.values()), []))
        if within == 0:
            return
        # (labels, classes, quantities); background and labels that were not drawn are not among those chosen.
        rows = np.array([drawn.get(str(n), np.zeros((within, len(_QUANTITIES)))) for n in context.labels])
        labels = {**params, "labels": [label for label in chosen if str(label) in drawn]}
        mean, noise, gain = np.moveaxis(rows, 2, 0)
        if within == 1:
            mean, noise, gain = (values[:, 0] for values in (mean, noise, gain))
            builder.labelwise(index, labels, carry=np.zeros_like(mean), offset=mean, gain=gain, noise=noise)
        else:
            builder.classes_within(index, labels, mean, texture=gain, noise=noise, sharpness=_SHARPNESS)
