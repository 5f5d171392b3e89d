"""The intensity reference: what the training images of a model looked like.

Version 1 holds, per channel, the mean and the spread over the training cases of 33 quantiles of the body without air.
A case's curve is expressed in units of its own 10th to 90th percentile range, because MR intensities have no unit;
`low` and `high` keep the median of those two percentiles in the units of the files.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.io import read_json, read_volume, write_json
from nnunet_spine_ext.core.volume import Array, Volume

logger = logging.getLogger(__name__)
REFERENCE_VERSION = 1
CURVES_FILE = "spine_intensity_curves.json"
KNOTS = 33
PROBABILITIES = np.linspace(0.01, 0.99, KNOTS)
_LOW, _HIGH = 0.1, 0.9
# How often the threshold between air and body is found, and the share of the body left out at each side of its extent.
_PASSES, _SPECKS = 3, 1e-3


def body_mask(volume: Volume) -> Array:
    """Return the body without air as a boolean array (i, j, k).

    The threshold is Li's minimum cross-entropy on the logarithm. Exact zeros are padding and do not take part, nor does
    air beside the body: the threshold is found again within the extent of the body, so it does not depend on how much
    air the field of view holds. The largest component is kept and its holes (air ways, flow voids, dark cortical bone)
    are filled slice by slice.
    """
    from scipy.ndimage import binary_fill_holes

    values = volume.array.astype(np.float32)
    values = values - min(0.0, float(values.min()))
    extent: tuple[slice, ...] = (slice(None),) * 3
    mask: Array = values > 0
    for _ in range(_PASSES):
        inside = values[extent]
        inside = inside[inside > 0]
        if inside.size < 2 or inside.min() == inside.max():
            return mask
        mask = _largest_component(values > _li_threshold(inside))
        extent = _extent(mask)
    for k in range(mask.shape[2]):
        mask[:, :, k] = binary_fill_holes(mask[:, :, k])
    return mask


def _li_threshold(values: Array) -> float:
    from skimage.filters import threshold_li

    return float(np.exp(threshold_li(np.log(values))))


def _largest_component(mask: Array) -> Array:
    import cc3d

    labels = cc3d.connected_components(mask.astype(np.uint8), connectivity=6)
    counts = np.bincount(labels.ravel())
    counts[0] = 0
    largest: Array = labels == int(counts.argmax())
    return largest


def _extent(mask: Array) -> tuple[slice, ...]:
    """Return the box around a mask, less the outermost thousandth per side: specks of noise that touch the body."""
    box = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        share = np.cumsum(mask.sum(axis=others)) / max(1, int(mask.sum()))
        first, last = (int(np.searchsorted(share, s)) for s in (_SPECKS, 1 - _SPECKS))
        box.append(slice(first, last + 1))
    return tuple(box)


def intensity_curve(volume: Volume) -> Array:
    """Return the quantiles at `PROBABILITIES` of the body, shape (33,), in the units of the file, non-decreasing."""
    values = volume.array[body_mask(volume)]
    if values.size == 0:
        values = volume.array.ravel()
    return np.quantile(values.astype(np.float64), PROBABILITIES)


def curves_of_files(cases: Mapping[str, Sequence[str | Path]]) -> dict[str, list[list[float]]]:
    """Return the curve of each channel file of each case, shape (channels, 33)."""
    from tqdm import tqdm

    return {
        case: [[round(float(q), 6) for q in intensity_curve(read_volume(file))] for file in files]
        for case, files in tqdm(cases.items(), desc="intensity curves", disable=None)
    }


def write_curves(folder: str | Path, curves: Mapping[str, Any]) -> Path:
    """Store the curves of all cases in a preprocessed dataset folder."""
    path = Path(folder) / CURVES_FILE
    write_json(path, {"version": REFERENCE_VERSION, "probabilities": PROBABILITIES, "cases": dict(curves)}, indent=None)
    return path


def read_curves(folder: str | Path) -> dict[str, list[list[float]]]:
    """Return the stored curves, an empty dictionary if there are none that this version can use (a warning says so).

    They follow from the images, so whoever needs them makes them anew.
    """
    path = Path(folder) / CURVES_FILE
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
        found = f"version {content['version']}"
    except CaseError as error:
        content, found = {}, error.found
    except (KeyError, TypeError):
        content, found = {}, "no version"
    if content.get("version") != REFERENCE_VERSION:
        logger.warning(
            "%s: %s, not version %d; left out, and made anew from the images", path, found, REFERENCE_VERSION
        )
        return {}
    cases: dict[str, list[list[float]]] = content["cases"]
    return cases


def average_curves(curves: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, Any] | None:
    """Return the reference of a set of cases, None for an empty set.

    Parameters
    ----------
    curves: per case an array (channels, 33) in the units of the files.

    Returns
    -------
    ``{"version", "cases", "probabilities", "channels": [{"mean", "spread", "low", "high"}]}`` with `mean` and `spread`
    (standard deviation) in units of the 10th to 90th percentile range of each case.
    """
    if not curves:
        return None
    stacked = np.asarray([curves[case] for case in sorted(curves)], dtype=np.float64)
    low, high = (_at(stacked, p) for p in (_LOW, _HIGH))
    width = np.maximum(high - low, 1e-9)
    relative = (stacked - low[..., None]) / width[..., None]
    channels = [
        {
            "mean": relative[:, c].mean(axis=0).round(5).tolist(),
            "spread": relative[:, c].std(axis=0).round(5).tolist(),
            "low": float(np.median(low[:, c])),
            "high": float(np.median(high[:, c])),
        }
        for c in range(stacked.shape[1])
    ]
    return {
        "version": REFERENCE_VERSION,
        "cases": len(curves),
        "probabilities": PROBABILITIES.round(6).tolist(),
        "channels": channels,
    }


def _at(curves: Array, probability: float) -> Array:
    """Read curves (cases, channels, 33) at one probability, shape (cases, channels)."""
    right = int(np.searchsorted(PROBABILITIES, probability))
    share = (probability - PROBABILITIES[right - 1]) / (PROBABILITIES[right] - PROBABILITIES[right - 1])
    between: Array = curves[..., right - 1] * (1 - share) + curves[..., right] * share
    return between
