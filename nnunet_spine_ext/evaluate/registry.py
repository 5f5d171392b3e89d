"""The metrics, one row each: the command, the documentation and the tests are generated from this table.

Reading the table is cheap: the functions are named as ``module:function`` and imported when they are called.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.evaluate.metric import INF, NAN, Direction, Edges, Metric, Scope

__all__ = ["DEFAULT_METRICS", "METRICS", "Direction", "Edges", "Metric", "Scope", "expand", "metric", "select"]

_PANOPTICA = "panoptica 2.1.7"
_SURFACE = "surface-distance 0.1 (DeepMind)"
_SIMPLEITK = "SimpleITK"
_VERSE = "VerSe's definition"
_AVERAGE = f"{_SURFACE}, mean of the two average surface distances"

_SHARE = (0.0, 1.0)
_DISTANCE = (0.0, INF)
# A structure that only one side has is a complete miss: no overlap, and a surface infinitely far away.
_NO_OVERLAP = Edges(ref_empty=0.0, pred_empty=0.0, both_empty=NAN)
_FAR_AWAY = Edges(ref_empty=INF, pred_empty=INF, both_empty=NAN)
# Nothing was there to be found, so nothing can be missed; the false alarm shows in precision and Dice.
_MISSED = Edges(ref_empty=NAN, pred_empty=0.0, both_empty=NAN)


def _distance(name: str, long_name: str, function: str, definition: str, equals: str, **others: object) -> Metric:
    """Return a distance in mm, infinite where one side is empty."""
    row = Metric(
        name=name,
        long_name=long_name,
        scope="class",
        direction="lower",
        unit="mm",
        needs_spacing=True,
        function=function,
        edges=_FAR_AWAY,
        bounds=_DISTANCE,
        definition=definition,
        equals=equals,
    )
    return replace(row, **others)  # type: ignore[arg-type]


_CLASSES = (
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
        name="precision",
        long_name="Precision",
        scope="class",
        direction="higher",
        function="voxel:precision",
        edges=_NO_OVERLAP,
        bounds=_SHARE,
        definition="|R and P| / |P| over voxels: how much of the prediction is right; 0 when there is none",
        equals=f"{_SIMPLEITK}, 1 minus the false discovery rate",
    ),
    Metric(
        name="recall",
        long_name="Recall (sensitivity)",
        scope="class",
        direction="higher",
        function="voxel:recall",
        edges=_MISSED,
        bounds=_SHARE,
        definition="|R and P| / |R| over voxels: how much of the reference is found",
        equals=f"{_SIMPLEITK}, 1 minus the false negative error",
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
    _distance(
        "assd",
        "Average symmetric surface distance",
        "surface:assd",
        "mean of the two directed mean distances between the surfaces, each surface element (marching "
        "cubes, vertices half way) weighted by its area",
        _AVERAGE,
    ),
    _distance(
        "hd95",
        "95 % Hausdorff distance",
        "surface:hd95",
        "larger one of the two directed 95th percentiles of the surface distance, weighted by area",
        f"{_SURFACE}, robust Hausdorff distance",
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
    _distance(
        "msd",
        "Mean surface distance",
        "surface:assd",
        "mean of both directed mean surface distances: another name of `assd`, for tables that say MSD",
        _AVERAGE,
        default=False,
    ),
    _distance(
        "msd_ref_to_pred",
        "Mean distance of the reference",
        "surface:ref_to_pred",
        "directed mean distance from the surface of R to that of P, weighted by area",
        f"{_SURFACE}, first average surface distance",
        default=False,
    ),
    _distance(
        "msd_pred_to_ref",
        "Mean distance of the prediction",
        "surface:pred_to_ref",
        "directed mean distance from the surface of P to that of R, weighted by area",
        f"{_SURFACE}, second average surface distance",
        default=False,
    ),
    _distance(
        "assd_voxel",
        "ASSD between boundary voxels",
        "surface:assd_voxel",
        "mean of the two directed mean distances between the centres of boundary voxels "
        "(6-neighbourhood), each voxel counted once: the ASSD of panoptica and MedPy, for comparison "
        "with tables made with them",
        f"{_PANOPTICA}, ASSD",
        default=False,
    ),
    _distance(
        "assd_in_voxels",
        "ASSD in voxels",
        "surface:assd_in_voxels",
        "`assd_voxel` with every edge of a voxel counted as 1: what panoptica gives when no voxel size is passed",
        f"{_PANOPTICA}, ASSD without voxelspacing",
        default=False,
        unit="voxels",
        needs_spacing=False,
    ),
)


def _share_of_instances(name: str, long_name: str, definition: str, equals: str, **others: object) -> Metric:
    """Return a group metric between 0 and 1 of `panoptic`."""
    row = Metric(
        name=name,
        long_name=long_name,
        scope="group",
        direction="higher",
        function=f"panoptic:{name}",
        edges=_NO_OVERLAP,
        bounds=_SHARE,
        definition=definition,
        equals=f"{_PANOPTICA}, {equals}",
    )
    return replace(row, **others)  # type: ignore[arg-type]


_GROUPS = (
    _share_of_instances(
        "rq",
        "Recognition quality",
        "TP / (TP + FP/2 + FN/2); a true positive is a pair matched at the IoU threshold",
        "rq",
        one_to_one=True,
    ),
    _share_of_instances(
        "sq",
        "Segmentation quality",
        "mean IoU of the matched instances; 0 when none is matched",
        "sq",
        one_to_one=True,
    ),
    _share_of_instances("pq", "Panoptic quality", "RQ times SQ", "pq", one_to_one=True),
    _share_of_instances(
        "instance_dice", "Instance Dice", "mean Dice of the matched instances; 0 when none is matched", "sq_dsc"
    ),
    _share_of_instances(
        "instance_precision",
        "Instance precision",
        "share of the predicted instances that stand for a reference instance",
        "prec",
        default=False,
    ),
    _share_of_instances(
        "instance_recall",
        "Instance recall",
        "share of the reference instances that are matched",
        "rec",
        default=False,
        edges=_MISSED,
    ),
    _distance(
        "instance_assd",
        "Instance ASSD",
        "panoptic:instance_assd",
        "mean of `assd` over the matched instances (also called MSD or ASD); infinite when none is matched",
        f"{_AVERAGE}, averaged over the matches",
        scope="group",
    ),
    _distance(
        "instance_assd_voxel",
        "Instance ASSD between boundary voxels",
        "panoptic:instance_assd_voxel",
        "mean of `assd_voxel` over the matched instances; infinite when none is matched",
        f"{_PANOPTICA}, sq_assd",
        default=False,
        scope="group",
    ),
    _distance(
        "instance_assd_in_voxels",
        "Instance ASSD in voxels",
        "panoptic:instance_assd_in_voxels",
        "mean of `assd_in_voxels` over the matched instances; infinite when none is matched",
        f"{_PANOPTICA}, sq_assd without voxelspacing",
        default=False,
        scope="group",
        unit="voxels",
        needs_spacing=False,
    ),
    Metric(
        name="id_rate",
        long_name="Identification rate",
        scope="group",
        direction="higher",
        needs_spacing=True,
        function="identification:id_rate",
        edges=_MISSED,
        bounds=_SHARE,
        definition=(
            "share of the reference instances that are identified: the centre of the predicted instance of the same "
            "number is nearer to it than to any other reference instance of its kind, and less than 20 mm away; left "
            "out where predicted instances are counted from the top, not numbered"
        ),
        equals=f"{_VERSE}, brute force in the tests",
        needs_centres=True,
    ),
    _distance(
        "localisation_distance",
        "Localisation distance",
        "identification:localisation_distance",
        "mean distance between the centres of identified instances; infinite when none is identified. With "
        "--missing-distance every instance that is not identified counts as that many mm",
        f"{_VERSE}, brute force in the tests",
        edges=Edges(ref_empty=NAN, pred_empty=None, both_empty=NAN),
        needs_centres=True,
        scope="group",
    ),
    Metric(
        name="perfect_sequence",
        long_name="Perfect sequence",
        scope="group",
        direction="higher",
        needs_spacing=True,
        function="identification:perfect_sequence",
        edges=_MISSED,
        bounds=_SHARE,
        definition="1 when all reference instances of the case are identified, else 0; its mean is a rate",
        equals=f"{_VERSE}, brute force in the tests",
        needs_centres=True,
    ),
)


def _of_level(row: Metric) -> Metric:
    """Return the metric of a class as one of a reference instance and the instance matched to it."""
    return replace(
        row,
        name=f"level_{row.name}",
        long_name=f"{row.long_name} of one level",
        scope="level",
        definition=f"`{row.name}` of a reference instance and the instance matched to it, an empty one where none is",
        default=row.name in ("dice", "assd"),
    )


_LEVELS = (
    *(_of_level(row) for row in _CLASSES if not row.name.startswith("msd")),
    Metric(
        name="level_identified",
        long_name="Identified level",
        scope="level",
        direction="higher",
        needs_spacing=True,
        function="identification:identified",
        edges=_MISSED,
        bounds=_SHARE,
        definition="1 when the instance is identified (see `id_rate`), else 0",
        equals=f"{_VERSE}, brute force in the tests",
        needs_centres=True,
    ),
    _distance(
        "level_distance",
        "Distance of the centres of one level",
        "identification:distance",
        "distance to the centre of the predicted instance of the same number; infinite when there is none",
        f"{_VERSE}, brute force in the tests",
        scope="level",
        needs_centres=True,
    ),
)

_ROWS = (*_CLASSES, *_GROUPS, *_LEVELS)
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


def expand(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of metrics, with the words ``default`` and ``all`` replaced by what they stand for."""
    words = {"default": DEFAULT_METRICS, "all": tuple(METRICS)}
    return tuple(dict.fromkeys(found for name in names for found in words.get(name, (name,))))


def select(names: Sequence[str], scope: Scope) -> list[Metric]:
    """Return the named metrics of one scope, in the order of the table."""
    wanted = {metric(name).name for name in names}
    return [row for row in _ROWS if row.name in wanted and row.scope == scope]
