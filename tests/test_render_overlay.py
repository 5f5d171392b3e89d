"""Overlays, outlines, contact sheets and their bytes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.render.colours import default_colours, palette, present_ids, whole_labels
from nnunet_spine_ext.render.overlay import outline_mask, overlay, paint
from nnunet_spine_ext.render.png import encode_jpeg, encode_layer, encode_png
from nnunet_spine_ext.render.sheet import contact_sheet

RED = (255, 0, 0)


def _block(value: int = 10, dtype: type = np.uint8) -> Volume:
    array = np.zeros((20, 20, 20), dtype=dtype)
    array[6:14, 6:14, 6:14] = value
    return Volume(array, np.eye(4))


def test_fill_blends_and_outline_is_opaque() -> None:
    labels = _block()
    image = labels.with_array(np.full(labels.shape, 100, np.int16))
    picture = overlay(image, labels, plane="axial", colours={10: RED}, alpha=0.5, size=20, marks=False, limits=(0, 200))
    assert tuple(picture[0, 0]) == (128, 128, 128)
    assert tuple(picture[10, 10]) == (192, 64, 64)
    assert tuple(picture[6, 10]) == RED
    plain = overlay(image, None, plane="axial", size=20, marks=False, limits=(0, 200))
    assert np.unique(plain).tolist() == [128]


def test_masks_on_another_grid_land_in_the_right_place() -> None:
    labels = _block()
    image = labels.with_array(np.zeros(labels.shape, np.int16))
    moved = labels.to("PIR").crop((slice(0, 18), slice(0, 17), slice(2, 20)))
    one = overlay(image, labels, plane="coronal", size=60, marks=False)
    assert np.array_equal(overlay(image, moved, plane="coronal", size=60, marks=False), one)


def test_labels_alone_are_shown_on_black() -> None:
    picture = overlay(None, _block(), plane="sagittal", size=40, marks=False)
    assert tuple(picture[0, 0]) == (0, 0, 0)
    assert picture.max() > 60


def test_marks_are_drawn_and_small_pictures_have_none() -> None:
    image = _block(0)
    assert overlay(image, None, plane="axial", size=200).max() > 200
    assert overlay(image, None, plane="axial", size=30).max() == 0


def test_float_masks_are_rounded_and_every_id_has_a_colour() -> None:
    labels = _block(1).with_array(_block(1).array * np.float32(1.0001))
    labels.array[0, 0, 0] = np.nan
    assert present_ids(whole_labels(labels).array) == {1: 512}
    chosen = palette([7, 900, 0, -3], {7: RED})
    assert chosen.ids == (-3, 7, 900)
    entries = chosen.index(np.array([[0, 7], [900, 5]]))
    assert entries.tolist() == [[0, 2], [3, 0]]
    assert tuple(chosen.rgb(entries)[0, 1]) == RED
    assert len(palette(range(1, 400)).ids) == 255


def test_colours_come_from_the_scheme_that_knows_the_ids() -> None:
    assert default_colours([1, 14])[14] == default_colours([100])[100]
    assert default_colours([5000]) == {}


def test_outline_is_inside_and_not_at_the_border_of_the_picture() -> None:
    labels = np.zeros((9, 9), int)
    labels[2:7, 2:9] = 1
    border = outline_mask(labels)
    assert border[2, 4]
    assert not border[1, 4]
    assert not border[4, 8]
    assert not border[4, 4]
    assert outline_mask(labels, 2).sum() > border.sum()


def test_paint_leaves_its_input_alone() -> None:
    rgb = np.zeros((4, 4, 3), np.uint8)
    paint(rgb, np.ones((4, 4), int), {1: RED})
    assert rgb.max() == 0


@pytest.mark.parametrize(("image", "alpha", "words"), [(False, 0.5, "needs an image"), (True, 1.5, "alpha")])
def test_impossible_overlays_are_refused(image: bool, alpha: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        overlay(_block() if image else None, None, plane="axial", alpha=alpha)


def test_bytes_are_equal_for_equal_pictures_and_come_back() -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (12, 17, 3)).astype(np.uint8)
    assert encode_png(rgb) == encode_png(rgb.copy())
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(rgb)))), rgb)
    assert Image.open(io.BytesIO(encode_jpeg(rgb[..., 0]))).size == (17, 12)
    with pytest.raises(ValueError, match="uint8"):
        encode_png(rgb.astype(float))


def test_layers_are_transparent_where_nothing_is() -> None:
    chosen = palette([3], {3: RED})
    layer = Image.open(io.BytesIO(encode_layer(chosen.index(np.array([[0, 3]])), chosen))).convert("RGBA")
    assert layer.getpixel((0, 0))[3] == 0
    assert layer.getpixel((1, 0)) == (*RED, 255)


def test_long_captions_stay_in_their_column() -> None:
    black = np.zeros((10, 60, 3), np.uint8)
    alone = contact_sheet([[black, black]], captions=[["a name that is far too long", ""]])
    assert (alone[6:24, 6:66] != alone[0, 0]).any(), "something is written"
    assert (alone[6:24, 66:] == alone[0, 0]).all(), "and nothing beside its picture"


def test_contact_sheet_fits_its_pictures() -> None:
    wide, tall = np.full((10, 30, 3), 50, np.uint8), np.full((20, 8, 3), 90, np.uint8)
    page = contact_sheet([[wide, tall], [tall]], captions=[["one", "two"], ["three"]])
    assert page.shape == (20 + 20 + 2 * 18 + 3 * 6, 30 + 8 + 3 * 6, 3)
    assert contact_sheet([[wide]]).shape == (22, 42, 3)
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([[]])
    with pytest.raises(ValueError, match="captions"):
        contact_sheet([[wide]], captions=[[]])
