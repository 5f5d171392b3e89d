"""What one scan's intensities are like, in few numbers; kept per case beside a preprocessed dataset."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.io import read_json, write_json
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.harmonize.body import SAMPLES, body_mask, thinned
from nnunet_spine_ext.harmonize.noise import noise_deviation
from nnunet_spine_ext.harmonize.structures import REGION, REGION_MM

logger = logging.getLogger(__name__)
CURVES_VERSION = 3
_READABLE = (1, 2, CURVES_VERSION)
CURVES_FILE = "spine_intensity_curves.json"
KNOTS = 33
PROBABILITIES = np.linspace(0.01, 0.99, KNOTS)
LOW, HIGH = 0.1, 0.9
# A structure of fewer voxels has no quantiles to speak of.
MIN_VOXELS = 50
# A voxel that weighs less is of something else.
_LEAST = 0.05
# For what is computed once and kept.
ALL = 1 << 62
_NUMBERS = ("air", "mean", "sd", "noise")
# Slices that tell the noise of a scan.
_NOISE_SLICES = 9


@dataclass(frozen=True)
class ChannelFacts:
    """One channel of one scan, in the units of its file.

    Parameters
    ----------
    body: quantiles of the body without air at `PROBABILITIES`, shape (33,).
    structures: the same per structure, of those that are in the scan.
    voxels: how many voxels of the thinned scan each structure's quantiles come from (weights added up).
    air: median outside the body, exact zeros left out; None if there is nothing but body.
    mean, sd: over the box around all non-zero voxels, air included: what nnU-Net's ZScoreNormalization takes. None in
        facts of version 1.
    noise: standard deviation of the noise in the body; None where nothing tells, and in facts of versions 1 and 2.
    """

    body: Array
    structures: Mapping[str, Array] = field(default_factory=dict)
    voxels: Mapping[str, float] = field(default_factory=dict)
    air: float | None = None
    mean: float | None = None
    sd: float | None = None
    noise: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as plain JSON."""
        return {
            "body": _rounded(self.body),
            "structures": {name: _rounded(curve) for name, curve in self.structures.items()},
            "voxels": {name: round(float(count), 1) for name, count in self.voxels.items()},
            **{key: None if (v := getattr(self, key)) is None else round(v, 6) for key in _NUMBERS},
        }

    @classmethod
    def of(cls, content: ChannelFacts | Mapping[str, Any] | Sequence[float] | Array) -> ChannelFacts:
        """Return facts from JSON; a bare curve is what version 1 had."""
        if isinstance(content, ChannelFacts):
            return content
        if not isinstance(content, Mapping):
            return cls(np.asarray(content, dtype=np.float64))
        curves = {name: np.asarray(curve, dtype=np.float64) for name, curve in content.get("structures", {}).items()}
        return cls(
            np.asarray(content["body"], dtype=np.float64),
            curves,
            dict(content.get("voxels", {})),
            *(content.get(key) for key in _NUMBERS),
        )


@dataclass(frozen=True)
class CaseFacts:
    """The channels of a case, its voxel size (mm, sorted; None in facts of version 1), and which version found them."""

    channels: tuple[ChannelFacts, ...]
    spacing: tuple[float, float, float] | None = None
    version: int = CURVES_VERSION

    @property
    def current(self) -> bool:
        """Whether all that this version finds was looked for."""
        return self.version >= CURVES_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as plain JSON."""
        spacing = None if self.spacing is None else [round(size, 5) for size in self.spacing]
        channels = [channel.to_dict() for channel in self.channels]
        return {"version": self.version, "channels": channels, "spacing": spacing}

    @classmethod
    def of(cls, content: CaseFacts | Mapping[str, Any] | Sequence[Any]) -> CaseFacts:
        """Return facts from JSON; a list of curves (channels, 33) is what version 1 had."""
        if isinstance(content, CaseFacts):
            return content
        if not isinstance(content, Mapping):
            return cls(tuple(ChannelFacts.of(curve) for curve in content), version=1)
        spacing = content.get("spacing")
        # Versions 1 and 2 did not write which they were.
        version = content.get("version", 1 if spacing is None else 2)
        return cls(
            tuple(ChannelFacts.of(channel) for channel in content["channels"]),
            None if spacing is None else tuple(spacing),
            int(version),
        )


def channel_facts(
    image: Volume, masks: Mapping[str, Array] | None = None, *, samples: int = SAMPLES, noise: bool = True
) -> ChannelFacts:
    """Return the facts of one channel; without `noise`, that one is left out.

    Parameters
    ----------
    samples: voxels to look at, spread evenly; more tell the brightest percent better and take longer.
    masks: per structure, weights 0 to 1 on the grid of the image, shape (i, j, k): labels, or what a network is sure
        of. The region around them is added.
    """
    small = thinned(image, samples)
    values = np.asarray(small.array, dtype=np.float32)
    finite = np.isfinite(values)
    if not finite.all():
        values = np.where(finite, values, 0)
    body = body_mask(small.with_array(values))
    inside = values[body] if body.any() else values.ravel()
    outside = values[~body & (values != 0)]
    curves, voxels = structure_curves(small.with_array(values), _thin(masks or {}, image, small))
    mean, sd = _box_moments(values)
    deviation = noise_deviation(image, _spread(body, image, small), slices=_NOISE_SLICES) if noise else None
    return ChannelFacts(
        np.quantile(inside.astype(np.float64), PROBABILITIES),
        curves,
        voxels,
        # A few voxels of shadow are no air.
        float(np.median(outside)) if outside.size > 0.02 * values.size else None,
        mean,
        sd,
        deviation,
    )


def structure_curves(image: Volume, weights: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, float]]:
    """Return quantiles at `PROBABILITIES` of each structure, shape (33,), and the voxels that they come from.

    Parameters
    ----------
    weights: 0 to 1 on the grid of the image; the outermost voxels of each structure are left out where it is thick
        enough, because they are half something else.
    """
    weights = {name: np.asarray(weight, dtype=np.float32) for name, weight in weights.items() if name != REGION}
    curves, voxels = {}, {}
    for name, weight in weights.items():
        core = _eroded(weight)
        # What is hardly there at all has no quantiles, however many voxels it is in.
        total = float(core[core > _LEAST].sum())
        if total >= MIN_VOXELS:
            curves[name], voxels[name] = weighted_quantiles(image.array, core), total
    # A crumb without quantiles of its own is as likely to be false, and 20 mm around it are many voxels.
    weights = {name: weight for name, weight in weights.items() if name in curves}
    near = _region(weights, image.spacing) if weights else None
    if near is not None:
        curves[REGION], voxels[REGION] = weighted_quantiles(image.array, near), float(near.sum())
    return curves, voxels


def weighted_quantiles(values: Array, weights: Array, probabilities: Array = PROBABILITIES) -> Array:
    """Return quantiles of values (any shape) with weights (same shape, some above 0.05), non-decreasing."""
    chosen = weights > _LEAST
    picked, heavy = values[chosen].astype(np.float64), weights[chosen].astype(np.float64)
    order = np.argsort(picked, kind="stable")
    picked, heavy = picked[order], heavy[order]
    centres = np.cumsum(heavy) - heavy / 2
    return np.interp(probabilities * heavy.sum(), centres, picked)


def _steps(image: Volume, small: Volume) -> tuple[int, ...]:
    """Return which voxels along each axis a thinned image holds: every how many."""
    return tuple(round(b / a) for a, b in zip(image.spacing, small.spacing, strict=True))


def _thin(masks: Mapping[str, Array], image: Volume, small: Volume) -> dict[str, Array]:
    steps = _steps(image, small)
    return {name: mask[:: steps[0], :: steps[1], :: steps[2]] for name, mask in masks.items()}


def _spread(mask: Array, image: Volume, small: Volume) -> Array:
    """Return a mask of a thinned image on the grid of the image."""
    for axis, step in enumerate(_steps(image, small)):
        mask = np.repeat(mask, step, axis=axis)
    return mask[tuple(slice(0, size) for size in image.shape)]


def _eroded(weight: Array) -> Array:
    """Return weights less the outermost voxel of each slice, unless that leaves less than a fifth of them."""
    from scipy.ndimage import grey_erosion

    flat = [min(3, n) for n in weight.shape]
    # Slices are thick: across them nothing is taken away.
    flat[int(np.argmin(weight.shape))] = 1
    core: Array = grey_erosion(weight, size=tuple(flat), mode="nearest")
    return core if core.sum() >= max(MIN_VOXELS, 0.2 * float(weight.sum())) else weight


def _region(weights: Mapping[str, Array], spacing: tuple[float, float, float]) -> Array | None:
    from scipy.ndimage import distance_transform_edt

    spine = np.maximum.reduce(list(weights.values())) > 0.5
    if spine.sum() < MIN_VOXELS:
        return None
    near: Array = distance_transform_edt(~spine, sampling=spacing) <= REGION_MM
    return near.astype(np.float32)


def _box_moments(values: Array) -> tuple[float, float]:
    """Return mean and standard deviation within the box around all non-zero voxels, as nnU-Net crops."""
    filled = values != 0
    if filled.any():
        box = []
        for axis in range(3):
            line = np.flatnonzero(filled.any(axis=tuple(a for a in range(3) if a != axis)))
            box.append(slice(int(line[0]), int(line[-1]) + 1))
        values = values[tuple(box)]
    return float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))


def intensity_curve(volume: Volume) -> Array:
    """Return the quantiles at `PROBABILITIES` of the body, shape (33,), in the units of the file, non-decreasing."""
    return channel_facts(volume, samples=ALL).body


def write_curves(folder: str | Path, curves: Mapping[str, Any]) -> Path:
    """Store the facts of all cases in a preprocessed dataset folder."""
    path = Path(folder) / CURVES_FILE
    cases = {case: CaseFacts.of(content).to_dict() for case, content in curves.items()}
    write_json(path, {"version": CURVES_VERSION, "probabilities": PROBABILITIES, "cases": cases}, indent=None)
    return path


def read_curves(folder: str | Path) -> dict[str, CaseFacts]:
    """Return the stored facts, an empty dictionary if there are none that this version can use (a warning says so).

    They follow from the images, so whoever needs them makes them anew. Those of version 1 hold the body alone, those of
    version 2 no noise.
    """
    path = Path(folder) / CURVES_FILE
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
        found = f"version {content['version']}"
        if content["version"] in _READABLE:
            return {case: CaseFacts.of(facts) for case, facts in content["cases"].items()}
    except CaseError as error:
        found = error.found
    except (KeyError, TypeError, ValueError):
        found = "no version"
    logger.warning("%s: %s, not version %d; left out, and made anew from the images", path, found, CURVES_VERSION)
    return {}


def _rounded(curve: Array) -> list[float]:
    return [round(float(value), 6) for value in curve]
