"""How steep a table may be: the noise of a tissue, and its texture, are not to become salt and pepper.

Both grow with brightness less than contrast does, so a table may be steep where it is dark, and less so where it is
bright: fat has more texture than muscle has signal. On the device, no read-back.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_STEEPEST, _GENTLEST = 3.0, 2.0
# Between, a part of the brightness may become at most half the span.
_SPAN = 0.5
_DARK, _BRIGHT = _SPAN / _STEEPEST, _SPAN / _GENTLEST


def reach(values: Tensor) -> Tensor:
    """Return how far a value, in units of the signal, may be brought from air: the allowed slope, summed up.

    Two values may become as different as their reaches are. The slope is 3 up to 0.17, 2 from 0.25.
    """
    dark = values.clamp_max(_DARK) * _STEEPEST
    between = (values.clamp(_DARK, _BRIGHT).log() - math.log(_DARK)) * _SPAN
    return dark + between + (values - _BRIGHT).clamp_min(0) * _GENTLEST


def gentle(curves: Tensor, reached: Tensor) -> Tensor:
    """Return ascending curves (K, N) whose steps are at most those of `reached` (K, N): what is less steep stays.

    The mean of the largest such curve below and the smallest above the given one.
    """
    excess = curves - reached
    below, above = excess.cummin(dim=1).values, excess.flip(1).cummax(dim=1).values.flip(1)
    return reached + (below + above) / 2


def near(values: Tensor, anchor: Tensor, value: Tensor, place: Tensor) -> Tensor:
    """Keep values for `place` within reach of the value `anchor` has, all broadcast."""
    room = (reach(place) - reach(anchor)).abs()
    return torch.minimum(torch.maximum(values, value - room), value + room)
