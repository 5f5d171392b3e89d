"""Soft labels with soft Dice and binary cross entropy."""

from nnunet_spine_ext.training.soft import nnUNetTrainerSpineSoftDiceBCE
