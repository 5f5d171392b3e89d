"""Where a component of corpus that holds several bodies is cut, and which voxel goes to which part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.config import check_ranges
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.instances.frame import ARCUS, CORPUS, DISC, ENDPLATE, INFERIOR, grown
from nnunet_spine_ext.instances.geodesic import make_graph, propagate
from nnunet_spine_ext.instances.voxels import Voxels, coordinates

# Distance between neighbouring body centres as a function of the body's cross-section A (mm²): 0.9 sqrt(A) + 5 gives
# 18 mm for C4, 26 mm for T6 and 37 mm for L3, mostly within 15 % of published means.
_PITCH_SLOPE, _PITCH_OFFSET = 0.9, 5.0
BIN_MM = 1.0
_SMOOTH = np.array([1.0, 2.0, 3.0, 2.0, 1.0]) / 9.0
# The second vertebra with its dens is about this long; bodies of a pitch below 23 mm may be cervical.
AXIS_PITCHES, CERVICAL_PITCH = 2.2, 23.0
_DENS_PITCHES, DENS_SHARE = 0.7, 0.6
# An arch that is this near to a body (along each axis) is its root.
_ROOT_MM = 3.0
# Components longer than this many bodies have their own scale, one of these.
_SEVERAL = 2.5
_SCALES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 1.05, 1.1, 1.15, 1.2)
# Less of an arch than this in a slab tells nothing.
_LITTLE_MM2 = 5.0


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
    arch_reward: what a cut gains where there is less arch and more of inferior articular processes than half a body
        above and below.
    scale_spread: standard deviation of the logarithm of this component's lengths over those of the rest of the spine.
    """

    min_body_mm3: float = 300.0
    length_spread: float = 0.25
    cut_cost: float = 2.0
    gap_reward: float = 8.0
    waist_reward: float = 8.0
    root_reward: float = 0.5
    arch_reward: float = 7.0
    scale_spread: float = 0.1

    def __post_init__(self) -> None:
        limits = {
            "min_body_mm3": (0.0, 1e6),
            "length_spread": (0.01, 1e6),
            "cut_cost": (0.0, 1e6),
            "gap_reward": (0.0, 1e6),
            "waist_reward": (0.0, 1e6),
            "root_reward": (0.0, 1e6),
            "arch_reward": (0.0, 1e6),
            "scale_spread": (0.001, 1e6),
        }
        check_ranges(self, limits, where="instances.seeds")


@dataclass(frozen=True)
class Profile:
    """Areas in mm² over slabs of 1 mm: `corpus`, `gap` (disc and endplate), `root` (arch where it leaves a body),
    `arch` (all of it), `lower` (inferior articular processes)."""

    start: float
    corpus: Array
    gap: Array
    root: Array
    arch: Array
    lower: Array

    def window(self, low: float, high: float) -> slice:
        """Return the slabs between two arc lengths, at least one."""
        first = int(np.clip((low - self.start) / BIN_MM, 0, len(self.corpus) - 1))
        last = int(np.clip(np.ceil((high - self.start) / BIN_MM), first + 1, len(self.corpus)))
        return slice(first, last)

    def expected_pitch(self, low: float, high: float) -> float:
        """Return the distance in mm between neighbouring body centres that the area between two levels suggests."""
        area = self.corpus[self.window(low, high)]
        return float(_PITCH_SLOPE * np.sqrt(np.quantile(area, 0.6)) + _PITCH_OFFSET)


def profile_of(voxels: Voxels, solid: Array) -> Profile:
    """Sum corpus, disc/endplate and the roots of the arches over slabs of 1 mm across the line.

    `solid`: (n,) bool, voxels that are no specks.
    """
    classes = (CORPUS,), (DISC, ENDPLATE), (ARCUS,), INFERIOR
    numbers = [nodes[solid[nodes]] for nodes in (voxels.of(*labels) for labels in classes)]
    numbers.insert(2, _roots(voxels, solid))
    arcs = [voxels.arc[nodes] for nodes in numbers]
    start = min(float(a.min()) for a in arcs if len(a)) - 2.0
    count = int((max(float(a.max()) for a in arcs if len(a)) - start) / BIN_MM) + 4
    area = voxels.frame.voxel_volume / BIN_MM
    sums = [np.bincount(((a - start) / BIN_MM).astype(np.intp), minlength=count) * area for a in arcs]
    # Voxel planes beat against the slabs; a few slabs smooth that out.
    return Profile(start, *(np.convolve(s, _SMOOTH, mode="same") for s in sums))


def _roots(voxels: Voxels, solid: Array) -> Array:
    """Numbers of the arch voxels near a body: the pedicles' roots."""
    cells = voxels.cells
    near = np.zeros(cells.shape, dtype=bool)
    body = voxels.of(CORPUS)
    near.reshape(-1)[voxels.cell[body[solid[body]]]] = True
    for axis, size in enumerate(cells.spacing):
        for _ in range(max(1, round(_ROOT_MM / size))):
            near = grown(near, (axis,))
    arch = voxels.of(ARCUS)
    return arch[solid[arch] & near.reshape(-1)[voxels.cell[arch]]]


def find_cuts(
    arc: Array, profile: Profile, scale: float, settings: SeedSettings, *, first: bool, voxel: float
) -> list[float]:
    """Return the arc lengths at which a component is to be cut: dynamic programming over 1 mm positions.

    Parameters
    ----------
    arc: arc lengths of the component's voxels in mm.
    scale: how much larger this spine is than the rule for its areas.
    first: whether the component is the topmost one, which may hold a dens.
    voxel: volume of a voxel in mm³.
    """
    window = profile.window(float(arc.min()), float(arc.max()))
    count = window.stop - window.start
    place = ((arc - profile.start) / BIN_MM).astype(np.intp) - window.start
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
    # Where a whole spine has fused its discs are gone, and all bodies are nearer to each other than the rule says.
    several = float((1.0 / pitch).sum()) * BIN_MM > _SEVERAL
    best: tuple[float, list[int]] = np.inf, []
    for factor in _SCALES if several else (1.0,):
        cost, found = _cuts_at(pitch * factor, usable, typical, profile, inner, settings, first=first)
        cost += 0.5 * (np.log(factor) / settings.scale_spread) ** 2
        best = min(best, (cost, found))
    return [profile.start + (inner.start + c) * BIN_MM for c in best[1]]


def _cuts_at(
    pitch: Array,
    usable: Array,
    typical: Array,
    profile: Profile,
    inner: slice,
    settings: SeedSettings,
    *,
    first: bool,
) -> tuple[float, list[int]]:
    """Return (price, positions) of the cheapest cuts if bodies are `pitch` long."""
    evidence = profile.gap[inner] / np.maximum(profile.gap[inner] + usable, 1.0)
    waist = np.clip(1.0 - usable / np.maximum(typical, 1.0), 0.0, 1.0)
    price = settings.cut_cost - settings.gap_reward * evidence - settings.waist_reward * waist
    price -= settings.root_reward * _root_edge(profile.root, inner, pitch)
    between = 0.5 * (_between(profile.lower, inner, pitch) - _between(profile.arch, inner, pitch))
    price -= settings.arch_reward * np.clip(between, -1.0, 1.0)
    # A dens is much thinner than the body that it stands on; the top of any other body is not.
    top, axis = (round(k * float(pitch[0]) / BIN_MM) for k in (_DENS_PITCHES, AXIS_PITCHES))
    thin = float(np.median(usable[: max(1, top)])) < DENS_SHARE * float(np.quantile(usable[:axis], 0.9))
    dens = first and float(pitch[0]) < CERVICAL_PITCH and thin
    if dens:
        # The dens is a waist, with the roots of the first vertebra beside it: there only a disc tells a border.
        price[:axis] = settings.cut_cost - settings.gap_reward * evidence[:axis]
    return _cheapest_cuts(pitch, price, settings.length_spread, dens=dens)


def _mean(profile: Array, low: Array, high: Array) -> Array:
    """Mean of a profile between two places (in bins) each, at least one bin."""
    total = np.concatenate([[0.0], np.cumsum(profile)])
    first = np.clip(low, 0, len(profile)).astype(np.intp)
    last = np.maximum(np.clip(high, 0, len(profile)).astype(np.intp), first + 1)
    mean: Array = (total[np.minimum(last, len(profile))] - total[first]) / (last - first)
    return mean


def _between(profile: Array, inner: slice, pitch: Array) -> Array:
    """How much more of something there is at each position than half a body above and below, in units of its mean."""
    position, step = np.arange(inner.start, inner.stop, dtype=np.float64), pitch / BIN_MM
    here, above, below, level = (
        _mean(profile, position + a * step, position + b * step)
        for a, b in ((-0.2, 0.2), (-0.65, -0.35), (0.35, 0.65), (-1.0, 1.0))
    )
    contrast: Array = (here - 0.5 * (above + below)) / np.maximum(level, _LITTLE_MM2)
    return contrast


def _root_edge(root: Array, inner: slice, pitch: Array) -> Array:
    """How much (-1..1) the arch's roots begin below each position rather than end there.

    Pedicles leave the upper half of a body, so below a border between bodies there are roots and above it none.
    """
    position, step = np.arange(inner.start, inner.stop, dtype=np.float64), pitch / BIN_MM
    below, above, level = (
        _mean(root, position + a * step, position + b * step) for a, b in ((0.1, 0.5), (-0.4, 0.0), (-1.0, 1.0))
    )
    return np.clip((below - above) / np.maximum(2.5 * level, 1.0), -1.0, 1.0)


def _cheapest_cuts(pitch: Array, price: Array, spread: float, *, dens: bool) -> tuple[float, list[int]]:
    """Return (price of all, cut positions 1..n-1 in bins) with the least sum of prices and of squared deviations.

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
            axis = np.abs(np.log(np.maximum(ratio / AXIS_PITCHES, 1e-3)))
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
    return float(best[count]), cuts[::-1]


def cut_apart(voxels: Voxels, nodes: Array, cuts: list[float]) -> list[Array]:
    """Cut a component: the middle of each part is certain, the rest goes to the nearest middle inside the component.

    Parameters
    ----------
    nodes: numbers of the component's voxels; `cuts` arc lengths in mm, ascending.

    Returns the numbers of the voxels of each part, ascending.
    """
    arc = voxels.arc[nodes]
    edges = np.array([arc.min() - 1.0, *cuts, arc.max() + 1.0])
    part = np.clip(np.searchsorted(edges, arc, side="right") - 1, 0, len(cuts))
    # Equally far on both sides of a cut, so that the border between two unequal parts lies in the cut.
    length = np.diff(edges)
    margin = 0.25 * np.minimum(np.append(length[0], length), np.append(length, length[-1]))
    upper, lower = edges[part] + margin[part], edges[part + 1] - margin[part + 1]
    sure = ((arc > upper) | (part == 0)) & ((arc < lower) | (part == len(cuts)))
    place = np.stack(coordinates(voxels.flat[nodes], voxels.frame.labels.shape))
    low = place.min(axis=1)
    mask = np.zeros(place.max(axis=1) - low + 1, dtype=bool)
    mask[tuple(place - low[:, None])] = True
    graph = make_graph(mask, voxels.frame.spacing)
    # Voxels are listed in the order of the graph's nodes.
    owner = propagate(graph, np.where(sure, part, -1)).owner
    return [found for k in range(len(cuts) + 1) if len(found := nodes[owner == k])]
