"""Scanner-shift augmentation on the training device: workers load and crop, the device does the rest in the step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, distributed

from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.geometry import Resampling
from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.augment.pipeline import Pipeline, Plan
from nnunet_spine_ext.augment.tissue_names import tissues_of_names
from nnunet_spine_ext.augment.transform import build
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.training.base import nnUNetTrainerSpine, refuse_soft_settings
from nnunet_spine_ext.training.cascade import ChangePreviousStage, changes_of
from nnunet_spine_ext.training.feeding import Ahead, Sender
from nnunet_spine_ext.training.mirroring import sided_labels
from nnunet_spine_ext.training.on_device import DeviceAugmentation
from nnunet_spine_ext.training.settings import AugmentSettings, SpineSettings, TrainSettings, settings_from_plans
from nnunet_spine_ext.training.targets import Targets

_Trainer: Any = nnUNetTrainer if TYPE_CHECKING else object
# Of labels without a tissue, so many are named in the log: vertebrae can be dozens.
_NAMED = 12


class DeviceAugmentationMixin(_Trainer):
    """Augment batches on the device, in the training step; validation is nnU-Net's.

    What happens to a sample depends on the seed (without `train.seed` one is drawn, and logged, whenever a training
    starts), the case, the epoch and its number in the epoch alone. Which case and which crop have that number is the
    loader's choice: with `nnUNet_n_proc_DA=0` and a seed it is the same in every run, also in one that was resumed;
    nnU-Net's worker processes draw without a seed and deliver in the order in which they finish.
    """

    settings: TrainSettings
    augmentation: DeviceAugmentation
    default_augmentation = "shift"
    dataloader_train: Any
    _seed: int | None = None
    _step = 0
    _send: Sender | None = None

    @classmethod
    def completed(cls, settings: SpineSettings) -> SpineSettings:
        """Write the whole augmentation out: the model tells how it was trained when presets have changed."""
        if settings.train.augmentation != "stock":
            raise UsageError(
                "E-CONFIG-VALUE",
                file="train.augmentation",
                found=f"{settings.train.augmentation!r} for {cls.__name__}",
                expected="the augmentation that augment.config says",
                fix="set augment.config=none and train.augmentation=stock to mirror and do nothing else",
            )
        augment = settings.augment or AugmentSettings(config=cls.default_augmentation)
        if augment.flips == "config" and settings.train.mirror:
            raise UsageError(
                "E-CONFIG-VALUE",
                file="augment.flips",
                found="'config' while train.mirror is on",
                expected="one of the two to mirror",
                fix="set train.mirror=false, or augment.flips=mirroring",
            )
        return replace(settings, augment=augment.written_out())

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, ...]:  # noqa: N802
        """Return nnU-Net's augmentation geometry; patches are loaded larger only if something moves them."""
        rotation, dummy_2d, loaded, axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        augment = settings_from_plans(self.plans_manager.plans).augment or AugmentSettings()
        config = _with_mirroring(augment.effective().with_short_ramp(self.num_epochs), axes)
        context = self._context(loaded, config)
        self.augmentation = self._augmentation(config, context)
        self._seed = self._augmentation_seed()
        self.print_to_log_file(
            f"Augmentation {augment.hash} on {self.device}: {len(list(config.flat()))} transforms, "
            f"patches {list(context.shape)} of crops {list(context.source)}, seed {self._seed}."
        )
        self._say_tissues(config)
        return rotation, dummy_2d, list(context.source), axes

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> ComposeTransforms:
        """Return what workers still do to a crop: nothing, but for nnU-Net's changes to masks in a cascade."""
        changes = changes_of(super().get_training_transforms(*args, **kwargs))
        if not changes:
            return ComposeTransforms([])
        return ComposeTransforms([ChangePreviousStage(changes, self.label_manager.foreground_labels)])

    def on_train_epoch_start(self) -> None:
        """Start counting the samples of an epoch."""
        super().on_train_epoch_start()
        self._step = 0

    def on_train_start(self) -> None:
        """Start as nnU-Net does; with worker processes, the next batch is prepared while the device is at work."""
        super().on_train_start()
        if isinstance(self.dataloader_train, SingleThreadedAugmenter):
            # What it draws must not depend on how far ahead a thread is.
            return
        epochs, steps = range(self.current_epoch, self.num_epochs), range(self.num_iterations_per_epoch)
        self.dataloader_train = Ahead(self.dataloader_train, itertools.product(epochs, steps), self._prepared)

    def on_train_end(self) -> None:
        """Stop the thread, then end as nnU-Net does."""
        if isinstance(self.dataloader_train, Ahead):
            self.dataloader_train.close()
            self.dataloader_train = self.dataloader_train.loader
        super().on_train_end()

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Augment a batch of crops on the device, then train on it as nnU-Net does."""
        if "plan" not in batch:
            batch = self._prepared(batch, self.current_epoch, self._step)
        self._step += 1
        data, target = self._augmented(batch["sent"].arrived(), batch["plan"])
        result: dict[str, Any] = super().train_step(
            {"data": data, "target": target, "keys": batch["keys"], "plan": batch["plan"]}
        )
        return result

    def _augmented(self, crops: tuple[Tensor, ...], plan: Plan) -> tuple[Tensor, Tensor | list[Tensor]]:
        """Return the input of the network and the target or targets of crops on the device."""
        return self.augmentation.apply(*crops, plan)

    def _prepared(self, batch: dict[str, Any], epoch: int, step: int) -> dict[str, Any]:
        """Draw what will happen to a batch and start its way to the device."""
        keys = self._keys(batch["keys"], epoch, step)
        plan = self.augmentation.plan(keys, (epoch + 0.5) / self.num_epochs)
        self._send = self._send or Sender(self.device)
        return {"keys": batch["keys"], "plan": plan, "sent": self._send(batch["data"], batch["target"])}

    def _keys(self, cases: Sequence[str], epoch: int, step: int) -> list[SampleKey]:
        """Return what the draws for a batch depend on; the samples of an epoch are numbered across all processes."""
        processes = distributed.get_world_size() if self.is_ddp else 1
        # The plans hold the batch size of all processes together: at least that of each.
        first = (step * processes + self.local_rank) * self.configuration_manager.batch_size
        return [SampleKey(self._seed or 0, str(case), epoch, first + i, step) for i, case in enumerate(cases)]

    def _augmentation_seed(self) -> int:
        """Return `train.seed`; unset, a number drawn from what whoever starts a training may have seeded."""
        if self.settings.seed is not None:
            return self.settings.seed
        drawn = [int(np.random.randint(1 << 31))]  # noqa: NPY002  nnU-Net's loaders draw from numpy's global state
        if self.is_ddp:
            # Samples are numbered across all processes: one seed for all of them.
            distributed.broadcast_object_list(drawn)
        return drawn[0]

    def _context(self, loaded: Sequence[int], config: AugmentConfig) -> Context:
        """Return what transforms may know; the source is nnU-Net's larger patch where something reads beyond it."""
        configuration = self.configuration_manager
        patch = tuple(int(n) for n in configuration.patch_size)
        pairs = tuple(sided_labels(self.dataset_json))
        context = Context(
            shape=patch,
            spacing=tuple(configuration.spacing)[-len(patch) :],
            channels=len(self.dataset_json.get("channel_names", self.dataset_json.get("modality", ()))),
            labels=tuple(int(label) for label in self.label_manager.all_labels),
            sided_pairs=pairs,
            left_right_axis=self._sided_axis(),
            tissues=tuple(tissues_of_names(self.dataset_json["labels"]).classes.items()),
        )
        moving = [transform for _, transform in config.flat() if isinstance(transform, Resampling) and transform.p > 0]
        still = set(range(len(patch))).intersection(*(t.locked(context) for t in moving))
        source = tuple(n if axis in still else max(n, int(loaded[axis])) for axis, n in enumerate(patch))
        return replace(context, source_shape=source)

    def _say_tissues(self, config: AugmentConfig) -> None:
        """Log which labels have no tissue for the transforms that ask for one and were not told (`classes`)."""
        asking = sorted({t.name for _, t in config.flat() if t.p > 0 and not getattr(t, "classes", "none")})
        if config.scanners is not None and config.scanners.weighting:
            asking.append("scanners")
        unknown = tissues_of_names(self.dataset_json["labels"]).unknown
        if asking and unknown:
            more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
            self.print_to_log_file(
                f"No tissue is known of {', '.join(unknown[:_NAMED])}{more}: {', '.join(asking)} leave them as they "
                'are. Say it in augment.config as classes: {"<id>": <tissue>}.'
            )

    def _augmentation(self, config: AugmentConfig, context: Context) -> DeviceAugmentation:
        """Return what augments a batch on the device."""
        labels = self.label_manager
        ignore = () if labels.ignore_label is None else (int(labels.ignore_label),)
        regions = None
        if labels.has_regions:
            listed = [*labels.foreground_regions, *ignore]
            regions = tuple(tuple(map(int, r)) if isinstance(r, list | tuple) else (int(r),) for r in listed)
        scales = self._get_deep_supervision_scales()
        return DeviceAugmentation(
            Pipeline(config, context),
            Targets(regions, None if scales is None else tuple(tuple(map(float, scale)) for scale in scales)),
            highest=max((*context.labels, *ignore)),
            masked=self.configuration_manager.use_mask_for_norm,
            previous=labels.foreground_labels if self.is_cascaded else (),
        )


class nnUNetTrainerSpineShift(DeviceAugmentationMixin, nnUNetTrainerSpine):
    """`nnUNetTrainerSpine` that simulates other scanners and contrasts on the device while it trains.

    Where some samples stay as they are, gradients are clipped at the median of their norms: those of other contrasts
    would outweigh them.
    """

    @classmethod
    def completed(cls, settings: SpineSettings) -> SpineSettings:
        """Write the augmentation and the limit of gradients out; raises SetupError for settings of soft labels."""
        refuse_soft_settings(settings, cls.__name__)
        settings = super().completed(settings)
        if settings.train.clip is None and settings.augment is not None:
            clip = 1.0 if settings.augment.effective().schedule.clean_share else 0.0
            settings = replace(settings, train=replace(settings.train, clip=clip))
        return settings


def _with_mirroring(config: AugmentConfig, axes: Sequence[int] | None) -> AugmentConfig:
    """Return the configuration with nnU-Net's mirroring: each axis with probability one half."""
    if not axes:
        return config
    flip = build("flip", {"p": 1.0, "axis_p": 0.5, "axes": list(axes)})
    return config.with_entries(lambda entries: (flip, *entries))
