"""The metrics, one row each: the command, the documentation and the tests are generated from this table.

Reading the table is cheap: the functions are named as ``module:function`` and imported when they are called.
"""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from nnunet_spine_ext.core.errors import UsageError

Scope = Literal["class", "group", "level"]
Direction = Literal["higher", "lower", "zero"]

NAN = math.nan
INF = math.inf
_PANOPTICA = "panoptica 2.1.7"
_SURFACE = "surface-distance 0.1 (DeepMind)"
_ROOM = "nnunet_spine_ext.evaluate."


@dataclass(frozen=True)
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
    function: ``module:function`` inside this room; it gets a `MaskPair` (class, level) or a `Matching` (group).
    ref_empty, pred_empty, both_empty: declared values when the reference, the prediction or both hold no voxel (group:
        no instance); None: the function computes them like any other value. NaN and infinite values stay out of
        means and are counted.
    lowest, highest: bounds of the value where neither side is empty.
    definition: one sentence.
    equals: the implementation that the tests compare with.
    default: whether it is computed without being asked for.
    """

    name: str
    long_name: str
    scope: Scope
    direction: Direction
    unit: str
    needs_spacing: bool
    function: str
    ref_empty: float | None
    pred_empty: float | None
    both_empty: float | None
    lowest: float
    highest: float
    definition: str
    equals: str
    default: bool = True

    @property
    def needs_instances(self) -> bool:
        """Whether instance masks of both sides are necessary."""
        return self.scope != "class"

    def edge_case(self, *, ref_empty: bool, pred_empty: bool) -> float | None:
        """Return the declared value for empty masks; None when the function has to compute it."""
        if ref_empty and pred_empty:
            return self.both_empty
        if ref_empty:
            return self.ref_empty
        return self.pred_empty if pred_empty else None

    def resolve(self) -> Callable[[Any], float]:
        """Import and return the function."""
        module, name = self.function.split(":")
        function: Callable[[Any], float] = getattr(importlib.import_module(_ROOM + module), name)
        return function


_ROWS = (
    Metric(
        "dice", "Dice coefficient", "class", "higher", "", False, "voxel:dice", 0.0, 0.0, NAN, 0.0, 1.0,
        "2 |R and P| / (|R| + |P|) over voxels", f"{_PANOPTICA}, DSC",
    ),
    Metric(
        "iou", "Intersection over union", "class", "higher", "", False, "voxel:iou", 0.0, 0.0, NAN, 0.0, 1.0,
        "|R and P| / |R or P| over voxels", f"{_PANOPTICA}, IOU",
    ),
    Metric(
        "volume_error", "Volume error", "class", "zero", "mL", True, "voxel:volume_error", None, None, NAN, -INF, INF,
        "volume of P minus volume of R; negative: too small", f"{_PANOPTICA}, RVD times the reference volume",
    ),
    Metric(
        "relative_volume_error", "Relative volume error", "class", "zero", "%", False, "voxel:relative_volume_error",
        INF, -100.0, NAN, -100.0, INF, "100 (|P| - |R|) / |R|", f"{_PANOPTICA}, RVD times 100",
    ),
    Metric(
        "assd", "Average symmetric surface distance", "class", "lower", "mm", True, "surface:assd", INF, INF, NAN,
        0.0, INF,
        "mean of the two directed mean distances between the surfaces, each surface element (marching cubes, "
        "vertices half way) weighted by its area", f"{_SURFACE}, mean of both average surface distances",
    ),
    Metric(
        "hd95", "95 % Hausdorff distance", "class", "lower", "mm", True, "surface:hd95", INF, INF, NAN, 0.0, INF,
        "larger one of the two directed 95th percentiles of the surface distance, weighted by area",
        f"{_SURFACE}, robust Hausdorff distance",
    ),
    Metric(
        "nsd", "Normalised surface Dice", "class", "higher", "", True, "surface:nsd", 0.0, 0.0, NAN, 0.0, 1.0,
        "share of both surfaces that lies within the tolerance of the other one, weighted by area",
        f"{_SURFACE}, surface Dice at tolerance",
    ),
    Metric(
        "assd_voxel", "ASSD between boundary voxels", "class", "lower", "mm", True, "surface:assd_voxel", INF, INF,
        NAN, 0.0, INF,
        "mean of the two directed mean distances between the centres of boundary voxels (6-neighbourhood), each "
        "voxel counted once: the ASSD of panoptica and MedPy, for comparison with tables made with them",
        f"{_PANOPTICA}, ASSD", default=False,
    ),
    Metric(
        "rq", "Recognition quality", "group", "higher", "", False, "panoptic:rq", 0.0, 0.0, NAN, 0.0, 1.0,
        "TP / (TP + FP/2 + FN/2); a true positive is a pair matched at the IoU threshold", f"{_PANOPTICA}, rq",
    ),
    Metric(
        "sq", "Segmentation quality", "group", "higher", "", False, "panoptic:sq", 0.0, 0.0, NAN, 0.0, 1.0,
        "mean IoU of the matched instances; 0 when none is matched", f"{_PANOPTICA}, sq",
    ),
    Metric(
        "pq", "Panoptic quality", "group", "higher", "", False, "panoptic:pq", 0.0, 0.0, NAN, 0.0, 1.0,
        "RQ times SQ", f"{_PANOPTICA}, pq",
    ),
    Metric(
        "instance_dice", "Instance Dice", "group", "higher", "", False, "panoptic:instance_dice", 0.0, 0.0, NAN,
        0.0, 1.0, "mean Dice of the matched instances; 0 when none is matched", f"{_PANOPTICA}, sq_dsc",
    ),
    Metric(
        "level_dice", "Dice of one level", "level", "higher", "", False, "voxel:dice", 0.0, 0.0, NAN, 0.0, 1.0,
        "Dice of a reference instance with the instance matched to it; 0 when there is none",
        f"{_PANOPTICA}, DSC",
    ),
    Metric(
        "level_assd", "ASSD of one level", "level", "lower", "mm", True, "surface:assd", INF, INF, NAN, 0.0, INF,
        "ASSD of a reference instance with the instance matched to it", f"{_SURFACE}",
    ),
)  # fmt: skip

METRICS: dict[str, Metric] = {row.name: row for row in _ROWS}
DEFAULT_METRICS: tuple[str, ...] = tuple(row.name for row in _ROWS if row.default)


def metric(name: str) -> Metric:
    """Return one row; an unknown name raises UsageError with the nearest known one."""
    if name in METRICS:
        return METRICS[name]
    near = difflib.get_close_matches(name, METRICS, n=1)
    raise UsageError(
        "E-EVAL-METRIC",
        found=f"metric {name!r}",
        expected=f"one of {', '.join(METRICS)}",
        fix=f"use {near[0]!r}" if near else "choose one of these",
    )


def select(names: tuple[str, ...] | list[str], scope: Scope) -> list[Metric]:
    """Return the named metrics of one scope, in the order of the table."""
    wanted = {metric(name).name for name in names}
    return [row for row in _ROWS if row.name in wanted and row.scope == scope]


def markdown_table() -> str:
    """Return the registry as a Markdown table (docs/reference/metrics.md is made of it)."""
    lines = [
        "| name | metric | for each | better | unit | reference empty | prediction empty | both empty | default |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in _ROWS:
        edges = [_edge(value, row.unit) for value in (row.ref_empty, row.pred_empty, row.both_empty)]
        cells = [f"`{row.name}`", row.long_name, row.scope, row.direction, row.unit or "1", *edges]
        lines.append("| " + " | ".join([*cells, "yes" if row.default else "no"]) + " |")
    lines += [
        "",
        "| name | definition | equal to 1e-6 to | needs the voxel size | needs instances |",
        "|---|---|---|---|---|",
    ]
    for row in _ROWS:
        needs = ["yes" if flag else "no" for flag in (row.needs_spacing, row.needs_instances)]
        # A vertical bar inside a cell would end the cell.
        definition = row.definition.replace("|", "\\|")
        lines.append("| " + " | ".join([f"`{row.name}`", definition, row.equals, *needs]) + " |")
    return "\n".join(lines) + "\n"


_PAGE_HEAD = """# Metrics

This page is written from the registry (`nnunet_spine_ext/evaluate/registry.py`) by

    python -c "from pathlib import Path; from nnunet_spine_ext.evaluate.registry import reference_page; \\
        Path('docs/reference/metrics.md').write_text(reference_page(), encoding='utf-8')"

R is the reference, P the prediction. *class*: one semantic label; *group*: all instances of one kind (vertebra, disc,
…); *level*: one reference instance. *left out*: nothing was there to compare; the value is NaN in metrics.csv, stays
out of means and is counted. Infinite values stay out of means too and are counted. A missing prediction is scored as an
empty one.

"""


def reference_page() -> str:
    """Return docs/reference/metrics.md."""
    return _PAGE_HEAD + markdown_table()


def _edge(value: float | None, unit: str) -> str:
    if value is None:
        return "computed"
    if math.isnan(value):
        return "left out"
    return "infinite" if math.isinf(value) else f"{value:g}{' ' + unit if unit else ''}"
