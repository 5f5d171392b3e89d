"""From geometry to voxels: tissue map, labels, instances, exact cord fractions and the truth that goes with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnunet_spine_ext.phantom.discs import BONY, disc_zone, endplate_slab, measure_gap
from nnunet_spine_ext.phantom.islands import absorb_specks
from nnunet_spine_ext.phantom.model import DiscParameters, VertebraParameters
from nnunet_spine_ext.phantom.pose import Joint, Pose
from nnunet_spine_ext.phantom.sacrum import sacrum_solids
from nnunet_spine_ext.phantom.shapes import Box, Field, Grid
from nnunet_spine_ext.phantom.soft_parts import paint_bed, paint_cord_tissue
from nnunet_spine_ext.phantom.spine import Spine
from nnunet_spine_ext.phantom.surroundings import paint_surroundings
from nnunet_spine_ext.phantom.tables import INSTANCE_ID
from nnunet_spine_ext.phantom.tissues import TISSUE_ID
from nnunet_spine_ext.phantom.truth import cord_fraction, level_truth
from nnunet_spine_ext.phantom.vertebra import CORPUS

SACRUM, CORD, CANAL, ENDPLATE, DISC = 1, 11, 12, 13, 14
SHELL = 0.9
"""Effective thickness of cortical bone (mm): thicker than the real shell, thin enough to be a partial-volume line."""


@dataclass(frozen=True)
class Painted:
    """A spine on a grid.

    tissue: uint8, shape * supersample, positions in `tissues.TISSUES`.
    semantic: uint8, `shape`, nnunet14 ids. instances: uint8, `shape`, spineps instance ids.
    cord_fraction: float32, `shape`, share of each voxel that is cord, 0 … 1.
    levels: JSON truth: names, poses, centroids, cord area per mm and per slice, pathologies.
    """

    tissue: NDArray[np.uint8]
    semantic: NDArray[np.uint8]
    instances: NDArray[np.uint8]
    cord_fraction: NDArray[np.float32]
    levels: dict[str, Any]


class Canvas:
    """The fine grid while it is painted: tissue, label, instance."""

    def __init__(self, grid: Grid, slab: float) -> None:
        self.grid = grid
        self.endplate_thickness = slab
        self.tissue = np.zeros(grid.shape, np.uint8)
        self.semantic = np.zeros(grid.shape, np.uint8)
        self.instances = np.zeros(grid.shape, np.uint8)

    def put(self, box: Box, where: NDArray[np.bool_], label: ArrayLike, instance: ArrayLike) -> None:
        """Write labels (scalar or per voxel of the box)."""
        for array, value in ((self.semantic, label), (self.instances, instance)):
            view, values = array[box], np.broadcast_to(np.asarray(value, np.uint8), where.shape)
            view[where] = values[where]


def paint(spine: Spine, affine: ArrayLike, shape: Sequence[int], supersample: Sequence[int] = (1, 1, 1)) -> Painted:
    """Paint a spine on a grid.

    Parameters
    ----------
    spine: the geometry, world RAS+ mm.
    affine: (4, 4), voxel indices of the grid `shape` to RAS+ mm; any orientation.
    shape: three voxel counts.
    supersample: refinement per axis for tissue and for the majority vote of the labels.
    """
    grid = Grid(affine, shape)
    fine = grid.refined(supersample)
    # An endplate thinner than a voxel would vanish in the vote: the label is drawn one voxel thick at least.
    along = np.abs(grid.affine[2, :3]).max()
    canvas = Canvas(fine, float(np.clip(0.6 * along, 1.4, 2.0)))
    paint_surroundings(spine, fine, canvas.tissue)
    paint_bed(spine, fine, canvas.tissue)
    _paint_sacrum(canvas, spine)
    for name in reversed(spine.parameters.names):
        _paint_vertebra(canvas, spine, name)
    for joint in spine.joints.values():
        _paint_gap(canvas, spine, joint)
    _paint_tubes(canvas, spine)
    semantic, instances = vote(canvas.semantic, canvas.instances, supersample)
    absorb_specks(semantic, instances, grid.spacing)
    fraction = cord_fraction(spine, grid)
    return Painted(canvas.tissue, semantic, instances, fraction, level_truth(spine, grid))


def _paint_vertebra(canvas: Canvas, spine: Spine, name: str) -> None:
    """One vertebra: parts in order of priority, then a cortical shell round their union."""
    pose, parts, body = spine.poses[name], spine.parts(name), spine.bodies.get(name)
    boxes = [part.solid.bounds() for part in parts] + ([body.bounds()] if body else [])
    low, high = np.min([b[0] for b in boxes], axis=0), np.max([b[1] for b in boxes], axis=0)
    box = canvas.grid.box(pose, low, high, 0.5)
    if box is None:
        return
    union = np.full([s.stop - s.start for s in box], 9.0, np.float32)
    label = np.zeros(union.shape, np.uint8)
    if body is not None:
        below = spine.bodies.get(spine.joints[name].below)
        inner = canvas.grid.box(pose, *body.bounds())
        if inner is not None:
            local = canvas.grid.local(pose, inner)
            _merge(union, label, box, inner, body.distance(*local, below.v.uncus if below else 0.0), CORPUS)
    for part in parts:
        inner = canvas.grid.box(pose, *part.solid.bounds())
        if inner is not None:
            _merge(union, label, box, inner, part.solid.distance(*canvas.grid.local(pose, inner)), part.label)
    free = (union < 0) & (canvas.semantic[box] == 0)
    canvas.put(box, free, label, INSTANCE_ID[name])
    _bone_tissue(canvas, box, free, union)
    if body is not None:
        _marrow_findings(canvas, spine.poses[name], body.v, box)


def _merge(union: Field, label: NDArray[np.uint8], outer: Box, inner: Box, distance: Field, value: int) -> None:
    """Add a solid to a union of solids; voxels that are already labelled keep their label."""
    part = tuple(slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True))
    fresh = (distance < 0) & (label[part] == 0)
    label[part][fresh] = value
    np.minimum(union[part], distance, out=union[part])


def _bone_tissue(canvas: Canvas, box: Box, where: NDArray[np.bool_], distance: Field) -> None:
    """Marrow inside, cortical bone in the outer millimetre."""
    view = canvas.tissue[box]
    view[where] = np.where(distance[where] < -SHELL, TISSUE_ID["marrow"], TISSUE_ID["cortical"])


def _marrow_findings(canvas: Canvas, pose: Pose, v: VertebraParameters, box: Box) -> None:
    """Basivertebral vein, lesions and changes beside the endplates, inside the marrow only."""
    x, y, z = canvas.grid.local(pose, box)
    marrow = canvas.tissue[box] == TISSUE_ID["marrow"]
    half = 0.5 * v.height_post
    if v.name[0] != "C":
        vein = (x / 3.0) ** 2 + ((y + 0.5 * v.depth) / (0.4 * v.depth)) ** 2 + (z / 1.3) ** 2 < 1
        canvas.tissue[box][marrow & vein] = TISSUE_ID["vein"]
    inside = (np.abs(x) < 0.5 * v.width) & (np.abs(y) < 0.5 * v.depth)
    for tissue, height in ((v.modic_sup, half - z), (v.modic_inf, z + half)):
        if tissue:
            edge = 0.32 * v.height_post + 1.5 * np.sin(0.4 * x + v.level) + 1.2 * np.sin(0.5 * y)
            canvas.tissue[box][marrow & inside & (height < edge)] = TISSUE_ID[tissue]
    for lesion in v.lesions:
        centre = np.array(lesion.centre) * (0.5 * v.width, 0.5 * v.depth, half)
        near = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 < lesion.radius**2
        strands = np.sin(3.6 * x + 0.5) * np.sin(3.6 * y) > 0.55
        canvas.tissue[box][marrow & near & ~strands] = TISSUE_ID[lesion.tissue]


def _paint_sacrum(canvas: Canvas, spine: Spine) -> None:
    """Sacrum (one label, one instance) with its shell; the coccyx is tissue without a label."""
    placed = sacrum_solids(spine.sacrum, spine.sacral_facets())
    solids = [(item.pose, item.solid.bounds()) for item in placed if not item.hole]
    corners = []
    for pose, (low, high) in [*solids, (spine.poses["S1"], spine.sacrum.body.bounds())]:
        corners += [pose.world(np.where(c, high, low)) for c in np.ndindex(2, 2, 2)]
    world = Pose(np.eye(3), np.zeros(3))
    box = canvas.grid.box(world, np.min(corners, axis=0), np.max(corners, axis=0), 1.0)
    if box is not None:
        union = np.full([s.stop - s.start for s in box], 9.0, np.float32)
        label = np.zeros(union.shape, np.uint8)
        pose, body = spine.poses["S1"], spine.sacrum.body
        inner = canvas.grid.box(pose, *body.bounds())
        if inner is not None:
            _merge(union, label, box, inner, body.distance(*canvas.grid.local(pose, inner)), SACRUM)
        # Nothing of the sacrum may rise above its endplate into the disc.
        for item in placed:
            inner = canvas.grid.box(item.pose, *item.solid.bounds(), 1.0)
            inner = _common(inner, box)
            if inner is None:
                continue
            distance = item.solid.distance(*canvas.grid.local(item.pose, inner))
            if not item.hole:
                _merge(union, label, box, inner, distance, SACRUM)
                continue
            part = tuple(slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, box, strict=True))
            np.maximum(union[part], -distance, out=union[part])
        inside = union < 0
        canvas.put(box, inside, SACRUM, INSTANCE_ID["S1"])
        _bone_tissue(canvas, box, inside, union)
    _sacral_discs(canvas, spine)
    for item in spine.sacrum.coccyx:
        inner = canvas.grid.box(item.pose, *item.solid.bounds())
        if inner is not None:
            distance = item.solid.distance(*canvas.grid.local(item.pose, inner))
            _bone_tissue(canvas, inner, (distance < 0) & (canvas.semantic[inner] == 0), distance)


def _common(inner: Box | None, outer: Box) -> Box | None:
    """Return the part of a box that lies in another, None if there is none."""
    if inner is None:
        return None
    a, b, c = (slice(max(i.start, o.start), min(i.stop, o.stop)) for i, o in zip(inner, outer, strict=True))
    return (a, b, c) if all(s.start < s.stop for s in (a, b, c)) else None


def _sacral_discs(canvas: Canvas, spine: Spine) -> None:
    """Remnants of the discs between sacral segments: a grey line at S1/2, dark ones below (tissue only)."""
    p = spine.sacrum.parameters
    for index in range(1, 5):
        size = p.rudimentary_disc if index == 1 else 0.8
        half = (0.4 * p.widths[index] * size, 0.45 * p.depths[index] * size, 1.5 if index == 1 else 0.6)
        if min(half) <= 0:
            continue
        pose = spine.sacrum.poses[index].moved((0.0, 0.0, 0.5 * p.heights[index]))
        box = canvas.grid.box(pose, np.negative(half), half)
        if box is None:
            continue
        x, y, z = canvas.grid.local(pose, box)
        inside = (x / half[0]) ** 2 + (y / half[1]) ** 2 + (z / half[2]) ** 2 < 1
        tissue = "nucleus_degenerated" if index == 1 else "cortical"
        canvas.tissue[box][inside & (canvas.semantic[box] == SACRUM)] = TISSUE_ID[tissue]


def _paint_gap(canvas: Canvas, spine: Spine, joint: Joint) -> None:
    """Endplates and disc between two bodies, or the bone bridge of a fused pair."""
    gap = measure_gap(spine, canvas.grid, joint)
    if gap is None:
        return
    disc, box = spine.parameters.disc(joint.above), gap.box
    upper, lower = INSTANCE_ID[joint.above], INSTANCE_ID[joint.below]
    semantic, instances = canvas.semantic[box], canvas.instances[box]
    between = (gap.below_upper > 0) & (gap.above_lower > 0) & (gap.border < 0)
    bodies = (semantic == CORPUS) | ((semantic == SACRUM) & (instances == lower))
    if disc.state == "fused":
        high = gap.share > 0.5
        label = np.where(high, CORPUS, SACRUM if joint.below == "S1" else CORPUS)
        canvas.put(box, between, label, np.where(high, upper, lower))
        canvas.tissue[box][between] = TISSUE_ID["marrow"]
        return
    into_gap, into_body = endplate_slab(gap, canvas.endplate_thickness)
    distance = np.minimum(gap.below_upper, gap.above_lower)
    facing = bodies & ((instances == upper) | (instances == lower)) & (gap.border < -0.3)
    reach = (gap.below_upper > -into_body) & (gap.above_lower > -into_body)
    slab = (between & (distance < into_gap)) | (facing & reach & (distance <= 0))
    slab &= gap.rho < 0.98
    if disc.state == "missing":
        slab |= between
    canvas.put(box, between, DISC, 100 + upper)
    canvas.put(box, slab, ENDPLATE, 200 + upper)
    tissue = canvas.tissue[box]
    tissue[between] = _disc_tissue(disc, gap.share, disc_zone(disc, gap, joint.above[0]))[between]
    tissue[slab & (distance > -BONY) & (distance <= 0)] = TISSUE_ID["endplate"]
    tissue[slab & (distance > 0)] = TISSUE_ID["cartilage"]
    if disc.fissure:
        crack = between & ~slab & (gap.y < -6) & (np.abs(gap.share - 0.45) < 0.12) & (np.abs(gap.x) < 6)
        tissue[crack] = TISSUE_ID["disc_fissure"]


def _disc_tissue(disc: DiscParameters, share: Field, zone: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Tissue per voxel by Pfirrmann grade; grade II has the dark cleft in the middle of the nucleus."""
    core = {1: "nucleus", 2: "nucleus", 3: "nucleus_degenerated", 4: "nucleus_dark", 5: "nucleus_dark"}[disc.grade]
    inner = "annulus_inner" if disc.grade < 5 else "annulus_outer"
    table = np.array([TISSUE_ID[core], TISSUE_ID[inner], TISSUE_ID["annulus_outer"]], np.uint8)
    tissue = table[zone]
    if disc.grade == 2:
        tissue[(zone == 0) & (np.abs(share - 0.5) < 0.09)] = TISSUE_ID["annulus_inner"]
    return tissue


def _paint_tubes(canvas: Canvas, spine: Spine) -> None:
    """Sac and cord: labels, cerebrospinal fluid, dura, white and grey matter, roots."""
    world = Pose(np.eye(3), np.zeros(3))
    for box, first, last in spine.sac.chunks(canvas.grid, 1.0):
        xyz = canvas.grid.local(world, box)
        index, right, front = spine.sac.coordinates(xyz, first, last)
        rho, border = spine.sac.radius(index, right, front)
        here = (index >= first - 0.5) & (index < last + 0.5)
        inside = here & (rho < 1)
        canvas.put(box, inside, CANAL, 0)
        canvas.tissue[box][inside] = TISSUE_ID["csf"]
        rim = here & (rho >= 1) & (border < 0.5) & (canvas.semantic[box] == 0)
        canvas.tissue[box][rim] = TISSUE_ID["ligament"]
    paint_cord_tissue(spine, canvas.grid, canvas.tissue)
    for box, first, last in spine.cord.chunks(canvas.grid, 0.5):
        xyz = canvas.grid.local(world, box)
        index, right, front = spine.cord.coordinates(xyz, first, last)
        rho, _ = spine.cord.radius(index, right, front)
        inside = (index >= first - 0.5) & (index < last + 0.5) & (rho < 1)
        canvas.put(box, inside, CORD, 0)


def vote(
    semantic: NDArray[np.uint8], instances: NDArray[np.uint8], factor: Sequence[int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the most frequent label of each block and its most frequent instance; ties go to the smaller label.

    Shapes: input (I*f0, J*f1, K*f2), output (I, J, K).
    """
    f = [int(n) for n in factor]
    if f == [1, 1, 1]:
        return semantic.copy(), instances.copy()
    shape = [n // k for n, k in zip(semantic.shape, f, strict=True)]

    def blocks(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
        split = array.reshape(shape[0], f[0], shape[1], f[1], shape[2], f[2])
        return split.transpose(0, 2, 4, 1, 3, 5)

    labels, owners = blocks(semantic), blocks(instances)
    first = np.ascontiguousarray(labels[..., 0, 0, 0]), np.ascontiguousarray(owners[..., 0, 0, 0])
    mixed = ((labels != first[0][..., None, None, None]) | (owners != first[1][..., None, None, None])).any((3, 4, 5))
    count = f[0] * f[1] * f[2]
    codes = labels[mixed].reshape(-1, count).astype(np.uint16) * 256 + owners[mixed].reshape(-1, count)
    codes.sort(axis=1)
    label = _mode(codes >> 8, np.ones(codes.shape, bool))
    owner = _mode(codes & 255, (codes >> 8) == label[:, None])
    first[0][mixed], first[1][mixed] = label, owner
    return first


def _mode(values: NDArray[np.uint16], valid: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Return the most frequent valid value per row of rows in which equal values are neighbours."""
    best = np.zeros(len(values), np.uint16)
    most, run = np.zeros(len(values), np.int16), np.zeros(len(values), np.int16)
    previous = np.full(len(values), 65535, np.uint16)
    for column in range(values.shape[1]):
        value, use = values[:, column], valid[:, column]
        run = np.where(use, np.where(value == previous, run + 1, 1), run)
        previous = np.where(use, value, previous)
        better = use & (run > most)
        best[better], most[better] = value[better], run[better]
    return best
