"""All 58 first-order, co-occurrence and run-length features of a slice, without gradient, by their PyRadiomics names.

They choose what a harmonizer is trained for and judge what it made. Values equal those of PyRadiomics with its
default settings (no resampling, no normalisation, bins of one width); tests compare with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from nnunet_spine_ext.core.errors import CaseError, UsageError
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.harmonize.texture import GLCM, GLRLM, entropy, glcm_features, glrlm_features

FIRST_ORDER = (
    "10Percentile", "90Percentile", "Energy", "Entropy", "InterquartileRange", "Kurtosis", "Maximum", "Mean",
    "MeanAbsoluteDeviation", "Median", "Minimum", "Range", "RobustMeanAbsoluteDeviation", "RootMeanSquared",
    "Skewness", "TotalEnergy", "Uniformity", "Variance",
)  # fmt: skip
FEATURE_NAMES = (
    *(f"firstorder_{name}" for name in FIRST_ORDER),
    *(f"glcm_{name}" for name in GLCM),
    *(f"glrlm_{name}" for name in GLRLM),
)
RegionScaling = Literal["none", "minmax", "robust"]
# Percentiles between which the robust scaling spreads a region.
ROBUST = (0.5, 99.5)
# Matrices have a row per bin; more bins than this say that the bins do not suit the values.
MOST_BINS = 4096


def all_features(
    image: Array,
    roi: Array | None = None,
    *,
    bin_width: float = 25.0,
    bin_count: int | None = None,
    voxel_volume: float = 1.0,
) -> dict[str, float]:
    """Return the 58 features, by names such as ``firstorder_Mean``, ``glcm_Idmn``, ``glrlm_ShortRunEmphasis``.

    Parameters
    ----------
    image: numbers (Y, X), or (Z, Y, X) with neighbours across slices; here on the 0-255 scale.
    roi: the same shape, anything above 0 is inside; None: all of it.
    bin_width: of grey levels; the first bin begins at a multiple of it.
    bin_count: so many bins from the lowest to the highest value instead, if given.
    voxel_volume: in mm³, for ``firstorder_TotalEnergy`` only.

    Features of co-occurrence are NaN where no pixel of the region has a neighbour in it, those of runs where none
    shares a row, column or diagonal with another, and ``firstorder_RobustMeanAbsoluteDeviation`` where no value lies
    between the percentiles 10 and 90, as of two pixels.

    Raises
    ------
    UsageError: arrays of other shapes, bins that make no sense.
    CaseError: a region without pixels, values that are no numbers.
    """
    inside = _region(image, roi)
    box = tuple(slice(int(places.min()), int(places.max()) + 1) for places in np.nonzero(inside))
    inside = inside[box]
    part = np.asarray(image)[box].astype(np.float64)
    values = part[inside]
    if not np.isfinite(values).all():
        raise CaseError(
            "E-RADIOMICS-VALUES",
            file="image",
            found="pixels in the region that are no numbers",
            expected="finite values",
            fix="replace or leave out such slices",
        )
    levels = np.zeros(part.shape, dtype=np.int64)
    levels[inside] = _binned(values, bin_width, bin_count)
    found = {
        **{f"firstorder_{name}": value for name, value in _first_order(values, levels[inside], voxel_volume).items()},
        **{f"glcm_{name}": value for name, value in glcm_features(levels).items()},
        **{f"glrlm_{name}": value for name, value in glrlm_features(levels).items()},
    }
    return {name: found[name] for name in FEATURE_NAMES}


def _region(image: Array, roi: Array | None) -> Array:
    """Return the region as booleans of the image's shape."""
    shape = np.shape(image)
    if len(shape) not in (2, 3) or 0 in shape or (roi is not None and np.shape(roi) != shape):
        found = f"an image {list(shape)}" + ("" if roi is None else f" with a region {list(np.shape(roi))}")
        raise UsageError(
            "E-RADIOMICS-SHAPE",
            file="image",
            found=found,
            expected="(Y, X) or (Z, Y, X), both the same",
            fix="pass one slice or one block, and a region on its grid",
        )
    inside: Array = np.ones(shape, dtype=bool) if roi is None else np.asarray(roi) > 0
    if not inside.any():
        raise CaseError(
            "E-RADIOMICS-ROI",
            file="roi",
            found="a region without pixels",
            expected="one pixel or more",
            fix="leave the slice out or pass no region",
        )
    return inside


def _binned(values: Array, bin_width: float, bin_count: int | None) -> Array:
    """Return levels from 1 on, as PyRadiomics bins (edges at multiples of the width)."""
    low, high = float(values.min()), float(values.max())
    if bin_count is None:
        most = (high - low) / bin_width if bin_width > 0 else np.inf
    else:
        most = float(bin_count) if bin_count >= 1 else np.inf
    if not most < MOST_BINS:
        found = f"bins of {bin_width:g} for values {low:g} to {high:g}" if bin_count is None else f"{bin_count} bins"
        raise UsageError(
            "E-RADIOMICS-BINS",
            file="bins",
            found=found,
            expected=f"a width above 0, or a count, of 1 to {MOST_BINS - 1} bins",
            fix="give another bin_width or bin_count",
        )
    if bin_count is None:
        edges = np.arange(low - low % bin_width, high + 2 * bin_width, bin_width)
    else:
        edges = np.histogram_bin_edges(values, bin_count)
        # The highest value belongs to the last bin.
        edges[-1] += 1
    levels: Array = np.digitize(values, edges)
    return levels


def _first_order(values: Array, levels: Array, voxel_volume: float) -> dict[str, float]:
    counts = np.bincount(levels)
    shares = counts[counts > 0] / values.size
    tenth, quarter, half, three, ninetieth = np.percentile(values, (10, 25, 50, 75, 90))
    mean = float(values.mean())
    centred = values - mean
    variance, third, fourth = (float((centred**power).mean()) for power in (2, 3, 4))
    within = values[(values >= tenth) & (values <= ninetieth)]
    energy = float((values**2).sum())
    return {
        "10Percentile": float(tenth),
        "90Percentile": float(ninetieth),
        "Energy": energy,
        "Entropy": entropy(shares),
        "InterquartileRange": float(three - quarter),
        "Kurtosis": fourth / variance**2 if variance > 0 else 0.0,
        "Maximum": float(values.max()),
        "Mean": mean,
        "MeanAbsoluteDeviation": float(np.abs(centred).mean()),
        "Median": float(half),
        "Minimum": float(values.min()),
        "Range": float(values.max() - values.min()),
        "RobustMeanAbsoluteDeviation": float(np.abs(within - within.mean()).mean()) if within.size else float("nan"),
        "RootMeanSquared": float(np.sqrt(energy / values.size)),
        "Skewness": third / variance**1.5 if variance > 0 else 0.0,
        "TotalEnergy": energy * voxel_volume,
        "Uniformity": float((shares**2).sum()),
        "Variance": variance,
    }


def rescaled(part: Array, scaling: RegionScaling = "minmax") -> Array:
    """Return a region from 0 to 255, float32; a constant one becomes 0, one with values that are no numbers all NaN.

    Parameters
    ----------
    scaling: ``minmax``: by its lowest and highest value, as Kim et al. do; ``robust``: by its percentiles 0.5 and 99.5,
        which one hot pixel does not move; ``none``: as it is.
    """
    if scaling == "none":
        return part.astype(np.float32)
    if not np.isfinite(part).all():
        # Zeros would be taken for a constant region.
        return np.full(part.shape, np.nan, dtype=np.float32)
    low, high = np.percentile(part, ROBUST) if scaling == "robust" else (part.min(), part.max())
    if not high > low:
        return np.zeros(part.shape, dtype=np.float32)
    scaled = (np.clip(part.astype(np.float64), low, high) - low) * (255 / (float(high) - float(low)))
    # Rounding must not make a 256th grey value, which could be a bin of its own.
    return np.minimum(scaled.astype(np.float32), np.float32(255))


def features_of_slices(
    images: Array,
    windows: Sequence[tuple[slice, slice]] | None = None,
    *,
    bin_width: float = 25.0,
    bin_count: int | None = None,
    scaling: RegionScaling = "minmax",
) -> list[dict[str, float]]:
    """Return the features of many slices, one row each.

    Parameters
    ----------
    images: (N, Y, X) on the 0-255 scale.
    windows: per slice the region of interest, rows and columns; None: whole slices.
    scaling: of each region, see `rescaled`.

    Raises
    ------
    UsageError, CaseError: as `all_features`; what is wrong with a slice names its number.
    """
    rows = []
    for number, image in enumerate(images):
        part = image if windows is None else image[windows[number]]
        try:
            rows.append(all_features(rescaled(part, scaling), bin_width=bin_width, bin_count=bin_count))
        except CaseError as error:
            raise CaseError(
                error.code, file=f"slice {number}", found=error.found, expected=error.expected, fix=error.fix
            ) from error
    return rows
