"""Other times or another field strength of the same T2-weighted sequence: tissues keep their texture, ratios change."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.selective import Selective
from nnunet_spine_ext.augment.table_axis import on_unit
from nnunet_spine_ext.augment.tissues import TISSUES, check_classes, class_of_label, per_label
from nnunet_spine_ext.augment.transform import Params
from nnunet_spine_ext.core.errors import UsageError

# Nothing that the equations say of nearly signal-free tissue is worth amplifying noise beyond this.
_LARGEST = 4.0
# No voxel of a spine image is free of its neighbours' signal. Of tissue without any of its own (endplates: 1e-6) it is
# all there is to see, and it changes as they do.
_NEIGHBOUR, _NEIGHBOURING = "marrow", 0.05
# In order of their T2-weighted signal: what unlabelled voxels are taken for, by intensity.
_BACKGROUND = ("muscle", "organ", "fat")


@dataclass(frozen=True, kw_only=True)
class ProtocolChange(Selective, stage="table"):
    """Multiply every tissue by the ratio of its turbo spin echo signals after and before.

    `reference`: field strength in tesla, TR and TE in ms of the image. `field_strength`, `tr`, `te`: the new ones.
    `classes`: tissue of each label id, as for the signal equations. Fluid keeps its own intensities, for it is the
    brightest; unlabelled voxels change like muscle, organ and fat, by their intensity.
    """

    p: float = 0.1
    graded = False
    reference: tuple[float, float, float] = (3.0, 3140.0, 101.0)
    field_strength: Range = spread({"choice": [1.5, 3.0]}, limits=(0.2, 7.0))
    tr: Range = spread([2200, 6000], limits=(100.0, 20000.0))
    te: Range = spread([65, 140], limits=(1.0, 400.0))
    classes: dict[str, str] | None = None

    def __post_init__(self) -> None:
        """Refuse unknown tissues and times that are not positive."""
        super().__post_init__()
        if min(self.reference) <= 0:
            raise _refuse(f"{self.name}: reference", str(self.reference), "positive numbers")
        check_classes(self.name, self.classes)

    def sample(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw field and times, and evaluate the ratios of all tissues that occur."""
        new = tuple(self.draw(rng, field, context) for field in ("field_strength", "tr", "te"))
        unit = _ratio("csf", self.reference, new)
        classes = class_of_label(context, {int(k): v for k, v in (self.classes or {}).items()})
        return {
            **self.select(rng, context),
            "protocol": list(new),
            "ratios": {str(label): _ratio(tissue, self.reference, new) / unit for label, tissue in classes.items()},
            "background": [[_signal(t, self.reference), _ratio(t, self.reference, new) / unit] for t in _BACKGROUND],
        }

    def contribute(self, builder: Any, index: int, params: Params, context: Context) -> None:
        """Add the factors of the labels and the curve of the background."""
        ratios = {int(label): ratio for label, ratio in params["ratios"].items()}
        chosen = list(context.labels) if params["labels"] is None else params["labels"]
        labelled = [label for label in chosen if label in ratios]
        if labelled:
            builder.affine(index, {**params, "labels": labelled}, per_label(context, ratios, 1.0), 0.0)
        if 0 in chosen:
            levels, factors = np.array(params["background"]).T
            curve = on_unit(lambda u: u * np.interp(u, levels, factors), below=1.0)
            builder.curve(index, {**params, "labels": [0]}, curve)


def _ratio(name: str, before: tuple[float, ...], after: tuple[float, ...]) -> float:
    seen = [
        _signal(name, times) + (0.0 if name == "csf" else _NEIGHBOURING * _signal(_NEIGHBOUR, times))
        for times in (after, before)
    ]
    ratio = seen[0] / max(seen[1], 1e-9)
    return min(max(ratio, 1 / _LARGEST), _LARGEST)


def _signal(name: str, protocol: tuple[float, ...]) -> float:
    """Return the signal of a tissue, PD (1 - exp(-TR/T1)) exp(-TE/T2) of its water and its fat."""
    tissue = TISSUES[name]
    water, fat = (_compartment(t.t1, t.t2, protocol) for t in (tissue, TISSUES["fat"]))
    return tissue.density * ((1 - tissue.fat) * water + tissue.fat * fat)


def _compartment(t1: tuple[float, float], t2: tuple[float, float], protocol: tuple[float, ...]) -> float:
    field, tr, te = protocol
    one, two = (low * (high / low) ** math.log2(field / 1.5) for low, high in (t1, t2))
    return (1 - math.exp(-tr / one)) * math.exp(-te / two)


def _refuse(where: str, found: str, expected: str) -> UsageError:
    return UsageError("E-CONFIG-VALUE", file=where, found=found, expected=expected, fix="correct the value")
