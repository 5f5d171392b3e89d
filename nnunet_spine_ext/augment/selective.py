"""Transforms that act on intensities can be restricted to labels, blended with the original, or keep its statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.ranges import Range, spread
from nnunet_spine_ext.augment.transform import Params, Transform
from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import UsageError

Where = Literal["everywhere", "in_labels", "out_labels", "random_labels"]


@dataclass(frozen=True, kw_only=True)
class Placed(Transform):
    """Base of what can be restricted to labels; alone that of the stages `field` and `noise`.

    `where`: everywhere, inside all labels, outside them (label 0), inside a random half of the labels, a list of
    label ids, or shares such as ``{in_labels: 0.25, out_labels: 0.25}`` (the rest is everywhere).
    """

    where: Where | tuple[int, ...] | dict[str, float] = "everywhere"

    def __post_init__(self) -> None:
        """Check the shares of `where`."""
        super().__post_init__()
        if isinstance(self.where, dict):
            for name in self.where.keys() - set(get_args(Where)):
                raise _refuse(f"{self.name}: where", repr(name), "a known place", nearest(str(name), get_args(Where)))
            if min(self.where.values(), default=0.0) < 0 or sum(self.where.values()) > 1 + 1e-9:
                raise _refuse(f"{self.name}: where", repr(self.where), "shares from 0 to 1 that sum to at most 1")
        elif not self.where:
            raise _refuse(f"{self.name}: where", "no label", "labels, or one of " + ", ".join(get_args(Where)))

    def place(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw `labels`, the ids acted on; nothing where it is everywhere, as records have it that know no `where`."""
        labels = self._labels(rng, context)
        return {} if labels is None else {"labels": labels}

    def to_dict(self) -> dict[str, Any]:
        """Return name and settings; `where` is left out while it says nothing, so that hashes stay what they were."""
        result = super().to_dict()
        if self.where == "everywhere" and not isinstance(self, Selective):
            del result["where"]
        return result

    def _labels(self, rng: np.random.Generator, context: Context) -> list[int] | None:
        where = self._mode(rng)
        if not isinstance(where, str):
            return sorted(where)
        match where:
            case "everywhere":
                return None
            case "in_labels":
                return list(context.foreground)
            case "out_labels":
                return [0]
            case "random_labels":
                chosen = rng.random(len(context.labels)) < 0.5
                return [label for label, taken in zip(context.labels, chosen, strict=True) if taken]
        msg = f"unknown place {where!r}"
        raise ValueError(msg)

    def _mode(self, rng: np.random.Generator) -> str | tuple[int, ...]:
        if not isinstance(self.where, dict):
            return self.where
        value, total = rng.random(), 0.0
        for name, share in self.where.items():
            total += share
            if value < total:
                return name
        return "everywhere"


@dataclass(frozen=True, kw_only=True)
class Selective(Placed):
    """Base of the stages `table` and `local`.

    `mix`: 1 replaces the original, 0.5 is the mean of both. `retain_stats`: mean and standard deviation of the voxels
    acted on stay what they were.
    """

    mix: Range = spread(1.0, limits=(0.0, 1.0))
    retain_stats: bool = False

    def select(self, rng: np.random.Generator, context: Context) -> Params:
        """Draw `labels` (ids acted on, None: everywhere), `mix` and `retain_stats`."""
        return {
            "labels": self._labels(rng, context),
            "mix": self.draw(rng, "mix", context),
            "retain_stats": self.retain_stats,
        }


def _refuse(where: str, found: str, expected: str, fix: str = "correct the value") -> UsageError:
    return UsageError("E-CONFIG-VALUE", file=where, found=found, expected=expected, fix=fix)
