"""The section CPU of SmaugLab, entry by entry: its own transforms, those of TorchIO and those of nnU-Net."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from nnunet_spine_ext.augment.migrate_block import (
    MEAN_IN_SPAN,
    SD_IN_SPAN,
    Block,
    Made,
    Part,
    Rules,
    Settings,
    once,
    split,
)
from nnunet_spine_ext.augment.migrate_gpu import FUNCTIONS, NOISE, function_range, laplace_sign

CPU = Rules()

STATS: Settings = {"p": 1.0, "retain_stats": False}
CHANNELWISE: Settings = {"p": 1.0, "p_per_channel": 1.0, "synchronize_channels": False}


@CPU.add("LaplaceConvTransform", {**STATS, "absolute": False}, "TA")
def _laplace(block: Block) -> list[Made]:
    laplace_sign(block)
    return _own(block, "laplace", absolute=False, negative=True)


@CPU.add("ScharrConvTransform", {**STATS, "absolute": True}, "TA")
def _scharr(block: Block) -> list[Made]:
    if not block.flag("absolute"):
        block.remark("edges are bright on both sides: signed ones have no counterpart")
    return _own(block, "scharr")


def _function(block: Block, kind: str) -> list[Made]:
    name, settings = FUNCTIONS[kind]
    function_range(block)
    return _own(block, name, **settings)


for _kind in FUNCTIONS:
    CPU.add(f"{_kind}Transform", STATS, "TA")(partial(_function, kind=_kind))


@CPU.add("HistogramEqualTransform", STATS, "TA")
def _equalise(block: Block) -> list[Made]:
    return _own(block, "equalise", mix=1.0)


@CPU.add("RedistributeTransform", {**STATS, "classes": None, "in_seg": 0.2}, "TA")
def _redistribute(block: Block) -> list[Made]:
    if block.chance("in_seg") < 1:
        block.remark("unlabelled voxels stay as they are")
    block.remark("labels get a new mean and texture each, in place of a bump added to the curve of values")
    classes = block.value("classes")
    settings: Settings = {}
    if classes is not None:
        settings["where"] = block.integers("classes")
    return _own(block, "redistribute", **settings)


def _own(block: Block, name: str, **settings: Any) -> list[Made]:
    """Convert one of the tool's own transforms, which act on the first channel."""
    return once(block.p(), name, {"channels": [0], "mix": 1.0, "retain_stats": block.flag("retain_stats"), **settings})


@CPU.add("ShapeTransform", {"p": 1.0, "shape_min": 1, "ignore_axes": []}, "GE")
def _shape(block: Block) -> list[Made]:
    ignored = block.integers("ignore_axes")
    axes = [axis for axis in range(3) if axis not in ignored]
    if not axes:
        block.nothing = "no axis is left"
        return []
    if block.number("shape_min", 0) > 1:
        block.remark("the smallest field of view is one voxel, whatever shape_min says")
    block.remark("the patch keeps its size: what is cut away becomes air, and -1 in labels; not only at the centre")
    return once(block.p(), "crop", {"axes": axes, "cut": [0.0, 1.0]})


ARTIFACTS = ("motion", "ghosting", "spike", "bias_field", "blur", "noise", "swap")
ARTIFACT: Settings = {"p": 1.0, **dict.fromkeys(ARTIFACTS, False)}
ARTIFACT |= {"random_pick": False, "second_channel_is_labels": True}


@CPU.add("ArtifactTransform", ARTIFACT, "TA")
def _artifact(block: Block) -> list[Made]:
    made: dict[str, Settings] = {
        # TorchIO's defaults: two movements of up to 10 degrees and 10 mm.
        "motion": {"positions": 3.0, "rotation": [0.0, 10.0], "translation": [0.0, 10.0], "through_plane": [0.0, 10.0]},
        # There a comb takes 0.5 to 1 of every 4th to 10th line away: each ghost has that part of it.
        "ghosting": {"intensity": [0.05, 0.25], "number": [4.0, 10.0]},
        # There once or twice the value at frequency zero, which is the mean of the image.
        "spikes": {"intensity": [MEAN_IN_SPAN, 2 * MEAN_IN_SPAN], "number": 1.0},
        "bias_polynomial": {"coefficient": 0.5, "order": 3},
        "blur": {"unit": "mm", "in_plane": [0.0, 2.0], "through_plane": [0.0, 2.0]},
        "gaussian_noise": {"sigma": [0.0, 0.25 * SD_IN_SPAN]},
        "swap_patches": {"number": 100.0, "size": 15.0 * block.voxel},
    }
    return _torchio(block, ARTIFACTS, made)


SPATIAL = ("flip", "affine", "elastic", "anisotropy")
CUSTOM: Settings = {"p": 1.0, **dict.fromkeys(SPATIAL, False), "random_pick": False, "second_channel_is_labels": True}


@CPU.add("SpatialCustomTransform", CUSTOM, "GEO")
def _spatial_custom(block: Block) -> list[Made]:
    affine = (
        Part("rotate", {"degrees": [-10.0, 10.0], "in_plane": "never"}),
        Part("scale", {"factor": [0.9, 1.1], "independent": 1.0, "in_plane": "never"}),
        Part("translate", {"shift": [-0.1, 0.1], "unit": "mm", "in_plane": "never"}),
    )
    # Uniform up to 40 mm at seven points per axis: they fold there, and are weakened until they do not here.
    made: dict[str, Settings] = {
        "flip": {"axes": [0], "axis_p": 0.5},
        "affine": {},
        "elastic": {"std": round(40 / math.sqrt(3), 2), "spacing": 40.0, "in_plane": "never"},
        "low_resolution": {"scale": round(1 / 7, 4), "axes": "one", "anti_alias": False},
    }
    entries = _torchio(block, SPATIAL, made, {"affine": affine})
    if block.flag("elastic") and entries:
        block.remark("no folds, and points every 40 mm, where they depend on the patch there")
    return entries


def _torchio(
    block: Block,
    flags: tuple[str, ...],
    made: dict[str, Settings],
    groups: dict[str, tuple[Part, ...]] | None = None,
) -> list[Made]:
    """Convert a list of switches: one of those switched on is drawn, or all follow each other."""
    chosen = [(flag, item) for flag, item in zip(flags, made.items(), strict=True) if block.flag(flag)]
    pick, p = block.flag("random_pick"), block.p()
    if not chosen:
        block.nothing = "nothing is switched on"
        return []
    block.remark("settings are TorchIO's, which the file does not name")
    parts: list[tuple[Part, ...]] = [(groups or {}).get(flag, (Part(*item),)) for flag, item in chosen]
    if not pick or all(len(some) == 1 for some in parts):
        return [Made(p, tuple(part for some in parts for part in some), together=not pick)]
    block.remark("what one of the switches stands for fires on its own, with its share of p")
    return [Made(p / len(parts), some, together=len(some) > 1) for some in parts]


NNUNET_SPATIAL: Settings = {
    "patch_center_dist_from_border": None,
    "random_crop": None,
    "p_elastic_deform": 0,
    "elastic_deform_scale": [0, 0.2],
    "elastic_deform_magnitude": [0, 0.2],
    "p_synchronize_def_scale_across_axes": 0,
    "p_rotation": 0,
    "p_rot_per_axis": 1,
    "p_scaling": 0,
    "scaling": [0.7, 1.3],
    "p_synchronize_scaling_across_axes": 0,
    "bg_style_seg_sampling": True,
    "mode_seg": "bilinear",
    "border_mode_seg": "zeros",
    "center_deformation": True,
    "mode_image": "bilinear",
    "padding_mode_image": "zeros",
    "padding_value_seg": 0,
    "padding_value_image": 0,
    "align_corners": False,
}


@CPU.add("SpatialTransform", NNUNET_SPATIAL, "GEO")
def _spatial(block: Block) -> list[Made]:
    made = []
    if p := block.chance("p_rotation"):
        made += once(p, "rotate", {"degrees": [-30.0, 30.0]})
        block.remark("30 degrees, nnU-Net's range for patches in 3-D, which the file does not name")
    if block.chance("p_rot_per_axis") < 1 and p:
        block.remark("all axes rotate: p_rot_per_axis is left out")
    low, high = block.pair("scaling")
    if low <= 0:
        raise block.refuse("scaling", "positive factors")
    together = block.chance("p_synchronize_scaling_across_axes")
    if p := block.chance("p_scaling"):
        bounds = [round(1 / high, 6), round(1 / low, 6)]
        made += once(p, "scale", {"factor": {"log": bounds}, "independent": round(1 - together, 6)})
        block.remark("there a factor above 1 makes things smaller: the bounds are inverted")
    if p := block.chance("p_elastic_deform"):
        made += once(p, "elastic")
        block.remark("elastic deformation with the defaults here, in mm: there its scale is a part of the patch")
    block.left_out("elastic_deform_scale", "elastic_deform_magnitude", "p_synchronize_def_scale_across_axes")
    if not made:
        block.nothing = "p_rotation, p_scaling and p_elastic_deform are 0"
    return made


@CPU.add("GaussianNoiseTransform", {**CHANNELWISE, "noise_variance": [0, 0.1]}, "GE")
def _noise(block: Block) -> list[Made]:
    low, high = block.pair("noise_variance")
    block.remark(NOISE)
    return _nnunet(block, Part("gaussian_noise", {"sigma": [low * SD_IN_SPAN, high * SD_IN_SPAN]}))


BLUR: Settings = {**CHANNELWISE, "blur_sigma": [1, 5], "synchronize_axes": False, "benchmark": False}


@CPU.add("GaussianBlurTransform", BLUR, "GE")
def _blur(block: Block) -> list[Made]:
    if block.flag("synchronize_axes"):
        block.remark("each axis has a width of its own")
    sigma = block.pair("blur_sigma")
    return _nnunet(block, Part("blur", {"unit": "voxel", "in_plane": sigma, "through_plane": sigma}))


@CPU.add("MultiplicativeBrightnessTransform", {**CHANNELWISE, "multiplier_range": [0.75, 1.25]}, "GE")
def _brightness(block: Block) -> list[Made]:
    block.remark("about air, not about the mean")
    return _nnunet(block, *_about_one(block, Part("brightness"), "multiplier_range", "factor"))


@CPU.add("ContrastTransform", {**CHANNELWISE, "contrast_range": [0.75, 1.25], "preserve_range": True}, "GE")
def _contrast(block: Block) -> list[Made]:
    part = Part("contrast", {"preserve_range": block.flag("preserve_range")})
    return _nnunet(block, *_about_one(block, part, "contrast_range", "factor"))


LOW_RESOLUTION: Settings = {
    **CHANNELWISE,
    "scale": [0.5, 1.0],
    "synchronize_channels": True,
    "synchronize_axes": False,
    "ignore_axes": [],
    "allowed_channels": None,
}


@CPU.add("SimulateLowResolutionTransform", LOW_RESOLUTION, "GE")
def _low_resolution(block: Block) -> list[Made]:
    settings: Settings = {"scale": block.pair("scale"), "per_axis": not block.flag("synchronize_axes")}
    settings["anti_alias"] = False
    ignored = block.integers("ignore_axes")
    if ignored:
        settings["axes"] = [axis for axis in range(3) if axis not in ignored]
        if not settings["axes"]:
            block.nothing = "no axis is left"
            return []
    if block.value("allowed_channels") is not None:
        settings["channels"] = block.integers("allowed_channels")
    return _nnunet(block, Part("low_resolution", settings))


GAMMA: Settings = {**CHANNELWISE, "gamma": [0.7, 1.5], "p_retain_stats": 1.0}


@CPU.add("InvertedGammaTransform", GAMMA, "GE")
def _inverted_gamma(block: Block) -> list[Made]:
    return _nnunet(block, *_gammas(block, Part("inverse_gamma")))


@CPU.add("GammaTransform", {**GAMMA, "p_invert_image": 0.0}, "GE")
def _gamma(block: Block) -> list[Made]:
    inverted = block.chance("p_invert_image")
    parts = [Part("gamma", share=1 - inverted), Part("inverse_gamma", share=inverted)]
    return _nnunet(block, *(made for part in parts if part.share > 0 for made in _gammas(block, part)))


@CPU.add("MirrorTransform", {"allowed_axes": None}, "GEO")
def _mirror(block: Block) -> list[Made]:
    axes = [] if block.value("allowed_axes") is None else sorted(set(block.integers("allowed_axes")))
    if not axes:
        block.nothing = "no axis may be mirrored"
        return []
    block.remark("left and right labels change sides")
    return once(1.0, "flip", {"axes": axes, "axis_p": 0.5})


@CPU.add("ZscoreNormalization", {"p": 1.0}, "GE")
def _zscore(block: Block) -> list[Made]:
    return once(block.p(), "renormalise", {"channels": [0], "to": "values"})


def _gammas(block: Block, part: Part) -> tuple[Part, ...]:
    kept = block.chance("p_retain_stats")
    some = split(part, (kept, {"retain_stats": True}), (1 - kept, {"retain_stats": False}))
    return tuple(made for one in some for made in _about_one(block, one, "gamma", "gamma"))


def _about_one(block: Block, part: Part, key: str, field: str) -> tuple[Part, ...]:
    """Return a part with a range of factors: nnU-Net draws below 1 and above 1 equally often."""
    low, high = block.pair(key)
    if not low < 1 < high or abs((1 - low) - (high - 1)) < 1e-9:
        return split(part, (1.0, {field: [low, high]}))
    return split(part, (0.5, {field: [low, 1.0]}), (0.5, {field: [1.0, high]}))


def _nnunet(block: Block, *parts: Part) -> list[Made]:
    """Convert one of nnU-Net's transforms: a coin for the sample, then one for each channel."""
    share = block.chance("p_per_channel")
    settings = {"per_channel": not block.flag("synchronize_channels")}
    if share < 1:
        block.remark("p times p_per_channel: of several channels all are changed, or none")
    return [Made(block.p() * share, tuple(Part(p.name, {**settings, **p.settings}, p.share) for p in parts))]
