"""What a segmenter of slices is trained with: slices, network, loss, schedule."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nnunet_spine_ext.core.config import (
    check_ranges,
    to_dict,
)
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.presets import changed_settings, names_in, preset_path
from nnunet_spine_ext.harmonize.slice_grid import SliceSettings
from nnunet_spine_ext.networks.slice_unet import SliceNetworkShape

_FOLDER = Path(__file__).parent / "presets"
# Settings that two equal trainings may differ in.
_UNIMPORTANT = ("description", "save_every")


@dataclass(frozen=True)
class SliceAugmentSettings:
    """Changes of the geometry alone; the paper names none.

    Intensities stay as they are on purpose: a segmenter of the target is to be a judge of the target's looks, and one
    that takes any contrast would be none.

    Parameters
    ----------
    rotation: largest angle in degrees. scaling: largest change of size, as a share. shift: as a share of the side.
    """

    rotation: float = 0.0
    scaling: float = 0.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values outside their limits."""
        check_ranges(self, {"rotation": (0, 45), "scaling": (0, 0.5), "shift": (0, 0.5)}, where="augment")

    @property
    def active(self) -> bool:
        """Whether anything is changed."""
        return bool(self.rotation or self.scaling or self.shift)


@dataclass(frozen=True)
class SegmenterSettings:
    """Everything about a training. The defaults are those of the paper (section III-C) where it has them.

    Parameters
    ----------
    slices: how they are cut and scaled; a harmonizer that is to use the segmenter needs the same.
    network: which one, and how large. encoder_weights: local file with those of the encoder of an ``smp`` network.
    dice_weight, iou_weight: of the loss; the paper searched 0 to 1 and 0 to 10 and does not say what it found.
    bce_weight: of the cross entropy, an addition that helps short trainings.
    epochs: up to 400 in the paper. slices_per_epoch: drawn without repetition; None: all.
    optimizer: ``adam`` with moments 0.5 and 0.999, or ``sgd`` with momentum 0.9.
    learning_rate, final_learning_rate: falling linearly from epoch to epoch; the paper tried 0.001, 0.005 and 0.01.
    batch_size: 8 or 16 in the paper.
    validation, test: shares of the subjects (paper: 14 and 15 of 169) that choose the epoch, and that nothing saw.
    validate_every: epochs between validations; the weights of the best one are kept.
    save_every: epochs between saved states.
    seed: makes a training on the CPU repeatable.
    """

    description: str = ""
    slices: SliceSettings = field(default_factory=SliceSettings)
    network: SliceNetworkShape = field(default_factory=SliceNetworkShape)
    encoder_weights: str | None = None
    dice_weight: float = 1.0
    iou_weight: float = 1.0
    bce_weight: float = 0.0
    augment: SliceAugmentSettings = field(default_factory=SliceAugmentSettings)
    epochs: int = 400
    slices_per_epoch: int | None = None
    batch_size: int = 8
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-5
    validation: float = 0.1
    test: float = 0.1
    validate_every: int = 1
    save_every: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values outside their limits."""
        limits: dict[str, tuple[float, float]] = dict.fromkeys(
            ("epochs", "batch_size", "validate_every", "save_every"), (1, 1e6)
        )
        limits |= dict.fromkeys(("dice_weight", "iou_weight", "bce_weight"), (0, 1e6))
        limits |= {"seed": (0, 2**31), "validation": (0.01, 0.8), "test": (0, 0.8), "learning_rate": (1e-8, 10)}
        check_ranges(self, limits, where="segmenter")
        wrong = []
        if self.slices_per_epoch is not None and self.slices_per_epoch < 1:
            wrong.append(f"slices_per_epoch={self.slices_per_epoch}")
        if not 0 < self.final_learning_rate <= self.learning_rate:
            wrong.append(f"learning_rate={self.learning_rate}, final_learning_rate={self.final_learning_rate}")
        if not self.dice_weight + self.iou_weight + self.bce_weight > 0:
            wrong.append("all weights of the loss 0")
        if self.validation + self.test > 0.9:
            wrong.append(f"validation={self.validation}, test={self.test}")
        if self.encoder_weights is not None and self.network.kind != "smp":
            wrong.append(f"encoder_weights for the network {self.network.kind}")
        # It normalizes over the batch what it has pooled over whole slices.
        if self.network.kind == "smp" and self.network.architecture == "DeepLabV3" and self.batch_size < 2:
            wrong.append("batch_size=1 for DeepLabV3")
        if wrong:
            raise UsageError(
                "E-CONFIG-RANGE",
                file="segmenter",
                found=", ".join(wrong),
                expected="counts from 1, a learning rate that falls and stays above 0, a loss, a tenth to train on, 2 "
                "slices per batch for DeepLabV3",
                fix="correct the value",
            )

    def learning_rate_of(self, epoch: int) -> float:
        """Return the learning rate of an epoch (0-based)."""
        done = epoch / max(1, self.epochs - 1)
        return self.learning_rate + done * (self.final_learning_rate - self.learning_rate)

    @property
    def hash(self) -> str:
        """Hash of what makes two trainings different."""
        content = to_dict(self)
        for key in _UNIMPORTANT:
            content.pop(key)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def preset_names() -> list[str]:
    """Return the names of the presets that come with the package."""
    return names_in(_FOLDER)


def read_settings(preset: str = "full", assignments: Sequence[str] = ()) -> SegmenterSettings:
    """Return the settings of a preset, changed by ``key=value``.

    Parameters
    ----------
    preset: a name of `preset_names`, or the path of a YAML file.
    assignments: for example ``epochs=50`` or ``network.encoder=resnet50``; values are YAML.

    Raises
    ------
    UsageError: an unknown preset or key, a value that is impossible.
    """
    return changed_settings(SegmenterSettings, preset_path(preset, _FOLDER), assignments)
