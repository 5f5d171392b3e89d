"""Pictures are upright, in physical proportions, and say where left and right are, however a volume is stored."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.render.choose import choose_position, curve, deviation_mm
from nnunet_spine_ext.render.overlay import overlay
from nnunet_spine_ext.render.slices import PLANES, view
from nnunet_spine_ext.render.window import to_grey, window

ORIENTATIONS = [
    "".join(letters) for axes in itertools.permutations(("LR", "PA", "IS")) for letters in itertools.product(*axes)
]


def _ras(shape: tuple[int, int, int] = (8, 10, 12), spacing: tuple[float, float, float] = (3.0, 1.0, 1.5)) -> Volume:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-10, 20, 5)
    return Volume(np.zeros(shape, dtype=np.uint8), affine)


def _corner() -> Volume:
    """Label 7 in the right, front, upper corner of the body."""
    grid = _ras()
    array = grid.array.copy()
    array[-2:, -2:, -2:] = 7
    return grid.with_array(array)


def _where(picture: np.ndarray) -> tuple[str, str]:
    rows, columns = np.nonzero(picture)
    height, width = picture.shape
    return "top" if rows.mean() < height / 2 else "bottom", "left" if columns.mean() < width / 2 else "right"


@pytest.mark.parametrize(
    ("plane", "position", "convention", "expected"),
    [
        ("axial", 11, "radiological", ("top", "left")),
        ("axial", 11, "neurological", ("top", "right")),
        ("coronal", 9, "radiological", ("top", "left")),
        ("coronal", 9, "neurological", ("top", "right")),
        ("sagittal", 7, "radiological", ("top", "left")),
        ("sagittal", 7, "neurological", ("top", "left")),
    ],
)
def test_right_front_and_head_are_where_the_convention_says(
    plane: str, position: int, convention: str, expected: tuple[str, str]
) -> None:
    laid_out = view(_corner(), plane, position, convention=convention)
    assert _where(laid_out.labels(_corner())) == expected


@pytest.mark.parametrize(
    ("plane", "edges"),
    [
        ("sagittal", {"left": "A", "right": "P", "top": "S", "bottom": "I"}),
        ("coronal", {"left": "R", "right": "L", "top": "S", "bottom": "I"}),
        ("axial", {"left": "R", "right": "L", "top": "A", "bottom": "P"}),
    ],
)
def test_edges_are_named(plane: str, edges: dict[str, str]) -> None:
    assert view(_ras(), plane).edges == edges


def test_neurological_exchanges_the_letters() -> None:
    edges = view(_ras(), "axial", convention="neurological").edges
    assert (edges["left"], edges["right"]) == ("L", "R")


def test_all_48_storage_orders_give_the_same_picture() -> None:
    labels = _corner()
    rng = np.random.default_rng(0)
    image = labels.with_array(rng.integers(0, 200, labels.shape).astype(np.int16))
    for plane in PLANES:
        expected = overlay(image, labels, plane=plane, size=96)
        for orientation in ORIENTATIONS:
            found = overlay(image.to(orientation), labels.to("LPS"), plane=plane, size=96)
            assert np.array_equal(found, expected), (plane, orientation)


@pytest.mark.parametrize(("plane", "ratio"), [("sagittal", 18 / 10), ("coronal", 18 / 24), ("axial", 10 / 24)])
def test_pixels_are_square_in_millimetres(plane: str, ratio: float) -> None:
    laid_out = view(_ras(), plane, size=600)
    height, width = laid_out.size
    assert max(height, width) == 600
    assert height / width == pytest.approx(ratio, rel=0.01)
    longest = {"sagittal": 18.0, "coronal": 24.0, "axial": 24.0}[plane]
    assert laid_out.pixel_mm == pytest.approx(longest / 600, rel=0.01)


@given(st.floats(-44, 44), st.sampled_from(PLANES))
def test_oblique_volumes_get_second_letters_and_no_interpolation(degrees: float, plane: str) -> None:
    angle = np.deg2rad(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    straight = _corner()
    oblique = Volume(straight.array, turn @ straight.affine)
    laid_out = view(oblique, plane, size=64)
    assert np.array_equal(laid_out.labels(oblique), view(straight, plane, size=64).labels(straight))
    letters = laid_out.edges["left"]
    assert letters[0] == ("A" if plane == "sagittal" else "R")
    assert len(letters) == (2 if abs(np.sin(angle)) > np.sin(np.deg2rad(20)) else 1)


@pytest.mark.parametrize("plane", PLANES)
def test_project_finds_the_voxel(plane: str) -> None:
    labels = _corner()
    point = labels.world((6.5, 8.5, 10.5))
    position = {"sagittal": 7, "coronal": 9, "axial": 11}[plane]
    laid_out = view(labels, plane, position, size=200)
    x, y = laid_out.project(point)
    assert laid_out.labels(labels)[int(y), int(x)] == 7


def test_focus_keeps_the_margin_and_the_projection() -> None:
    labels = _corner()
    whole = view(labels, "axial", 11)
    close = whole.focused(whole.cut(labels) != 0, 3.0, 100)
    assert (close.rows, close.columns) == ((0, 5), (0, 3))
    x, y = close.project(labels.world((7, 9, 11)))
    assert close.labels(labels)[int(y), int(x)] == 7
    assert whole.focused(np.zeros((10, 8), bool), 3.0, 100) is whole


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("oblique",), "plane"),
        (("sagittal", 8), "outside"),
        (("axial", [1] * 12), "curved"),
        (("sagittal", [1] * 3), "needs 12 positions"),
    ],
)
def test_wrong_planes_are_refused(arguments: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        view(_ras(), *arguments)


def test_a_view_refuses_volumes_of_another_grid() -> None:
    with pytest.raises(ValueError, match="not on the grid"):
        view(_ras(), "axial").cut(_ras((4, 4, 4)))


def _leaning() -> Volume:
    """A column of label 3 that moves from left to right on its way up."""
    array = np.zeros((40, 12, 60), dtype=np.uint8)
    for k in range(60):
        array[5 + k // 2 : 9 + k // 2, 4:8, k] = 3
    return Volume(array, np.eye(4))


def test_a_curved_plane_follows_a_leaning_spine() -> None:
    labels = _leaning()
    line = curve(labels, "sagittal")
    assert line is not None
    assert deviation_mm(line, labels, "sagittal") > 20
    curved = view(labels, "sagittal", line)
    straight = view(labels, "sagittal", choose_position(labels, "sagittal"))
    assert (curved.cut(labels) == 3).any(axis=1).all()
    assert (straight.cut(labels) == 3).any(axis=1).mean() < 0.5
    assert curved.curved
    assert curve(labels.with_array(np.zeros_like(labels.array)), "sagittal") is None


def test_positions_show_the_most() -> None:
    labels = _ras((9, 9, 9), (1, 1, 1))
    array = labels.array.copy()
    array[6, 4, 1:8] = 1
    array[2, 2:7, 3:5] = 2
    array[6, 3, 2] = 2
    marked = labels.with_array(array)
    assert choose_position(marked, "sagittal") == 6
    assert choose_position(marked, "sagittal", ids=(2,)) == 2
    assert choose_position(marked, "coronal") == 4
    assert choose_position(marked, "axial") in (3, 4)
    assert choose_position(labels, "axial") == 4


def test_the_window_ignores_air_outliers_and_nan() -> None:
    rng = np.random.default_rng(1)
    array = np.zeros((40, 40, 40), dtype=np.float32)
    array[10:30, 10:30, 10:30] = rng.normal(300, 40, (20, 20, 20))
    low, high = window(array)
    array[15, 15, 15], array[16, 16, 16], array[17, 17, 17] = 1e7, np.nan, np.inf
    again = window(array)
    assert low == again[0] == 0
    assert 330 < high < 450
    assert again[1] == pytest.approx(high, rel=0.02)
    grey = to_grey(array, again)
    assert (grey[15, 15, 15], grey[16, 16, 16], grey[17, 17, 17]) == (255, 0, 255)


def test_the_window_of_constants_and_nothing() -> None:
    assert window(np.full((3, 3, 3), 5)) == (5.0, 6.0)
    assert window(np.full((3, 3, 3), np.nan)) == (0.0, 1.0)
    ct = np.full((20, 20, 20), -1000.0)
    ct[5:15] = 200.0
    assert window(ct) == (-250.0, 850.0)
