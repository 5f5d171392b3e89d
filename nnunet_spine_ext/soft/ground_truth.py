"""From several contrasts' masks of one subject to one soft label, on the grid of each of them.

Bédard et al. 2025 (Medical Image Analysis, contrast-agnostic soft segmentation of the spinal cord) align the masks of
six contrasts to the T2w by their centres of mass, average them where they are covered, and carry the average back. This
does the same, on the union of all fields of view, with a gate against bad masks, and says where there is no label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import CaseError, Problem, UsageError
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.soft.alignment import (
    Alignment,
    ApartError,
    Track,
    align_centres,
    is_better,
    reshaped,
    track,
    turned,
)
from nnunet_spine_ext.soft.findings import copies, cut_off, disagreement, out_of_reach, warning, warnings_of
from nnunet_spine_ext.soft.gate import Agreement, dice, leave_one_out, outlier
from nnunet_spine_ext.soft.native import Union, to_native
from nnunet_spine_ext.soft.scan import Extent, Scan
from nnunet_spine_ext.soft.staple import Method, combine_raters, on_grid
from nnunet_spine_ext.soft.union_grid import Box, Frame, union

# In-plane room around the structure, for the edge that interpolation makes and for turning.
_MARGIN_MM = 4.0
# Headers that are metres off would need all the memory; their masks do not overlap.
_MOST_POINTS = 3e7
RATERS = "raters"


@dataclass(frozen=True)
class Contributor:
    """One mask: how it was moved, how well it agrees.

    Parameters
    ----------
    used: whether it is part of the average; `why` not.
    weight: in the average.
    alignment: None for raters and for masks that were left out.
    track: where the structure is, slice by slice, in the mask's own place.
    agreement: with the others, after alignment; before it, `dice_before`.
    """

    name: str
    used: bool
    weight: float
    why: str = ""
    alignment: Alignment | None = None
    track: Track | None = None
    agreement: Agreement | None = None
    dice_before: float = float("nan")


@dataclass(frozen=True)
class SoftGroundTruth:
    """The soft labels of one subject.

    Parameters
    ----------
    soft: name to float32 volume on that mask's own grid (shape, affine, axis order): 0 to 1, -1 = ignore. Raters of one
        image share one, called ``raters``.
    union: the average on the common grid, -1 = ignore; `coverage`: uint8, how many masks a slice is made of.
    reference: name of the mask that the others were moved to.
    z: (n,) mm, levels of the union along the reference's axis, from its first slice.
    contributors: every mask that was given.
    sensitivity, specificity: of raters, with STAPLE.
    warnings: what the user should know.
    average: the union as it is read, None for raters.
    """

    soft: dict[str, Volume]
    union: Volume
    coverage: Volume
    reference: str
    z: Array
    contributors: dict[str, Contributor]
    sensitivity: dict[str, float] = field(default_factory=dict)
    specificity: dict[str, float] = field(default_factory=dict)
    warnings: list[Problem] = field(default_factory=list)
    average: Union | None = None

    def at(self, name: str, grid: Volume) -> Volume:
        """Return the soft label of a mask on another grid of the same scan, -1 = ignore.

        Raises KeyError for a mask that was left out, and for raters.
        """
        alignment = self.contributors[name].alignment
        if name not in self.soft or self.average is None or alignment is None:
            raise KeyError(name)
        return to_native(self.average, grid, alignment.motion)


@dataclass(frozen=True)
class Recipe:
    """How masks are combined; see `soft_ground_truth` for the fields."""

    reference: str | None = None
    raters: bool = False
    method: Method = "average"
    rotation: bool = False
    affine: bool = False
    weights: Mapping[str, float] = field(default_factory=dict)
    extent: Extent = "seg"
    trim_mm: float = 0.0
    smooth_mm: float = 4.0
    min_overlap: int = 2
    min_dice: float = 0.7

    def __post_init__(self) -> None:
        faults = [
            (self.method not in ("average", "staple"), "--method", repr(self.method), "average or staple"),
            (self.method == "staple" and not self.raters, "--method", "staple without --raters", "masks of one image"),
            (self.method == "staple" and bool(self.weights), "--weights", "weights with staple", "no weights"),
            (self.raters and (self.rotation or self.affine), "--raters", "rotation or affine", "nothing is moved"),
            (self.raters and self.reference is not None, "--raters", "a reference", "nothing is moved"),
            (self.extent not in ("seg", "fov"), "--extent", repr(self.extent), "seg or fov"),
            (not 0 <= self.trim_mm < np.inf, "--trim-mm", f"{self.trim_mm:g}", "0 mm or more"),
            (not 0 <= self.smooth_mm < np.inf, "--smooth-mm", f"{self.smooth_mm:g}", "0 mm or more"),
            (self.min_overlap < 1, "--min-overlap", f"{self.min_overlap}", "1 or more"),
            (not 0 <= self.min_dice <= 1, "--min-dice", f"{self.min_dice:g}", "0 to 1"),
            (not all(0 < w < np.inf for w in self.weights.values()), "--weights", f"{dict(self.weights)}", "above 0"),
        ]
        for wrong, option, found, expected in faults:
            if wrong:
                raise UsageError("E-SOFT-OPTION", file=option, found=found, expected=expected, fix="correct the option")


def soft_ground_truth(masks: Mapping[str, Volume], recipe: Recipe | None = None) -> SoftGroundTruth:
    """Make soft labels of several masks of one subject.

    Parameters
    ----------
    masks: contrast (or rater) to mask, values 0 to 1, each on a grid of its own, any orientation; at least two.
    recipe:
        reference: name of the mask that the others are moved to; None: see `default_reference`.
        raters: masks of one image, on its grid: nothing is moved, and there is one result.
        method: ``average``, or for raters ``staple``.
        rotation: turn slices in their plane; affine: one more linear map of determinant 1 per scan. Both are kept for a
        scan only if its Dice with the others improves.
        weights: of masks in the average; 1 where none is given.
        extent: ``seg``: a mask counts from its first to its last slice that is not empty; ``fov``: in its whole scan.
        trim_mm: left out at both ends of every mask.
        smooth_mm: sigma of a Gaussian over the shifts along the body, after a median over 5 slices; 0: as measured. A
        centre of mass of a binary mask is known to 0.1 to 0.2 mm, a subject moves less from slice to slice.
        min_overlap: where fewer masks than this count, the label is -1 (ignore).
        min_dice: a mask whose Dice with the average of the others is lower is left out, the worst one first.

    Raises
    ------
    UsageError: contradicting options, or a reference or weight of a name that no mask has.
    CaseError: fewer than two masks, an empty one, no common slices, or masks of which too few agree.
    """
    recipe = recipe or Recipe()
    _check_names(masks, recipe)
    left = dict(masks)
    dropped: dict[str, Contributor] = {}
    warnings = copies(masks) + cut_off(masks)
    while True:
        try:
            result = _rated(left, recipe) if recipe.raters else _averaged(left, recipe)
        except ApartError as error:
            for name in _apart(error, recipe):
                warnings.append(out_of_reach(name, error))
                dropped[name] = Contributor(name, used=False, weight=recipe.weights.get(name, 1.0), why=error.found)
                del left[name]
            continue
        worst = outlier({n: c.agreement for n, c in result.contributors.items() if c.agreement}, recipe.min_dice)
        if worst is None:
            break
        row = result.contributors[worst]
        value = row.agreement.dice if row.agreement else float("nan")
        if len(left) <= 2:
            raise disagreement(list(left), value, recipe.min_dice, list(dropped))
        why = f"Dice {value:.3f} with the average of the others"
        warnings.append(
            warning("W-SOFT-OUTLIER", worst, why, f"{recipe.min_dice:g} or more", "it was left out: check it")
        )
        dropped[worst] = replace(row, used=False, why=why)
        del left[worst]
        if recipe.reference == worst:
            recipe = replace(recipe, reference=None)
    contributors = {name: result.contributors.get(name) or dropped[name] for name in masks}
    return replace(result, contributors=contributors, warnings=[*warnings, *result.warnings])


def _apart(error: ApartError, recipe: Recipe) -> Sequence[str]:
    """Return the masks to leave out because the others do not reach them; raises the error if fewer than two are left.

    The reference is left out if it is the one that stands alone, unless it was chosen.
    """
    if len(error.together) >= 2:
        return error.apart
    if len(error.apart) >= 2 and recipe.reference is None:
        return error.together
    raise error


def default_reference(masks: Mapping[str, Volume]) -> str:
    """Return the mask whose largest voxel edge is smallest; of equals smaller voxels, then T2w, then the first name.

    In the Spine-Generic protocol that is the T2w (0.8 mm). A T2w with thick slices would make a lattice as coarse.
    """
    edges = {name: (round(max(mask.spacing), 3), round(mask.voxel_volume, 4)) for name, mask in masks.items()}
    return min(masks, key=lambda name: (*edges[name], "t2w" not in name.lower(), name))


def _check_names(masks: Mapping[str, Volume], recipe: Recipe) -> None:
    if len(masks) < 2:
        raise CaseError(
            "E-SOFT-FEW",
            file=", ".join(masks) or None,
            found=f"{len(masks)} mask(s)",
            expected="at least two masks of one subject",
            fix="add masks of other contrasts or raters",
        )
    asked = [*recipe.weights, *([recipe.reference] if recipe.reference is not None else [])]
    unknown = next((name for name in asked if name not in masks), None)
    if unknown is not None:
        raise UsageError(
            "E-SOFT-NAME",
            file="--weights" if unknown in recipe.weights else "--reference",
            found=f"{unknown!r}, which no mask is called",
            expected=f"one of {', '.join(masks)}",
            fix=nearest(unknown, masks),
        )


def _rated(masks: Mapping[str, Volume], recipe: Recipe) -> SoftGroundTruth:
    rating = combine_raters(
        masks,
        method=recipe.method,
        weights=recipe.weights,
        extent=recipe.extent,
        trim_mm=recipe.trim_mm,
        min_overlap=recipe.min_overlap,
    )
    grid = rating.soft
    arrays = {n: on_grid(m, grid).to("RAS").array.astype(np.float32) for n, m in masks.items()}
    # A rater says something in all slices of which the rating has a count; empty ones agree with nothing.
    shown = {n: np.broadcast_to(a.any(axis=(0, 1)), a.shape).astype(np.float32) for n, a in arrays.items()}
    agreements = leave_one_out(arrays, shown)
    weights = {name: recipe.weights.get(name, 1.0) for name in masks}
    rows = {n: Contributor(n, used=True, weight=weights[n], agreement=agreements[n]) for n in masks}
    levels = np.arange(grid.to("RAS").shape[2]) * grid.to("RAS").spacing[2]
    return SoftGroundTruth(
        {RATERS: grid},
        grid,
        grid.with_array(rating.raters),
        next(iter(masks)),
        levels,
        rows,
        rating.sensitivity,
        rating.specificity,
    )


def _averaged(masks: Mapping[str, Volume], recipe: Recipe) -> SoftGroundTruth:
    reference = recipe.reference or default_reference(masks)
    frame = Frame.of(masks[reference])
    scans = {name: Scan(name, mask, extent=recipe.extent, trim_mm=recipe.trim_mm) for name, mask in masks.items()}
    own = {name: scan.box(frame, _MARGIN_MM) for name, scan in scans.items()}
    low, high = min(box.low[2] for box in own.values()), max(box.high[2] for box in own.values())
    own = {name: box.with_levels(low, high) for name, box in own.items()}
    z = own[reference].along(2, frame)
    tracks = {}
    for name, scan in scans.items():
        values, level, _ = scan.read(frame, own[name])
        tracks[name] = track(values, level, own[name].along(0, frame), own[name].along(1, frame))
    slice_mm = {name: scan.ras.spacing[2] for name, scan in scans.items()}
    aligned, target = align_centres(tracks, reference, z, slice_mm=slice_mm, smooth_mm=recipe.smooth_mm)
    box = union([_moved(own[name], aligned[name].shift, frame) for name in scans])
    read = {name: scan.read(frame, box, aligned[name].motion) for name, scan in scans.items()}
    before = _dice_before(scans, frame, union([*own.values()]))
    if recipe.rotation or recipe.affine:
        for name in scans:
            if name != reference:
                read[name] = _refined(scans[name], read, aligned[name], (tracks[name], target, z), frame, box, recipe)
    agreements = leave_one_out({n: r[0] for n, r in read.items()}, {n: r[2] for n, r in read.items()})
    average, count = _average(read, recipe)
    done = Union(frame, box, average, count >= recipe.min_overlap)
    if not done.valid.any():
        raise CaseError(
            "E-SOFT-APART",
            file=reference,
            found=f"no slice that {recipe.min_overlap} of {len(masks)} masks share",
            expected="masks that overlap along the body",
            fix="leave masks out, or ask for fewer (--min-overlap)",
        )
    soft = {name: to_native(done, masks[name], aligned[name].motion) for name in masks}
    rows = {
        name: Contributor(
            name,
            used=True,
            weight=recipe.weights.get(name, 1.0),
            alignment=aligned[name],
            track=tracks[name],
            agreement=agreements[name],
            dice_before=before[name],
        )
        for name in masks
    }
    coverage = frame.volume(count.astype(np.uint8), box)
    return SoftGroundTruth(
        soft, done.volume(), coverage, reference, z, rows, warnings=warnings_of(rows, soft), average=done
    )


def _moved(box: Box, shift: Array, frame: Frame) -> Box:
    """Return where the box of a scan lies after its slices were shifted."""
    steps = shift / frame.spacing[:2]
    low, high = np.floor(steps.min(axis=0)).astype(int), np.ceil(steps.max(axis=0)).astype(int)
    return Box(
        (box.low[0] + int(low[0]), box.low[1] + int(low[1]), box.low[2]),
        (box.high[0] + int(high[0]), box.high[1] + int(high[1]), box.high[2]),
    )


def _refined(
    scan: Scan,
    read: Mapping[str, tuple[Array, Array, Array]],
    alignment: Alignment,
    places: tuple[Track, Track, Array],
    frame: Frame,
    box: Box,
    recipe: Recipe,
) -> tuple[Array, Array, Array]:
    """Try rotation and affine; keep in `alignment`, and return as read, what agrees better with the others."""
    own, target, z = places
    others = {name: row for name, row in read.items() if name != scan.name}
    cover = sum(row[2] for row in others.values())
    mean = np.divide(sum(row[0] * row[2] for row in others.values()), cover, out=np.zeros(box.shape), where=cover > 0.5)

    def score(row: tuple[Array, Array, Array]) -> float:
        return dice(row[0], mean, (cover > 0.5) & (row[2] > 0.5))

    best = read[scan.name]
    alignment.tried["shift"] = score(best)
    for name, wanted, candidate in (("rotation", recipe.rotation, turned), ("affine", recipe.affine, reshaped)):
        if not wanted:
            continue
        motion, found = candidate(own, target, alignment, z)
        row = scan.read(frame, box, motion)
        alignment.tried[name] = score(row)
        if is_better(alignment.tried[name], score(best)):
            best, alignment.motion = row, motion
            if name == "rotation":
                alignment.angle = found
            else:
                alignment.shape = found
    return best


def _average(read: Mapping[str, tuple[Array, Array, Array]], recipe: Recipe) -> tuple[Array, Array]:
    """Return the average weighted by who sees a point, and how many count at its level."""
    total = np.zeros_like(next(iter(read.values()))[0])
    weight, count = np.zeros_like(total), np.zeros(total.shape, dtype=np.intp)
    for name, (values, level, inside) in read.items():
        share = np.float32(recipe.weights.get(name, 1.0))
        total += share * inside * values
        weight += share * inside
        count += level >= 0.5
    soft = np.divide(total, weight, out=np.zeros_like(total), where=weight > 1e-6)
    return np.clip(soft, 0.0, 1.0), count


def _dice_before(scans: Mapping[str, Scan], frame: Frame, box: Box) -> dict[str, float]:
    """Return the Dice of each mask with the others where the headers put them; 0 if that is too far apart to look."""
    if np.prod(np.asarray(box.shape, dtype=np.float64)) > _MOST_POINTS:
        return dict.fromkeys(scans, 0.0)
    read = {name: scan.read(frame, box) for name, scan in scans.items()}
    found = leave_one_out({n: r[0] for n, r in read.items()}, {n: r[2] for n, r in read.items()})
    return {name: row.dice for name, row in found.items()}
