"""From a scanner to the transforms that make images of the reference look as if it had taken them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.profiles import Profile, Scanner
from nnunet_spine_ext.core.errors import UsageError

# Length scale of the shading in mm, and its peak-to-peak over its standard deviation in a field of view of 250 mm.
_BIAS_SCALE = 120.0
_PEAKS_PER_SD = 2.6


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
