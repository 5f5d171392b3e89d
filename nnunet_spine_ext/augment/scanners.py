"""From scanner profiles to pipelines that make images look as if that scanner had taken them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.keys import SampleKey, generator
from nnunet_spine_ext.augment.pipeline import Pipeline, Plan, assemble
from nnunet_spine_ext.augment.profiles import REFERENCE, Profile, Scanner, Severities, interpolate, load_profile
from nnunet_spine_ext.core.errors import UsageError

# Length scale of the shading in mm, and its peak-to-peak over its standard deviation in a field of view of 250 mm.
_BIAS_SCALE = 120.0
_PEAKS_PER_SD = 2.6
_STREAM = "scanner"


def scanner_config(
    scanner: Scanner,
    *,
    spacing: Sequence[float] | None = None,
    jitter: float = 0.0,
    weighting: bool = True,
    classes: Mapping[int, str] | None = None,
) -> AugmentConfig:
    """Return the transforms that take images of the reference to a scanner; none at severity 0.

    Parameters
    ----------
    spacing: of the images, in mm per array axis: they are taken for what the reference makes, so that voxels become
        larger by the ratio of the two scanners. None: the scanner's own voxels in mm, whatever the images have.
    jitter: relative spread of noise, shading, contrast and voxels between samples, 0-0.9; 0: always the same.
    weighting: whether repetition and echo time apply; they are those of T2w images.
    classes: tissue of each label id (`augment.tissues`), None: the 14-class scheme if these are the labels.

    Raises
    ------
    UsageError: a jitter outside 0-0.9, or spacings that are not positive.
    """
    if not 0 <= jitter <= 0.9:
        raise _refuse(f"jitter {jitter:g}", "0 to 0.9")
    if spacing is not None and not all(s > 0 for s in spacing):
        raise _refuse(f"spacing {spacing}", "positive lengths in mm")
    new, old = scanner.shifted, scanner.reference
    entries = [
        *(_weighting(new, old, classes) if weighting else ()),
        *_contrast(new, old, jitter),
        *_resolution(new, old, spacing, jitter),
        *_bias(new, old, jitter),
        *_noise(new, old, jitter),
    ]
    return AugmentConfig.from_dict({"version": 1, "transforms": entries}, where=scanner.text)


@dataclass(frozen=True)
class Mixture:
    """Several scanners with weights; every sample is taken by one of them.

    `scanners` and `weights`: as many; weights need no sum of one. `blend`: largest part of the way to another scanner
    of the mixture that a sample goes, 0-1; 0: the scanners themselves.
    """

    scanners: tuple[Scanner, ...]
    weights: tuple[float, ...]
    blend: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a mixture of nothing."""
        fits = len(self.weights) == len(self.scanners) > 0
        if not fits or min(self.weights) < 0 or sum(self.weights) <= 0 or not 0 <= self.blend <= 1:
            found = f"{len(self.scanners)} scanners, weights {list(self.weights)}, blend {self.blend}"
            raise _refuse(found, "a weight of 0 or more for each scanner, one above 0, and a blend of 0 to 1")

    def draw(self, key: SampleKey) -> Scanner:
        """Return the scanner of a sample; it depends on its key alone."""
        rng = generator(key, _STREAM)
        total = sum(self.weights)
        shares = [weight / total for weight in self.weights]
        first, second = (self.scanners[int(i)] for i in rng.choice(len(self.scanners), size=2, p=shares))
        part = float(rng.uniform(0, self.blend))
        if part == 0 or first == second:
            return first
        # What lies between is found at the severities of both, so a component that is off in both stays off.
        between = interpolate(first.shifted, second.shifted, part)
        return Scanner(between, Severities(), first.reference)


class ScannerPipeline:
    """Applies the scanners of a mixture to batches, one per sample; used like `Pipeline`.

    Parameters
    ----------
    mixture: a `Mixture` or a single `Scanner`.
    context: grid, spacing, channels and labels of the batches. options: further ones of `scanner_config`.
    """

    def __init__(self, mixture: Mixture | Scanner, context: Context, **options: Any) -> None:
        self.mixture = mixture if isinstance(mixture, Mixture) else Mixture((mixture,), (1.0,))
        self.context = context
        self._options = options

    @cached_property
    def _applier(self) -> Pipeline:
        return Pipeline({"transforms": []}, self.context)

    def plan(self, keys: Sequence[SampleKey]) -> Plan:
        """Draw the scanner of every sample and what it does."""
        options = {"spacing": self.context.spacing, **self._options}
        samples = []
        for key in keys:
            pipeline = Pipeline(scanner_config(self.mixture.draw(key), **options), self.context)
            samples.append(pipeline.plan([key]).samples[0])
        return assemble(self.context, tuple(keys), tuple(samples))

    def apply(self, images: Tensor, labels: Tensor | None, plan: Plan) -> tuple[Tensor, Tensor | None]:
        """Apply a plan; see `Pipeline.apply`."""
        return self._applier.apply(images, labels, plan)

    def __call__(
        self, images: Tensor, labels: Tensor | None, keys: Sequence[SampleKey]
    ) -> tuple[Tensor, Tensor | None]:
        """Plan and apply."""
        return self.apply(images, labels, self.plan(keys))


def mixture_of(weights: Mapping[str, float], *, severity: float = 1.0, blend: float = 0.0) -> Mixture:
    """Return a mixture of profiles from their names or files and weights, all at one severity.

    Raises UsageError for an unknown profile.
    """
    reference = load_profile(REFERENCE)
    scanners = tuple(Scanner(load_profile(name), Severities.all(severity), reference) for name in weights)
    return Mixture(scanners, tuple(float(weight) for weight in weights.values()), blend)


def _weighting(new: Profile, old: Profile, classes: Mapping[int, str] | None) -> list[dict[str, Any]]:
    before, after = ([p.field_strength, p.tr, p.te] for p in (old, new))
    if before == after:
        return []
    times = dict(zip(("field_strength", "tr", "te"), after, strict=True))
    tissues = {str(label): name for label, name in classes.items()} if classes else None
    return [{"name": "protocol_change", "p": 1.0, "reference": before, "classes": tissues, **times}]


def _contrast(new: Profile, old: Profile, jitter: float) -> list[dict[str, Any]]:
    gain = new.contrast / old.contrast
    if gain == 1:
        return []
    # Air stays dark and ratios of tissues are raised to the gain: what a gain of contrast is to a magnitude image.
    return [{"name": "gamma", "p": 1.0, "gamma": _around(gain, jitter * abs(math.log(gain))), "retain_stats": False}]


def _resolution(new: Profile, old: Profile, spacing: Sequence[float] | None, jitter: float) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    in_plane, between = _voxels(new, old, spacing)
    phase, fill = new.gibbs / old.gibbs, new.zero_fill / old.zero_fill
    if new.in_plane != old.in_plane or phase != 1:
        # The ratio is never below one: what the reference did not acquire cannot be had.
        acquired = {"in_plane": _around(in_plane, jitter), "phase_ratio": max(1.0, phase), "zero_fill": max(1.0, fill)}
        entries.append({"name": "resolution", "p": 1.0, "interpolation": ["cubic"], **acquired})
    if (new.slice, new.gap) != (old.slice, old.gap):
        slices = {"thickness": _around(between * (1 - new.gap), jitter), "gap": between * new.gap}
        shape = {"profile": ["slr"], "interpolation": ["linear"]}
        entries.append({"name": "slice_profile", "p": 1.0, **slices, **shape})
    window = new.window - old.window
    if window > 0:
        entries.append({"name": "recon_window", "p": 1.0, "kind": ["hann"], "amount": window})
    return entries


def _voxels(new: Profile, old: Profile, spacing: Sequence[float] | None) -> tuple[float, float]:
    """Return the acquired voxel in plane and the distance of slices in mm."""
    if spacing is None:
        return new.in_plane, new.slice
    ordered = sorted(spacing)
    return ordered[len(ordered) // 2] * new.in_plane / old.in_plane, ordered[-1] * new.slice / old.slice


def _bias(new: Profile, old: Profile, jitter: float) -> list[dict[str, Any]]:
    if new.bias <= old.bias:
        return []
    half = (new.bias - old.bias) / 2
    sd = math.log((1 + half) / (1 - half)) / _PEAKS_PER_SD
    return [{"name": "bias_spline", "p": 1.0, "sd": _around(sd, jitter), "scale": _BIAS_SCALE}]


def _noise(new: Profile, old: Profile, jitter: float) -> list[dict[str, Any]]:
    """Noise on top of what the images have, which is the reference's; variances add up."""
    g_factor = max(1.0, new.g_factor / old.g_factor)
    added = math.sqrt(max(0.0, new.noise**2 - old.noise**2))
    if added == 0:
        return []
    entry = {"name": "rician_noise", "p": 1.0, "sigma": _around(added, jitter), "g_factor": g_factor}
    if new.coils_at_a_place > 1:
        entry |= {"name": "chi_noise", "coils": new.coils_at_a_place}
    return [entry]


def _around(value: float, jitter: float) -> float | dict[str, list[float]]:
    return value if jitter == 0 else {"log": [value / (1 + jitter), value * (1 + jitter)]}


def _refuse(found: str, expected: str) -> UsageError:
    return UsageError("E-CONFIG-VALUE", file="scanner", found=found, expected=expected, fix="correct the value")
