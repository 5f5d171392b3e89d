"""Plots as drawings: every value is there once, axes are round, SVG and PNG are made of the same shapes."""

from __future__ import annotations

import io
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from nnunet_spine_ext.render.drawing import STYLES, Box, Dots, Drawing, Line, Text, png, svg
from nnunet_spine_ext.render.plots import Axis, Group, histogram, strips

DICE = Axis("Dice", "", 0.0, 1.0)
ASSD = Axis("ASSD", "mm", 0.0)
NAMESPACE = "{http://www.w3.org/2000/svg}"


def _dots(drawing: Drawing, style: str) -> list[Dots]:
    return [shape for shape in drawing.shapes if isinstance(shape, Dots) and shape.style == style]


def _values(drawing: Drawing, style: str) -> list[str]:
    return [text for dots in _dots(drawing, style) for text in dots.tags["values"].split()]


def test_every_value_is_one_dot_that_knows_its_case() -> None:
    values = tuple((number, 0.8 + 0.01 * number) for number in range(12))
    drawing = strips([Group("L1", values), Group("L2", ((3, 0.9), (4, math.nan)))], DICE)
    first, second = _dots(drawing, "dots")
    assert first.tags["cases"].split() == [str(number) for number in range(12)]
    assert len(first.points) == 12
    assert [x for x, _ in first.points] == sorted(x for x, _ in first.points)
    assert (second.tags["cases"], second.tags["values"]) == ("3", "0.9")


def test_equal_values_do_not_cover_each_other_and_stay_in_their_row() -> None:
    drawing = strips([Group("a", tuple((n, 0.9) for n in range(5))), Group("b", ((0, 0.5),))], DICE)
    points = _dots(drawing, "dots")[0].points
    assert len(set(points)) == 5
    heights = [y for _, y in points]
    assert max(heights) - min(heights) < 19.0


@pytest.mark.parametrize(
    ("axis", "usual", "odd", "lost"),
    [
        (ASSD, np.linspace(0.2, 0.9, 20), 80.0, "80"),
        (ASSD, np.linspace(0.2, 0.9, 20), math.inf, "infinite"),
        (DICE, np.linspace(0.9, 0.97, 20), 0.0, "0"),
    ],
)
def test_one_far_value_does_not_squeeze_the_others(axis: Axis, usual: np.ndarray, odd: float, lost: str) -> None:
    values = tuple(enumerate([*usual.tolist(), odd]))
    drawing = strips([Group("L1", values)], axis)
    assert _values(drawing, "beyond") == [lost]
    places = [x for x, _ in _dots(drawing, "dots")[0].points]
    assert max(places) - min(places) > 0.15 * drawing.width
    edge = _dots(drawing, "beyond")[0].points[0][0]
    assert (edge > max(places)) == (odd > 1)


def test_far_values_do_not_cover_each_other() -> None:
    usual = [(n, 0.9 + 0.001 * n) for n in range(40)]
    drawing = strips([Group("L1", ((50, 0.1), (51, 0.0), (52, 0.05), *usual)), Group("L2", tuple(usual))], DICE)
    dots = _dots(drawing, "beyond")[0]
    assert len(set(dots.points)) == 3
    assert len({x for x, _ in dots.points}) == 1
    assert (dots.tags["cases"], dots.tags["values"]) == ("51 52 50", "0 0.05 0.1")


def test_boxes_are_quartiles_of_all_finite_values() -> None:
    drawing = strips([Group("L1", tuple(enumerate([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])))], DICE)
    box = next(shape for shape in drawing.shapes if isinstance(shape, Box))
    median = next(shape for shape in drawing.shapes if isinstance(shape, Line) and shape.style == "median")
    whisker = next(shape for shape in drawing.shapes if isinstance(shape, Line) and shape.style == "whisker")
    length = whisker.x2 - whisker.x1
    assert box.width == pytest.approx(0.5 * length)
    assert median.x1 == pytest.approx(whisker.x1 + 0.5 * length)


def test_few_values_make_no_box() -> None:
    drawing = strips([Group("L1", ((0, 0.5), (1, 0.6)))], DICE)
    assert not any(isinstance(shape, Box) for shape in drawing.shapes)


@pytest.mark.parametrize(
    "values", [(), (0.0,), (5.0, 5.0), (math.inf,), (math.nan,), (-3.0, 4.0), (1e-9, 2e-9), (1e6,)]
)
def test_any_values_give_a_drawing_inside_its_frame(values: tuple[float, ...]) -> None:
    for axis in (ASSD, Axis("x"), DICE):
        for drawing in (strips([Group("a", tuple(enumerate(values)))], axis), histogram(values, axis)):
            numbers = [
                float(text) for text in re.findall(r"-?\d+\.?\d*", " ".join(re.findall(r'd="([^"]*)"', svg(drawing))))
            ]
            assert all(math.isfinite(number) and -1 <= number <= drawing.height + drawing.width for number in numbers)


def test_ticks_are_round_numbers() -> None:
    drawing = strips([Group("L1", ((0, 0.713), (1, 0.968)))], DICE)
    ticks = [shape.text for shape in drawing.shapes if isinstance(shape, Text) and shape.style == "tick"][:-1]
    assert ticks[-1] == "1"
    assert all(len(tick) <= 4 for tick in ticks)


def test_histogram_counts_every_finite_value() -> None:
    values = [0.5, 0.51, 0.7, 0.99, 1.0, math.nan, math.inf]
    tips = [shape.tip for shape in histogram(values, DICE).shapes if isinstance(shape, Box)]
    assert sum(int(re.search(r": (\d+) case", tip)[1]) for tip in tips) == 5  # type: ignore[index]


def test_a_file_is_complete_and_a_page_brings_its_own_style() -> None:
    drawing = strips([Group("<L1> & more", ((0, 0.5),))], DICE, titled=True)
    root = ElementTree.fromstring(svg(drawing))  # noqa: S314
    assert root.tag == f"{NAMESPACE}svg"
    assert "<L1> & more" in [element.text for element in root.iter(f"{NAMESPACE}text")]
    assert "Dice" in [element.text for element in root.iter(f"{NAMESPACE}text")]
    inline = svg(drawing, standalone=False)
    assert "style" not in inline
    assert "xmlns" not in inline
    assert 'role="img"' in inline


def test_png_has_the_size_asked_for_and_the_colours_of_the_styles() -> None:
    drawing = Drawing(40, 20, (Box("column", 10, 5, 20, 10), Line("grid", 0, 0, 40, 0), Text("label", 5, 10, "µ")), "x")
    content = png(drawing, scale=3)
    assert png(drawing, scale=3) == content
    image = Image.open(io.BytesIO(content))
    assert image.size == (120, 60)
    assert not image.info
    fill, style = image.getpixel((60, 30)), STYLES["column"]
    assert style.fill is not None
    mixed = [style.opacity * value + (1 - style.opacity) * 255 for value in style.fill]
    assert fill == pytest.approx(mixed, abs=1)
    assert image.getpixel((118, 58)) == (255, 255, 255)
