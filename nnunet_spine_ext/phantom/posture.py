"""How the spine is bent: sagittal angles in balance, scoliosis, and the small asymmetries of a patient lying down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nnunet_spine_ext.phantom.model import Angles, DiscParameters, VertebraParameters
from nnunet_spine_ext.phantom.tables import SEGMENT_LORDOSIS

CURVES: Mapping[str, tuple[tuple[float, float, float], ...]] = {
    "thoracic": ((15.0, 4.0, 1.0), (20.5, 3.0, -0.6), (10.0, 3.0, -0.5)),
    "double": ((14.5, 3.5, 1.0), (21.0, 3.0, -0.9)),
    "thoracolumbar": ((19.5, 4.0, -1.0), (13.0, 4.0, 0.5)),
    "lumbar": ((21.5, 3.0, -1.0), (16.5, 3.0, 0.6)),
}
"""Scoliosis types: (apex level, half length in levels, share of the Cobb angle; > 0 = convex to the right)."""
TYPE_WEIGHTS = (0.6, 0.15, 0.15, 0.1)
SHARE_BODY = 0.4


@dataclass(frozen=True)
class Posture:
    """Vertebrae and discs turned by the global angles."""

    vertebrae: tuple[VertebraParameters, ...]
    discs: tuple[DiscParameters, ...]
    angles: Angles


def draw(
    rng: np.random.Generator,
    vertebrae: Sequence[VertebraParameters],
    discs: Sequence[DiscParameters],
    age: float,
    overrides: Mapping[str, Any],
) -> Posture:
    """Draw the angles of every disc and the wedges of the bodies; `overrides` as in `parameters.sample_parameters`."""
    noise = np.clip(rng.normal(size=8), -2.2, 2.2)
    incidence = float(overrides.get("pelvic_incidence", 50.5 + 10.0 * noise[0]))
    kyphosis = float(overrides.get("kyphosis", np.clip(36 + 7 * noise[1] + 0.3 * max(0.0, age - 50), 15, 75)))
    relaxed = 43.0 + 0.6 * (incidence - 50.5) + 0.3 * (kyphosis - 36.0) + 6.0 * noise[2]
    lordosis = float(overrides.get("lordosis", np.clip(relaxed, 15.0, 70.0)))
    cobb, kind = _draw_scoliosis(rng, age, overrides)
    if "kyphosis" not in overrides:
        kyphosis = max(10.0, kyphosis - 0.2 * abs(cobb))
    bodies = {v.name: v for v in vertebrae}
    wedge = _lumbar_wedges(rng, bodies, lordosis) | _thoracic_wedges(rng, bodies, kyphosis)
    slope = _balance(vertebrae, discs, wedge) + 2.0 + 2.0 * float(noise[3])
    t1_slope = slope - lordosis + kyphosis
    # The gaze stays level: what T1 leans forward, the neck bends back.
    cervical = 12.0 + 0.8 * (t1_slope - 24.0) + 6.5 * float(noise[4])
    cervical = float(overrides.get("cervical", np.clip(cervical, -15.0, 45.0)))
    wedge |= _cervical_wedges(rng, bodies, cervical)
    lateral, axial, coronal = _coronal_angles(rng, vertebrae, cobb, kind)
    return Posture(
        vertebrae=tuple(replace(v, coronal_wedge=coronal[v.name]) for v in vertebrae),
        discs=tuple(replace(d, lordosis=wedge[d.above], lateral=lateral[d.above], axial=axial[d.above]) for d in discs),
        angles=Angles(
            pelvic_incidence=incidence,
            sacral_slope=slope,
            lordosis=lordosis,
            kyphosis=kyphosis,
            cervical=cervical,
            scoliosis=cobb,
        ),
    )


def _draw_scoliosis(rng: np.random.Generator, age: float, overrides: Mapping[str, Any]) -> tuple[float, str]:
    """Cobb angle (degrees, >= 0) and type; most spines have a few degrees, one in ten to five more than ten."""
    kinds = list(CURVES)
    draws = rng.random(3)
    rate = 0.04 + 0.16 * float(np.clip((age - 40) / 30, 0, 1))
    cobb = 10.0 + 25.0 * draws[1] ** 2 if draws[0] < rate else 5.0 * draws[1]
    kind = kinds[int(np.searchsorted(np.cumsum(TYPE_WEIGHTS), draws[2] * 0.999))]
    return float(overrides.get("scoliosis", cobb)), str(overrides.get("scoliosis_type", kind))


def _spread(names: Sequence[str], total: float, weights: ArrayLike, noise: np.ndarray) -> dict[str, float]:
    """Share `total` over discs by weight, with noise that leaves the total unchanged."""
    share = np.asarray(weights, float) / np.sum(weights)
    noise = noise - noise.mean()
    return {name: float(total * w + e) for name, w, e in zip(names, share, noise, strict=True)}


def _lumbar_wedges(
    rng: np.random.Generator, bodies: Mapping[str, VertebraParameters], total: float
) -> dict[str, float]:
    """Disc lordosis of L1/2 … L5/S1 so that bodies and discs together make the lordosis L1-S1."""
    names = [name for name in bodies if name[0] == "L"]
    grid = np.linspace(0, len(SEGMENT_LORDOSIS) - 1, len(names))
    weights = np.interp(grid, np.arange(len(SEGMENT_LORDOSIS)), SEGMENT_LORDOSIS)
    segment = _spread(names, total, weights, 1.2 * np.clip(rng.normal(size=len(names)), -2, 2))
    return {name: angle + bodies[name].wedge for name, angle in segment.items()}


def _thoracic_wedges(
    rng: np.random.Generator, bodies: Mapping[str, VertebraParameters], total: float
) -> dict[str, float]:
    """Disc angles of T1/2 … T12/L1 (kyphotic = negative) that complete the wedges of the bodies."""
    names = [name for name in bodies if name[0] == "T"]
    noise = 0.8 * np.clip(rng.normal(size=len(names)), -2, 2)
    rest = total - sum(bodies[name].wedge for name in names)
    inner = _spread(names[:-1], -rest, np.ones(len(names) - 1), noise[:-1])
    return inner | {names[-1]: float(2.0 + noise[-1])}


def _cervical_wedges(
    rng: np.random.Generator, bodies: Mapping[str, VertebraParameters], total: float
) -> dict[str, float]:
    """Disc lordosis of C2/3 … C6/7 that makes the lordosis C2-C7 (lower endplates), and of C7/T1."""
    names = [f"C{i}" for i in range(2, 7)]
    between = sum(bodies[f"C{i}"].wedge for i in range(3, 8))
    inner = _spread(names, total + between, np.ones(5), 1.2 * np.clip(rng.normal(size=5), -2, 2))
    return inner | {"C7": float(2.5 + rng.normal() * 0.8)}


def _balance(
    vertebrae: Sequence[VertebraParameters], discs: Sequence[DiscParameters], wedge: Mapping[str, float]
) -> float:
    """Return the sacral slope with which C7 stands above S1: the trunk of a patient lying on a table is straight."""
    angle, forward, upward = 0.0, 0.0, 0.0
    heights = {d.above: d.height for d in discs}
    for vertebra in reversed(vertebrae):
        if vertebra.name[0] == "C":
            break
        angle -= wedge[vertebra.name]
        step = heights[vertebra.name] + vertebra.height_post
        middle = np.deg2rad(angle + 0.5 * vertebra.wedge)
        forward += step * float(np.sin(middle))
        upward += step * float(np.cos(middle))
        angle += vertebra.wedge
    return -float(np.rad2deg(np.arctan2(forward, upward)))


def _coronal_angles(
    rng: np.random.Generator, vertebrae: Sequence[VertebraParameters], cobb: float, kind: str
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Per disc (named by the vertebra above): lateral and axial steps; per vertebra: coronal wedge (degrees)."""
    levels = np.array([v.level for v in vertebrae] + [vertebrae[-1].level + 1.0])
    tilt, turn = np.zeros(len(levels)), np.zeros(len(levels))
    sign = -1.0 if rng.random() < 0.1 else 1.0
    for apex, half, share in CURVES[kind]:
        offset = (levels - apex) / half
        # The tangent's deviation is the derivative of a bump.
        tilt += sign * share * offset * np.exp(-(offset**2))
        turn += sign * share * cobb * 0.45 * np.exp(-(offset**2))
    # The Cobb angle is the largest difference between two tangents, whatever the compensating curves add.
    tilt *= cobb / np.ptp(tilt)
    knots = np.array([1.0, 4.5, 8.0, 13.5, 20.0, 25.0])
    tilt += np.interp(levels, knots, np.clip(rng.normal(size=6), -2, 2) * (2.0, 1.5, 1.0, 1.0, 1.0, 0.8))
    turn += np.interp(levels, knots, np.clip(rng.normal(size=6), -2, 2) * (3.0, 2.0, 1.5, 1.0, 1.0, 0.8))
    tilt -= tilt[-1]
    turn -= turn[-1]
    slope = np.gradient(tilt)
    coronal = {v.name: float(-SHARE_BODY * slope[i]) for i, v in enumerate(vertebrae)}
    coronal["C1"] = coronal["C2"] = 0.0
    lateral: dict[str, float] = {}
    axial: dict[str, float] = {}
    for i, vertebra in enumerate(vertebrae):
        below = coronal[vertebrae[i + 1].name] if i + 1 < len(vertebrae) else 0.0
        step = float(tilt[i] - tilt[i + 1])
        lateral[vertebra.name] = step - 0.5 * (coronal[vertebra.name] + below)
        axial[vertebra.name] = float(turn[i] - turn[i + 1])
    return lateral, axial, coronal
