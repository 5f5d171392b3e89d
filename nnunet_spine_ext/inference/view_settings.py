"""Settings of test-time augmentation beyond mirroring, under ``plans["spine_ext"]["predict"]["views"]``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from nnunet_spine_ext.core.config import check_ranges
from nnunet_spine_ext.core.errors import UsageError

Kind = Literal["mirror", "intensity", "resolution"]
Aggregate = Literal["mean", "entropy", "geometric"]
WHERE = "predict settings: views"


@dataclass(frozen=True)
class ViewSettings:
    """What `--tta full` looks at, how it averages, and when it has seen enough.

    Parameters
    ----------
    kinds: which of the three kinds of views take part.
    gamma: exponents of intensity views; below 1 dark tissue becomes brighter.
    bias: peak-to-peak strengths of shading views (0.3: the brightest place is 1.35 times as bright as the darkest).
    matching: strengths of intensity matching of further views, from 0 (the image as it is) to below 1 (as matched: the
        image that the other views change); without `--match` there are none.
    in_plane: factors of the number of voxels within the plane of the slices.
    through_plane: the same across the slices.
    crossed: every combination of a mirrored, an intensity and a resolution view, which is hundreds, instead of each
        view once.
    limit: no more views than this; None: all of them.
    aggregate: ``mean`` of probabilities; ``entropy``: weighted by exp(-entropy / temperature) at every voxel;
        ``geometric`` mean (models with a softmax or a sigmoid).
    temperature: of the weights, in shares of the largest possible entropy.
    stop: end early, as soon as `stop_after` views in a row have left the Dice of every structure of the running mean
        with that before above `stop_dice`, or have moved its mask by at most `stop_share` of what the first views did
        (see `stopping.EarlyStop`).

    Raises
    ------
    UsageError: a number out of its range.
    """

    kinds: tuple[Kind, ...] = ("mirror", "intensity", "resolution")
    gamma: tuple[float, ...] = (0.85, 1.2, 0.7, 1.4)
    bias: tuple[float, ...] = (0.3,)
    matching: tuple[float, ...] = (0.0, 0.5)
    in_plane: tuple[float, ...] = (0.85, 1.15)
    through_plane: tuple[float, ...] = (0.8,)
    crossed: bool = False
    limit: int | None = None
    aggregate: Aggregate = "mean"
    temperature: float = 0.25
    stop: bool = True
    stop_dice: float = 0.99
    stop_after: int = 2
    stop_share: float = 0.5

    def __post_init__(self) -> None:
        check_ranges(
            self,
            {"temperature": (0.01, 100), "stop_dice": (0, 1), "stop_after": (1, 1000), "stop_share": (0, 1)},
            where=WHERE,
        )
        for name, low, high in (
            ("gamma", 0.2, 5.0),
            ("bias", 0.0, 1.9),
            ("matching", 0.0, 0.99),
            ("in_plane", 0.5, 2.0),
            ("through_plane", 0.5, 2.0),
            ("limit", 1, math.inf),
        ):
            given = getattr(self, name)
            values = given if isinstance(given, tuple) else () if given is None else (given,)
            wrong = [value for value in values if not low <= value <= high]
            if wrong:
                expected = f"{low:g} to {high:g}" if math.isfinite(high) else f"{low:g} or more, or null"
                raise UsageError(
                    "E-CONFIG-RANGE", file=WHERE, found=f"{name}={wrong[0]}", expected=expected, fix="correct the value"
                )
        if not self.kinds:
            raise UsageError(
                "E-CONFIG-RANGE",
                file=WHERE,
                found="no kind of view",
                expected="some of mirror, intensity, resolution",
                fix="use --tta none for no other view than the image",
            )
