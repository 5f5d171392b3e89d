"""Numbers of "Generalization of the T2w VERIDAH Model Across MRI Scanners" (2026), to be put beside measured ones.

They follow from a formula (Dice = 0.910 - 0.88 gap, the same share recovered on every scanner), not from images.
"""

from __future__ import annotations

SOURCE_DICE, TARGET_DICE = 0.9101, 0.5877
MEAN_DROP = 0.3224
# Slope of Dice over the gap in its tables 1 and 4.
SLOPE = 0.88
# Table 1: Dice without adaptation.
DICE = {
    "nako-siemens-3t": 0.9101,
    "philips-3t": 0.7717,
    "ge-3t": 0.6935,
    "siemens-1.5t": 0.6381,
    "ge-1.5t": 0.4301,
    "philips-1.5t": 0.4053,
}
# Table 4: drop of Dice by one component.
DROPS = {
    "resolution": 0.1751,
    "field": 0.1317,
    "contrast": 0.1104,
    "noise": 0.1061,
    "manufacturer": 0.0888,
    "bias": 0.0718,
}
# Table 2: lumbar minus cervical Dice, on the source and on its worst target.
REGION_GAP_SOURCE, REGION_GAP_WORST = 0.9449 - 0.8915, 0.4907 - 0.2635
# Section 4.4 and table 3, as shares of the gap of 0.3224 above a Dice of 0.5877.
SHARES = {
    "match": (0.7611 - TARGET_DICE) / MEAN_DROP,
    "tta": (0.7284 - TARGET_DICE) / MEAN_DROP,
    "match+tta": 0.7379,
    "adversarial": (0.8089 - TARGET_DICE) / MEAN_DROP,
    "finetuned": (0.8897 - TARGET_DICE) / MEAN_DROP,
}
# Section 4.6: Dice on GE 1.5 T by number of annotated samples.
SAMPLES = {0: 0.4248, 10: 0.5421, 50: 0.7592, 100: 0.8217, 200: 0.8342}


def sample_share(n: int) -> float:
    """Return the share of the gap that fine-tuning with n samples recovers in section 4.6."""
    return (SAMPLES[n] - SAMPLES[0]) / (SOURCE_DICE - SAMPLES[0])
