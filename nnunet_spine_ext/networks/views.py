"""Other intensities, inside the network, in evaluation mode: what lets stock prediction see them.

nnU-Net's predictor hands patches to a network and averages over mirrored ones; a plugin cannot add views there. This
wrapper adds them behind it. A patch knows nothing of its volume, so every view is one fixed curve, or one fixed field,
for all patches of all volumes. To stretch each patch to its own minimum and maximum would give neighbouring windows
different curves, and seams where they meet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import nn

Change = Callable[[torch.Tensor], torch.Tensor]

# Where a z-scored image counts as black, in standard deviations from its mean: air of an MR volume is at -1 to -2.
BLACK = -3.0


class IntensityViewsNetwork(nn.Module):
    """Average a network with what it answers to patches of other intensities whenever it is in evaluation mode.

    It adopts the children of the network and has no parameters of its own, so its state-dict keys are those of the
    network: stock checkpoints load. It may wrap a `SidedMirrorNetwork`.

    Parameters
    ----------
    network: maps (B, C, *spatial) to (B, K, *spatial).
    changes: each maps patches to patches of the same shape, without changing its argument; the first view is always
        the patch itself.

    Raises
    ------
    ValueError: the network has parameters outside its children (they could not be adopted).
    """

    def __init__(self, network: nn.Module, changes: Sequence[Change]) -> None:
        super().__init__()
        own = [name for name, _ in network.named_parameters(recurse=False)]
        if own:
            msg = f"cannot adopt a network with parameters of its own: {own}"
            raise ValueError(msg)
        for name, child in network.named_children():
            self.add_module(name, child)
        # Not registered as a child: otherwise every state-dict key would appear a second time.
        object.__setattr__(self, "_adopted", network)
        self.changes = tuple(changes)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the adopted network itself too, not only of its children."""
        super().train(mode)
        self.__dict__["_adopted"].train(mode)
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return outputs (B, K, *spatial); in evaluation mode the mean over all views."""
        adopted: nn.Module = self.__dict__["_adopted"]
        output: torch.Tensor = adopted(x)
        if self.training or not self.changes:
            return output
        total = output.clone()
        for change in self.changes:
            total += adopted(change(x))
        return total / (len(self.changes) + 1)


class PatchGamma:
    """Gamma on a z-scored patch, by one curve for all patches.

    Values count from `BLACK` up, are raised to a power, and put on a line that leaves -1 and +1 where they are: what
    is one standard deviation from the mean stays there, as a z-score of the changed image would have it. What is below
    `BLACK` becomes what `BLACK` becomes.

    Parameters
    ----------
    gamma: the exponent, above 0. channels: whether each channel is changed; None: all.
    """

    def __init__(self, gamma: float, channels: Sequence[bool] | None = None) -> None:
        self.gamma = gamma
        self.channels = channels
        low, high = (-1 - BLACK) ** gamma, (1 - BLACK) ** gamma
        self._slope = 2 / (high - low)
        self._offset = 1 - self._slope * high

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return changed patches (B, C, *spatial)."""
        changed = (x.float() - BLACK).clamp_(min=0).pow_(self.gamma).mul_(self._slope).add_(self._offset)
        return only_channels(changed.to(x.dtype), x, self.channels)


class PatchBias:
    """Shading of a z-scored patch, by the same smooth field in every patch.

    The field belongs to the patch, not to the volume: windows that overlap see the same place under different
    shading. Each window for itself is smooth, and outputs are averaged.

    Parameters
    ----------
    strength: peak-to-peak, in logarithms; a negative one is the inverse field. channels: as in `PatchGamma`.
    """

    def __init__(self, strength: float, channels: Sequence[bool] | None = None) -> None:
        self.strength = strength
        self.channels = channels

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return changed patches (B, C, *spatial)."""
        field = shading(x.shape[2:], self.strength, x.device)
        changed = ((x.float() - BLACK) * field).add_(BLACK)
        return only_channels(changed.to(x.dtype), x, self.channels)


def shading(shape: Sequence[int], strength: float, device: torch.device | None = None) -> torch.Tensor:
    """Return a smooth positive field (*shape), the exponential of a polynomial of order 2, around 1.

    Its logarithm goes from -strength / 2 to +strength / 2. The coefficients are fixed, and different along the axes, so
    that no mirror image of the field is the field itself.
    """
    whole = torch.zeros(tuple(shape), dtype=torch.float32, device=device)
    positions = []
    for axis, size in enumerate(shape):
        line = torch.linspace(-1, 1, size, device=device) if size > 1 else torch.zeros(1, device=device)
        positions.append(line.reshape([-1 if a == axis else 1 for a in range(len(shape))]))
    for axis, line in enumerate(positions):
        # Coils lie behind the patient, and end above and below: a slope, and a curve.
        whole = whole + (0.5 + 0.25 * axis) * line - (0.6 - 0.2 * axis) * line.square()
    for first in range(len(positions) - 1):
        whole = whole + 0.3 * positions[first] * positions[first + 1]
    low, high = whole.min(), whole.max()
    return torch.exp(strength * ((whole - low) / (high - low).clamp(min=1e-6) - 0.5))


def only_channels(changed: torch.Tensor, original: torch.Tensor, channels: Sequence[bool] | None) -> torch.Tensor:
    """Put back, in place, the channels that are not to be changed; channels are axis 1 of patches (B, C, *spatial)."""
    for channel, wanted in enumerate(channels or ()):
        if not wanted:
            changed[:, channel] = original[:, channel]
    return changed
