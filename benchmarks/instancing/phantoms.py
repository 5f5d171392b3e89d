"""The masks: a digital spine per case, C2 to sacrum, along P, I, R at 0.75 x 0.75 x 1.65 mm, with true instances."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from instancing import edits
from instancing.edits import Edit, Spacing
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.phantom.model import SpineParameters
from nnunet_spine_ext.phantom.paint import paint
from nnunet_spine_ext.phantom.parameters import sample_parameters
from nnunet_spine_ext.phantom.protocols import protocol
from nnunet_spine_ext.phantom.scan import scan_grid
from nnunet_spine_ext.phantom.spine import build_spine

SPACING = (0.75, 0.75, 1.65)
# Extent in mm along P, I, R of a sagittal scan; larger where the spine does not fit.
SCAN_MM = (174.0, 0.0, 79.2)
STATURE = 1.64
# SPINEPS deletes what is smaller (250 voxels of 0.75 x 0.75 x 1.65 mm).
MIN_VERTEBRA_MM3 = 232.0
# Largest Cobb angle that is tried for a sideways deviation (degrees).
_STEEPEST = 60.0


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Parameters
    ----------
    name: key in results.
    title: what the table says.
    findings: findings of the phantom, such as ``fused:T9``.
    overrides: further arguments of `sample_parameters`.
    deviation_mm: sideways deviation of the curve from the line between its ends.
    changes: edits of the painted masks, in order.
    """

    name: str
    title: str
    findings: tuple[str, ...] = ()
    overrides: dict[str, Any] = field(default_factory=dict)
    deviation_mm: float = 0.0
    changes: tuple[Edit, ...] = ()


@dataclass(frozen=True)
class Phantom:
    """A mask with its truth: uint8 arrays along P, I, R; `semantic` in ids of nnunet14, `instances` in spineps ids."""

    semantic: Array
    instances: Array


def _fused(first: int, count: int) -> tuple[str, ...]:
    return tuple(f"fused:T{first + k}" for k in range(count - 1))


T9, T10, T11, L2, L3, L4, L5 = 16, 17, 18, 21, 22, 23, 24
CASES = {
    case.name: case
    for case in (
        Case("clean", "clean"),
        Case("fused2", "2 fused bodies", _fused(9, 2)),
        Case("fused4", "4 fused bodies", _fused(8, 4)),
        Case("fused12", "12 fused bodies", _fused(1, 12)),
        Case("bridged", "two bony bridges", changes=(edits.bridged(T9, T10),)),
        Case("cleft", "cleft body", changes=(edits.cleft(T10),)),
        Case("missing_body", "a missing body", changes=(edits.missing_bodies(T9),)),
        Case("missing_2bodies", "two missing bodies", changes=(edits.missing_bodies(T9, T10),)),
        Case("missing_discs", "three missing discs", changes=(edits.missing_discs(T9, T10, L2),)),
        Case("cropped", "field of view ends in C3 and L5", changes=(edits.cut_through(3, L5),)),
        Case("scoliosis28", "scoliosis, 28 mm", deviation_mm=28.0),
        Case("scoliosis45", "scoliosis, 45 mm", deviation_mm=45.0),
        Case("kyphosis", "kyphosis, 85 degrees", overrides={"kyphosis": 85}),
        Case("sacralised", "sacralised L5", ("fused:L5",), changes=(edits.sacralised(),)),
        Case("extra_lumbar", "six lumbar vertebrae", overrides={"lumbar": 6}),
        Case("no_posterior", "no posterior elements", changes=(edits.without_posterior,)),
        Case("two", "two vertebrae", changes=(edits.only((L3, L4)),)),
        Case("lumbar", "lumbar only", changes=(edits.cut_through(T11, None),)),
        Case("flips", "2 % of labels wrong", changes=(edits.noise(0.02, 0, everywhere=False),)),
        Case("noise", "2 % noise everywhere", changes=(edits.noise(0.02, 0, everywhere=True),)),
    )
}


def make(case: Case, seed: int = 0, spacing: Spacing = SPACING) -> Phantom:
    """Build the masks of a case from the spine with this seed; equal arguments give equal masks.

    Parameters
    ----------
    spacing: voxel size in mm along P, I, R.
    """
    options: dict[str, Any] = {
        "anomalies": "none",
        "pathologies": False,
        "scoliosis": 0,
        "scoliosis_type": "thoracolumbar",
        "stature": STATURE,
    }
    options |= case.overrides
    if case.findings:
        options["findings"] = ",".join(case.findings)
    if case.deviation_mm:
        options["scoliosis"] = _cobb(seed, options, case.deviation_mm)
    semantic, instances = _painted(sample_parameters(seed, **options), spacing)
    for change in case.changes:
        semantic, instances = change(semantic, instances, spacing)
    return Phantom(np.ascontiguousarray(semantic, np.uint8), _without_slivers(instances, spacing))


def ordered(instances: Array) -> Array:
    """Return the vertebrae numbered 1..n from head to tail (uint8), everything else 0."""
    ids = sorted((k for k in np.unique(instances) if 0 < k < 29 and k != edits.SACRUM_ID), key=_rank)
    table = np.zeros(256, np.uint8)
    table[ids] = np.arange(1, len(ids) + 1)
    return table[instances]


def _rank(identity: int) -> float:
    # T13 (28) lies between T12 (19) and L1 (20).
    return 19.5 if identity == 28 else float(identity)


def deviation(parameters: SpineParameters) -> float:
    """Return how far (mm) the vertebrae leave the line between C2 and S1 sideways."""
    spine = build_spine(parameters)
    points = np.array([spine.poses[name].origin for name in (*parameters.names[1:], "S1")])
    chord = np.interp(points[:, 2], points[[-1, 0], 2], points[[-1, 0], 0])
    return float(np.abs(points[:, 0] - chord).max())


def _cobb(seed: int, options: dict[str, Any], wanted_mm: float) -> float:
    """Return the Cobb angle with which the spine deviates by `wanted_mm`, to 0.1 degrees."""
    low, high = 0.0, _STEEPEST
    while high - low > 0.1:
        middle = (low + high) / 2
        reached = deviation(sample_parameters(seed, **{**options, "scoliosis": middle}))
        low, high = (middle, high) if reached < wanted_mm else (low, middle)
    return high


def _painted(parameters: SpineParameters, spacing: Spacing) -> tuple[Array, Array]:
    """Paint C2 to the sacrum and cut to the scan: `SCAN_MM` and two voxels of air at least."""
    spine = build_spine(parameters)
    points = np.array([pose.origin for pose in spine.poses.values()])
    half = max(39.6, 0.5 * float(np.ptp(points[:, 0])) + 32.0)
    box = np.asarray(spine.field_of_view("whole", half_width=half))
    grid = scan_grid(box, protocol("t2w_sagittal").with_spacing(spacing), np.zeros(3), 1)
    painted = paint(spine, grid.affine, grid.shape)
    semantic, instances = edits.without_c1(painted.semantic, painted.instances, spacing)
    window = []
    for axis, used in enumerate(edits.box_of(semantic > 0, 2)):
        wanted = min(round(SCAN_MM[axis] / spacing[axis]), semantic.shape[axis])
        missing = max(0, wanted - (used.stop - used.start))
        start = max(0, min(used.start - missing // 2, semantic.shape[axis] - (used.stop - used.start) - missing))
        window.append(slice(start, start + used.stop - used.start + missing))
    return semantic[tuple(window)], instances[tuple(window)]


def _without_slivers(instances: Array, spacing: Spacing) -> Array:
    """Take vertebrae out of the truth of which next to nothing is in the picture."""
    counts = np.bincount(instances.reshape(-1), minlength=256)
    least = MIN_VERTEBRA_MM3 / float(np.prod(spacing))
    small = [k for k in range(1, 29) if 0 < counts[k] < least]
    return np.ascontiguousarray(np.where(np.isin(instances, small), 0, instances), np.uint8)
