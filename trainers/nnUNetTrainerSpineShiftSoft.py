"""Soft labels with the adaptive wing loss, and simulated scanners and contrasts."""

from nnunet_spine_ext.training.soft import nnUNetTrainerSpineShiftSoft
