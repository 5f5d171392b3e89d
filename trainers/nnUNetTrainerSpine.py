"""nnU-Net training with spine settings, sided mirroring and grouped splits."""

from nnunet_spine_ext.training.base import nnUNetTrainerSpine
