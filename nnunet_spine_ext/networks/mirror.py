"""Left/right mirroring with channel swap, inside the network, in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

import torch
from torch import nn


class SidedMirrorNetwork(nn.Module):
    """Average a network with its left/right mirrored self whenever it is in evaluation mode.

    nnU-Net mirrors patches at test time without knowing that a left process becomes a right one. This wrapper
    mirrors the left-right axis and exchanges the channels of sided classes. It adopts the children of the network
    and has no parameters of its own, so its state-dict keys are those of the network: stock checkpoints load.

    Parameters
    ----------
    network: maps (B, C, *spatial) to (B, K, *spatial).
    axis: spatial axis (0-based, without batch and channel) that is left-right in network space.
    sided_channels: pairs of output channels to exchange.

    While `mirrors` is False (see `one_sided`) it answers as the network does.

    Raises
    ------
    ValueError: the network has parameters outside its children (they could not be adopted).
    """

    def __init__(self, network: nn.Module, axis: int, sided_channels: Sequence[Sequence[int]]) -> None:
        super().__init__()
        own = [name for name, _ in network.named_parameters(recurse=False)]
        if own:
            msg = f"cannot adopt a network with parameters of its own: {own}"
            raise ValueError(msg)
        for name, child in network.named_children():
            self.add_module(name, child)
        # Not registered as a child: otherwise every state-dict key would appear a second time.
        object.__setattr__(self, "_adopted", network)
        self.axis = axis
        self.mirrors = True
        self.sided_channels = [(int(left), int(right)) for left, right in sided_channels]

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the adopted network itself too, not only of its children."""
        super().train(mode)
        self.__dict__["_adopted"].training = mode
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K, *spatial); in evaluation mode the mean over both sides."""
        adopted: nn.Module = self.__dict__["_adopted"]
        output: torch.Tensor = adopted(x)
        if self.training or not self.mirrors:
            return output
        mirrored = torch.flip(adopted(torch.flip(x, [self.axis + 2])), [self.axis + 2])
        order = list(range(mirrored.shape[1]))
        for left, right in self.sided_channels:
            order[left], order[right] = order[right], order[left]
        return (output + mirrored[:, order]) / 2


def mirrors_itself(network: nn.Module) -> bool:
    """Whether a network, or what is wrapped in it, answers for an image and its mirror image at once."""
    return any(isinstance(part, SidedMirrorNetwork) and part.mirrors for part in network.modules())


@contextmanager
def one_sided(network: nn.Module) -> Iterator[None]:
    """Let a network, or what is wrapped in it, not mirror inside the block: half the work where it would have."""
    mirroring = [part for part in network.modules() if isinstance(part, SidedMirrorNetwork) and part.mirrors]
    try:
        for part in mirroring:
            part.mirrors = False
        yield
    finally:
        for part in mirroring:
            part.mirrors = True
