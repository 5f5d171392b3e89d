"""The base trainer: nnU-Net's training with settings from the plans, sided mirroring and grouped splits."""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.core.io import atomic_path
from nnunet_spine_ext.core.threads import limit_threads
from nnunet_spine_ext.harmonize.contrast import contrasts_of
from nnunet_spine_ext.harmonize.curves import CaseFacts
from nnunet_spine_ext.harmonize.reference import average_curves, read_curves
from nnunet_spine_ext.inference.adopt import adopt_for_prediction
from nnunet_spine_ext.inference.model import sided_axis
from nnunet_spine_ext.networks.precision import chosen_bf16, train_in_bf16, use_single_precision
from nnunet_spine_ext.training.clipping import GradientClip
from nnunet_spine_ext.training.domain_settings import refuse_domain_settings
from nnunet_spine_ext.training.finetune_settings import refuse_finetune_settings
from nnunet_spine_ext.training.mirroring import only_mirroring, replace_mirroring, sided_labels
from nnunet_spine_ext.training.plan import store_curves
from nnunet_spine_ext.training.planned import refuse_unprepared
from nnunet_spine_ext.training.repeatable import without_timing
from nnunet_spine_ext.training.schedule import CosineSchedule
from nnunet_spine_ext.training.seeding import seed_epoch
from nnunet_spine_ext.training.settings import (
    SpineSettings,
    TrainSettings,
    data_facts,
    settings_from_plans,
    store_settings,
)
from nnunet_spine_ext.training.splits import grouped_fold
from nnunet_spine_ext.training.stored_settings import add_reference, keep_what_the_model_has, refuse_other_settings

# Set while a trainer builds its own network: the same static method also serves prediction, where it adopts.
_training: ContextVar[bool] = ContextVar("building_for_training", default=False)


# A mixin stands before nnUNetTrainer in the trainers made of it; only the type checker sees it as a subclass.
_Trainer: Any = nnUNetTrainer if TYPE_CHECKING else object


class SettingsMixin(_Trainer):
    """Schedule and optimizer from ``plans["spine_ext"]["train"]``; refuses to mix settings in one folder."""

    settings: TrainSettings
    fine_tunes = False
    aligns_domains = False

    @classmethod
    def completed(cls, settings: SpineSettings) -> SpineSettings:
        """Return the settings with what this trainer adds; raises SetupError for those that it would ignore."""
        refuse_soft_settings(settings, cls.__name__)
        if settings.augment is not None:
            raise SetupError(
                "E-TRAINER-AUGMENT",
                file="plans spine_ext.augment",
                found=f"settings of an augmentation that {cls.__name__} does not have",
                expected="a trainer that augments on the device",
                fix="train with -tr nnUNetTrainerSpineShift, or with plans without augment",
            )
        return settings

    def _apply_settings(self) -> None:
        train = self.settings
        self.num_epochs = train.num_epochs
        self.num_iterations_per_epoch = train.num_iterations_per_epoch
        self.num_val_iterations_per_epoch = train.num_val_iterations_per_epoch
        self.initial_lr = train.initial_lr
        self.weight_decay = train.weight_decay
        self.oversample_foreground_percent = train.oversample_foreground
        self.save_every = train.save_every

    def initialize(self) -> None:
        """Check the results folder, seed what comes before the first epoch, then initialize as nnU-Net does."""
        refuse_other_settings(self.output_folder_base, self.plans_manager.plans)
        planned = self.plans_manager
        refuse_unprepared(
            self.preprocessed_dataset_folder, planned.dataset_name, planned.plans_name, self.configuration_name
        )
        if self.settings.seed is not None:
            # With one seed for all, the processes of a multi-GPU training would draw the same batches.
            seed = self.settings.seed + self.local_rank
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002  batchgenerators draws from numpy's global state
            torch.manual_seed(seed)
        if self.device.type == "cpu":
            limit_threads()
        token = _training.set(True)
        try:
            super().initialize()
        finally:
            _training.reset(token)
        if self.settings.clip:
            self.optimizer.register_step_pre_hook(GradientClip(self.settings.clip))
            self.print_to_log_file(f"Gradients: at most {self.settings.clip:g} x their running median (train.clip).")
        if chosen_bf16(self.settings.precision, self.device):
            # Compiled networks and several processes are for GPUs.
            train_in_bf16(self.network, self.device)
            self.print_to_log_file("The network trains in bfloat16 (train.precision: auto).")
            return
        if self.device.type == "cpu" and self.settings.precision == "auto":
            self.print_to_log_file(
                "Single precision (train.precision: auto): bfloat16 is for x86 processors that have it, under Linux."
            )
        if self.device.type == "cpu" and len(self.configuration_manager.patch_size) == 3:
            # Measured on two cores: a step of a small U-Net takes a quarter less time in this layout.
            self.network.to(memory_format=torch.channels_last_3d)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """Return nnU-Net's optimizer and schedule, or those that the settings name."""
        optimizer, scheduler = super().configure_optimizers()
        if self.settings.optimizer != "sgd":
            kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.settings.optimizer]
            optimizer = kind(self.network.parameters(), lr=self.initial_lr, weight_decay=self.weight_decay)
        schedule = CosineSchedule if self.settings.schedule == "cosine" else type(scheduler)
        return optimizer, schedule(optimizer, self.initial_lr, self.num_epochs)

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> Any:
        """Return nnU-Net's transforms; with a seed nothing in them is chosen by the clock."""
        transforms = super().get_training_transforms(*args, **kwargs)
        return transforms if self.settings.seed is None else without_timing(transforms)

    def on_train_epoch_start(self) -> None:
        """Start an epoch as nnU-Net does; with a seed, everything random starts anew with it.

        So an epoch does not depend on those before it, and a training that is resumed goes on as it would have.
        """
        super().on_train_epoch_start()
        if self.settings.seed is not None:
            seed_epoch(self.settings.seed, self.current_epoch, self.local_rank)

    def on_epoch_end(self) -> None:
        """Close the epoch as nnU-Net does, but draw progress.png only every `plot_every` epochs."""
        logger = self.logger
        epoch: int = self.current_epoch
        last = epoch == self.num_epochs - 1
        if self.settings.plot_every > 1 and epoch % self.settings.plot_every and not last:
            logger.plot_progress_png = lambda _folder: None
        try:
            super().on_epoch_end()
        finally:
            logger.__dict__.pop("plot_progress_png", None)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Validate as nnU-Net does, and as it predicts: in single precision on a CPU, whatever the training was in.

        The network stays in single precision: nnU-Net validates when training is over.
        """
        use_single_precision(self.network)
        super().perform_actual_validation(save_probabilities)

    def save_checkpoint(self, filename: str) -> None:
        """Write a checkpoint under a temporary name first: an interrupt leaves the previous file intact."""
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        with atomic_path(filename) as temporary:
            super().save_checkpoint(str(temporary))


class SidedMirroringMixin(_Trainer):
    """Mirror in training, exchanging sided labels; keep the left-right axis out of nnU-Net's own TTA."""

    settings: TrainSettings

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, ...]:  # noqa: N802
        """Return nnU-Net's augmentation geometry; test-time mirroring axes never hold a sided axis."""
        rotation, dummy_2d, patch_size, axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        axis = self._sided_axis()
        if not self.settings.mirror:
            axes = None
        elif self.settings.mirror_axes == "left-right":
            left_right = self._left_right_axis()
            axes = None if left_right is None else (left_right,)
        # nnU-Net crashes on an empty tuple of test-time axes: None means no mirroring.
        allowed = tuple(a for a in axes or () if a != axis)
        self.inference_allowed_mirroring_axes = allowed or None
        if self.settings.augmentation == "mirror":
            dummy_2d, patch_size = False, self.configuration_manager.patch_size
        return rotation, dummy_2d, patch_size, axes

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> Any:
        """Return nnU-Net's transforms, or its mirroring alone; sided labels are exchanged."""
        transforms = super().get_training_transforms(*args, **kwargs)
        if self.settings.augmentation == "mirror":
            transforms = only_mirroring(transforms)
        axis = self._sided_axis()
        if axis is None:
            return transforms
        return replace_mirroring(transforms, axis, sided_labels(self.dataset_json))

    def _sided_axis(self) -> int | None:
        return self._left_right_axis() if sided_labels(self.dataset_json) else None

    def _left_right_axis(self) -> int | None:
        dimensions = len(self.configuration_manager.patch_size)
        return sided_axis(self.plans_manager.plans, dimensions)


class GroupedSplitsMixin(_Trainer):
    """Subjects stay on one side of a split, and the intensity reference comes from the training side only."""

    settings: TrainSettings
    _told_split = ""

    def do_split(self) -> tuple[list[str], list[str]]:
        """Return training and validation cases; raises SetupError for leaks, unknown cases and missing folds."""
        if self.settings.splits == "stock":
            split: tuple[list[str], list[str]] = super().do_split()
            return split
        folder = self.preprocessed_dataset_folder
        available = infer_dataset_class(folder).get_identifiers(folder)
        train, validation = grouped_fold(self.preprocessed_dataset_folder_base, self.fold, available)
        told = f"Split {self.fold}, grouped by subject: {len(train)} training and {len(validation)} validation cases."
        # nnU-Net and what is added to it ask several times.
        if told != self._told_split:
            self.print_to_log_file(told)
        self._told_split = told
        return train, validation

    def on_train_start(self) -> None:
        """Store the mean intensity curve of this fold's training cases with the model, then start as nnU-Net does.

        All folds share one plans.json, so the curves of the other folds stay in it.
        """
        plans = self.plans_manager.plans
        keep_what_the_model_has(self.output_folder_base, plans)
        curves = self._curves()
        train, _ = self.do_split()
        known = {case: curves[case] for case in train if case in curves}
        reference = average_curves(known, contrasts=contrasts_of(self.preprocessed_dataset_folder_base))
        if reference is not None:
            self._tell_missing_noise(known)
            settings = settings_from_plans(plans)
            references = {**(settings.reference or {}), str(self.fold): reference}
            store_settings(plans, replace(settings, reference=references))
        else:
            self.print_to_log_file(
                "No intensity curves in the preprocessed folder: the model carries no intensity reference. "
                "Run nnUNetv2_spine_plan before training to add them."
            )
        super().on_train_start()

    def _tell_missing_noise(self, known: Mapping[str, CaseFacts]) -> None:
        """Log how many cases of a reference have facts of an earlier version, which tell no noise."""
        old = sum(not facts.current for facts in known.values())
        if old:
            self.print_to_log_file(
                f"The intensity curves of {old} of {len(known)} training cases are of an earlier version and tell no "
                "noise, so the reference holds that of the others, if any. Run nnUNetv2_spine_plan where nnUNet_raw "
                "has the images to make them anew."
            )

    def on_train_end(self) -> None:
        """End as nnU-Net does; put this fold's reference back if a fold that started just then wrote over it."""
        super().on_train_end()
        if self.local_rank == 0:
            own = (settings_from_plans(self.plans_manager.plans).reference or {}).get(str(self.fold))
            add_reference(self.output_folder_base, str(self.fold), own)

    def _curves(self) -> dict[str, CaseFacts]:
        """Return the intensity curves of all cases; the first training makes them when planning did not."""
        folder = Path(self.preprocessed_dataset_folder_base)
        stored = read_curves(folder)
        old = not stored or any(not facts.current for facts in stored.values())
        # Several processes would have to wait for one of them, longer than they are willing to.
        if old and not self.is_ddp:
            store_curves(folder)
            stored = read_curves(folder)
        return stored


class nnUNetTrainerSpine(SettingsMixin, SidedMirroringMixin, GroupedSplitsMixin, nnUNetTrainer):
    """nnU-Net's trainer with settings from the plans, left/right-aware mirroring and splits grouped by subject.

    The network, its weights and the checkpoints are nnU-Net's own.
    """

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008  nnU-Net's signature, which it inspects
    ) -> None:
        planned = settings_from_plans(plans)
        if not self.fine_tunes:
            refuse_finetune_settings(planned.finetune, type(self).__name__, soft=planned.soft is not None)
        if not self.aligns_domains:
            refuse_domain_settings(planned.domain, type(self).__name__)
        settings = self.completed(replace(planned, data=data_facts(dataset_json)))
        # Defaults are written out too: the plans saved with the model tell how it was trained.
        store_settings(plans, settings)
        super().__init__(plans=plans, configuration=configuration, fold=fold, dataset_json=dataset_json, device=device)
        self.settings = settings.train
        self._apply_settings()
        self._sided_axis()

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build nnU-Net's network. For prediction, adopt the managers and mirror left-right with channel swap."""
        network = nnUNetTrainer.build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )
        if building_for_training():
            return network
        return adopt_for_prediction(network, plans_manager, configuration_manager)


def building_for_training() -> bool:
    """Return whether a trainer builds the network that it will train; the same method also serves prediction."""
    return _training.get()


def refuse_soft_settings(settings: SpineSettings, trainer: str) -> None:
    """Raise SetupError when plans ask for soft labels and the trainer does not know them."""
    if settings.soft is not None:
        raise SetupError(
            "E-TRAINER-SOFT",
            file="plans spine_ext.soft",
            found=f"settings of soft labels, which {trainer} does not train",
            expected="a trainer of soft labels",
            fix="train with -tr nnUNetTrainerSpineSoft or another …Soft…, or with plans without soft",
        )
