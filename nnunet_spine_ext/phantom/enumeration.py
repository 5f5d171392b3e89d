"""Which vertebrae a spine has: counts per region, anomalies and the table row that each vertebra resembles."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from nnunet_spine_ext.core.errors import UsageError

NATURAL: Mapping[tuple[int, int], float] = MappingProxyType(
    {(12, 5): 0.89, (11, 5): 0.025, (13, 5): 0.02, (12, 4): 0.02, (12, 6): 0.035, (11, 6): 0.01}
)
"""Probability of (thoracic, lumbar) counts; 'oversample' draws an anomaly in 40 % of spines, in these proportions."""


def draw_counts(rng: np.random.Generator, anomalies: str) -> tuple[int, int]:
    """Return (thoracic, lumbar) counts.

    `anomalies`: 'natural', 'none', 'oversample', or names of the last vertebrae wanted, e.g. 'T11', 'L6', 'T11+L6'.
    Raises UsageError for anything else.
    """
    uniform = rng.random()
    if anomalies == "none":
        return 12, 5
    if anomalies in ("natural", "oversample"):
        pairs = list(NATURAL)
        weights = np.array([NATURAL[pair] for pair in pairs])
        if anomalies == "oversample":
            weights[1:] *= 0.4 / weights[1:].sum()
            weights[0] = 0.6
        return pairs[int(np.searchsorted(np.cumsum(weights / weights.sum()), uniform))]
    counts = {"T": 12, "L": 5}
    for token in anomalies.split("+"):
        match = re.fullmatch(r"T(1[123])|L([456])", token.strip())
        if match is None:
            raise UsageError(
                "E-PHANTOM-ANOMALY",
                found=f"anomalies={anomalies!r}",
                expected="natural, none, oversample, or last vertebrae such as T11, T13, L4, L6, T11+L6",
                fix="pass one of these",
            )
        counts[token.strip()[0]] = int(match.group(1) or match.group(2))
    return counts["T"], counts["L"]


def vertebra_names(thoracic: int, lumbar: int) -> tuple[str, ...]:
    """Return the names from C1 down."""
    cervical = [f"C{i}" for i in range(1, 8)]
    return (*cervical, *(f"T{i}" for i in range(1, thoracic + 1)), *(f"L{i}" for i in range(1, lumbar + 1)))


def table_level(name: str, thoracic: int, lumbar: int) -> float:
    """Return the continuous level whose table row a vertebra resembles.

    With 11 or 13 thoracic (4 lumbar) vertebrae the region's rows are stretched over those present, so that the last
    thoracic vertebra always resembles T12; a sixth lumbar vertebra has a row of its own.
    """
    region, number = name[0], int(name[1:])
    if region == "C":
        return float(number)
    if region == "T":
        return 8.0 + (number - 1) * 11.0 / (thoracic - 1)
    return 20.0 + (number - 1) * (4.0 / (lumbar - 1) if lumbar < 5 else 1.0)
