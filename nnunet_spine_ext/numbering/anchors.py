"""Evidence about levels from masks: what each kind of anchor sees, and what it adds to which vertebra.

Every anchor gives log-scores, so it can be outvoted by the others; only what the user says is final.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.core.config import check_ranges
from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.labels import VERTEBRA_ORDER
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.measure.centroids import centroids
from nnunet_spine_ext.numbering.column import Column, vertebra_ids
from nnunet_spine_ext.numbering.contact import contact_mm2
from nnunet_spine_ext.numbering.dens import dens_by_label, dens_by_shape
from nnunet_spine_ext.numbering.levels import IDS, INDEX, LEVELS, REGION_OF, level_index
from nnunet_spine_ext.numbering.sizes import SCATTER, size_scores

# The one that decides.
USER = "user"
_THORACIC = np.array([region == 1 for region in REGION_OF])


@dataclass(frozen=True)
class AnchorSettings:
    """How much each anchor counts; 0 switches it off.

    Parameters
    ----------
    dens: nats for C2 at the vertebra with the dens, where the mask has a class for it.
    dens_shape: the same where the dens is part of the body and only the shape tells.
    ribs: nats against other than thoracic levels for a vertebra that a rib touches; half as much against thoracic
        levels for those above and below all ribs.
    sizes: sizes of all bodies together count like so many vertebrae measured independently (people differ as a whole).
    level_map: share of the nats of a mask with levels (1: its voxels are believed as they are).
    localizer: share of the nats of a localizer scan.
    localizer_limit_mm: vertebrae farther than this from every vertebra of the localizer get nothing from it.
    localizer_scatter_mm: standard deviation of the distance between one vertebra in both scans (movement, cut-offs).
    error: probability that what an anchor says about a vertebra is wrong.
    min_dens_mm3, min_rib_mm2, min_overlap_mm3: less dens, contact or overlap than this says nothing. 250 mm³ is
        SPINEPS' limit for a dens.

    Raises
    ------
    UsageError: a value below 0, or an error or a scatter of 0.
    """

    dens: float = 12.0
    dens_shape: float = 6.0
    ribs: float = 4.0
    sizes: float = 3.0
    level_map: float = 1.0
    localizer: float = 1.0
    localizer_limit_mm: float = 15.0
    localizer_scatter_mm: float = 8.0
    error: float = 0.02
    min_dens_mm3: float = 250.0
    min_rib_mm2: float = 15.0
    min_overlap_mm3: float = 50.0

    def __post_init__(self) -> None:
        names = ("dens", "dens_shape", "ribs", "sizes", "level_map", "localizer", "localizer_limit_mm")
        limits = dict.fromkeys(names, (0.0, 1e3)) | {"localizer_scatter_mm": (0.1, 1e3), "error": (1e-6, 1.0)}
        limits |= dict.fromkeys(("min_dens_mm3", "min_rib_mm2", "min_overlap_mm3"), (0.0, 1e6))
        check_ranges(self, limits, where="numbering.anchors")


@dataclass(frozen=True, eq=False)
class Anchor:
    """What one source says: log-scores (n, 26) in nats, and in words what it saw.

    A weak one only tips the balance: it is never in contradiction to others.
    """

    name: str
    level: Array
    saw: str
    weak: bool = False

    def favours(self) -> dict[int, str]:
        """Return the level that it likes best for each row about which it says anything."""
        rows = np.flatnonzero(np.ptp(np.maximum(self.level, -1e3), axis=1) > 0)
        return {int(row): LEVELS[int(self.level[row].argmax())] for row in rows}

    def objections(self, chosen: Sequence[str]) -> Array:
        """Return (n,) nats lost at each vertebra by the chosen level over the one it likes best."""
        columns = [INDEX[name] for name in chosen]
        return self.level.max(axis=1) - self.level[np.arange(len(columns)), columns]


def mask_anchors(
    column: Column, instances: Volume, classes: Array | None, special: Mapping[str, Array], settings: AnchorSettings
) -> list[Anchor]:
    """Return the anchors of the masks themselves.

    Parameters
    ----------
    classes: ``nnunet14`` labels on the grid of the instances, or None.
    special: masks (i, j, k) of what ``nnunet14`` has no class for: ``dens``, ``ribs``.
    """
    found = [
        _dens(column, instances, classes, special, settings),
        _ribs(column, instances, special.get("ribs"), settings),
        _sizes(column, settings) if classes is not None else None,
    ]
    return [anchor for anchor in found if anchor is not None]


def level_map_anchor(column: Column, instances: Volume, levels: Array, settings: AnchorSettings) -> Anchor | None:
    """Return what a mask with levels says: the share of each level among the labelled voxels of a vertebra.

    Parameters
    ----------
    levels: (i, j, k) ids of single vertebrae (C1 is 1, L1 is 20), 0 elsewhere, on the grid of the instances.
    """
    if settings.level_map <= 0:
        return None
    both = np.flatnonzero((instances.array > 0) & (levels > 0))
    mine, theirs = instances.array.reshape(-1)[both], levels.reshape(-1)[both]
    result = np.zeros((len(column), len(LEVELS)))
    least = settings.min_overlap_mm3 / instances.voxel_volume
    rows = 0
    for row, vertebra in enumerate(column.ids):
        here = np.bincount(theirs[mine == vertebra], minlength=max(IDS) + 1)[list(IDS)]
        if here.sum() >= least:
            result[row] = settings.level_map * _log_shares(here / here.sum(), settings.error)
            rows += 1
    return Anchor("levels in a mask", result, f"levels of {rows} of {len(column)} vertebrae") if rows else None


def localizer_anchor(column: Column, localizer: Volume, settings: AnchorSettings) -> Anchor | None:
    """Return what a numbered instance mask of the same patient says, by the places of vertebrae in the scanner."""
    if settings.localizer <= 0:
        return None
    known = [k for k in vertebra_ids(localizer) if k in VERTEBRA_ORDER]
    if not known or not len(column):
        return None
    points = centroids(localizer)
    places = localizer.world(np.array([points[k] for k in known]))
    distance = np.linalg.norm(column.centre[:, None] - places, axis=2)
    columns = [IDS.index(k) for k in known]
    result = np.zeros((len(column), len(LEVELS)))
    near = distance.min(axis=1) <= settings.localizer_limit_mm
    weight = np.exp(-0.5 * (distance[near] / settings.localizer_scatter_mm) ** 2)
    share = np.zeros((int(near.sum()), len(LEVELS)))
    share[:, columns] = weight / weight.sum(axis=1, keepdims=True)
    result[near] = settings.localizer * _log_shares(share, settings.error)
    limit = f"{settings.localizer_limit_mm:g} mm"
    saw = f"{int(near.sum())} of {len(column)} vertebrae within {limit} of one of the localizer"
    return Anchor("localizer", result, saw)


def given_anchor(column: Column, given: Mapping[int, str]) -> Anchor | None:
    """Return what the user says: these positions have these levels and no others.

    Raises
    ------
    UsageError: no such level.
    CaseError: no such position.
    """
    if not given:
        return None
    result = np.zeros((len(column), len(LEVELS)))
    for position, name in given.items():
        index = level_index(name, option=f"level of vertebra {position}")
        if not 1 <= position <= len(column):
            raise CaseError(
                "E-NUM-POSITION",
                file="instance mask",
                found=f"a level for vertebra {position}, of {len(column)}",
                expected="a vertebra that is there",
                fix="count from the top of the mask",
            )
        result[position - 1] = -np.inf
        result[position - 1, index] = 0.0
    said = ", ".join(f"vertebra {position} is {name.strip().upper()}" for position, name in sorted(given.items()))
    return Anchor(USER, result, said)


def _dens(
    column: Column, instances: Volume, classes: Array | None, special: Mapping[str, Array], settings: AnchorSettings
) -> Anchor | None:
    labelled = special.get("dens")
    if labelled is not None and settings.dens > 0:
        row, volume = dens_by_label(column, instances, labelled)
        if volume >= settings.min_dens_mm3:
            return _at_c2(column, row, settings.dens, "dens", f"{volume:.0f} mm³ of dens")
    if classes is None or settings.dens_shape <= 0:
        return None
    shaped = dens_by_shape(column, instances, classes)
    if shaped is None:
        return None
    return _at_c2(column, shaped.row, settings.dens_shape, "shape of the dens", shaped.saw)


def _at_c2(column: Column, row: int, weight: float, name: str, saw: str) -> Anchor:
    result = np.zeros((len(column), len(LEVELS)))
    result[row, INDEX["C2"]] = weight
    return Anchor(name, result, f"{saw} at vertebra {row + 1} from the top")


def _ribs(column: Column, instances: Volume, ribs: Array | None, settings: AnchorSettings) -> Anchor | None:
    """Vertebrae that ribs touch are thoracic; what lies above or below all of them probably is not."""
    if ribs is None or settings.ribs <= 0 or not ribs.any():
        return None
    contact = contact_mm2(instances, ribs)[list(column.ids)]
    rows = np.flatnonzero(contact >= settings.min_rib_mm2)
    if not len(rows):
        return None
    result = np.zeros((len(column), len(LEVELS)))
    result[np.ix_(rows, ~_THORACIC)] = -settings.ribs
    beyond = np.r_[: rows[0], rows[-1] + 1 : len(column)]
    result[np.ix_(beyond, _THORACIC)] = -settings.ribs / 2
    return Anchor("ribs", result, f"ribs at vertebrae {rows[0] + 1} to {rows[-1] + 1} from the top")


def _sizes(column: Column, settings: AnchorSettings) -> Anchor | None:
    if settings.sizes <= 0:
        return None
    scores = size_scores(column)
    measured = int((np.ptp(scores, axis=1) > 0).sum())
    if measured == 0:
        return None
    share = min(1.0, settings.sizes / measured)
    return Anchor("sizes", share * scores, f"{', '.join(SCATTER)} of {measured} of {len(column)} vertebrae", weak=True)


def _log_shares(share: Array, error: float) -> Array:
    return np.log((1 - error) * share + error / len(LEVELS))
