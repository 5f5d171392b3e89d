"""Every label a random grey value and noise: contrast synthesis in the manner of SynthSeg."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.noise_pool import draw_offset
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Selective
from nnunet_spine_ext.augment.tissues import per_label
from nnunet_spine_ext.augment.transform import Params

_SHARPNESS = 2.0


@dataclass(frozen=True, kw_only=True)
class GaussianMixture(Selective, stage="table"):
    """Labels get a new mean and spread; what is not labelled is divided into intensity classes that do too.

    `mean`, `sd`: of labels and classes, in units of the signal. `texture`: part of the image's own texture that stays.
    `background`: number of classes of unlabelled voxels, found in the histogram by `clustering`: a Gaussian mixture
    ("em") or k-means. `air`: probability that the darkest of them stays dark.
    """

    p: float = 0.1
    graded = False
    mean: Range = spread([0.05, 1.0], limits=(0.0, 2.0))
    sd: Range = spread([0.0, 0.08], limits=(0.0, 1.0))
    texture: Range = spread([0.0, 0.8], limits=(0.0, 2.0))
    background: Range = spread([3, 8], limits=(2, 12))
    air: float = 0.8
    clustering: Literal["em", "kmeans"] = "em"

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw means, spreads and textures of labels and background classes."""
        number = round(self.draw(rng, "background", context))
        names = ("mean", "sd", "texture")
        labels = {str(n): [self.draw(rng, name, context) for name in names] for n in context.foreground}
        classes = [[self.draw(rng, name, context) for name in names] for _ in range(number)]
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
        mean, noise, gain = (
            per_label(context, {int(k): row[i] for k, row in params["of_labels"].items()}, 0.0) for i in range(3)
        )
        labels = {**params, "labels": [label for label in chosen if label != 0]}
        builder.labelwise(index, labels, carry=np.zeros_like(mean), offset=mean, gain=gain, noise=noise)
