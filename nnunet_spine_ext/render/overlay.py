"""Label overlays on one slice as an RGB picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nnunet_spine_ext.core.labels import Colour
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.render.choose import choose_position
from nnunet_spine_ext.render.colours import default_colours, palette, present_ids, whole_labels
from nnunet_spine_ext.render.slices import Convention, View, view
from nnunet_spine_ext.render.window import Window, window

_TEXT = (235, 235, 235)
_HALO = (0, 0, 0)


def overlay(
    image: Volume | None,
    labels: Volume | None,
    *,
    plane: str,
    position: int | Sequence[int] | None = None,
    colours: Mapping[int, Colour] | None = None,
    alpha: float = 0.45,
    outline: bool = True,
    size: int = 512,
    convention: Convention = "radiological",
    limits: Window | None = None,
    marks: bool = True,
) -> Array:
    """Draw one slice with its labels, in physical proportions and with its directions marked.

    The slice is one of the closest anatomical order (oblique volumes are not interpolated); see `slices` for what is
    left and right.

    Parameters
    ----------
    image: grey values, any orientation; None: labels on black.
    labels: integer ids; a mask on another grid is resampled (nearest) to the image; None: the image alone.
    plane: ``sagittal``, ``coronal`` or ``axial``.
    position: index along the RAS axis through the plane, or one per level for a curved plane; None: where the labels
        show most (`choose_position`), without labels the middle.
    colours: RGB 0-255 per id; None: those of the label scheme that knows all ids.
    alpha: opacity of the filled labels, 0 to 1.
    outline: draw the borders of the labels opaque.
    size: pixels along the longer side.
    convention: ``radiological`` or ``neurological``.
    limits: intensities shown as black and white; None: chosen robustly from the whole volume.
    marks: direction letters and a scale bar.

    Returns
    -------
    (H, W, 3) uint8.

    Raises
    ------
    ValueError: neither image nor labels, alpha outside 0..1, unknown plane or position.
    """
    if image is None and labels is None:
        msg = "an overlay needs an image, labels or both"
        raise ValueError(msg)
    if not 0.0 <= alpha <= 1.0:
        msg = f"alpha {alpha} is outside 0..1"
        raise ValueError(msg)
    marked = on_grid(labels, image)
    if position is None and marked is not None:
        position = choose_position(marked, plane)
    grid = image if image is not None else marked
    laid_out = view(grid, plane, position, size=size, convention=convention)  # type: ignore[arg-type]
    rgb = np.zeros((*laid_out.size, 3), dtype=np.uint8)
    if image is not None:
        rgb[:] = laid_out.grey(image, limits or window(image.array))[..., None]
    if marked is not None:
        ids = laid_out.labels(marked)
        known = colours if colours is not None else default_colours(present_ids(marked.array))
        rgb = paint(rgb, ids, known, alpha=alpha if image is not None else max(alpha, 0.8), outline=outline)
    return draw_marks(rgb, laid_out) if marks else rgb


def on_grid(labels: Volume | None, image: Volume | None) -> Volume | None:
    """Return integer labels in RAS order on the image's grid (nearest voxel when the grids differ)."""
    if labels is None:
        return None
    whole = whole_labels(labels).to("RAS")
    if image is None:
        return whole
    grid = image.to("RAS")
    return whole if whole.same_grid(grid) else whole.resample_like(grid, order=0)


def paint(
    rgb: Array, labels: Array, colours: Mapping[int, Colour], *, alpha: float = 0.45, outline: bool = True
) -> Array:
    """Blend label ids (H, W) over a picture (H, W, 3) uint8; returns a new picture."""
    chosen = palette(present_ids(labels), colours)
    entries = chosen.index(labels)
    coloured = chosen.rgb(entries)
    filled = entries > 0
    result = rgb.copy()
    mixed = rgb[filled] * (1.0 - alpha) + coloured[filled] * alpha
    result[filled] = np.rint(mixed).astype(np.uint8)
    if outline:
        border = outline_mask(entries)
        result[border] = coloured[border]
    return result


def outline_mask(labels: Array, width: int = 1) -> Array:
    """Return the pixels (H, W) bool of a label that touch another label or the background.

    `width` pixels wide, inside the label. The picture's own border is no outline.
    """
    inner = labels != 0
    border = np.zeros(labels.shape, dtype=bool)
    for step in range(1, width + 1):
        vertical = labels[step:] != labels[:-step]
        horizontal = labels[:, step:] != labels[:, :-step]
        border[step:] |= vertical
        border[:-step] |= vertical
        border[:, step:] |= horizontal
        border[:, :-step] |= horizontal
    marked: Array = border & inner
    return marked


def draw_marks(rgb: Array, laid_out: View) -> Array:
    """Write the direction letters at the edges and a scale bar of 1, 2 or 5 times a power of ten millimetres."""
    from PIL import Image, ImageDraw, ImageFont

    height, width = rgb.shape[:2]
    if min(height, width) < 40:
        return rgb
    image = Image.fromarray(rgb)
    draw = ImageDraw.Draw(image)
    points = max(10, min(height, width) // 22)
    font = ImageFont.load_default(points)
    pad = points // 3
    places = {
        "left": ((pad, height / 2), "lm"),
        "right": ((width - pad, height / 2), "rm"),
        "top": ((width / 2, pad), "mt"),
        "bottom": ((width / 2, height - pad), "mb"),
    }
    for edge, text in laid_out.edges.items():
        place, anchor = places[edge]
        draw.text(place, text, fill=_TEXT, font=font, anchor=anchor, stroke_width=1, stroke_fill=_HALO)
    millimetres = scale_bar_mm(laid_out)
    length = round(millimetres / laid_out.pixel_mm)
    y = height - pad - 2
    draw.line([(pad, y), (pad + length, y)], fill=_TEXT, width=2)
    text_place = (pad, y - 3)
    draw.text(text_place, f"{millimetres:g} mm", fill=_TEXT, font=font, anchor="lb", stroke_width=1, stroke_fill=_HALO)
    return np.asarray(image)


def scale_bar_mm(laid_out: View) -> float:
    """Return a round length (mm) of at most a quarter of the picture's width, at least one millimetre."""
    room = max(1.0, laid_out.size[1] * laid_out.pixel_mm / 4)
    power = 10.0 ** np.floor(np.log10(room))
    return float(max(step * power for step in (1, 2, 5) if step * power <= room))
