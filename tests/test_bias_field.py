"""N4: a planted coil profile is flattened, the rest of the image stays."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.harmonize.bias_field import N4Settings, correct_bias

SHAPE = (40, 60, 8)
AFFINE = np.array([[0, 0, 4.0, 0], [-3.0, 0, 0, 0], [0, -3.0, 0, 0], [0, 0, 0, 1]])


def _scan(*, biased: bool) -> Volume:
    """Two tissues and air; the coil loses two thirds of its sensitivity from one end to the other."""
    rng = np.random.default_rng(0)
    array = np.full(SHAPE, 10.0)
    array[5:35] = 300
    array[10:30, 5:55:10] = 500
    array[10:30, 6:55:10] = 500
    ramp = np.exp(-1.1 * np.linspace(0, 1, SHAPE[1]))[None, :, None] if biased else 1.0
    return Volume((array * ramp + rng.normal(0, 4, SHAPE)).clip(0).round().astype(np.int16), AFFINE)


def test_a_coil_profile_is_flattened() -> None:
    biased = _scan(biased=True)
    corrected = correct_bias(biased)
    assert corrected.array.dtype == np.int16
    assert corrected.same_grid(biased)

    def spread(volume: Volume) -> float:
        tissue = volume.array[6:9, 5:-5].astype(float)
        return float(tissue.std() / tissue.mean())

    assert spread(biased) > 0.2
    assert spread(corrected) < 0.3 * spread(biased)
    inside = biased.array > 80
    assert abs(np.log(corrected.array[inside] / biased.array[inside]).mean()) < 0.1


def test_equal_input_gives_equal_bytes_and_floats_stay_floats() -> None:
    image = _scan(biased=True)
    image = image.with_array(image.array.astype(np.float32))
    settings = N4Settings(levels=1, iterations=5)
    one, two = correct_bias(image, settings), correct_bias(image, settings)
    assert one.array.dtype == np.float32
    np.testing.assert_array_equal(one.array, two.array)


@pytest.mark.parametrize("fill", [0, -3])
def test_what_has_no_field_is_refused(fill: int) -> None:
    array = np.full(SHAPE, fill, dtype=np.int16)
    if fill:
        array[5:35] = 300
    with pytest.raises(CaseError) as caught:
        correct_bias(Volume(array, AFFINE))
    assert caught.value.code == "E-INT-N4"
