"""What was wrong to the eye and is right now: dots, speckles and seams that no scanner makes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nnunet_spine_ext.augment.context import Context
from nnunet_spine_ext.augment.domain_bank import load_bank
from nnunet_spine_ext.augment.keys import SampleKey
from nnunet_spine_ext.augment.pipeline import Pipeline

KEY = SampleKey(0, "case", 0, 0)
CONTEXT = Context(shape=(48, 64), spacing=(1.0, 1.0), labels=tuple(range(15)))


def _discs_and_marrow() -> tuple[torch.Tensor, torch.Tensor]:
    """Vertebrae at 0.3 and discs at 0.6 with the noise of a good scan, thin endplates that show half of both; air."""
    image, labels = torch.zeros(1, 1, 48, 64), torch.zeros(1, 1, 48, 64, dtype=torch.int16)
    for start in range(4, 44, 10):
        for first, last, label, level in ((0, 5, 10, 0.3), (5, 6, 13, 0.45), (6, 9, 14, 0.6), (9, 10, 13, 0.45)):
            rows = slice(start + first, start + last)
            image[..., rows, 8:40], labels[..., rows, 8:40] = level, label
    image[..., 4:44, 40:56] = 1.0
    noise = 0.01 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    return (image + noise).clamp_min(0), labels


@pytest.mark.parametrize("field_strength", [1.5, 3.0])
@pytest.mark.parametrize("te", [65, 140])
def test_endplates_change_as_their_neighbours_do(field_strength: float, te: float) -> None:
    image, labels = _discs_and_marrow()
    settings = {"name": "protocol_change", "p": 1, "field_strength": field_strength, "te": te, "tr": 4000}
    result, _ = Pipeline({"transforms": [settings]}, CONTEXT)(image, labels, [KEY])
    ratio = {n: float(result[labels == n].mean() / image[labels == n].mean()) for n in (10, 13, 14)}
    # Their own signal, of a T2 of 9 ms, changed by a factor of 4 where everything else changed by a fifth.
    assert ratio[13] == pytest.approx(ratio[10], rel=0.05)
    assert 0.7 < ratio[13] / ratio[14] < 1.4


@pytest.mark.parametrize("domain", sorted(load_bank(None)))
def test_no_vertebra_gets_dots_of_its_border(domain: str) -> None:
    image, labels = _discs_and_marrow()
    settings = {"name": "domain_transfer", "p": 1, "domains": [domain], "blend": 0, "mix": 1}
    result, _ = Pipeline({"transforms": [settings]}, CONTEXT)(image, labels, [KEY])
    inside = result[labels == 10].numpy()
    quarter, median, three = np.quantile(inside, (0.25, 0.5, 0.75))
    # A normal distribution reaches 3.4 times the half of its middle half at 1 and 99 %.
    low, high = np.quantile(inside, (0.01, 0.99))
    assert high - median < 8 * (three - quarter)
    assert median - low < 8 * (three - quarter)
    assert float(np.abs(inside - median).max()) < 0.35


def test_half_a_strength_is_about_half_a_logarithm() -> None:
    image = torch.linspace(0, 1, 48 * 64).view(1, 1, 48, 64)
    settings = {"name": "log1p", "p": 1, "amount": 20, "retain_stats": False}
    lifted = []
    for strength in (0.25, 0.5, 1.0):
        line = Pipeline({"transforms": [settings]}, CONTEXT.at_strength(strength))
        lifted.append(float((line(image, None, [KEY])[0] - image).max()))
    # Scaled in the logarithm of the amount, half a strength did a tenth of the whole.
    assert 0.1 < lifted[0] / lifted[2] < 0.4
    assert 0.35 < lifted[1] / lifted[2] < 0.65
