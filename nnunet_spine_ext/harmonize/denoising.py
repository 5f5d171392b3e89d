"""A scan that is noisier than those of training, smoothed by what it has in excess.

Total variation: Rudin, Osher and Fatemi 1992; Chambolle 2004 (scikit-image's implementation).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.harmonize.curves import HIGH, LOW, ChannelFacts, channel_facts
from nnunet_spine_ext.harmonize.noise import in_planes
from nnunet_spine_ext.harmonize.reference import ChannelReference, at

# Smoothing, in voxels within the plane, before the total variation; and the weight of that, for noise of variance 1.
# Chosen on six digital spines as two noisy scanners took them, see docs/explanation/matching.md.
_BLUR, _WEIGHT = 0.5, 0.7
# Of the limit: what is noisier is told even when it was smoothed. Of 29 noisy scans of a study, the 16 beyond it had a
# mean Dice of 0.30 after smoothing, the others of 0.53, scans of the training scanner of 0.72.
_FAR = 1.5


@dataclass(frozen=True)
class NoiseScore:
    """The noise of a scan and of training scans: standard deviations relative to each body's 10th to 90th percentile.

    usual: median over the training scans. limit: up to it a scan may be one of the training scanner.
    """

    level: float
    usual: float
    limit: float

    @property
    def excess(self) -> float:
        """The noise beyond that of training scans, which smoothing is scaled by; 0 up to the limit."""
        return math.sqrt(self.level**2 - self.usual**2) if self.level > max(self.limit, self.usual) else 0.0

    def to_dict(self) -> dict[str, float]:
        """Return the score as plain JSON."""
        return {name: round(getattr(self, name), 4) for name in ("level", "usual", "limit")}


@dataclass(frozen=True, eq=False)
class Quieted:
    """A scan whose noise was looked at, and reduced where that was asked for.

    image: float32 on the same grid, or the scan itself where nothing had to be done. facts: of that image.
    score: before; None where reference or scan do not tell their noise. after: noise that is left, None where nothing
    was done.
    """

    image: Volume
    facts: ChannelFacts
    score: NoiseScore | None = None
    after: float | None = None

    @property
    def noisy(self) -> bool:
        """Whether the scan as it came is noisier than a scan of the training scanner may be."""
        return self.score is not None and self.score.excess > 0

    @property
    def doubtful(self) -> bool:
        """Whether the network sees a scan with more noise than it can cope with, or one that had far too much."""
        if self.score is None or not self.noisy:
            return False
        return not self.changed or self.score.level > _FAR * self.score.limit

    @property
    def changed(self) -> bool:
        """Whether the scan was smoothed."""
        return self.after is not None

    def to_dict(self) -> dict[str, Any] | None:
        """Return what was found and done as plain JSON; None where noise could not be compared."""
        if self.score is None:
            return None
        after = None if self.after is None else round(self.after, 4)
        return {**self.score.to_dict(), "beyond": self.noisy, "after": after}


def noise_score(facts: ChannelFacts, reference: ChannelReference) -> NoiseScore | None:
    """Return how noisy a scan is beside the training scans; None where it or the reference does not tell."""
    level = relative_noise(facts)
    if level is None or reference.noise is None or reference.noise_limit is None:
        return None
    return NoiseScore(level, reference.noise, reference.noise_limit)


def relative_noise(facts: ChannelFacts) -> float | None:
    """Return the noise in units of the body's 10th to 90th percentile range; None where it is not known."""
    width = _width(facts)
    return facts.noise / width if facts.noise is not None and width > 0 else None


def _width(facts: ChannelFacts) -> float:
    return float(at(facts.body, HIGH)) - float(at(facts.body, LOW))


def judged(image: Volume, reference: ChannelReference) -> Quieted:
    """Return a scan as it is, with its noise beside that of training scans."""
    facts = channel_facts(image)
    return Quieted(image, facts, noise_score(facts, reference))


def quieted(image: Volume, reference: ChannelReference) -> Quieted:
    """Return a scan smoothed by the noise that it has beyond training scans; the scan itself up to the limit.

    On digital spines less noise was left than training scans have.

    Parameters
    ----------
    image: one channel, any real type; never changed.
    """
    found = judged(image, reference)
    if found.score is None or not found.noisy:
        return found
    quiet = smoothed(image, found.score.excess * _width(found.facts))
    after = channel_facts(quiet)
    return Quieted(quiet, after, found.score, relative_noise(after) or 0.0)


def smoothed(image: Volume, deviation: float) -> Volume:
    """Return an image without noise of some standard deviation: float32, edges of anatomy kept.

    Slice by slice in the planes of the finest voxels: neighbouring slices are other anatomy. Exact zeros stay: they are
    padding, and nnU-Net cuts them away. Tissue beside padding is not mixed with it. NaN and infinity stay, too.

    Parameters
    ----------
    deviation: of the noise that is to go, in the units of the image; above 0.
    """
    from scipy.ndimage import gaussian_filter
    from skimage.restoration import denoise_tv_chambolle

    given = np.asarray(image.array, dtype=np.float32)
    values = np.nan_to_num(given, posinf=0.0, neginf=0.0)
    result = np.empty_like(values)
    into: Array = in_planes(image, result)
    for number, plane in enumerate(in_planes(image, values)):
        blurred = gaussian_filter(_without_padding(plane), _BLUR, mode="nearest") / deviation
        into[number] = denoise_tv_chambolle(blurred, weight=_WEIGHT) * deviation
    padding = values == 0
    result[padding] = given[padding]
    return image.with_array(result)


def _without_padding(plane: Array) -> Array:
    """Return a plane with the nearest value of the scan in place of each exact zero."""
    from scipy.ndimage import distance_transform_edt

    padding = plane == 0
    if padding.all() or not padding.any():
        return plane
    nearest = distance_transform_edt(padding, return_distances=False, return_indices=True)
    filled: Array = plane[tuple(nearest)]
    return filled
