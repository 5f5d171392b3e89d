"""The section GPU of SmaugLab, entry by entry: new contrasts."""

from __future__ import annotations

import math
from typing import Any

from nnunet_spine_ext.augment.migrate_block import Block, Made, Part, Rules, Settings
from nnunet_spine_ext.augment.migrate_select import COMMON, channels
from nnunet_spine_ext.augment.table_build import MOST_WITHIN

SYNTHESIS = Rules()

_BRIGHTEST = 250.0
_MOST_CLASSES = 12
_PRIOR = {"prior_means": (125.0, 125.0), "prior_stds": (15.0, 15.0)}

SYNTHSEG: Settings = {
    **COMMON,
    "p": 0.5,
    "apply_to_channel": None,
    "apply_bias_field": True,
    "apply_intensity_augmentation": True,
    "apply_resolution": True,
    "atlas_res": 1.0,
    "bias_field_std": 0.7,
    "bias_scale": 0.025,
    "blur_range": 1.03,
    "clip": 300.0,
    "data_res": None,
    "em_background_clusters_range": [3, 10],
    "em_background_label": 0,
    "em_label_completion": False,
    "em_max_fit_voxels": 100000,
    "em_merge_prob": 0.5,
    "em_n_foreground_clusters": 2,
    "em_n_iters": 20,
    "em_same_on_batch": False,
    "flip_axis": 2,
    "gamma_std": 0.5,
    "generation_classes": None,
    "generation_labels": None,
    "max_res_aniso": 8.0,
    "max_res_iso": 4.0,
    "n_channels": 1,
    "n_neutral_labels": None,
    "nonlin_scale": 0.04,
    "nonlin_std": 4.0,
    "normalise": True,
    "output_labels": None,
    "prior_distributions": "uniform",
    "prior_means": None,
    "prior_stds": None,
    "randomise_res": True,
    "rotation_bounds": 15.0,
    "scaling_bounds": 0.2,
    "shearing_bounds": 0.012,
    "svf_integration_steps": 7,
    "thickness": None,
    "translation_bounds": False,
}
# There the generator is kept from moving anything: whatever the configuration says of geometry has no effect.
_GEOMETRY = (
    "flip_axis",
    "nonlin_scale",
    "nonlin_std",
    "rotation_bounds",
    "scaling_bounds",
    "shearing_bounds",
    "svf_integration_steps",
    "translation_bounds",
)


@SYNTHESIS.add("RandomSynthSegGPU", SYNTHSEG, "TA")
def _synthseg(block: Block) -> list[Made]:
    where = channels(block) if block.given.get("apply_to_channel") else {"channels": [0]}
    block.value("apply_to_channel")
    parts = [
        Part("gaussian_mixture", {**where, "mean": _prior(block, "prior_means"), "sd": _prior(block, "prior_stds")})
    ]
    parts[0].settings.update(texture=0.0, **_classes(block))
    sd, scale = block.number("bias_field_std", 0.0), block.number("bias_scale", 1e-3, 1.0)
    if block.flag("apply_bias_field") and sd > 0:
        length = max(10.0, block.voxel / scale)
        parts.append(Part("bias_spline", {**where, "sd": [0.0, sd], "scale": length}))
        block.remark(f"the bias field varies over {length:g} mm, whatever the size of the patch")
    spread = math.sqrt(3) * block.number("gamma_std", 0.0, 1.5)
    if block.flag("apply_intensity_augmentation") and spread > 0:
        bounds = [round(math.exp(-spread), 4), round(math.exp(spread), 4)]
        parts.append(Part("gamma", {**where, "gamma": {"log": bounds}}))
    fixed = block.left_out
    if block.flag("apply_resolution") and block.flag("randomise_res"):
        low = block.number("atlas_res", 0.0)
        plane, slices = (max(low, block.number(key, 0.0)) for key in ("max_res_iso", "max_res_aniso"))
        parts.append(Part("resolution", {**where, "in_plane": [low, plane], "through_plane": [low, slices]}))
        block.remark("resolution is drawn within slices and across them")
    else:
        fixed("atlas_res", "max_res_iso", "max_res_aniso")
    fixed("data_res", "thickness", "blur_range")
    block.left_out("generation_labels", "generation_classes", "n_neutral_labels")
    _without_effect(block)
    return [Made(block.p(), tuple(parts), together=True)]


def _classes(block: Block) -> Settings:
    """Return how unlabelled voxels, and labels, are divided by intensity."""
    low, high = block.pair("em_background_clusters_range")
    within = min(float(MOST_WITHIN), block.number("em_n_foreground_clusters", 1.0))
    if block.flag("em_label_completion"):
        block.left_out("em_merge_prob", "em_background_label")
        return {"background": [max(2.0, low), min(_MOST_CLASSES, high)], "within": within}
    for key in ("em_merge_prob", "em_background_label"):
        block.value(key)
    block.remark("unlabelled voxels become two classes, where they are one there")
    return {"background": 2.0, "air": 0.0}


def _without_effect(block: Block) -> None:
    """Mark as read what is a matter of computing, or has no effect there either."""
    given = {key: block.given[key] for key in _GEOMETRY if key in block.given}
    for key in (*_GEOMETRY, "em_max_fit_voxels", "em_n_iters", "em_same_on_batch", "n_channels", "output_labels"):
        block.value(key)
    block.value("clip")
    if given:
        block.remark("labels and image keep their geometry, as there")
    if not block.flag("normalise"):
        block.remark("the image keeps its span")


def _prior(block: Block, key: str) -> Any:
    """Return the range of means or standard deviations in parts of the brightest grey value, 250 there."""
    value, kind = block.value(key), block.value("prior_distributions")
    if kind not in ("uniform", "normal"):
        raise block.refuse("prior_distributions", "uniform or normal")
    centre, reach = _PRIOR[key]
    if isinstance(value, list | tuple) and value and isinstance(value[0], list | tuple):
        block.remark(f"{key} is one range for all labels: that which holds all")
        flat = block.table(key)
        return _scaled([min(flat), max(flat)])
    if value is None:
        numbers = [centre - reach, centre + reach] if kind == "uniform" else [centre, reach]
    else:
        given = block.numbers(key)
        alone = [centre - given[0], centre + given[0]] if kind == "uniform" else [centre, given[0]]
        numbers = alone if len(given) == 1 else given[:2]
    return {"normal": _scaled(numbers)} if kind == "normal" else _scaled(numbers)


def _scaled(numbers: list[float]) -> list[float]:
    return [round(max(0.0, number) / _BRIGHTEST, 6) for number in numbers]


PALETTE: Settings = {
    **COMMON,
    "keepdim": False,
    "c_choices": [2, 3, 4, 5, 6],
    "s_choices": [2, 3, 4, 5, 6, 7, 8, 9, 10],
    "blur_sigmas": [0.0, 0.0, 0.0, 0.3, 0.5, 0.8],
    "dark_threshold": 0.01,
    "n_kmeans_subsample": 10000,
    "skip_parcellation_prob": 0.1,
    "skip_sub_parc_prob": 0.4,
    "alpha_magnitude_range": [0.5, 2.0],
    "label_remap_prob": 0.5,
    "min_label_voxels": 4,
    "label_classes": None,
}


@SYNTHESIS.add("RandomPaletteGPU", PALETTE, "TA")
def _palette(block: Block) -> list[Made]:
    common = {**_repainted(block), "classes": {"choice": block.numbers("c_choices")}}
    if block.chance("label_remap_prob") > 0:
        block.remark("labels are not repainted once more on their own: redistribute does that")
    block.left_out("skip_parcellation_prob", "blur_sigmas", "label_classes")
    block.value("n_kmeans_subsample")
    block.value("min_label_voxels")
    whole = block.chance("skip_sub_parc_prob")
    return [Made(block.p(), _regions(common, whole, block.numbers("s_choices")))]


def _regions(common: Settings, whole: float, numbers: list[float]) -> tuple[Part, ...]:
    """Return the repainting of classes in regions of space, and with probability `whole` everywhere alike."""
    regions = {"regions": {"choice": numbers}, "variation": 1.0, "border": 0.0}
    parts = (Part("region_palette", common | regions, 1 - whole), Part("palette", common, whole))
    return tuple(part for part in parts if part.share > 0)


COMPOSED: Settings = {
    **COMMON,
    "keepdim": False,
    "initial_partitioner": None,
    "refinement_partitioners": None,
    "overlay": None,
    "alpha_magnitude_range": [0.5, 2.0],
    "dark_threshold": 0.01,
    "blur_sigmas_pre": [0.0, 0.0, 0.0, 0.3, 0.5, 0.8],
    "blur_sigmas_post": [0.0, 0.0, 0.0, 0.3, 0.5, 0.8],
}


# The parts that it is composed of, where the configuration does not name them.
_INITIAL: Settings = {
    "type": "kmeans1d",
    "c_choices": [2, 3, 4, 5, 6],
    "n_foreground_clusters": 3,
    "background_clusters_range": [3, 10],
}
_VORONOI: Settings = {"type": "voronoi", "s_choices": [2, 3, 4, 5, 6, 7, 8, 9, 10], "skip_prob": 0.4}


@SYNTHESIS.add("PaletteSynthesisGPU", COMPOSED, "TA")
def _composed(block: Block) -> list[Made]:
    kind, initial = _component(block, "initial_partitioner", block.value("initial_partitioner") or _INITIAL, _INITIAL)
    common = _repainted(block)
    if kind == "em_gmm":
        count = initial.number("n_foreground_clusters", 1.0)
        bounds = [count + number for number in initial.pair("background_clusters_range")]
        common |= {"clustering": "em", "classes": [min(_MOST_CLASSES, bound) for bound in bounds]}
    else:
        common["classes"] = {"choice": initial.numbers("c_choices")}
    given = block.value("refinement_partitioners")
    if given is None:
        given = [_VORONOI]
    if not isinstance(given, list | tuple):
        raise block.refuse("refinement_partitioners", "a list of partitioners")
    refined = [_component(block, "refinement_partitioners", item, _VORONOI) for item in given]
    if any(kind == "em_gmm" for kind, _ in refined):
        block.remark("classes are not divided a second time by intensity")
    block.left_out("overlay", "blur_sigmas_pre", "blur_sigmas_post")
    cells = next((part for kind, part in refined if kind == "voronoi"), None)
    if cells is None:
        return [Made(block.p(), (Part("palette", common),))]
    return [Made(block.p(), _regions(common, cells.chance("skip_prob"), cells.numbers("s_choices")))]


def _component(block: Block, key: str, given: Any, defaults: Settings) -> tuple[str, Block]:
    """Return the kind of a part and its settings."""
    kind = given.get("type") if isinstance(given, dict) else None
    if kind not in ("em_gmm", "identity", "kmeans1d", "voronoi"):
        raise block.refuse(key, "type: kmeans1d, em_gmm, voronoi or identity, with its settings")
    more = sorted(name for name in given if name not in defaults)
    if more:
        block.remark(f"no counterpart in {key}: {', '.join(more)}")
    return str(kind), Block(f"{block.place}: {key}", given, defaults)


def _repainted(block: Block) -> Settings:
    """Return what both kinds of repainting have in common."""
    texture = block.pair("alpha_magnitude_range")
    air = 1.0 if block.number("dark_threshold", 0.0) > 0 else 0.0
    block.remark("within a class dark stays darker than bright")
    return {"channels": [0], "value": [0.0, 1.0], "texture": texture, "air": air}


DOMAIN: Settings = {
    **COMMON,
    "p": 0.2,
    "any_source": False,
    "apply_to_channel": None,
    "bank_path": None,
    "bias_field_std": 0.0,
    "bias_scale": 0.03,
    "blend_concentration": 1.0,
    "blend_targets": 1,
    "include_self": True,
    "p_class_mix": 0.0,
    "p_spatial_mix": 0.0,
    "pct": 1.0,
    "sigma": 2.0,
    "source_label": None,
    "spatial_mix_gain": 3.0,
    "spatial_mix_scale": 0.03,
    "targets": None,
    "zscore_io": "auto",
}


@SYNTHESIS.add("RandomDomainTransferGPU", DOMAIN, "TA")
def _domain(block: Block) -> list[Made]:
    where = channels(block) if block.given.get("apply_to_channel") else {"channels": [0]}
    block.value("apply_to_channel")
    blend = [0.0, 1.0] if block.number("blend_targets", 1) > 1 else 0.0
    block.remark("the domains are those of this package's bank, or of one that is learned from images")
    block.left_out("bank_path", "source_label", "targets", "any_source", "include_self", "blend_concentration")
    block.left_out("p_class_mix", "p_spatial_mix", "spatial_mix_gain", "spatial_mix_scale", "sigma", "pct")
    block.value("zscore_io")
    parts = [Part("domain_transfer", {**where, "mix": 1.0, "blend": blend})]
    sd, scale = block.number("bias_field_std", 0.0), block.number("bias_scale", 1e-3, 1.0)
    if sd > 0:
        parts.append(Part("bias_spline", {**where, "sd": [0.0, sd], "scale": max(10.0, block.voxel / scale)}))
    return [Made(block.p(), tuple(parts), together=True)]
