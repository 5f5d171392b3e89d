"""The picture of a whole spine: both planes follow it, at one scale, with names on the vertebrae."""

from __future__ import annotations

import numpy as np
import pytest
from spine_builder import Spine, build

from nnunet_spine_ext.core.labels import SCHEMES
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.measure.centroids import centroids
from nnunet_spine_ext.render.spine import spine_picture

COLOURS = SCHEMES["instances"].colours
LEVELS = ("T10", "T11", "T12", "L1", "L2", "L3")


@pytest.fixture(scope="module")
def bent() -> tuple[Volume, Volume]:
    """Return classes and instances of a spine that no straight plane shows whole."""
    return build(Spine(levels=LEVELS, spacing=(2.0, 2.0, 2.0), scoliosis=45.0))


def drawn(picture: np.ndarray, ids: set[int]) -> set[int]:
    """Return the instances whose pure colour (their outline) is in a picture."""
    pixels = {tuple(int(v) for v in pixel) for pixel in picture.reshape(-1, 3)}
    return {key for key in ids if COLOURS[key] in pixels}


def test_both_planes_follow_the_spine(bent: tuple[Volume, Volume]) -> None:
    semantic, instances = bent
    bodies = semantic.with_array(np.isin(semantic.array, (10, 14)))
    picture = spine_picture(None, instances, colours=COLOURS, bodies=bodies, size=500)
    assert picture.shape[0] == 500
    black = np.flatnonzero((picture == 0).all(axis=(0, 2)))
    gap = next(k for k in black if set(range(k, k + 8)) <= set(black) and 100 < k < picture.shape[1] - 100)
    vertebrae = set(range(1, len(LEVELS) + 1))
    for panel in (picture[:, :gap], picture[:, gap:]):
        assert drawn(panel, vertebrae | {26}) == vertebrae | {26}


def test_the_picture_is_the_same_for_any_order_of_axes_and_fits_the_spine(bent: tuple[Volume, Volume]) -> None:
    semantic, instances = bent
    image = semantic.with_array(semantic.array * np.float32(40))
    pictures = [
        spine_picture(image.to(order), instances.to(order), colours=COLOURS, size=300)
        for order in ("RAS", "PIR", "LSA")
    ]
    assert all(np.array_equal(pictures[0], other) for other in pictures[1:])
    wide = Volume(np.pad(instances.array, ((20, 20), (0, 0), (40, 40))), instances.affine)
    upright, turned = (spine_picture(None, v, colours=COLOURS, size=300) for v in (wide, wide.to("SPL")))
    assert np.array_equal(upright, turned)


def test_names_stand_on_their_vertebrae(bent: tuple[Volume, Volume]) -> None:
    semantic, instances = bent
    points = {key: instances.world(point) for key, point in centroids(instances, semantic).items() if key < 26}
    plain = spine_picture(None, instances, colours=COLOURS, size=600)
    # A name without a place is left out.
    named = spine_picture(
        None, instances, colours=COLOURS, size=600, names={3: "T12", 99: "?"}, points={3: tuple(points[3])}
    )
    rows = np.flatnonzero((plain != named).any(axis=(1, 2)))
    assert 8 <= len(rows) <= 60
    body = np.flatnonzero((plain == COLOURS[3]).all(axis=2).any(axis=1))
    assert body.min() <= rows.mean() <= body.max()


def test_nothing_labelled_is_a_picture_too(bent: tuple[Volume, Volume]) -> None:
    nothing = bent[1].with_array(np.zeros_like(bent[1].array))
    assert spine_picture(None, nothing, colours=COLOURS, size=200).max() > 0  # directions and scale
    assert spine_picture(bent[0], nothing, colours=COLOURS, size=200).shape[0] == 200
