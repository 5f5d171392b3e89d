"""Simulated scanners as domains, and features that do not tell them; see `nnunet_spine_ext.training.dann`."""

from nnunet_spine_ext.training.dann import nnUNetTrainerSpineShiftDANN
