"""Which vertebra is which: levels of separated vertebrae from scores and anchors."""
