"""From separated vertebrae to numbered ones."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nnunet_spine_ext.core.cases import check_same_grid
from nnunet_spine_ext.core.config import check_ranges
from nnunet_spine_ext.core.errors import CaseError, Problem
from nnunet_spine_ext.core.labels import DISC_OFFSET, ENDPLATE_OFFSET, VERTEBRA_ORDER
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.numbering.anchors import (
    USER,
    Anchor,
    AnchorSettings,
    given_anchor,
    level_map_anchor,
    localizer_anchor,
    mask_anchors,
)
from nnunet_spine_ext.numbering.column import SACRUM_ID, Column, measure_column
from nnunet_spine_ext.numbering.findings import (
    anchor_facts,
    far_levels,
    far_localizer,
    findings,
    no_path,
    no_vertebra,
    path_facts,
)
from nnunet_spine_ext.numbering.given import against_user
from nnunet_spine_ext.numbering.levels import IDS, INDEX, LEVELS, level_index
from nnunet_spine_ext.numbering.masks import classes_of, levels_of, special_classes
from nnunet_spine_ext.numbering.path import Evidence, LevelPath, best_path
from nnunet_spine_ext.numbering.rules import PathRules
from nnunet_spine_ext.numbering.scores import VertebraScores
from nnunet_spine_ext.numbering.scoring import ScoreWeights, combine
from nnunet_spine_ext.numbering.sizes import gap_to_sacrum, gaps_between
from nnunet_spine_ext.numbering.transition import lumbosacral_facts


@dataclass(frozen=True)
class NumberingSettings:
    """Settings of the numbering step.

    Parameters
    ----------
    rules: prices of anomalies and of missing vertebrae; `rules.enforce` allows 12 thoracic and 5 lumbar only.
    weights: of the heads of a classifier.
    anchors: how much is believed to what the masks show.
    prior_with_scores: share of the prices of anomalies that is charged when there are scores of a classifier. They are
        blunted where heads are averaged, and so must be the prices.
    min_posterior: a vertebra whose level is less probable than this has none, and the mask keeps its positions; where
        the user gave a level, the numbers follow it all the same, with a warning.
    contradiction: an anchor that loses so many nats at one vertebra is named in a warning.
    first_vertebra, last_vertebra: level of the uppermost and the lowest vertebra of the mask, if the user knows it.
    positions: levels of vertebrae by their position from the top of the mask (``{"3": "L1"}``), if the user knows them.

    Raises
    ------
    UsageError: a share or probability outside 0 to 1, nats below 0.
    """

    rules: PathRules = field(default_factory=PathRules)
    weights: ScoreWeights = field(default_factory=ScoreWeights)
    anchors: AnchorSettings = field(default_factory=AnchorSettings)
    prior_with_scores: float = 0.3
    min_posterior: float = 0.85
    contradiction: float = 4.0
    first_vertebra: str | None = None
    last_vertebra: str | None = None
    positions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        limits = {"prior_with_scores": (0.0, 1.0), "min_posterior": (0.0, 1.0), "contradiction": (0.0, np.inf)}
        check_ranges(self, limits, where="numbering")


@dataclass(frozen=True)
class NumberingResult:
    """Numbered instances on the grid of those that went in.

    Parameters
    ----------
    instances: uint16 ids of the scheme ``instances`` (C1 is 1, L1 is 20, T13 is 28, disc 100+n, endplate 200+n; n is
        the vertebra above). Where a level is not known, the ids are those that went in.
    levels: level of each vertebra, head to tail; None: not known. Where the user gave a level, all have one.
    qc: JSON-ready facts; `qc["numbered"]` says whether ids are levels.
    warnings: findings that a user should look at.
    """

    instances: Volume
    levels: tuple[str | None, ...]
    qc: dict[str, Any]
    warnings: list[Problem]


def number(
    instances: Volume,
    semantic: Volume | None,
    scheme: str = "nnunet14",
    *,
    settings: NumberingSettings | None = None,
    scores: VertebraScores | None = None,
    localizer: Volume | None = None,
    level_map: Volume | None = None,
    level_scheme: str = "instances",
) -> NumberingResult:
    """Find out which vertebra is which.

    Parameters
    ----------
    instances: mask of `instances.separate`: vertebrae counted from the top, 26 the sacrum, discs 100+n, endplates
        200+n. Other masks do as well if ids grow from head to tail.
    semantic: the mask that they come from, on the same grid; None: only the instances are looked at.
    scheme: label scheme of `semantic`: one that maps to ``nnunet14``, or one with levels.
    scores: what a classifier says about each vertebra, head to tail.
    localizer: numbered instance mask of the same patient in the same scanner coordinates, on any grid.
    level_map: another mask with levels, on any grid, in `level_scheme`.

    Raises
    ------
    CaseError: masks on different grids, unknown label ids, scores for another number of vertebrae, levels given by the
        user that no spine has in these places.
    UsageError: an unknown scheme or level.
    """
    settings = settings or NumberingSettings()
    array = _whole_numbers(instances.array)
    instances = instances.with_array(array)
    if semantic is not None:
        check_same_grid(
            instances, semantic, file="semantic mask", what="the semantic mask", reference="the instance mask"
        )
    classes = None if semantic is None else classes_of(semantic, scheme)
    column = measure_column(instances, classes)
    count = len(column)
    if scores is not None and len(scores) != count:
        raise _other_count(len(scores), count)
    if count == 0:
        return _unknown(instances, column, {}, [no_vertebra()])
    given = _given(settings, count)
    special = {} if semantic is None else special_classes(semantic, scheme)
    anchors = mask_anchors(column, instances, classes, special, settings.anchors)
    own = None if semantic is None else levels_of(semantic, scheme, instances, required=False)
    anchors += [] if own is None else _some(level_map_anchor(column, instances, own, settings.anchors))
    apart: list[Problem] = []
    if level_map is not None:
        levels = levels_of(level_map, level_scheme, instances, required=True)
        named = [] if levels is None else _some(level_map_anchor(column, instances, levels, settings.anchors))
        anchors += named
        apart += (
            [] if named or settings.anchors.level_map <= 0 else [_idle_levels(column, instances, level_map, levels)]
        )
    found = None if localizer is None else localizer_anchor(column, localizer, settings.anchors)
    anchors += _some(found)
    if localizer is not None and settings.anchors.localizer > 0 and (found is None or not found.favours()):
        apart.append(far_localizer(settings.anchors.localizer_limit_mm))
    anchors += [a] if (a := given_anchor(column, given)) is not None else []
    classifier, evidence = _evidence(column, anchors, scores, settings)
    rules = _rules(settings, scores)
    path = best_path(evidence, rules)
    if path is None:
        if given:
            raise _impossible("; ".join(a.saw for a in anchors if a.name == USER), count)
        return _unknown(instances, column, {"anchors": anchor_facts(anchors, None)}, [*apart, no_path(count)])
    limits = {"contradiction": settings.contradiction, "min_posterior": settings.min_posterior}
    against = against_user(path, anchors, classifier, evidence, rules, **limits)
    result = _result(instances, column, path, anchors, evidence, settings)
    return replace(result, warnings=[*apart, *result.warnings, *against])


def _some(anchor: Anchor | None) -> list[Anchor]:
    return [] if anchor is None else [anchor]


def _idle_levels(column: Column, instances: Volume, level_map: Volume, levels: Array | None) -> Problem:
    """Return the warning that a mask of levels lies on no vertebra, or on too little of every one."""
    bone = np.isin(instances.array, column.ids)
    both = 0 if levels is None else int(np.count_nonzero(bone & (levels > 0)))
    return far_levels(int(np.count_nonzero(level_map.array)), both, int(np.count_nonzero(bone)))


def _result(
    instances: Volume,
    column: Column,
    path: LevelPath,
    anchors: list[Anchor],
    evidence: Evidence,
    settings: NumberingSettings,
) -> NumberingResult:
    chosen = path.best.levels
    sure = path.posterior[np.arange(len(chosen)), [INDEX[name] for name in chosen]]
    uncertain = [k for k, p in enumerate(sure.tolist(), start=1) if p < settings.min_posterior]
    # Numbers follow a level of the user even where it leaves two ways, which a warning names: positions would say less.
    given = any(anchor.name == USER for anchor in anchors)
    levels = tuple(None if k in uncertain and not given else name for k, name in enumerate(chosen, start=1))
    transition = lumbosacral_facts(instances, column, path.best, evidence.sacrum_gap)
    numbered = None not in levels
    qc = {
        "numbered": numbered,
        **path_facts(path, levels, evidence),
        "anchors": anchor_facts(anchors, chosen),
        "transition": transition,
    }
    warnings = findings(
        path,
        levels,
        anchors,
        transition,
        settings.contradiction,
        settings.min_posterior,
        uncertain=uncertain,
        sacrum_gap=evidence.sacrum_gap,
    )
    if not numbered:
        return NumberingResult(instances, levels, qc, warnings)
    return NumberingResult(instances.with_array(_renumbered(instances.array, column.ids, chosen)), levels, qc, warnings)


def _evidence(
    column: Column, anchors: list[Anchor], scores: VertebraScores | None, settings: NumberingSettings
) -> tuple[Array, Evidence]:
    """Return what a classifier says (0 without one) by itself, and all evidence."""
    level, relative = np.zeros((len(column), len(LEVELS))), None
    if scores is not None:
        level, relative = combine(scores, settings.weights)
    everything = level + sum((anchor.level for anchor in anchors), np.zeros_like(level))
    return level, Evidence(everything, relative, gaps_between(column), gap_to_sacrum(column))


def _rules(settings: NumberingSettings, scores: VertebraScores | None) -> PathRules:
    return settings.rules if scores is None else settings.rules.cheaper(settings.prior_with_scores)


def _given(settings: NumberingSettings, count: int) -> dict[int, str]:
    """Levels by position, of all three settings that can name one."""
    # What is no number cannot be a position: 0 is refused with those that are not in the mask.
    named = [(int(k) if k.isdecimal() else 0, name) for k, name in settings.positions.items()]
    named += [(1, settings.first_vertebra)] if settings.first_vertebra else []
    named += [(count, settings.last_vertebra)] if settings.last_vertebra else []
    given: dict[int, str] = {}
    for position, name in named:
        if position in given and level_index(given[position]) != level_index(name):
            raise _impossible(f"vertebra {position} is {given[position]} and {name}", count)
        given[position] = name
    return given


def _renumbered(array: Array, ids: tuple[int, ...], levels: tuple[str, ...]) -> Array:
    """Put the ids of levels in the place of positions, in discs and endplates too."""
    new = dict(zip(ids, (IDS[INDEX[name]] for name in levels), strict=True))
    table = np.arange(max(int(array.max(initial=0)), ENDPLATE_OFFSET + max(*ids, SACRUM_ID)) + 1, dtype=np.uint16)
    for offset in (0, DISC_OFFSET, ENDPLATE_OFFSET):
        for position in (*range(SACRUM_ID), *ids):
            if offset + position:
                table[offset + position] = 0
                vertebra = new.get(position) or _absent(position, new)
                if vertebra:
                    table[offset + position] = offset + vertebra
    return table[array]


def _absent(position: int, new: dict[int, int]) -> int:
    """Id of a vertebra that is not in the mask, for the disc or endplate that it left; 0: there is no place for one."""
    known = min(new, key=lambda other: (other > position, abs(other - position)))
    order = [k for k in VERTEBRA_ORDER if (k < SACRUM_ID and k != IDS[INDEX["L6"]]) or k in new.values()]
    rank = order.index(new[known]) + position - known
    return order[rank] if 0 <= rank < len(order) and order[rank] not in new.values() else 0


def _unknown(instances: Volume, column: Column, facts: dict[str, Any], warnings: list[Problem]) -> NumberingResult:
    qc = {"numbered": False, "levels": {}, **facts}
    return NumberingResult(instances, (None,) * len(column), qc, warnings)


def _whole_numbers(array: Array) -> Array:
    if array.dtype == np.uint16:
        return array
    whole = array if array.dtype.kind in "ui" else np.rint(array)
    highest = int(np.iinfo(np.uint16).max)
    if array.size and (not np.array_equal(whole, array) or int(whole.min()) < 0 or int(whole.max()) > highest):
        raise CaseError(
            "E-NUM-IDS",
            file="instance mask",
            found=f"values from {array.min():g} to {array.max():g}, not all of them instance ids",
            expected="whole numbers from 0",
            fix="give the instance mask, not the image or a soft mask",
        )
    return whole.astype(np.uint16)


def _other_count(scores: int, count: int) -> CaseError:
    return CaseError(
        "E-NUM-SCORES",
        file="scores of the vertebrae",
        found=f"{scores} rows",
        expected=f"{count}, one per vertebra of the instance mask",
        fix="score the vertebrae of this mask",
    )


def _impossible(said: str, count: int) -> CaseError:
    return CaseError(
        "E-NUM-GIVEN",
        file="levels given by the user",
        found=f"{said}; with {count} vertebrae in the mask no spine fits",
        expected="levels that grow downwards, one per vertebra, from C1 to L6",
        fix="look at the mask: it may hold more or fewer vertebrae than there are; or allow anomalies",
    )
