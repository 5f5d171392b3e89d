"""Trainers whose features do not tell domains: facts of cases.json, or the scanners that the augmentation simulates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from torch import Tensor

from nnunet_spine_ext.augment.config import AugmentConfig
from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.augment.pipeline import Pipeline, Plan
from nnunet_spine_ext.augment.scanner_mix import ScannerMix
from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.training.base import nnUNetTrainerSpine, refuse_soft_settings
from nnunet_spine_ext.training.domain import DomainAlignmentMixin
from nnunet_spine_ext.training.domain_cases import CaseDomains, case_domains
from nnunet_spine_ext.training.domain_loader import DomainBalancedLoader, loading
from nnunet_spine_ext.training.domain_patches import LARGEST_COHORT, chosen_cases, patches_of
from nnunet_spine_ext.training.domain_settings import completed_domain
from nnunet_spine_ext.training.on_device import DeviceAugmentation
from nnunet_spine_ext.training.settings import AugmentSettings, SpineSettings, settings_from_plans
from nnunet_spine_ext.training.shift import DeviceAugmentationMixin
from nnunet_spine_ext.training.targets import Targets

_FEWEST_SCANNERS = 2


class CaseDomainsMixin(DomainAlignmentMixin):
    """Domains are facts of cases.json; every batch holds several of them."""

    _cases: CaseDomains
    _training: Any = None

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """Return the datasets, and remember which one is for training: its batches are balanced."""
        train, validation = super().get_tr_and_val_datasets()
        self._training = train
        return train, validation

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Return nnU-Net's loaders; that of the training cases balances domains."""
        with loading(self._loader):
            loaders: tuple[Any, Any] = super().get_dataloaders()
        return loaders

    def _loader(self, dataset: Any, *args: Any, **options: Any) -> Any:
        if dataset is not self._training:
            return nnUNetDataLoader(dataset, *args, **options)
        cases = self._cases
        return DomainBalancedLoader(
            dataset,
            *args,
            **options,
            domain_of=dict(cases.of_case),
            supervised=cases.supervised,
            share=self.domain.labelled_share,
        )

    def _domain_names(self) -> tuple[str, ...]:
        folder = self.preprocessed_dataset_folder_base
        self._cases = case_domains(folder, self.domain, *self.do_split())
        return self._cases.names

    def _domains_of(self, batch: dict[str, Any]) -> list[int]:
        return [self._cases.of_case[str(case)] for case in batch["keys"]]

    def _without_mask(self, case: str) -> bool:
        return case not in self._cases.supervised

    def _is_scored(self, case: str) -> bool:
        return case in self._cases.scored

    def _probe_samples(self) -> Iterator[tuple[Tensor, list[int], str]]:
        domain_of = self._cases.of_case
        patch, count = self.configuration_manager.patch_size, self.domain.probe_patches
        for case in chosen_cases(domain_of):
            dataset = self.dataset_class(self.preprocessed_dataset_folder, [case])
            images, _ = patches_of(dataset, case, patch, count)
            yield images.to(self.device), [domain_of[case]] * count, case


class SimulatedDomainsMixin(DomainAlignmentMixin):
    """Domains are the scanners that the augmentation simulates; stands after `DeviceAugmentationMixin`."""

    augmentation: DeviceAugmentation

    def _domain_names(self) -> tuple[str, ...]:
        return self._mix.names

    def _domains_of(self, batch: dict[str, Any]) -> list[int]:
        mix = self._mix
        return [mix.index(key) for key in batch["plan"].keys]

    @cached_property
    def _mix(self) -> ScannerMix:
        augment = settings_from_plans(self.plans_manager.plans).augment or AugmentSettings()
        return scanners_of(augment.effective())

    def _probe_samples(self) -> Iterator[tuple[Tensor, list[int], str]]:
        """Yield the same patches as every scanner takes them, without any other augmentation."""
        mix, context = self._mix, self.augmentation.pipeline.context
        plain = replace(context, source_shape=None)
        masked = self.configuration_manager.use_mask_for_norm
        labels = self.label_manager
        highest = max((*context.labels, labels.ignore_label or 0))
        device = DeviceAugmentation(
            Pipeline(AugmentConfig(scanners=mix), plain), Targets(), highest=highest, masked=masked
        )
        everyone = {case: 0 for side in self.do_split() for case in side}
        for case in chosen_cases(everyone, max(1, LARGEST_COHORT // len(mix.names))):
            dataset = self.dataset_class(self.preprocessed_dataset_folder, [case])
            images, masks = patches_of(dataset, case, plain.shape, self.domain.probe_patches)
            for index in range(len(images)):
                keys = [SampleKey(0, case, 0, index * len(mix.names) + k, scanner=k) for k in mix.used]
                repeated = (t[index : index + 1].expand(len(keys), *t.shape[1:]) for t in (images, masks))
                taken, _ = device.apply(*(t.to(self.device) for t in repeated), device.plan(keys))
                yield taken, [mix.index(key) for key in keys], case


class nnUNetTrainerSpineDANN(CaseDomainsMixin, nnUNetTrainerSpine):
    """`nnUNetTrainerSpine` whose features do not tell the scanner, site or vendor; targets need no masks."""

    @classmethod
    def completed(cls, settings: SpineSettings) -> SpineSettings:
        """Write the domain settings out; raises SetupError for those of soft labels and of augmentation."""
        domain = completed_domain(settings.domain, cls.__name__, simulated=False)
        return super().completed(replace(settings, domain=domain))


class nnUNetTrainerSpineShiftDANN(DeviceAugmentationMixin, SimulatedDomainsMixin, nnUNetTrainerSpine):
    """Simulated scanners, and features that do not tell them apart: no data of another scanner is needed."""

    default_augmentation = "scanners"

    @classmethod
    def completed(cls, settings: SpineSettings) -> SpineSettings:
        """Write augmentation and domain settings out; raises SetupError for an augmentation without scanners."""
        refuse_soft_settings(settings, cls.__name__)
        domain = completed_domain(settings.domain, cls.__name__, simulated=True)
        settings = super().completed(replace(settings, domain=domain))
        scanners_of((settings.augment or AugmentSettings()).effective())
        return settings

    def _keys(self, cases: Sequence[str], epoch: int, step: int) -> list[SampleKey]:
        keys = super()._keys(cases, epoch, step)
        return [*keys, *map(self._mix.other, keys)] if self.domain.loss.paired else keys

    def _augmented(self, crops: tuple[Tensor, ...], plan: Plan) -> tuple[Tensor, Tensor | list[Tensor]]:
        """Return what the network and the loss get; with ``paired`` every crop twice, and targets of the first."""
        if not self.domain.loss.paired:
            return super()._augmented(crops, plan)
        data, target = super()._augmented(tuple(torch.cat((crop, crop)) for crop in crops), plan)
        count = len(data) // 2
        return data, [level[:count] for level in target] if isinstance(target, list) else target[:count]


def scanners_of(config: AugmentConfig) -> ScannerMix:
    """Return the scanners of an augmentation; raises SetupError when there are fewer than two to tell apart."""
    mix = config.scanners
    if mix is None or len(mix.used) < _FEWEST_SCANNERS:
        raise SetupError(
            "E-DOMAIN-SINGLE",
            file="plans spine_ext.augment.config",
            found=f"{'no scanners' if mix is None else f'one scanner, {mix.names[mix.used[0]]}'} to be told apart",
            expected="an augmentation with at least two scanners",
            fix="set augment.config=scanners, or give a configuration with a part scanners",
        )
    return mix
