"""Presets: named recipes in YAML that turn nnU-Net's plans into plans of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnunet_spine_ext.core.config import load_config, read_mapping
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.presets import names_in, preset_path

_FOLDER = Path(__file__).parent / "presets"


@dataclass(frozen=True)
class NetworkPreset:
    """Size of the U-Net; None keeps nnU-Net's value.

    `base_features` double per stage up to `max_features`; `max_stages` drops the deepest stages;
    `convs_per_stage`, `convs_per_decoder_stage` set the number of convolutions.
    """

    base_features: int | None = None
    max_features: int | None = None
    max_stages: int | None = None
    convs_per_stage: int | None = None
    convs_per_decoder_stage: int | None = None


@dataclass(frozen=True)
class PatchPreset:
    """Patch size in voxels: a fixed `size`, or at most `max_voxels`.

    `size` is in array order of the configuration; `size_pir` counts along P, I and R, the axes papers name.
    """

    size: tuple[int, ...] | None = None
    size_pir: tuple[int, int, int] | None = None
    max_voxels: int | None = None


@dataclass(frozen=True)
class Preset:
    """A recipe: settings, and changes to one configuration of the plans.

    `batch_dice`: compute the Dice loss over the batch instead of per sample. With small patches and many classes most
    samples lack some class, and a loss per sample then answers every voxel of it with the full penalty.
    `spacing` (mm, array order of the configuration) or `spacing_pir` (mm along P, I and R) changes the preprocessed
    data, so it gets its own folder.
    """

    description: str = ""
    train: dict[str, Any] = field(default_factory=dict)
    augment: dict[str, Any] = field(default_factory=dict)
    soft: dict[str, Any] = field(default_factory=dict)
    domain: dict[str, Any] = field(default_factory=dict)
    predict: dict[str, Any] = field(default_factory=dict)
    network: NetworkPreset = field(default_factory=NetworkPreset)
    patch: PatchPreset = field(default_factory=PatchPreset)
    batch_size: int | None = None
    batch_dice: bool | None = None
    spacing: tuple[float, ...] | None = None
    spacing_pir: tuple[float, float, float] | None = None


def preset_names() -> list[str]:
    """Return the names of the presets that come with the package."""
    return names_in(_FOLDER)


def read_preset(name: str) -> Preset:
    """Return a preset by name, or from a YAML file when `name` is a path that exists.

    Raises UsageError for an unknown name (nearest one named) and for unknown keys.
    """
    path = preset_path(name, _FOLDER)
    return load_config(Preset, read_mapping(path), where=str(path.name))


def apply_to_configuration(
    configuration: Mapping[str, Any], preset: Preset, transpose_forward: Sequence[int] = (0, 1, 2)
) -> dict[str, Any]:
    """Return one configuration of the plans with the preset's network, patch, batch and spacing.

    A patch given along P, I and R comes with a network that nnU-Net's own rule derives for it. Patches are multiples of
    the network's total stride. Without a size of their own they keep nnU-Net's extent in millimetres, and shrink to
    `max_voxels` along their longest axes first.
    """
    changed = deepcopy(dict(configuration))
    preset = _in_array_order(preset, len(changed["patch_size"]), transpose_forward)
    spacing_factor = _set_spacing(changed, preset.spacing)
    network = changed["architecture"]["arch_kwargs"]
    if preset.patch.size_pir is not None and preset.patch.size is not None:
        _derive_network(network, changed["spacing"], preset.patch.size)
    _resize_network(network, preset.network)
    strides = network["strides"]
    if preset.patch.size is not None:
        changed["patch_size"] = _fit(preset.patch.size, total_stride(strides))
    else:
        wanted = [max(1, round(n * f)) for n, f in zip(changed["patch_size"], spacing_factor, strict=True)]
        if preset.patch.max_voxels is not None:
            wanted = shrink_patch(wanted, total_stride(strides), preset.patch.max_voxels)
        changed["patch_size"] = _fit(wanted, total_stride(strides))
    if preset.batch_size is not None:
        if preset.batch_size < 1:
            raise UsageError(
                "E-CONFIG-RANGE",
                file="batch_size",
                found=str(preset.batch_size),
                expected="at least 1",
                fix="correct it",
            )
        changed["batch_size"] = preset.batch_size
    if preset.batch_dice is not None:
        changed["batch_dice"] = preset.batch_dice
    return changed


def _in_array_order(preset: Preset, dimensions: int, transpose_forward: Sequence[int]) -> Preset:
    """Return the preset with what it says along P, I and R said in array order.

    The reorienting reader gives (z, y, x), which is (I, P, R) up to direction; planning then permutes the axes.
    """
    if preset.spacing_pir is None and preset.patch.size_pir is None:
        return preset
    if dimensions != 3:
        raise UsageError(
            "E-PRESET-SPACING",
            file="spacing_pir, patch.size_pir",
            found=f"a {dimensions}-D configuration",
            expected="a 3-D one",
            fix="choose it with -c, for example 3d_fullres",
        )
    order = [(1, 0, 2)[axis] for axis in transpose_forward]
    spacing, size = preset.spacing_pir, preset.patch.size_pir
    return replace(
        preset,
        spacing=preset.spacing if spacing is None else tuple(spacing[k] for k in order),
        patch=preset.patch if size is None else replace(preset.patch, size=tuple(size[k] for k in order)),
    )


def _derive_network(network: dict[str, Any], spacing: Sequence[float], patch: Sequence[int]) -> None:
    """Set stages, strides and kernels for a patch by nnU-Net's rule (bottleneck of at least four voxels per axis)."""
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

    _, strides, kernels, *_ = get_pool_and_conv_props(spacing, patch, 4, 999999)
    per_stage = "n_conv_per_stage" if "n_conv_per_stage" in network else "n_blocks_per_stage"
    stages = len(strides)
    base, most = network["features_per_stage"][0], max(network["features_per_stage"])
    network["n_stages"] = stages
    network["strides"] = [[int(s) for s in stage] for stage in strides]
    network["kernel_sizes"] = [[int(k) for k in stage] for stage in kernels]
    network["features_per_stage"] = [min(base * 2**k, most) for k in range(stages)]
    for key, length in ((per_stage, stages), ("n_conv_per_stage_decoder", stages - 1)):
        network[key] = (list(network[key]) + [network[key][-1]] * length)[:length]


def total_stride(strides: Sequence[Sequence[int]]) -> list[int]:
    """Return by how much each axis is smaller at the bottleneck than at the input."""
    product = [1] * len(strides[0])
    for stage in strides:
        product = [p * int(s) for p, s in zip(product, stage, strict=True)]
    return product


def shrink_patch(size: Sequence[int], stride: Sequence[int], max_voxels: int) -> list[int]:
    """Shorten the longest axes, one stride at a time, until the patch has at most `max_voxels` voxels."""
    patch = _fit(size, stride)
    while _voxels(patch) > max_voxels:
        longest = max(range(len(patch)), key=lambda a: (patch[a] - stride[a] >= stride[a], patch[a]))
        if patch[longest] <= stride[longest]:
            break
        patch[longest] -= stride[longest]
    return patch


def _voxels(patch: Sequence[int]) -> int:
    count = 1
    for n in patch:
        count *= n
    return count


def _fit(size: Sequence[int], stride: Sequence[int]) -> list[int]:
    return [max(s, int(n) // s * s) for n, s in zip(size, stride, strict=True)]


def _set_spacing(configuration: dict[str, Any], spacing: tuple[float, ...] | None) -> list[float]:
    """Set the spacing and scale the median size; return by which factor each axis gets finer."""
    old = configuration["spacing"]
    if spacing is None:
        return [1.0] * len(old)
    if len(spacing) != len(old):
        raise UsageError(
            "E-PRESET-SPACING",
            file="spacing",
            found=f"{len(spacing)} values",
            expected=f"{len(old)} values, in the order of the plans' spacing {old}",
            fix="correct the preset or --set spacing",
        )
    factor = [o / n for o, n in zip(old, spacing, strict=True)]
    median = configuration["median_image_size_in_voxels"]
    configuration["median_image_size_in_voxels"] = [m * f for m, f in zip(median, factor, strict=True)]
    configuration["spacing"] = list(spacing)
    return factor


def _resize_network(network: dict[str, Any], preset: NetworkPreset) -> None:
    stages = min(preset.max_stages or network["n_stages"], network["n_stages"])
    per_stage = "n_conv_per_stage" if "n_conv_per_stage" in network else "n_blocks_per_stage"
    network["n_stages"] = stages
    for key in ("features_per_stage", "kernel_sizes", "strides", per_stage):
        network[key] = network[key][:stages]
    network["n_conv_per_stage_decoder"] = network["n_conv_per_stage_decoder"][: stages - 1]
    if preset.base_features is not None or preset.max_features is not None:
        base = preset.base_features or network["features_per_stage"][0]
        most = preset.max_features or max(network["features_per_stage"])
        network["features_per_stage"] = [min(base * 2**k, most) for k in range(stages)]
    if preset.convs_per_stage is not None:
        network[per_stage] = [preset.convs_per_stage] * stages
    if preset.convs_per_decoder_stage is not None:
        network["n_conv_per_stage_decoder"] = [preset.convs_per_decoder_stage] * (stages - 1)
