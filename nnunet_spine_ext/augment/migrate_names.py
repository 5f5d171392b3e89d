"""What AugLab, the predecessor, calls what SmaugLab calls otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nnunet_spine_ext.augment.migrate_gpu import FUNCTIONS

Names = dict[str, tuple[str, ...]]

_KERNELS = {
    "GPU": {
        "GaussianBlur": "RandomGaussianBlurGPU",
        "Laplace": "RandomLaplaceGPU",
        "RandConv": "RandomRandConvGPU",
        "Scharr": "RandomScharrGPU",
        "UnsharpMask": "RandomUnsharpMaskGPU",
    },
    "CPU": {"Laplace": "LaplaceConvTransform", "Scharr": "ScharrConvTransform"},
}

AUGLAB: dict[str, Names] = {
    "GPU": {
        "FlipTransform": ("RandomFlipTransformGPU",),
        "AffineTransform": ("RandomAffineGPU",),
        "InverseTransform": ("RandomInverseGPU",),
        "HistogramEqualizationTransform": ("RandomHistogramEqualizationGPU",),
        "RedistributeSegTransform": ("RandomRedistributeSegGPU",),
        "ScharrTransform": ("RandomScharrGPU",),
        "UnsharpMaskTransform": ("RandomUnsharpMaskGPU",),
        "RandomConvTransform": ("RandomRandConvGPU",),
        "ClampTransform": ("RandomClampGPU",),
        "GaussianNoiseTransform": ("RandomGaussianNoiseGPU",),
        "GaussianBlurTransform": ("RandomGaussianBlurGPU",),
        "BrightnessTransform": ("RandomBrightnessGPU",),
        "GammaTransform": ("RandomGammaGPU",),
        "InvGammaTransform": ("RandomInvGammaGPU",),
        "ContrastTransform": ("RandomContrastGPU",),
        "FunctionTransform": tuple(f"Random{kind}GPU" for kind in FUNCTIONS),
        "SimulateLowResTransform": ("RandomLowResTransformGPU",),
        "AcqTransform": ("RandomAcqTransformGPU",),
        "CropTransform": ("RandomCropTransformGPU",),
        "BiasFieldTransform": ("RandomBiasFieldGPU",),
        "ZscoreNormalizationTransform": ("ZscoreNormalizationGPU",),
        "nnUNetSpatialTransform": ("SpatialTransform",),
    },
    "CPU": {
        "ConvTransform": ("ScharrConvTransform",),
        "FunctionTransform": tuple(f"{kind}Transform" for kind in FUNCTIONS),
        "HistogramEqualTransform": ("HistogramEqualTransform",),
        "RedistributeTransform": ("RedistributeTransform",),
        "ShapeTransform": ("ShapeTransform",),
        "ArtifactTransform": ("ArtifactTransform",),
        "SpatialCustomTransform": ("SpatialCustomTransform",),
        "SpatialTransform": ("SpatialTransform",),
        "GaussianNoiseTransform": ("GaussianNoiseTransform",),
        "GaussianBlurTransform": ("GaussianBlurTransform",),
        "MultiplicativeBrightnessTransform": ("MultiplicativeBrightnessTransform",),
        "ContrastTransform": ("ContrastTransform",),
        "SimulateLowResolutionTransform": ("SimulateLowResolutionTransform",),
        "GammaTransform_invert": ("GammaTransform",),
        "GammaTransform": ("GammaTransform",),
    },
}
"""Names of SmaugLab for the names of AugLab, by section, in the order in which AugLab applies them."""

# What AugLab takes where a key is missing and SmaugLab would take something else.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "GammaTransform_invert": {"p_invert_image": 1.0},
    "GaussianBlurTransform": {"blur_sigma": [0.5, 1.0], "p_per_channel": 0.5},
    "GaussianNoiseTransform": {"synchronize_channels": True},
    "RedistributeSegTransform": {"retain_stats": False},
    "RedistributeTransform": {"in_seg": 0.0},
    "SimulateLowResolutionTransform": {"scale": [0.3, 1.0], "p_per_channel": 0.5},
    "SpatialTransform": {"scaling": [0.7, 1.4], "p_synchronize_scaling_across_axes": 1},
    "nnUNetSpatialTransform": {"scaling": [0.7, 1.4], "p_synchronize_scaling_across_axes": 1},
}
# Entries whose own retain_stats AugLab does not read, but that of the section.
_SECTION_STATS = ("ConvTransform", "FunctionTransform", "HistogramEqualTransform", "RedistributeTransform")
# Keys of AugLab's files that AugLab does not read.
_UNREAD = {("SimulateLowResTransform", "crop"), ("AcqTransform", "crop")}
_RENAMED = {"probability": "p", "shear": "shears"}


@dataclass(frozen=True)
class Foreign:
    """An entry of a file in the names of SmaugLab.

    `rules`: names of SmaugLab that it stands for. `defaults`: what differs from the defaults there. `unread`: keys
    that the other tool does not read. `renamed`: keys as the file has them, by the names of SmaugLab.
    """

    name: str
    rules: tuple[str, ...]
    given: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)


def translate(section: str, name: str, given: Mapping[str, Any], whole: Mapping[str, Any]) -> Foreign | None:
    """Return an entry of AugLab in the names of SmaugLab; None: AugLab has no such entry.

    `whole`: the section, for the keys that concern all of its entries.
    """
    rules = AUGLAB[section].get(name)
    if rules is None:
        return None
    unread = tuple(key for key in given if (name, key) in _UNREAD)
    values = {_RENAMED.get(key, key): value for key, value in given.items() if key not in unread}
    kernel = values.pop("kernel_type", None) if _has_kernel(section, name) else None
    if kernel is not None:
        if not isinstance(kernel, str) or kernel not in _KERNELS[section]:
            values["kernel_type"] = kernel
        else:
            rules = (_KERNELS[section][kernel],)
    if section == "CPU" and name in _SECTION_STATS:
        unread += tuple(key for key in ("retain_stats",) if key in values)
        values["retain_stats"] = whole.get("retain_stats", False)
    defaults = {"p": 0.0, **_DEFAULTS.get(name, {})}
    renamed = {new: old for old, new in _RENAMED.items() if old in given}
    return Foreign(name, rules, values, defaults, unread, renamed)


def _has_kernel(section: str, name: str) -> bool:
    return AUGLAB[section][name][0] in _KERNELS[section].values()
