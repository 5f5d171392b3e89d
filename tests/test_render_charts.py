"""Charts: every value once with its interval, what is missing said, colours that all readers tell apart."""

from __future__ import annotations

import io
import math
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from nnunet_spine_ext.render.charts import Bar, Mark, MarkRow, bars, heat_map, mark_rows
from nnunet_spine_ext.render.curves import Curve, Panel, Point, curves, scatters
from nnunet_spine_ext.render.drawing import (
    HEAT_STEPS,
    SERIES,
    STYLES,
    Box,
    Drawing,
    Line,
    Outline,
    Shape,
    Text,
    png,
    style_sheet,
    svg,
)
from nnunet_spine_ext.render.marks import LETTER
from nnunet_spine_ext.render.scales import Axis

DICE = Axis("Dice", "", None, 1.0)
LOSS = Axis("Loss", "mm")
NAN = math.nan


def _of(drawing: Drawing, kind: type[Shape], style: str | None = None) -> list:
    return [s for s in drawing.shapes if isinstance(s, kind) and style in (None, s.style)]


def _texts(drawing: Drawing) -> list[str]:
    return [shape.text for shape in _of(drawing, Text)]


def test_bars_begin_at_zero_and_carry_value_interval_and_note() -> None:
    rows = [Bar("a", 0.5, 0.4, 0.6), Bar("b", -0.25, -0.5, -0.1, series=1), Bar("c", NAN, note="not run")]
    drawing = bars(rows, LOSS, "Title")
    first, second = _of(drawing, Box)
    (zero,) = [line.x1 for line in _of(drawing, Line, "frame")]
    assert first.x == pytest.approx(zero)
    assert second.x + second.width == pytest.approx(zero)
    assert first.width == pytest.approx(2 * second.width)
    whiskers = [line for line in _of(drawing, Line, "error") if line.y1 == line.y2]
    assert whiskers[0].x2 - whiskers[0].x1 == pytest.approx(0.4 * first.width)
    assert {"0.500", "-0.250", "not run", "Loss (mm)", "Title"} <= set(_texts(drawing))
    assert "Title" not in _texts(bars(rows, LOSS, "Title", titled=False))


def test_the_second_value_of_a_bar_is_an_upright_line() -> None:
    drawing = bars([Bar("a", 0.2, mark=0.4)], LOSS, "Title", mark="sum")
    box = _of(drawing, Box)[0]
    upright = [line for line in _of(drawing, Line, "error") if line.x1 == line.x2]
    assert len(upright) == 2
    assert upright[1].x1 - box.x == pytest.approx(2 * box.width)
    assert "sum" in _texts(drawing)


def test_rows_of_marks_say_when_they_have_none() -> None:
    rows = [MarkRow("a", (Mark(0, 0.8, 0.7, 0.9), Mark(1, 0.6))), MarkRow("b", (Mark(0, NAN),), "not run")]
    drawing = mark_rows(rows, [(0, "GE"), (1, "Philips")], DICE, "Title", reference=(0.9, "source"))
    assert len(_of(drawing, Outline)) == 4
    assert len(_of(drawing, Line, "series-0")) == 1
    assert not _of(drawing, Line, "series-1")
    assert {"not run", "GE", "Philips", "source"} <= set(_texts(drawing))
    # Legend and line; without a level neither.
    assert len(_of(drawing, Line, "reference")) == 2
    assert not _of(mark_rows(rows, [(0, "GE"), (1, "Philips")], DICE, "T", reference=(NAN, "s")), Line, "reference")


def test_a_heat_map_is_light_for_low_and_dark_for_high_values_and_empty_for_none() -> None:
    drawing = heat_map(["a", "b"], ["x", "y"], [[0.2, 0.9], [NAN, 0.5]], Axis("Dice"), "Title")
    styles = [box.style for box in _of(drawing, Box) if box.tip]
    assert styles == ["heat-0", f"heat-{HEAT_STEPS - 1}", "missing", f"heat-{round(3 / 7 * (HEAT_STEPS - 1))}"]
    light = [sum(STYLES[f"heat-{k}"].fill or ()) for k in range(HEAT_STEPS)]
    assert light == sorted(light, reverse=True)
    dark = {shape.text for shape in _of(drawing, Text, "on-dark")}
    assert dark == {"0.900"}
    assert "–" in _texts(drawing)


def test_long_heads_of_a_heat_map_do_not_run_into_each_other() -> None:
    names = ["Idmn", "Correlation", "SumEntropy", "DifferenceEntropy", "ShortRunEmphasis"]
    drawing = heat_map(["a vendor with a name: CycleGAN"], names, [[0.1] * 5], Axis("error"), "Title")
    heads = [text for text in _of(drawing, Text) if text.text in names]
    assert len(heads) == 5
    for place, one in enumerate(heads):
        for other in heads[place + 1 :]:
            apart = LETTER * (len(one.text) + len(other.text)) / 2
            assert abs(one.x - other.x) > apart or abs(one.y - other.y) > 11
    plain = [
        text for text in _of(heat_map(["a"], ["x", "y"], [[0, 1]], Axis("e"), "T"), Text) if text.text in ("x", "y")
    ]
    assert plain[0].y == plain[1].y


def test_long_names_of_rows_of_a_heat_map_are_whole() -> None:
    name = "siemens-essenza-varied: CycleGAN"
    shown = [text for text in _of(heat_map([name], ["x"], [[0.1]], Axis("error"), "T"), Text) if text.text == name]
    assert len(shown) == 1
    assert shown[0].x >= LETTER * len(name), "it ends there, and begins on the page"


@pytest.mark.parametrize("values", [[[NAN, NAN]], [[0.7, 0.7]]])
def test_a_heat_map_of_nothing_or_of_one_value_is_drawn(values: list[list[float]]) -> None:
    assert svg(heat_map(["a"], ["x", "y"], values, Axis("Dice"), "Title"))


def test_curves_join_neighbours_only_and_draw_intervals() -> None:
    points = (Point(0, 0.5, 0.4, 0.6), Point(1, NAN), Point(2, 0.7), Point(3, 0.8))
    ticks = [(float(k), f"C{k + 1}") for k in range(4)]
    drawing = curves([Curve("one", 0, points)], ticks, Axis("Vertebra"), DICE, "Title", reference=(0.9, "source"))
    lines = _of(drawing, Line, "series-0")
    # One join, and an interval with two caps.
    assert len(lines) == 4
    assert {"C1", "C4", "↑ Dice", "Vertebra", "one", "source"} <= set(_texts(drawing))
    banded = Curve("", 1, points[2:], marked=False, band=((2, 0.6, 0.8), (3, 0.7, 0.9)))
    drawing = curves([banded], ticks, Axis("N"), DICE, "Title")
    assert len(_of(drawing, Outline, "series-1-pale")) == 1
    assert not _of(drawing, Outline, "series-1")


def test_curves_of_nothing_are_drawn() -> None:
    assert "not measured" in _texts(curves([], [], Axis("N"), DICE, "Title"))
    assert "not measured" in _texts(scatters([], DICE, [], "Title"))
    assert svg(bars([], LOSS, "Title"))
    assert svg(mark_rows([], [], DICE, "Title"))


def test_the_line_of_a_panel_stays_inside_it() -> None:
    points = ((0, Point(0.0, 0.9, 0.88, 0.92)), (1, Point(0.5, 0.5)), (2, Point(NAN, 0.7)))
    drawing = scatters([Panel(Axis("Gap", "", 0.0), points, "r = 1", (-3.0, 1.2))], DICE, [(0, "GE")], "Title")
    (line,) = _of(drawing, Line, "reference")
    grid = _of(drawing, Line, "grid")
    low, high = min(min(g.y1, g.y2) for g in grid), max(max(g.y1, g.y2) for g in grid)
    assert low - 1e-6 <= min(line.y1, line.y2) < max(line.y1, line.y2) <= high + 1e-6
    assert len(_of(drawing, Outline)) == 3


def test_series_are_told_apart_without_red_and_green() -> None:
    # What is left for readers without red cones: red and green together (Vienot 1999, roughly), and blue.
    seen = []
    for colour in SERIES:
        red, green, blue = ((c / 255) ** 2.2 for c in colour)
        seen.append((0.11 * red + 0.89 * green, blue))
    for (one, other), (first, second) in zip(combinations(seen, 2), combinations(SERIES, 2), strict=True):
        assert math.dist(one, other) > 0.08, (first, second)


def test_equal_charts_give_equal_bytes_and_the_picture_holds_the_colours() -> None:
    drawing = bars([Bar("a", 0.5, 0.4, 0.6, series=2)], LOSS, "Title")
    assert svg(drawing) == svg(bars([Bar("a", 0.5, 0.4, 0.6, series=2)], LOSS, "Title"))
    ElementTree.fromstring(svg(drawing))  # noqa: S314
    assert png(drawing, scale=1.0) == png(drawing, scale=1.0)
    pixels = np.asarray(Image.open(io.BytesIO(png(drawing, scale=1.0))).convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 10
    assert style_sheet(drawing.shapes).count("{") == len({shape.style for shape in drawing.shapes})
