"""The network of a trained model: its trainer, whether weights fit, and how often it is run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from torch import nn

from nnunet_spine_ext.check.environment import trainers_folder
from nnunet_spine_ext.core.errors import SetupError


def find_trainer(name: str) -> Any:
    """Return a trainer class through nnU-Net's own lookup, with our trainers' folder added to it.

    Raises SetupError naming the export line when there is none of that name.
    """
    folder = str(trainers_folder())
    known = [p for p in os.environ.get("nnUNet_extTrainer", "").split(os.pathsep) if p]
    if folder not in known:
        os.environ["nnUNet_extTrainer"] = os.pathsep.join([*known, folder])
    try:
        return recursive_find_trainer_class_by_name(name)
    except (RuntimeError, ImportError) as error:
        raise SetupError(
            "E-MODEL-TRAINER",
            file=name,
            found=f"a trainer that nnU-Net does not find ({type(error).__name__})",
            expected="the trainer the model was trained with",
            fix="install its package and export nnUNet_extTrainer=FOLDER_OF_ITS_TRAINERS",
        ) from error


def refuse_other_shapes(network: nn.Module, weights: dict[str, Any], file: Path) -> None:
    """Raise SetupError listing the first differences between a network and a checkpoint's weights."""
    own = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    other = {key: tuple(value.shape) for key, value in weights.items()}
    differing = [
        f"{key}: model {own.get(key, 'absent')}, checkpoint {other.get(key, 'absent')}"
        for key in sorted({*own, *other})
        if own.get(key) != other.get(key)
    ]
    if differing:
        raise SetupError(
            "E-MODEL-WEIGHTS",
            file=file,
            found=f"{len(differing)} tensors that do not fit; {'; '.join(differing[:3])}",
            expected="weights of the network that plans.json describes",
            fix="use plans.json and dataset.json from the same training",
        )


class PassCounter:
    """Counts what goes through a network: one for each patch, whatever the batch."""

    def __init__(self, network: nn.Module) -> None:
        self.passes = 0
        # Wrappers that run the network several times keep it out of their children.
        while "_adopted" in network.__dict__:
            network = network.__dict__["_adopted"]
        network.register_forward_pre_hook(self._count)

    def _count(self, _network: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.passes += int(inputs[0].shape[0])
