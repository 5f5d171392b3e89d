"""Soft labels with the adaptive wing loss."""

from nnunet_spine_ext.training.soft import nnUNetTrainerSpineSoft
