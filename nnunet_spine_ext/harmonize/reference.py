"""The intensity reference: what the training images of a model looked like.

Version 2 holds, per channel, the mean and the spread over the training cases of 33 quantiles of the body without air,
and the same of each structure that the labels know. A case's curves are expressed in units of its own 10th to 90th
percentile range of the body, because MR intensities have no unit; `low` and `high` keep the median of those two
percentiles in the units of the files. The noise of the training scans is kept relative to it, too, where facts of the
cases tell it. Version 1 held the body alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.errors import Problem
from nnunet_spine_ext.core.io import read_volume
from nnunet_spine_ext.core.settings_key import SETTINGS_KEY
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.harmonize.body import body_mask
from nnunet_spine_ext.harmonize.contrast import told
from nnunet_spine_ext.harmonize.curves import (
    ALL,
    CURVES_FILE,
    HIGH,
    KNOTS,
    LOW,
    PROBABILITIES,
    CaseFacts,
    channel_facts,
    intensity_curve,
    read_curves,
    write_curves,
)
from nnunet_spine_ext.harmonize.limit import LEAST, prediction_limit
from nnunet_spine_ext.harmonize.structures import structure_masks

__all__ = [
    "CURVES_FILE",
    "KNOTS",
    "PROBABILITIES",
    "REFERENCE_VERSION",
    "ChannelReference",
    "IntensityReference",
    "StructureReference",
    "average_curves",
    "body_mask",
    "curves_of_files",
    "facts_of_case",
    "intensity_curve",
    "read_curves",
    "reference_of",
    "write_curves",
]
logger = logging.getLogger(__name__)
REFERENCE_VERSION = 2
# Of fewer cases the distance of each from the others says nothing about the next one.
_MIN_CASES = 2
_USUAL = 0.95


@dataclass(frozen=True)
class StructureReference:
    """Quantiles of one structure at `PROBABILITIES`, mean and spread over `cases` cases, shape (33,) each.

    In units of the 10th to 90th percentile range of each case's body.
    """

    mean: Array
    spread: Array
    cases: int


@dataclass(frozen=True)
class ChannelReference:
    """What one channel of the training images looked like.

    Parameters
    ----------
    mean, spread: of the body's quantiles at `PROBABILITIES`, shape (33,), relative: 0 is the 10th percentile of the
        body, 1 the 90th.
    low, high: those two percentiles, medians over the cases, in the units of the files.
    structures: the same per structure; empty in references of version 1 and without labels.
    air: median of the air, relative; None where no case had any.
    normalisation: (mean, sd) that nnU-Net's ZScoreNormalization found in the training images, air included, in the
        units of `low` and `high`: what normalises an image after matching as a training image was, however much air
        its field of view holds. None in references of version 1.
    distance: 95th percentile over the training cases of the distance of each from the others. None of a single case,
        and in version 1.
    contrast: as `IntensityReference.contrast`.
    cases: training cases.
    limit: up to it a scan is in distribution: of a hundred new scans of the training scanner about one is farther.
        None of a single case, and in references of earlier versions, where `distance` takes its place.
    noise: median over the training cases of the standard deviation of the noise, relative; `noise_limit`: what one of a
        hundred new scans of the training scanner exceeds. None of a single case, and in references of earlier versions.
    """

    mean: Array
    spread: Array
    low: float
    high: float
    structures: Mapping[str, StructureReference] = field(default_factory=dict)
    air: float | None = None
    normalisation: tuple[float, float] | None = None
    distance: float | None = None
    contrast: str | None = None
    cases: int = 1
    limit: float | None = None
    noise: float | None = None
    noise_limit: float | None = None

    @property
    def bar(self) -> float | None:
        """Up to where a scan is in distribution; None where the reference cannot tell."""
        return self.distance if self.limit is None else self.limit

    @property
    def width(self) -> float:
        """The 10th to 90th percentile range of the body, in the units of the files."""
        return max(self.high - self.low, 1e-9)

    def absolute(self, relative: Array | float) -> Array:
        """Return relative values in the units of the files."""
        return self.low + self.width * np.asarray(relative, dtype=np.float64)


@dataclass(frozen=True)
class IntensityReference:
    """The reference of a model: one per channel, the training cases, their voxel size (mm, sorted) and contrast."""

    channels: tuple[ChannelReference, ...]
    cases: int
    spacing: tuple[float, float, float] | None = None
    contrast: str | None = None
    version: int = REFERENCE_VERSION

    @property
    def distance(self) -> float | None:
        """That of the channel whose training scans vary most; None where there is none."""
        bars = [channel.distance for channel in self.channels if channel.distance is not None]
        return max(bars) if bars else None


def curves_of_files(
    cases: Mapping[str, Sequence[str | Path]],
    *,
    labels: Mapping[str, str | Path] | None = None,
    structures: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, CaseFacts]:
    """Return the facts of each channel file of each case.

    Parameters
    ----------
    labels: a mask per case, on the grid of its images; cases without one, and masks on another grid, give no
        structures.
    structures: the class ids of each structure.
    """
    from tqdm import tqdm

    return {
        case: facts_of_case([read_volume(file) for file in files], (labels or {}).get(case), structures or {})
        for case, files in tqdm(cases.items(), desc="intensity curves", disable=None)
    }


def facts_of_case(
    images: Sequence[Volume],
    label: str | Path | None,
    structures: Mapping[str, tuple[int, ...]],
    warn: Callable[[Problem], None] | None = None,
) -> CaseFacts:
    """Return the facts of one case; without structures where its mask is missing or on another grid.

    Parameters
    ----------
    images: the channels, as they were read. label: file of the mask.
    warn: is told of another grid; None: the log is.
    """
    masks: dict[str, Array] = {}
    if label is not None and structures:
        mask = read_volume(label)
        if mask.same_grid(images[0]):
            masks = structure_masks(mask.array, structures)
        else:
            found, fix = "a mask on another grid than its image", "the case gives the body alone; resample the mask"
            problem = Problem("warning", "W-REFERENCE-GRID", str(label), found, "the grid of the image", fix)
            logger.warning("%s", problem) if warn is None else warn(problem)
    spacing = sorted(images[0].spacing)
    channels = tuple(channel_facts(image, masks, samples=ALL) for image in images)
    return CaseFacts(channels, (spacing[0], spacing[1], spacing[2]))


def average_curves(
    curves: Mapping[str, Any], *, contrasts: Mapping[str, str | None] | None = None
) -> dict[str, Any] | None:
    """Return the reference of a set of cases as plain JSON, None for an empty set.

    Parameters
    ----------
    curves: per case its `CaseFacts`, or curves (channels, 33) as version 1 had them, in the units of the files.
    contrasts: per case, as cases.json tells it; the reference has one where all cases agree.

    Returns
    -------
    ``{"version", "cases", "probabilities", "spacing", "contrast", "distance", "channels": [{"mean", "spread", "low",
    "high", "air", "normalisation", "distance", "limit", "noise", "noise_limit", "structures": {name: {"mean", "spread",
    "cases"}}}]}``; all but `low` and `high` relative to the 10th to 90th percentile range of each case.
    """
    if not curves:
        return None
    facts = [CaseFacts.of(curves[case]) for case in sorted(curves)]
    channels = [_average_channel([case.channels[c] for case in facts]) for c in range(len(facts[0].channels))]
    known = {told((contrasts or {}).get(case)) for case in curves}
    spacings = [case.spacing for case in facts if case.spacing is not None]
    bars = [channel["distance"] for channel in channels if channel["distance"] is not None]
    return {
        "version": REFERENCE_VERSION,
        "cases": len(curves),
        "probabilities": PROBABILITIES.round(6).tolist(),
        "spacing": np.median(spacings, axis=0).round(4).tolist() if spacings else None,
        "contrast": next(iter(known)) if len(known) == 1 else None,
        "distance": max(bars) if bars else None,
        "channels": channels,
    }


def _average_channel(facts: Sequence[Any]) -> dict[str, Any]:
    bodies = np.stack([case.body for case in facts])
    low, high = at(bodies, LOW), at(bodies, HIGH)
    width = np.maximum(high - low, 1e-9)
    relative = (bodies - low[:, None]) / width[:, None]
    structures = {}
    for name in sorted({name for case in facts for name in case.structures}):
        having = [k for k, case in enumerate(facts) if name in case.structures]
        curves = np.stack([(facts[k].structures[name] - low[k]) / width[k] for k in having])
        structures[name] = {**_mean_and_spread(curves), "cases": len(having)}
    airs = [(case.air - low[k]) / width[k] for k, case in enumerate(facts) if case.air is not None]
    moments = [
        ((case.mean - low[k]) / width[k], case.sd / width[k])
        for k, case in enumerate(facts)
        if case.mean is not None and case.sd is not None
    ]
    away = _left_out_distances(relative) if len(facts) >= _MIN_CASES else None
    return {
        **_mean_and_spread(relative),
        "low": float(np.median(low)),
        "high": float(np.median(high)),
        "air": round(float(np.median(airs)), 4) if airs else None,
        "normalisation": np.median(moments, axis=0).round(5).tolist() if moments else None,
        "distance": None if away is None else round(max(LEAST, float(np.quantile(away, _USUAL))), 5),
        "limit": None if away is None else round(prediction_limit(away), 5),
        **_noise([case.noise / size for case, size in zip(facts, width, strict=True) if case.noise is not None]),
        "structures": structures,
    }


def _noise(levels: Sequence[float]) -> dict[str, float | None]:
    if len(levels) < _MIN_CASES:
        return {"noise": None, "noise_limit": None}
    return {"noise": round(float(np.median(levels)), 5), "noise_limit": round(prediction_limit(levels), 5)}


def _mean_and_spread(curves: Array) -> dict[str, Any]:
    return {"mean": curves.mean(axis=0).round(4).tolist(), "spread": curves.std(axis=0).round(4).tolist()}


def _left_out_distances(relative: Array) -> Array:
    """Return the distance of each case's curve from the mean of the others, shape (cases,)."""
    others = (relative.sum(axis=0) - relative) / (len(relative) - 1)
    distances: Array = np.abs(relative - others).mean(axis=1)
    return distances


def at(curves: Array, probability: float) -> Array:
    """Read curves (…, 33) at one probability, shape (…)."""
    right = int(np.searchsorted(PROBABILITIES, probability))
    share = (probability - PROBABILITIES[right - 1]) / (PROBABILITIES[right] - PROBABILITIES[right - 1])
    between: Array = curves[..., right - 1] * (1 - share) + curves[..., right] * share
    return between


def reference_of(plans: Mapping[str, Any], folds: Sequence[str | int]) -> IntensityReference | None:
    """Return the mean of the references of a model's folds; None where the plans have none.

    Parameters
    ----------
    plans: content of the model's plans.json.
    folds: those that predict; folds without a reference are left out, and if all are, every reference there is counts.
    """
    stored = (plans.get(SETTINGS_KEY) or {}).get("reference") or {}
    chosen = [stored[str(fold)] for fold in folds if str(fold) in stored] or [stored[fold] for fold in sorted(stored)]
    if not chosen:
        return None
    spacings = [content["spacing"] for content in chosen if content.get("spacing")]
    spacing = np.mean(spacings, axis=0).tolist() if spacings else None
    contrasts = {told(content.get("contrast")) for content in chosen}
    contrast = next(iter(contrasts)) if len(contrasts) == 1 else None
    cases = max(int(content["cases"]) for content in chosen)
    return IntensityReference(
        tuple(
            _mean_channel([content["channels"][c] for content in chosen], contrast, cases)
            for c in range(len(chosen[0]["channels"]))
        ),
        cases,
        None if spacing is None else (spacing[0], spacing[1], spacing[2]),
        contrast,
        min(int(content["version"]) for content in chosen),
    )


def _mean_channel(contents: Sequence[Mapping[str, Any]], contrast: str | None, cases: int) -> ChannelReference:
    def mean(key: str) -> Any:
        known = [content[key] for content in contents if content.get(key) is not None]
        return np.mean(np.asarray(known, dtype=np.float64), axis=0) if known else None

    structures = {}
    for name in sorted({name for content in contents for name in content.get("structures", {})}):
        having = [content["structures"][name] for content in contents if name in content.get("structures", {})]
        structures[name] = StructureReference(
            np.mean([row["mean"] for row in having], axis=0),
            np.mean([row["spread"] for row in having], axis=0),
            max(int(row["cases"]) for row in having),
        )
    low, high = float(mean("low")), float(mean("high"))
    moments = mean("normalisation")
    air, usual, limit, noise, noise_limit = (
        None if (value := mean(key)) is None else float(value)
        for key in ("air", "distance", "limit", "noise", "noise_limit")
    )
    width = max(high - low, 1e-9)
    return ChannelReference(
        mean("mean"),
        mean("spread"),
        low,
        high,
        structures,
        air,
        None if moments is None else (low + width * float(moments[0]), width * float(moments[1])),
        usual,
        contrast,
        cases,
        limit,
        noise,
        noise_limit,
    )
