"""From the outputs of a soft model to values in [0, 1] and to a hard mask.

A soft model has nnU-Net's K+1 outputs. With ``linear`` output they are [1 - z1 - … - zK, z1, …, zK], so averaging over
windows, mirrored images and folds, and linear resampling, keep their meaning; with ``sigmoid`` they are logits beside a
background of 0. Whatever is not linear happens here, once per volume: a window without foreground that is normalised by
its own maximum would be full of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nnunet_spine_ext.core.errors import SetupError, UsageError
from nnunet_spine_ext.core.settings_key import SETTINGS_KEY
from nnunet_spine_ext.core.volume import Array
from nnunet_spine_ext.inference.model import predict_settings
from nnunet_spine_ext.inference.settings import PredictSettings

Kind = Literal["clamp", "norm_relu", "sigmoid"]
_OUTPUTS = ("linear", "sigmoid")
_LINEAR = ("clamp", "norm_relu")


@dataclass(frozen=True)
class Activation:
    """How the outputs of a soft model become values in [0, 1].

    kind: ``clamp`` cuts at 0 and 1; ``norm_relu`` cuts at 0 and divides each class by its maximum over the volume, but
        by no less than `floor`; ``sigmoid`` is the logistic function.
    floor: what a volume's maximum has to exceed to be taken for that of a whole structure.
    """

    kind: Kind
    floor: float = 0.5


def soft_activation(plans: Mapping[str, Any]) -> Activation | None:
    """Return the activation of a soft model, None for other models.

    Of linear outputs it is what ``predict.activation`` says, else what validation chose, else ``clamp``.

    Raises
    ------
    SetupError: the plans do not say what the outputs are, or name an activation that is none.
    UsageError: settings of prediction that are none.
    """
    soft = plans.get(SETTINGS_KEY, {}).get("soft")
    if soft is None:
        return None
    soft = soft if isinstance(soft, Mapping) else {}
    output = soft.get("output")
    if output not in _OUTPUTS:
        raise SetupError(
            "E-MODEL-SOFT",
            file=f"plans {plans.get('plans_name', '')} spine_ext.soft.output",
            found=repr(output),
            expected=f"one of {', '.join(_OUTPUTS)}, as training writes it",
            fix="take plans.json from the folder of the trained model",
        )
    if output == "sigmoid":
        return Activation("sigmoid")
    settings = predict_settings(plans) or PredictSettings()
    kind = settings.activation or soft.get("activation") or "clamp"
    if kind not in _LINEAR:
        raise SetupError(
            "E-MODEL-SOFT",
            file=f"plans {plans.get('plans_name', '')} spine_ext.soft.activation",
            found=repr(kind),
            expected=f"one of {', '.join(_LINEAR)}, as validation chooses it",
            fix="choose with nnUNetv2_spine_plan -m MODEL --set predict.activation=clamp",
        )
    return Activation(kind, settings.activation_floor)


def check_aggregate(activation: Activation | None, aggregate: str) -> None:
    """Raise UsageError when values of views cannot be averaged that way: linear ones have no logarithm."""
    if aggregate == "geometric" and activation is not None and activation.kind != "sigmoid":
        raise UsageError(
            "E-USE-AGGREGATE",
            file="predict.views.aggregate",
            found="geometric, for a soft model with linear outputs",
            expected="mean or entropy: linear outputs have no logarithm",
            fix="set predict.views.aggregate=mean",
        )


def soft_values(logits: Array, activation: Activation) -> Array:
    """Return soft values (K, *spatial), float32 in [0, 1], of the outputs (K+1, *spatial) of one whole volume."""
    foreground = np.asarray(logits[1:], dtype=np.float32)
    if activation.kind == "sigmoid":
        from scipy.special import expit

        return np.asarray(expit(foreground), dtype=np.float32)
    return np.clip(_scaled(foreground, activation), 0, 1)


def hard_labels(logits: Array, activation: Activation) -> Array:
    """Return the label map (*spatial) of the outputs (K+1, *spatial) of one whole volume.

    Of one class it is where the soft value exceeds 0.5. Of several it is the largest of the values and of what they
    leave of 1, negative values included: for ``clamp`` and ``sigmoid`` that is nnU-Net's own argmax. Ties go to the
    background and to lower labels.
    """
    dtype = np.uint8 if logits.shape[0] < 256 else np.uint16
    foreground = np.asarray(logits[1:], dtype=np.float32)
    if activation.kind == "sigmoid":
        limit = np.zeros(foreground.shape[1:], dtype=np.float32)
    else:
        foreground = _scaled(foreground, activation)
        limit = 1 - foreground.sum(axis=0)
    if len(foreground) == 1:
        # The winner is known: argmax would take eight bytes per voxel.
        return (foreground[0] > limit).astype(dtype)
    winner = foreground.argmax(axis=0).astype(dtype) + dtype(1)
    return np.where(foreground.max(axis=0) > limit, winner, dtype(0))


def probabilities(logits: Array, activation: Activation) -> Array:
    """Return what stands for nnU-Net's probabilities (K+1, *spatial), float32: the soft values behind a background.

    The background is what linear values leave of 1, cut at 0, or 1 minus the largest of the sigmoids: the largest
    channel is then the hard label, as stock nnU-Net takes it to be.
    """
    soft = soft_values(logits, activation)
    if activation.kind == "sigmoid":
        background = 1 - soft.max(axis=0)
    else:
        background = np.clip(1 - _scaled(np.asarray(logits[1:], dtype=np.float32), activation).sum(axis=0), 0, 1)
    return np.concatenate([background[None], soft])


def _scaled(foreground: Array, activation: Activation) -> Array:
    """Divide each class by its maximum, for ``norm_relu``."""
    if activation.kind != "norm_relu":
        return foreground
    largest = foreground.max(axis=tuple(range(1, foreground.ndim)), keepdims=True)
    scaled: Array = foreground / np.maximum(largest, np.float32(activation.floor))
    return scaled
