"""Centroids and the point files that TPTBox reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nnunet_spine_ext.core.errors import CaseError
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.measure import centroids, read_poi, write_poi


def _volume() -> Volume:
    array = np.zeros((6, 8, 10), dtype=np.uint16)
    array[1:3, 2:6, 1:4] = 20
    array[1:3, 2:6, 4] = 120
    array[3, 3, 3] = 220
    affine = np.array([[0.0, 0.0, -3.0, 5.0], [-0.9, 0.0, 0.0, 7.0], [0.0, -1.1, 0.0, -9.0], [0.0, 0.0, 0.0, 1.0]])
    return Volume(array, affine)


def test_centres_of_mass_in_voxels() -> None:
    assert centroids(_volume()) == {20: (1.5, 3.5, 2.0), 120: (1.5, 3.5, 4.0), 220: (3.0, 3.0, 3.0)}
    assert centroids(Volume(np.zeros((2, 2, 2), dtype=np.uint16), np.eye(4))) == {}


def test_with_the_semantic_mask_a_vertebra_is_where_its_body_is() -> None:
    volume = _volume()
    semantic = np.zeros(volume.shape, dtype=np.uint8)
    semantic[1:3, 2:4, 1:4] = 10
    assert centroids(volume, volume.with_array(semantic))[20] == (1.5, 2.5, 2.0)
    assert centroids(volume, volume.with_array(np.zeros(volume.shape, dtype=np.uint8)))[20] == (1.5, 3.5, 2.0)
    with pytest.raises(ValueError, match="grid"):
        centroids(volume, Volume(semantic, np.eye(4)))


def test_points_survive_writing_and_reading(tmp_path: Path) -> None:
    volume = _volume()
    points = centroids(volume)
    write_poi(tmp_path / "a.json", volume, points, info={"numbered": False, "zoom": "ignored"})
    found, header = read_poi(tmp_path / "a.json")
    assert found == points
    assert header["numbered"] is False
    assert header["zoom"] == pytest.approx([0.9, 1.1, 3.0])


def test_the_header_gives_the_affine_back(tmp_path: Path) -> None:
    volume = _volume()
    write_poi(tmp_path / "a.json", volume, centroids(volume))
    header, table = json.loads((tmp_path / "a.json").read_text())
    assert header["direction"] == list("PIL")
    assert header["shape"] == [6, 8, 10]
    assert header["format"] == "POI"
    assert (header["level_one_info"], header["level_two_info"]) == ("Vertebra_Instance", "Location")
    affine = np.eye(4)
    affine[:3, :3] = np.array(header["rotation"]) @ np.diag(header["zoom"])
    affine[:3, 3] = header["origin"]
    np.testing.assert_allclose(affine, volume.affine, atol=1e-12)
    assert set(table) == {"20"}
    assert set(table["20"]) == {"50", "100", "62"}


def test_files_with_names_are_read(tmp_path: Path) -> None:
    header = {"direction": ["R", "A", "S"], "zoom": [1, 1, 1], "format": "POI"}
    table = {"L1": {"50": [1, 2, 3], "Spinosus_Process": [4, 4, 4]}, "COCC": {"Vertebra_Corpus": [7, 8, 9]}}
    (tmp_path / "a.json").write_text(json.dumps([header, table]))
    assert read_poi(tmp_path / "a.json")[0] == {20: (1.0, 2.0, 3.0), 27: (7.0, 8.0, 9.0)}


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "{}",
        "[]",
        '[{"direction": ["R", "A", "S"], "format": "POI_GLOBAL"}, {}]',
        '[{"direction": ["R", "A", "S"], "format": "POI"}, {"L1": {"50": [1, 2]}}]',
        '[{"direction": ["R", "A", "S"], "format": "POI"}, {"X9": {"50": [1, 2, 3]}}]',
        '[{"direction": ["R", "A", "S"], "format": "POI"}, {"L1": [1, 2, 3]}]',
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(CaseError, match=r"a\.json"):
        read_poi(tmp_path / "a.json")


def test_a_missing_file_is_a_case_error(tmp_path: Path) -> None:
    with pytest.raises(CaseError):
        read_poi(tmp_path / "none.json")
