"""Cord and canal told apart by shape, in any orientation, on real masks and on made ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnunet_spine_ext.core.io import read_volume
from nnunet_spine_ext.core.labels import swap_sides
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.measure.cord_canal import enclosure, judged

CORD, CANAL = 60, 61


def tube(spacing: tuple[float, float, float] = (1.0, 1.0, 2.0), conus: int = 20) -> Volume:
    """Return a canal of 9 mm radius around a cord of 4 mm that ends at slice `conus`, in RAS."""
    shape = tuple(round(size / step) for size, step in zip((30, 30, 60), spacing, strict=True))
    x, y, z = np.meshgrid(*[np.arange(n) * step for n, step in zip(shape, spacing, strict=True)], indexing="ij")
    # The canal bends, as lordosis makes it do.
    radius = np.hypot(x - 15, y - 15 - 0.003 * (z - 30) ** 2)
    array = np.zeros(shape, np.uint8)
    array[radius <= 9] = CANAL
    array[(radius <= 4) & (z / spacing[2] >= conus / spacing[2])] = CORD
    return Volume(array, np.diag([*spacing, 1.0]))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 2.0), (3.3, 0.6, 0.6), (0.5, 0.5, 5.0)])
@pytest.mark.parametrize("orientation", ["RAS", "PIR", "LPS", "SAL"])
def test_the_cord_is_the_one_inside(spacing: tuple[float, float, float], orientation: str) -> None:
    mask = tube(spacing).to(orientation)
    found = enclosure(mask, CORD, CANAL)
    assert found.verdict == "right"
    assert found.cord > 0.9
    assert found.slices > 0
    swapped = mask.with_array(swap_sides(mask.array, ((CORD, CANAL),)))
    assert enclosure(swapped, CORD, CANAL).verdict == "exchanged"
    assert enclosure(swapped, CANAL, CORD) == found


def test_where_neither_surrounds_the_other_nothing_is_said() -> None:
    array = np.zeros((10, 10, 4), np.uint8)
    array[2:5, 2:8], array[5:8, 2:8] = CORD, CANAL
    assert enclosure(Volume(array, np.eye(4)), CORD, CANAL).verdict == "unclear"


@pytest.mark.parametrize("missing", [CORD, CANAL])
def test_one_label_alone_is_unclear_and_nothing_to_warn_of(missing: int) -> None:
    mask = tube()
    alone = mask.with_array(np.where(mask.array == missing, 0, mask.array))
    found = enclosure(alone, CORD, CANAL)
    assert (found.verdict, found.slices) == ("unclear", 0)
    assert judged(alone, CORD, CANAL, file="m", exchanged="a", unclear="b") == ("right", [])


def test_a_warning_names_the_file_the_shares_and_what_is_done() -> None:
    mask = tube()
    verdict, (warning,) = judged(mask, CANAL, CORD, file="m.nii.gz", exchanged="put right", unclear="kept")
    assert (verdict, warning.code, warning.file, warning.fix) == (
        "exchanged", "W-LABEL-EXCHANGED", "m.nii.gz", "put right",
    )  # fmt: skip
    assert "100% the other way round" in warning.found
    array = np.zeros((10, 10, 4), np.uint8)
    array[2:5, 2:8], array[5:8, 2:8] = CORD, CANAL
    verdict, (warning,) = judged(Volume(array, np.eye(4)), CORD, CANAL, file="m", exchanged="put right", unclear="kept")
    assert (verdict, warning.code, warning.fix) == ("unclear", "W-LABEL-UNCLEAR", "kept")


def test_labels_at_the_border_do_not_meet_across_it() -> None:
    array = np.zeros((6, 6, 2), np.uint8)
    array[0], array[-1] = CORD, CANAL
    assert enclosure(Volume(array, np.eye(4)), CORD, CANAL).cord == 0


def test_real_masks(test_data: Path) -> None:
    for name, verdict in (
        ("panoptica/semantic/ref.nii.gz", "exchanged"),
        ("panoptica/semantic/pred.nii.gz", "right"),
        ("tptbox/sample_mri/sub-mri_seg-subreg_label-6_msk.nii.gz", "right"),
    ):
        assert enclosure(read_volume(test_data / name), CORD, CANAL).verdict == verdict, name
