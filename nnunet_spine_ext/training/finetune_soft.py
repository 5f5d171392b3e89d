"""Fine-tuning of soft models: the source's loss on the soft labels of the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.losses.registry import LossName
from nnunet_spine_ext.training.base import nnUNetTrainerSpine
from nnunet_spine_ext.training.finetune import FinetuneMixin
from nnunet_spine_ext.training.finetune_target import Target
from nnunet_spine_ext.training.shift import DeviceAugmentationMixin
from nnunet_spine_ext.training.soft import SoftLabelsMixin
from nnunet_spine_ext.training.soft_files import soft_folder

_END = ".nii.gz"


class nnUNetTrainerSpineFinetuneSoft(FinetuneMixin, SoftLabelsMixin, DeviceAugmentationMixin, nnUNetTrainerSpine):
    """`nnUNetTrainerSpineFinetune` for models of soft labels; loss, output and augmentation are the source's."""

    trains_soft = True
    losses = get_args(LossName)


def soft_facts(target: Target, cases: Sequence[str]) -> list[str]:
    """Return how many of the chosen cases have a soft label; nothing where the raw dataset is gone.

    Raises SetupError when none has: training would refuse that, after preprocessing.
    """
    source = soft_folder(target.folder.name)
    if source is None:
        return []
    count = sum((source / f"{case}{_END}").is_file() for case in cases)
    if not count:
        raise SetupError(
            "E-SOFT-NONE",
            file=source,
            found=f"no soft label of any of the {len(cases)} chosen cases, and a source model of soft labels",
            expected="<case>.nii.gz with values from 0 to 1",
            fix="make them with nnUNetv2_spine_soft_gt, or fine-tune a model of hard labels",
        )
    return [f"soft labels: {count} of {len(cases)} cases; the others are learned from their hard label"]
