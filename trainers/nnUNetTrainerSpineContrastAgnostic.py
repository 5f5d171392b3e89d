"""The contrast-agnostic recipe of Bédard et al. 2023, its augmentation done right."""

from nnunet_spine_ext.training.soft import nnUNetTrainerSpineContrastAgnostic
