"""Tissues of the digital spine and their magnetic-resonance properties.

Every tissue is a water compartment and a fat compartment that share the voxel; the fat compartment is the same
everywhere. Relaxation times in ms, proton density relative to cerebrospinal fluid. Source tags: *read* in the
abstract or a table of a published series, *known* from the literature without page, *design* our choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

TISSUES: tuple[str, ...] = (
    "air",
    "skin",
    "fat",
    "muscle",
    "cortical",
    "marrow",
    "endplate",
    "annulus_outer",
    "annulus_inner",
    "nucleus",
    "nucleus_degenerated",
    "nucleus_dark",
    "csf",
    "cord_wm",
    "cord_gm",
    "roots",
    "ligament",
    "epidural_fat",
    "blood_flow",
    "vein",
    "lung",
    "organ",
    "bowel",
    "brain",
    "cartilage",
    "air_cavity",
    "oedema",
    "haemangioma",
    "modic_fat",
    "sclerosis",
    "disc_fissure",
)
"""Names of the tissues; a tissue map holds positions in this tuple."""

TISSUE_ID = MappingProxyType({name: index for index, name in enumerate(TISSUES)})
"""Tissue name -> value in a tissue map."""

Array = np.ndarray[Any, np.dtype[np.float64]]


class TissueRow(NamedTuple):
    """Water T1, T2, T2* as (1.5 T, 3 T), proton density of the water, fat fraction, source."""

    t1: tuple[float, float]
    t2: tuple[float, float]
    t2star: tuple[float, float]
    pd: float
    fat_fraction: float
    source: str


# Lipid in refocusing trains decays with an apparent T2 of 120-130 ms (J-coupling), not with its T2 of 58-68 ms.
FAT = TissueRow((343, 382), (125, 125), (40, 35), 0.95, 1.0, "known, apparent T2 of trains")
MARROW_FAT_DENSITY = 0.90

_NONE = ((1000, 1000), (1, 1), (0.4, 0.4))
_BLOOD = ((1441, 1932), (290, 275), (100, 60))
_CORD_WM = ((745, 876), (74, 73), (50, 40))

TISSUE_TABLE = MappingProxyType(
    {
        "air": TissueRow(*_NONE, 0.0, 0.0, "definition"),
        "skin": TissueRow((900, 1100), (30, 28), (15, 12), 0.60, 0.0, "design"),
        "fat": FAT,
        "muscle": TissueRow(
            (950, 1200), (40, 38), (28, 24), 0.80, 0.0, "known (29-50); fits muscle/cord of real volumes"
        ),
        "cortical": TissueRow((250, 250), (0.6, 0.6), (0.4, 0.4), 0.18, 0.0, "known"),
        "marrow": TissueRow((800, 950), (35, 30), (12, 9), 0.85, 0.35, "read (fat), known (water)"),
        "endplate": TissueRow((500, 550), (8, 8), (2, 1.5), 0.40, 0.0, "design: bone 0.6 mm and cartilage 0.8 mm"),
        "annulus_outer": TissueRow((600, 700), (30, 25), (20, 18), 0.45, 0.0, "read (T2), known"),
        "annulus_inner": TissueRow((700, 800), (55, 45), (35, 30), 0.60, 0.0, "read (T2), known"),
        "nucleus": TissueRow((1050, 1200), (150, 115), (60, 50), 0.84, 0.0, "read, Pfirrmann I-II"),
        "nucleus_degenerated": TissueRow((720, 780), (84, 70), (45, 38), 0.65, 0.0, "read, Pfirrmann III"),
        "nucleus_dark": TissueRow((600, 660), (51, 50), (30, 25), 0.55, 0.0, "read, Pfirrmann IV"),
        "csf": TissueRow((4000, 4273), (1800, 1578), (800, 700), 1.00, 0.0, "read"),
        "cord_wm": TissueRow(*_CORD_WM, 0.70, 0.0, "read at 3 T"),
        "cord_gm": TissueRow((850, 973), (78, 76), (55, 45), 0.80, 0.0, "read at 3 T"),
        "roots": TissueRow((745, 876), (81, 80), (50, 40), 0.70, 0.0, "design: white matter, T2 + 10 %"),
        "ligament": TissueRow((600, 700), (8, 7), (4, 3.5), 0.40, 0.0, "known"),
        "epidural_fat": FAT,
        "blood_flow": TissueRow(*_BLOOD, 0.90, 0.0, "known, static; flow in `signal`"),
        "vein": TissueRow(*_BLOOD, 0.90, 0.0, "known, static"),
        "lung": TissueRow((1200, 1300), (30, 25), (1.2, 0.8), 0.10, 0.0, "known"),
        "organ": TissueRow((650, 850), (60, 50), (30, 24), 0.80, 0.0, "known, between liver and kidney"),
        "bowel": TissueRow((700, 900), (60, 50), (20, 15), 0.80, 0.0, "known"),
        "brain": TissueRow((800, 950), (85, 80), (60, 48), 0.75, 0.0, "design: as cord"),
        "cartilage": TissueRow((1024, 1168), (30, 27), (20, 18), 0.70, 0.0, "known"),
        "air_cavity": TissueRow(*_NONE, 0.0, 0.0, "definition"),
        "oedema": TissueRow((1100, 1300), (90, 85), (25, 18), 0.85, 0.10, "design: T1 dark, STIR bright"),
        "haemangioma": TissueRow((1000, 1100), (150, 140), (40, 30), 0.90, 0.50, "design: T1 and T2 bright"),
        "modic_fat": TissueRow((800, 950), (35, 30), (12, 9), 0.85, 0.75, "design: fatty marrow"),
        "sclerosis": TissueRow((400, 450), (10, 9), (2, 1.5), 0.25, 0.10, "design: dark in all contrasts"),
        "disc_fissure": TissueRow((1500, 1600), (200, 180), (80, 60), 0.85, 0.0, "design: fluid in a fissure"),
    }
)
"""Tissue name -> mean properties, in the order of `TISSUES`."""

# One random factor per group keeps contrasts inside it (grey against white matter, nucleus against annulus).
_GROUPS = (
    ("cord_wm", "cord_gm", "roots", "brain"),
    ("annulus_outer", "annulus_inner", "nucleus", "nucleus_degenerated", "nucleus_dark", "disc_fissure"),
    ("marrow", "oedema", "haemangioma", "modic_fat", "sclerosis"),
    ("blood_flow", "vein"),
    ("fat", "epidural_fat"),
)
T_SCATTER = 0.08
PD_SCATTER = 0.04
# How bright fat is in a train depends on its pulses more than on the person.
FAT_T2_SCATTER = 0.2
FAT_FRACTION_SD = 0.06
_FAT_FRACTION_LIMITS = (0.22, 0.65)


@dataclass(frozen=True)
class TissueProperties:
    """Properties of all tissues of one subject at one field strength (T).

    `t1`, `t2`, `t2star`, `pd`: water compartment, float64 of shape (len(TISSUES),); `pd` already holds the share
    of water. `fat_pd`, `fat_t2star`: fat compartment, same shape; `fat_t1` and `fat_t2` are the same in all tissues.
    """

    field_strength: float
    t1: Array
    t2: Array
    t2star: Array
    pd: Array
    fat_pd: Array
    fat_t1: float
    fat_t2: float
    fat_t2star: Array


def tissue_properties(
    field_strength: float, *, rng: np.random.Generator | None = None, marrow_fat: float | None = None
) -> TissueProperties:
    """Return the properties at a field strength, with the scatter of one subject when a generator is given.

    Times between and beyond 1.5 and 3 T follow the power law through both. `marrow_fat` replaces the mean fat
    fraction of marrow (0-1).

    Raises
    ------
    ValueError: a field strength outside 0.2-7 T or a fat fraction outside 0-1.
    """
    if not 0.2 <= field_strength <= 7:
        msg = f"field strength {field_strength} T is outside 0.2-7 T"
        raise ValueError(msg)
    if marrow_fat is not None and not 0 <= marrow_fat <= 1:
        msg = f"fat fraction {marrow_fat} is outside 0-1"
        raise ValueError(msg)
    rows = [TISSUE_TABLE[name] for name in TISSUES]
    fat = np.array([row.fat_fraction for row in rows])
    if marrow_fat is not None:
        fat[TISSUE_ID["marrow"]] = marrow_fat
    pd = np.array([row.pd for row in rows])
    # Adipose rows give the density of the fat itself; the other fat is marrow.
    fat_density = np.where(fat == 1.0, FAT.pd, MARROW_FAT_DENSITY)
    factors = _scatter(rng)
    times = {
        "t1": _at_field([row.t1 for row in rows], field_strength) * factors["t1"],
        "t2": _at_field([row.t2 for row in rows], field_strength) * factors["t2"],
        "t2star": _at_field([row.t2star for row in rows], field_strength) * factors["t2"],
    }
    index = TISSUE_ID["fat"]
    return TissueProperties(
        field_strength=field_strength,
        pd=pd * (1 - fat) * factors["pd"],
        fat_pd=fat_density * fat * factors["pd"],
        fat_t1=float(times["t1"][index]),
        fat_t2=float(times["t2"][index]),
        # Trabeculae disturb the field of the fat between them as they disturb that of the water.
        fat_t2star=np.where(fat == 1.0, times["t2star"][index], times["t2star"]),
        **times,
    )


def marrow_fat_fraction(age: float, sex: str, rng: np.random.Generator | None = None) -> float:
    """Return the fat fraction of vertebral marrow at an age in years; sex is "m" or "f"."""
    mean = 0.35 + 0.003 * (age - 35) if sex.lower().startswith("m") else 0.27 + 0.008 * max(0.0, age - 45)
    scatter = 0.0 if rng is None else float(rng.normal(0, FAT_FRACTION_SD))
    return float(np.clip(min(mean, 0.55) + scatter, *_FAT_FRACTION_LIMITS))


def _at_field(pairs: list[tuple[float, float]], field_strength: float) -> Array:
    low, high = np.array(pairs, dtype=np.float64).T
    return low * (high / low) ** (math.log(field_strength / 1.5) / math.log(2))


def _scatter(rng: np.random.Generator | None) -> dict[str, Array]:
    """Log-normal factors of one subject, equal within a group."""
    factors = {key: np.ones(len(TISSUES)) for key in ("t1", "t2", "pd")}
    if rng is None:
        return factors
    grouped = {name for group in _GROUPS for name in group}
    groups = (*_GROUPS, *((name,) for name in TISSUES if name not in grouped))
    for group in groups:
        t2_scatter = FAT_T2_SCATTER if "fat" in group else T_SCATTER
        for key, width in (("t1", T_SCATTER), ("t2", t2_scatter), ("pd", PD_SCATTER)):
            factor = math.exp(float(np.clip(rng.normal(), -2.5, 2.5)) * width)
            factors[key][[TISSUE_ID[name] for name in group]] = factor
    return factors
