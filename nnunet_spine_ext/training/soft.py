"""Trainers of soft labels: the loss compares values with values, the network stays nnU-Net's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from nnunetv2.training.loss.dice import get_tp_fp_fn_tn
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn

from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.pipeline import Pipeline
from nnunet_spine_ext.core.errors import Problem, SetupError
from nnunet_spine_ext.inference.managers import SoftPlansManager
from nnunet_spine_ext.losses.registry import LossName, LossSettings, build_deep_supervision
from nnunet_spine_ext.soft.store import soft_file
from nnunet_spine_ext.training.background import set_background
from nnunet_spine_ext.training.base import nnUNetTrainerSpine
from nnunet_spine_ext.training.mirroring import sided_labels
from nnunet_spine_ext.training.parallel import on_first_process
from nnunet_spine_ext.training.settings import SoftSettings, SpineSettings, TrainSettings, settings_from_plans
from nnunet_spine_ext.training.shift import DeviceAugmentationMixin
from nnunet_spine_ext.training.soft_augmentation import SoftDeviceAugmentation, SoftTargets
from nnunet_spine_ext.training.soft_case import Classes
from nnunet_spine_ext.training.soft_dataset import SoftDataset
from nnunet_spine_ext.training.soft_files import SoftSummary, prepare, soft_folder
from nnunet_spine_ext.training.soft_validation import area_errors, predicted, store
from nnunet_spine_ext.training.targets import Targets, one_hot

_Trainer: Any = nnUNetTrainer if TYPE_CHECKING else object
_LISTED = 5
RECIPE = TrainSettings(num_epochs=200, optimizer="adam", schedule="cosine", initial_lr=1e-3, weight_decay=0.0)
"""Bédard et al. 2023; the preset ``contrast-agnostic`` has the same, with grid, patch and batch size."""
# nnU-Net's weight of the coarsest output where every parameter must take part in every step.
_LAST_IN_PARALLEL = 1e-6


class SoftLabelsMixin(_Trainer):
    """Train on `softLabelsTr`; stands before `DeviceAugmentationMixin`, which moves soft labels with the images.

    `losses`: those that a trainer stands for, its default first.
    """

    losses: tuple[LossName, ...] = ("adaptive_wing", "wing_dice")
    soft: SoftSettings
    augmentation: Any

    @classmethod
    def completed(cls, settings: SpineSettings) -> SpineSettings:
        """Write the soft settings out; raises SetupError for a loss that the trainer does not stand for."""
        soft = settings.soft or SoftSettings(loss=LossSettings(name=cls.losses[0]))
        if soft.loss.name not in cls.losses:
            raise SetupError(
                "E-TRAINER-SOFT",
                file="plans spine_ext.soft.loss.name",
                found=f"{soft.loss.name!r} for {cls.__name__}",
                expected=" or ".join(cls.losses),
                fix="set soft.loss.name, or train with the trainer of that loss",
            )
        return super().completed(replace(settings, soft=soft.completed()))  # type: ignore[no-any-return]

    def initialize(self) -> None:
        """Refuse what has no soft labels, then initialize as nnU-Net does."""
        self._classes()
        self.soft = settings_from_plans(self.plans_manager.plans).soft or SoftSettings().completed()
        if self.is_cascaded:
            raise SetupError(
                "E-SOFT-CASCADE",
                file=f"configuration {self.configuration_name}",
                found="a stage that reads the masks of another",
                expected="a configuration that needs the image alone",
                fix="train 3d_fullres, 3d_lowres or 2d",
            )
        super().initialize()

    def _build_loss(self) -> nn.Module:
        last = _LAST_IN_PARALLEL if self.is_ddp and not self._do_i_compile() else 0.0
        return build_deep_supervision(self.soft.loss, last=last)

    def get_tr_and_val_datasets(self) -> tuple[SoftDataset, SoftDataset]:
        """Prepare soft labels that are missing or out of date, and return datasets that hold them."""
        train, validation = self.do_split()
        on_first_process(lambda: self._report(self._prepare(train, validation)))
        folder = self.preprocessed_dataset_folder
        return SoftDataset(folder, train), SoftDataset(folder, validation)

    def on_validation_epoch_start(self) -> None:
        """Set the background, so that argmax is the hard label."""
        self._set_background()
        super().on_validation_epoch_start()

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the soft loss, and the counts of nnU-Net's pseudo Dice for the hard label of the soft target."""
        channels = self.augmentation.pipeline.context.channels
        data = batch["data"].to(self.device, non_blocking=True)
        target = self.augmentation.soft_targets(data[:, channels:])
        with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
            output = self.network(data[:, :channels].contiguous())
            loss = self.loss(output, target)
        if self.enable_deep_supervision:
            output, target = output[0], target[0]
        counts = get_tp_fp_fn_tn(
            _winners(output), _winners(_with_background(target)), axes=[0, *range(2, output.ndim)], mask=target[:, -1:]
        )
        names = ("tp_hard", "fp_hard", "fn_hard")
        return {"loss": loss.detach().cpu().numpy()} | {
            name: count.detach().cpu().numpy()[1:] for name, count in zip(names, counts, strict=False)
        }

    def save_checkpoint(self, filename: str) -> None:
        """Set the background, then write the checkpoint."""
        self._set_background()
        super().save_checkpoint(filename)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Set the background, validate as nnU-Net does, then choose the activation by the areas of soft maps."""
        self._set_background()
        with _soft_labels_known(self.plans_manager):
            super().perform_actual_validation(save_probabilities)
        if self.local_rank == 0 and self.soft.output == "linear":
            self._choose_activation()

    def _choose_activation(self) -> None:
        _, cases = self.do_split()
        folder = Path(self.preprocessed_dataset_folder)
        missing = [case for case in cases if not soft_file(folder, case).is_file()]
        settings = settings_from_plans(self.plans_manager.plans).predict
        floor, support = settings.activation_floor, settings.support_mm
        errors = None if missing else area_errors(predicted(self, cases), floor=floor, support=support)
        if errors is None:
            why = f"{len(missing)} cases without a prepared soft label" if missing else "no section of a soft label"
            self.print_to_log_file(f"Validation has {why}: the activation of prediction is not chosen by areas.")
            return
        chosen = store(Path(self.output_folder), errors)
        listed = ", ".join(f"{name} {error:.2f} mm²" for name, error in errors["error_mm2"].items())
        self.print_to_log_file(
            f"Area errors of {errors['sections']} sections of {errors['cases']} cases: {listed}; outputs up to "
            f"{errors['largest']:.2f}. By all folds so far, prediction takes {chosen}."
        )

    def _set_background(self) -> None:
        set_background(self.network, self.soft.output or "linear")

    def _classes(self) -> Classes:
        return Classes.of(self.dataset_json)

    def _prepare(self, train: list[str], validation: list[str]) -> SoftSummary:
        dataset = Path(self.preprocessed_dataset_folder_base).name
        return prepare(
            Path(self.preprocessed_dataset_folder),
            sorted({*train, *validation}),
            soft_folder(dataset),
            self.dataset_json,
            self.plans_manager.plans,
            self.configuration_name,
            train=train,
            wait=True,
        )

    def _report(self, summary: SoftSummary) -> None:
        """Tell what is trained on; raises SetupError when a soft label cannot be used: hard ones never stand in."""
        if summary.failed:
            case, problem = next(iter(summary.failed.items()))
            raise SetupError(
                "E-SOFT-FAILED",
                file=problem.file or case,
                found=f"{len(summary.failed)} soft labels that cannot be used; the first: {problem.found}",
                expected=problem.expected,
                fix=f"{problem.fix}; nnUNetv2_spine_preprocess_soft lists all of them",
            )
        listed = ", ".join(summary.hard[:_LISTED]) + (", …" if len(summary.hard) > _LISTED else "")
        self.print_to_log_file(
            f"Soft labels: {len(summary.soft)} cases, {len(summary.done)} of them prepared now; "
            f"{len(summary.hard)} cases with their hard label{f' ({listed})' if summary.hard else ''}."
        )
        for name, found in summary.warnings.items():
            for problem in found:
                self.print_to_log_file(_line(name, problem))

    def _augmentation(self, config: AugmentConfig, context: Context) -> SoftDeviceAugmentation:
        classes = self._classes()
        place = {number: position for position, number in enumerate(classes.ids)}
        ignore = () if classes.ignore is None else (classes.ignore,)
        return SoftDeviceAugmentation(
            Pipeline(config, context),
            Targets(),
            highest=max((*context.labels, *ignore)),
            masked=self.configuration_manager.use_mask_for_norm,
            soft_targets=SoftTargets(self._get_deep_supervision_scales()),
            pairs=[(place[left], place[right]) for left, right in sided_labels(self.dataset_json)],
        )


@contextmanager
def _soft_labels_known(plans_manager: Any) -> Iterator[None]:
    """Let nnU-Net's validation store soft values as its probabilities (``--npz``), not a softmax of linear outputs."""
    kind = plans_manager.__class__
    plans_manager.__class__ = SoftPlansManager
    try:
        yield
    finally:
        plans_manager.__class__ = kind


def _line(name: str, problem: Problem) -> str:
    return f"WARNING {name}: {problem}"


def _with_background(target: Tensor) -> Tensor:
    """Return (B, K+1, …) with the background first for values and validity (B, K+1, …)."""
    values = target[:, :-1]
    return torch.cat((1 - values.sum(dim=1, keepdim=True), values), dim=1)


def _winners(scores: Tensor) -> Tensor:
    """Return which class has the highest score: (B, K+1, …) of 0 and 1."""
    return one_hot(scores.argmax(dim=1, keepdim=True), range(scores.shape[1]), torch.float32)


class nnUNetTrainerSpineSoft(SoftLabelsMixin, DeviceAugmentationMixin, nnUNetTrainerSpine):
    """Soft labels with the adaptive wing loss; nnU-Net's list of augmentations, on the device."""

    default_augmentation = "nnunet"


class nnUNetTrainerSpineSoftDiceBCE(SoftLabelsMixin, DeviceAugmentationMixin, nnUNetTrainerSpine):
    """Soft labels with soft Dice and binary cross entropy; nnU-Net's list of augmentations, on the device."""

    default_augmentation = "nnunet"
    losses = ("soft_dice_bce",)


class nnUNetTrainerSpineShiftSoft(SoftLabelsMixin, DeviceAugmentationMixin, nnUNetTrainerSpine):
    """Soft labels with the adaptive wing loss, and simulated scanners and contrasts."""


class nnUNetTrainerSpineContrastAgnostic(SoftLabelsMixin, DeviceAugmentationMixin, nnUNetTrainerSpine):
    """The recipe of Bédard et al. 2023, its augmentation as the paper means it; grid, patch, batch are the plans'."""

    default_augmentation = "contrast-agnostic"

    @classmethod
    def completed(cls, settings: SpineSettings) -> SpineSettings:
        """Take the schedule and optimizer of the recipe where the plans have nnU-Net's own, then complete the rest."""
        if settings.train == TrainSettings():
            settings = replace(settings, train=RECIPE)
        return super().completed(settings)
