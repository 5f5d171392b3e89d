"""Harmonizers without a network: one curve of intensities per slice, towards the style of many slices of a target.

- ``nyul``: landmarks in the manner of Nyúl and Udupa (Magn Reson Med 1999), averaged over the target's slices.
- ``histogram``: the whole distribution, pooled over the target's slices.
- ``zscore``: mean and standard deviation.

All three keep the order of intensities, and none knows anatomy: what a network adds has to show beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np

from nnunet_spine_ext.core.config import check_ranges, load_config, nearest, to_dict
from nnunet_spine_ext.core.errors import CaseError, UsageError
from nnunet_spine_ext.core.model_folders import faults_of_model
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.harmonize.body import body_mask
from nnunet_spine_ext.harmonize.harmonizer import MODEL_FILE, HarmonizerModel, unusable, write_harmonizer
from nnunet_spine_ext.harmonize.maps import SLOPE_LIMITS, IntensityMap, affine, through
from nnunet_spine_ext.harmonize.nyul import LANDMARKS, NyulLandmarks
from nnunet_spine_ext.harmonize.progress import paced
from nnunet_spine_ext.harmonize.slice_grid import SliceSettings
from nnunet_spine_ext.harmonize.slice_set import SliceSet

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BaselineMethod = Literal["nyul", "zscore", "histogram"]
BASELINES: tuple[BaselineMethod, ...] = get_args(BaselineMethod)
STYLE_FILE = "style.safetensors"
TOP = 255.0
_USED = "style_slices"
# Probabilities of the pooled distribution, and the bins that it is counted in.
_PROBABILITIES, _BINS = np.linspace(0.0, 1.0, 257), 4096
# A slice with fewer pixels of the body, or a narrower range (in grey values), tells nothing.
_FEWEST, _NARROWEST = 50, 1.0


@dataclass(frozen=True)
class BaselineSettings:
    """How the style of slices is measured.

    Parameters
    ----------
    region: whose intensities count: ``body``, so that the share of air in a field of view does not matter, or the whole
        ``slice``; padding counts for neither, and stays 0.
    slices: of the target at most, taken evenly (Kim et al.: 3000 for Nyúl's landmarks).
    slope_limits: a curve of ``nyul`` is never flatter or steeper than so many times its mean slope.
    """

    region: Literal["body", "slice"] = "body"
    slices: int = 3000
    slope_limits: tuple[float, float] = SLOPE_LIMITS

    def __post_init__(self) -> None:
        """Refuse values outside their limits."""
        check_ranges(self, {"slices": (1, 10_000_000)}, where="baseline")
        low, high = self.slope_limits
        if not 0 <= low < 1 < high:
            raise UsageError(
                "E-CONFIG-RANGE",
                file="baseline",
                found=f"slope_limits={list(self.slope_limits)}",
                expected="one below 1, from 0, and one above 1",
                fix="correct the value",
            )


@dataclass(frozen=True, eq=False)
class Baseline:
    """A `Harmonizer` that maps every slice by one curve, made from the slice and the target's style.

    Parameters
    ----------
    landmarks: grey values of the target at probabilities; for ``zscore`` there are none.
    mean, sd: of the target, averages over its slices.
    size, spacing, slices: of the target's slices, see `Harmonizer`.
    used: slices of the target that the style is from.
    """

    method: BaselineMethod
    landmarks: NyulLandmarks | None
    mean: float
    sd: float
    size: tuple[int, int]
    spacing: tuple[float, float]
    slices: SliceSettings
    settings: BaselineSettings = field(default_factory=BaselineSettings)
    used: int = 0

    def __call__(self, images: Tensor) -> Tensor:
        """Return (B, 1, Y, X), 0 to 255, each slice mapped by its own curve; float32 on the device of the images."""
        import torch

        slices = images.detach().float().cpu().numpy()
        mapped = np.empty_like(slices)
        for index, image in enumerate(slices[:, 0]):
            shown = shown_of(image)
            curve = self.curve(image, shown)
            # What was set to 0 is no tissue: as grey it would have edges.
            mapped[index, 0] = image
            if curve is not None:
                mapped[index, 0][shown] = np.clip(curve(image[shown]), 0.0, TOP)
        return torch.from_numpy(mapped).to(images.device)

    def curve(self, image: Array, shown: Array) -> IntensityMap | None:
        """Return the curve of one slice (Y, X), of which `shown_of` is known; None: no body or no range, it stays."""
        values = values_of(image, self.settings.region, self.spacing, shown)
        if values is None:
            return None
        if self.landmarks is None:
            # A constant region has no range, so its deviation is not zero here.
            slope = self.sd / float(values.std())
            return affine(slope, self.mean - slope * float(values.mean()), (float(values.min()), float(values.max())))
        found = np.quantile(values, self.landmarks.probabilities)
        wanted = self.landmarks.values
        slope = float((wanted[-1] - wanted[0]) / max(found[-1] - found[0], 1e-6))
        limits = self.settings.slope_limits if self.method == "nyul" else (0.0, np.inf)
        return through(found, wanted, slope, limits)

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """Return what `write_harmonizer` stores of the style."""
        import torch

        content = {"moments": torch.tensor([self.mean, self.sd])}
        if self.landmarks is not None:
            content["probabilities"] = torch.from_numpy(self.landmarks.probabilities)
            content["values"] = torch.from_numpy(self.landmarks.values)
        return {STYLE_FILE: content}


def fit_baseline(
    method: BaselineMethod, target: SliceSet, slices: SliceSettings, settings: BaselineSettings | None = None
) -> Baseline:
    """Measure the style of a target.

    Parameters
    ----------
    target: its slices. slices: how they were made.

    Raises
    ------
    UsageError: an unknown method. CaseError: no slice that has a body with a range of intensities.
    """
    if method not in BASELINES:
        raise UsageError(
            "E-CONFIG-VALUE",
            file="method",
            found=repr(method),
            expected="a method without a network",
            fix=nearest(method, BASELINES),
        )
    chosen = settings or BaselineSettings()
    count = min(chosen.slices, len(target))
    numbers = np.linspace(0, len(target) - 1, count).round().astype(int) if count else ()
    moments, shapes = [], []
    for number in paced(numbers, "style of the target", len(numbers), units="slices"):
        values = values_of(target.images[number], chosen.region, target.spacing)
        if values is None:
            continue
        # Not the values themselves: those of three thousand slices are gigabytes.
        moments.append((values.mean(), values.std()))
        if method != "zscore":
            shapes.append(np.quantile(values, LANDMARKS) if method == "nyul" else _shares(values))
    if not moments:
        raise CaseError(
            "E-SLICE-STYLE",
            file="target",
            found=f"{count} slices, none with a body whose intensities differ",
            expected="slices of patients",
            fix="look at the scans of the target, and at the settings of slices",
        )
    landmarks = None if method == "zscore" else (_nyul if method == "nyul" else _pooled)(np.stack(shapes))
    mean, sd = np.mean(moments, axis=0)
    return Baseline(
        method,
        None if landmarks is None else NyulLandmarks(*map(_stored, (landmarks.probabilities, landmarks.values))),
        float(_stored(mean)),
        float(_stored(sd)),
        target.size,
        target.spacing,
        slices,
        chosen,
        len(moments),
    )


def write_baseline(folder: str | Path, model: HarmonizerModel, baseline: Baseline) -> HarmonizerModel:
    """Write a baseline as the model of a folder; return what `model.json` says.

    Parameters
    ----------
    model: where target and sources are named; method, slices, pixel size, settings and the number of slices that the
        style is from become those of the baseline.
    """
    described = replace(
        model,
        method=baseline.method,
        slices=baseline.slices,
        spacing=baseline.spacing,
        settings=to_dict(baseline.settings),
        provenance={**model.provenance, _USED: baseline.used},
    )
    return write_harmonizer(folder, described, baseline.tensors())


def values_of(
    image: Array, region: Literal["body", "slice"], spacing: tuple[float, float], shown: Array | None = None
) -> Array | None:
    """Return the intensities of a slice (Y, X) that count, float64 (n,); None: too few, or without a range.

    `shown`: what `shown_of` says of the slice, where that is known.
    """
    counts = body_of(image, spacing) if region == "body" else shown_of(image) if shown is None else shown
    values = image[counts]
    # The narrow range keeps zero deviations and divisions by it out.
    if values.size < _FEWEST or float(values.max()) - float(values.min()) < _NARROWEST:
        return None
    return values.astype(np.float64)


def shown_of(image: Array) -> Array:
    """Return what a slice (Y, X) shows, boolean: all but the zeros that reach its edge, padding or air set to 0."""
    from scipy.ndimage import label

    zeros, _ = label(image == 0)
    edge = np.concatenate((zeros[0], zeros[-1], zeros[:, 0], zeros[:, -1]))
    shown: Array = ~np.isin(zeros, edge[edge > 0])
    return shown


def body_of(image: Array, spacing: tuple[float, float]) -> Array:
    """Return the body in a slice as a boolean array (Y, X); exact zeros are padding."""
    affine_ = np.diag([spacing[0], spacing[1], max(spacing), 1.0])
    body: Array = body_mask(Volume(image[:, :, None], affine_))[:, :, 0]
    return body


def _stored(values: Array) -> Array:
    """Round to what the model's file holds, so that a style works the same before and after it is written."""
    rounded: Array = np.asarray(values, dtype=np.float32).astype(np.float64)
    return rounded


def _nyul(found: Array) -> NyulLandmarks:
    """The standard scale of the landmarks of slices (n, 11).

    Every slice is stretched to the mean of the outermost landmarks, then all are averaged.
    """
    wide = found[:, -1] > found[:, 0]
    found = found[wide] if wide.any() else found
    first, last = found[:, :1], found[:, -1:]
    low, high = float(first.mean()), float(last.mean())
    standard = low + (found - first) * (high - low) / np.maximum(last - first, 1e-6)
    return NyulLandmarks(LANDMARKS, np.maximum.accumulate(standard.mean(axis=0)))


def _shares(values: Array) -> Array:
    """Return which share of the values (n,) lies in each bin, float32 (_BINS,)."""
    counts = np.histogram(np.clip(values, 0.0, TOP), np.linspace(0.0, TOP, _BINS + 1))[0]
    shares: Array = (counts / values.size).astype(np.float32)
    return shares


def _pooled(found: Array) -> NyulLandmarks:
    """Quantiles of all slices together, by their shares (n, bins), each of the same weight however much body it has."""
    edges = np.linspace(0.0, TOP, _BINS + 1)
    shares = found.mean(axis=0, dtype=np.float64)
    filled = np.flatnonzero(shares)
    above = np.cumsum(shares)
    # The bin that a probability lies in, and how far into it: what no bin holds is no quantile.
    bins = np.clip(np.searchsorted(above, _PROBABILITIES), filled[0], filled[-1])
    inside = np.clip((_PROBABILITIES - (above[bins] - shares[bins])) / np.maximum(shares[bins], 1e-12), 0.0, 1.0)
    return NyulLandmarks(_PROBABILITIES, np.maximum.accumulate(edges[bins] + inside * (edges[1] - edges[0])))


def load(folder: Path, model: HarmonizerModel, device: str | torch.device = "cpu") -> Baseline:
    """Return the baseline of a model folder; `load_harmonizer` calls this.

    Raises SetupError when the style is missing, damaged or no such style.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / STYLE_FILE
    with faults_of_model(folder / MODEL_FILE):
        settings = load_config(BaselineSettings, model.settings, where="settings")
    try:
        content = {name: tensor.double().numpy() for name, tensor in load_file(path).items()}
        landmarks = None
        if model.method != "zscore":
            landmarks = NyulLandmarks(content["probabilities"], content["values"])
        mean, sd = (float(value) for value in content["moments"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise unusable(path, f"cannot be read ({type(error).__name__})", "copy the model again") from error
    if not _sound(landmarks, mean, sd):
        raise unusable(path, "numbers that are no style", "copy the model again")
    method = cast("BaselineMethod", model.method)
    used = int(model.provenance.get(_USED, 0))
    return Baseline(method, landmarks, mean, sd, model.slices.size, model.spacing, model.slices, settings, used)


def _sound(landmarks: NyulLandmarks | None, mean: float, sd: float) -> bool:
    if not (np.isfinite([mean, sd]).all() and sd > 0):
        return False
    if landmarks is None:
        return True
    probabilities, values = landmarks.probabilities, landmarks.values
    return bool(
        probabilities.shape == values.shape
        and values.size >= 2
        and np.isfinite(values).all()
        and (np.diff(values) >= 0).all()
        and (np.diff(probabilities) > 0).all()
    )
