"""Relaxation times of what the labels of a spine are made of, and the signals of a scan protocol.

A class is a water and a fat compartment in one voxel. Times in ms at (1.5 T, 3 T); density relative to cerebrospinal
fluid; typical values of the literature, as good as a random contrast needs them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.label_mappings import MAPPINGS


class Tissue(NamedTuple):
    """Water T1, T2 and T2* as (1.5 T, 3 T), density of all protons, fat fraction, and CT number."""

    t1: tuple[float, float]
    t2: tuple[float, float]
    t2star: tuple[float, float]
    density: float
    fat: float
    hounsfield: float


_BONE = Tissue((750, 880), (34, 30), (10, 7), 0.55, 0.30, 450)
_CSF = Tissue((4000, 4270), (1800, 1580), (800, 700), 1.0, 0.0, 10)

TISSUES = MappingProxyType(
    {
        "air": Tissue((1000, 1000), (1, 1), (0.5, 0.5), 0.0, 0.0, -1000),
        "sacrum": Tissue((790, 940), (35, 31), (11, 8), 0.75, 0.40, 250),
        "bone": _BONE,
        "marrow": Tissue((800, 950), (36, 31), (12, 9), 0.80, 0.38, 220),
        "cord": Tissue((790, 920), (76, 75), (52, 42), 0.74, 0.0, 35),
        "csf": _CSF,
        "endplate": Tissue((500, 560), (9, 8), (2, 1.5), 0.38, 0.0, 420),
        "disc": Tissue((850, 950), (85, 70), (40, 34), 0.68, 0.0, 80),
        "muscle": Tissue((960, 1250), (40, 37), (28, 24), 0.80, 0.03, 55),
        "organ": Tissue((660, 850), (58, 50), (30, 24), 0.80, 0.02, 45),
        "fat": Tissue((340, 380), (125, 125), (40, 35), 0.95, 1.0, -100),
    }
)
"""Classes by name; `fat` holds the properties of the fat in all others too."""

NNUNET14 = (
    "air", "sacrum", "bone", "bone", "bone", "bone", "bone", "bone", "bone", "bone",
    "marrow", "cord", "csf", "endplate", "disc",
)  # fmt: skip
"""Class of each label of the 14-class scheme; label 0, whatever is not labelled, has none."""

BACKGROUND = ("air", "muscle", "organ", "fat")
"""What is taken for unlabelled voxels, from dark to bright in most contrasts."""

Sequence = str
SEQUENCES: tuple[Sequence, ...] = ("t1w", "t2w", "pdw", "t2star", "mt", "mprage", "stir", "dwi", "ct")
DIXON: tuple[Sequence, ...] = ("dixon_water", "dixon_fat", "dixon_opposed")
"""Water, fat, and their difference, of a turbo spin echo; drawn where they are named only."""

# Bounds of TR, TE, TI in ms, and of the flip angle in degrees.
_PROTOCOLS: Mapping[Sequence, Mapping[str, tuple[float, float]]] = MappingProxyType(
    {
        "t1w": {"tr": (400, 800), "te": (8, 16)},
        "t2w": {"tr": (2200, 6000), "te": (65, 140)},
        "pdw": {"tr": (2000, 5000), "te": (10, 40)},
        "t2star": {"tr": (300, 800), "te": (9, 25), "flip": (15, 40)},
        "mt": {"tr": (28, 40), "te": (3, 7), "flip": (5, 12)},
        "mprage": {"tr": (1900, 2600), "te": (2, 4), "ti": (850, 1100)},
        "stir": {"tr": (3000, 6000), "te": (30, 80), "ti": (140, 230)},
        "dwi": {"tr": (4000, 8000), "te": (60, 100)},
        **{name: {"tr": (400, 5000), "te": (10, 110)} for name in DIXON},
    }
)
_FAT_SUPPRESSION = MappingProxyType({"dwi": 1.0, "stir": 0.0, "t2w": 0.25, "t1w": 0.15, "pdw": 0.25})
# Diffusion weighting dims what moves freely; macromolecules saturate what is bound to them.
_DIFFUSION = MappingProxyType({"csf": 0.1, "cord": 0.8, "disc": 0.45, "muscle": 0.5})
_SATURATION = MappingProxyType({"cord": 0.62, "muscle": 0.55, "disc": 0.75, "organ": 0.7})
_TIMES_SCATTER = 0.08
_WINDOW = (-1000.0, 900.0)


@dataclass(frozen=True)
class Protocol:
    """One drawn protocol: sequence, field strength in tesla, times in ms, flip in degrees, part of fat that is left."""

    sequence: Sequence
    field_strength: float
    tr: float
    te: float
    ti: float
    flip: float
    fat: float


def draw_protocol(rng: np.random.Generator, sequence: Sequence) -> Protocol:
    """Draw times within what is usual for a sequence, at 1.5 or 3 T, with or without fat suppression."""
    bounds = _PROTOCOLS.get(sequence, {})
    values = {name: float(rng.uniform(*bounds[name])) if name in bounds else 0.0 for name in ("tr", "te", "ti", "flip")}
    suppressed = rng.random() < _FAT_SUPPRESSION.get(sequence, 0.0)
    fat = float(rng.uniform(0.0, 0.15)) if suppressed else 1.0
    return Protocol(sequence, float(rng.choice([1.5, 3.0])), fat=fat, **values)


def draw_signals(rng: np.random.Generator, protocol: Protocol) -> dict[str, float]:
    """Return the signal of every class of one subject: 0 air, 1 the brightest class."""
    if protocol.sequence == "ct":
        low, high = _WINDOW
        signals = {name: (t.hounsfield - low) / (high - low) for name, t in TISSUES.items()}
    else:
        signals = {name: _signal(name, protocol, rng) for name in TISSUES}
    brightest = max(signals.values())
    return {name: value / brightest for name, value in signals.items()}


def class_of_label(context: Context, classes: Mapping[int, str] | None = None) -> dict[int, str]:
    """Return the tissue class of every label that has one, 0 excepted.

    `classes` decides; without it what the context knows; where nobody has looked the labels 0 to 14, and only these,
    are taken for the 14-class scheme.
    """
    if classes:
        return {int(label): name for label, name in classes.items() if name in TISSUES and int(label) != 0}
    if context.tissues is not None:
        return {label: name for label, name in context.tissues if name in TISSUES and label in context.foreground}
    if context.labels == tuple(range(len(NNUNET14))):
        return {label: NNUNET14[label] for label in context.foreground}
    return {}


def classes_of_scheme(name: str) -> dict[int, str]:
    """Return the tissue of every label of a known scheme, by its translation into the 14-class scheme.

    Labels that have no counterpart there, such as whole vertebrae, have no tissue.
    """
    if name == "nnunet14":
        return {label: NNUNET14[label] for label in range(1, len(NNUNET14))}
    row = MAPPINGS.get((name, "nnunet14"))
    return {} if row is None else {label: NNUNET14[to] for label, to in row.table.items() if to}


def check_classes(where: str, classes: Mapping[str, str] | None) -> None:
    """Refuse what is no label id, and tissues that are not known.

    Raises
    ------
    UsageError: names the nearest tissue.
    """
    for label, name in (classes or {}).items():
        if name not in TISSUES:
            raise _refuse(f"{where}: classes", f"tissue {name!r}", "a known tissue", nearest(name, TISSUES))
        if not str(label).isdecimal():
            raise _refuse(f"{where}: classes", f"label {label!r}", 'a label id, such as "1"')


def _refuse(where: str, found: str, expected: str, fix: str = "correct the value") -> UsageError:
    return UsageError("E-CONFIG-VALUE", file=where, found=found, expected=expected, fix=fix)


def _signal(name: str, protocol: Protocol, rng: np.random.Generator) -> float:
    tissue, fat = TISSUES[name], TISSUES["fat"]
    water = (1 - tissue.fat) * _compartment(tissue, protocol, rng)
    if protocol.sequence == "dwi":
        water *= _DIFFUSION.get(name, 0.6)
    if protocol.sequence == "mt":
        water *= _SATURATION.get(name, 1.0)
    fatty = tissue.fat * protocol.fat * _compartment(fat, protocol, rng)
    match protocol.sequence:
        case "dixon_water":
            return tissue.density * water
        case "dixon_fat":
            return tissue.density * fatty
        case "dixon_opposed":
            return tissue.density * abs(water - fatty)
    return tissue.density * (water + fatty)


def _compartment(tissue: Tissue, protocol: Protocol, rng: np.random.Generator) -> float:
    """Return the signal of one compartment of density one."""
    factors = np.exp(_TIMES_SCATTER * rng.standard_normal(2).clip(-2.5, 2.5))
    t1 = _at_field(tissue.t1, protocol.field_strength) * factors[0]
    t2 = _at_field(tissue.t2, protocol.field_strength) * factors[1]
    recovery = math.exp(-protocol.tr / t1)
    match protocol.sequence:
        case "t2star" | "mt":
            angle = math.radians(protocol.flip)
            steady = math.sin(angle) * (1 - recovery) / (1 - recovery * math.cos(angle))
            return steady * math.exp(-protocol.te / (_at_field(tissue.t2star, protocol.field_strength) * factors[1]))
        case "mprage" | "stir":
            return abs(1 - 2 * math.exp(-protocol.ti / t1) + recovery) * math.exp(-protocol.te / t2)
    return (1 - recovery) * math.exp(-protocol.te / t2)


def _at_field(pair: tuple[float, float], field_strength: float) -> float:
    low, high = pair
    return low * (high / low) ** math.log2(field_strength / 1.5)


def per_label(context: Context, values: Mapping[int, float], default: float) -> NDArray[np.float64]:
    """Return one number per label of the context, (L,)."""
    return np.array([values.get(label, default) for label in context.labels])
