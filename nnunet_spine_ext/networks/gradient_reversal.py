"""Gradient reversal: the identity forwards, minus lambda times the gradient backwards (Ganin et al. 2016)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Reversal(torch.autograd.Function):
    """Keeps lambda as a tensor: a number would become part of a compiled graph, which is compiled anew for each."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, strength: Tensor) -> Tensor:
        ctx.save_for_backward(strength)
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (strength,) = ctx.saved_tensors
        return gradients[0] * -strength.to(gradients[0].dtype), None


def reverse_gradient(features: Tensor, strength: float | Tensor) -> Tensor:
    """Return the features; what learns from them is worked against by what made them.

    Parameters
    ----------
    features: of any shape.
    strength: lambda, 0 or more: the gradient that arrives at the features is multiplied by minus lambda. A tensor of
        one per sample is (B, 1, …). In compiled code give a tensor.
    """
    if not isinstance(strength, Tensor):
        strength = torch.tensor(float(strength), device=features.device)
    reversed_features: Tensor = _Reversal.apply(features, strength)
    return reversed_features
