"""What stays in the workers for a cascade: nnU-Net's random changes to the masks of the previous stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.nnunet.random_binary_operator import ApplyRandomBinaryOperatorTransform
from batchgeneratorsv2.transforms.nnunet.remove_connected_components import (
    RemoveRandomConnectedComponentFromOneHotEncodingTransform,
)
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform

_CHANGES = (ApplyRandomBinaryOperatorTransform, RemoveRandomConnectedComponentFromOneHotEncodingTransform)


class ChangePreviousStage(BasicTransform):
    """Apply nnU-Net's changes to the label map of the previous stage, the second channel of the segmentation.

    nnU-Net makes them on the one-hot channels of the image. Here these are made on the device, after the geometry, so
    the changes come before it, on the label map. What is beyond the image stays -1.

    Parameters
    ----------
    changes: nnU-Net's transforms, with their probabilities; their channels count from the end.
    labels: the foreground labels, in the order of the channels.
    """

    def __init__(self, changes: Sequence[RandomTransform], labels: Sequence[int]) -> None:
        super().__init__()
        self.changes = list(changes)
        self.labels = [int(label) for label in labels]

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """Change `segmentation` (2, …) of a sample."""
        fired = [change.transform for change in self.changes if change.get_parameters()["apply_transform"]]
        if not fired:
            return data_dict
        segmentation = data_dict["segmentation"]
        before = segmentation[1]
        ids = torch.tensor(self.labels).view(-1, *[1] * before.dim())
        channels = (before[None] == ids).to(torch.float32)
        for transform in fired:
            channels = transform(image=channels)["image"]
        # The changes keep the channels exclusive: whatever grows takes voxels from the others.
        after = ((channels > 0) * ids).amax(dim=0).to(before.dtype)
        after = torch.where(before < 0, before, after)
        return {**data_dict, "segmentation": torch.stack((segmentation[0], after))}


def changes_of(chain: ComposeTransforms) -> list[RandomTransform]:
    """Return the transforms of nnU-Net's training chain that change the masks of the previous stage."""
    return [t for t in chain.transforms if isinstance(t, RandomTransform) and isinstance(t.transform, _CHANGES)]
