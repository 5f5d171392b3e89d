"""Settings of a model under ``plans["spine_ext"]``: read, written, hashed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from nnunet_spine_ext.augment.config import AugmentConfig, Entry, Group
from nnunet_spine_ext.core.config import load_config, to_dict
from nnunet_spine_ext.core.device import TrainingPrecision
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.settings_key import SETTINGS_KEY
from nnunet_spine_ext.inference.settings import PredictSettings
from nnunet_spine_ext.inference.sides import regions_of
from nnunet_spine_ext.losses.registry import LossSettings
from nnunet_spine_ext.training.domain_settings import DomainSettings
from nnunet_spine_ext.training.finetune_settings import FinetuneSettings

SETTINGS_VERSION = 1


@dataclass(frozen=True)
class TrainSettings:
    """Training schedule. The defaults are nnU-Net's own.

    Parameters
    ----------
    num_epochs, num_iterations_per_epoch, num_val_iterations_per_epoch, initial_lr, weight_decay: as in nnU-Net.
    optimizer: ``sgd`` (Nesterov momentum .99), ``adam`` or ``adamw``.
    schedule: of the learning rate: ``poly`` (nnU-Net's) or ``cosine``, to zero at the end.
    oversample_foreground: share of the patches in a batch that must contain foreground.
    mirror: mirror patches in training (and at test time); sided classes are exchanged on the left-right axis.
    mirror_axes: ``all`` axes as nnU-Net does, or ``left-right`` only: bodies are nearly symmetric that way and no
        other, so short trainings learn faster.
    augmentation: ``stock`` is nnU-Net's; ``mirror`` leaves all of it out but mirroring: for a few minutes of training
        on data that are much like those to be predicted.
    splits: ``grouped`` requires cases.json and refuses a subject on both sides; ``stock`` is nnU-Net's behaviour.
    save_every: epochs between checkpoints.
    plot_every: epochs between drawings of progress.png (one drawing takes seconds).
    seed: makes a run with one worker (nnUNet_n_proc_DA=0) on the CPU repeatable, also one that is resumed: every epoch
        is seeded anew. None leaves random numbers as they are.
    precision: of training on a CPU: ``fp32`` as nnU-Net; ``auto``: bfloat16 where the CPU computes in it. Validation is
        in fp32. On a GPU both are nnU-Net's mixed precision.
    clip: longest gradient, in medians of those of the last 60 steps (`clipping.GradientClip`); 0: nnU-Net's limit of 12
        alone; None: what the trainer does, which it then writes out.
    """

    num_epochs: int = 1000
    num_iterations_per_epoch: int = 250
    num_val_iterations_per_epoch: int = 50
    initial_lr: float = 1e-2
    weight_decay: float = 3e-5
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    schedule: Literal["poly", "cosine"] = "poly"
    oversample_foreground: float = 0.33
    mirror: bool = True
    mirror_axes: Literal["all", "left-right"] = "all"
    augmentation: Literal["stock", "mirror"] = "stock"
    splits: Literal["grouped", "stock"] = "grouped"
    save_every: int = 50
    plot_every: int = 1
    seed: int | None = None
    precision: TrainingPrecision = "fp32"
    clip: float | None = None

    def __post_init__(self) -> None:
        counts = ("num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch", "save_every", "plot_every")
        wrong = [f"{name}={getattr(self, name)}" for name in counts if getattr(self, name) < 1]
        wrong += [] if self.initial_lr > 0 else [f"initial_lr={self.initial_lr}"]
        wrong += [] if self.weight_decay >= 0 else [f"weight_decay={self.weight_decay}"]
        wrong += [] if 0 <= self.oversample_foreground <= 1 else [f"oversample_foreground={self.oversample_foreground}"]
        wrong += [] if self.clip is None or 0 <= self.clip < math.inf else [f"clip={self.clip}"]
        if wrong:
            raise UsageError(
                "E-CONFIG-RANGE",
                file="train settings",
                found=", ".join(wrong),
                expected="counts from 1, a learning rate above 0, a weight decay from 0, a share from 0 to 1",
                fix="correct the value",
            )


@dataclass(frozen=True)
class AugmentSettings:
    """Augmentation on the training device, by the trainers called …Shift….

    Parameters
    ----------
    config: name of a preset in `augment/presets`, or a whole `AugmentConfig` as a mapping or in a file;
        ``nnUNetv2_spine_plan`` writes files out, training writes presets out.
    flips: ``mirroring``: what `train.mirror` and `train.mirror_axes` say, in place of the flips of the configuration.
        ``config``: the configuration's own; only with `train.mirror` off, for test-time mirroring must not rely on it.
    ramp_epochs, ramp_share, clean_share, closing_clean_share: in place of what the configuration's schedule says; None
        keeps that.
    hash: names the configuration in force; filled in when training starts.
    """

    config: str | dict[str, Any] = "shift"
    flips: Literal["mirroring", "config"] = "mirroring"
    ramp_epochs: int | None = None
    ramp_share: float | None = None
    clean_share: float | None = None
    closing_clean_share: float | None = None
    hash: str | None = None

    def effective(self) -> AugmentConfig:
        """Return the configuration in force.

        Raises
        ------
        UsageError: an unknown preset, transform or key, or an impossible value.
        """
        config = AugmentConfig.load(self.config)
        names = ("ramp_epochs", "ramp_share", "clean_share", "closing_clean_share")
        own = {name: getattr(self, name) for name in names}
        schedule = replace(config.schedule, **{name: value for name, value in own.items() if value is not None})
        config = replace(config, schedule=schedule)
        return config if self.flips == "config" else config.with_entries(_without_flips)

    def without_files(self) -> AugmentSettings:
        """Return the same, with a configuration that is no preset written out with its files; raises as `effective`."""
        self.effective()
        config = AugmentConfig.load(self.config)
        if not isinstance(self.config, str) or Path(self.config).suffix or config.with_content() != config:
            return replace(self, config=config.with_content().to_dict())
        return self

    def written_out(self) -> AugmentSettings:
        """Return settings of the same effect that need no preset and no file."""
        config = self.effective()
        return AugmentSettings(config=config.with_content().to_dict(), flips=self.flips, hash=config.hash)


def _without_flips(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """Return transforms without flips; raises UsageError for one in a group, which cannot be left out."""
    for entry in entries:
        if isinstance(entry, Group) and any(member.name == "flip" for member in entry.members):
            raise UsageError(
                "E-CONFIG-VALUE",
                file="augment.config",
                found="flip in a group",
                expected="mirroring by train.mirror and train.mirror_axes",
                fix="take flip out of the group",
            )
    return tuple(entry for entry in entries if isinstance(entry, Group) or entry.name != "flip")


@dataclass(frozen=True)
class SoftSettings:
    """Soft labels, by the trainers called …Soft….

    Parameters
    ----------
    loss: name and parameters of the loss; see `losses.registry.LossSettings`.
    output: what the network's outputs are, as the loss takes them: ``linear`` values or logits of a ``sigmoid``; filled
        in when training starts, and read by prediction.
    activation: of linear outputs, in prediction, unless `predict.activation` says another; filled in by validation.
    """

    loss: LossSettings = field(default_factory=LossSettings)
    output: Literal["linear", "sigmoid"] | None = None
    activation: Literal["clamp", "norm_relu"] | None = None

    def completed(self) -> SoftSettings:
        """Return the same with the output that the loss takes; raises UsageError for another one."""
        if self.output not in (None, self.loss.output):
            raise UsageError(
                "E-CONFIG-VALUE",
                file="soft.output",
                found=f"{self.output!r} with the loss {self.loss.name}, activation {self.loss.activation!r}",
                expected=repr(self.loss.output),
                fix="leave soft.output out; soft.loss.activation decides",
            )
        return replace(self, output=self.loss.output)


@dataclass(frozen=True)
class DataFacts:
    """What prediction must know about the labels; copied from ``dataset.json["spine_ext"]`` when training starts.

    `scheme`: a name of `core.labels.SCHEMES`, or ``custom``. `sided_labels`: (left, right) ids. `regions`: label ids of
    each region, in the order of the network's outputs; nothing where classes do not overlap.
    """

    scheme: str = "custom"
    sided_labels: tuple[tuple[int, int], ...] = ()
    regions: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class SpineSettings:
    """Everything under ``plans["spine_ext"]``.

    `preset` names the recipe the values came from. `augment` is None where nothing is augmented on the device,
    `soft` where labels are hard, `domain` where nothing keeps domains out of the features, `finetune` where training
    starts from random weights.
    `reference` holds, per fold, the intensity reference of its training cases (`harmonize.reference`), `data` the facts
    about the labels; both are filled in when training starts.
    """

    version: int = SETTINGS_VERSION
    preset: str | None = None
    train: TrainSettings = field(default_factory=TrainSettings)
    augment: AugmentSettings | None = None
    soft: SoftSettings | None = None
    domain: DomainSettings | None = None
    finetune: FinetuneSettings | None = None
    predict: PredictSettings = field(default_factory=PredictSettings)
    data: DataFacts = field(default_factory=DataFacts)
    reference: dict[str, Any] | None = None


def data_facts(dataset_json: Mapping[str, Any]) -> DataFacts:
    """Return what `dataset.json` says about the labels; ``custom`` and no pairs where it says nothing."""
    facts = dataset_json.get(SETTINGS_KEY, {})
    pairs = tuple((int(left), int(right)) for left, right in facts.get("sided_labels", []))
    return DataFacts(str(facts.get("scheme", "custom")), pairs, regions_of(dataset_json))


def settings_from_plans(plans: Mapping[str, Any]) -> SpineSettings:
    """Return the settings of a plans dictionary; defaults where it has none.

    Raises UsageError naming the plans for unknown keys and wrong values.
    """
    where = f"plans {plans.get('plans_name', '')} {SETTINGS_KEY}".replace("  ", " ")
    return load_config(SpineSettings, plans.get(SETTINGS_KEY, {}), where=where)


def store_settings(plans: dict[str, Any], settings: SpineSettings) -> None:
    """Write settings into a plans dictionary, in place."""
    plans[SETTINGS_KEY] = to_dict(settings)


def settings_hash(plans: Mapping[str, Any]) -> str:
    """Hash what makes two trainings different: the settings without `predict`, `data` and `reference`.

    Plans without settings hash like plans with the default ones: a trainer writes the defaults out.
    """
    settings = settings_from_plans(plans)
    content = to_dict(settings)
    for key in ("predict", "data", "reference"):
        content.pop(key)
    if settings.train.precision == "fp32":
        # Trainings of earlier versions can be gone on with.
        content["train"].pop("precision")
    if not settings.train.clip:
        content["train"].pop("clip")
    # A preset and the same configuration written out have the same effect.
    augment = settings.augment
    content["augment"] = None if augment is None else f"{augment.flips} {augment.effective().hash}"
    soft = settings.soft
    content["soft"] = None if soft is None else to_dict(replace(soft.completed(), activation=None))
    content["finetune"] = None if settings.finetune is None else settings.finetune.identity()
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
