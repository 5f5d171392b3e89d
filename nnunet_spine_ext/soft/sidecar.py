"""What a soft label was made of, as JSON: enough to make it again, and to judge it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.core.soft_labels import IGNORE
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.soft.alignment import Alignment
from nnunet_spine_ext.soft.ground_truth import Contributor, Recipe, SoftGroundTruth
from nnunet_spine_ext.soft.qc import Quality

VERSION = 1


def sidecar(
    result: SoftGroundTruth,
    recipe: Recipe,
    *,
    sources: Mapping[str, Mapping[str, str]],
    measured: Quality | None = None,
    warnings: Sequence[Problem] = (),
) -> dict[str, Any]:
    """Return the JSON beside a soft label.

    Parameters
    ----------
    sources: per mask ``file`` (a name without folders) and ``sha256``.
    measured: areas for the table.
    warnings: found while reading; those of the result are added.
    """
    from nnunet_spine_ext import __version__

    content: dict[str, Any] = {
        "version": VERSION,
        "made_by": {"name": "nnUNetv2_spine_soft_gt", "version": __version__},
        "options": options(recipe),
        "ignore": IGNORE,
        "reference": None if recipe.raters else result.reference,
        "union": {
            "shape": list(result.union.shape),
            "spacing": [_round(v) for v in result.union.spacing],
            "affine": [[_round(v) for v in row] for row in result.union.affine.tolist()],
        },
        "masks": {n: _mask(row, result, sources.get(n, {})) for n, row in result.contributors.items()},
        # Folders may name people and projects, and this file goes where the label goes.
        "warnings": [{**p.to_dict(), "file": Path(p.file).name} for p in (*warnings, *result.warnings)],
    }
    if result.sensitivity:
        content["staple"] = {"sensitivity": result.sensitivity, "specificity": result.specificity}
    if measured is not None:
        content["quality"] = {
            "masks": [{key: _plain(value) for key, value in asdict(row).items()} for row in measured.rows],
            "area_std_mask": _plain(measured.std_mask),
            "area_std_soft": _plain(measured.std_soft),
            "shared_mm": None if measured.shared is None else [_round(v) for v in measured.shared],
        }
    return content


def options(recipe: Recipe) -> dict[str, Any]:
    """Return the options of a recipe as JSON."""
    return {**asdict(recipe), "weights": dict(recipe.weights)}


def _mask(row: Contributor, result: SoftGroundTruth, source: Mapping[str, str]) -> dict[str, Any]:
    facts: dict[str, Any] = {**source, "used": row.used, "why": row.why, "weight": row.weight}
    if row.agreement is not None:
        facts["dice"] = _plain(row.agreement.dice)
    if row.alignment is not None and row.used:
        facts |= _alignment(row.alignment, result.z)
    if row.used and row.name in result.soft:
        facts["overlap"] = _overlap(result.soft[row.name].to("RAS").array)
    return facts


def _alignment(alignment: Alignment, z: Array) -> dict[str, Any]:
    """Return shifts per level (mm from the reference's first slice), and what else was kept of the alignment."""
    measured = alignment.common
    rows = np.column_stack([z, alignment.shift])
    return {
        "shift_mm": [[_round(v) for v in row] for row in rows[measured].tolist()],
        "jumps_mm": [_round(v) for v in alignment.jumps],
        "largest_step_mm": _round(alignment.largest_step_mm),
        "rotation_deg": None
        if alignment.angle is None
        else [_round(math.degrees(v)) for v in alignment.angle[measured].tolist()],
        "affine": None if alignment.shape is None else [[_round(v) for v in row] for row in alignment.shape.tolist()],
        "dice_tried": {key: _plain(value) for key, value in alignment.tried.items()},
    }


def _overlap(array: Array) -> dict[str, Any]:
    """Return which slices of the scan, from the feet, have a label."""
    labelled = np.flatnonzero((array >= 0).any(axis=(0, 1)))
    ends = [int(labelled[0]), int(labelled[-1])] if len(labelled) else None
    return {"slices": int(array.shape[2]), "labelled": len(labelled), "first_and_last": ends}


def _round(value: float) -> float:
    return round(float(value), 4)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return _round(value) if math.isfinite(value) else None
    return value
