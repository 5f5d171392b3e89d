"""A small geometric spine for the tests of instances and measures: exact instances, 14 classes, any grid.

Coordinates are millimetres in RAS order (x right, y front, z up). It is no anatomy: it has what the instance step must
cope with, and each difficulty is a switch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from nnunet_spine_ext.core.volume import Volume

# name: width, depth, height of the body, disc below, canal width, spinous length, spinous slope (down per back)
_SIZES = {
    "C": (19.0, 16.0, 13.5, 5.0, 22.0, 16.0, 0.3),
    "T": (28.0, 25.0, 20.0, 4.5, 18.0, 34.0, 0.9),
    "L": (44.0, 34.0, 27.0, 9.0, 24.0, 30.0, 0.1),
}
LEVELS = [*(f"C{k}" for k in range(2, 8)), *(f"T{k}" for k in range(1, 13)), *(f"L{k}" for k in range(1, 6))]


@dataclass(frozen=True)
class Spine:
    """What to build.

    fused: groups of neighbouring levels whose discs and endplates are bone. missing_disc: levels whose disc below is
    absent (background). missing_body, cleft: levels. gap_mm: joint space between facets (0: they touch).
    """

    levels: Sequence[str] = ("L1", "L2", "L3", "L4", "L5")
    spacing: tuple[float, float, float] = (3.0, 1.0, 1.0)
    lordosis: float = 12.0
    scoliosis: float = 0.0
    wavelength: float = 260.0
    fused: tuple[tuple[str, ...], ...] = ()
    missing_disc: tuple[str, ...] = ()
    missing_body: tuple[str, ...] = ()
    cleft: tuple[str, ...] = ()
    posterior: bool = True
    discs: bool = True
    canal: bool = True
    sacrum: bool = True
    gap_mm: float = 0.0
    noise: float = 0.0
    crop: tuple[float, float] = (0.0, 0.0)
    dens: bool = True
    seed: int = 0
    extra: dict[str, float] = field(default_factory=dict)


def size_of(level: str) -> tuple[float, ...]:
    """Sizes of one level, interpolated towards the next region so that neighbours are similar."""
    order = [k for k in LEVELS if k in LEVELS]
    anchors = {"C2": "C", "C6": "C", "T2": None, "T6": "T", "T10": "T", "L1": None, "L3": "L", "L5": "L"}
    position = order.index(level)
    known = sorted((order.index(k), _SIZES[r]) for k, r in anchors.items() if r)
    places = [k for k, _ in known]
    return tuple(float(np.interp(position, places, [s[j] for _, s in known])) for j in range(7))


def build(spine: Spine) -> tuple[Volume, Volume]:
    """Return (semantic ``nnunet14`` mask, instance mask with ids 1..n, 101.., 201.., 26)."""
    sizes = [size_of(level) for level in spine.levels]
    pitch = [s[2] + s[3] for s in sizes]
    total = sum(pitch) + 30.0
    heights = total - 15.0 - np.concatenate([[0.0], np.cumsum(pitch)[:-1]]) - np.array([s[2] / 2 for s in sizes])
    side = 90.0 + 2 * abs(spine.scoliosis)
    depth = 110.0 + 2 * abs(spine.lordosis)
    grid = tuple(int(np.ceil(mm / s)) for mm, s in zip((side, depth, total + 45.0), spine.spacing, strict=True))
    painter = _Painter(spine, grid, total)
    for number, (level, size, z) in enumerate(zip(spine.levels, sizes, heights, strict=True), start=1):
        if level not in spine.missing_body:
            painter.body(number, level, size, z)
    for number, (level, size, z) in enumerate(zip(spine.levels, sizes, heights, strict=True), start=1):
        last = number == len(sizes)
        following = None if last else spine.levels[number]
        painter.gap(number, level, following, size, z)
        if spine.posterior:
            painter.posterior(number, level, size, z)
    if spine.canal:
        painter.tube()
    if spine.sacrum:
        painter.sacrum(float(heights[-1] - sizes[-1][2] / 2 - sizes[-1][3]))
    return painter.finish()


class _Painter:
    def __init__(self, spine: Spine, grid: tuple[int, ...], total: float) -> None:
        self.spine, self.total = spine, total
        self.semantic = np.zeros(grid, dtype=np.uint8)
        self.instances = np.zeros(grid, dtype=np.uint16)
        axes = [np.arange(n) * s for n, s in zip(grid, spine.spacing, strict=True)]
        self.axes = axes
        self.middle = np.array([axes[0][-1] / 2, axes[1][-1] * 0.68])

    def centre(self, z: float) -> tuple[np.ndarray, np.ndarray]:
        """Position and upward tangent of the curve at height z above the lower end."""
        w = 2 * np.pi / self.spine.wavelength
        x = self.middle[0] + self.spine.scoliosis * np.sin(w * z)
        y = self.middle[1] + self.spine.lordosis * np.cos(w * z)
        tangent = np.array([self.spine.scoliosis * w * np.cos(w * z), -self.spine.lordosis * w * np.sin(w * z), 1.0])
        return np.array([x, y, z + 45.0]), tangent / np.linalg.norm(tangent)

    def local(self, z: float, reach: tuple[float, float, float]) -> tuple[tuple[slice, ...], np.ndarray]:
        """Box around the level and its coordinates (3, ...) in the frame of the level."""
        origin, up = self.centre(z)
        right = np.array([1.0, 0.0, 0.0]) - up[0] * up
        right /= np.linalg.norm(right)
        front = np.cross(up, right)
        box = []
        for axis in range(3):
            low = np.searchsorted(self.axes[axis], origin[axis] - reach[axis])
            box.append(slice(int(low), int(np.searchsorted(self.axes[axis], origin[axis] + reach[axis]))))
        mesh = np.stack(np.meshgrid(*[a[b] for a, b in zip(self.axes, box, strict=True)], indexing="ij"))
        moved = mesh - origin[:, None, None, None]
        return tuple(box), np.stack([np.tensordot(v, moved, axes=1) for v in (right, front, up)])

    def paint(self, box: tuple[slice, ...], where: np.ndarray, label: int, instance: int) -> None:
        free = where & (self.semantic[box] == 0)
        self.semantic[box][free] = label
        self.instances[box][free] = instance

    def body(self, number: int, level: str, size: tuple[float, ...], z: float) -> None:
        width, depth, height = size[:3]
        box, (x, y, up) = self.local(z, (50.0, 50.0, 45.0))
        waist = 0.9 + 0.1 * np.minimum(1.0, (up / (height / 2)) ** 2)
        inside = (np.abs(x / (width / 2)) ** 2.5 + np.abs(y / (depth / 2)) ** 2.5 < waist) & (np.abs(up) < height / 2)
        if level in self.spine.cleft:
            inside &= np.abs(x) > 0.75 * self.spine.spacing[0]
        if level == "C2" and self.spine.dens:
            inside |= ((x / 5) ** 2 + (y / 5) ** 2 < 1) & (up > 0) & (up < height / 2 + 22)
        self.paint(box, inside, 10, number)

    def gap(self, number: int, level: str, following: str | None, size: tuple[float, ...], z: float) -> None:
        if not self.spine.discs:
            return
        width, depth, height, disc = size[:4]
        box, (x, y, up) = self.local(z - height / 2 - disc / 2, (45.0, 45.0, 25.0))
        outline = np.abs(x / (width / 2)) ** 2.5 + np.abs(y / (depth / 2)) ** 2.5 < 0.95
        slab = outline & (np.abs(up) < disc / 2 + 0.8)
        group = next((g for g in self.spine.fused if level in g and following in g), None)
        if group:
            self.paint(box, slab & (up >= 0), 10, number)
            self.paint(box, slab & (up < 0), 10, number + 1)
            return
        shell = max(1.0, self.spine.spacing[2])
        plates = slab & (np.abs(up) > disc / 2 + 0.8 - shell)
        if following is None and not self.spine.sacrum:
            plates &= up > 0
        self.paint(box, plates, 13, 200 + number)
        if level not in self.spine.missing_disc and (following is not None or self.spine.sacrum):
            self.paint(box, slab & ~plates, 14, 100 + number)

    def posterior(self, number: int, level: str, size: tuple[float, ...], z: float) -> None:
        _, depth, height, disc, canal, length, slope = size
        box, (x, y, up) = self.local(z, (50.0, 75.0, 60.0))
        back = -depth / 2 - 0.75 * canal
        side, joint = np.abs(x), self.spine.gap_mm
        pedicle = (np.abs(side - canal / 2 - 3) < 3.5) & (y < -depth / 2 + 4) & (y > back - 3)
        pedicle &= (up > -0.05 * height) & (up < 0.4 * height)
        lamina = (side < canal / 2 + 4) & (y < back) & (y > back - 6) & (up > -0.5 * height) & (up < 0.3 * height)
        self.paint(box, pedicle | lamina, 2, number)
        process = (side < 3.5) & (y < back - 5) & (y > back - 5 - length)
        drop = slope * (back - 5 - y)
        process &= (up + drop < 0.15 * height) & (up + drop > -0.55 * height)
        self.paint(box, process, 3, number)
        costal = (side > canal / 2 + 5) & (side < canal / 2 + 22) & (np.abs(y + depth / 2 + 6) < 4)
        costal &= (up > 0) & (up < 0.4 * height)
        upper = (side > canal / 2 + 1 + joint / 2) & (side < canal / 2 + 8) & (y < back + 6) & (y > back - 5)
        upper &= (up > 0.15 * height) & (up < 0.5 * height + 0.9 * disc)
        lower = (side > canal / 2 - 6) & (side < canal / 2 + 1 - joint / 2) & (y < back + 1) & (y > back - 8)
        lower &= (up < -0.05 * height) & (up > -0.5 * height - 0.7 * disc)
        for right in (False, True):
            half = x > 0 if right else x <= 0
            self.paint(box, costal & half, 4 + right, number)
            self.paint(box, upper & half, 6 + right, number)
            self.paint(box, lower & half, 8 + right, number)

    def tube(self) -> None:
        for k, height in enumerate(self.axes[2]):
            place, _ = self.centre(float(height) - 45.0)
            x = (self.axes[0] - place[0])[:, None]
            y = (self.axes[1] - place[1] + 23.0)[None, :]
            for radius, label in ((3.5, 11), (6.5, 12)):
                inside = (x**2 + y**2 < radius**2) & (self.semantic[:, :, k] == 0)
                self.semantic[:, :, k][inside] = label

    def sacrum(self, top: float) -> None:
        box, (x, y, up) = self.local(top, (60.0, 60.0, 60.0))
        self.paint(box, (np.abs(x) < 32) & (np.abs(y + 8) < 22) & (up < 0) & (up > -38), 1, 26)

    def finish(self) -> tuple[Volume, Volume]:
        low, high = (round(mm / self.spine.spacing[2]) for mm in self.spine.crop)
        keep = (slice(None), slice(None), slice(low, self.semantic.shape[2] - high))
        semantic, instances = self.semantic[keep].copy(), self.instances[keep].copy()
        if self.spine.noise:
            rng = np.random.default_rng(self.spine.seed)
            hit = rng.random(semantic.shape) < self.spine.noise
            semantic[hit] = rng.integers(0, 15, int(hit.sum()))
        affine = np.diag([*self.spine.spacing, 1.0])
        return Volume(semantic, affine), Volume(instances, affine)


def panoptic(reference: np.ndarray, found: np.ndarray, kind: str) -> tuple[float, float, float]:
    """Return (RQ, SQ, PQ) at IoU > 0.5 for "vertebra" (1-99 without 26), "disc" (101-199) or "endplate" (201-)."""
    low, high = {"vertebra": (1, 100), "disc": (100, 200), "endplate": (200, 300)}[kind]
    pair = []
    for array in (reference, found):
        ids = array.reshape(-1).astype(np.int64)
        pair.append(np.where((ids >= low) & (ids < high) & (ids != 26), ids, 0))
    table = np.bincount(pair[0] * 300 + pair[1], minlength=90_000).reshape(300, 300)
    union = table.sum(1)[:, None] + table.sum(0)[None] - table
    overlap = np.where(union > 0, table / np.maximum(union, 1), 0.0)[1:, 1:]
    hits = overlap[overlap > 0.5]
    counts = int((table.sum(1)[1:] > 0).sum()) + int((table.sum(0)[1:] > 0).sum())
    if counts == 0:
        return 1.0, 1.0, 1.0
    recognition = 2 * len(hits) / counts
    quality = float(hits.mean()) if len(hits) else 0.0
    return recognition, quality, recognition * quality
