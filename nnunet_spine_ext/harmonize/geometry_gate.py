"""Whether a harmonized slice still shows the same anatomy: edges, and discs, before and after.

A network that makes images look like others can also move, add and remove what they show. Kim et al. (IEEE Access 2024,
figure 10) look at checkerboards; here it is measured, slice by slice, and a slice that fails is left as it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_spine_ext.core.config import check_ranges
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.harmonize.slice_grid import TOP

if TYPE_CHECKING:
    from torch import Tensor

    from nnunet_spine_ext.harmonize.segmenter import SliceSegmenter

# Edges are those of the slice after smoothing by this much: noise is none, a disc of 5 mm has two.
_SIGMA_MM = 1.5
# A tile holds a disc with what is around it, and tiles overlap by half.
_TILE_MM = 32.0
# Levels of intensity whose mean after harmonization is taken for what contrast alone has done.
_LEVELS = 64
# Pixel sizes that differ by less are equal for a network.
_SAME_SPACING = 0.02
# Networks halve a slice up to five times.
_MULTIPLE = 32
NO_EDGES = "no edges"
"""Why a slice in which there is nothing to compare was not harmonized."""
EDGES_LOST = "no edges left"
"""Why a slice of which nothing was left was not harmonized."""


@dataclass(frozen=True)
class GateSettings:
    """What a harmonized slice has to keep of the one it was made of.

    Parameters
    ----------
    edge_correlation: of edges in the whole slice, at least this. Moving a slice by 1 mm gives 0.95 to 0.97.
    weakest: the same in the tile of 32 mm where it is lowest. A disc erased or invented gives 0.5 to 0.8, and hardly
        changes the correlation of the whole slice.
    kept: edges before, correlated with what intensities after still tell of them, in the whole slice at least this.
        Brightness and contrast leave 0.98 and more, tissues that exchange their tones 0.77, tissues that all became one
        tone 0.56 at most; the other two limits forgive a change of tones, whatever it is, so that one too.
    volume_change: share by which the area of the discs may change.
    agreement: Dice of the discs before and after, at least this. This limit and the last are for gross failures: a
        segmenter of the target's slices is expected to find more, and other, pixels once a slice looks like those.
    least_mm2: slices where fewer square millimetres of disc were found before are not judged by their discs.
    min_passed: share of a volume's slices, of those that could be judged, that has to pass; below it the whole volume
        stays as it was. A harmonizer that fails in most slices does not know such scans, and those that pass would
        differ in tone from their neighbours. 0: every slice for itself; 1: all of them or none.

    Raises
    ------
    UsageError: a limit outside its range.
    """

    edge_correlation: float = 0.95
    weakest: float = 0.8
    kept: float = 0.6
    volume_change: float = 0.5
    agreement: float = 0.6
    least_mm2: float = 100.0
    min_passed: float = 0.5

    def __post_init__(self) -> None:
        """Refuse limits outside their range."""
        limits = {
            "edge_correlation": (-1.0, 1.0),
            "weakest": (-1.0, 1.0),
            "kept": (-1.0, 1.0),
            "volume_change": (0.0, 1e6),
            "agreement": (0.0, 1.0),
            "least_mm2": (0.0, 1e6),
            "min_passed": (0.0, 1.0),
        }
        check_ranges(self, limits, where="gate")


@dataclass(frozen=True)
class DiscChange:
    """Discs of a slice before and after, as a segmenter finds them.

    Parameters
    ----------
    before, after: area in square millimetres. agreement: Dice of both masks; None where neither has any.
    """

    before: float
    after: float
    agreement: float | None

    @property
    def volume_change(self) -> float | None:
        """Share by which the area changed, negative where it shrank; None where there was nothing before."""
        return None if self.before == 0 else self.after / self.before - 1


@dataclass(frozen=True)
class SliceRow:
    """What became of a slice.

    Parameters
    ----------
    index: in the volume, counted from the right of the patient to the left.
    passed: whether it is harmonized; if not, it is as it was, and `why`.
    edge_correlation, weakest: of edges before and after, in the whole slice and in the tile where it is lowest; None
        where there are no edges.
    volume_change, agreement: of the discs (see `DiscChange`); None without a segmenter, or without discs before.
    kept: how well intensities after still tell the edges before.
    """

    index: int
    passed: bool
    why: str = ""
    edge_correlation: float | None = None
    weakest: float | None = None
    volume_change: float | None = None
    agreement: float | None = None
    kept: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain JSON, numbers to four decimals."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


def edge_correlation(
    before: Array, after: Array, spacing: Sequence[float], *, tones: bool = True
) -> tuple[float | None, float | None]:
    """Return how well the edges of two slices agree, in all and in the tile of 32 mm where they agree least.

    Correlation of gradient magnitudes after Gaussian smoothing by 1.5 mm.

    Parameters
    ----------
    before, after: (Y, X), 0 to 255. spacing: pixel size in mm (Y, X).
    tones: compare with the slice before after its intensities were replaced by the mean of what they became: a change
        of contrast alone, whatever it is, then gives 1, and only what it cannot explain gives less.

    Returns
    -------
    None for a slice without edges; tiles with weaker edges than the slice has on average are left out.
    """
    first = _edges(_toned(before, after) if tones else before, spacing)
    second, own = _edges(after, spacing), _edges(before, spacing)
    size = [max(4, round(_TILE_MM / step)) for step in spacing]
    tiles = [
        correlation(first[tile], second[tile]) for tile in _tiles(own.shape, size) if own[tile].mean() >= own.mean()
    ]
    known = [value for value in tiles if value is not None]
    whole = correlation(first, second)
    return whole, (min(known, default=whole) if whole is not None else None)


def edges_kept(before: Array, after: Array, spacing: Sequence[float]) -> float | None:
    """Return how well the edges of a slice can still be told from what became of it; None for one without edges.

    The slice after gets for each of its intensities the mean that pixels of it had before: what tones have become one
    is no edge any more. Parameters as those of `edge_correlation`.
    """
    return correlation(_edges(before, spacing), _edges(_toned(after, before), spacing))


def correlation(first: Array, second: Array) -> float | None:
    """Return Pearson's correlation; 0 where only the second is constant, None where the first is."""
    a, b = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((a * a).sum()))
    # Edges of the constant parts of a slice are rounding errors.
    if not scale > 1e-6 * first.size**0.5:
        return None
    other = float(np.sqrt((b * b).sum()))
    return float((a * b).sum() / (scale * other)) if other > 1e-6 * second.size**0.5 else 0.0


def disc_changes(
    before: Tensor, after: Tensor, spacing: Sequence[float], segmenter: SliceSegmenter
) -> list[DiscChange]:
    """Return what a segmenter makes of slices before and after, (B, 1, Y, X), 0 to 255, pixel size (Y, X) in mm."""
    import torch

    with torch.no_grad():
        masks = [_discs(images, spacing, segmenter) for images in (before, after)]
    found = []
    for first, second in zip(*(mask[0] for mask in masks), strict=True):
        both = int(first.sum()) + int(second.sum())
        dice = 2 * int((first & second).sum()) / both if both else None
        found.append(DiscChange(int(first.sum()) * masks[0][1], int(second.sum()) * masks[1][1], dice))
    return found


def judge(
    index: int,
    before: Array,
    after: Array,
    spacing: Sequence[float],
    settings: GateSettings,
    discs: DiscChange | None = None,
) -> SliceRow:
    """Judge a harmonized slice by the one it was made of, both (Y, X), 0 to 255, pixel size (Y, X) in mm."""
    if not np.isfinite(after).all():
        return SliceRow(index, False, "values that are no numbers")
    whole, weakest = edge_correlation(before, after, spacing)
    if whole is None or weakest is None:
        own = _edges(before, spacing)
        # A slice that showed something and shows nothing now has failed; one that showed nothing cannot be judged.
        return SliceRow(index, False, NO_EDGES if correlation(own, own) is None else EDGES_LOST)
    reasons = []
    if whole < settings.edge_correlation:
        reasons.append(f"edge correlation {_down(whole)} below {settings.edge_correlation:g}")
    if weakest < settings.weakest:
        reasons.append(f"edge correlation {_down(weakest)} below {settings.weakest:g} where it is lowest")
    kept = edges_kept(before, after, spacing)
    if kept is not None and kept < settings.kept:
        reasons.append(f"tones that tell {_down(kept)} of the edges, below {settings.kept:g}")
    change = agreement = None
    if discs is not None and discs.before >= settings.least_mm2 and discs.volume_change is not None:
        change, agreement = discs.volume_change, discs.agreement or 0.0
        if abs(change) > settings.volume_change:
            reasons.append(f"discs changed by {change:+.0%}, more than {settings.volume_change:.0%}")
        if agreement < settings.agreement:
            reasons.append(f"Dice of discs before and after {_down(agreement)} below {settings.agreement:g}")
    return SliceRow(index, not reasons, "; ".join(reasons), whole, weakest, change, agreement, kept)


def _down(value: float) -> str:
    """Return a number that is too small to three decimals, rounded down: 0.9498 is below 0.95, 0.950 is not."""
    return f"{math.floor(value * 1000) / 1000:.3f}"


def _edges(image: Array, spacing: Sequence[float]) -> Array:
    from scipy.ndimage import gaussian_gradient_magnitude

    result: Array = gaussian_gradient_magnitude(image.astype(np.float64), [_SIGMA_MM / step for step in spacing])
    return result


def _toned(before: Array, after: Array) -> Array:
    """Return a slice with each of its intensities replaced by the mean of what pixels of that intensity became."""
    level = np.clip(before.ravel() * (_LEVELS / (TOP + 1)), 0, _LEVELS - 1).astype(np.int64)
    count = np.bincount(level, minlength=_LEVELS)
    there = count > 0
    own, new = (np.bincount(level, image.ravel(), _LEVELS)[there] / count[there] for image in (before, after))
    result: Array = np.interp(before, own, new)
    return result


def _tiles(shape: Sequence[int], size: Sequence[int]) -> list[tuple[slice, slice]]:
    """Return tiles that overlap by half and cover a slice; of one that is smaller, the slice."""
    rows, columns = (
        sorted({*range(0, max(1, n - length), max(1, length // 2)), max(0, n - length)})
        for n, length in zip(shape, size, strict=True)
    )
    return [(slice(r, r + size[0]), slice(c, c + size[1])) for r in rows for c in columns]


def _discs(images: Tensor, spacing: Sequence[float], segmenter: SliceSegmenter) -> tuple[Array, float]:
    """Return masks (B, Y, X) at the pixel size of the segmenter, and the area of one of their pixels in mm²."""
    import torch

    pixel = float(spacing[0]) * float(spacing[1])
    if segmenter.spacing is not None:
        factors = [float(step) / segmenter.spacing for step in spacing]
        if max(abs(factor - 1) for factor in factors) > _SAME_SPACING:
            size = [max(1, round(n * factor)) for n, factor in zip(images.shape[2:], factors, strict=True)]
            pixel *= images.shape[2] * images.shape[3] / (size[0] * size[1])
            images = torch.nn.functional.interpolate(images, size=size, mode="bilinear", antialias=True)
    rows, columns = images.shape[2:]
    below, beside = -rows % _MULTIPLE, -columns % _MULTIPLE
    chance = segmenter(torch.nn.functional.pad(images, (0, beside, 0, below)))[:, 0, :rows, :columns]
    return (chance >= 0.5).cpu().numpy(), pixel
