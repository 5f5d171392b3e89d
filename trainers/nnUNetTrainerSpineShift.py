"""nnUNetTrainerSpine that simulates other scanners and contrasts on the training device."""

from nnunet_spine_ext.training.shift import nnUNetTrainerSpineShift
