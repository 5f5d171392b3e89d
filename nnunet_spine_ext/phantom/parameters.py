"""Drawing one spine: sex, age and stature first, then sizes, shapes, posture and findings, all from one seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nnunet_spine_ext.phantom import pathology, posture
from nnunet_spine_ext.phantom.cord import sac_gap, sac_half_axes
from nnunet_spine_ext.phantom.enumeration import draw_counts, table_level, vertebra_names
from nnunet_spine_ext.phantom.model import (
    BodyParameters,
    CordParameters,
    DiscParameters,
    Lesion,
    Pathology,
    SacrumParameters,
    SpineParameters,
    VertebraParameters,
)
from nnunet_spine_ext.phantom.overrides import checked
from nnunet_spine_ext.phantom.tables import (
    ARCH,
    BODY,
    DISC_HEIGHT,
    PRESACRAL,
    SACRUM_DEPTH,
    SACRUM_HALF_SPAN,
    SACRUM_HEIGHT,
    SACRUM_WIDTH,
    ArchRow,
    BodyRow,
)

__all__ = [
    "BodyParameters",
    "CordParameters",
    "DiscParameters",
    "Lesion",
    "Pathology",
    "SacrumParameters",
    "SpineParameters",
    "VertebraParameters",
    "sample_parameters",
]

LEVELS = 26
GROUPS = ("height", "width", "depth", "pedicle", "arch", "process", "angle", "disc", "canal")
SD = {"height": 0.042, "width": 0.065, "depth": 0.06, "pedicle": 0.15, "arch": 0.06, "process": 0.10}
SD |= {"angle": 3.0, "disc": 0.10, "canal": 0.055}
"""Spread that is left once stature and sex are known: relative, except `angle` in degrees."""
FEMALE_RATIO = {"height": 1.0, "width": 0.965, "depth": 0.965, "pedicle": 0.96, "arch": 0.97, "process": 0.95}
FEMALE_RATIO |= {"angle": 1.0, "disc": 1.0, "canal": 0.98}
"""Female / male at equal stature."""
ATLAS_SPAN = 75.0
"""Width of C1 over its transverse processes (mm); the tables start at C2."""


def sample_parameters(
    seed: int, *, anomalies: str = "natural", pathologies: bool = True, **overrides: Any
) -> SpineParameters:
    """Draw one spine.

    Parameters
    ----------
    seed: any non-negative integer; equal arguments give equal parameters, on every machine.
    anomalies: 'natural', 'none', 'oversample' or the last vertebrae wanted ('T11', 'T13', 'L4', 'L6', 'T11+L6').
    pathologies: draw findings at the rates of the age; False leaves a healthy spine.
    overrides: sex 'F'|'M', age (years), stature (m), bmi, lordosis, kyphosis, cervical, scoliosis (degrees, Cobb;
        0 = straight), scoliosis_type, pelvic_incidence, conus_level, cord_factor, thoracic and lumbar (counts),
        findings (a sequence of `Pathology` or text, applied after those drawn). `overrides.checked` has the limits.

    Raises
    ------
    UsageError: an unknown override, anomaly or finding, a value outside its limits, a level the spine does not have.
    """
    overrides = checked(overrides)
    # One independent stream per subject of the draw: a change in one does not shift the others.
    streams = dict(
        zip(
            ("person", "counts", "size", "shape", "posture", "cord", "findings", "discs"),
            (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(8)),
            strict=True,
        )
    )
    person = _draw_person(streams["person"], overrides)
    counts = draw_counts(streams["counts"], anomalies)
    counts = overrides.get("thoracic", counts[0]), overrides.get("lumbar", counts[1])
    names = vertebra_names(*counts)
    size = _Size(streams["size"], person)
    vertebrae = tuple(_vertebra(name, table_level(name, *counts), size, streams["shape"]) for name in names)
    discs = tuple(_disc(v, size, streams["discs"], person["age"]) for v in vertebrae[1:])
    cord = _cord(streams["cord"], size, person, overrides)
    vertebrae = tuple(_fit_canal(v, cord) for v in vertebrae)
    bent = posture.draw(streams["posture"], vertebrae, discs, person["age"], overrides)
    spine = SpineParameters(
        seed=int(seed),
        sex=person["sex"],
        age=person["age"],
        stature=person["stature"],
        names=names,
        anomaly="" if counts == (12, 5) else f"{counts[0]}T{counts[1]}L",
        vertebrae=bent.vertebrae,
        discs=bent.discs,
        sacrum=_sacrum(size, streams["shape"], person),
        cord=cord,
        body=_body(person),
        **vars(bent.angles),
    )
    found: list[Pathology] = pathology.draw(streams["findings"], spine) if pathologies else []
    extra: Sequence[Pathology] = overrides.get("findings", ())
    return pathology.apply(spine, [*found, *extra])


def _draw_person(rng: np.random.Generator, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Sex, age (years), stature (m) and body mass index of one adult."""
    sex = "F" if rng.random() < 0.5 else "M"
    sex = overrides.get("sex", sex)
    age = float(np.clip(rng.normal(46.0, 16.0), 19.0, 85.0))
    mean, sd = (1.649, 0.065) if sex == "F" else (1.785, 0.080)
    stature = float(mean + sd * np.clip(rng.normal(), -2.3, 2.3))
    bmi = float(np.clip(rng.normal(26.0, 4.5), 18.0, 40.0))
    drawn: dict[str, Any] = {"sex": sex, "age": age, "stature": stature, "bmi": bmi}
    return drawn | {key: float(overrides[key]) for key in ("age", "stature", "bmi") if key in overrides}


class _Size:
    """Multiplicative factors per group and level: 70 % subject, 15 % group, 15 % level (AR(1), correlation 0.6)."""

    def __init__(self, rng: np.random.Generator, person: Mapping[str, Any]) -> None:
        self.stature = float((person["stature"] / 1.71) ** 0.8)
        subject = np.clip(rng.normal(), -2.2, 2.2)
        self.noise: dict[str, np.ndarray] = {}
        self.sex: dict[str, float] = {}
        for group in GROUPS:
            own = np.clip(rng.normal(), -2.2, 2.2)
            level = np.empty(LEVELS)
            level[0] = rng.normal()
            for i in range(1, LEVELS):
                level[i] = 0.6 * level[i - 1] + 0.8 * rng.normal()
            shared = subject if group not in ("angle", "disc", "pedicle") else np.clip(rng.normal(), -2.2, 2.2)
            mixture = np.sqrt(0.7) * shared + np.sqrt(0.15) * own + np.sqrt(0.15) * np.clip(level, -2.0, 2.0)
            self.noise[group] = SD[group] * mixture
            ratio = FEMALE_RATIO[group]
            self.sex[group] = 2 * (ratio if person["sex"] == "F" else 1.0) / (1 + ratio)

    def factor(self, group: str, level: float) -> float:
        """Return the factor of a length; canal widths do not follow stature."""
        noise = float(np.interp(level, np.arange(1, LEVELS + 1), self.noise[group]))
        stature = 1.0 if group == "canal" else self.stature
        return stature * self.sex[group] * float(np.exp(noise))

    def angle(self, level: float) -> float:
        """Return an additive deviation in degrees."""
        return float(np.interp(level, np.arange(1, LEVELS + 1), self.noise["angle"]))


def _row(table: Mapping[str, BodyRow] | Mapping[str, ArchRow], level: float) -> list[float]:
    """Return the table row at a continuous level, interpolated between its neighbours (rows above C2 are C2's)."""
    low = int(np.clip(np.floor(level), 2, 25))
    high = min(low + 1, 25)
    weight = float(np.clip(level - low, 0.0, 1.0))
    first, second = table[PRESACRAL[low - 1]], table[PRESACRAL[high - 1]]
    return [(1 - weight) * a + weight * b for a, b in zip(first, second, strict=True)]


def _shape_constants(level: float) -> dict[str, Any]:
    """Concavity, waist, superellipse exponent, posterior notch and uncus height at a level (mm)."""
    concavity_sup = float(np.interp(level, (2, 7, 8, 12, 19, 21, 25), (0.5, 0.6, 0.8, 0.9, 1.2, 1.3, 1.3)))
    concavity_inf = float(np.interp(level, (2, 7, 8, 12, 19, 21, 25), (0.9, 0.9, 0.8, 1.0, 1.5, 2.2, 2.2)))
    return {
        "concavity_sup": concavity_sup,
        "concavity_inf": concavity_inf,
        "exponent": float(np.interp(level, (2, 7, 9, 18, 20, 25), (2.5, 2.5, 2.3, 2.3, 2.5, 2.5))),
        "notch": float(np.interp(level, (2, 7, 9, 18, 20, 23, 24), (0.5, 0.5, 1.5, 1.5, 1.5, 1.0, 0.3))),
        "uncus": float(np.interp(level, (2.5, 3, 4, 6, 7, 7.6), (0.0, 3.5, 4.5, 4.5, 3.0, 0.0))),
    }


def _vertebra(name: str, level: float, size: _Size, rng: np.random.Generator) -> VertebraParameters:
    """Scale and scatter one table row."""
    body, arch = BodyRow(*_row(BODY, level)), ArchRow(*_row(ARCH, level))
    height, width, depth = (size.factor(group, level) for group in ("height", "width", "depth"))
    process, lamina = size.factor("process", level), size.factor("arch", level)
    canal, pedicle = size.factor("canal", level), size.factor("pedicle", level)
    uneven = 1.0 + 0.04 * np.clip(rng.normal(size=6), -2, 2)
    constants = _shape_constants(level)
    relief = float(np.exp(0.2 * np.clip(rng.normal(), -2, 2)))
    constants["concavity_sup"] *= relief
    constants["concavity_inf"] *= relief
    turn = 2.0 * np.clip(rng.normal(size=2), -2, 2)
    has_rib = name[0] == "T"
    span = ATLAS_SPAN if name == "C1" else arch.tp_span
    return VertebraParameters(
        name=name,
        level=level,
        width_sup=body.width_sup * width,
        width_inf=body.width_inf * width,
        depth_sup=body.depth_sup * depth,
        depth_inf=body.depth_inf * depth,
        height_post=body.height_post * height,
        wedge=body.wedge + 0.35 * size.angle(level),
        coronal_wedge=0.0,
        waist_width=0.89,
        waist_depth=0.92,
        **constants,
        pedicle_width=(arch.pedicle_width * pedicle * uneven[0], arch.pedicle_width * pedicle * uneven[1]),
        pedicle_height=arch.pedicle_height * height,
        pedicle_medial=arch.pedicle_medial + size.angle(level),
        pedicle_length=arch.pedicle_length * depth,
        tp_span=(span * process * uneven[2], span * process * uneven[3]),
        sp_length=arch.sp_length * process,
        sp_incline=arch.sp_incline + size.angle(level),
        sp_height=arch.sp_height * lamina,
        sp_thickness=arch.sp_thickness * lamina,
        lamina_height=arch.lamina_height * lamina,
        lamina_thickness=arch.lamina_thickness * lamina,
        facet_half=(arch.facet_half * width * uneven[4], arch.facet_half * width * uneven[5]),
        facet_incline=arch.facet_incline + 0.7 * size.angle(level),
        facet_turn=(arch.facet_turn + turn[0], arch.facet_turn + turn[1]),
        facet_width=arch.facet_width * lamina,
        facet_height=arch.facet_height * lamina,
        canal_width=arch.canal_width * canal,
        canal_depth=arch.canal_depth * canal,
        rib_length=(220.0 if level < 18.4 else 110.0) * height if has_rib else 0.0,
        dens_height=15.0 * height if name == "C2" else 0.0,
        dens_tilt=float(10.0 + 4.0 * np.clip(rng.normal(), -2, 2)) if name == "C2" else 0.0,
    )


def _fit_canal(v: VertebraParameters, cord: CordParameters) -> VertebraParameters:
    """Widen the bony canal where the drawn sac would not fit with a millimetre to spare on every side."""
    if v.name == "C1":
        return v
    level = np.array([v.level - 0.5, v.level, v.level + 0.3])
    half_right, half_front = sac_half_axes(cord, level)
    depth = 2.0 * float(half_front.max()) + sac_gap(v.level) + 1.2
    width = 2.0 * float(half_right.max()) + 3.0
    return replace(v, canal_depth=max(v.canal_depth, depth), canal_width=max(v.canal_width, width))


def _disc(above: VertebraParameters, size: _Size, rng: np.random.Generator, age: float) -> DiscParameters:
    """Height and grade of the disc below a vertebra; a healthy disc's grade follows age only up to III."""
    mean = float(np.interp(above.level, np.arange(2, LEVELS), list(DISC_HEIGHT.values())))
    grade = 1 + int(rng.random() < np.clip((age - 20) / 25, 0.1, 0.95))
    grade += int(grade == 2 and rng.random() < np.clip((age - 35) / 60, 0.0, 0.6))
    height = mean * size.stature * float(np.exp(size.noise["disc"][round(above.level) - 1]))
    return DiscParameters(above=above.name, height=height, lordosis=0.0, grade=grade)


def _sacrum(size: _Size, rng: np.random.Generator, person: Mapping[str, Any]) -> SacrumParameters:
    """Sacral bodies and curve; the female sacrum is broader and flatter."""
    female = person["sex"] == "F"
    height, width, depth = (size.factor(group, 25) for group in ("height", "width", "depth"))
    kyphosis = float(np.clip(rng.normal(60.0 if female else 68.0, 12.0), 35.0, 90.0))
    broad = 1.03 if female else 0.98
    return SacrumParameters(
        heights=tuple(h * height * (0.98 if female else 1.02) for h in SACRUM_HEIGHT),
        widths=tuple(w * width for w in SACRUM_WIDTH),
        depths=tuple(d * depth for d in SACRUM_DEPTH),
        half_spans=tuple(w * width * broad for w in SACRUM_HALF_SPAN),
        kyphosis=kyphosis,
        crest=float(rng.uniform(5.0, 8.0)),
        rudimentary_disc=float(rng.uniform(0.4, 0.65)) if rng.random() < 0.7 else 0.0,
        coccyx=int(rng.integers(3, 6)),
    )


def _cord(
    rng: np.random.Generator, size: _Size, person: Mapping[str, Any], overrides: Mapping[str, Any]
) -> CordParameters:
    """Cord and sac: one factor per subject (sd 9.7 %), level residuals 4-7 %, sac correlated with the cord (r ≈ .5)."""
    own = float(np.clip(rng.normal(), -2.0, 2.0))
    factor = (1.025 if person["sex"] == "M" else 0.975) * float(np.exp(0.094 * own))
    factor *= 1.0 - 0.002 * max(0.0, person["age"] - 50.0)
    spread = np.interp(np.arange(1, LEVELS), (1, 10, 16, 20), (0.03, 0.035, 0.05, 0.05))
    residual = np.empty(LEVELS - 1)
    residual[0] = rng.normal()
    for i in range(1, LEVELS - 1):
        residual[i] = 0.9 * residual[i - 1] + 0.436 * rng.normal()
    sac_own = float(np.clip(0.5 * own + 0.87 * rng.normal(), -2.0, 2.0))
    sac = float(np.exp(0.11 * sac_own)) * size.sex["canal"]
    conus = float(np.clip(rng.normal(20.25, 0.45), 19.0, 21.5))
    return CordParameters(
        factor=float(overrides.get("cord_factor", factor)),
        residual=tuple((spread * np.clip(residual, -2, 2)).tolist()),
        sac_factor=sac,
        sac_residual=tuple((0.03 * np.clip(rng.normal(size=LEVELS - 1), -2, 2)).tolist()),
        conus_level=float(overrides.get("conus_level", conus)),
        sac_end=float(np.clip(rng.normal(0.5, 0.17), 0.15, 0.85)),
    )


def _body(person: Mapping[str, Any]) -> BodyParameters:
    """Fat, skin and trunk size from body mass index and sex."""
    female = person["sex"] == "F"
    excess = person["bmi"] - 26.0
    fat = float(np.clip(0.22 if female else 0.14, 0.05, 0.5) + 0.003 * (person["age"] - 40.0) + 0.004 * excess)
    return BodyParameters(
        bmi=person["bmi"],
        fat_back=float(np.clip(24.0 + 2.4 * excess + (2.5 if female else -2.5), 9.0, 60.0)),
        skin=2.4,
        muscle_fat=float(np.clip(fat, 0.05, 0.5)),
        trunk_scale=float((person["stature"] / 1.71) * np.sqrt(person["bmi"] / 26.0)),
    )
