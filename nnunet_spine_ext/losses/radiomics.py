"""Radiomic features that can be differentiated, and a loss that pulls them to a target's.

Five features as PyRadiomics defines them (van Griethuysen et al., Cancer Research 2017), with its defaults: neighbours
at distance 1, symmetric pairs, the mean over 4 directions (13 in a volume). They are piecewise constant in the image,
so their own gradient is 0 almost everywhere. ``straight-through`` has their exact values, and the gradient of grey
levels with soft borders; ``soft`` has values and gradient of soft borders, and becomes exact as tau goes to 0.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from nnunet_spine_ext.core.errors import Problem, UsageError
from nnunet_spine_ext.losses.grey_levels import LevelMode, pair_counts, share_a_line, short_runs, to_levels
from nnunet_spine_ext.losses.supervised import check_choice, check_numbers, full_precision

FEATURES = ("Idmn", "Correlation", "SumEntropy", "DifferenceEntropy", "ShortRunEmphasis")
"""Names by PyRadiomics, in the order of the results; the last is of GLRLM, the others are of GLCM."""

BIN_WIDTH = 25.0
"""PyRadiomics' default: 11 levels of an image between 0 and 255."""
TAU = 4.0
"""Width of soft borders between grey levels, in grey values, for bins of 25."""

Normalisation = Literal["absolute", "relative", "zscore"]

# The spacing of doubles at 1, which PyRadiomics adds before logarithms.
_EPSILON = 2.0**-52
# Kinds of devices that cannot compute in double precision; there the features are computed on the CPU.
_WITHOUT_DOUBLES = ("mps",)

_log = logging.getLogger(__name__)
# What was said in this process: a training would say it in every step.
_said: set[str] = set()


class _Found(NamedTuple):
    """`values` (B, 5), float64, finite; which are `defined` (B, 5), not 0/0; which images are `finite` (B,)."""

    values: Tensor
    defined: Tensor
    finite: Tensor


def radiomic_features(
    images: Tensor,
    roi: Tensor | None = None,
    *,
    bin_width: float = BIN_WIDTH,
    bin_count: int | None = None,
    mode: LevelMode = "straight-through",
    tau: float = TAU,
) -> Tensor:
    """Return the five `FEATURES` of every image, (B, 5), in the dtype of the images, at least float32.

    Not defined, and NaN without a gradient: all features of an image with NaN or infinity in its region or of an empty
    region, those of GLCM without two pixels side by side. An image of one grey level has Idmn 1, Correlation 1 and no
    entropy, as in PyRadiomics. Images that all lie between 0 and 1 have one grey level: a warning (`W-LOSS-SCALE`, once
    in a process) says that they are on another scale than the bins.

    Parameters
    ----------
    images: (B, 1, Y, X) or (B, 1, Z, Y, X), on the scale 0 to 255 that the bin width is made for.
    roi: the region, of any shape, above 0.5; expands to `images`. None: all pixels. Nothing outside is looked at.
    bin_width: of grey levels, whose edges are its multiples.
    bin_count: so many levels between the smallest and the largest value of a region, instead of `bin_width`.
    mode: ``straight-through``, exact values, soft gradient; ``soft``, both soft; ``hard``, exact values, no gradient.
    tau: width of the soft borders in grey values. About a sixth of a bin is small enough for ``straight-through``.

    Raises
    ------
    UsageError: arrays of NumPy, shapes that do not belong together, an unknown mode, a number out of range, more than
        1024 levels.
    """
    _check_bins(bin_width, bin_count, mode, tau)
    found = _features(images, roi, bin_width=bin_width, bin_count=bin_count, mode=mode, tau=tau)
    known = found.defined & found.finite[:, None]
    values = torch.where(known, found.values, torch.nan).to(torch.promote_types(images.dtype, torch.float32))
    return values.to(images.device)


class RadiomicLoss(nn.Module):
    """Mean difference of the five features to targets, over features and samples.

    A sample with a feature that its region leaves undefined (nothing in it, no two pixels side by side) is left out; if
    all are, the loss is 0. An image with NaN or infinity makes the loss NaN, but no gradient.

    Parameters
    ----------
    targets: (5,), in the order of `FEATURES`: means over images of the target.
    spread: (5,), their standard deviations there; needed for ``zscore``.
    normalisation: ``absolute``, differences as they are; ``relative``, of the target's size; ``zscore``, of its spread.
        Absolute differences differ in size: those of Idmn hardly count, and targets are reached less well (measured).
    bin_width, bin_count, mode, tau: see `radiomic_features`. `tau` may be set during training, to anneal ``soft``.

    Raises
    ------
    UsageError: not five finite targets, a target of 0 for ``relative``, no spread above 0 for ``zscore``; and as
        `radiomic_features`.
    """

    targets: Tensor
    scales: Tensor

    def __init__(
        self,
        targets: Sequence[float] | Tensor,
        spread: Sequence[float] | Tensor | None = None,
        *,
        normalisation: Normalisation = "relative",
        bin_width: float = BIN_WIDTH,
        bin_count: int | None = None,
        mode: LevelMode = "straight-through",
        tau: float = TAU,
    ) -> None:
        super().__init__()
        _check_bins(bin_width, bin_count, mode, tau)
        check_choice("normalisation", normalisation, Normalisation)
        goal = _numbers("targets", targets)
        scales = {"absolute": torch.ones_like(goal), "relative": goal.abs()}.get(normalisation)
        if scales is None:
            scales = _numbers("spread", () if spread is None else spread)
        if not (scales > 0).all():
            raise UsageError(
                "E-LOSS-RANGE",
                found=f"differences divided by {[round(s, 6) for s in scales.tolist()]} ({normalisation})",
                expected="numbers above 0",
                fix="take features that vary in the target and are not 0, or normalisation absolute",
            )
        self.register_buffer("targets", goal)
        self.register_buffer("scales", scales)
        self.bin_width, self.bin_count, self.mode, self.tau = bin_width, bin_count, mode, tau

    def forward(self, images: Tensor, roi: Tensor | None = None) -> Tensor:
        """Return the loss of images (B, 1, Y, X) or (B, 1, Z, Y, X), 0 to 255, a scalar of at least float32.

        Raises
        ------
        UsageError: as `radiomic_features`.
        """
        _check_bins(self.bin_width, self.bin_count, self.mode, self.tau)
        found = _features(images, roi, bin_width=self.bin_width, bin_count=self.bin_count, mode=self.mode, tau=self.tau)
        where = found.values.device
        apart = ((found.values - self.targets.to(where)) / self.scales.to(where)).abs().mean(dim=1)
        counts = found.defined.all(dim=1) & found.finite
        loss = torch.where(counts, apart, 0.0).sum() / counts.sum().clamp_min(1)
        # Hiding NaN would hide a training that diverges.
        loss = loss + torch.where(found.finite.all(), 0.0, torch.nan)
        return loss.to(torch.promote_types(images.dtype, torch.float32)).to(images.device)


def _features(
    images: Tensor, roi: Tensor | None, *, bin_width: float, bin_count: int | None, mode: LevelMode, tau: float
) -> _Found:
    volumes, region = _as_volumes(images, roi)
    if images.device.type in _WITHOUT_DOUBLES:
        volumes, region = volumes.cpu(), region.cpu()
    if mode == "hard":
        volumes = volumes.detach()
    with full_precision(volumes):
        finite = (volumes.isfinite() | ~region).flatten(1).all(dim=1)
        region = region & finite[:, None, None, None]
        # A choice, not a product: NaN times 0 would be NaN, in the gradient as well.
        volumes = torch.where(region, volumes, 0.0)
        levels = to_levels(volumes, region, bin_width=bin_width, bin_count=bin_count, mode=mode, tau=tau)
        if bin_count is None and levels.weights.shape[1] == 1:
            # A shape is known without reading from the device, so other images cost nothing.
            _warn_of_scale(volumes, region)
        pairs = pair_counts(levels)
        emphasis, runs = short_runs(levels, soft=mode == "soft")
        totals = pairs.sum(dim=(2, 3))
        paired = totals > 0
        # Rarely looked at: nearly always every direction has a pair, which is two pixels on a line.
        lined = paired if bool(paired.all()) else share_a_line(region)
        short = torch.where(lined, emphasis, 0.0) / torch.where(lined, runs, 1.0)
        probabilities = (pairs + pairs.transpose(2, 3)) / torch.where(paired, 2 * totals, 1.0)[:, :, None, None]
        of_pairs = _pair_features(probabilities, levels.present)
        values = [_mean(of_pairs, paired[:, :, None]), _mean(short[:, :, None], lined[:, :, None])]
        defined = torch.cat((paired.any(dim=1)[:, None].expand(-1, 4), lined.any(dim=1)[:, None]), dim=1)
        return _Found(torch.cat(values, dim=1), defined, finite)


def _warn_of_scale(volumes: Tensor, region: Tensor) -> None:
    """Say once that images of one grey level are not on the scale of 0 to 255; constant ones may be."""
    if "scale" in _said:
        return
    inside = volumes.detach()[region]
    if inside.numel() == 0:
        return
    low, high = float(inside.amin()), float(inside.amax())
    if 0 <= low < high <= 1:
        _said.add("scale")
        problem = Problem(
            "warning", "W-LOSS-SCALE", "radiomic features", f"images between {low:.3g} and {high:.3g}: one grey level",
            "images on the scale 0 to 255", "multiply them by 255, or give a bin_width or bin_count that fits them",
        )  # fmt: skip
        _log.warning("%s", problem)


def _refuse_arrays(**given: Any) -> None:
    for name, value in given.items():
        if not isinstance(value, Tensor):
            kind = type(value)
            raise UsageError(
                "E-LOSS-TYPE",
                found=f"{name} of type {kind.__module__}.{kind.__name__}",
                expected="tensors of torch",
                fix="torch.from_numpy(array).float() makes one of an array, with axes (B, 1, Y, X)",
            )


def _as_volumes(images: Tensor, roi: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return images and region as (B, Z, Y, X); a slice is one plane."""
    _refuse_arrays(images=images, **({} if roi is None else {"roi": roi}))
    right = images.dim() in {4, 5} and images.shape[1] == 1 and images.is_floating_point() and images.numel() > 0
    try:
        region = torch.ones_like(images, dtype=torch.bool) if roi is None else (roi > 0.5).expand_as(images)
    except RuntimeError:
        right, region = False, images
    if not right:
        raise UsageError(
            "E-LOSS-SHAPE",
            found=f"images {tuple(images.shape)} of {images.dtype}, roi {None if roi is None else tuple(roi.shape)}",
            expected="images (B, 1, Y, X) or (B, 1, Z, Y, X) of a floating type, and a roi that expands to them",
            fix="add the axes of batch and channel, and convert to float",
        )
    volumes = images if images.dim() == 5 else images[:, :, None]
    planes = region if region.dim() == 5 else region[:, :, None]
    return volumes[:, 0].to(torch.promote_types(images.dtype, torch.float32)), planes[:, 0]


def _pair_features(p: Tensor, present: Tensor) -> Tensor:
    """Return Idmn, Correlation, SumEntropy and DifferenceEntropy (B, A, 4) of probabilities (B, A, N, N)."""
    count = p.shape[2]
    number = torch.arange(count, device=p.device)
    apart, total = (number[:, None] - number).abs().flatten(), (number[:, None] + number).flatten()
    flat = p.flatten(2)
    differences = flat.new_zeros((*flat.shape[:2], count)).index_add(2, apart, flat)
    sums = flat.new_zeros((*flat.shape[:2], 2 * count - 1)).index_add(2, total, flat)
    level = number.to(p.dtype)
    idmn = (differences / (1 + (level / present[:, None, None]) ** 2)).sum(dim=2)
    margin = p.sum(dim=3)
    centred = level - (margin * level).sum(dim=2, keepdim=True)
    variance = (margin * centred.square()).sum(dim=2)
    covariance = (p * centred[:, :, :, None] * centred[:, :, None, :]).sum(dim=(2, 3))
    # A single grey level has no variance: 1, by PyRadiomics' definition.
    correlation = torch.where(variance > 0, covariance / (variance + _EPSILON), 1.0)
    return torch.stack((idmn, correlation, _entropy(sums), _entropy(differences)), dim=2)


def _entropy(p: Tensor) -> Tensor:
    return -(p * torch.log2(p + _EPSILON)).sum(dim=2)


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    """Return the mean (B, F) of values (B, A, F) over valid directions (B, A, 1); 0 without any."""
    return torch.where(valid, values, 0.0).sum(dim=1) / valid.sum(dim=1).clamp_min(1)


def _numbers(name: str, values: Sequence[float] | Tensor) -> Tensor:
    # Not in double precision, or the module could not be moved to every device.
    numbers = torch.as_tensor(values).detach().to(torch.float32, copy=True)
    if numbers.shape != (len(FEATURES),) or not numbers.isfinite().all():
        raise UsageError(
            "E-LOSS-RANGE",
            found=f"{name} {numbers.tolist()}",
            expected=f"{len(FEATURES)} finite numbers: {', '.join(FEATURES)}",
            fix=f"give the {name} of images of the target, in this order",
        )
    return numbers


def _check_bins(bin_width: float, bin_count: int | None, mode: LevelMode, tau: float) -> None:
    check_choice("mode", mode, LevelMode)
    check_numbers("a bin_width and a tau above 0", bin_width > 0 and tau > 0, bin_width=bin_width, tau=tau)
    if bin_count is not None:
        whole = 2 <= bin_count <= 1024 and bin_count == int(bin_count)
        check_numbers("a whole bin_count of 2 to 1024", whole, bin_count=bin_count)
