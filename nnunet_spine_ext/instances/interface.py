"""From a semantic mask to separate vertebrae, discs and endplates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_spine_ext.core.config import check_ranges
from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.core.labels import DISC_OFFSET, ENDPLATE_OFFSET
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.instances.assign import AssignSettings, assign_levels, assign_vertebrae
from nnunet_spine_ext.instances.clean import CleanSettings, attach_loose, reassign_stray
from nnunet_spine_ext.instances.cuts import SeedSettings
from nnunet_spine_ext.instances.encoding import check_encoding
from nnunet_spine_ext.instances.endplates import endplate_owners
from nnunet_spine_ext.instances.findings import POSITIONS, findings, make_qc, no_bodies_qc, nothing, too_many
from nnunet_spine_ext.instances.frame import DISC, ENDPLATE, SACRUM, make_frame
from nnunet_spine_ext.instances.networked import NetworkSettings, assign_by_network, low_agreement
from nnunet_spine_ext.instances.seeds import Bodies, find_bodies
from nnunet_spine_ext.instances.slots import prune_slots, with_slots
from nnunet_spine_ext.instances.tidy import Edits, TidySettings, drop_before, drop_unassigned, fill_holes
from nnunet_spine_ext.instances.voxels import Voxels, read_voxels, without_specks
from nnunet_spine_ext.measure.centreline import Centreline, centreline

if TYPE_CHECKING:
    from nnunet_spine_ext.instances.cutout_network import CutoutPredictor

SACRUM_INSTANCE = 26
# Ids of the scheme ``spineps``.
_SUPERIOR, _INFERIOR = 52, 53


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
    tidy: TidySettings = field(default_factory=TidySettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    smoothing_mm: float = 20.0
    min_above_mm3: float = 100.0
    min_sliver_mm3: float = 232.0
    min_speck_mm3: float = 28.0

    def __post_init__(self) -> None:
        limits = {
            "smoothing_mm": (1.0, 200.0),
            "min_above_mm3": (0.0, 1e6),
            "min_sliver_mm3": (0.0, 1e6),
            "min_speck_mm3": (0.0, 1e6),
        }
        check_ranges(self, limits, where="instances")


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
    vertebra: (n,) int16, per voxel of the foreground a number into `bodies` from 1, from head to tail; 0 for none.
    body: (n,) the same for the voxels of bodies only.
    bodies: places from head to tail, some of them without a body.
    real: (n,) bool, which places have a body.
    method: ``geodesic`` or ``network``, for the QC.
    steps: what was moved, for the QC; JSON-ready.
    warnings: findings that a user should look at.
    of_places: for the QC, by name: values by number of place.
    """

    vertebra: Array
    body: Array
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
    if predictor is not None:
        check_encoding(predictor.spec.encoding, scheme)
    settings = settings or InstanceSettings()
    frame = make_frame(semantic, scheme)
    if frame is None:
        empty = np.zeros(semantic.shape, dtype=np.uint16)
        return InstanceResult(semantic.with_array(empty), no_bodies_qc(), [nothing("an empty mask")], semantic)
    edits = Edits()
    voxels, dropped = drop_before(read_voxels(frame), semantic, settings.tidy, settings.min_speck_mm3, edits)
    line = centreline(
        without_specks(voxels.frame, voxels, settings.min_speck_mm3).volume(), smoothing_mm=settings.smoothing_mm
    )
    bodies = None
    if line is not None:
        voxels = voxels.along(line)
        bodies = find_bodies(voxels, settings.seeds, min_speck_mm3=settings.min_speck_mm3)
    if line is None or bodies is None or len(bodies) == 0:
        sacrum = np.where(voxels.label == SACRUM, SACRUM_INSTANCE, 0)
        instances, cleaned = voxels.restore(sacrum, semantic), edits.apply(voxels, semantic)
        return InstanceResult(instances, no_bodies_qc() | dropped, [nothing("no vertebral body")], cleaned)
    found = _assign(voxels, bodies, line, settings, predictor)
    del bodies
    places = _prune(voxels, found, settings)
    position, warnings = _positions(places.vertebra, len(places.bodies))
    ids = _number(voxels, places.vertebra, places.levels, position)
    qc = make_qc(voxels, places.vertebra, places.bodies, places.real, ids, position)
    qc |= {"method": found.method, **dropped, **found.steps, **_of_positions(found.of_places, places.kept, position)}
    if frame.beyond_canal_mm3:
        qc["beyond_canal_mm3"] = round(frame.beyond_canal_mm3, 1)
    if settings.tidy.own_endplates or (settings.tidy.split_endplates and scheme == "spineps"):
        qc |= _endplates(voxels, places, position, ids, settings.tidy, edits, split=scheme == "spineps")
    del places
    holes, facts = fill_holes(voxels, ids, semantic, settings.tidy, settings.min_speck_mm3, edits)
    qc |= facts | drop_unassigned(voxels, ids, settings.tidy, edits)
    instances = voxels.restore(ids, semantic)
    if holes is not None:
        voxels.write(instances, holes.flat, holes.ids)
    warnings = [*found.warnings, *warnings, *findings(qc), *low_agreement(qc.get("agreement", {}), settings.network)]
    return InstanceResult(instances, qc, warnings, edits.apply(voxels, semantic))


@dataclass(frozen=True)
class _Places:
    """What `slots.prune_slots` leaves: places, which of them have a body, which of the earlier ones (m,) they are, and
    per voxel its vertebra, level, body."""

    bodies: Bodies
    real: Array
    kept: Array
    vertebra: Array
    levels: Array
    body: Array


def _prune(voxels: Voxels, found: Assignment, settings: InstanceSettings) -> _Places:
    """Assign discs and endplates, then remove empty places."""
    levels = assign_levels(voxels, found.body, found.bodies, settings.min_speck_mm3)
    bodies, kept, vertebra, levels = prune_slots(
        voxels,
        found.vertebra,
        levels,
        found.bodies,
        found.real,
        min_bodyless_mm3=settings.assign.min_bodyless_mm3,
        min_disc_mm3=settings.min_above_mm3,
        min_sliver_mm3=settings.min_sliver_mm3,
    )
    return _Places(bodies, found.real[kept], kept, vertebra, levels, bodies.labels)


def _endplates(
    voxels: Voxels,
    places: _Places,
    position: Array,
    ids: Array,
    settings: TidySettings,
    edits: Edits,
    *,
    split: bool,
) -> dict[str, int]:
    """Tell superior from inferior endplates: in the semantic mask, in the ids (in place), or both."""
    sacrum = len(places.bodies) + 1
    plate, owner = endplate_owners(voxels, places.body, places.levels, sacrum)
    superior, inferior = owner > places.levels[plate], (owner == places.levels[plate]) & (owner > 0)
    if settings.own_endplates:
        known = owner > 0
        own = np.append(position, SACRUM_INSTANCE)[owner]
        ids[plate[known]] = np.where(own > 0, own + ENDPLATE_OFFSET, 0)[known]
    if split and settings.split_endplates:
        edits.add(voxels.flat[plate[superior]], _SUPERIOR)
        edits.add(voxels.flat[plate[inferior]], _INFERIOR)
    return {
        "endplate_voxels_superior": int(superior.sum()),
        "endplate_voxels_inferior": int(inferior.sum()),
        "endplate_voxels_unsplit": int((owner == 0).sum()),
    }


def _assign(
    voxels: Voxels,
    bodies: Bodies,
    line: Centreline,
    settings: InstanceSettings,
    predictor: CutoutPredictor | None,
) -> Assignment:
    """Voxels to vertebrae, by the network if there is one."""
    bodies, real = with_slots(voxels, bodies, settings.min_speck_mm3)
    body = bodies.labels
    vertebra, counts = assign_vertebrae(voxels, body, bodies, line, settings.assign)
    found = Assignment(vertebra, body, bodies, real, "geodesic", dict(counts))
    if predictor is not None:
        found = _assign_by_network(voxels, found, line, settings, predictor)
    found.steps |= reassign_stray(voxels, found.vertebra, found.bodies, settings.clean)
    attached, left = attach_loose(voxels, found.vertebra, found.bodies, line, settings.clean)
    found.steps |= {"loose_parts_attached": attached, "loose_parts_left": left}
    return found


def _assign_by_network(
    voxels: Voxels, paths: Assignment, line: Centreline, settings: InstanceSettings, predictor: CutoutPredictor
) -> Assignment:
    """Voxels to vertebrae by a network; the assignment without one has a vote."""
    found = assign_by_network(voxels, paths.vertebra, paths.bodies, paths.real, line, predictor, settings.network)
    places: dict[str, dict[int, Any]] = {"agreement": found.agreement, "cutouts_per_vertebra": found.answers}
    steps = dict(found.steps)
    return Assignment(
        found.vertebra, found.bodies.labels, found.bodies, found.real, "network", steps, found.warnings, places
    )


def _positions(vertebra: Array, count: int) -> tuple[Array, list[Problem]]:
    """Return the id of each vertebra from 0 to `count`, its position from the top, and warnings.

    Of more vertebrae than there are positions the smallest get none: broken bodies leave small parts.
    """
    position = np.arange(count + 1, dtype=np.uint16)
    if count <= POSITIONS[-1]:
        return position, []
    sizes = np.bincount(vertebra, minlength=count + 1)[1:]
    largest = np.sort(np.argsort(-sizes, kind="stable")[: POSITIONS[-1]]) + 1
    position[:] = 0
    position[largest] = POSITIONS
    return position, [too_many(count)]


def _number(voxels: Voxels, vertebra: Array, levels: Array, position: Array) -> Array:
    """Return positions as ids, (n,) uint16."""
    instances = position[vertebra]
    for label, offset in ((DISC, DISC_OFFSET), (ENDPLATE, ENDPLATE_OFFSET)):
        here = voxels.of(label)
        number = position[levels[here]]
        instances[here] = np.where(number > 0, number + offset, 0)
    instances[voxels.of(SACRUM)] = SACRUM_INSTANCE
    return instances


def _of_positions(
    of_places: Mapping[str, Mapping[int, Any]], kept: Array, position: Array
) -> dict[str, dict[str, Any]]:
    """Values of places by their ids after the empty ones were removed.

    `kept`: (places,) bool. `position`: (places that were kept + 1,) ids, 0 of those left out.
    """
    ids = {int(k) + 1: int(position[n]) for n, k in enumerate(np.flatnonzero(kept), start=1) if position[n]}
    return {
        name: {str(ids[place]): value for place, value in sorted(values.items()) if place in ids}
        for name, values in of_places.items()
    }
