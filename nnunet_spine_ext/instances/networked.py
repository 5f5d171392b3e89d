"""Voxels to vertebrae with a network: cutouts around the bodies, answers, fusion, what nobody claimed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from nnunet_spine_ext.core.config import check_ranges
from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.instances.assembly import Fused, NetworkAssignment, assemble, findings_of
from nnunet_spine_ext.instances.cutout_network import CutoutPredictor
from nnunet_spine_ext.instances.cutouts import Index, body_seeds, make_cutouts, make_grid
from nnunet_spine_ext.instances.frame import ARCUS, CORPUS
from nnunet_spine_ext.instances.fusion import (
    Candidates,
    FusionSettings,
    Voter,
    choose,
    find_candidates,
    gather,
    vote,
)
from nnunet_spine_ext.instances.seeds import Bodies
from nnunet_spine_ext.instances.sites import Sites, find_sites
from nnunet_spine_ext.instances.voxels import Voxels
from nnunet_spine_ext.measure.centreline import Centreline

# The posterior elements lie about this many pitches below the middle of their body.
_POSTERIOR_LEVEL = 0.4
# An arch belongs to a body up to the first distance between their levels, in pitches, and from the second on it does
# not.
_TORN_PITCHES = (0.5, 0.9)
# A seed this near (in voxels along each axis) to one that was asked already would only repeat the question.
_SAME_SEED = 3
# The middle of a vertebra is known well enough from some of its sites.
_ENOUGH_SITES = 20_000
_AT_ONCE = 4


@dataclass(frozen=True)
class NetworkSettings:
    """How answers of an instance network become vertebrae.

    Parameters
    ----------
    min_part_mm3: smaller parts of an answer are ignored (250 voxels of 0.75×0.75×1.65 mm, as in SPINEPS).
    min_uncovered_mm3: where more than this of a body was claimed by no answer, another cutout is placed.
    reseed: at most this often.
    fill_mm: voxels that nobody claimed join the vertebra that is nearest through the mask, up to this distance.
    border_share, border_mm: a part of one class goes to one vertebra as a whole where the assignment without a network
        says so, the answers do for this share of it, and the rest is a slice no thicker than this (chosen on digital
        spines: 6.6 mm took part of a network's gain); 0 mm switches it off. What is thicker may be another process.
    low_agreement: vertebrae below this are named in a warning.
    """

    fusion: FusionSettings = field(default_factory=FusionSettings)
    min_part_mm3: float = 232.0
    min_uncovered_mm3: float = 300.0
    reseed: int = 3
    fill_mm: float = 20.0
    border_share: float = 2 / 3
    border_mm: float = 3.3
    low_agreement: float = 0.7

    def __post_init__(self) -> None:
        limits = {
            "min_part_mm3": (0.0, 1e6),
            "min_uncovered_mm3": (0.0, 1e6),
            "reseed": (0, 100),
            "fill_mm": (0.0, 1e6),
            "border_share": (0.0, 1.0),
            "border_mm": (0.0, 1e6),
            "low_agreement": (0.0, 1.0),
        }
        check_ranges(self, limits, where="instances.network")


def assign_by_network(
    voxels: Voxels,
    free: Array,
    bodies: Bodies,
    real: Array,
    line: Centreline,
    predictor: CutoutPredictor,
    settings: NetworkSettings,
) -> NetworkAssignment:
    """Separate vertebrae with the answers of a network about cutouts.

    Parameters
    ----------
    free: (n,) int16 per voxel, the assignment without a network (numbers into `bodies` from 1); it has a vote.
    bodies, real: places from head to tail and which of them have a body: the seeds.

    Raises
    ------
    CaseError: a voxel size with which this is no spine.
    """
    grid = make_grid(voxels.frame, predictor.spec)
    sites = find_sites(grid, voxels.frame)
    volume = float(np.prod(predictor.spec.spacing))
    at_sites = sites.take(voxels.dense(free), grid.source)
    voters = [Voter(0, at_sites, len(bodies), network=False)]
    pedicles = sites.pedicles()
    asked: list[Index] = []
    seeds = body_seeds(grid, voxels, bodies)
    rounds = 0
    while True:
        cutouts = make_cutouts(grid, seeds, predictor.spec, first=len(asked))
        # A few at a time: the probabilities of a whole spine would not fit into memory beside each other.
        for first in range(0, len(cutouts), _AT_ONCE):
            answers = predictor.predict(grid, cutouts[first : first + _AT_ONCE])
            voters += [sites.voter(answer) for answer in answers]
        asked += seeds
        fused = _fuse(sites, voters, pedicles, bodies, line, settings, volume)
        claimed = vote(
            fused.candidates, voters, fused.vertebrae, len(sites), settings.fusion, network_only=True
        ).astype(bool)
        uncovered = sites.corpus & ~claimed & (at_sites > 0)
        left = _uncovered_bodies(uncovered, at_sites, settings.min_uncovered_mm3 / volume)
        seeds = _new_seeds(sites, left, asked)
        if not seeds or rounds >= settings.reseed:
            break
        rounds += 1
    names = vote(fused.candidates, voters, fused.vertebrae, len(sites), settings.fusion)
    limits = {
        "fill_mm": settings.fill_mm,
        "min_body_mm3": settings.min_uncovered_mm3,
        "border_share": settings.border_share,
        "border_mm": settings.border_mm,
    }
    found = assemble(voxels, grid, sites, fused, names, free, bodies, real, **limits)
    steps = {
        "cutouts": len(asked),
        "cutouts_without_answer": sum(len(v.labels) == 0 for v in voters),
        **found.steps,
    }
    return replace(found, steps=steps, warnings=findings_of(steps, sum(map(len, left)) * volume))


def _fuse(
    sites: Sites,
    voters: list[Voter],
    pedicles: tuple[Array, Array],
    bodies: Bodies,
    line: Centreline,
    settings: NetworkSettings,
    volume: float,
) -> Fused:
    candidates = find_candidates(voters, int(settings.min_part_mm3 / volume), pedicles)
    place, misplaced = _places(sites, candidates, voters, bodies, line)
    fit = np.clip((_TORN_PITCHES[1] - misplaced) / (_TORN_PITCHES[1] - _TORN_PITCHES[0]), 0.0, 1.0)
    candidates = replace(candidates, whole=np.minimum(candidates.whole, fit))
    chosen = choose(candidates, voters, place, settings.fusion)
    vertebrae, unused = gather(candidates, voters, chosen, settings.fusion)
    return Fused(voters, candidates, place, vertebrae, unused)


def _places(
    sites: Sites, candidates: Candidates, voters: Sequence[Voter], bodies: Bodies, line: Centreline
) -> tuple[Array, Array]:
    """Where candidates lie along the spine.

    Returns
    -------
    (arc length in mm at which the body of each lies, or should lie if it has none; pitches between the levels of body
    and arch, 0 where it has not both).
    """
    if len(candidates) == 0:
        return np.zeros(0), np.zeros(0)
    centres, arches = np.zeros((len(candidates), 3)), np.zeros((len(candidates), 3))
    with_body, with_arch = np.zeros(len(candidates), dtype=bool), np.zeros(len(candidates), dtype=bool)
    for number in np.unique(candidates.voter):
        voter = voters[number]
        some = np.arange(voter.low, voter.high, max(1, len(voter.labels) // _ENOUGH_SITES))
        points, names = sites.positions(some), voter.labels[some - voter.low]
        own = np.flatnonzero(candidates.voter == number)
        all_counts, everything = _means(names, points, voter.count)
        counts, of_bodies = _means(np.where(sites.kinds[some] == CORPUS, names, 0), points, voter.count)
        arch_counts, of_arches = _means(np.where(sites.kinds[some] == ARCUS, names, 0), points, voter.count)
        label = candidates.label[own]
        with_arch[own] = arch_counts[label] > 0
        arches[own] = of_arches[label]
        with_body[own] = counts[label] > 0.1 * all_counts[label]
        centres[own] = np.where(with_body[own, None], of_bodies[label], everything[label])
    arc = line.locate(centres)
    pitch = np.interp(arc, bodies.arc, bodies.pitch)
    place = np.where(with_body, arc, arc - _POSTERIOR_LEVEL * pitch)
    # The places of the assignment without a network are known.
    own = np.flatnonzero([not voters[k].network for k in candidates.voter])
    place[own] = bodies.arc[candidates.label[own] - 1]
    misplaced = np.abs(line.locate(arches) - arc) / pitch
    return place, np.where(with_body & with_arch, misplaced, 0.0)


def _means(labels: Array, points: Array, count: int) -> tuple[Array, Array]:
    """Number of sites per label and their mean positions (count + 1, 3)."""
    sizes = np.bincount(labels, minlength=count + 1)
    sums = np.stack([np.bincount(labels, points[:, k], minlength=count + 1) for k in range(3)], axis=1)
    return sizes, sums / np.maximum(sizes, 1)[:, None]


def _uncovered_bodies(uncovered: Array, names: Array, least: float) -> list[Array]:
    """Numbers of the uncovered sites of each body of which at least so many sites are."""
    chosen = np.flatnonzero(uncovered)
    sizes = np.bincount(names[chosen])
    return [chosen[names[chosen] == name] for name in np.flatnonzero(sizes >= max(least, 1.0))]


def _new_seeds(sites: Sites, parts: Sequence[Array], asked: Sequence[Index]) -> list[Index]:
    """Middles of parts, without those where a cutout was placed already."""
    seeds: list[Index] = []
    for part in parts:
        voxels = sites.voxels(part)
        # The middle itself may lie in what is covered.
        nearest = voxels[((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1).argmin()]
        seed = (int(nearest[0]), int(nearest[1]), int(nearest[2]))
        if not any(max(abs(a - b) for a, b in zip(seed, old, strict=True)) <= _SAME_SEED for old in asked):
            seeds.append(seed)
    return seeds


def low_agreement(agreement: Mapping[str, float], settings: NetworkSettings) -> list[Problem]:
    """Return a warning about vertebrae (by position) on which the cutouts did not agree, if there are any."""
    low = [position for position, value in agreement.items() if value < settings.low_agreement]
    if not low:
        return []
    return [
        Problem(
            "warning",
            "W-INST-AGREE",
            "",
            f"little agreement about vertebrae {', '.join(low)} (from the top)",
            f"answers of cutouts that agree to {settings.low_agreement} or more",
            "look at these vertebrae",
        )
    ]
