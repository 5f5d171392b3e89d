"""Spines with known levels, and what a labelling network might say about them; for benchmarks/numbering.py."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.numbering.levels import GROUPS, INDEX, LEVELS, REGION_OF, REGIONS, RELATIVE, relative_targets
from nnunet_spine_ext.numbering.scores import VertebraScores

COUNTS = {
    "12T 5L": (12, 5),
    "T11": (11, 5),
    "T13": (13, 5),
    "L4": (12, 4),
    "L6": (12, 6),
    "T11 L6": (11, 6),
    "T13 L4": (13, 4),
}
# How frequent these counts are among people.
NATURAL = {"12T 5L": 0.88, "T11": 0.025, "T13": 0.02, "L4": 0.02, "L6": 0.035, "T11 L6": 0.01, "T13 L4": 0.01}
VIEWS = ("whole", "thoracolumbar", "lumbar", "cervicothoracic")
# How far off, in levels, the network sees a spine as a whole and each vertebra; how broad its answers are.
SUBJECT, VERTEBRA, BREADTH = 0.25, 0.35, 0.8
CERTAINTY = 4.0


@dataclass(frozen=True)
class Case:
    """One spine: names of the levels in view, head to tail, and whether the sacrum is."""

    counts: str
    view: str
    names: tuple[str, ...]
    sacrum: bool
    scores: VertebraScores


def draw_case(rng: np.random.Generator, counts: str, view: str, corrupted: float, *, jointly: bool = False) -> Case:
    """Draw a spine and its scores.

    Parameters
    ----------
    corrupted: probability that an answer has nothing to do with its vertebra.
    jointly: all answers about a vertebra are corrupted at once, else each by itself.
    """
    thoracic, lumbar = COUNTS[counts]
    names = [f"C{k}" for k in range(2, 8)]
    names += [f"T{k}" for k in range(1, thoracic + 1)] + [f"L{k}" for k in range(1, lumbar + 1)]
    if view == "thoracolumbar":
        names = names[int(rng.integers(8, 14)) :]
    elif view == "lumbar":
        names = names[-int(rng.integers(6, 9)) :]
    elif view == "cervicothoracic":
        names = names[: int(rng.integers(9, 15))]
    sacrum = view != "cervicothoracic"
    return Case(counts, view, tuple(names), sacrum, _scores(rng, names, corrupted, sacrum=sacrum, jointly=jointly))


def _scores(
    rng: np.random.Generator, names: list[str], corrupted: float, *, sacrum: bool, jointly: bool
) -> VertebraScores:
    level = np.array([INDEX[name] for name in names])
    count = len(names)
    place = _looks(level)
    seen = place + SUBJECT * rng.normal() + VERTEBRA * rng.normal(size=count)
    distance = seen[:, None] - _looks(np.arange(len(LEVELS)))
    by_level = _softmax(-0.5 * (distance / BREADTH) ** 2 + 0.3 * rng.normal(size=distance.shape))
    by_region = np.stack([by_level[:, np.array(REGION_OF) == k].sum(axis=1) for k in range(len(REGIONS))], axis=1)
    group_of = np.array([next(k for k, group in enumerate(GROUPS) if name in group) for name in LEVELS])
    by_group = np.stack([by_level[:, group_of == k].sum(axis=1) for k in range(len(GROUPS))], axis=1)
    roles = np.eye(len(RELATIVE))[relative_targets(names, sacrum_below=sacrum)]
    relative = _softmax(CERTAINTY * roles + rng.normal(size=roles.shape))
    is_t13 = np.array([name == "T13" for name in names])
    t13 = _softmax(CERTAINTY * np.stack([~is_t13, is_t13], axis=1) + rng.normal(size=(count, 2)))
    region = _softmax(np.log(by_region + 1e-3) + 0.5 * rng.normal(size=by_region.shape))
    group = _softmax(np.log(by_group + 1e-3) + 0.5 * rng.normal(size=by_group.shape))
    tables = {"level": by_level, "region": region, "group": group, "relative": relative, "t13": t13}
    whole = rng.random(count) < corrupted
    for name, table in tables.items():
        hit = whole if jointly else rng.random(count) < corrupted
        tables[name] = np.where(hit[:, None], rng.dirichlet(np.full(table.shape[1], 0.3), size=count), table)
    return VertebraScores(**tables, visible=np.clip(1 - 0.1 * rng.random(count), 0, 1))


def _looks(level: np.ndarray) -> np.ndarray:
    """Place of a level on the scale of looks: T13 is between T12 and L1, which follow each other."""
    t13 = INDEX["T13"]
    return np.where(level == t13, t13 - 0.5, np.where(level > t13, level - 1, level)).astype(float)


def _softmax(logits: np.ndarray) -> np.ndarray:
    weight = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weight / weight.sum(axis=1, keepdims=True)
