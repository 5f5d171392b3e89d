"""From outputs on the network's grid to volumes on the grid of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.inference.activation import Activation, hard_labels, soft_values
from nnunet_spine_ext.inference.managers import segmentation_volume, volume_like_image
from nnunet_spine_ext.inference.support import limit_to_support

# Interpolating in double precision and back leaves this much.
_LINEAR = 1e-4


@dataclass(frozen=True)
class SoftAnswer:
    """What a soft model says about one image, on its grid.

    `mask` is the label map, `soft` one map per class, float32 in [0, 1].
    """

    mask: Volume
    soft: tuple[Volume, ...]


def soft_answer(
    logits: Array,
    activation: Activation,
    plans_manager: Any,
    configuration_manager: Any,
    properties: dict[str, Any],
    *,
    support: float | None = None,
) -> SoftAnswer:
    """Return mask and soft maps of outputs (K+1, *spatial) on the network's grid.

    Outputs are resampled as nnU-Net resamples them, then comes the activation, once for the whole volume. What nnU-Net
    cut off around the image, where every channel is 0, is background. Soft values farther than `support` (mm) from
    their structure become 0; None keeps them.
    """
    spacing = [properties["spacing"][axis] for axis in plans_manager.transpose_forward]
    native = _on_cropped_grid(logits, plans_manager, configuration_manager, properties)
    labels, soft = hard_labels(native, activation), soft_values(native, activation)
    # Of a large image this is the largest array.
    del native
    if support is not None:
        limit_to_support(soft, labels, spacing, support)
    mask = _uncropped(labels, properties, plans_manager)
    maps = [_uncropped(values, properties, plans_manager) for values in soft]
    return SoftAnswer(
        segmentation_volume(mask, properties), tuple(volume_like_image(values, properties) for values in maps)
    )


def on_image_grid(values: Array, plans_manager: Any, configuration_manager: Any, properties: dict[str, Any]) -> Array:
    """Return maps (maps, *spatial) on the network's grid as (maps, z, y, x) on that of the image as it was read.

    They are resampled as nnU-Net resamples outputs; what nnU-Net cut off around the image is 0.
    """
    native = _on_cropped_grid(values, plans_manager, configuration_manager, properties)
    return np.stack([_uncropped(one, properties, plans_manager) for one in native])


def _on_cropped_grid(
    values: Array, plans_manager: Any, configuration_manager: Any, properties: dict[str, Any]
) -> Array:
    """Resample (maps, *spatial) to the image as nnU-Net had cropped and transposed it."""
    spacing = [properties["spacing"][axis] for axis in plans_manager.transpose_forward]
    shape = properties["shape_after_cropping_and_before_resampling"]
    own = list(configuration_manager.spacing)
    own = own if len(own) == len(shape) else [spacing[0], *own]
    return np.asarray(configuration_manager.resampling_fn_probabilities(values, shape, own, spacing))


def _uncropped(array: Array, properties: dict[str, Any], plans_manager: Any) -> Array:
    """Put an array into the whole image and undo nnU-Net's transposition of axes."""
    whole = np.zeros(properties["shape_before_cropping"], dtype=array.dtype)
    box = tuple(slice(start, stop) for start, stop in properties["bbox_used_for_cropping"])
    whole[box] = array
    return whole.transpose(plans_manager.transpose_backward)


def refuse_unfaithful_resampling(configuration_manager: Any, plans_name: str) -> None:
    """Raise SetupError when a model's resampling of outputs is not linear: soft values would not survive it.

    It is tried, because plans name a function with arguments of its own: values from 0 to 1 have to stay there (a
    spline of higher order overshoots), and sums have to stay sums (where the overshoot is cut they do not).
    """
    one, other = np.random.default_rng(0).random((2, 8, 8, 8), dtype=np.float32)
    resampled = np.asarray(
        configuration_manager.resampling_fn_probabilities(
            np.stack([one, other, one + other]), [11] * 3, [1.1] * 3, [0.8] * 3
        )
    )
    inside = resampled[:2].min() > -_LINEAR and resampled[:2].max() < 1 + _LINEAR
    if inside and np.abs(resampled[0] + resampled[1] - resampled[2]).max() < _LINEAR:
        return
    raise SetupError(
        "E-PLANS-RESAMPLING",
        file=f"plans {plans_name}",
        found="a resampling of outputs (resampling_fn_probabilities) that is not linear interpolation",
        expected='order 1 in "resampling_fn_probabilities_kwargs", as nnU-Net plans it',
        fix='set "order": 1 there; the weights need not be trained again',
    )
