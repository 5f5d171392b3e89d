"""nnUNetTrainerSpine that starts from another model's weights and learns from few samples."""

from nnunet_spine_ext.training.finetune import nnUNetTrainerSpineFinetune
