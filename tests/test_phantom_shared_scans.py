"""Scans of one subject on one grid share work: their bytes are those of scans made one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest

from nnunet_spine_ext.phantom import acquisition
from nnunet_spine_ext.phantom import paint as painting
from nnunet_spine_ext.phantom.kept import Kept
from nnunet_spine_ext.phantom.protocols import PROTOCOLS, Protocol
from nnunet_spine_ext.phantom.scan import Scan, ScanRequest, scan_subject
from nnunet_spine_ext.phantom.signal import Texture
from nnunet_spine_ext.phantom.spine import Spine

COARSE = (4.0, 4.0, 8.0)
T2W = PROTOCOLS["t2w_sagittal"].with_spacing(COARSE)
# Each differs from the first in what one step of the image depends on; the last ones in contrast, name and flow.
VARIANTS = {
    "first": T2W,
    "noise": replace(T2W, snr=8.0, coils=4, g_factor=1.6),
    "shading": replace(T2W, bias=0.5, normalised=(0.1, 0.2)),
    "window": replace(T2W, window=-0.3),
    "resolution": replace(T2W, resolution=(1.4, 1.9, 1.0)),
    "gap": replace(T2W, gap=0.4),
    "volume": replace(T2W, volume=True),
    "saturation": replace(T2W, saturation=0.0),
    "fat_shift": replace(T2W, bandwidth=40.0),
    "contrast": replace(T2W, gain=1.4),
    "field": replace(T2W, field_strength=1.5),
    "finer": T2W.with_spacing((3.0, 3.0, 8.0)),
    "name": replace(T2W, name="another"),
    "flow": replace(T2W, contrast="T1w"),
    "phase": replace(PROTOCOLS["t2star_axial"], orientation=T2W.orientation, half_width=T2W.half_width).with_spacing(
        COARSE
    ),
    "ct": replace(PROTOCOLS["ct_sagittal"], orientation=T2W.orientation).with_spacing(COARSE),
    "first again": T2W,
}


def _scans(*protocols: Protocol) -> list[Scan]:
    return scan_subject(ScanRequest(protocols, seed=3, region="lumbar", supersample=(1, 1, 4), width=48.0), 0)


@pytest.fixture(scope="module")
def painted_once() -> Iterator[None]:
    """Paint each grid once for all scans: their images are what is compared."""
    painted: dict[bytes, painting.Painted] = {}
    paint = painting.paint

    def recall(spine: Spine, affine: np.ndarray, *grid: tuple[int, int, int]) -> painting.Painted:
        key = affine.tobytes() + repr(grid).encode()
        if key not in painted:
            painted[key] = paint(spine, affine, *grid)
        return painted[key]

    with mock.patch.object(painting, "paint", recall):
        yield


@pytest.fixture(scope="module")
def together(painted_once: None) -> dict[str, Scan]:
    return dict(zip(VARIANTS, _scans(*VARIANTS.values()), strict=True))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_scan_among_others_is_the_scan_alone(together: dict[str, Scan], name: str) -> None:
    (alone,) = _scans(VARIANTS[name])
    among = together[name]
    for part in ("image", "semantic", "instances", "cord"):
        first, second = getattr(alone, part), getattr(among, part)
        assert first.array.tobytes() == second.array.tobytes(), part
        assert np.array_equal(first.affine, second.affine), part
    assert (alone.info, alone.truth, alone.protocol) == (among.info, among.truth, among.protocol)


def test_variants_differ_from_the_first(together: dict[str, Scan]) -> None:
    """Or the test above could not tell a result that was wrongly shared."""
    first = together["first"].image.array
    equal = [name for name, scan in together.items() if np.array_equal(scan.image.array, first)]
    assert equal == ["first", "first again"]


@pytest.mark.usefixtures("painted_once")
def test_texture_and_signal_are_computed_once_for_scans_that_share_them() -> None:
    variants = (VARIANTS["first"], VARIANTS["noise"], VARIANTS["shading"], VARIANTS["contrast"])
    with (
        mock.patch.object(Texture, "factors", autospec=True, side_effect=Texture.factors) as factors,
        mock.patch.object(acquisition, "_sample", side_effect=acquisition._sample) as sample,
    ):
        _scans(*variants)
    assert factors.call_count == 1
    assert sample.call_count == 2


def test_nothing_is_held_where_no_scan_follows() -> None:
    results = iter(range(4))
    kept, passing = Kept(), Kept(keep=False)
    assert [kept.get("key", lambda: next(results)) for _ in range(2)] == [0, 0]
    assert [passing.get("key", lambda: next(results)) for _ in range(2)] == [1, 2]
    assert kept.get("other", lambda: next(results)) == 3
