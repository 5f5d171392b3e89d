"""The background of a soft model: a row of the last layer that follows from the others.

The network keeps nnU-Net's K+1 heads and losses read channels 1 to K. With the background set to 1 minus their sum, or
for logits of a sigmoid to 0, nnU-Net's argmax is the hard label, and whatever is linear (windows, mirroring, folds,
resampling) keeps the sum.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

Output = Literal["linear", "sigmoid"]


@torch.no_grad()
def set_background(network: nn.Module, output: Output) -> None:
    """Set the background row of every segmentation layer, in place.

    Linear: weight 0 = -sum of the others, bias 0 = 1 - sum of the others; sigmoid: both 0.
    """
    for layer in segmentation_layers(network):
        if output == "linear":
            layer.weight[0] = -layer.weight[1:].sum(dim=0)
            layer.bias[0] = 1 - layer.bias[1:].sum()
        else:
            layer.weight[0] = 0
            layer.bias[0] = 0


def segmentation_layers(network: nn.Module) -> list[Any]:
    """Return the segmentation layers of a network of nnU-Net's, whatever PyTorch has wrapped around it.

    Raises
    ------
    TypeError: a network whose decoder has none with a bias.
    """
    bare: Any = getattr(network, "module", network)
    bare = getattr(bare, "_orig_mod", bare)
    layers = list(getattr(getattr(bare, "decoder", None), "seg_layers", ()))
    if not layers or any(layer.bias is None for layer in layers):
        msg = f"{type(bare).__name__} has no segmentation layers with a bias that a background could be set in"
        raise TypeError(msg)
    return layers
