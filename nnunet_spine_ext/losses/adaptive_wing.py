"""Adaptive wing loss: regression of soft labels, steep where the label is high.

Wang, Bo and Fuxin: Adaptive wing loss for robust face alignment via heatmap regression. ICCV 2019.
Bédard and others: Towards contrast-agnostic soft segmentation of the spinal cord. 2023 (ω 8, ε 1, θ 0.5, α 2.1).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_spine_ext.losses.supervised import (
    Activation,
    check_choice,
    check_numbers,
    full_precision,
    supervised,
    where_supervised,
)

Weighting = Literal["off", "dilation", "paper"]
Reduction = Literal["mean", "sum"]

# Wang 2019, section 4.3: grey dilation of the target over 3 voxels along each axis, cut at 0.2.
DILATION = 3
DILATED_ABOVE = 0.2


class AdaptiveWing(nn.Module):
    """ω·ln(1 + (d/ε)^(α−y)) for errors d = |ŷ − y| up to θ, a straight line of the same slope beyond.

    Parameters
    ----------
    omega, epsilon, theta, alpha: ω, ε, θ and α of the paper; α above 2, so that every exponent is above 1 and the
        gradient at d = 0 is 0.
    weighting: ``off``: all voxels count the same. ``dilation``: voxels count 1 + `weight` times where the target, or
        that of a neighbour, reaches 0.2 (Wang 2019). ``paper``: what the code of the contrast-agnostic paper does: its
        mask thresholds a boolean at 51 and so is 1 everywhere, whatever the weight; kept under a name of its own for
        comparisons.
    weight: W of ``dilation``.
    reduction: ``mean`` over supervised voxels and classes (weights are not divided out, as in Wang's code), or
        ``sum``, as in the paper's code: then coarse levels of deep supervision count less by their number of voxels.
    activation: what the output becomes before it is compared: nothing (``linear``), or its ``sigmoid``.

    Raises
    ------
    UsageError: a parameter out of range, or an unknown choice.
    """

    def __init__(
        self,
        *,
        omega: float = 8.0,
        epsilon: float = 1.0,
        theta: float = 0.5,
        alpha: float = 2.1,
        weighting: Weighting = "off",
        weight: float = 10.0,
        reduction: Reduction = "mean",
        activation: Activation = "linear",
    ) -> None:
        super().__init__()
        check_numbers(
            "omega, epsilon and theta above 0, alpha above 2, weight from 0",
            omega > 0 and epsilon > 0 and theta > 0 and alpha > 2 and weight >= 0,
            omega=omega,
            epsilon=epsilon,
            theta=theta,
            alpha=alpha,
            weight=weight,
        )
        check_choice("weighting", weighting, Weighting)
        check_choice("reduction", reduction, Reduction)
        check_choice("activation", activation, Activation)
        self.omega, self.epsilon, self.theta, self.alpha = omega, epsilon, theta, alpha
        self.weighting: Weighting = weighting
        self.weight = weight
        self.reduction: Reduction = reduction
        self.activation: Activation = activation

    def forward(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the loss, a float32 scalar (float64 for an output in float64).

        Parameters
        ----------
        output: (B, K, *spatial) of the K soft classes, 2-D or 3-D.
        target: (B, K, *spatial), clamped to [0, 1].
        valid: (B, 1, *spatial); what is not above 0.999 is ignored: it adds nothing and its gradient is exactly 0.
        """
        with full_precision(output):
            z, y, mask = supervised(output, target, valid)
            p = torch.sigmoid(z) if self.activation == "sigmoid" else z
            loss = self.wing(p, y)
            if self.weighting == "dilation":
                loss = loss * weight_map(y, self.weight)
            if self.activation == "sigmoid":
                # The sigmoid of the 0 in an ignored voxel is 0.5, no longer its target.
                loss = where_supervised(mask, loss)
            if self.reduction == "sum":
                return loss.sum()
            return loss.sum() / (mask.sum() * y.shape[1]).clamp_min(1)

    def wing(self, p: Tensor, y: Tensor) -> Tensor:
        """Return the loss of every voxel of a prediction p and a target y in [0, 1], before any weight."""
        distance = (p - y).abs()
        exponent = self.alpha - y
        # The error is cut at θ before the power, not after: a far outlier would overflow in the part not used, and
        # its gradient be infinity times 0. The line is written from θ on, so that both parts meet by construction.
        near = distance.clamp_max(self.theta)
        at_theta = (self.theta / self.epsilon) ** exponent
        slope = self.omega * exponent / self.theta * at_theta / (1 + at_theta)
        return self.omega * torch.log1p((near / self.epsilon) ** exponent) + slope * (distance - near)


def weight_map(target: Tensor, weight: float) -> Tensor:
    """Return 1 + weight where the grey dilation of a target (B, K, *spatial), 2-D or 3-D, reaches 0.2, else 1."""
    pool = functional.max_pool2d if target.dim() == 4 else functional.max_pool3d
    dilated = pool(target, DILATION, stride=1, padding=DILATION // 2)
    return 1 + weight * (dilated >= DILATED_ABOVE).to(target.dtype)
