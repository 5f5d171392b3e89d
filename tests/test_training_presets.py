"""Presets that say sizes along anatomical axes."""

from __future__ import annotations

import math

import pytest
from model_builder import make_plans

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.training.presets import apply_to_configuration, preset_names, read_preset


def body_axes(values: list[float], transpose_forward: list[int]) -> dict[str, float]:
    """Say by name what a configuration lists in array order: before transposition that is (I, P, R)."""
    return {"IPR"[axis]: values[k] for k, axis in enumerate(transpose_forward)}


@pytest.mark.parametrize("transpose", [[0, 1, 2], [2, 0, 1], [1, 0, 2]])
def test_spineps_reaches_the_axes_it_names(transpose: list[int]) -> None:
    configuration = make_plans()["configurations"]["3d_fullres"]
    changed = apply_to_configuration(configuration, read_preset("spineps"), transpose)
    assert body_axes(changed["spacing"], transpose) == {"P": 0.75, "I": 0.75, "R": 1.65}
    assert body_axes(changed["patch_size"], transpose) == {"P": 256, "I": 256, "R": 64}
    assert changed["batch_size"] == 2


def test_a_patch_along_body_axes_brings_a_network_that_builds_and_fits() -> None:
    import torch
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    configuration = make_plans()["configurations"]["3d_fullres"]
    network = apply_to_configuration(configuration, read_preset("spineps"), [0, 1, 2])["architecture"]["arch_kwargs"]
    strides = [math.prod(stage[axis] for stage in network["strides"]) for axis in range(3)]
    assert [256 // strides[0], 256 // strides[1], 64 // strides[2]] == [4, 4, 4]
    lengths = {len(network[k]) for k in ("strides", "kernel_sizes", "features_per_stage", "n_conv_per_stage")}
    assert lengths == {network["n_stages"]}
    assert len(network["n_conv_per_stage_decoder"]) == network["n_stages"] - 1
    kwargs = network | {
        "conv_op": torch.nn.Conv3d,
        "norm_op": torch.nn.InstanceNorm3d,
        "nonlin": torch.nn.LeakyReLU,
        "features_per_stage": [2] * network["n_stages"],
    }
    assert PlainConvUNet(1, num_classes=2, **kwargs)(torch.zeros(1, 1, 128, 128, 32)).shape == (1, 2, 128, 128, 32)


def test_body_axes_need_three_dimensions() -> None:
    configuration = make_plans()["configurations"]["3d_fullres"] | {"patch_size": [64, 64], "spacing": [1.0, 1.0]}
    with pytest.raises(UsageError, match="2-D configuration"):
        apply_to_configuration(configuration, read_preset("spineps"))


def test_every_preset_reads_and_applies() -> None:
    for name in preset_names():
        preset = read_preset(name)
        assert preset.description
        apply_to_configuration(make_plans()["configurations"]["3d_fullres"], preset)
