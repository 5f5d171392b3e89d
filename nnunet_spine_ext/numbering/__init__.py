"""Which vertebra is which: levels of separated vertebrae from scores and anchors."""

from nnunet_spine_ext.numbering.interface import NumberingResult, NumberingSettings, number

__all__ = ["NumberingResult", "NumberingSettings", "number"]
