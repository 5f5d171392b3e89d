"""A cohort of digital spines for the anatomy tests: parameters, geometry and coarse paintings, built once."""

from __future__ import annotations

from functools import cache

import numpy as np

from nnunet_spine_ext.phantom.paint import Painted, paint
from nnunet_spine_ext.phantom.parameters import SpineParameters, sample_parameters
from nnunet_spine_ext.phantom.spine import Spine, build_spine

SIZE = 40
COARSE = 2.5


@cache
def healthy() -> tuple[SpineParameters, ...]:
    """Return 40 spines without findings and with the usual counts."""
    return tuple(sample_parameters(seed, anomalies="none", pathologies=False) for seed in range(SIZE))


@cache
def patients() -> tuple[SpineParameters, ...]:
    """Return 40 spines with findings and natural counts."""
    return tuple(sample_parameters(seed) for seed in range(100, 100 + SIZE))


@cache
def healthy_spines() -> tuple[Spine, ...]:
    """Return the geometry of `healthy`."""
    return tuple(build_spine(parameters) for parameters in healthy())


@cache
def patient_spines() -> tuple[Spine, ...]:
    """Return the geometry of `patients`."""
    return tuple(build_spine(parameters) for parameters in patients())


def grid_for(
    spine: Spine, region: str | tuple[str, str], spacing: tuple[float, float, float], half_width: float | None = None
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Return (affine, shape) of an axis-parallel RAS grid over a region."""
    view = spine.field_of_view(region, half_width=half_width)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = view[0] + 0.5 * np.asarray(spacing)
    counts = np.ceil((view[1] - view[0]) / spacing).astype(int)
    return affine, (int(counts[0]), int(counts[1]), int(counts[2]))


@cache
def coarse(index: int) -> tuple[Painted, np.ndarray]:
    """Return patient `index` painted whole at 2.5 mm, and its affine."""
    spine = patient_spines()[index]
    affine, shape = grid_for(spine, "whole", (COARSE, COARSE, COARSE))
    return paint(spine, affine, shape), affine


def per_level(field: str, name: str, group: tuple[SpineParameters, ...] | None = None) -> np.ndarray:
    """Return one field of one vertebra over a cohort (pairs are averaged)."""
    values = [getattr(p.vertebra(name), field) for p in (healthy() if group is None else group) if name in p.names]
    return np.array([np.mean(value) for value in values])
