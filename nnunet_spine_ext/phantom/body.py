"""The vertebral body: outline with waist and notch, hollow endplates, uncus, rim spurs and pits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunet_spine_ext.phantom.model import VertebraParameters
from nnunet_spine_ext.phantom.pose import rim_heights
from nnunet_spine_ext.phantom.shapes import Field

UNCUS_START, UNCUS_END = 0.70, 1.15
"""Fractions of the half width between which the uncus rises."""


@dataclass(frozen=True)
class Body:
    """Height fields and outline of one body in the vertebra's frame.

    The posterior wall lies at ``y = -depth / 2`` for all heights; `u` in [-1, 1] is the height between the rims.
    """

    v: VertebraParameters

    @property
    def half_height(self) -> float:
        """Half the rim height at mid depth (mm)."""
        return 0.5 * rim_heights(self.v)

    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return a box in the vertebra's frame that holds body, spurs and uncus."""
        v = self.v
        spur = max(v.osteophyte_sup, v.osteophyte_inf)
        x = 0.5 * max(v.width_sup, v.width_inf) + spur + 2.0
        y = 0.5 * v.depth + abs(v.depth_sup - v.depth_inf) + spur + 1.0
        slope = np.tan(np.deg2rad(0.5 * abs(v.wedge))) * y + np.tan(np.deg2rad(0.5 * abs(v.coronal_wedge))) * x
        z = self.half_height + float(slope) + v.uncus + 1.0
        return np.array([-x, -y, -z]), np.array([x, y, z])

    def _plane(self, x: Field, y: Field, sign: float) -> Field:
        """Height of the upper (+1) or lower (-1) rim plane."""
        v = self.v
        centre = 0.5 * ((v.depth_sup if sign > 0 else v.depth_inf) - v.depth)
        slope = np.float32(np.tan(np.deg2rad(0.5 * v.wedge)))
        tilt = np.float32(np.tan(np.deg2rad(0.5 * v.coronal_wedge)))
        return np.float32(sign) * (np.float32(self.half_height) - slope * (y - np.float32(centre)) - tilt * x)

    def _half_axes(self, u: Field | float) -> tuple[Field, Field, Field]:
        """Half width, half depth and centre y of the outline at height u, waist and spurs included."""
        v = self.v
        t = 0.5 * (np.asarray(u, np.float32) + 1.0)
        waist = 1.0 - (2 * t - 1) ** 2
        a = 0.5 * (v.width_inf + (v.width_sup - v.width_inf) * t) * (1 - (1 - v.waist_width) * waist)
        # Tables give the flat endplate of cervical bodies; the uncus stands outside it.
        a = a + 0.4 * v.uncus
        b = 0.5 * (v.depth_inf + (v.depth_sup - v.depth_inf) * t)
        lift = b * (1 - v.waist_depth) * waist
        spur = v.osteophyte_sup * np.clip((2 * t - 1.5) / 0.5, 0, 1) ** 2
        spur = spur + v.osteophyte_inf * np.clip((0.5 - 2 * t) / 0.5, 0, 1) ** 2
        grown = b - lift + 0.55 * spur
        # Four fifths of the waist are in front: the wall towards the canal is nearly straight.
        centre = b - 0.5 * v.depth - 0.6 * lift + 0.35 * spur
        return (a + spur).astype(np.float32), grown.astype(np.float32), centre.astype(np.float32)

    def outline(self, x: Field, y: Field, u: Field | float, grow: float = 0.0) -> tuple[Field, Field]:
        """Return the outline's relative radius (1 on the border) and an approximate distance in mm."""
        v = self.v
        a, b, centre = self._half_axes(u)
        a, b = a + np.float32(grow), b + np.float32(grow)
        dy = y - centre
        # The posterior notch shortens the back half near the midline.
        back = np.where(dy < 0, np.float32(v.notch) * np.exp(-((x / (np.float32(0.4) * a)) ** 2)), np.float32(0))
        n = np.float32(v.exponent)
        sx, sy = np.abs(x) / a, np.abs(dy) / (b - back)
        rho = np.maximum(sx**n + sy**n, np.float32(1e-6)) ** np.float32(1.0 / v.exponent)
        radius = np.sqrt(x * x + dy * dy)
        return rho, radius - np.maximum(radius, np.float32(1e-3)) / rho

    def _hollow(self, x: Field, y: Field, sign: float) -> Field:
        """Depth of the endplate below its rim plane (mm)."""
        v = self.v
        depth = v.concavity_sup if sign > 0 else v.concavity_inf
        a, b, centre = self._half_axes(sign)
        spur = v.osteophyte_sup if sign > 0 else v.osteophyte_inf
        a, b = a - np.float32(spur), b - np.float32(0.55 * spur)
        rx, ry = x / a, (y - centre + np.float32(0.1) * b) / b
        flat = np.float32(1.15) - rx * rx - ry * ry
        hollow = np.float32(depth / 1.15) * np.clip(flat, 0, None)
        pit = v.schmorl_sup if sign > 0 else v.schmorl_inf
        if pit:
            reach = np.clip(1.0 - ((x - 0.15 * a) ** 2 + (y + 0.15 * b) ** 2) / np.float32(pit**2), 0, None)
            hollow = hollow + np.float32(pit) * np.sqrt(reach)
        return hollow

    def uncus(self, x: Field, height: float | None = None) -> Field:
        """Height of the lateral ridge above the rim plane (cervical bodies; `height` of the body below if given)."""
        half = np.float32(0.5 * self.v.width_sup)
        t = np.clip((np.abs(x) / half - UNCUS_START) / (UNCUS_END - UNCUS_START), 0, 1)
        return np.float32(self.v.uncus if height is None else height) * t * t * (3 - 2 * t)

    def top(self, x: Field, y: Field) -> Field:
        """Return z of the upper endplate surface."""
        surface = self._plane(x, y, 1.0) - self._hollow(x, y, 1.0)
        return surface + self.uncus(x) if self.v.uncus else surface

    def bottom(self, x: Field, y: Field, uncus_below: float = 0.0) -> Field:
        """Return z of the lower endplate surface; it gives way to the uncus of the body below."""
        surface = self._plane(x, y, -1.0) + self._hollow(x, y, -1.0)
        return surface + self.uncus(x, 0.8 * uncus_below) if uncus_below else surface

    def height(self, x: Field, y: Field, z: Field) -> Field:
        """Return the relative height u in [-1, 1] between the rim planes."""
        low, high = self._plane(x, y, -1.0), self._plane(x, y, 1.0)
        return np.clip((2 * z - low - high) / (high - low), -1, 1)

    def distance(self, x: Field, y: Field, z: Field, uncus_below: float = 0.0) -> Field:
        """Return the signed distance of the body in mm (negative inside)."""
        side = self.outline(x, y, self.height(x, y, z), grow=0.0)[1]
        ends = np.maximum(z - self.top(x, y), self.bottom(x, y, uncus_below) - z)
        return np.maximum(side, ends)
