"""Features that do not tell the scanner, site or vendor; see `nnunet_spine_ext.training.dann`."""

from nnunet_spine_ext.training.dann import nnUNetTrainerSpineDANN
