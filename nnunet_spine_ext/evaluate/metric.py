"""What a metric is: the columns of the registry."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Scope = Literal["class", "group", "level", "region", "cord"]
Direction = Literal["higher", "lower", "zero"]

NAN = math.nan
INF = math.inf
_ROOM = "nnunet_spine_ext.evaluate."


@dataclass(frozen=True)
class Edges:
    """Declared values for empty masks (groups: no instances). None: the function computes it like any other value.

    NaN (nothing to compare) and infinite values stay out of means and are counted.
    """

    ref_empty: float | None
    pred_empty: float | None
    both_empty: float | None


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric.

    Parameters
    ----------
    name: identifier in options and tables.
    long_name: name for people.
    scope: ``class`` (one semantic label), ``group`` (all instances of one kind) or ``level`` (one instance).
    direction: which values are better: ``higher``, ``lower``, or the closer to ``zero``.
    unit: unit of the value, empty for a plain number.
    needs_spacing: whether the voxel size enters.
    function: ``module:function`` inside this room. It gets a `MaskPair` (class, level), a `Group` (group) or, where
        `needs_centres` is set on a level, a `Location`.
    edges: values when the reference, the prediction or both are empty.
    bounds: lowest and highest value where neither side is empty.
    definition: one sentence.
    equals: the implementation that the tests compare with.
    default: whether it is computed without being asked for.
    one_to_one: defined only where every predicted instance stands for one reference instance at most.
    needs_centres: about where instances of the same number are, so the numbers must mean something.
    """

    name: str
    long_name: str
    scope: Scope
    direction: Direction
    unit: str = ""
    needs_spacing: bool = False
    function: str
    edges: Edges
    bounds: tuple[float, float]
    definition: str
    equals: str
    default: bool = True
    one_to_one: bool = False
    needs_centres: bool = False

    @property
    def needs_instances(self) -> bool:
        """Whether instance masks of both sides are necessary."""
        return self.scope not in ("class", "cord")

    def edge_case(self, *, ref_empty: bool, pred_empty: bool) -> float | None:
        """Return the declared value for empty masks; None when the function has to compute it."""
        if ref_empty and pred_empty:
            return self.edges.both_empty
        if ref_empty:
            return self.edges.ref_empty
        return self.edges.pred_empty if pred_empty else None

    def resolve(self) -> Callable[[Any], float]:
        """Import and return the function."""
        module, name = self.function.split(":")
        function: Callable[[Any], float] = getattr(importlib.import_module(_ROOM + module), name)
        return function
