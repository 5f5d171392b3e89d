"""Vertebral bodies from the corpus class: components, rejoined clefts, fused bodies cut apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.instances.frame import ARCUS, CORPUS, DISC, ENDPLATE, Frame, bounding_box, grown
from nnunet_spine_ext.instances.geodesic import make_graph, propagate
from nnunet_spine_ext.measure.centreline import Centreline

# Distance between neighbouring body centres as a function of the body's cross-section A (mm²): 0.9 sqrt(A) + 5 gives
# 18 mm for C4, 26 mm for T6 and 37 mm for L3, mostly within 15 % of published means.
_PITCH_SLOPE, _PITCH_OFFSET = 0.9, 5.0
BIN_MM = 1.0
_SMOOTH = np.array([1.0, 2.0, 3.0, 2.0, 1.0]) / 9.0
# The second vertebra with its dens is about this long; bodies of a pitch below 23 mm may be cervical.
_AXIS_PITCHES, _CERVICAL_PITCH = 2.2, 23.0
# Centres farther apart than this many pitches have room for another body between them.
MISSING_BODY = 1.55


@dataclass(frozen=True)
class SeedSettings:
    """How bodies are found; all sizes in mm and mm³.

    Parameters
    ----------
    min_body_mm3: smaller pieces of corpus are fragments: they join the vertebra they touch.
    length_spread: standard deviation of the logarithm of a body's length over the expected one.
    cut_cost: price of a cut through a component, in units of squared standard deviations.
    gap_reward: what a cut gains at a level that consists of disc and endplate only.
    waist_reward: what a cut gains at a level where the component has no area left.
    root_reward: what a cut gains where the arches' roots begin below it and none ends above it.
    """

    min_body_mm3: float = 300.0
    length_spread: float = 0.25
    cut_cost: float = 2.0
    gap_reward: float = 8.0
    waist_reward: float = 4.0
    root_reward: float = 4.0


@dataclass
class Bodies:
    """The bodies found, from head to tail.

    Parameters
    ----------
    labels: int16 array of the frame, k for the k-th body (from 1), 0 elsewhere (fragments too).
    arc: (n,) arc length of the body centres; `pitch` (n,) distance to a neighbouring centre, both mm. The centre of a
        body that is cut off at an end of the picture, or that carries the dens, is where that of a whole body would be.
    notes: numbers of the bodies that were cut apart (``fused``) or put together (``rejoined``).
    """

    labels: Array
    arc: Array
    pitch: Array
    notes: dict[str, list[int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.arc)


@dataclass
class _Piece:
    """One component of corpus: its flat voxel indices and their arc lengths."""

    flat: Array
    arc: Array
    rejoined: bool = False

    @property
    def low(self) -> float:
        return float(np.quantile(self.arc, 0.03))

    @property
    def high(self) -> float:
        return float(np.quantile(self.arc, 0.97))

    @property
    def centre(self) -> float:
        return float(self.arc.mean())


@dataclass(frozen=True)
class _Profile:
    """Areas in mm² over slabs of 1 mm: `corpus`, `gap` (disc and endplate), `root` (arch where it leaves a body)."""

    start: float
    corpus: Array
    gap: Array
    root: Array

    def window(self, low: float, high: float) -> slice:
        first = int(np.clip((low - self.start) / BIN_MM, 0, len(self.corpus) - 1))
        last = int(np.clip(np.ceil((high - self.start) / BIN_MM), first + 1, len(self.corpus)))
        return slice(first, last)


def find_bodies(frame: Frame, line: Centreline, settings: SeedSettings) -> Bodies:
    """Return the vertebral bodies of a frame; none is not an error (`len(result) == 0`)."""
    pieces = _components(frame, line, settings)
    if not pieces:
        empty = np.zeros(0)
        return Bodies(np.zeros(frame.labels.shape, dtype=np.int16), empty, empty)
    profile = _profile(frame, line)
    pieces = _rejoin(pieces, profile)
    scale = _pitch_scale(pieces, profile)
    parts: list[Array] = []
    fused: list[int] = []
    rejoined: list[int] = []
    for number, piece in enumerate(pieces):
        cuts = _find_cuts(piece, profile, scale, settings, first=number == 0, voxel=frame.voxel_volume)
        cut = _cut(frame, piece, cuts) if cuts else [piece.flat]
        if len(cut) > 1:
            fused += range(len(parts) + 1, len(parts) + 1 + len(cut))
        if piece.rejoined:
            rejoined.append(len(parts) + 1)
        parts += cut
    return _collect(frame, line, parts, profile, scale, {"fused": fused, "rejoined": rejoined})


def _collect(
    frame: Frame, line: Centreline, parts: list[Array], profile: _Profile, scale: float, notes: dict[str, list[int]]
) -> Bodies:
    arcs = [line.locate(frame.positions(flat)) for flat in parts]
    centre = np.array([a.mean() for a in arcs])
    order = np.argsort(centre, kind="stable")
    labels = np.zeros(frame.labels.shape, dtype=np.int16)
    for rank, index in enumerate(order, start=1):
        labels.reshape(-1)[parts[index]] = rank
    low = np.array([np.quantile(arcs[i], 0.03) for i in order])
    high = np.array([np.quantile(arcs[i], 0.97) for i in order])
    expected = np.array([_expected_pitch(profile, a, b) * scale for a, b in zip(low, high, strict=True)])
    rank_of = {int(index) + 1: rank for rank, index in enumerate(order, start=1)}
    renamed = {key: sorted(rank_of[k] for k in found) for key, found in notes.items()}
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


def _components(frame: Frame, line: Centreline, settings: SeedSettings) -> list[_Piece]:
    """Components (6-connected) of corpus that are large enough to be a body, from head to tail."""
    import cc3d

    mask = frame.labels == CORPUS
    box = bounding_box(mask)
    if box is None:
        return []
    parts, count = cc3d.connected_components(mask[box], connectivity=6, return_N=True)
    sizes = np.bincount(parts.reshape(-1), minlength=count + 1) * frame.voxel_volume
    whole = np.zeros(frame.labels.shape, dtype=parts.dtype)
    whole[box] = parts
    flat = np.flatnonzero(mask)
    name = whole.reshape(-1)[flat]
    kept = [k for k in range(1, count + 1) if sizes[k] >= settings.min_body_mm3]
    order = np.argsort(name, kind="stable")
    starts = np.searchsorted(name[order], np.arange(count + 2))
    pieces = []
    for k in kept:
        voxels = np.sort(flat[order[starts[k] : starts[k + 1]]])
        pieces.append(_Piece(voxels, line.locate(frame.positions(voxels))))
    return sorted(pieces, key=lambda p: (p.centre, int(p.flat[0])))


def _profile(frame: Frame, line: Centreline) -> _Profile:
    """Sum corpus, disc/endplate and the roots of the arches over slabs of 1 mm across the line."""
    corpus = line.locate(frame.positions(np.flatnonzero(frame.labels == CORPUS)))
    gap = line.locate(frame.positions(np.flatnonzero((frame.labels == DISC) | (frame.labels == ENDPLATE))))
    root = line.locate(frame.positions(_roots(frame)))
    start = min(float(a.min()) for a in (corpus, gap, root) if len(a)) - 2.0
    count = int((max(float(a.max()) for a in (corpus, gap, root) if len(a)) - start) / BIN_MM) + 4
    area = frame.voxel_volume / BIN_MM
    sums = [np.bincount(((a - start) / BIN_MM).astype(np.intp), minlength=count) * area for a in (corpus, gap, root)]
    # Voxel planes beat against the slabs; a few slabs smooth that out.
    return _Profile(start, *(np.convolve(s, _SMOOTH, mode="same") for s in sums))


def _roots(frame: Frame) -> Array:
    """Flat indices of arch voxels within 3 mm (along each axis) of a body: the pedicles' roots."""
    near = frame.labels == CORPUS
    for axis, size in enumerate(frame.spacing):
        for _ in range(max(1, round(3.0 / size))):
            near = grown(near, (axis,))
    return np.flatnonzero(near & (frame.labels == ARCUS))


def _expected_pitch(profile: _Profile, low: float, high: float) -> float:
    area = profile.corpus[profile.window(low, high)]
    return float(_PITCH_SLOPE * np.sqrt(np.quantile(area, 0.6)) + _PITCH_OFFSET)


def _pitch_scale(pieces: list[_Piece], profile: _Profile) -> float:
    """How much larger or smaller this spine is than the rule, from neighbours with a disc between them."""
    ratios = []
    for upper, lower in pairwise(pieces):
        between = profile.window(upper.centre, lower.centre)
        gap = profile.gap[between] / np.maximum(profile.corpus[between] + profile.gap[between], 1.0)
        expected = 0.5 * (
            _expected_pitch(profile, upper.low, upper.high) + _expected_pitch(profile, lower.low, lower.high)
        )
        ratio = (lower.centre - upper.centre) / expected
        if gap.max() > 0.5 and 0.6 < ratio < 1.6:
            ratios.append(ratio)
    return float(np.median(ratios)) if len(ratios) >= 2 else 1.0


def _rejoin(pieces: list[_Piece], profile: _Profile) -> list[_Piece]:
    """Join pieces that lie side by side (sagittal cleft) or that together are no higher than one body."""
    joined: list[_Piece] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if last is not None and _same_body(last, piece, profile):
            joined[-1] = _Piece(
                np.concatenate([last.flat, piece.flat]), np.concatenate([last.arc, piece.arc]), rejoined=True
            )
        else:
            joined.append(piece)
    return joined


def _same_body(upper: _Piece, lower: _Piece, profile: _Profile) -> bool:
    overlap = min(upper.high, lower.high) - max(upper.low, lower.low)
    shorter = min(upper.high - upper.low, lower.high - lower.low)
    if overlap > 0.5 * shorter:
        return True
    between = profile.window(upper.centre, lower.centre)
    gap = profile.gap[between] / np.maximum(profile.corpus[between] + profile.gap[between], 1.0)
    low, high = min(upper.low, lower.low), max(upper.high, lower.high)
    return float(gap.max()) < 0.15 and high - low < 0.85 * _expected_pitch(profile, low, high)


def _find_cuts(
    piece: _Piece, profile: _Profile, scale: float, settings: SeedSettings, *, first: bool, voxel: float
) -> list[float]:
    """Return the arc lengths at which a component is to be cut: dynamic programming over 1 mm positions."""
    window = profile.window(float(piece.arc.min()), float(piece.arc.max()))
    count = window.stop - window.start
    place = ((piece.arc - profile.start) / BIN_MM).astype(np.intp) - window.start
    own = np.bincount(np.clip(place, 0, count - 1), minlength=count) * (voxel / BIN_MM)
    own = np.convolve(np.pad(own, 2, mode="edge"), _SMOOTH, mode="valid")
    # A tilted end tapers off; where less than a tenth of the area is left nothing can be learnt about cuts.
    solid = np.flatnonzero(own > 0.1 * np.quantile(own, 0.7))
    head, tail = int(solid[0]), int(solid[-1]) + 1
    usable = own[head:tail]
    if len(usable) * BIN_MM < 12.0:
        return []
    around = max(8, round(30 / BIN_MM))
    typical = np.array([np.quantile(usable[max(0, k - around) : k + around + 1], 0.6) for k in range(len(usable))])
    pitch = (_PITCH_SLOPE * np.sqrt(typical) + _PITCH_OFFSET) * scale
    inner = slice(window.start + head, window.start + tail)
    evidence = profile.gap[inner] / np.maximum(profile.gap[inner] + usable, 1.0)
    waist = np.clip(1.0 - usable / np.maximum(typical, 1.0), 0.0, 1.0)
    price = settings.cut_cost - settings.gap_reward * evidence - settings.waist_reward * waist
    price -= settings.root_reward * _root_edge(profile.root, inner, pitch)
    dens = first and float(pitch[-1]) < _CERVICAL_PITCH
    if dens:
        # The dens is a waist, with the roots of the first vertebra beside it: there only a disc tells a border.
        axis = round(_AXIS_PITCHES * float(pitch[-1]) / BIN_MM)
        price[:axis] = settings.cut_cost - settings.gap_reward * evidence[:axis]
    cuts = _cheapest_cuts(pitch, price, settings.length_spread, dens=dens)
    return [profile.start + (inner.start + c) * BIN_MM for c in cuts]


def _root_edge(root: Array, inner: slice, pitch: Array) -> Array:
    """How much (-1..1) the arch's roots begin below each position rather than end there.

    Pedicles leave the upper half of a body, so below a border between bodies there are roots and above it none.
    """
    total = np.concatenate([[0.0], np.cumsum(root)])

    def mean(position: Array, low: Array, high: Array) -> Array:
        first = np.clip(position + low, 0, len(root)).astype(np.intp)
        last = np.maximum(np.clip(position + high, 0, len(root)).astype(np.intp), first + 1)
        return (total[np.minimum(last, len(root))] - total[first]) / (last - first)

    position = np.arange(inner.start, inner.stop, dtype=np.float64)
    step = pitch / BIN_MM
    below, above = mean(position, 0.1 * step, 0.5 * step), mean(position, -0.4 * step, 0.0 * step)
    level = mean(position, -1.0 * step, 1.0 * step)
    return np.clip((below - above) / np.maximum(2.5 * level, 1.0), -1.0, 1.0)


def _cheapest_cuts(pitch: Array, price: Array, spread: float, *, dens: bool) -> list[int]:
    """Cut positions 1..n-1 (in bins) with the least sum of prices and of squared deviations of log lengths.

    The first and last part lack half a disc each, so their length is compared with 0.9 of the pitch. With `dens` the
    first part may also be as long as the second vertebra.
    """
    count = len(pitch)
    cumulative = np.concatenate([[0.0], np.cumsum(1.0 / pitch)])
    best = np.full(count + 1, np.inf)
    before = np.zeros(count + 1, dtype=np.intp)
    best[0] = 0.0
    for end in range(1, count + 1):
        starts = np.arange(max(0, end - 120), end)
        ratio = (cumulative[end] - cumulative[starts]) * BIN_MM
        ratio = ratio / (1.0 - 0.1 * (starts == 0) - 0.1 * (end == count))
        deviation = np.abs(np.log(np.maximum(ratio, 1e-3)))
        if dens:
            axis = np.abs(np.log(np.maximum(ratio / _AXIS_PITCHES, 1e-3)))
            deviation = np.where(starts == 0, np.minimum(deviation, axis), deviation)
        total = best[starts] + 0.5 * (deviation / spread) ** 2
        if end < count:
            total = total + price[end]
        choice = int(np.argmin(total))
        best[end], before[end] = total[choice], starts[choice]
    cuts: list[int] = []
    position = int(before[count])
    while position > 0:
        cuts.append(position)
        position = int(before[position])
    return cuts[::-1]


def _cut(frame: Frame, piece: _Piece, cuts: list[float]) -> list[Array]:
    """Cut a component: the middle of each part is certain, the rest goes to the nearest middle inside the component."""
    edges = np.array([piece.arc.min() - 1.0, *cuts, piece.arc.max() + 1.0])
    part = np.clip(np.searchsorted(edges, piece.arc, side="right") - 1, 0, len(cuts))
    margin = 0.25 * (edges[part + 1] - edges[part])
    sure = (piece.arc - edges[part] > margin) & (edges[part + 1] - piece.arc > margin)
    ends = (part == 0) & (piece.arc < edges[1] - margin) | (part == len(cuts)) & (piece.arc > edges[-2] + margin)
    mask = np.zeros(frame.labels.shape, dtype=bool)
    mask.reshape(-1)[piece.flat] = True
    box = bounding_box(mask)
    if box is None:
        return [piece.flat]
    seeds = np.full(frame.labels.shape, -1, dtype=np.int16)
    seeds.reshape(-1)[piece.flat] = np.where(sure | ends, part, -1)
    graph = make_graph(mask[box], frame.spacing)
    owner = propagate(graph, seeds[box].reshape(-1)[graph.flat]).owner
    result = np.full(frame.labels.shape, -1, dtype=np.int16)
    filled = np.full(mask[box].shape, -1, dtype=np.int16)
    filled.reshape(-1)[graph.flat] = owner
    result[box] = filled
    name = result.reshape(-1)
    return [found for k in range(len(cuts) + 1) if len(found := np.flatnonzero(name == k))]
