"""The section GPU of SmaugLab, entry by entry: intensities and geometry."""

from __future__ import annotations

from functools import partial

from nnunet_spine_ext.augment.migrate_block import SD_IN_SPAN, Block, Made, Part, Rules, Settings, once
from nnunet_spine_ext.augment.migrate_select import (
    CHANNEL,
    COMMON,
    MIX,
    REGION,
    VALUES,
    channels,
    on_image,
    on_values,
    on_volume,
)

GPU = Rules()

_NOT_ZSCORE = ("same_on_batch", "mix_in_out")


@GPU.add("RandomFlipTransformGPU", {**COMMON, "flip_axis": [0]}, "GEO")
def _flip(block: Block) -> list[Made]:
    axes = sorted(set(block.integers("flip_axis")))
    if not axes:
        block.nothing = "no axis to flip"
        block.p()
        return []
    # There a sample that no axis was drawn for gets one, each equally likely.
    share = 0.5 + 0.5 ** len(axes) / len(axes)
    if len(axes) > 1:
        block.remark("axes are independent: now and then none is mirrored, where one would be there")
    block.remark("left and right labels change sides")
    return once(block.p(), "flip", {"axes": axes, "axis_p": share})


AFFINE: Settings = {
    **COMMON,
    "p": 0.5,
    "degrees": 10,
    "translate": [0.1, 0.1, 0.1],
    "scale": [0.9, 1.1],
    "shears": [-10, 10, -10, 10, -10, 10],
    "resample": "bilinear",
    "align_corners": True,
}


@GPU.add("RandomAffineGPU", AFFINE, "GEO")
def _affine(block: Block) -> list[Made]:
    everywhere = {"in_plane": "never"}
    parts = [Part("rotate", {"degrees": _bounds(block, "degrees", 3), **everywhere})]
    block.remark("what comes from outside the patch is air; there it is 0, the mean")
    if (factor := block.numbers("scale")) and len(factor) != 2:
        raise block.refuse("scale", "[low, high]")
    parts.append(Part("scale", {"factor": block.pair("scale"), **everywhere}))
    parts.append(Part("shear", {"degrees": _bounds(block, "shears", 6), **everywhere}))
    translate = _bounds(block, "translate", 3)
    parts.append(Part("translate", {"shift": translate, "unit": "fraction", **everywhere}))
    block.remark("angles are those in mm, and each pair of axes is sheared one way")
    return [Made(block.p(), tuple(parts), together=True)]


def _bounds(block: Block, key: str, count: int) -> list[float]:
    """Return one range for what may be a bound, a pair, or a bound for each of `count` axes or planes."""
    values = block.numbers(key)
    if len(values) == count and count != 2:
        sizes = {abs(value) for value in values}
        if len(sizes) > 1:
            block.remark(f"{key} is the same along all axes: the largest")
        return [-max(sizes), max(sizes)]
    return block.around(key)


@GPU.add("RandomInverseGPU", {**VALUES, **MIX}, "TA")
def _inverse(block: Block) -> list[Made]:
    return on_values(block, "inverse")


@GPU.add("RandomHistogramEqualizationGPU", {**VALUES, **MIX}, "TA")
def _equalise(block: Block) -> list[Made]:
    return on_values(block, "equalise")


REDISTRIBUTE: Settings = {
    **CHANNEL,
    "in_seg": 0.2,
    "retain_stats": True,
    "std_noise_range": [0.1, 0.3],
    "dilation_iterations_range": [1, 3],
}


@GPU.add("RandomRedistributeSegGPU", REDISTRIBUTE, "TA")
def _redistribute(block: Block) -> list[Made]:
    if block.chance("in_seg") < 1:
        block.remark("unlabelled voxels stay as they are")
    block.left_out("std_noise_range", "dilation_iterations_range")
    block.remark("labels get a new mean and texture each, in place of a bump added to the curve of values")
    settings = {**channels(block), "retain_stats": block.flag("retain_stats")}
    return once(block.p(), "redistribute", settings)


@GPU.add("RandomScharrGPU", {**VALUES, **MIX, "absolute": True, "retain_stats": True}, "TA")
def _scharr(block: Block) -> list[Made]:
    if not block.flag("absolute"):
        block.remark("edges are bright on both sides: signed ones have no counterpart")
    return on_values(block, "scharr")


@GPU.add("RandomLaplaceGPU", {**VALUES, **MIX, "absolute": False}, "TA")
def _laplace(block: Block) -> list[Made]:
    laplace_sign(block)
    return on_values(block, "laplace", absolute=False, negative=True)


def laplace_sign(block: Block) -> None:
    """Say that a switch has no effect: there the filter has a sign, and bright lines stay bright, in any case."""
    if block.flag("absolute"):
        block.remark("signed, as it is there whatever absolute says")


@GPU.add("RandomUnsharpMaskGPU", {**VALUES, **MIX, "sigma": 1.0, "unsharp_amount": 1.5}, "TA")
def _unsharp(block: Block) -> list[Made]:
    sigma = max(0.05, block.number("sigma", 0.0) * block.voxel)
    block.remark(f"sigma in mm, a voxel taken for {block.voxel:g} mm, and not cut off after one voxel")
    return on_values(
        block, "unsharp_mask", sigma=[0.05, sigma], amount=sorted([0.0, block.number("unsharp_amount", -1.0)])
    )


@GPU.add("RandomRandConvGPU", {**VALUES, **MIX, "kernel_sizes": [1, 3, 5, 7]}, "TA")
def _rand_conv(block: Block) -> list[Made]:
    sizes = block.numbers("kernel_sizes")
    block.remark("coarse axes get as many voxels as cover the same length")
    return on_values(block, "rand_conv", size={"choice": sizes})


@GPU.add("RandomClampGPU", {**VALUES, "max_clamp_amount": 0.0}, "GE")
def _clamp(block: Block) -> list[Made]:
    share = block.number("max_clamp_amount", 0.0, 0.49)
    return on_values(block, "clamp", low=[0.0, share], high=[0.0, share])


NOISE = f"1 standard deviation of the image is taken for {SD_IN_SPAN:g} of the signal's span; MRI has rician_noise"


@GPU.add("RandomGaussianNoiseGPU", {**CHANNEL, **REGION, "mean": 0.0, "std": 1.0}, "GE")
def _noise(block: Block) -> list[Made]:
    mean, std = block.number("mean"), block.number("std", 0.0)
    block.remark(NOISE)
    made = on_volume(block, "gaussian_noise", sigma=[0.0, std * SD_IN_SPAN])[0]
    if mean == 0:
        return [made]
    shift = Part("brightness_shift", {**channels(block), "shift": mean * SD_IN_SPAN})
    return [Made(made.p, (*made.parts, shift), together=True)]


@GPU.add("RandomGaussianBlurGPU", {**VALUES, **MIX, "sigma": 1.0}, "GE")
def _blur(block: Block) -> list[Made]:
    sigma = [0.0, block.number("sigma", 0.0)]
    block.remark("not cut off after one voxel, which makes it wider than there")
    return on_image(block, "blur", unit="voxel", in_plane=sigma, through_plane=sigma)


@GPU.add("RandomBrightnessGPU", {**CHANNEL, **REGION, "brightness_range": [0.5, 1.5]}, "GE")
def _brightness(block: Block) -> list[Made]:
    block.remark("about air, not about the mean")
    return on_values(block, "brightness", factor=block.pair("brightness_range"))


@GPU.add("RandomGammaGPU", {**VALUES, "gamma_range": [0.7, 1.5]}, "GE")
def _gamma(block: Block) -> list[Made]:
    return on_values(block, "gamma", gamma=block.pair("gamma_range"))


@GPU.add("RandomInvGammaGPU", {**VALUES, "gamma_range": [0.7, 1.5]}, "GE")
def _inverse_gamma(block: Block) -> list[Made]:
    return on_values(block, "inverse_gamma", gamma=block.pair("gamma_range"))


@GPU.add("RandomContrastGPU", {**VALUES, "contrast_range": [0.75, 1.25]}, "GE")
def _contrast(block: Block) -> list[Made]:
    return on_values(block, "contrast", factor=block.pair("contrast_range"), preserve_range=False)


# There the functions see values from 0 to 1: ours do with these settings.
FUNCTIONS: dict[str, tuple[str, Settings]] = {
    "Log1p": ("log1p", {"amount": 1.0}),
    "Sqrt": ("sqrt", {}),
    "Sin": ("sin", {"quarters": 0.63662}),
    "Exp": ("exp", {"amount": 1.0}),
    "Sigmoid": ("sigmoid", {"slope": 1.0, "centre": 0.0}),
}


def _function(block: Block, kind: str) -> list[Made]:
    name, settings = FUNCTIONS[kind]
    function_range(block)
    return on_values(block, name, **settings)


for _kind in FUNCTIONS:
    GPU.add(f"Random{_kind}GPU", VALUES, "TA")(partial(_function, kind=_kind))


def function_range(block: Block) -> None:
    """Say what happens to the range of an image whose statistics a function does not keep."""
    if not block.flag("retain_stats"):
        block.remark("the image keeps its range, where values from 0 to about 1 are left there")


@GPU.add("RandomLowResTransformGPU", {**COMMON, "scale": [0.3, 1.0]}, "GE")
def _low_resolution(block: Block) -> list[Made]:
    block.remark("without the false structure of sampling points there (anti_alias: false brings some of it back)")
    return once(block.p(), "low_resolution", {"scale": block.pair("scale")})


@GPU.add("RandomAcqTransformGPU", {**CHANNEL, "scale": [0.3, 1.0]}, "GE")
def _acquisition(block: Block) -> list[Made]:
    block.remark("without the false structure of sampling points there; slice_profile makes true thick slices")
    return once(block.p(), "low_resolution", {**channels(block), "scale": block.pair("scale"), "axes": "one"})


@GPU.add("RandomCropTransformGPU", {**COMMON, "crop": [1.0, 1.0], "pos": [0.0, 1.0], "pad_value": "min"}, "GEO")
def _crop(block: Block) -> list[Made]:
    low, high = block.pair("crop")
    if not 0 <= low <= high <= 1:
        raise block.refuse("crop", "shares from 0 to 1")
    if block.pair("pos") != [0.0, 1.0]:
        block.remark("the box may lie anywhere: pos is left out")
    if block.value("pad_value") != "min":
        block.remark("what is cut away becomes air, whatever pad_value says")
    block.remark("what is cut away is -1 in labels: outside, not background")
    return once(block.p(), "crop", {"cut": [round(1 - high, 6), round(1 - low, 6)]})


@GPU.add("RandomBiasFieldGPU", {**VALUES, "coefficients": 0.5, "order": 3, "invert": False}, "TA")
def _bias(block: Block) -> list[Made]:
    values = block.numbers("coefficients")
    if len(values) > 1:
        block.remark("coefficients of both signs, up to the larger bound")
    elif block.flag("invert"):
        block.remark("the inverse of such a field is such a field")
    block.flag("invert")
    block.remark("multiplies the signal, not air")
    bound = max(abs(value) for value in values)
    return on_volume(block, "bias_polynomial", coefficient=bound, order=int(block.number("order", 0, 8)))


ZSCORE: Settings = {key: value for key, value in {**CHANNEL, **REGION}.items() if key not in _NOT_ZSCORE}


@GPU.add("ZscoreNormalizationGPU", ZSCORE, "GE")
def _zscore(block: Block) -> list[Made]:
    return on_image(block, "renormalise", to="values")
