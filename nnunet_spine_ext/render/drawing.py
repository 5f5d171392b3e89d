"""Line drawings as a list of shapes, written as SVG or PNG; a shape names its style, the style sheet has its colours.

Coordinates are CSS pixels from the top left corner. Equal drawings give equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nnunet_spine_ext.render.png import encode_png

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

Anchor = Literal["start", "middle", "end"]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Style:
    """How shapes of one kind look in files; a page has its own style sheet with the same class names.

    Parameters
    ----------
    fill, stroke: RGB 0-255; None: not drawn.
    width: of the stroke.
    opacity: 0 to 1.
    size: of letters.
    bold: heavier letters.
    """

    fill: Colour | None = None
    stroke: Colour | None = None
    width: float = 1.0
    opacity: float = 1.0
    size: float = 11.0
    bold: bool = False


# Okabe and Ito's colours, which differ for readers with any colour vision; the last is for a mean or a reference.
SERIES: tuple[Colour, ...] = (
    (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (28, 33, 38),
)  # fmt: skip
# Colours of a heat map from its lowest to its highest value: one hue, told apart by lightness alone.
HEAT_STEPS = 21
_HEAT: tuple[Colour, ...] = ((240, 245, 250), (107, 164, 208), (8, 48, 107))
# Of coefficients from -1 to 1: no colour is no correlation, the signs are two hues that all readers tell apart.
_SIGNED: tuple[Colour, ...] = ((150, 70, 0), (236, 173, 110), (247, 247, 247), (107, 164, 208), (8, 48, 107))

_PAPER = (255, 255, 255)
_INK, _SOFT, _LINE, _ACCENT, _BAD = (28, 33, 38), (93, 102, 112), (214, 219, 224), (47, 111, 159), (179, 38, 30)


def _heat(step: int, between: tuple[Colour, ...] = _HEAT) -> Colour:
    """Interpolate between the colours of a map."""
    place = step / (HEAT_STEPS - 1) * (len(between) - 1)
    low = min(int(place), len(between) - 2)
    pairs = zip(between[low], between[low + 1], strict=True)
    red, green, blue = (round(a + (place - low) * (b - a)) for a, b in pairs)
    return red, green, blue


STYLES: Mapping[str, Style] = {
    **{f"series-{k}": Style(fill=colour, stroke=colour, width=1.6) for k, colour in enumerate(SERIES)},
    **{f"series-{k}-pale": Style(fill=colour, opacity=0.16) for k, colour in enumerate(SERIES)},
    **{f"series-{k}-bar": Style(fill=colour, opacity=0.72) for k, colour in enumerate(SERIES)},
    **{f"heat-{k}": Style(fill=_heat(k)) for k in range(HEAT_STEPS)},
    **{f"signed-{k}": Style(fill=_heat(k, _SIGNED)) for k in range(HEAT_STEPS)},
    "on-dark": Style(fill=_PAPER, size=11.0),
    "in-cell": Style(fill=_INK, size=8.5),
    "in-dark-cell": Style(fill=_PAPER, size=8.5),
    "chosen": Style(fill=_INK, size=11.0, bold=True),
    "error": Style(stroke=_INK, width=1.1),
    "reference": Style(stroke=_SOFT, width=1.1),
    "missing": Style(stroke=_LINE),
    "grid": Style(stroke=_LINE),
    "whisker": Style(stroke=_ACCENT),
    "box": Style(fill=_ACCENT, opacity=0.28),
    "violin": Style(fill=_ACCENT, opacity=0.22),
    "frame": Style(stroke=_SOFT),
    "fit": Style(stroke=_ACCENT, width=1.6),
    "limit": Style(stroke=_BAD, width=1.2),
    "band": Style(fill=_BAD, opacity=0.1),
    "bias": Style(stroke=_ACCENT, width=1.6),
    "bias-band": Style(fill=_ACCENT, opacity=0.14),
    "median": Style(stroke=_ACCENT, width=2.0),
    "dots": Style(fill=_ACCENT, opacity=0.55),
    "beyond": Style(fill=_BAD, opacity=0.9),
    "column": Style(fill=_ACCENT, opacity=0.75),
    "label": Style(fill=_INK, size=11.0),
    "tick": Style(fill=_SOFT, size=10.0),
    "title": Style(fill=_INK, size=13.0, bold=True),
}


@dataclass(frozen=True)
class Line:
    """A straight line."""

    style: str
    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Box:
    """A rectangle; `tip` is shown where the pointer rests."""

    style: str
    x: float
    y: float
    width: float
    height: float
    tip: str = ""


@dataclass(frozen=True)
class Dots:
    """Round dots of one size; `tags` are ``data-…`` attributes of the SVG element."""

    style: str
    points: tuple[tuple[float, float], ...]
    radius: float
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outline:
    """A closed shape through its corners."""

    style: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Text:
    """One line of text, centred at `y`."""

    style: str
    x: float
    y: float
    text: str
    anchor: Anchor = "start"


Shape = Line | Box | Dots | Outline | Text


@dataclass(frozen=True)
class Drawing:
    """Shapes from back to front; `name` says what is shown to those who do not see it."""

    width: float
    height: float
    shapes: tuple[Shape, ...]
    name: str


def svg(drawing: Drawing, *, standalone: bool = True) -> str:
    """Return the drawing as SVG; `standalone` adds name space, paper and colours, a page brings its own."""
    size = f'viewBox="0 0 {_n(drawing.width)} {_n(drawing.height)}"'
    head = f'<svg {size} role="img" aria-label="{escape(drawing.name)}">'
    body = "".join(_element(shape) for shape in drawing.shapes)
    if not standalone:
        return f"{head}{body}</svg>"
    style = f"<style>text{{font-family:Helvetica,Arial,sans-serif}}{style_sheet(drawing.shapes)}</style>"
    paper = f'<rect width="100%" height="100%" fill="{_css(_PAPER)}"/>'
    outer = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_n(drawing.width)}" height="{_n(drawing.height)}" {size}>'
    return f"{outer}<title>{escape(drawing.name)}</title>{style}{paper}{body}</svg>\n"


def _element(shape: Shape) -> str:
    kind = f'class="{shape.style}"'
    if isinstance(shape, Line):
        return f'<path {kind} d="M{_n(shape.x1)} {_n(shape.y1)}L{_n(shape.x2)} {_n(shape.y2)}"/>'
    if isinstance(shape, Text):
        anchor = "" if shape.anchor == "start" else f' text-anchor="{shape.anchor}"'
        return f'<text {kind} x="{_n(shape.x)}" y="{_n(shape.y)}" dy=".35em"{anchor}>{escape(shape.text)}</text>'
    if isinstance(shape, Outline):
        path = "L".join(f"{_n(x)} {_n(y)}" for x, y in shape.points)
        return f'<path {kind} d="M{path}Z"/>'
    if isinstance(shape, Box):
        size = f'x="{_n(shape.x)}" y="{_n(shape.y)}" width="{_n(shape.width)}" height="{_n(shape.height)}"'
        tip = f"<title>{escape(shape.tip)}</title>" if shape.tip else ""
        return f"<rect {kind} {size}>{tip}</rect>" if tip else f"<rect {kind} {size}/>"
    # Lines of no length with round caps: hundreds of dots are one element.
    path = "".join(f"M{_n(x)} {_n(y)}h0" for x, y in shape.points)
    tags = "".join(f' data-{key}="{escape(value)}"' for key, value in shape.tags.items())
    return f'<path {kind} d="{path}" stroke-width="{_n(2 * shape.radius)}" stroke-linecap="round"{tags}/>'


def _n(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def style_sheet(shapes: Iterable[Shape]) -> str:
    """Return CSS rules for the styles of shapes, in the order in which they occur."""
    rules = []
    for name in dict.fromkeys(shape.style for shape in shapes):
        style = STYLES[name]
        # A dot is a line whose caps show.
        dots = name in ("dots", "beyond")
        fill, stroke = (None, style.fill) if dots else (style.fill, style.stroke)
        rule = f"fill:{_css(fill)};stroke:{_css(stroke)};opacity:{style.opacity:g};font-size:{style.size:g}px"
        rule += "" if dots else f";stroke-width:{style.width:g}"
        rule += ";font-weight:bold" if style.bold else ""
        rules.append(f".{name}{{{rule}}}")
    return "".join(rules)


def _css(colour: Colour | None) -> str:
    return "none" if colour is None else "#{:02x}{:02x}{:02x}".format(*colour)


def png(drawing: Drawing, *, scale: float = 4.0) -> bytes:
    """Return the drawing as PNG on white; `scale` pixels per unit (4: 384 dots per inch at natural size)."""
    import numpy as np
    from PIL import Image
    from PIL.ImageDraw import Draw

    # Twice as large and then halved: Pillow draws jagged edges.
    zoom = 2 * scale
    paper = Image.new("RGB", (round(drawing.width * zoom), round(drawing.height * zoom)), _PAPER)
    pen = Draw(paper)
    for shape in drawing.shapes:
        _draw(pen, shape, zoom)
    small = paper.resize((paper.width // 2, paper.height // 2), Image.Resampling.LANCZOS)
    return encode_png(np.asarray(small))


def _draw(pen: ImageDraw, shape: Shape, zoom: float) -> None:
    style = STYLES[shape.style]
    fill, stroke = _on_paper(style.fill, style.opacity), _on_paper(style.stroke, style.opacity)
    if isinstance(shape, Line):
        ends = [shape.x1 * zoom, shape.y1 * zoom, shape.x2 * zoom, shape.y2 * zoom]
        pen.line(ends, fill=stroke, width=max(1, round(style.width * zoom)))
    elif isinstance(shape, Box):
        x, y = shape.x * zoom, shape.y * zoom
        pen.rectangle([x, y, x + shape.width * zoom, y + shape.height * zoom], fill=fill, outline=stroke)
    elif isinstance(shape, Outline):
        pen.polygon([(x * zoom, y * zoom) for x, y in shape.points], fill=fill, outline=stroke)
    elif isinstance(shape, Dots):
        for x, y in shape.points:
            edges = (x - shape.radius, y - shape.radius, x + shape.radius, y + shape.radius)
            pen.ellipse([v * zoom for v in edges], fill=fill)
    else:
        anchor = {"start": "lm", "middle": "mm", "end": "rm"}[shape.anchor]
        font = _font(round(style.size * zoom), bold=style.bold)
        pen.text((shape.x * zoom, shape.y * zoom), shape.text, fill=fill, font=font, anchor=anchor)


def _on_paper(colour: Colour | None, opacity: float) -> Colour | None:
    """Mix a colour with the paper: what lies below is left out, so a picture does not depend on the order of dots."""
    if colour is None:
        return None
    red, green, blue = (round(opacity * c + (1 - opacity) * p) for c, p in zip(colour, _PAPER, strict=True))
    return red, green, blue


@cache
def _font(size: int, *, bold: bool) -> FreeTypeFont:
    """DejaVu Sans as matplotlib ships it: the same letters on every machine, Greek and arrows among them."""
    import matplotlib
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
