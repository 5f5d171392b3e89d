"""One picture of a whole spine: a sagittal and a coronal plane that follow it, instances coloured and named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from nnunet_spine_ext.core.labels import Colour
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.render.choose import curve
from nnunet_spine_ext.render.overlay import draw_marks, paint
from nnunet_spine_ext.render.slices import View, view
from nnunet_spine_ext.render.window import window

_PANELS = ("sagittal", "coronal")
_MARGIN_MM = 15.0
_GAP = 8
_TEXT, _HALO = (255, 255, 255), (0, 0, 0)


def spine_picture(
    image: Volume | None,
    instances: Volume,
    *,
    colours: Mapping[int, Colour],
    bodies: Volume | None = None,
    names: Mapping[int, str] | None = None,
    points: Mapping[int, tuple[float, float, float]] | None = None,
    size: int = 900,
    alpha: float = 0.4,
) -> Array:
    """Draw the spine from the side and from the front, both planes bent along it, at one scale.

    Parameters
    ----------
    image: grey values on the grid of `instances`; None: instances on black.
    instances: integer ids in any orientation; what is not labelled with a margin of 15 mm is cut off.
    colours: RGB per id.
    bodies: what the planes follow (non-zero), on the same grid; None or empty: all instances.
    names, points: what is written on an instance, and where (RAS+ mm); ids without a point get no name.
    size: pixels along the longer side of the larger plane.
    alpha: opacity of the colours over the image, 0 to 1.

    Returns
    -------
    (H, W, 3) uint8.
    """
    labels = instances.to("RAS")
    grey = None if image is None else image.to("RAS")
    followed = labels if bodies is None or not bodies.array.any() else bodies.to("RAS")
    views = [_panel(plane, labels, followed) for plane in _PANELS]
    scale = size / max(max(_extent_mm(one)) for one in views)
    limits = None if grey is None else window(grey.array)
    pictures = []
    for one in views:
        height, width = (max(1, round(mm * scale)) for mm in _extent_mm(one))
        laid_out = replace(one, size=(height, width))
        rgb = np.zeros((height, width, 3), dtype=np.uint8)
        if grey is not None and limits is not None:
            rgb[:] = laid_out.grey(grey, limits)[..., None]
        rgb = paint(rgb, laid_out.labels(labels), colours, alpha=alpha if grey is not None else 0.85)
        pictures.append(draw_marks(_named(rgb, laid_out, names or {}, points or {}), laid_out))
    return _side_by_side(pictures)


def _panel(plane: str, labels: Volume, followed: Volume) -> View:
    """Lay out a plane that follows the spine, cut to all that is labelled, in the plane or not."""
    laid_out = view(labels, plane, curve(followed, plane))
    flat = (labels.array != 0).any(axis=0 if plane == "sagittal" else 1, keepdims=True)
    shadow = Volume(np.broadcast_to(flat, labels.shape), labels.affine)
    return laid_out.focused(laid_out.cut(shadow), _MARGIN_MM, size=1)


def _extent_mm(laid_out: View) -> tuple[float, float]:
    """Height and width of the shown part."""
    spacing = laid_out.grid.spacing
    across = spacing[1] if laid_out.plane == "sagittal" else spacing[0]
    rows, columns = laid_out.rows, laid_out.columns
    return (rows[1] - rows[0]) * spacing[2], (columns[1] - columns[0]) * across


def _named(
    rgb: Array, laid_out: View, names: Mapping[int, str], points: Mapping[int, tuple[float, float, float]]
) -> Array:
    from PIL import Image, ImageDraw, ImageFont

    shown = [key for key in names if key in points]
    if not shown:
        return rgb
    picture = Image.fromarray(rgb)
    pen = ImageDraw.Draw(picture)
    places = laid_out.project(np.array([points[key] for key in shown]))
    font = ImageFont.load_default(_letters(places, rgb.shape[0]))
    for key, (x, y) in zip(shown, places, strict=True):
        place = (float(x), float(y))
        pen.text(place, names[key], fill=_TEXT, font=font, anchor="mm", stroke_width=2, stroke_fill=_HALO)
    return np.asarray(picture)


def _letters(places: Array, height: int) -> float:
    """Return a size of letters at which names of neighbours do not meet: 9 to 22 pixels."""
    heights = np.sort(places[:, 1])
    room = float(np.diff(heights).min()) if len(heights) > 1 else height / 10
    return float(np.clip(0.7 * room, 9, 22))


def _side_by_side(pictures: list[Array]) -> Array:
    height = max(picture.shape[0] for picture in pictures)
    gap = np.zeros((height, _GAP, 3), dtype=np.uint8)
    columns: list[Array] = []
    for picture in pictures:
        padded = np.zeros((height, *picture.shape[1:]), dtype=np.uint8)
        padded[: picture.shape[0]] = picture
        columns += [padded, gap]
    return np.concatenate(columns[:-1], axis=1)
