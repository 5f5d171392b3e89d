"""Voxels to vertebrae with a network: cutouts around the bodies, answers, fusion, what nobody claimed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nnunet_spine_ext.core.config import check_ranges
from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.instances.cutout_network import CutoutPredictor
from nnunet_spine_ext.instances.cutouts import Index, ModelGrid, body_seeds, make_cutouts, make_grid
from nnunet_spine_ext.instances.frame import ARCUS, CORPUS, Frame, grown
from nnunet_spine_ext.instances.fusion import (
    Candidates,
    FusionSettings,
    Vertebra,
    Voter,
    choose,
    find_candidates,
    gather,
    vote,
)
from nnunet_spine_ext.instances.geodesic import make_graph, propagate
from nnunet_spine_ext.instances.priors import class_lookup
from nnunet_spine_ext.instances.seeds import Bodies
from nnunet_spine_ext.instances.sites import Sites, find_sites
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
    low_agreement: vertebrae below this are named in a warning.
    """

    fusion: FusionSettings = field(default_factory=FusionSettings)
    min_part_mm3: float = 232.0
    min_uncovered_mm3: float = 300.0
    reseed: int = 3
    fill_mm: float = 20.0
    low_agreement: float = 0.7

    def __post_init__(self) -> None:
        limits = {
            "min_part_mm3": (0.0, 1e6),
            "min_uncovered_mm3": (0.0, 1e6),
            "reseed": (0, 100),
            "fill_mm": (0.0, 1e6),
            "low_agreement": (0.0, 1.0),
        }
        check_ranges(self, limits, where="instances.network")


@dataclass(frozen=True)
class NetworkAssignment:
    """Vertebrae found with the help of a network.

    Parameters
    ----------
    vertebrae: int16 array of the frame, numbers into `bodies` from 1, from head to tail; 0 elsewhere.
    bodies: places from head to tail, some of them without a body.
    real: (n,) bool, which places have a body.
    agreement: place number to mean Dice of the answers used for it with the result; 0 if no cutout saw it.
    answers: place number to how many cutouts' answers were used.
    steps: counts for the QC.
    warnings: findings that a user should look at.
    """

    vertebrae: Array
    bodies: Bodies
    real: Array
    agreement: dict[int, float]
    answers: dict[int, int]
    steps: dict[str, Any]
    warnings: list[Problem]


@dataclass(frozen=True)
class _Fused:
    """The state after a round of fusion."""

    voters: list[Voter]
    candidates: Candidates
    place: Array
    vertebrae: list[Vertebra]
    unused: list[int]


def assign_by_network(
    frame: Frame,
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
    free: int16 array of the frame, the assignment without a network (numbers into `bodies`); it has a vote.
    bodies, real: places from head to tail and which of them have a body: the seeds.

    Raises
    ------
    CaseError: a voxel size with which this is no spine.
    """
    grid = make_grid(frame, predictor.spec)
    sites = find_sites(grid, frame)
    volume = float(np.prod(predictor.spec.spacing))
    at_sites = sites.take(grid.from_frame(free))
    voters = [Voter(0, at_sites, len(bodies), network=False)]
    pedicles = sites.pedicles()
    asked: list[Index] = []
    seeds = body_seeds(grid, bodies)
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
    return _assemble(frame, grid, sites, fused, names, bodies, real, asked, settings, sum(map(len, left)) * volume)


def _fuse(
    sites: Sites,
    voters: list[Voter],
    pedicles: tuple[Array, Array],
    bodies: Bodies,
    line: Centreline,
    settings: NetworkSettings,
    volume: float,
) -> _Fused:
    candidates = find_candidates(voters, int(settings.min_part_mm3 / volume), pedicles)
    place, misplaced = _places(sites, candidates, voters, bodies, line)
    fit = np.clip((_TORN_PITCHES[1] - misplaced) / (_TORN_PITCHES[1] - _TORN_PITCHES[0]), 0.0, 1.0)
    candidates = replace(candidates, whole=np.minimum(candidates.whole, fit))
    chosen = choose(candidates, voters, place, settings.fusion)
    vertebrae, unused = gather(candidates, voters, chosen, settings.fusion)
    return _Fused(voters, candidates, place, vertebrae, unused)


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


def _assemble(
    frame: Frame,
    grid: ModelGrid,
    sites: Sites,
    fused: _Fused,
    names: Array,
    bodies: Bodies,
    real: Array,
    asked: list[Index],
    settings: NetworkSettings,
    uncovered_mm3: float,
) -> NetworkAssignment:
    """Number the vertebrae from head to tail together with the places that stay empty, and bring them to the frame."""
    free_of = [_free_member(fused, vertebra) for vertebra in fused.vertebrae]
    empty = [k for k in range(1, len(bodies) + 1) if not real[k - 1] and k not in free_of]
    arcs = [
        float(bodies.arc[free - 1]) if free else float(fused.place[vertebra.candidate])
        for free, vertebra in zip(free_of, fused.vertebrae, strict=True)
    ]
    arcs += [float(bodies.arc[k - 1]) for k in empty]
    order = np.argsort(np.array(arcs), kind="stable")
    number = np.zeros(len(arcs) + 1, dtype=np.int16)
    number[order + 1] = np.arange(1, len(arcs) + 1)
    at_sites = fused.voters[0].labels
    place_of = np.zeros(len(bodies) + 1, dtype=np.int16)
    for position, k in enumerate(empty, start=len(fused.vertebrae) + 1):
        place_of[k] = number[position]
    # What only an empty place claims stays with it: whether it is a vertebra is decided later.
    numbered = np.where(names > 0, number[names], place_of[at_sites])
    foreground = class_lookup()[frame.labels] >= 0
    vertebrae = np.where(foreground, grid.to_frame(sites.put(numbered)), 0).astype(np.int16)
    filled = _fill(frame, vertebrae, foreground, settings.fill_mm)
    agreement, answers = _agreement(fused, names)
    arc = np.array(arcs)[order]
    pitch = np.interp(arc, bodies.arc, bodies.pitch)
    free_number = {free: int(number[k]) for k, free in enumerate(free_of, start=1) if free}
    notes = {key: sorted(free_number[k] for k in found if k in free_number) for key, found in bodies.notes.items()}
    found = Bodies(np.where(frame.labels == CORPUS, vertebrae, 0).astype(np.int16), arc, pitch, notes)
    found, is_real = _real_bodies(frame, found, settings)
    steps = {
        "cutouts": len(asked),
        "cutouts_without_answer": sum(len(v.labels) == 0 for v in fused.voters),
        "answers_unused": len(fused.unused),
        "voxels_filled": filled,
    }
    of_places = {int(number[k]): value for k, value in agreement.items()}
    warnings = _warnings(steps, uncovered_mm3)
    return NetworkAssignment(
        vertebrae, found, is_real, of_places, {int(number[k]): n for k, n in answers.items()}, steps, warnings
    )


def _free_member(fused: _Fused, vertebra: Vertebra) -> int:
    """Number that a vertebra has in the assignment without a network, 0 if it is not in it."""
    for k in vertebra.members:
        if fused.candidates.voter[k] == 0:
            return int(fused.candidates.label[k])
    return 0


def _fill(frame: Frame, vertebrae: Array, foreground: Array, limit: float) -> int:
    """Give voxels that nobody claimed to the vertebra nearest through the mask, in place; returns how many."""
    open_ = foreground & (vertebrae == 0)
    if not open_.any():
        return 0
    graph = make_graph(open_ | (grown(open_) & (vertebrae > 0)), frame.spacing)
    owner = vertebrae.reshape(-1)[graph.flat].astype(np.int32) - 1
    reach = propagate(graph, owner, limit=limit)
    before = int((owner >= 0).sum())
    vertebrae.reshape(-1)[graph.flat] = reach.owner + 1
    return int((reach.owner >= 0).sum()) - before


def _agreement(fused: _Fused, names: Array) -> tuple[dict[int, float], dict[int, int]]:
    """Mean Dice of the answers used for each vertebra with the result, and their number."""
    agreement: dict[int, float] = {}
    answers: dict[int, int] = {}
    sizes = np.bincount(names, minlength=len(fused.vertebrae) + 1)
    for number, vertebra in enumerate(fused.vertebrae, start=1):
        values = []
        for k in vertebra.members:
            voter = fused.voters[fused.candidates.voter[k]]
            if voter.network:
                own = voter.labels == fused.candidates.label[k]
                shared = int((names[voter.low : voter.high][own] == number).sum())
                values.append(2.0 * shared / max(float(fused.candidates.size[k]) + float(sizes[number]), 1.0))
        agreement[number] = round(float(np.mean(values)), 4) if values else 0.0
        answers[number] = len(values)
    return agreement, answers


def _real_bodies(frame: Frame, bodies: Bodies, settings: NetworkSettings) -> tuple[Bodies, Array]:
    """Take bodies that are no more than a fragment for absent."""
    # Of bodies only: counting all voxels would make 64-bit numbers of the whole frame.
    owner = bodies.labels[bodies.labels > 0]
    size = np.bincount(owner, minlength=len(bodies) + 1) * frame.voxel_volume
    real = size[1:] >= settings.min_uncovered_mm3
    keep = np.concatenate([[0], np.where(real, np.arange(1, len(bodies) + 1), 0)]).astype(np.int16)
    return replace(bodies, labels=keep[bodies.labels]), real


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


def _warnings(steps: dict[str, Any], uncovered_mm3: float) -> list[Problem]:
    """What the answers of the network as a whole give reason to look at."""
    found = []
    if steps["answers_unused"]:
        found.append(
            Problem(
                "warning",
                "W-INST-COUPLE",
                "",
                f"{steps['answers_unused']} answers of cutouts agree with no vertebra and were not used",
                "answers that agree with those of neighbouring cutouts",
                "look at the borders between vertebrae",
            )
        )
    if steps["cutouts_without_answer"]:
        found.append(
            Problem(
                "warning",
                "W-INST-CUTOUT",
                "",
                f"{steps['cutouts_without_answer']} of {steps['cutouts']} cutouts without an answer",
                "an answer for every cutout",
                "check whether the model was trained for masks like this one",
            )
        )
    if uncovered_mm3 > 0:
        found.append(
            Problem(
                "warning",
                "W-INST-UNCOVERED",
                "",
                f"{uncovered_mm3:.0f} mm³ of vertebral bodies in no answer of the network",
                "every body in one",
                "those voxels were assigned without the network; look at them",
            )
        )
    return found
