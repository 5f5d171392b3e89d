"""Fine-tuning with few samples: a trainer that starts from another model's weights, heads included."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnunet_spine_ext.core.checkpoint import load_checkpoint
from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.core.io import sha256
from nnunet_spine_ext.training.base import nnUNetTrainerSpine
from nnunet_spine_ext.training.finetune_settings import FinetuneSettings, SourceCheckpoint, finetune_trainer
from nnunet_spine_ext.training.finetune_weights import (
    freeze,
    head_names,
    plain,
    refuse_another_architecture,
    still,
    train_only_what_learns,
    transferred,
)
from nnunet_spine_ext.training.settings import SpineSettings, settings_from_plans
from nnunet_spine_ext.training.shift import DeviceAugmentationMixin
from nnunet_spine_ext.training.splits import refuse_leaks, subjects_of

_Trainer: Any = nnUNetTrainer if TYPE_CHECKING else object


class AugmentationOfTheSourceMixin(DeviceAugmentationMixin):
    """Augment on the device where the source model was trained so, else as nnU-Net does."""

    @cached_property
    def _on_device(self) -> bool:
        return settings_from_plans(self.plans_manager.plans).augment is not None

    def _chosen(self) -> Any:
        """Return where the methods come from: the mixin, or what stands behind it."""
        return super() if self._on_device else super(DeviceAugmentationMixin, self)

    @classmethod
    def completed(cls, settings: SpineSettings) -> SpineSettings:
        """Write the augmentation out if there is one."""
        chosen: Any = super() if settings.augment is not None else super(DeviceAugmentationMixin, cls)
        completed: SpineSettings = chosen.completed(settings)
        return completed

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, ...]:  # noqa: N802
        """Return nnU-Net's augmentation geometry, or that of the device's."""
        geometry: tuple[Any, ...] = self._chosen().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        return geometry

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> ComposeTransforms:
        """Return nnU-Net's transforms, or what workers still do beside the device."""
        transforms: ComposeTransforms = self._chosen().get_training_transforms(*args, **kwargs)
        return transforms

    def on_train_epoch_start(self) -> None:
        """Start an epoch as the chosen augmentation needs it."""
        self._chosen().on_train_epoch_start()

    def on_train_start(self) -> None:
        """Start training as the chosen augmentation needs it."""
        self._chosen().on_train_start()

    def on_train_end(self) -> None:
        """End training as the chosen augmentation needs it."""
        self._chosen().on_train_end()

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Train on a batch, augmented on the device or by the workers."""
        result: dict[str, Any] = self._chosen().train_step(batch)
        return result


class FinetuneMixin(_Trainer):
    """Start from the weights that the plans name, train the parts they name, on the cases they name."""

    fine_tunes = True
    trains_soft = False
    _resuming = False

    @classmethod
    def completed(cls, settings: SpineSettings) -> SpineSettings:
        """Return the settings; raises SetupError without a fine-tuning in them, or for the other kind of labels."""
        if settings.finetune is None:
            raise SetupError(
                "E-FINETUNE-PLANS",
                file="plans spine_ext.finetune",
                found="no settings of a fine-tuning",
                expected=f"plans that name a source model: {cls.__name__} starts from its weights",
                fix="make them: nnUNetv2_spine_finetune_plan -m SOURCE_MODEL -d DATASET --name NAME (train -p NAME)",
            )
        refuse_other_labels(settings, cls.__name__, trains_soft=cls.trains_soft)
        completed: SpineSettings = super().completed(settings)
        return completed

    @property
    def finetune(self) -> FinetuneSettings:
        """The settings of the fine-tuning."""
        settings = settings_from_plans(self.plans_manager.plans).finetune
        if settings is None:
            raise RuntimeError("a fine-tuning without settings was not refused")
        return settings

    def do_split(self) -> tuple[list[str], list[str]]:
        """Return the cases that the plans select; the splits of the dataset are neither read nor written.

        Raises SetupError for cases that are not preprocessed or unknown, and for a subject on both sides.
        """
        finetune = self.finetune
        train, validation = list(finetune.cases), list(finetune.validation)
        file = Path(self.preprocessed_dataset_folder_base) / f"{self.plans_manager.plans_name}.json"
        folder = self.preprocessed_dataset_folder
        available = infer_dataset_class(folder).get_identifiers(folder) if Path(folder).is_dir() else []
        subject_of = subjects_of(file.parent)
        missing = sorted({*train, *validation} - (set(available) & set(subject_of)))
        if missing:
            raise SetupError(
                "E-SPLIT-CASE",
                file=file,
                found=f"cases that are not preprocessed, or not in cases.json: {', '.join(missing[:8])}",
                expected="cases of this dataset",
                fix=f"run nnUNetv2_preprocess -plans_name {self.plans_manager.plans_name}, or make the plans anew",
            )
        refuse_leaks(file, train, validation, subject_of)
        self.print_to_log_file(
            f"Fine-tuning on {len(train)} case(s) of {len({subject_of[c] for c in train})} subject(s), "
            f"{len(validation)} validation cases."
        )
        return train, validation

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """Take the weights over, freeze what is not trained and return an optimizer of the rest.

        This is where nnU-Net has a network that is not wrapped for several GPUs yet.
        """
        finetune, network = self.finetune, plain(self.network)
        heads, regions = head_names(self.dataset_json)
        if not self._resuming:
            take_over(network, finetune, str(self.fold), heads, regions=regions)
            self.print_to_log_file(f"Weights of {finetune.source.model}, fold {self.fold}.")
        count = freeze(network, finetune.parts, new_heads=bool(set(heads) - set(finetune.source.heads)))
        self.print_to_log_file(f"Trained parts: {finetune.parts}, {count} values.")
        optimizer, schedule = super().configure_optimizers()
        train_only_what_learns(optimizer)
        # nnU-Net gives -pretrained_weights to the network alone, right after this, and tells the trainer nothing.
        network.load_state_dict = _refuse_pretrained_weights  # type: ignore[method-assign,assignment]
        return optimizer, schedule

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """Resume: weights come from this training's own checkpoint, the source is not needed any more."""
        self._resuming = True
        try:
            if not self.was_initialized:
                self.initialize()
            self._admit_weights()
            super().load_checkpoint(filename_or_checkpoint)
        finally:
            self._resuming = False

    def on_train_start(self) -> None:
        """Start as nnU-Net does."""
        super().on_train_start()
        self._admit_weights()

    def on_train_epoch_start(self) -> None:
        """Start an epoch; frozen norm layers keep their running statistics."""
        super().on_train_epoch_start()
        still(self.network)

    def _admit_weights(self) -> None:
        plain(self.network).__dict__.pop("load_state_dict", None)


class nnUNetTrainerSpineFinetune(FinetuneMixin, AugmentationOfTheSourceMixin, nnUNetTrainerSpine):
    """`nnUNetTrainerSpine` that starts from another model and learns from few samples."""


def take_over(
    network: nn.Module, finetune: FinetuneSettings, fold: str, heads: tuple[str, ...], *, regions: bool
) -> None:
    """Load the source's weights of a fold into a network, outputs by name.

    Raises
    ------
    SetupError: no such fold, a checkpoint that is missing, changed, damaged or carries code, another network, labels
        against regions.
    """
    source = finetune.source
    if fold not in source.checkpoints:
        raise SetupError(
            "E-FINETUNE-FOLD",
            file="plans spine_ext.finetune",
            found=f"fold {fold}, and checkpoints of {', '.join(source.checkpoints)}",
            expected="a fold of the source model",
            fix=f"train fold {next(iter(source.checkpoints))}; for fold {fold} train it in the source, then plan anew",
        )
    refuse_other_kind(source.regions, regions)
    path = checked_path(source.checkpoints[fold])
    weights = load_checkpoint(path)["network_weights"]
    own: Mapping[str, torch.Tensor] = network.state_dict()
    refuse_another_architecture(own, weights, heads_differ=source.heads != heads, file=str(path))
    network.load_state_dict(transferred(own, weights, source.heads, heads))


def checked_path(checkpoint: SourceCheckpoint) -> Path:
    """Return where a checkpoint lies on this machine; raises SetupError when it is missing or another one."""
    path = Path(os.path.expandvars(checkpoint.path))
    digest = sha256(path) if path.is_file() else None
    if digest != checkpoint.sha256:
        found = "no such file" if digest is None else f"another file than the one planned with (SHA-256 {digest[:16]}…)"
        raise SetupError(
            "E-FINETUNE-CHECKPOINT",
            file=path,
            found=found,
            expected=f"the checkpoint that the plans name (SHA-256 {checkpoint.sha256[:16]}…)",
            fix="put the file back, or make new plans from the model as it is now (another --name)",
        )
    return path


def refuse_other_kind(source: bool, target: bool) -> None:
    """Raise SetupError when one of the two models gives regions and the other one labels."""
    if source != target:
        kinds = {True: "regions, which may overlap", False: "labels, which exclude one another"}
        raise SetupError(
            "E-FINETUNE-LABELS",
            file="dataset.json",
            found=f"{kinds[target]}, for a source model of {kinds[source].partition(',')[0]}",
            expected="the same kind of outputs: weights of the one make no sense in the other",
            fix="describe the labels of the target as those of the source",
        )


def refuse_other_labels(settings: SpineSettings, trainer: str, *, trains_soft: bool) -> None:
    """Raise SetupError when plans are of soft labels and the trainer is of hard ones, or the other way round.

    Outputs of a soft model are values, those of a hard one scores of a softmax: the one cannot go on as the other.
    """
    soft = settings.soft is not None
    if soft != trains_soft:
        kinds = {True: "soft labels", False: "hard labels"}
        wanted = finetune_trainer(soft=soft)
        raise SetupError(
            "E-FINETUNE-SOFT",
            file="plans spine_ext.soft",
            found=f"a source model of {kinds[soft]}, for {trainer}",
            expected=f"a source model of {kinds[trains_soft]}",
            fix=f"train with -tr {wanted}, or make plans from a model of {kinds[trains_soft]}",
        )


def _refuse_pretrained_weights(*_args: Any, **_kwargs: Any) -> NoReturn:
    raise SetupError(
        "E-FINETUNE-PRETRAINED",
        file="-pretrained_weights",
        found="weights for a trainer that has loaded its own, segmentation layers included",
        expected="the weights that the plans name, alone",
        fix="leave -pretrained_weights out; another source model takes new plans (nnUNetv2_spine_finetune_plan -m)",
    )
