"""A soft model that starts from another one's weights and learns from few samples with soft labels."""

from nnunet_spine_ext.training.finetune_soft import nnUNetTrainerSpineFinetuneSoft
