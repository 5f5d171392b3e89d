"""From a semantic mask to separate vertebrae, discs and endplates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.core.labels import DISC_OFFSET, ENDPLATE_OFFSET
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.instances.assign import AssignSettings, assign_levels, assign_vertebrae
from nnunet_spine_ext.instances.clean import CleanSettings, attach_loose, reassign_stray
from nnunet_spine_ext.instances.encoding import check_encoding
from nnunet_spine_ext.instances.frame import DISC, ENDPLATE, SACRUM, Frame, make_frame, without_specks
from nnunet_spine_ext.instances.networked import NetworkSettings, assign_by_network, low_agreement
from nnunet_spine_ext.instances.priors import class_lookup
from nnunet_spine_ext.instances.seeds import Bodies, SeedSettings, find_bodies
from nnunet_spine_ext.instances.slots import prune_slots, with_slots
from nnunet_spine_ext.measure.centreline import Centreline, centreline

if TYPE_CHECKING:
    from nnunet_spine_ext.instances.cutout_network import CutoutPredictor

SACRUM_INSTANCE = 26
# C1..C7, T1..T12, L1..L6: ids from 26 on have fixed meanings (sacrum, coccyx, T13, S2..).
POSITIONS = tuple(range(1, 26))


@dataclass(frozen=True)
class InstanceSettings:
    """Settings of the instance step.

    Parameters
    ----------
    smoothing_mm: smoothing of the line of the spine.
    min_speck_mm3: components of one class smaller than this decide nothing (30 voxels of 0.75×0.75×1.65 mm).
    min_above_mm3: a disc or endplates of this volume above the first body mean that a vertebra above it is only
        partly in the picture: it takes the first position.
    min_sliver_mm3: less of such a vertebra than this is left out (250 voxels of 0.75×0.75×1.65 mm; SPINEPS deletes such
        instances, too).
    """

    seeds: SeedSettings = field(default_factory=SeedSettings)
    assign: AssignSettings = field(default_factory=AssignSettings)
    clean: CleanSettings = field(default_factory=CleanSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    smoothing_mm: float = 20.0
    min_above_mm3: float = 100.0
    min_sliver_mm3: float = 232.0
    min_speck_mm3: float = 28.0


@dataclass(frozen=True)
class InstanceResult:
    """Instances on the grid of the semantic mask.

    Parameters
    ----------
    instances: uint16; vertebra n, disc 100+n, endplate 200+n (n: vertebra above), sacrum 26.
    qc: JSON-ready facts: how many, which were cut apart or rejoined, volumes, what stayed unassigned.
    warnings: findings that a user should look at.
    semantic: the semantic mask after clean-up, in the input's scheme, number type and grid; the input itself where
        nothing was changed.
    """

    instances: Volume
    qc: dict[str, Any]
    warnings: list[Problem]
    semantic: Volume


@dataclass
class Assignment:
    """Which vertebra each voxel belongs to, before discs are assigned and empty places are removed.

    Parameters
    ----------
    vertebrae: int16 array of the frame, numbers into `bodies` from 1, from head to tail; 0 elsewhere.
    bodies: places from head to tail, some of them without a body.
    real: (n,) bool, which places have a body.
    method: ``geodesic`` or ``network``, for the QC.
    steps: what was moved, for the QC; JSON-ready.
    warnings: findings that a user should look at.
    of_places: for the QC, by name: values by number of place.
    """

    vertebrae: Array
    bodies: Bodies
    real: Array
    method: str
    steps: dict[str, Any]
    warnings: list[Problem] = field(default_factory=list)
    of_places: dict[str, dict[int, Any]] = field(default_factory=dict)


def separate(
    semantic: Volume,
    scheme: str = "nnunet14",
    *,
    settings: InstanceSettings | None = None,
    predictor: CutoutPredictor | None = None,
) -> InstanceResult:
    """Separate vertebrae, discs and endplates of a semantic mask.

    Parameters
    ----------
    semantic: mask in any orientation and spacing.
    scheme: label scheme of the mask; it must map to ``nnunet14``.
    predictor: instance network; without one (the default) voxels find their vertebra by their way through the mask.

    Returns
    -------
    Instances numbered 1..n from the top (`qc["numbered"]` is False: the numbers say nothing about the anatomical
    level), on exactly the input's grid. A mask without bodies gives no vertebrae and a warning, not an error.

    Raises
    ------
    CaseError: label ids that the scheme does not know, or a voxel size with which this is no spine.
    UsageError: a network that needs arches and processes, for a scheme of whole vertebrae.
    """
    settings = settings or InstanceSettings()
    if predictor is not None:
        check_encoding(predictor.spec.encoding, scheme)
    frame = make_frame(semantic, scheme)
    if frame is None:
        empty = np.zeros(semantic.shape, dtype=np.uint16)
        return InstanceResult(semantic.with_array(empty), _no_bodies_qc(), [_nothing("an empty mask")], semantic)
    solid = without_specks(frame, settings.min_speck_mm3)
    line = centreline(solid.volume(), smoothing_mm=settings.smoothing_mm)
    bodies = find_bodies(solid, line, settings.seeds) if line is not None else None
    if line is None or bodies is None or len(bodies) == 0:
        sacrum = np.where(frame.labels == SACRUM, SACRUM_INSTANCE, 0).astype(np.uint16)
        warning = _nothing("no vertebral body")
        return InstanceResult(frame.restore(sacrum, semantic), _no_bodies_qc(), [warning], semantic)
    found = _assign(frame, solid, bodies, line, settings, predictor)
    levels = assign_levels(solid, frame, found.bodies, line)
    bodies, real, vertebrae, levels = prune_slots(
        frame,
        found.vertebrae,
        levels,
        found.bodies,
        found.real,
        min_bodyless_mm3=settings.assign.min_bodyless_mm3,
        min_disc_mm3=settings.min_above_mm3,
        min_sliver_mm3=settings.min_sliver_mm3,
    )
    instances, warnings = _number(frame, vertebrae, levels, len(bodies))
    qc = _qc(frame, vertebrae, bodies, real, instances, found)
    qc |= _of_positions(found, bodies)
    warnings = [*found.warnings, *warnings, *_findings(qc), *low_agreement(qc.get("agreement", {}), settings.network)]
    return InstanceResult(frame.restore(instances, semantic), qc, warnings, semantic)


def _assign(
    frame: Frame,
    solid: Frame,
    bodies: Bodies,
    line: Centreline,
    settings: InstanceSettings,
    predictor: CutoutPredictor | None,
) -> Assignment:
    """Voxels to vertebrae, by the network if there is one."""
    found = _assign_by_paths(frame, solid, bodies, line, settings)
    return found if predictor is None else _assign_by_network(frame, found, line, settings, predictor)


def _assign_by_network(
    frame: Frame, paths: Assignment, line: Centreline, settings: InstanceSettings, predictor: CutoutPredictor
) -> Assignment:
    """Voxels to vertebrae by a network; the assignment without one has a vote."""
    found = assign_by_network(frame, paths.vertebrae, paths.bodies, paths.real, line, predictor, settings.network)
    steps: dict[str, Any] = dict(found.steps)
    if settings.clean.reassign_stray:
        steps["stray_components_moved"] = reassign_stray(frame, found.vertebrae, settings.clean)
    attached, left = attach_loose(frame, found.vertebrae, found.bodies, line, settings.clean)
    steps |= {"loose_parts_attached": attached, "loose_parts_left": left}
    places: dict[str, dict[int, Any]] = {"agreement": found.agreement, "cutouts_per_vertebra": found.answers}
    return Assignment(found.vertebrae, found.bodies, found.real, "network", steps, found.warnings, places)


def _assign_by_paths(
    frame: Frame, solid: Frame, bodies: Bodies, line: Centreline, settings: InstanceSettings
) -> Assignment:
    """Voxels to vertebrae without a network."""
    bodies, real = with_slots(solid, bodies)
    vertebrae, counts = assign_vertebrae(frame, bodies, line, settings.assign)
    steps: dict[str, Any] = dict(counts)
    if settings.clean.reassign_stray:
        steps["stray_components_moved"] = reassign_stray(frame, vertebrae, settings.clean)
    attached, left = attach_loose(frame, vertebrae, bodies, line, settings.clean)
    steps |= {"loose_parts_attached": attached, "loose_parts_left": left}
    return Assignment(vertebrae, bodies, real, "geodesic", steps)


def _number(frame: Frame, vertebrae: Array, levels: Array, count: int) -> tuple[Array, list[Problem]]:
    """Positions from the top as ids; returns (uint16 ids, warnings)."""
    ids = np.arange(count + 1, dtype=np.uint16)
    warnings = []
    if count > POSITIONS[-1]:
        warnings.append(_too_many(count))
        ids[ids > POSITIONS[-1]] = 0
    instances = ids[vertebrae]
    for label, offset in ((DISC, DISC_OFFSET), (ENDPLATE, ENDPLATE_OFFSET)):
        here = (frame.labels == label) & (levels > 0)
        number = ids[levels[here]]
        instances[here] = np.where(number > 0, number + offset, 0)
    instances[frame.labels == SACRUM] = SACRUM_INSTANCE
    return instances, warnings


def _qc(
    frame: Frame, vertebrae: Array, bodies: Bodies, real: Array, instances: Array, found: Assignment
) -> dict[str, Any]:
    counts = np.bincount(instances.reshape(-1))
    ids = [int(k) for k in np.flatnonzero(counts) if k]
    body = np.bincount(bodies.labels.reshape(-1), minlength=len(bodies) + 1)
    loose = (class_lookup()[frame.labels] >= 0) & (vertebrae == 0)
    return {
        "numbered": False,
        "method": found.method,
        "vertebrae": int(sum(0 < k <= POSITIONS[-1] for k in ids)),
        "discs": int(sum(DISC_OFFSET < k < ENDPLATE_OFFSET for k in ids)),
        "without_body": [k + 1 for k in range(len(bodies)) if not real[k]],
        "cut_apart": bodies.notes["fused"],
        "rejoined": bodies.notes["rejoined"],
        "volume_mm3": {str(k): round(float(counts[k]) * frame.voxel_volume, 1) for k in ids},
        "body_volume_mm3": {
            str(k): round(float(body[k]) * frame.voxel_volume, 1) for k in range(1, len(bodies) + 1) if real[k - 1]
        },
        "pitch_mm": {str(k): round(float(p), 1) for k, p in enumerate(bodies.pitch, start=1)},
        "unassigned_voxels": int(loose.sum()),
        **found.steps,
    }


def _of_positions(found: Assignment, kept: Bodies) -> dict[str, dict[str, Any]]:
    """Values of places by the positions that these have after the empty ones were removed."""
    position = {int(k) + 1: n for n, k in enumerate(np.flatnonzero(np.isin(found.bodies.arc, kept.arc)), start=1)}
    return {
        name: {str(position[place]): value for place, value in sorted(values.items()) if place in position}
        for name, values in found.of_places.items()
    }


def _no_bodies_qc() -> dict[str, Any]:
    return {"numbered": False, "method": "geodesic", "vertebrae": 0, "discs": 0}


def _findings(qc: dict[str, Any]) -> list[Problem]:
    warnings = []
    if qc.get("loose_parts_left"):
        warnings.append(
            Problem(
                "warning",
                "W-INST-LOOSE",
                "",
                f"{qc['loose_parts_left']} posterior parts near no vertebral body",
                "every part near a body",
                "they stay unassigned; C1 has no body and is left out like this",
            )
        )
    if qc["cut_apart"]:
        names = ", ".join(map(str, qc["cut_apart"]))
        warnings.append(
            Problem(
                "warning",
                "W-INST-FUSED",
                "",
                f"bodies {names} (from the top) were one component and were cut apart",
                "separate bodies",
                "look at the borders between them",
            )
        )
    return warnings


def _nothing(found: str) -> Problem:
    return Problem(
        "warning",
        "W-INST-NONE",
        "",
        found,
        "at least one vertebral body (corpus)",
        "no vertebra was separated; check the label scheme and the segmentation",
    )


def _too_many(count: int) -> Problem:
    return Problem(
        "warning",
        "W-INST-MANY",
        "",
        f"{count} vertebrae",
        f"at most {POSITIONS[-1]} above the sacrum",
        "the lowest ones were left out; the mask may hold two spines or broken bodies",
    )
