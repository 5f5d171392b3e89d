"""Whether a configuration fits the patches, and tensors fit a plan: said at once, in words, not in the first epoch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.keys import SampleKey, generator
from nnunet_spine_ext.augment.selective import Placed
from nnunet_spine_ext.augment.transform import Transform
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.labels import id_ranges

# What turns left into right: which axis that is has to be known where labels have sides.
_MIRRORING = ("flip", "rot90", "transpose")
_ANY = SampleKey(0, "", 0, 0)


def check_config(config: AugmentConfig, context: Context) -> None:
    """Refuse a configuration that cannot be applied to patches of this kind.

    Raises
    ------
    UsageError: channels, axes or labels that the patches do not have; mirroring of labels with sides along axes of
        which none is known to be left-right.
    """
    for _, transform in config.flat():
        _check_channels(transform, context)
        _check_labels(transform, context)
        _check_sides(transform, context)
        if transform.p > 0:
            # What else depends on the patches, such as axes, is found out by drawing once.
            transform.sample(generator(_ANY, transform.name), context)


def check_tensors(images: Tensor, labels: Tensor | None, context: Context, count: int) -> None:
    """Refuse images (B, C, …) and labels (B, ≥1, …) that are not of these patches, or no tensors of real numbers.

    Raises
    ------
    UsageError: says what was found and expected.
    """
    expected = (count, context.channels, *context.source)
    if not isinstance(images, Tensor) or tuple(images.shape) != expected:
        raise _shape_error("images", images, expected)
    if images.is_complex():
        raise _shape_error("complex images", images, expected)
    if labels is None:
        return
    wanted = (count, 1, *context.source)
    if not isinstance(labels, Tensor) or (labels.shape[0], *labels.shape[2:]) != (count, *context.source):
        raise _shape_error("labels", labels, wanted)
    if labels.shape[1] < 1:
        raise _shape_error("labels", labels, wanted)
    if labels.is_complex():
        raise _shape_error("complex labels", labels, wanted)
    if labels.device != images.device:
        raise _error("E-AUG-SHAPE", "augmentation", f"labels on {labels.device}", f"on {images.device}", "move them")


def check_companions(companions: Tensor, images: Tensor) -> None:
    """Refuse companions that are not of these images; raises UsageError."""
    wanted = (images.shape[0], *images.shape[2:])
    if companions.dim() != images.dim() or (companions.shape[0], *companions.shape[2:]) != wanted:
        raise _shape_error("companions", companions, (images.shape[0], 1, *images.shape[2:]))
    if companions.device != images.device:
        found, expected = f"companions on {companions.device}", f"on {images.device}"
        raise _error("E-AUG-SHAPE", "augmentation", found, expected, "move them")


def _check_channels(transform: Transform, context: Context) -> None:
    if transform.channels != "all" and any(not 0 <= c < context.channels for c in transform.channels):
        expected = f"channels from 0 to {context.channels - 1}"
        found = f"channels {list(transform.channels)}"
        raise _error("E-AUG-CONTEXT", transform.name, found, expected, "correct channels")


def _check_labels(transform: Transform, context: Context) -> None:
    if not isinstance(transform, Placed) or isinstance(transform.where, str | dict):
        return
    unknown = sorted(set(transform.where) - set(context.labels))
    if unknown:
        expected = f"labels among {id_ranges(context.labels)}"
        raise _error("E-AUG-CONTEXT", f"{transform.name}: where", f"labels {unknown}", expected, "correct where")


def _check_sides(transform: Transform, context: Context) -> None:
    # A slice of a sagittal stack has no such axis, and mirrors nobody; a volume has one.
    unknown = context.dim == 3 and context.sided_pairs and context.left_right_axis is None
    if unknown and transform.name in _MIRRORING and transform.p > 0:
        raise _error(
            "E-AUG-CONTEXT",
            transform.name,
            "labels of left and right, but no left-right axis",
            "the array axis that runs from left to right",
            "set left_right_axis, or leave the transform out",
        )


def _shape_error(what: str, tensor: Any, expected: tuple[int, ...]) -> UsageError:
    found = f"{what} of shape {tuple(tensor.shape)}" if isinstance(tensor, torch.Tensor) else f"{what}: {type(tensor)}"
    return _error(
        "E-AUG-SHAPE",
        "augmentation",
        found,
        f"a tensor of shape {expected}",
        "give the pipeline the context of these batches",
    )


def _error(code: str, where: str, found: str, expected: str, fix: str) -> UsageError:
    return UsageError(code, file=where, found=found, expected=expected, fix=fix)
