"""What an instance network is trained with: cutouts, network, schedule, augmentation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nnunet_spine_ext.core.config import to_dict
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.presets import changed_settings, names_in, preset_path
from nnunet_spine_ext.instances.cutouts import MULTIPLE, CutoutSpec
from nnunet_spine_ext.instances.model import NetworkShape

_FOLDER = Path(__file__).parent / "presets"


@dataclass(frozen=True)
class AugmentSettings:
    """Probabilities of the augmentations of SPINEPS (appendix A of its paper), and what the paper leaves open.

    Parameters
    ----------
    scaling, erosion, resampling, label_drop: 10 % each. `vertical_crop`: 25 %. `flip`: in half of the cutouts, which
        doubles the data.
    scaling_range: cutouts get larger or smaller by up to this share (paper: 0.2).
    resampling_factor: largest factor by which voxels get coarser before they get fine again.
    """

    scaling: float = 0.1
    erosion: float = 0.1
    resampling: float = 0.1
    label_drop: float = 0.1
    vertical_crop: float = 0.25
    flip: float = 0.5
    scaling_range: float = 0.2
    resampling_factor: float = 2.5

    def __post_init__(self) -> None:
        shares = ("scaling", "erosion", "resampling", "label_drop", "vertical_crop", "flip")
        wrong = [f"augment.{name}={getattr(self, name)}" for name in shares if not 0 <= getattr(self, name) <= 1]
        wrong += [] if 0 <= self.scaling_range < 1 else [f"augment.scaling_range={self.scaling_range}"]
        wrong += [] if 1 <= self.resampling_factor <= 8 else [f"augment.resampling_factor={self.resampling_factor}"]
        _refuse(wrong, "probabilities from 0 to 1, a range below 1, a factor from 1 to 8")


@dataclass(frozen=True)
class InstanceTrainSettings:
    """Everything about a training. The defaults are those of the paper (appendix A) where it has them.

    Parameters
    ----------
    epochs: an epoch shows every vertebra once, or `cutouts_per_epoch` of them, drawn without repetition.
    batch_size: cutouts per step.
    learning_rate, final_learning_rate: Adam's, falling linearly from epoch to epoch.
    loss_region: voxels that count in the loss: ``all``, or ``vertebrae`` only. Fusion looks at those only, so short
        trainings need not learn what is background.
    narrow: share of the steps whose windows are cut, along P and R, to the vertebrae in them: less to compute, and the
        network gets used to what the fast mode of prediction shows it. Never along I: the middle of a window says
        which vertebra is meant.
    jitter_mm: largest shift of a cutout along each axis: bodies found in a predicted mask are not where the true ones
        are.
    validate_every: epochs between validations; `validation_cutouts`: at most so many of them, the same ones each time.
    fusion_cases: validation cases that are separated as a whole after the last epoch (0: none; -1: all).
    save_every: epochs between saved states.
    seed: makes a training on the CPU repeatable.
    """

    description: str = ""
    cutout: CutoutSpec = field(default_factory=CutoutSpec)
    network: NetworkShape = field(default_factory=NetworkShape)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    epochs: int = 300
    cutouts_per_epoch: int | None = None
    batch_size: int = 2
    learning_rate: float = 1e-4
    final_learning_rate: float = 1e-6
    loss_region: Literal["all", "vertebrae"] = "all"
    narrow: float = 0.0
    jitter_mm: float = 3.0
    validate_every: int = 1
    validation_cutouts: int = 64
    fusion_cases: int = -1
    save_every: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("epochs", "batch_size", "validate_every", "validation_cutouts", "save_every")
        wrong = [f"{name}={getattr(self, name)}" for name in counts if getattr(self, name) < 1]
        if self.cutouts_per_epoch is not None and self.cutouts_per_epoch < 1:
            wrong.append(f"cutouts_per_epoch={self.cutouts_per_epoch}")
        if not 0 < self.final_learning_rate <= self.learning_rate:
            wrong.append(f"learning_rate={self.learning_rate}, final_learning_rate={self.final_learning_rate}")
        wrong += [] if 0 <= self.narrow <= 1 else [f"narrow={self.narrow}"]
        wrong += [] if self.jitter_mm >= 0 else [f"jitter_mm={self.jitter_mm}"]
        wrong += [] if self.seed >= 0 else [f"seed={self.seed}"]
        wrong += [] if self.fusion_cases >= -1 else [f"fusion_cases={self.fusion_cases}"]
        if self.network.width < 1 or min(self.network.multipliers, default=0) < 1:
            wrong.append(f"network {to_dict(self.network)}")
        elif 2 ** (len(self.network.multipliers) - 1) > MULTIPLE:
            wrong.append(f"{len(self.network.multipliers)} resolutions, but cutouts are multiples of {MULTIPLE}")
        _refuse(wrong, "counts from 1, a learning rate that falls and stays above 0, shares, a shift and a seed from 0")

    def learning_rate_of(self, epoch: int) -> float:
        """Return the learning rate of an epoch (0-based)."""
        done = epoch / max(1, self.epochs - 1)
        return self.learning_rate + done * (self.final_learning_rate - self.learning_rate)

    @property
    def hash(self) -> str:
        """Hash of what makes two trainings different."""
        content = to_dict(self)
        for key in ("description", "validate_every", "validation_cutouts", "fusion_cases", "save_every"):
            content.pop(key)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def preset_names() -> list[str]:
    """Return the names of the presets that come with the package."""
    return names_in(_FOLDER)


def read_settings(preset: str = "paper", assignments: Sequence[str] = ()) -> InstanceTrainSettings:
    """Return the settings of a preset, changed by ``key=value``.

    Parameters
    ----------
    preset: a name of `preset_names`, or the path of a YAML file.
    assignments: for example ``epochs=50`` or ``augment.flip=0``; values are YAML.

    Raises
    ------
    UsageError: an unknown preset or key, a value that is impossible.
    """
    return changed_settings(InstanceTrainSettings, preset_path(preset, _FOLDER), assignments)


def _refuse(wrong: Sequence[str], expected: str) -> None:
    if wrong:
        raise UsageError(
            "E-CONFIG-RANGE",
            file="instance training",
            found=", ".join(wrong),
            expected=expected,
            fix="correct the value",
        )
