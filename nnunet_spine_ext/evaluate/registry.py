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
    function: ``module:function`` inside this room; it gets a `MaskPair` (class, level) or a `Matching` (group).
    edges: values when the reference, the prediction or both are empty.
    bounds: lowest and highest value where neither side is empty.
    definition: one sentence.
    equals: the implementation that the tests compare with.
    default: whether it is computed without being asked for.
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

    @property
    def needs_instances(self) -> bool:
        """Whether instance masks of both sides are necessary."""
        return self.scope != "class"

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


_SHARE = (0.0, 1.0)
_DISTANCE = (0.0, INF)
# A structure that only one side has is a complete miss: no overlap, and a surface infinitely far away.
_NO_OVERLAP = Edges(ref_empty=0.0, pred_empty=0.0, both_empty=NAN)
_FAR_AWAY = Edges(ref_empty=INF, pred_empty=INF, both_empty=NAN)

_ROWS = (
    Metric(
        name="dice",
        long_name="Dice coefficient",
        scope="class",
        direction="higher",
        function="voxel:dice",
        edges=_NO_OVERLAP,
        bounds=_SHARE,
        definition="2 |R and P| / (|R| + |P|) over voxels",
        equals=f"{_PANOPTICA}, DSC",
    ),
    Metric(
        name="iou",
        long_name="Intersection over union",
        scope="class",
        direction="higher",
        function="voxel:iou",
        edges=_NO_OVERLAP,
        bounds=_SHARE,
        definition="|R and P| / |R or P| over voxels",
        equals=f"{_PANOPTICA}, IOU",
    ),
    Metric(
        name="volume_error",
        long_name="Volume error",
        scope="class",
        direction="zero",
        unit="mL",
        needs_spacing=True,
        function="voxel:volume_error",
        edges=Edges(ref_empty=None, pred_empty=None, both_empty=NAN),
        bounds=(-INF, INF),
        definition="volume of P minus volume of R; negative: too small",
        equals=f"{_PANOPTICA}, RVD times the reference volume",
    ),
    Metric(
        name="relative_volume_error",
        long_name="Relative volume error",
        scope="class",
        direction="zero",
        unit="%",
        function="voxel:relative_volume_error",
        edges=Edges(ref_empty=INF, pred_empty=-100.0, both_empty=NAN),
        bounds=(-100.0, INF),
        definition="100 (|P| - |R|) / |R|",
        equals=f"{_PANOPTICA}, RVD times 100",
    ),
    Metric(
        name="assd",
        long_name="Average symmetric surface distance",
        scope="class",
        direction="lower",
        unit="mm",
        needs_spacing=True,
        function="surface:assd",
        edges=_FAR_AWAY,
        bounds=_DISTANCE,
        definition=(
            "mean of the two directed mean distances between the surfaces, each surface element (marching "
            "cubes, vertices half way) weighted by its area"
        ),
        equals=f"{_SURFACE}, mean of the two average surface distances",
    ),
    Metric(
        name="hd95",
        long_name="95 % Hausdorff distance",
        scope="class",
        direction="lower",
        unit="mm",
        needs_spacing=True,
        function="surface:hd95",
        edges=_FAR_AWAY,
        bounds=_DISTANCE,
        definition="larger one of the two directed 95th percentiles of the surface distance, weighted by area",
        equals=f"{_SURFACE}, robust Hausdorff distance",
    ),
    Metric(
        name="nsd",
        long_name="Normalised surface Dice",
        scope="class",
        direction="higher",
        needs_spacing=True,
        function="surface:nsd",
        edges=_NO_OVERLAP,
        bounds=_SHARE,
        definition="share of both surfaces that lies within the tolerance of the other one, weighted by area",
        equals=f"{_SURFACE}, surface Dice at tolerance",
    ),
    Metric(
        name="assd_voxel",
        long_name="ASSD between boundary voxels",
        scope="class",
        direction="lower",
        unit="mm",
        needs_spacing=True,
        function="surface:assd_voxel",
        edges=_FAR_AWAY,
        bounds=_DISTANCE,
        definition=(
            "mean of the two directed mean distances between the centres of boundary voxels "
            "(6-neighbourhood), each voxel counted once: the ASSD of panoptica and MedPy, for comparison "
            "with tables made with them"
        ),
        equals=f"{_PANOPTICA}, ASSD",
        default=False,
    ),
    Metric(
        name="rq",
        long_name="Recognition quality",
        scope="group",
        direction="higher",
        function="panoptic:rq",
        edges=_NO_OVERLAP,
        bounds=_SHARE,
        definition="TP / (TP + FP/2 + FN/2); a true positive is a pair matched at the IoU threshold",
        equals=f"{_PANOPTICA}, rq",
    ),
    Metric(
        name="sq",
        long_name="Segmentation quality",
        scope="group",
        direction="higher",
        function="panoptic:sq",
        edges=_NO_OVERLAP,
        bounds=_SHARE,
        definition="mean IoU of the matched instances; 0 when none is matched",
        equals=f"{_PANOPTICA}, sq",
    ),
    Metric(
        name="pq",
        long_name="Panoptic quality",
        scope="group",
        direction="higher",
        function="panoptic:pq",
        edges=_NO_OVERLAP,
        bounds=_SHARE,
        definition="RQ times SQ",
        equals=f"{_PANOPTICA}, pq",
    ),
    Metric(
        name="instance_dice",
        long_name="Instance Dice",
        scope="group",
        direction="higher",
        function="panoptic:instance_dice",
        edges=_NO_OVERLAP,
        bounds=_SHARE,
        definition="mean Dice of the matched instances; 0 when none is matched",
        equals=f"{_PANOPTICA}, sq_dsc",
    ),
    Metric(
        name="level_dice",
        long_name="Dice of one level",
        scope="level",
        direction="higher",
        function="voxel:dice",
        edges=_NO_OVERLAP,
        bounds=_SHARE,
        definition="Dice of a reference instance with the instance matched to it; 0 when there is none",
        equals=f"{_PANOPTICA}, DSC of a matched instance",
    ),
    Metric(
        name="level_assd",
        long_name="ASSD of one level",
        scope="level",
        direction="lower",
        unit="mm",
        needs_spacing=True,
        function="surface:assd",
        edges=_FAR_AWAY,
        bounds=_DISTANCE,
        definition="`assd` of a reference instance and the instance matched to it; infinite when there is none",
        equals=f"{_SURFACE}, mean of the two average surface distances",
    ),
)

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
        edges = [_edge(value, row.unit) for value in (row.edges.ref_empty, row.edges.pred_empty, row.edges.both_empty)]
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


_PAGE_HEAD = """<!-- Generated by docs/generate_metrics.py: edit nnunet_spine_ext/evaluate/registry.py instead. -->

# Metrics

What `nnUNetv2_spine_evaluate` computes ([how to use it](../how-to/evaluate.md)).

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
