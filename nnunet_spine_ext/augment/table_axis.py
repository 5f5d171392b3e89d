"""The value axis of the tables, and how a table becomes one multiplication and one addition per voxel.

Values are in units of the signal: u = (x - air) / span, so that air is 0 and the brightest tissue about 1. A table
has `NODES` values at the positions `AXIS` and is linear between them and beyond them: as many linear pieces and one
more, one below the axis, one between each two nodes, one above.

Where there may be many labels tables have fewer nodes (`nodes_for`), so that 50 labels cost about what 8 cost.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NODES = 1025
LOW, HIGH = -0.125, 1.875
AXIS = np.linspace(LOW, HIGH, NODES)
# Labels up to which tables have all nodes, or every second one; beyond, every fourth.
_ALL_UP_TO, _HALF_UP_TO = 8, 32

# Beyond the axis, and for tables that a chain of exponentials made steep: nothing grows without bound.
_END_SLOPES = (-5.0, 3.0)
LARGEST = 8.0
"""Bound of what a table adds, in units of the signal."""

Curve = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def nodes_for(labels: int) -> int:
    """Return the number of nodes of a table for so many labels; all but every nth of `AXIS` are left out."""
    return (NODES - 1) // (1 if labels <= _ALL_UP_TO else 2 if labels <= _HALF_UP_TO else 4) + 1


def per_unit(nodes: int) -> float:
    """Return the number of nodes per unit of signal."""
    return (nodes - 1) / (HIGH - LOW)


def positions(air: Tensor, span: Tensor, nodes: int = NODES) -> tuple[Tensor, Tensor]:
    """Return scale and offset that map an intensity to its position: its integer part is the segment."""
    scale = per_unit(nodes) / span
    return scale, _origin(nodes) - air * scale


def pieces(change: Tensor, air: Tensor, span: Tensor) -> Tensor:
    """Return intercept and slope of every segment as one complex number.

    Parameters
    ----------
    change: (G, N) what the table adds to u at each node; zero leaves intensities bit by bit as they are.
    air, span: (G,) levels of the sample that each table is for.

    Returns
    -------
    (G, N + 1) complex64, y = real + imag * x. One number of 8 bytes is gathered at once, two would cost double.
    """
    nodes = change.shape[1]
    step = change.diff(dim=1)
    low, high = (slope / per_unit(nodes) for slope in _END_SLOPES)
    step = torch.cat((step[:, :1].clamp(low, high), step, step[:, -1:].clamp(low, high)), dim=1)
    start = torch.cat((change[:, :1], change), dim=1)
    slope = step * per_unit(nodes)
    intercept = torch.addcmul(start, step, _before_origin(change.device, nodes)) * span[:, None]
    return torch.complex(torch.addcmul(intercept, slope, air[:, None], value=-1), slope + 1)


@lru_cache(maxsize=16)
def axis_on(device: torch.device, nodes: int = NODES) -> Tensor:
    """Return the positions of the nodes, (N,) float32."""
    return torch.from_numpy(np.linspace(LOW, HIGH, nodes).astype(np.float32)).to(device)


@lru_cache(maxsize=16)
def _before_origin(device: torch.device, nodes: int) -> Tensor:
    """Return how far each segment's first node lies before the origin of the axis, in nodes, (N + 1,)."""
    return (_origin(nodes) - torch.arange(nodes + 1, dtype=torch.float32).clamp_min(1)).to(device)


def _origin(nodes: int) -> float:
    return 1 - LOW * per_unit(nodes)


def on_unit(function: Curve, *, below: float | None = None) -> Curve:
    """Extend a function from [0, 1] to the axis: linear outside, with its own slope at the end, at most 2.

    `below`: the slope below 0 where the function's own would amplify what is darker than air.
    """
    step = 1 / per_unit(NODES)

    def extended(u: NDArray[np.float64]) -> NDArray[np.float64]:
        ends = function(np.array([0.0, step, 1 - step, 1.0]))
        left = float(np.clip((ends[1] - ends[0]) / step, -2, 2)) if below is None else below
        right = float(np.clip((ends[3] - ends[2]) / step, -2, 2))
        return function(np.clip(u, 0, 1)) + np.minimum(u, 0) * left + np.maximum(u - 1, 0) * right

    return extended
