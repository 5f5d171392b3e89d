"""Point files: the same places in the body, whatever counts the voxels and whoever wrote the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_spine_ext.cli.labels import main
from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.io import read_volume, write_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.dataset_conversion.point_files import points
from nnunet_spine_ext.measure import centroids
from nnunet_spine_ext.measure.points import PointList, read_points, write_points

ORIENTATIONS = ("RAS", "LPS", "PIR", "ASL", "SRP", "ILA")


def rotation(x: float, y: float, z: float) -> np.ndarray:
    a, b, c = np.radians([x, y, z])
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return rx @ ry @ rz


def grid(
    shape: tuple[int, int, int] = (7, 30, 40),
    spacing: tuple[float, float, float] = (3.3, 0.6, 0.9),
    angles: tuple[float, float, float] = (12.0, -7.0, 20.0),
    orientation: str = "RAS",
) -> Volume:
    """Return an oblique, anisotropic mask with three instances."""
    affine = np.eye(4)
    affine[:3, :3] = rotation(*angles) * spacing
    affine[:3, 3] = (-31.0, 12.5, 870.25)
    array = np.zeros(shape, np.uint8)
    array[1:4, 3:12, 5:15] = 23
    array[2:5, 4:15, 15:18] = 123
    array[2:6, 5:14, 18:31] = 24
    array[3:5, 10:14, 33:39] = 26
    return Volume(array, affine).to(orientation)


def places(path: Path, like: Volume | None = None) -> dict[int, np.ndarray]:
    found = read_points(path, like)
    return dict(zip(found.points, found.world(), strict=True))


def assert_same_places(a: dict[int, np.ndarray], b: dict[int, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for key, place in a.items():
        np.testing.assert_allclose(place, b[key], atol=1e-6)


def verse_file(path: Path, direction: str, rows: list[tuple[Any, ...]]) -> Path:
    """Write a file as VerSe's own scripts do."""
    entries = [dict(zip(("label", "X", "Y", "Z"), row, strict=True)) for row in rows]
    path.write_text(json.dumps([{"direction": list(direction)}, *entries]))
    return path


@pytest.mark.parametrize("start", ORIENTATIONS)
@pytest.mark.parametrize("end", ORIENTATIONS)
def test_places_stay_when_the_voxels_turn(tmp_path: Path, start: str, end: str) -> None:
    mask = grid(orientation=start)
    here = PointList(centroids(mask), mask)
    true = dict(zip(here.points, here.world(), strict=True))
    turned = here.to(end)
    assert turned.grid.orientation == end
    assert_same_places(dict(zip(turned.points, turned.world(), strict=True)), true)
    write_points(tmp_path / "a.json", turned, "poi")
    write_points(tmp_path / "b.json", turned, "verse")
    assert_same_places(places(tmp_path / "a.json"), true)
    assert_same_places(places(tmp_path / "b.json"), {k: v for k, v in true.items() if k < 100})
    # The voxel that a turned mask has there is the voxel that the points say.
    again = centroids(mask.to(end))
    for key, point in turned.points.items():
        np.testing.assert_allclose(point, again[key], atol=1e-9)


angle = st.floats(-40, 40)


@given(
    st.tuples(angle, angle, angle),
    st.tuples(st.floats(0.3, 5), st.floats(0.3, 5), st.floats(0.3, 5)),
    st.sampled_from(ORIENTATIONS),
    st.sampled_from(ORIENTATIONS),
)
def test_world_positions_are_kept_for_any_grid(
    angles: tuple[float, float, float], spacing: tuple[float, float, float], start: str, end: str
) -> None:
    mask = grid(spacing=spacing, angles=angles, orientation=start)
    here = PointList({23: (1.25, 7.5, 3.0), 24: (0.0, 0.0, 0.0)}, mask)
    assert np.abs(here.to(end).world() - here.world()).max() < 1e-6
    back = here.to(end).to(mask.orientation)
    np.testing.assert_allclose(list(back.points.values()), list(here.points.values()), atol=1e-6)


@pytest.mark.parametrize("direction", ORIENTATIONS)
def test_verse_files_need_their_image_in_any_orientation(tmp_path: Path, direction: str) -> None:
    image = grid(orientation="LPS")
    turned = image.to(direction)
    rows = [(key, *point) for key, point in centroids(turned).items() if key < 100]
    file = verse_file(tmp_path / "a.json", direction, rows)
    with pytest.raises(CaseError, match="E-IN-POINTGRID") as caught:
        read_points(file)
    assert "--like" in caught.value.fix
    true = PointList(centroids(image), image)
    wanted = {k: v for k, v in zip(true.points, true.world(), strict=True) if k < 100}
    assert_same_places(places(file, image), wanted)


def test_verse_labels(tmp_path: Path) -> None:
    image = grid()
    rows: list[tuple[Any, ...]] = [(1, 1, 2, 3), (28, 4, 5, 6), (20.0, 1, 1, 1), ("24", 2, 2, 2), ("L6", 3, 3, 3)]
    rows += [(21, float("nan"), 1, 1), (50 * 256 + 5, 0, 0, 0), (100 * 256 + 5, 1, 0, 0), (42 * 256 + 5, 1, 0, 0)]
    found = read_points(verse_file(tmp_path / "a.json", "RAS", [row for row in rows if row[0] != 20.0]), image)
    assert sorted(found.points) == [1, 5, 24, 25, 28, 105]
    assert found.left_out == ("21", str(42 * 256 + 5))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(34, 1, 1, 1)], "a point with the label 34"),
        ([(0, 1, 1, 1)], "a point with the label 0"),
        ([(20, 1, 1, 1), (20, 2, 2, 2)], "the label 20 twice"),
        ([("banana", 1, 1, 1)], "no point"),
        ([(20, 1, 1)], "no point"),
        ([(20, 1, 1, "x")], "no point"),
    ],
)
def test_wrong_entries_are_named(tmp_path: Path, rows: list[tuple[Any, ...]], message: str) -> None:
    entries = [dict(zip(("label", "X", "Y", "Z"), row, strict=False)) for row in rows]
    (tmp_path / "a.json").write_text(json.dumps([{"direction": ["R", "A", "S"]}, *entries]))
    with pytest.raises(CaseError, match=message):
        read_points(tmp_path / "a.json", grid())


@pytest.mark.parametrize(
    "header",
    [
        {"direction": ["R", "A", "S"], "zoom": [1, 1], "origin": [0, 0, 0], "rotation": np.eye(3).tolist()},
        {"direction": ["L", "A", "S"], "zoom": [1, 1, 1], "origin": [0, 0, 0], "rotation": np.eye(3).tolist()},
        {"direction": ["R", "A", "S"], "zoom": [1, 1, 0], "origin": [0, 0, 0], "rotation": np.eye(3).tolist()},
    ],
)
def test_headers_that_contradict_themselves_are_refused(tmp_path: Path, header: dict[str, Any]) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{**header, "shape": [5, 5, 5]}]))
    with pytest.raises(CaseError, match="E-IN-POI"):
        read_points(tmp_path / "a.json")


@pytest.mark.parametrize("text", ["{}", "[]", "[1, 2]", '[{"label": 1}]', "no json"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(CaseError):
        read_points(tmp_path / "a.json")


@pytest.mark.parametrize("system", ["nib", "itk"])
def test_lists_in_millimetres_need_an_image(tmp_path: Path, system: str) -> None:
    image = grid(orientation="PIR")
    place = np.array([-20.0, 15.0, 880.0]) * ([-1, -1, 1] if system == "itk" else [1, 1, 1])
    header = {"format": "POI_GLOBAL", "coordinate_system": system}
    (tmp_path / "a.json").write_text(json.dumps([header, {"L4": {"50": place.tolist()}}]))
    with pytest.raises(CaseError, match="E-IN-POINTGRID"):
        read_points(tmp_path / "a.json")
    np.testing.assert_allclose(places(tmp_path / "a.json", image)[23], [-20.0, 15.0, 880.0], atol=1e-9)


# The command.


def test_masks_become_points_and_points_change_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = grid(orientation="PIR")
    write_volume(mask, tmp_path / "masks" / "case.nii.gz")
    here = PointList(centroids(mask), mask)
    true = dict(zip(here.points, here.world(), strict=True))
    assert main(["points", "-i", str(tmp_path / "masks"), "-o", str(tmp_path / "poi"), "--to", "poi"]) == 0
    found = places(tmp_path / "poi" / "case.json")
    assert found.keys() == true.keys()
    assert all(np.linalg.norm(found[key] - true[key]) < 1e-3 for key in true)
    call = ["points", "-i", str(tmp_path / "poi"), "-o", str(tmp_path / "verse"), "--to", "verse"]
    assert main([*call, "--orientation", "LPS"]) == 0
    assert "disc L4: verse has no place for it" in capsys.readouterr().out
    written = json.loads((tmp_path / "verse" / "case.json").read_text())
    assert written[0]["direction"] == ["L", "P", "S"]
    assert [row["label"] for row in written[1:]] == [23, 24, 26]
    assert set(written[1]) == {"label", "X", "Y", "Z"}
    again = places(tmp_path / "verse" / "case.json")
    assert all(np.linalg.norm(again[key] - true[key]) < 1e-3 for key in again)
    # Readers of VerSe that know no grid but the image find the same place.
    bare = verse_file(tmp_path / "bare.json", "LPS", [tuple(row.values()) for row in written[1:]])
    call = ["points", "-i", str(bare), "-o", str(tmp_path / "back.json"), "--to", "poi"]
    assert main(call) == 4
    assert main([*call, "--like", str(tmp_path / "masks" / "case.nii.gz")]) == 0
    assert all(np.linalg.norm(places(tmp_path / "back.json")[key] - true[key]) < 1e-3 for key in again)


def test_masks_of_other_schemes_and_bodies(tmp_path: Path) -> None:
    mask = grid()
    ids = {23: 44, 123: 95, 24: 45, 26: 50}
    array = np.zeros_like(mask.array)
    for old, new in ids.items():
        array[mask.array == old] = new
    write_volume(mask.with_array(array), tmp_path / "a.nii.gz")
    points(tmp_path / "a.nii.gz", tmp_path / "a.json", target="poi", scheme="totalspineseg")
    assert sorted(read_points(tmp_path / "a.json").points) == [23, 24, 26, 123]
    bodies = np.where((mask.array == 24) & (np.arange(30)[:, None] > 9), 10, 0).astype(np.uint8)
    write_volume(mask.with_array(bodies), tmp_path / "classes" / "a.nii.gz")
    run = points(
        tmp_path / "a.nii.gz", tmp_path / "b.json", target="poi", scheme="totalspineseg", semantic=tmp_path / "classes"
    )
    assert run.exit_code == 0
    whole, body = read_points(tmp_path / "a.json").points, read_points(tmp_path / "b.json").points
    assert body[24][1] > whole[24][1]
    assert body[23] == pytest.approx(whole[23])


def test_bad_files_leave_the_others_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    write_volume(grid(), folder / "good.nii.gz")
    (folder / "broken.json").write_text("{")
    write_volume(grid().with_array(grid().array + 34), folder / "unknown.nii.gz")
    call = ["points", "-i", str(folder), "-o", str(tmp_path / "out"), "--to", "poi"]
    assert main([*call, "--dry-run"]) == 3
    assert not (tmp_path / "out").exists()
    assert main(call) == 3
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.json"]
    text = capsys.readouterr().out
    assert "E-IN-JSON" in text
    assert "label ids 34 (" in text
    assert main(call) == 2
    assert main([*call, "--overwrite"]) == 3
    assert main(["points", "-i", str(tmp_path / "none"), "-o", str(tmp_path / "x"), "--to", "poi"]) == 4
    assert main([*call[:-1], "poi", "--orientation", "RAX", "--overwrite"]) == 2
    assert main([*call, "--scheme", "nnunet14", "--overwrite"]) == 2


def test_inputs_are_never_replaced(tmp_path: Path) -> None:
    mask = grid()
    write_points(tmp_path / "a.json", PointList(centroids(mask), mask), "poi")
    before = (tmp_path / "a.json").read_bytes()
    assert main(["points", "-i", str(tmp_path), "-o", str(tmp_path), "--to", "verse", "--overwrite"]) == 2
    assert (tmp_path / "a.json").read_bytes() == before
    (tmp_path / "a.nii.gz").touch()
    assert main(["points", "-i", str(tmp_path), "-o", str(tmp_path / "o"), "--to", "verse"]) == 2


def test_real_masks_and_disc_points(test_data: Path, tmp_path: Path) -> None:
    names = {
        "mri": "tptbox/sample_mri/sub-mri_seg-vert_label-6_msk.nii.gz",
        "lumbar": "panoptica/matched_instance/ref.nii.gz",
    }
    for name, path in names.items():
        points(test_data / path, tmp_path / f"{name}.json", target="poi")
        mask = read_volume(test_data / path)
        found = places(tmp_path / f"{name}.json")
        for key in np.unique(mask.array)[1:].tolist():
            centre = mask.world(np.argwhere(mask.array == key).mean(axis=0))
            assert np.linalg.norm(found[key] - centre) < 1e-3
        points(tmp_path / f"{name}.json", tmp_path / f"{name}_verse.json", target="verse", orientation="LPS")
        again = places(tmp_path / f"{name}_verse.json")
        assert all(np.linalg.norm(again[key] - found[key]) < 1e-3 for key in again)
    discs = test_data / "sct-testing" / "template" / "template" / "PAM50_small_label_discPosterior.nii.gz"
    points(discs, tmp_path / "discs.json", target="poi", scheme="sct_discs")
    heights = [place[2] for place in places(tmp_path / "discs.json").values()]
    assert len(heights) == 20
    assert heights == sorted(heights, reverse=True)
