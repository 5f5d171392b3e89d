"""Vertebral bodies from the corpus class: components, rejoined clefts, fused bodies cut apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.instances.cuts import (
    AXIS_PITCHES,
    CERVICAL_PITCH,
    DENS_SHARE,
    Profile,
    SeedSettings,
    cut_apart,
    find_cuts,
    profile_of,
)
from nnunet_spine_ext.instances.frame import CORPUS
from nnunet_spine_ext.instances.voxels import Voxels

# Centres farther apart than this many pitches have room for another body between them.
MISSING_BODY = 1.55
# A topmost cervical body longer than this many pitches carries the dens.
_DENS_LENGTH = 1.3


@dataclass
class Bodies:
    """The bodies found, from head to tail.

    Parameters
    ----------
    labels: (n,) int16 per voxel of the foreground, k for the k-th body (from 1), 0 elsewhere (fragments too).
    arc: (n,) arc length of the body centres; `pitch` (n,) distance to a neighbouring centre, both mm. The centre of a
        body that is cut off at an end of the picture, or that carries the dens, is where that of a whole body would be.
    notes: numbers of the bodies that were cut apart (``fused``) or put together (``rejoined``); ``dens``: the one with
        a dens, if there is one.
    """

    labels: Array
    arc: Array
    pitch: Array
    notes: dict[str, list[int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.arc)


@dataclass
class _Piece:
    """One component of corpus: the numbers of its voxels and their arc lengths."""

    nodes: Array
    arc: Array
    rejoined: bool = False

    def __post_init__(self) -> None:
        self.low, self.high = (float(k) for k in np.quantile(self.arc, (0.03, 0.97)))
        self.centre = float(self.arc.mean(dtype=np.float64))


def find_bodies(voxels: Voxels, settings: SeedSettings, *, min_speck_mm3: float = 0.0) -> Bodies:
    """Return the vertebral bodies; none is not an error (`len(result) == 0`).

    Parameters
    ----------
    voxels: with arc lengths.
    min_speck_mm3: discs, endplates and arches in components smaller than this tell nothing about where to cut.
    """
    pieces = _components(voxels, settings)
    if not pieces:
        empty = np.zeros(0)
        return Bodies(np.zeros(len(voxels), dtype=np.int16), empty, empty)
    profile = profile_of(voxels, voxels.solid(min_speck_mm3))
    pieces = _rejoin(voxels, pieces, profile)
    scale = _pitch_scale(pieces, profile)
    parts: list[Array] = []
    fused: list[int] = []
    rejoined: list[int] = []
    for number, piece in enumerate(pieces):
        cuts = find_cuts(piece.arc, profile, scale, settings, first=number == 0, voxel=voxels.frame.voxel_volume)
        cut = cut_apart(voxels, piece.nodes, cuts) if cuts else [piece.nodes]
        if len(cut) > 1:
            fused += range(len(parts) + 1, len(parts) + 1 + len(cut))
        if piece.rejoined:
            rejoined.append(len(parts) + 1)
        parts += cut
    return _collect(voxels, parts, profile, scale, {"fused": fused, "rejoined": rejoined})


def _collect(voxels: Voxels, parts: list[Array], profile: Profile, scale: float, notes: dict[str, list[int]]) -> Bodies:
    pieces = [_Piece(nodes, voxels.arc[nodes]) for nodes in parts]
    centre = np.array([piece.centre for piece in pieces])
    order = np.argsort(centre, kind="stable")
    labels = np.zeros(len(voxels), dtype=np.int16)
    for rank, index in enumerate(order, start=1):
        labels[parts[index]] = rank
    low = np.array([pieces[i].low for i in order])
    high = np.array([pieces[i].high for i in order])
    expected = np.array([profile.expected_pitch(a, b) * scale for a, b in zip(low, high, strict=True)])
    rank_of = {int(index) + 1: rank for rank, index in enumerate(order, start=1)}
    renamed = {key: sorted(rank_of[k] for k in found) for key, found in notes.items()}
    if expected[0] < CERVICAL_PITCH and high[0] - low[0] > _DENS_LENGTH * expected[0]:
        renamed["dens"] = [1]
    arc = _whole_centres(centre[order], low, high, expected)
    return Bodies(labels, arc, _measured_pitch(arc, expected), renamed)


def _whole_centres(centre: Array, low: Array, high: Array, expected: Array) -> Array:
    """Move the centres of the outermost bodies to where they would be if the body were whole and had no dens."""
    arc = centre.copy()
    length = (high - low) / expected
    if not 0.55 < length[0] < 1.15:
        arc[0] = high[0] - 0.42 * expected[0]
    if length[-1] < 0.55:
        arc[-1] = low[-1] + 0.42 * expected[-1]
    return arc


def _measured_pitch(centre: Array, expected: Array) -> Array:
    """Mean distance to the neighbouring centres; where a body is missing between them, the expected one."""
    if len(centre) < 2:
        return expected
    steps = np.diff(centre)
    rule = 0.5 * (expected[1:] + expected[:-1])
    steps = np.where(np.abs(np.log(np.maximum(steps, 1.0) / rule)) < np.log(MISSING_BODY), steps, rule)
    return np.array([np.mean(steps[max(0, k - 1) : k + 1]) for k in range(len(centre))])


def _components(voxels: Voxels, settings: SeedSettings) -> list[_Piece]:
    """Components (6-connected) of corpus that are large enough to be a body, from head to tail."""
    body = voxels.of(CORPUS)
    part = voxels.part[body]
    body = body[(voxels.part_mm3 >= settings.min_body_mm3)[part]]
    part = voxels.part[body]
    order = np.argsort(part, kind="stable")
    bounds = np.flatnonzero(np.diff(part[order])) + 1
    groups = np.split(body[order], bounds) if len(body) else []
    pieces = [_Piece(nodes, voxels.arc[nodes]) for nodes in groups]
    return sorted(pieces, key=lambda p: (p.centre, int(p.nodes[0])))


def _pitch_scale(pieces: list[_Piece], profile: Profile) -> float:
    """How much larger or smaller this spine is than the rule, from neighbours with a disc between them."""
    ratios = []
    for upper, lower in pairwise(pieces):
        between = profile.window(upper.centre, lower.centre)
        gap = profile.gap[between] / np.maximum(profile.corpus[between] + profile.gap[between], 1.0)
        expected = 0.5 * (profile.expected_pitch(upper.low, upper.high) + profile.expected_pitch(lower.low, lower.high))
        ratio = (lower.centre - upper.centre) / expected
        if gap.max() > 0.5 and 0.6 < ratio < 1.6:
            ratios.append(ratio)
    return float(np.median(ratios)) if len(ratios) >= 2 else 1.0


def _rejoin(voxels: Voxels, pieces: list[_Piece], profile: Profile) -> list[_Piece]:
    """Join pieces that lie side by side (sagittal cleft) or that together are no higher than one body."""
    joined: list[_Piece] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if last is not None and (
            _same_body(last, piece, profile) or (len(joined) == 1 and _dens(last, piece, profile))
        ):
            nodes = np.sort(np.concatenate([last.nodes, piece.nodes]))
            joined[-1] = _Piece(nodes, voxels.arc[nodes], rejoined=True)
        else:
            joined.append(piece)
    return joined


def _same_body(upper: _Piece, lower: _Piece, profile: Profile) -> bool:
    overlap = min(upper.high, lower.high) - max(upper.low, lower.low)
    shorter = min(upper.high - upper.low, lower.high - lower.low)
    if overlap > 0.5 * shorter:
        return True
    between = profile.window(upper.centre, lower.centre)
    gap = profile.gap[between] / np.maximum(profile.corpus[between] + profile.gap[between], 1.0)
    low, high = min(upper.low, lower.low), max(upper.high, lower.high)
    return float(gap.max()) < 0.15 and high - low < 0.85 * profile.expected_pitch(low, high)


def _dens(upper: _Piece, lower: _Piece, profile: Profile) -> bool:
    """Whether the topmost piece is a dens that is cut off from its body: thin, and as long as C2 together with it."""
    pitch = profile.expected_pitch(lower.low, lower.high)
    # Multiplied out: a piece of one voxel layer has no length.
    thin = len(upper.nodes) * (lower.high - lower.low) < DENS_SHARE * len(lower.nodes) * (upper.high - upper.low)
    short = lower.high - upper.low < 1.15 * AXIS_PITCHES * pitch and lower.low - upper.high < 0.5 * pitch
    between = profile.window(upper.centre, lower.centre)
    gap = profile.gap[between] / np.maximum(profile.corpus[between] + profile.gap[between], 1.0)
    return pitch < CERVICAL_PITCH and thin and short and float(gap.max()) < 0.15
