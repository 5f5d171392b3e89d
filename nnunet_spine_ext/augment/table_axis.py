"""The value axis of the tables, and how a table becomes one multiplication and one addition per voxel.

Values are in units of the signal: u = (x - air) / span, so that air is 0 and the brightest tissue about 1. A table
has `NODES` values at the positions `AXIS` and is linear between them and beyond them. `SEGMENTS` counts the linear
pieces: one below the axis, one between each two nodes, one above.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NODES = 1023
SEGMENTS = NODES + 1
LOW, HIGH = -0.125, 1.875
AXIS = np.linspace(LOW, HIGH, NODES)
PER_UNIT = (NODES - 1) / (HIGH - LOW)
"""Nodes per unit of signal."""

_ORIGIN = 1 - LOW * PER_UNIT
# Beyond the axis, and for tables that a chain of exponentials made steep: nothing grows without bound.
_END_SLOPES = (-5.0, 3.0)
LARGEST = 8.0
"""Bound of what a table adds, in units of the signal."""

Curve = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def positions(air: Tensor, span: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale and offset that map an intensity to its position: its integer part is the segment."""
    scale = PER_UNIT / span
    return scale, _ORIGIN - air * scale


def pieces(change: Tensor, air: Tensor, span: Tensor) -> Tensor:
    """Return intercept and slope of every segment as one complex number.

    Parameters
    ----------
    change: (G, NODES) what the table adds to u at each node; zero leaves intensities bit by bit as they are.
    air, span: (G,) levels of the sample that each table is for.

    Returns
    -------
    (G, SEGMENTS) complex64, y = real + imag * x. One number of 8 bytes is gathered at once, two would cost double.
    """
    step = change.diff(dim=1)
    low, high = (slope / PER_UNIT for slope in _END_SLOPES)
    step = torch.cat((step[:, :1].clamp(low, high), step, step[:, -1:].clamp(low, high)), dim=1)
    start = torch.cat((change[:, :1], change), dim=1)
    slope = step * PER_UNIT
    intercept = torch.addcmul(start, step, _before_origin(change.device)) * span[:, None]
    return torch.complex(torch.addcmul(intercept, slope, air[:, None], value=-1), slope + 1)


@lru_cache(maxsize=8)
def axis_on(device: torch.device) -> Tensor:
    """Return the positions of the nodes, (NODES,) float32."""
    return torch.from_numpy(AXIS.astype(np.float32)).to(device)


@lru_cache(maxsize=8)
def _before_origin(device: torch.device) -> Tensor:
    """Return how far each segment's first node lies before the origin of the axis, in nodes, (SEGMENTS,)."""
    return (_ORIGIN - torch.arange(SEGMENTS, dtype=torch.float32).clamp_min(1)).to(device)


def on_unit(function: Curve, *, below: float | None = None) -> Curve:
    """Extend a function from [0, 1] to the axis: linear outside, with its own slope at the end, at most 2.

    `below`: the slope below 0 where the function's own would amplify what is darker than air.
    """
    step = 1 / PER_UNIT

    def extended(u: NDArray[np.float64]) -> NDArray[np.float64]:
        ends = function(np.array([0.0, step, 1 - step, 1.0]))
        left = float(np.clip((ends[1] - ends[0]) / step, -2, 2)) if below is None else below
        right = float(np.clip((ends[3] - ends[2]) / step, -2, 2))
        return function(np.clip(u, 0, 1)) + np.minimum(u, 0) * left + np.maximum(u - 1, 0) * right

    return extended
