"""Mirroring that knows left from right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform

from nnunet_spine_ext.training.settings import data_facts


def sided_labels(dataset_json: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Return the pairs of left and right label ids that `dataset.json` declares."""
    return list(data_facts(dataset_json).sided_labels)


class SidedMirrorTransform(MirrorTransform):
    """nnU-Net's mirroring; the ids of sided structures are exchanged when the left-right axis was mirrored.

    Parameters
    ----------
    allowed_axes: spatial axes of the patch that may be mirrored, each with probability .5.
    axis: the left-right axis among them.
    pairs: (left, right) label ids.
    """

    def __init__(self, allowed_axes: tuple[int, ...], axis: int, pairs: Sequence[tuple[int, int]]) -> None:
        super().__init__(allowed_axes)
        self.axis = axis
        self.pairs = [tuple(pair) for pair in pairs]

    def _apply_to_segmentation(self, segmentation: torch.Tensor, **params: Any) -> torch.Tensor:
        mirrored = super()._apply_to_segmentation(segmentation, **params)
        if self.axis not in params["axes"]:
            return mirrored
        swapped = mirrored.clone()
        for left, right in self.pairs:
            swapped[mirrored == left] = right
            swapped[mirrored == right] = left
        return swapped


def replace_mirroring(transforms: ComposeTransforms, axis: int, pairs: Sequence[tuple[int, int]]) -> ComposeTransforms:
    """Return the same chain with nnU-Net's mirroring replaced by the sided one."""
    replaced = [
        SidedMirrorTransform(t.allowed_axes, axis, pairs) if type(t) is MirrorTransform else t
        for t in transforms.transforms
    ]
    return ComposeTransforms(replaced)


def only_mirroring(transforms: ComposeTransforms) -> ComposeTransforms:
    """Return the same chain without rotation, scaling and everything that nnU-Net applies at random, but mirroring.

    The rotation also crops: patches must be loaded in the size that the network gets.
    """
    augmenting = (SpatialTransform, Convert3DTo2DTransform, Convert2DTo3DTransform, RandomTransform)
    return ComposeTransforms([t for t in transforms.transforms if not isinstance(t, augmenting)])
