"""What tells whether an adapted answer may be believed: volume, vertebrae, and agreement between views."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.inference.adaptation.patches import Patch
from nnunet_spine_ext.inference.adaptation.settings import GuardSettings
from nnunet_spine_ext.inference.phase_options import schemes_with_bodies
from nnunet_spine_ext.inference.sides import sided_view

_GAMMAS = (0.8, 1.25)
_TINY = 1e-6
_DIGITS = 4
# Instances 1 to 25 and 28 to 33 are vertebrae by place or name; 26 is the sacrum, from 100 on there are discs.
_SACRUM = 26
_DISCS = 100


@dataclass(frozen=True)
class Assessment:
    """What the guards look at, of one answer.

    Parameters
    ----------
    labels: (*spatial) label map on the prepared grid.
    volume: number of foreground voxels. vertebrae: how many, None where the classes have no vertebral bodies.
    agreement: mean Dice between views of the same patches, None where none of them shows a structure.
    """

    labels: Array
    volume: int
    vertebrae: int | None
    agreement: float | None


@dataclass(frozen=True)
class Verdict:
    """What one guard found: `value` must not exceed `limit`; None: it could not be asked, and `why` says so."""

    guard: str
    value: float | None
    limit: float
    why: str = ""
    below: bool = False

    @property
    def passed(self) -> bool:
        """Whether the adapted answer may be kept, as far as this guard can tell."""
        if self.value is None:
            return True
        return self.value < self.limit if self.below else self.value <= self.limit

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON."""
        asked = {"value": self.value, "limit": self.limit, "passed": self.passed}
        return {"guard": self.guard} | ({"skipped": self.why} if self.value is None else asked)


def compare(before: Assessment, after: Assessment, settings: GuardSettings) -> list[Verdict]:
    """Return what the guards say of an adapted answer beside the unadapted one."""
    change = abs(after.volume - before.volume) / max(before.volume, 1)
    verdicts = [Verdict("volume", round(change, _DIGITS), settings.volume, below=True)]
    if before.vertebrae is None or after.vertebrae is None:
        verdicts.append(Verdict("vertebrae", None, settings.vertebrae, "a model without a class of vertebral bodies"))
    else:
        verdicts.append(Verdict("vertebrae", abs(after.vertebrae - before.vertebrae), settings.vertebrae))
    if before.agreement is None:
        verdicts.append(Verdict("agreement", None, settings.agreement, "no structure in the patches it is measured on"))
    else:
        loss = before.agreement - (after.agreement or 0.0)
        verdicts.append(Verdict("agreement", round(loss, _DIGITS), settings.agreement))
    return verdicts


def tripped(verdicts: Sequence[Verdict]) -> Problem | None:
    """Return the warning that names every guard that was not passed, with its value and limit; None if all were."""
    names = {
        "volume": "the foreground's volume changed by {value:.0%} (limit {limit:.0%})",
        "vertebrae": "the number of vertebrae changed by {value:.0f} (limit {limit:.0f})",
        "agreement": "agreement between views fell by {value:.4f} in Dice (limit {limit:.4f})",
    }
    found = [names[v.guard].format(value=v.value, limit=v.limit) for v in verdicts if not v.passed]
    if not found:
        return None
    return Problem(
        "warning",
        "W-ADAPT-GUARD",
        "",
        f"test-time training was not kept: {'; '.join(found)}",
        "an adapted answer near the unadapted one",
        "the result is that of the model as it was trained; look at the image, or predict without --adapt",
    )


def count_vertebrae(labels: Array, scheme: str, spacing: Sequence[float], forward: Sequence[int]) -> int | None:
    """Return how many vertebrae the instance step finds in a label map; None for classes without vertebral bodies.

    Parameters
    ----------
    labels: (*spatial) on the prepared grid, three axes.
    spacing: mm along them. forward: nnU-Net's `transpose_forward`, from (z, y, x) to the prepared axes.
    """
    from nnunet_spine_ext.instances.whole import TABLES

    # Bodies of whole vertebrae are told by a canal, which a patch need not have.
    if scheme not in schemes_with_bodies() or scheme in TABLES:
        return None
    from nnunet_spine_ext.instances.interface import separate

    upright = np.argsort(forward)
    z, y, x = (spacing[axis] for axis in upright)
    array = np.ascontiguousarray(labels.transpose(upright).transpose(2, 1, 0))
    found = separate(Volume(array, np.diag([x, y, z, 1.0])), scheme).instances.array
    ids = np.unique(found[(found > 0) & (found < _DISCS) & (found != _SACRUM)])
    return len(ids)


@dataclass(frozen=True)
class Views:
    """The views that answers to a patch are compared over.

    Parameters
    ----------
    axes: spatial axes of a patch that training mirrored without exchanging classes.
    sided: the left-right axis and pairs of channels to exchange, for sided classes; None without.
    """

    axes: tuple[int, ...]
    sided: tuple[int, tuple[tuple[int, int], ...]] | None

    def answers(self, probabilities: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor) -> list[torch.Tensor]:
        """Return the answers (B, K, *patch) to all views of a patch (B, C, *patch), brought back onto it."""
        found = [torch.flip(probabilities(torch.flip(image, [axis + 2])), [axis + 2]) for axis in self.axes]
        if self.sided is not None:
            axis, pairs = self.sided
            answer = torch.flip(probabilities(torch.flip(image, [axis + 2])), [axis + 2])
            order = list(range(answer.shape[1]))
            for left, right in pairs:
                order[left], order[right] = order[right], order[left]
            found.append(answer[:, order])
        return found + [probabilities(_with_gamma(image, gamma)) for gamma in _GAMMAS]


def agreement(
    probabilities: Callable[[torch.Tensor], torch.Tensor], patches: Sequence[Patch], views: Views, *, regions: bool
) -> float | None:
    """Return the mean Dice between the label map of a patch and those of its views, over structures, views, patches.

    None when no patch shows a structure.
    """
    found: list[float] = []
    for patch in patches:
        plain = _one_hot(probabilities(patch.image), regions=regions)
        for answer in views.answers(probabilities, patch.image):
            other = _one_hot(answer, regions=regions)
            axes = [0, *range(2, plain.ndim)]
            total = (plain.sum(dim=axes) + other.sum(dim=axes)).double()
            both = (plain & other).sum(dim=axes).double()
            found += (2 * both[total > 0] / total[total > 0]).tolist()
    return float(np.mean(found)) if found else None


def _one_hot(probabilities: torch.Tensor, *, regions: bool) -> torch.Tensor:
    if regions:
        return probabilities > 0.5
    winner = probabilities.argmax(dim=1, keepdim=True)
    classes = torch.arange(1, probabilities.shape[1], device=winner.device)
    return winner == classes.reshape(1, -1, *[1] * (winner.ndim - 2))


def _with_gamma(image: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return a patch with another gamma in each channel; its smallest and largest values stay."""
    axes = tuple(range(2, image.ndim))
    low, high = image.amin(dim=axes, keepdim=True), image.amax(dim=axes, keepdim=True)
    span = (high - low).clamp(min=_TINY)
    return ((image - low) / span).clamp(0, 1) ** gamma * span + low


def mirror_views(plans: Mapping[str, Any], axes: Sequence[int] | None, dimensions: int) -> Views:
    """Return the views that a model was trained for.

    Parameters
    ----------
    axes: axes of a patch that nnU-Net may mirror, those with sided classes left out already. dimensions: of a patch.
    """
    return Views(tuple(axes or ()), sided_view(plans, dimensions))
