"""What a numbering network is trained with: patches, network, schedule, augmentation."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nnunet_spine_ext.core.config import nearest, read_mapping, to_dict
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.presets import changed_settings
from nnunet_spine_ext.numbering.crops import CropSpec
from nnunet_spine_ext.numbering.model import NetworkShape
from nnunet_spine_ext.numbering.targets import HEADS

_FOLDER = Path(__file__).parent / "presets"
AUGMENTATION = "augmentation"
# Not presets of a training.
_PARTS = (AUGMENTATION,)


@dataclass(frozen=True)
class AugmentSettings:
    """What happens to patches in training.

    Parameters
    ----------
    pipeline: geometry and intensities, as in the room `augment`: a mapping, a YAML file, the name of one of its
        presets, or ``numbering`` for what comes with this training.
    widen: patches are cached this much larger than they are, so that rotations and shifts bring in what is beyond.
    upper_cut, lower_cut: probability that the picture ends above or below the vertebra, within the patch.
    side_cut: the same for front, back, left and right.
    least_own: a cut leaves at least this share of the vertebra.
    drop_own, drop_all: probability that the mask of the vertebra, or that of all, is empty.
    drop_neighbours: probability that the mask of all ends somewhere above or below, though the picture goes on.
    """

    pipeline: str | dict[str, Any] = "numbering"
    widen: float = 1.2
    upper_cut: float = 0.3
    lower_cut: float = 0.3
    side_cut: float = 0.1
    least_own: float = 0.3
    drop_own: float = 0.05
    drop_all: float = 0.05
    drop_neighbours: float = 0.2

    def __post_init__(self) -> None:
        names = ("upper_cut", "lower_cut", "side_cut", "least_own", "drop_own", "drop_all", "drop_neighbours")
        wrong = [f"augment.{name}={getattr(self, name)}" for name in names if not 0 <= getattr(self, name) <= 1]
        wrong += [] if 1 <= self.widen <= 2 else [f"augment.widen={self.widen}"]
        _refuse(wrong, "probabilities from 0 to 1, widen from 1 to 2")

    def pipeline_source(self) -> str | dict[str, Any]:
        """Return what `augment.config.AugmentConfig.load` reads."""
        if self.pipeline == "numbering":
            return read_mapping(_FOLDER / f"{AUGMENTATION}.yaml")
        return self.pipeline


@dataclass(frozen=True)
class LossSettings:
    """Weights of the questions in the loss (0: not asked), and how much of the certainty goes to other levels."""

    level: float = 1.0
    region: float = 0.5
    group: float = 0.5
    relative: float = 0.5
    t13: float = 0.25
    visible: float = 0.25
    smoothing: float = 0.05

    def __post_init__(self) -> None:
        wrong = [f"loss.{name}={weight}" for name, weight in self.weights().items() if weight < 0]
        wrong += [] if 0 <= self.smoothing < 1 else [f"loss.smoothing={self.smoothing}"]
        wrong += [] if self.level > 0 else ["loss.level=0"]
        _refuse(wrong, "weights from 0, that of the level above 0, smoothing from 0 to below 1")

    def weights(self) -> dict[str, float]:
        """Return the weight of every question."""
        return {name: float(getattr(self, name)) for name in HEADS}


@dataclass(frozen=True)
class NumberingTrainSettings:
    """Everything about a training.

    Parameters
    ----------
    epochs: an epoch shows as many vertebrae as there are, or `samples_per_epoch`.
    balance: how much more often vertebrae of rare levels (T13, L6) are shown: 0 not, 1 all levels equally often.
    balance_limit: but none more than this many times as often as the most frequent level.
    batch_size: vertebrae per step.
    learning_rate, final_learning_rate: Adam's, falling along a cosine after `warmup` epochs of rising.
    schedule: ``cosine``, or ``linear`` as SPINEPS does.
    weight_decay: L2 regularization.
    validate_every: epochs between validations; the last epoch is always followed by one.
    save_every: epochs between saved states.
    seed: makes a training on the CPU repeatable.
    """

    description: str = ""
    crop: CropSpec = field(default_factory=CropSpec)
    network: NetworkShape = field(default_factory=NetworkShape)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    epochs: int = 100
    samples_per_epoch: int | None = None
    balance: float = 0.5
    balance_limit: float = 4.0
    batch_size: int = 8
    learning_rate: float = 1e-4
    final_learning_rate: float = 1e-7
    schedule: Literal["cosine", "linear"] = "cosine"
    warmup: float = 1.0
    weight_decay: float = 1e-6
    validate_every: int = 1
    save_every: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("epochs", "batch_size", "validate_every", "save_every")
        wrong = [f"{name}={getattr(self, name)}" for name in counts if getattr(self, name) < 1]
        if self.samples_per_epoch is not None and self.samples_per_epoch < 1:
            wrong.append(f"samples_per_epoch={self.samples_per_epoch}")
        if not 0 < self.final_learning_rate <= self.learning_rate:
            wrong.append(f"learning_rate={self.learning_rate}, final_learning_rate={self.final_learning_rate}")
        for name, low in (
            ("balance", 0.0),
            ("balance_limit", 1.0),
            ("warmup", 0.0),
            ("weight_decay", 0.0),
            ("seed", 0),
        ):
            wrong += [] if getattr(self, name) >= low else [f"{name}={getattr(self, name)}"]
        wrong += [] if self.balance <= 1 else [f"balance={self.balance}"]
        _refuse(wrong, "counts from 1, a learning rate that falls and stays above 0, balance from 0 to 1")

    def learning_rate_at(self, epoch: float) -> float:
        """Return the learning rate after so many epochs (0 to `epochs`)."""
        if epoch < self.warmup:
            return self.learning_rate * max(0.05, epoch / self.warmup)
        done = min(1.0, (epoch - self.warmup) / max(self.epochs - self.warmup, 1e-9))
        kept = 1 - done if self.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
        return self.final_learning_rate + kept * (self.learning_rate - self.final_learning_rate)

    @property
    def hash(self) -> str:
        """Hash of what makes two trainings different."""
        content = to_dict(self)
        for key in ("description", "validate_every", "save_every"):
            content.pop(key)
        content["augment"]["pipeline"] = self.augment.pipeline_source()
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def preset_names() -> list[str]:
    """Return the names of the presets that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml") if path.stem not in _PARTS)


def read_settings(preset: str = "paper", assignments: Sequence[str] = ()) -> NumberingTrainSettings:
    """Return the settings of a preset, changed by ``key=value``.

    Parameters
    ----------
    preset: a name of `preset_names`, or the path of a YAML file.
    assignments: for example ``epochs=50`` or ``crop.inputs=masks``; values are YAML.

    Raises
    ------
    UsageError: an unknown preset or key, a value that is impossible.
    """
    named = preset in preset_names()
    path = Path(preset) if preset.endswith((".yaml", ".yml")) else _FOLDER / f"{preset}.yaml"
    if not named and (not path.is_file() or path.parent == _FOLDER):
        raise UsageError(
            "E-PRESET",
            file=preset,
            found="no such preset",
            expected="a known one or a YAML file",
            fix=nearest(preset, preset_names()),
        )
    return changed_settings(NumberingTrainSettings, path, assignments)


def _refuse(wrong: Sequence[str], expected: str) -> None:
    if wrong:
        raise UsageError(
            "E-CONFIG-RANGE",
            file="numbering training",
            found=", ".join(wrong),
            expected=expected,
            fix="correct the value",
        )
