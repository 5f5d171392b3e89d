"""Labels become brighter or darker, flatter or more contrasted, each for itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.noise_pool import draw_offset
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Selective
from nnunet_spine_ext.augment.tissues import per_label
from nnunet_spine_ext.augment.transform import Params


@dataclass(frozen=True, kw_only=True)
class Redistribute(Selective, stage="table"):
    """Shift the mean of every chosen label and scale its texture; label 0 stays unless `where` names it.

    `shift`: in units of the signal. `gain`: of the texture. `noise`: sd of white noise that is added.
    """

    p: float = 0.2
    shift: Range = spread([-0.25, 0.25], limits=(-2.0, 2.0), neutral=0.0)
    gain: Range = spread({"log": [0.6, 1.6]}, limits=(0.01, 10.0), neutral=1.0)
    noise: Range = spread(0.0, limits=(0.0, 1.0), neutral=0.0)

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw shift, gain and noise of every label."""
        names = ("shift", "gain", "noise")
        labels = {str(n): [self.draw(rng, name, context) for name in names] for n in context.labels}
        params = self.select(rng, context)
        if params["labels"] is None:
            params["labels"] = list(context.foreground)
        return {**params, "of_labels": labels, "noise_offset": draw_offset(rng)}

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the shifts and gains."""
        table = {int(label): row for label, row in params["of_labels"].items()}
        shift, gain, noise = (
            per_label(context, {label: row[i] for label, row in table.items()}, neutral)
            for i, neutral in enumerate((0.0, 1.0, 0.0))
        )
        builder.labelwise(index, params, carry=np.ones_like(shift), offset=shift, gain=gain, noise=noise)
