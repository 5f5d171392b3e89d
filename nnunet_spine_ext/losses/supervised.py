"""What all losses for soft labels do first: leave ignored voxels out, clamp targets, go to full precision."""

from __future__ import annotations

import math
import typing
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from nnunet_spine_ext.core.config import nearest
from nnunet_spine_ext.core.errors import UsageError

Activation = Literal["linear", "sigmoid"]

# Interpolated validity of a voxel that nothing ignored reached is 1 up to rounding.
VALID_ABOVE = 0.999


class Supervised(NamedTuple):
    """What a loss is computed of; everything is 0 where nothing is supervised.

    `output`, `target`: (B, K, *spatial), float32 (float64 if the output was); target in [0, 1].
    `mask`: (B, 1, *spatial), bool, True = supervised.
    """

    output: Tensor
    target: Tensor
    mask: Tensor


def is_valid(valid: Tensor) -> Tensor:
    """Return which voxels are supervised, as bool; NaN is not."""
    # In bfloat16 the bound itself would round to 1, and nothing be above it.
    return valid.to(torch.promote_types(valid.dtype, torch.float32)) > VALID_ABOVE


def supervised(output: Tensor, target: Tensor, valid: Tensor) -> Supervised:
    """Take what is supervised from the arguments of a loss.

    Ignored voxels are replaced before anything is computed of them. A product with a mask would keep NaN, in the value
    or in the gradient; a choice does not: their gradient is exactly 0.

    Parameters
    ----------
    output: (B, K, *spatial), any floating type.
    target: (B, K, *spatial); values outside [0, 1], which cubic resampling makes, are clamped.
    valid: (B, 1, *spatial); supervised where above 0.999.

    Raises
    ------
    UsageError: shapes that do not belong together.
    """
    if output.shape != target.shape or valid.shape != (output.shape[0], 1, *output.shape[2:]):
        raise UsageError(
            "E-LOSS-SHAPE",
            found=f"output {tuple(output.shape)}, target {tuple(target.shape)}, valid {tuple(valid.shape)}",
            expected="output and target (B, K, *spatial), valid (B, 1, *spatial)",
            fix="give as many target channels as the network has soft classes, without background",
        )
    dtype = torch.promote_types(output.dtype, torch.float32)
    mask = is_valid(valid)
    zero = torch.zeros((), dtype=dtype, device=output.device)
    # The target is a constant: no loss here is differentiated by it.
    values = target.detach().to(dtype).clamp(0, 1)
    return Supervised(torch.where(mask, output.to(dtype), zero), torch.where(mask, values, zero), mask)


def where_supervised(mask: Tensor, values: Tensor) -> Tensor:
    """Return values (B, K, *spatial), 0 where mask (B, 1, *spatial) is False."""
    return torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))


def full_precision(tensor: Tensor) -> torch.autocast:
    """Return the context in which a loss is computed: no autocast, whatever surrounds it.

    The wing's powers lose all digits in half precision, and sums over a patch exceed what it can hold.
    """
    return torch.autocast(device_type=tensor.device.type, enabled=False)


def check_choice(name: str, value: str, choices: Any) -> None:
    """Raise UsageError, with the nearest name, for a value that is none of a Literal's."""
    known = typing.get_args(choices)
    if value not in known:
        raise UsageError(
            "E-LOSS-CHOICE",
            found=f"{name}={value!r}",
            expected=f"a known {name}",
            fix=nearest(str(value), known),
        )


def check_numbers(expected: str, correct: bool, **values: float) -> None:
    """Raise UsageError unless numbers, named in the message, are correct and finite."""
    if not (correct and all(math.isfinite(value) for value in values.values())):
        found = ", ".join(f"{name}={value}" for name, value in values.items())
        raise UsageError("E-LOSS-RANGE", found=found, expected=expected, fix="correct the value")
