"""Soft tissue that belongs to the spine: ligaments, epidural and foraminal fat, roots, grey and white matter."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from nnunet_spine_ext.phantom.model import VertebraParameters
from nnunet_spine_ext.phantom.pose import Pose
from nnunet_spine_ext.phantom.shapes import Bar, Grid, Solid
from nnunet_spine_ext.phantom.spine import Spine
from nnunet_spine_ext.phantom.tables import GREY_FRACTION, GREY_FRACTION_LEVEL
from nnunet_spine_ext.phantom.tissues import TISSUE_ID
from nnunet_spine_ext.phantom.vertebra import Landmarks

WORLD = Pose(np.eye(3), np.zeros(3))
UP, ACROSS = (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)


def _fill(grid: Grid, tissue: NDArray[np.uint8], pose: Pose, solid: Solid, name: str) -> None:
    """Paint one solid."""
    box = grid.box(pose, *solid.bounds())
    if box is not None:
        tissue[box][solid.distance(*grid.local(pose, box)) < 0] = TISSUE_ID[name]


def paint_bed(spine: Spine, grid: Grid, tissue: NDArray[np.uint8]) -> None:
    """Fat of canal and foramina, ligaments before, behind and between the arches; bone is painted over it later."""
    paint_ribs(spine, grid, tissue)
    names = [*spine.parameters.names[1:]]
    for name in names:
        v, pose, joint = spine.parameters.vertebra(name), spine.poses[name], spine.joints[name]
        marks = Landmarks(v)
        reach = 0.5 * marks.height + 6.0
        y = marks.wall - 0.5 * v.canal_depth
        half = (0.5 * v.canal_width + 1.0, 0.5 * v.canal_depth + 1.0)
        _fill(grid, tissue, pose, Bar((0.0, y, reach), (0.0, y, -reach), ACROSS, half, half, 2.5, 0.2), "epidural_fat")
        for side in (-1, 1):
            start, end = (side * 0.4 * v.canal_width, y + 2.0, 1.0), (side * (0.5 * v.canal_width + 12.0), y, 0.0)
            tall = 0.28 * v.height_post + 2.0
            _fill(grid, tissue, joint.pose, Bar(start, end, UP, (tall, 4.5), (tall, 4.5)), "fat")
        front = (0.0, 0.5 * v.depth + 0.3, 0.0)
        ligament = Bar((front[0], front[1], reach), (front[0], front[1], -reach), ACROSS, (9.0, 1.4), (9.0, 1.4))
        _fill(grid, tissue, pose, ligament, "ligament")
    _back_ligaments(spine, grid, tissue, names)


def paint_ribs(spine: Spine, grid: Grid, tissue: NDArray[np.uint8]) -> None:
    """Ribs from the joint beside the disc over the transverse process to the side (tissue only)."""
    for v in spine.parameters.vertebrae:
        if not v.rib_length:
            continue
        pose, marks = spine.poses[v.name], Landmarks(v)
        floating = v.rib_length < 150.0
        for side in (-1, 1):
            path = _rib_path(v, marks, side, floating)
            for index, (a, b) in enumerate(pairwise(path)):
                half = (5.0, 3.0) if index else (4.5, 3.5)
                bar = _bar(np.array(a), np.array(b), UP, half)
                box = grid.box(pose, *bar.bounds())
                if box is not None:
                    distance = bar.distance(*grid.local(pose, box))
                    tissue[box][distance < 0] = TISSUE_ID["cortical"]
                    tissue[box][distance < -1.0] = TISSUE_ID["marrow"]


def _rib_path(v: VertebraParameters, marks: Landmarks, side: int, floating: bool) -> list[tuple[float, float, float]]:
    """Points of a rib in the vertebra's frame: head, neck, tubercle, angle, side."""
    tip = marks.costal_tip(side)
    head_z = 0.45 * marks.height if 1.5 < v.level - 7.0 < 10.2 else 0.15 * marks.height
    x = 0.5 * v.width + 3.0
    path = [(side * x, marks.wall + 4.0, head_z)]
    if not floating:
        path.append((float(tip[0]), float(tip[1]) + 6.5, float(tip[2]) + 1.0))
    wide = {True: 60.0, False: float(np.interp(v.level, (8, 10, 13, 18), (52.0, 78.0, 95.0, 95.0)))}[floating]
    path.append((side * (0.6 * wide + 8.0), marks.wall - 26.0, head_z - 12.0))
    path.append((side * wide, marks.wall - 12.0, head_z - 22.0))
    if not floating:
        path.append((side * (wide + 18.0), marks.wall + 30.0, head_z - 42.0))
    return path


def _back_ligaments(spine: Spine, grid: Grid, tissue: NDArray[np.uint8], names: list[str]) -> None:
    """Yellow ligaments between neighbouring laminae, fat and strands between spinous processes, the ligament behind."""
    for upper, lower in pairwise(names):
        first, second = (Landmarks(spine.parameters.vertebra(n)) for n in (upper, lower))
        a, b = spine.poses[upper].world(first.lamina_middle()), spine.poses[lower].world(second.lamina_middle())
        tip_a, tip_b = spine.poses[upper].world(first.spinous_tip()), spine.poses[lower].world(second.spinous_tip())
        _fill(grid, tissue, WORLD, _bar(0.5 * (a + tip_a), 0.5 * (b + tip_b), (0, 1, 0), (11.0, 2.2)), "fat")
        _fill(grid, tissue, WORLD, _bar(tip_a, tip_b, ACROSS, (2.2, 1.6)), "ligament")
        _fill(grid, tissue, WORLD, _bar(a, b, ACROSS, (8.0, 1.6)), "ligament")


def _bar(a: NDArray[np.float64], b: NDArray[np.float64], across: tuple[float, ...], half: tuple[float, float]) -> Bar:
    start, end = (tuple(float(c) for c in point) for point in (a, b))
    return Bar(start, end, across, half, half)  # type: ignore[arg-type]


def paint_cord_tissue(spine: Spine, grid: Grid, tissue: NDArray[np.uint8]) -> None:
    """White matter with a grey butterfly of the right share of the area, and the roots of the cauda equina."""
    cord = spine.cord
    samples = np.arange(len(cord.arc), dtype=np.float32)
    grey = np.interp(cord.level, GREY_FRACTION_LEVEL, GREY_FRACTION)
    for box, first, last in spine.cord.chunks(grid, 0.5):
        xyz = grid.local(WORLD, box)
        index, right, front = cord.coordinates(xyz, first, last)
        rho, _ = cord.radius(index, right, front)
        inside = (index >= first - 0.5) & (index < last + 0.5) & (rho < 1)
        view = tissue[box]
        view[inside] = TISSUE_ID["cord_wm"]
        a = np.maximum(np.interp(index, samples, cord.half_right), 0.1)
        b = np.maximum(np.interp(index, samples, cord.half_front), 0.1)
        share = np.interp(index, samples, grey)
        u, w = np.abs(right) / a, front / b
        # One horn per side leans outwards to the front, a bar joins them; its width carries the share of the area.
        axis = np.float32(0.26) + 0.05 * w
        horn = (np.abs(u - axis) < 0.62 * share) & (np.abs(w) < 0.62)
        bridge = (u < axis) & (np.abs(w) < 0.12)
        view[inside & (horn | bridge)] = TISSUE_ID["cord_gm"]
    _paint_cauda(spine, grid, tissue)


def _paint_cauda(spine: Spine, grid: Grid, tissue: NDArray[np.uint8]) -> None:
    """Rootlets behind the lower cord and below it: thin strands that sink to the back of the sac."""
    sac, tip = spine.sac, spine.parameters.cord.conus_level
    start = int(np.searchsorted(sac.level, tip - 1.5))
    picked = np.arange(start, len(sac.arc) - 8, 24)
    # Strands of a millimetre leave no trace on coarse grids.
    if len(picked) < 3 or np.sort(grid.spacing)[1] > 2.2:
        return
    rng = np.random.default_rng(spine.parameters.seed)
    spread = np.linspace(-0.75, 0.75, 14)
    for number, across in enumerate(spread):
        depth = -0.35 - 0.4 * (1 - across**2) + 0.12 * rng.normal()
        stop = len(picked) - (number % 5) * max(1, len(picked) // 9)
        path = []
        for i in picked[: max(stop, 3)]:
            settle = np.clip((sac.level[i] - tip + 1.5) / 2.0, 0.2, 1.0)
            shrink = 0.55 + 0.45 * settle
            offset = across * shrink * sac.half_right[i] * 0.85 * sac.right[i]
            path.append(sac.points[i] + offset + depth * settle * sac.half_front[i] * 0.95 * sac.front[i])
        for a, b in pairwise(path):
            _fill(grid, tissue, WORLD, _bar(a, b, ACROSS, (0.55, 0.55)), "roots")
