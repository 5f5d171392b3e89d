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
from nnunet_spine_ext.training.soft_files import soft_folder, with_soft_label


class nnUNetTrainerSpineFinetuneSoft(FinetuneMixin, SoftLabelsMixin, DeviceAugmentationMixin, nnUNetTrainerSpine):
    """`nnUNetTrainerSpineFinetune` for models of soft labels; loss, output and augmentation are the source's."""

    trains_soft = True
    losses = get_args(LossName)


def soft_facts(target: Target, train: Sequence[str], validation: Sequence[str]) -> list[str]:
    """Return how many of the chosen cases have a soft label, by side; nothing where the raw dataset is gone.

    Raises SetupError when none has that is trained on: training would refuse that, after preprocessing.
    """
    source = soft_folder(target.folder.name)
    if source is None:
        return []
    sides = (("training", train), ("validation", validation))
    counts = [(len(with_soft_label(source, cases)), len(cases), name) for name, cases in sides]
    said = f"soft labels: {', '.join(f'{soft} of {count} {name}' for soft, count, name in counts)} cases"
    if not counts[0][0]:
        raise SetupError(
            "E-SOFT-NONE",
            file=source,
            found=f"{said}, and a source model of soft labels",
            expected="<case>.nii.gz with values from 0 to 1, of a training case at least",
            fix="make them with nnUNetv2_spine_soft_gt, or fine-tune a model of hard labels",
        )
    lacking = any(soft < count for soft, count, _ in counts)
    return [said + ("; the others have their hard label" if lacking else "")]
