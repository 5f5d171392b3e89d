"""Contact sheets of augmented images: one slice each, label contours, and below it what was done."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from nnunet_spine_ext.augment.pipeline import Applied
from nnunet_spine_ext.core.label_mappings import is_vertebra
from nnunet_spine_ext.core.labels import SCHEMES
from nnunet_spine_ext.core.volume import Array, Volume
from nnunet_spine_ext.render.choose import choose_position
from nnunet_spine_ext.render.colours import default_colours, present_ids
from nnunet_spine_ext.render.overlay import paint
from nnunet_spine_ext.render.sheet import contact_sheet
from nnunet_spine_ext.render.slices import PLANES, View, view
from nnunet_spine_ext.render.window import Window, window

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

# Structures in the midline; where the labels have them, the sagittal slice is the one that shows most of them.
_MIDLINE = ("canal", "cord", "corpus", "disc")
# A sagittal or coronal picture of fewer slices than this shows little of the spine.
_ENOUGH = 32
_POINTS = 12
_LINE = 16
_TEXT = (235, 235, 235)
_PAPER = (24, 26, 28)
# Width over height of a page.
_LANDSCAPE = 1.6
_NORMAL_AXIS = {"sagittal": 0, "coronal": 1, "axial": 2}

# What a record needs and a reader does not.
_HIDDEN = frozenset(
    (
        "angle",
        "boxes",
        "channels",
        "coefficients",
        "edges",
        "fat",
        "hill",
        "low",
        "high",
        "map",
        "noise_offset",
        "offsets",
        "of_labels",
        "peak",
        "phase",
        "places",
        "plane",
        "points",
        "posed",
        "quantiles",
        "ratios",
        "reconstructed",
        "retain_stats",
        "rows",
        "seed",
        "shifts",
        "side",
        "signals",
        "sizes",
        "slice_axis",
        "spikes",
        "still",
        "values",
    )
)
_SHOWN_ITEMS = 3


@dataclass(frozen=True)
class Look:
    """How pictures of one case are cut and shown.

    `plane`: of the body. `position`: index along its RAS axis. `size`: pixels of the longer side. `contours`: draw
    labels. `columns`: of the page, 0 as fits. `own_window`: grey levels of each picture for itself, else those of the
    original for all.
    """

    plane: str
    position: int
    size: int = 320
    contours: bool = True
    columns: int = 0
    own_window: bool = False


def best_plane(grid: Volume) -> str:
    """Return the plane that shows most of a spine: sagittal where that has enough rows and columns."""
    shape = grid.to("RAS").shape
    if 1 in shape:
        return PLANES[shape.index(1)]
    finest = {plane: min(n for axis, n in enumerate(shape) if axis != _NORMAL_AXIS[plane]) for plane in PLANES}
    return "sagittal" if finest["sagittal"] >= _ENOUGH else max(finest, key=lambda plane: finest[plane])


def best_position(grid: Volume, labels: Volume | None, plane: str, scheme: str = "") -> int:
    """Return the slice of a plane that shows the spine: by the labels, without any the middle."""
    count = grid.to("RAS").shape[_NORMAL_AXIS[plane]]
    if labels is None:
        return count // 2
    return choose_position(labels, plane, _midline(scheme))


def _midline(scheme: str) -> tuple[int, ...]:
    """Return the ids of a scheme that lie in the midline, else those of vertebrae, else none: then all labels count."""
    names = SCHEMES[scheme].labels if scheme in SCHEMES else {}
    middle = tuple(n for n, name in names.items() if name.split(" ")[0] in _MIDLINE)
    return middle or tuple(n for n, name in names.items() if is_vertebra(name))


def cell(
    channels: Sequence[Volume], labels: Volume | None, caption: str, look: Look, limits: Sequence[Window] | None = None
) -> Array:
    """Return the picture (H, W, 3) uint8 of one sample: its channels side by side, the caption below.

    Parameters
    ----------
    channels: volumes on one grid. labels: integer ids on the same grid.
    limits: grey levels per channel, None: of the channel itself.
    """
    laid_out = view(channels[0], look.plane, look.position, size=look.size)
    pictures = []
    for number, channel in enumerate(channels):
        levels = window(channel.array) if limits is None or look.own_window else limits[number]
        pictures.append(_picture(laid_out, channel, labels if look.contours else None, levels))
    picture = np.concatenate(pictures, axis=1)
    return np.concatenate((picture, _written(caption, picture.shape[1])), axis=0)


def page(cells: Sequence[Array], look: Look) -> Array:
    """Return the cells row by row on one page, which is broader than high if the number of columns is free."""
    columns = look.columns
    if columns < 1:
        height, width = max(c.shape[0] for c in cells), max(c.shape[1] for c in cells)
        columns = max(1, round((len(cells) * _LANDSCAPE * height / width) ** 0.5))
    return contact_sheet([cells[k : k + columns] for k in range(0, len(cells), columns)])


def describe(applied: Sequence[Applied]) -> str:
    """Return what was done to a sample in words: names with their main numbers, ``unchanged`` if nothing was."""
    return "; ".join(_one(item) for item in applied) or "unchanged"


def _one(item: Applied) -> str:
    texts: list[str] = []
    for name, value in item.params.items():
        if name == "protocol" and isinstance(value, Mapping):
            texts.append(f"{value.get('sequence')} {value.get('field_strength'):g} T")
        elif name == "domains" and isinstance(value, Mapping):
            texts.append(max(value, key=lambda domain: float(value[domain])))
        elif name not in _HIDDEN and (text := _short("" if name == item.name else name, value)):
            texts.append(text)
    return " ".join([item.name, ", ".join(texts[:_SHOWN_ITEMS])]).strip()


def _short(name: str, value: Any) -> str:
    """Return one parameter in a few letters; nothing for what says nothing."""
    if value is None or isinstance(value, bool | Mapping) or (name == "mix" and value == 1):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return f"{name} {_number(value, 3)}".strip()
    if name == "labels":
        return "labels " + " ".join(map(str, value[:4])) + (" …" if len(value) > 4 else "")
    if isinstance(value, list) and value and all(isinstance(v, int | float) for v in value) and len(value) <= 3:
        return f"{name} " + " ".join(_number(v, 3) for v in value)
    return ""


def _number(value: float, digits: int) -> str:
    """Return a number without an exponent where it needs none."""
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:.{digits}g}"


def _picture(laid_out: View, image: Volume, labels: Volume | None, limits: Window) -> Array:
    grey = laid_out.grey(image, limits)
    rgb = np.repeat(grey[..., None], 3, axis=2)
    if labels is None:
        return rgb
    return paint(rgb, laid_out.labels(labels), default_colours(present_ids(labels.array)), alpha=0.0)


def _written(text: str, width: int) -> Array:
    """Return text on paper (H, width, 3), in as many lines as it needs."""
    from PIL import Image, ImageDraw, ImageFont

    font = cast("FreeTypeFont", ImageFont.load_default(_POINTS))
    letters = max(8, int(width / max(1.0, font.getlength("abcdefghijklmnopqrstuvwxyz0123456789 ") / 37)))
    lines = textwrap.wrap(text, letters) or [""]
    paper = Image.new("RGB", (width, _LINE * len(lines) + 4), _PAPER)
    draw = ImageDraw.Draw(paper)
    for number, line in enumerate(lines):
        draw.text((2, 2 + _LINE * number), line, fill=_TEXT, font=font)
    return np.asarray(paper)
