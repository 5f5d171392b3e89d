"""Discs and endplates: everything between two facing endplate surfaces, closed by construction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_spine_ext.phantom.model import DiscParameters
from nnunet_spine_ext.phantom.pose import Joint
from nnunet_spine_ext.phantom.shapes import Box, Field, Grid
from nnunet_spine_ext.phantom.spine import Spine

BONY, CARTILAGE = 0.6, 0.8
"""Thickness of the bony and of the cartilage endplate (mm)."""


@dataclass(frozen=True)
class Gap:
    """The space between two bodies at the voxels of a box.

    `below_upper` and `above_lower` are distances from either endplate surface into the gap (mm), `rho` the relative
    radius in the outline between both rims, `border` its distance in mm; `x`, `y` lie in the joint's frame.
    """

    box: Box
    below_upper: Field
    above_lower: Field
    rho: Field
    border: Field
    x: Field
    y: Field

    @property
    def share(self) -> Field:
        """Relative height in the gap, 0 at the lower endplate and 1 at the upper."""
        total = np.maximum(self.above_lower + self.below_upper, np.float32(0.2))
        return np.clip(self.above_lower / total, 0, 1)


def measure_gap(spine: Spine, grid: Grid, joint: Joint) -> Gap | None:
    """Return the gap of a joint on a grid, None where the grid does not reach it."""
    disc = spine.parameters.disc(joint.above)
    upper, lower = spine.bodies[joint.above], spine.bodies[joint.below]
    half_x = 0.5 * max(upper.v.width_inf, lower.v.width_sup) + 8.0
    half_y = 0.5 * max(upper.v.depth_inf, lower.v.depth_sup) + 8.0 + abs(disc.slip)
    tilt = np.tan(np.deg2rad(abs(disc.lordosis) / 2 + 2)) * half_y
    hollow = max(upper.v.concavity_inf, upper.v.schmorl_inf, lower.v.schmorl_sup, lower.v.concavity_sup, lower.v.uncus)
    half_z = disc.height / 2 + tilt + hollow + 3.0
    box = grid.box(joint.pose, (-half_x, -half_y, -half_z), (half_x, half_y, half_z))
    if box is None:
        return None
    xu, yu, zu = grid.local(spine.poses[joint.above], box)
    xl, yl, zl = grid.local(spine.poses[joint.below], box)
    x, y, _ = grid.local(joint.pose, box)
    below_upper = upper.bottom(xu, yu, lower.v.uncus) - zu
    above_lower = zl - lower.top(xl, yl)
    total = np.maximum(above_lower + below_upper, np.float32(0.2))
    share = np.clip(above_lower / total, 0, 1)
    rho_u, border_u = upper.outline(xu, yu, -1.0)
    rho_l, border_l = lower.outline(xl, yl, 1.0)
    rho = share * rho_u + (1 - share) * rho_l
    border = share * border_u + (1 - share) * border_l
    return Gap(box, below_upper, above_lower, rho, border - _overhang(disc, x, y, half_y), x, y)


def _overhang(disc: DiscParameters, x: Field, y: Field, half_y: float) -> Field:
    """How far the disc stands out beyond the rims: healthy 0.5 mm, bulge all round, protrusion at one place behind."""
    over = np.full(x.shape, 0.4 + disc.bulge, np.float32)
    if disc.protrusion:
        angle = np.arctan2(x, -y)
        over += np.float32(disc.protrusion) * np.exp(-(((angle - 0.5 * disc.protrusion_side) / 0.3) ** 2))
    return over


def endplate_slab(gap: Gap, thickness: float) -> tuple[Field, Field]:
    """Return how far the endplate label reaches into the gap and into the body (mm), for a slab of `thickness`.

    Never more than a quarter of the gap, so that the disc keeps half of it.
    """
    room = np.maximum(gap.above_lower + gap.below_upper, 0)
    into_gap = np.minimum(np.float32(CARTILAGE), np.float32(0.22) * room)
    return into_gap, np.float32(max(thickness, BONY + CARTILAGE)) - into_gap


def disc_zone(disc: DiscParameters, gap: Gap, region: str) -> Field:
    """Return 0 nucleus, 1 inner annulus, 2 outer annulus for the voxels of a gap."""
    share = {"C": 0.30, "T": 0.36}.get(region, 0.43)
    back = 0.07 if region == "L" else 0.0
    moved = gap.rho * (1 + back * np.sign(gap.y) * np.minimum(np.abs(gap.y) / 10, 1))
    edge = np.float32(np.sqrt(share))
    return np.where(moved < edge, 0, np.where(gap.rho < 0.5 * (1 + edge) + 0.04, 1, 2)).astype(np.uint8)
