"""The network that says which vertebra a patch shows: a small residual network with one answer per question.

Questions and classes are those of SPINEPS' labelling network (VERIDAH; Möller et al.), so that a solver made for one
serves the other. The layers are others: SPINEPS' DenseNet-169 has 18.6 million parameters in 3-D and needs far more
scans, and time, than most users have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional

_GROUPS = 8


class LevelClassifier(nn.Module):
    """Residual network over a patch around one vertebra.

    Parameters
    ----------
    channels: of the input. The image alone is enough, because the vertebra in question lies in the centre. A mask of
        that vertebra says the same where the centre is not clear (scoliosis, a centre that is off), and masks of all
        vertebrae show their shapes in any contrast, and how many there are up to the edge of the picture.
    heads: number of classes of each question, by name.
    width: features of the first stage; doubled by every stage.
    blocks: residual blocks of each stage; every stage but the first halves the axes that are longer than 4 voxels.
    stem: stride of the first convolution along the axes of the patch.
    dropout: share of the features that are dropped before the answers, in training.

    Raises
    ------
    ValueError: a number below 1, or no head.
    """

    def __init__(
        self,
        channels: int,
        heads: Mapping[str, int],
        width: int = 16,
        blocks: Sequence[int] = (1, 1, 1, 1),
        stem: Sequence[int] = (2, 2, 1),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if min(channels, width, *blocks, *stem, *heads.values(), len(blocks), len(heads)) < 1 or len(stem) != 3:
            msg = f"channels {channels}, width {width}, blocks {tuple(blocks)}, stem {tuple(stem)}: all from 1 on"
            raise ValueError(msg)
        self.channels = channels
        self.stem = nn.Conv3d(channels, width, 5, stride=tuple(stem), padding=2, bias=False)
        self.norm = _norm(width)
        features = width
        stages = []
        for number, count in enumerate(blocks):
            out = width * 2**number
            stages.append(nn.ModuleList(_Block(features if k == 0 else out, out) for k in range(count)))
            features = out
        self.stages = nn.ModuleList(stages)
        self.dropout = nn.Dropout(dropout)
        # Mean and maximum: what is everywhere, and what is somewhere.
        self.heads = nn.ModuleDict({name: nn.Linear(2 * features, classes) for name, classes in heads.items()})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return logits (B, classes) of every question for patches (B, channels, P, I, R).

        Raises
        ------
        ValueError: another number of axes or channels.
        """
        if x.ndim != 5 or x.shape[1] != self.channels:
            msg = f"input of shape {tuple(x.shape)}, expected (B, {self.channels}, P, I, R)"
            raise ValueError(msg)
        x = functional.leaky_relu(self.norm(self.stem(x)), 0.01)
        for number, stage in enumerate(self.stages):
            if number:
                x = functional.max_pool3d(x, tuple(2 if n > 4 else 1 for n in x.shape[2:]))
            for block in stage:  # type: ignore[attr-defined]
                x = block(x)
        features = self.dropout(torch.cat((x.mean(dim=(2, 3, 4)), x.amax(dim=(2, 3, 4))), dim=1))
        return {name: head(features) for name, head in self.heads.items()}


def _norm(features: int) -> nn.GroupNorm:
    # No running statistics: a batch of one vertebra is answered like any other.
    return nn.GroupNorm(math.gcd(_GROUPS, features), features)


class _Block(nn.Module):
    """Two convolutions and a shortcut past them."""

    def __init__(self, features_in: int, features: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(features_in, features, 3, padding=1, bias=False)
        self.first_norm = _norm(features)
        self.second = nn.Conv3d(features, features, 3, padding=1, bias=False)
        self.second_norm = _norm(features)
        self.shortcut = nn.Conv3d(features_in, features, 1) if features_in != features else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.leaky_relu(self.first_norm(self.first(x)), 0.01)
        y = self.second_norm(self.second(y))
        result: torch.Tensor = functional.leaky_relu(y + self.shortcut(x), 0.01)
        return result
