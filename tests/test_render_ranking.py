"""Rankings on a logarithmic axis, and coefficients in cells whose colour tells their sign."""

from __future__ import annotations

import math

import pytest

from nnunet_spine_ext.render.drawing import HEAT_STEPS, STYLES, Box, Drawing, Line, Text, png, svg
from nnunet_spine_ext.render.ranking import Axis, Ranked, correlations, ranking


def _texts(drawing: Drawing) -> list[str]:
    return [shape.text for shape in drawing.shapes if isinstance(shape, Text)]


def test_equal_ratios_are_equal_steps() -> None:
    rows = [Ranked("a", 0.01), Ranked("b", 0.1, 1), Ranked("c", 1.0), Ranked("d", 0.0), Ranked("e", math.nan)]
    drawing = ranking(rows, [(0, "one"), (1, "two")], Axis("variation"), "Title")
    one, two, three = (s.x2 for s in drawing.shapes if isinstance(s, Line) and s.style.startswith("series"))
    assert two - one == pytest.approx(three - two)
    assert two > one
    assert _texts(drawing).count("not measured") == 2
    assert {"0.01", "0.1", "1", "Title", "one", "two", "variation"} <= set(_texts(drawing))


def test_a_ranking_of_nothing_and_of_one_value() -> None:
    assert "Title" not in _texts(ranking([], [], Axis("x"), "Title", titled=False))
    assert svg(ranking([Ranked("a", 0.1)], [], Axis("x"), "Title"))


def test_cells_of_coefficients() -> None:
    drawing = correlations(["a", "b"], [[1.0, -0.5], [math.nan, 0.0]], "Title", chosen={"b"})
    cells = {s.tip: s.style for s in drawing.shapes if isinstance(s, Box) and s.tip}
    last = HEAT_STEPS - 1
    assert cells == {
        "a, a: 1.000": f"signed-{last}",
        "a, b: -0.500": f"signed-{last // 4}",
        "b, a: not measured": "missing",
        "b, b: 0.000": f"signed-{last // 2}",
    }
    assert {"1", "-.50", "–", ".00"} <= set(_texts(drawing))
    assert [s.text for s in drawing.shapes if isinstance(s, Text) and s.style == "chosen"] == ["b  2"]
    assert png(drawing, scale=1.0) == png(drawing, scale=1.0)


def test_no_correlation_is_the_palest_cell() -> None:
    fills = [STYLES[f"signed-{k}"].fill for k in range(HEAT_STEPS)]
    lightness = [sum(fill or ()) for fill in fills]
    assert max(range(HEAT_STEPS), key=lightness.__getitem__) == HEAT_STEPS // 2
    assert fills[0] != fills[-1]


def test_many_cells_make_the_drawing_wider() -> None:
    names = [f"feature{k}" for k in range(30)]
    wide = correlations(names, [[0.0] * 30] * 30, "Title")
    few = correlations(names[:3], [[0.0] * 3] * 3, "Title")
    assert wide.width > few.width == 640.0
