"""One page per subject to look at: each scan with its mask and its soft label, and areas and shifts along the body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.render.overlay import outline_mask
from nnunet_spine_ext.render.sheet import contact_sheet
from nnunet_spine_ext.render.window import to_grey, window
from nnunet_spine_ext.soft.ground_truth import RATERS, SoftGroundTruth
from nnunet_spine_ext.soft.qc import Quality

_AXIAL_MM, _AXIAL_PIXELS = 26.0, 208
_SIDE_BESIDE_MM, _SIDE_PIXELS_MM, _SIDE_TALLEST = 12.0, 3.0, 420
_SIDE_ROOM_MM = 6.0
_LEVELS = (0.2, 0.5, 0.8)
_MASK = (0, 230, 255)
# From nothing through purple and orange to yellow: equal steps look equal, and no step is the mask's blue.
_HEAT = np.array([(0, 0, 0), (90, 20, 110), (190, 50, 90), (245, 125, 20), (252, 235, 120)], dtype=np.float64)
_IGNORED = np.array((70, 80, 95), dtype=np.float64)
_CURVES = (
    (230, 80, 70),
    (70, 160, 240),
    (90, 200, 110),
    (240, 190, 60),
    (190, 120, 230),
    (120, 220, 220),
    (240, 140, 190),
)
_PAPER, _GRID, _TEXT = (24, 26, 28), (60, 64, 68), (225, 225, 225)
_PLOT = (360, 250)


def picture(
    result: SoftGroundTruth,
    masks: Mapping[str, Volume],
    measured: Quality,
    *,
    images: Mapping[str, Volume] | None = None,
) -> Array:
    """Draw the page.

    A row per mask that was used: from the side, following the cord, and three axial slices. The soft label
    glows from purple (a quarter) to yellow (1), the mask is outlined in blue, ignored parts are hatched. Below: areas
    of the masks, areas of the soft labels, and shifts, along the body.

    Parameters
    ----------
    images: scans on the grids of their masks, by the same names; others stay black.

    Returns (H, W, 3) uint8.
    """
    rows, captions = [], []
    for name, row in result.contributors.items():
        if not row.used:
            continue
        soft = (result.soft[RATERS] if RATERS in result.soft else result.soft[name]).to("RAS")
        mask = masks[name].to("RAS")
        image = (images or {}).get(name)
        turned = None if image is None else image.to("RAS")
        cells, texts = _cells(name, mask, soft, turned)
        rows.append(cells)
        captions.append(texts)
    names = [name for name, row in result.contributors.items() if row.used]
    rows.append(_plots(result, measured, names))
    captions.append(["area of the masks (square mm)", "area of the soft labels (square mm)", "shift (mm)"])
    return contact_sheet(rows, captions=captions)


def _cells(name: str, mask: Volume, soft: Volume, image: Volume | None) -> tuple[list[Array], list[str]]:
    occupied = np.flatnonzero((mask.array > 0).any(axis=(0, 1)))
    labelled = np.flatnonzero((soft.array > 0).any(axis=(0, 1)))
    chosen = labelled if len(labelled) else occupied
    limits = None if image is None else window(image.array)
    grey = np.zeros(mask.shape, np.uint8) if image is None or limits is None else to_grey(image.array, limits)
    centre = np.argwhere(mask.array[:, :, occupied] > 0).mean(axis=0)
    cells, texts = [_side(mask, soft, grey)], [f"{name}, side"]
    for k in dict.fromkeys(int(chosen[round(share * (len(chosen) - 1))]) for share in _LEVELS):
        here = mask.array[:, :, k] if (mask.array[:, :, k] > 0).any() else soft.array[:, :, k]
        middle = np.argwhere(here > 0).mean(axis=0) if (here > 0).any() else centre[:2]
        size = (mask.spacing[0], mask.spacing[1])
        planes = (grey[:, :, k], mask.array[:, :, k], soft.array[:, :, k])
        cells.append(
            _painted(*planes, (float(middle[0]), float(middle[1])), size, (_AXIAL_MM, _AXIAL_MM), _AXIAL_PIXELS)
        )
        texts.append(f"slice {k}")
    return cells, texts


def _side(mask: Volume, soft: Volume, grey: Array) -> Array:
    """Paint the sagittal plane that follows the cord from slice to slice."""
    there = mask.array > 0
    occupied = np.flatnonzero(there.any(axis=(0, 1)))
    columns = [float(np.flatnonzero(there[:, :, k].any(axis=1)).mean()) for k in occupied]
    levels = np.arange(mask.shape[2])
    follow = np.rint(np.interp(levels, occupied, columns)).astype(int)
    planes = [volume[follow, :, levels].T for volume in (grey, mask.array, soft.array)]
    rows = np.flatnonzero(there.any(axis=(0, 2)))
    size = (mask.spacing[1], mask.spacing[2])
    height = (occupied[-1] - occupied[0] + 1) * size[1] + _SIDE_ROOM_MM
    width = (rows[-1] - rows[0] + 1) * size[0] + 2 * _SIDE_BESIDE_MM
    middle = (float(rows[-1] + rows[0]) / 2, float(occupied[-1] + occupied[0]) / 2)
    tall = min(_SIDE_TALLEST, max(_AXIAL_PIXELS, round(height * _SIDE_PIXELS_MM)))
    return _painted(planes[0], planes[1], planes[2], middle, size, (width, height), tall)


def _painted(
    grey: Array,
    mask: Array,
    soft: Array,
    middle: tuple[float, float],
    size: tuple[float, float],
    extent: tuple[float, float],
    tall: int,
) -> Array:
    """Paint a plane (across, up): `middle` in voxels, `size` of a voxel and `extent` of the picture in mm."""
    wide = max(60, round(tall * extent[0] / extent[1]))
    across = (np.arange(wide) + 0.5) / wide - 0.5
    up = 0.5 - (np.arange(tall) + 0.5) / tall
    # The patient's right is at the left edge.
    i = np.floor(middle[0] - across * extent[0] / size[0] + 0.5).astype(int)
    j = np.floor(middle[1] + up * extent[1] / size[1] + 0.5).astype(int)
    inside = ((i >= 0) & (i < grey.shape[0]))[None, :] & ((j >= 0) & (j < grey.shape[1]))[:, None]
    cut = np.ix_(np.clip(i, 0, grey.shape[0] - 1), np.clip(j, 0, grey.shape[1] - 1))
    shown, drawn, label = (np.where(inside, plane[cut].T, 0) for plane in (grey, mask, soft))
    rgb = np.repeat(shown[..., None].astype(np.float64), 3, axis=2)
    strength = np.clip(label, 0.0, 1.0)
    colour = np.stack([np.interp(strength, np.linspace(0, 1, 5), _HEAT[:, c]) for c in range(3)], axis=-1)
    opaque = np.where(strength > 0, 0.45 + 0.4 * strength, 0.0)[..., None]
    rgb = rgb * (1 - opaque) + colour * opaque
    stripes = (np.add.outer(np.arange(tall), np.arange(wide)) % 8 < 2) & (label < 0) & inside
    rgb[stripes] = _IGNORED
    rgb[outline_mask((drawn >= 0.5).astype(np.uint8))] = _MASK
    return np.rint(rgb).astype(np.uint8)


def _plots(result: SoftGroundTruth, measured: Quality, names: Sequence[str]) -> list[Array]:
    masks = [(measured.areas[n].z, measured.areas[n].mask) for n in names]
    soft = [(measured.areas[n].z, measured.areas[n].soft) for n in names]
    shifts = []
    for name in names:
        alignment = result.contributors[name].alignment
        if alignment is not None:
            shifts.append((result.z[alignment.common], np.linalg.norm(alignment.shift[alignment.common], axis=1)))
    finite = [value[np.isfinite(value)] for _, value in (*masks, *soft)]
    every = np.concatenate(finite) if any(len(v) for v in finite) else np.zeros(1)
    low, high = float(every.min()), float(every.max())
    room = 0.05 * (high - low) + 1.0
    span = _span([*masks, *soft, *shifts])
    top = max([float(v.max(initial=0.0)) for _, v in shifts] + [1.0]) * 1.1
    return [
        _plot(masks, names, span, (low - room, high + room)),
        _plot(soft, names, span, (low - room, high + room)),
        _plot(shifts, names, span, (0.0, top)),
    ]


def _span(curves: Sequence[tuple[Array, Array]]) -> tuple[float, float]:
    places = np.concatenate([z[np.isfinite(v)] for z, v in curves])
    return (float(places.min()), float(places.max())) if len(places) else (0.0, 1.0)


def _plot(
    curves: Sequence[tuple[Array, Array]], names: Sequence[str], span: tuple[float, float], bounds: tuple[float, float]
) -> Array:
    from PIL import Image, ImageDraw, ImageFont

    width, height = _PLOT
    left, bottom = 40, 44
    image = Image.new("RGB", _PLOT, _PAPER)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(11)

    def at(z: float, value: float) -> tuple[float, float]:
        x = left + (z - span[0]) / max(span[1] - span[0], 1e-6) * (width - left - 10)
        y = 8 + (bounds[1] - value) / max(bounds[1] - bounds[0], 1e-6) * (height - bottom - 8)
        return x, y

    for value in np.linspace(*bounds, 5).tolist():
        draw.line([at(span[0], value), at(span[1], value)], fill=_GRID)
        draw.text((left - 5, at(span[0], value)[1]), f"{value:.3g}", fill=_TEXT, font=font, anchor="rm")
    for z, anchor in ((span[0], "lt"), (span[1], "rt")):
        draw.text((at(z, bounds[0])[0], height - bottom + 4), f"{z:.0f} mm", fill=_TEXT, font=font, anchor=anchor)
    x = float(left)
    for k, name in enumerate(names):
        colour = _CURVES[k % len(_CURVES)]
        draw.text((x, height - 16), name, fill=colour, font=font)
        x += draw.textlength(name, font=font) + 10
        if k >= len(curves):
            continue
        places, values = curves[k]
        known = np.isfinite(values)
        order = np.argsort(places[known])
        points = [at(float(a), float(b)) for a, b in zip(places[known][order], values[known][order], strict=True)]
        if len(points) > 1:
            draw.line(points, fill=colour, width=2)
        if len(points) < 30:
            for px, py in points:
                draw.ellipse([px - 2, py - 2, px + 2, py + 2], fill=colour)
    return np.asarray(image)
