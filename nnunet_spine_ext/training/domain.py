"""Domain-adversarial training: features that do not tell where an image is from.

The network stays nnU-Net's and its weights load anywhere. What learns beside it, the classifier of domains, is kept
outside of it, with a parameter group and a key in the checkpoint of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn

from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.core.io import atomic_path
from nnunet_spine_ext.core.splits import shorten
from nnunet_spine_ext.losses.domain import ADVERSARIAL
from nnunet_spine_ext.networks.bottleneck import BottleneckNetwork
from nnunet_spine_ext.networks.domain_alignment import DomainAlignment, strength_at
from nnunet_spine_ext.training.base import building_for_training, nnUNetTrainerSpine
from nnunet_spine_ext.training.domain_cases import unlabelled_cases
from nnunet_spine_ext.training.domain_loss import LossWithDomains, ignored
from nnunet_spine_ext.training.domain_probe import PROBE_FILE, frozen_features, linear_probe, store_probe
from nnunet_spine_ext.training.domain_settings import DomainSettings
from nnunet_spine_ext.training.settings import TrainSettings, settings_from_plans
from nnunet_spine_ext.training.splits import subjects_of

_Trainer: Any = nnUNetTrainer if TYPE_CHECKING else object

CHECKPOINT_KEY = "spine_ext_domain"
LOGGED = ("domain_accuracy", "domain_loss", "domain_strength")
# nnU-Net clips the gradients of its network to this norm; the classifier's are clipped alike, but alone.
_LARGEST_GRADIENT = 12.0
_FEWEST_SAMPLES = 2
_MOMENTUM = 0.9


class DomainAlignmentMixin(_Trainer):
    """Adds the loss of domains to nnU-Net's. What a domain is say `_domain_names` and `_domains_of`."""

    aligns_domains = True
    settings: TrainSettings
    domain: DomainSettings
    loss: Any
    names: tuple[str, ...]
    _alignment: DomainAlignment
    _unlabelled: frozenset[str]
    _domain_step = 0

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build nnU-Net's network; for training, one that hands out its deepest features too."""
        network = nnUNetTrainerSpine.build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )
        if not building_for_training():
            return network
        domain = settings_from_plans(plans_manager.plans).domain
        return BottleneckNetwork(network, twice=domain is not None and domain.loss.paired)

    def initialize(self) -> None:
        """Refuse what cannot be aligned, find out which domains there are, then initialize as nnU-Net does."""
        self.domain = settings_from_plans(self.plans_manager.plans).domain or DomainSettings()
        self._refuse()
        self.names = self._domain_names()
        self._unlabelled = unlabelled_cases(self.preprocessed_dataset_folder_base)
        self._refuse_masks()
        super().initialize()
        self.print_to_log_file(
            f"{len(self.names)} domains by {self.domain.key}: {', '.join(self.names)}. Loss {self.domain.loss.name}, "
            f"strength up to {self.domain.loss.largest:g} after {self.domain.loss.warm_up:.0%} of the training"
            f"{', bounded' if self.domain.loss.name in ADVERSARIAL and self.domain.loss.bounded else ''}."
        )
        self._register_logs()

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """Return nnU-Net's datasets; validation is without cases whose masks may not choose the best checkpoint.

        The border that pads a case without a mask is background to nnU-Net, and would be scored.
        """
        train, validation = super().get_tr_and_val_datasets()
        left_out = [case for case in validation.identifiers if not self._is_scored(case)]
        if left_out:
            self.print_to_log_file(
                f"{len(left_out)} validation cases without usable masks do not choose the checkpoint."
            )
            validation.identifiers = [case for case in validation.identifiers if self._is_scored(case)]
        return train, validation

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """Return the network's optimizer and schedule; the classifier is a parameter group of its own."""
        optimizer, scheduler = super().configure_optimizers()
        architecture = self.configuration_manager.network_arch_init_kwargs
        self._alignment = DomainAlignment(
            self.domain.loss,
            channels=int(architecture["features_per_stage"][-1]),
            domains=len(self.names),
            classes=self.label_manager.num_segmentation_heads,
            dimensions=len(self.configuration_manager.patch_size),
        ).to(self.device)
        parameters = list(self._alignment.parameters())
        group = {"params": parameters, "lr": optimizer.param_groups[0]["lr"]}
        # With nnU-Net's momentum of 0.99 and rate of 0.01 the rectifiers of a small classifier die within a few steps.
        optimizer.add_param_group(group | ({"momentum": _MOMENTUM} if "momentum" in optimizer.defaults else {}))

        def clip(*_: Any) -> None:
            # What a hook returns would be taken for the arguments of the step.
            torch.nn.utils.clip_grad_norm_(parameters, _LARGEST_GRADIENT)

        optimizer.register_step_pre_hook(clip)
        return optimizer, scheduler

    def _build_loss(self) -> nn.Module:
        return LossWithDomains(super()._build_loss(), self._alignment, regions=self.label_manager.has_regions)

    def on_train_epoch_start(self) -> None:
        """Start counting the steps of an epoch."""
        super().on_train_epoch_start()
        self._domain_step = 0
        self._alignment.train()

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Train as nnU-Net does, on the masks that may be used, and on the domains of all samples."""
        unsupervised = [index for index, case in enumerate(batch["keys"]) if self._without_mask(str(case))]
        target = ignored(batch["target"], unsupervised, self.label_manager)
        done = self.current_epoch + self._domain_step / self.num_iterations_per_epoch
        self._domain_step += 1
        domains = torch.tensor(self._domains_of(batch), device=self.device)
        with self.loss.telling(domains, strength_at(self.domain.loss, done / self.num_epochs)):
            result: dict[str, Any] = super().train_step({**batch, "target": target})
        return result

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Log how well the classifier told domains while it trained."""
        super().on_train_epoch_end(train_outputs)
        accuracy, loss, strength = self.loss.taken()
        # nnU-Net's logger refuses names it does not know, and wants one value per epoch.
        for name, value in zip(LOGGED, (accuracy, loss, strength), strict=True):
            self.logger.log(name, value, self.current_epoch)
        self.print_to_log_file(
            f"Domains: classifier right {accuracy:.1%} (chance {1 / len(self.names):.1%}), loss {loss:.4f}, "
            f"strength {strength:.4f}"
        )

    def on_epoch_end(self) -> None:
        """Probe the features every so many epochs, then close the epoch as nnU-Net does."""
        epoch = self.current_epoch + 1
        if self.domain.probe_every and epoch % self.domain.probe_every == 0 and epoch < self.num_epochs:
            self._probe(self.current_epoch)
        super().on_epoch_end()

    def on_train_end(self) -> None:
        """End as nnU-Net does, then probe the features of the last epoch."""
        super().on_train_end()
        self._probe(self.current_epoch - 1)

    def save_checkpoint(self, filename: str) -> None:
        """Write nnU-Net's checkpoint with the classifier under a key of its own."""
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        with atomic_path(filename) as temporary:
            super().save_checkpoint(str(temporary))
            # It was written a moment ago, by this process.
            content = torch.load(temporary, map_location="cpu", weights_only=False)
            content[CHECKPOINT_KEY] = {"domains": list(self.names), "weights": self._alignment.state_dict()}
            torch.save(content, temporary)

    def load_checkpoint(self, filename_or_checkpoint: Any) -> None:
        """Load nnU-Net's checkpoint and the classifier.

        Raises SetupError for a checkpoint of another trainer, or of other domains.
        """
        if not self.was_initialized:
            self.initialize()
        content = torch.load(filename_or_checkpoint, map_location="cpu", weights_only=False)
        state = content.get(CHECKPOINT_KEY)
        found = None if state is None else tuple(state["domains"])
        if state is None or found != self.names:
            raise SetupError(
                "E-DOMAIN-CHECKPOINT",
                file=str(filename_or_checkpoint),
                found="no classifier of domains" if found is None else f"the domains {', '.join(found)}",
                expected=f"a classifier of {', '.join(self.names)}",
                fix="resume with the trainer, the cases.json and the splits that it was started with",
            )
        super().load_checkpoint(filename_or_checkpoint)
        self._alignment.load_state_dict(state["weights"])
        self._register_logs()

    def _domain_names(self) -> tuple[str, ...]:
        raise NotImplementedError

    def _domains_of(self, batch: dict[str, Any]) -> list[int]:
        raise NotImplementedError

    def _probe_samples(self) -> Iterator[tuple[Tensor, list[int], str]]:
        """Yield images (N, C, *patch) on the device, their domains, and the case they are of."""
        raise NotImplementedError

    def _without_mask(self, case: str) -> bool:
        return case in self._unlabelled

    def _is_scored(self, case: str) -> bool:
        return case not in self._unlabelled

    def _refuse(self) -> None:
        where = f"configuration {self.configuration_name}"
        if self.is_ddp:
            raise _error("E-DOMAIN-PARALLEL", where, "several processes", "one device", "train on one device")
        if self.is_cascaded:
            found, fix = "a stage that reads the masks of another", "train 3d_fullres, 3d_lowres or 2d"
            raise _error("E-DOMAIN-CASCADE", where, found, "a configuration that needs the image alone", fix)
        if self.configuration_manager.batch_size < _FEWEST_SAMPLES:
            fix = "nnUNetv2_spine_plan … --set batch_size=2"
            raise _error("E-DOMAIN-BATCH", where, "batches of one sample", "at least two, to compare domains", fix)

    def _refuse_masks(self) -> None:
        """Refuse cases whose masks may not be used where no label can say so."""
        train, validation = self.do_split()
        if validation and not any(map(self._is_scored, validation)):
            raise SetupError(
                "E-DOMAIN-VALIDATION",
                file=f"fold {self.fold}",
                found=f"no validation case with a mask to use: {shorten(validation)}",
                expected="validation cases with masks: others may not choose the checkpoint",
                fix="choose another fold, or write splits with such cases",
            )
        without = [case for case in train if self._without_mask(case)]
        if without and self.label_manager.ignore_label is None:
            raise SetupError(
                "E-DOMAIN-IGNORE",
                file="dataset.json labels",
                found=f"no ignore label, and {len(without)} training case(s) without masks to use: {shorten(without)}",
                expected='"ignore" with the id after the largest',
                fix="declare it in dataset.json of the raw dataset, then run nnUNetv2_plan_and_preprocess again",
            )

    def _register_logs(self) -> None:
        logged = self.logger.local_logger.my_fantastic_logging
        for name in LOGGED:
            logged.setdefault(name, [])

    def _plain_network(self) -> Any:
        return getattr(self.network, "_orig_mod", self.network)

    def _probe(self, epoch: int) -> None:
        """Fit a linear classifier to frozen features; write what it finds to the log and to the fold's folder."""
        subject_of = self._subjects()
        features, domains, groups = [], [], []
        for images, numbers, case in self._probe_samples():
            features.append(frozen_features(self._plain_network().encoder, images))
            domains += numbers
            groups += [subject_of.get(case, case)] * len(numbers)
        score = linear_probe(np.concatenate(features), domains, groups, len(self.names)) if features else None
        store_probe(self.output_folder, self.names, epoch, score, loss=self.domain.loss.name)
        if score is None:
            self.print_to_log_file("Probe: too few subjects to tell domains apart in features.")
            return
        self.print_to_log_file(
            f"Probe: a linear classifier tells the domain from features {score.accuracy:.1%} right, chance "
            f"{score.chance:.1%}; {score.samples} patches of {score.groups} subjects ({PROBE_FILE})"
        )

    def _subjects(self) -> dict[str, str]:
        folder = Path(self.preprocessed_dataset_folder_base)
        return subjects_of(folder) if (folder / "cases.json").is_file() else {}


def _error(code: str, file: str, found: str, expected: str, fix: str) -> SetupError:
    return SetupError(code, file=file, found=found, expected=expected, fix=fix)
