"""Structures of several labels: which labels they are made of, their scores by hand, by region, and bad files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_folders import AFFINE, Folders, instances, save
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nnunet_spine_ext.cli.evaluate import main
from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.core.io import write_json
from nnunet_spine_ext.core.labels import SCHEMES
from nnunet_spine_ext.evaluate.cases import LabelSet
from nnunet_spine_ext.evaluate.compare import compare
from nnunet_spine_ext.evaluate.pairs import MaskPair, score, structure_pairs
from nnunet_spine_ext.evaluate.registry import METRICS
from nnunet_spine_ext.evaluate.structures import NAMES, Structure, choose

SPIDER_SEMANTIC = {1: "vertebra", 2: "disc", 3: "canal"}


def chosen(names: dict[int, str] | str, other: dict[int, str] | str | None = None, word: Any = "spineps") -> Any:
    known = [LabelSet(SCHEMES[one].labels if isinstance(one, str) else one) for one in (names, other) if one]
    return choose(word, *known)


def ids(found: Any, side: str = "ref_ids") -> dict[str, tuple[int, ...]]:
    return {one.name: getattr(one, side) for one in found.structures}


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


# --- which labels ----------------------------------------------------------------------------------------------------


def test_the_14_classes() -> None:
    found = chosen("nnunet14")
    assert ids(found) == {
        "vertebra": (2, 3, 4, 5, 6, 7, 8, 9, 10), "disc": (14,), "canal": (12,), "cord": (11,), "arcus": (2,),
        "spinous process": (3,), "inferior articular process": (8, 9), "superior articular process": (6, 7),
        "costal process": (4, 5), "corpus": (10,), "endplate": (13,), "sacrum": (1,),
    }  # fmt: skip
    assert found.remarks == ()


def test_spineps_ids_take_the_border_the_inner_part_and_the_dens() -> None:
    found = ids(chosen("spineps"))
    assert found["corpus"] == (49, 50, 51)
    assert found["vertebra"] == (*range(41, 52),)
    assert found["endplate"] == (52, 53, 62)
    assert set(found) == set(NAMES)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (SPIDER_SEMANTIC, {"vertebra": (1,), "disc": (2,), "canal": (3,)}),
        (
            {1: "vertebra_1", 2: "vertebra_2", 3: "disc_1", 4: "disc_2", 5: "canal"},
            {"vertebra": (1, 2), "disc": (3, 4), "canal": (5,)},
        ),
        ("totalsegmentator_mr", {"vertebra": (19,), "disc": (20,), "cord": (21,), "sacrum": (18,)}),
    ],
)
def test_datasets_without_parts_have_what_they_have_and_say_what_not(
    names: dict[int, str] | str, expected: dict[str, tuple[int, ...]]
) -> None:
    found = chosen(names)
    assert ids(found) == expected
    assert "left out: " in found.remarks[0]
    assert "arcus" in found.remarks[0]


def test_schemes_of_levels_are_united_over_the_levels() -> None:
    found = ids(chosen("spider"))
    assert found["vertebra"] == (*range(1, 26), *range(101, 126))
    assert found["disc"] == tuple(range(201, 226))
    found = ids(chosen("totalspineseg"))
    assert {11, 17, 21, 32, 41, 46} <= set(found["vertebra"])
    assert not {50, 100, 1} & set(found["vertebra"])
    assert ids(chosen("verse"))["sacrum"] == (26,)


def test_a_vertebra_without_its_arch_is_no_vertebra() -> None:
    names = {label: name for label, name in SCHEMES["nnunet14"].labels.items() if name != "arcus"}
    found = chosen(names)
    assert "vertebra" not in ids(found)
    assert "vertebra, arcus" in found.remarks[0]


def test_where_one_side_does_not_tell_the_cord_the_canal_holds_it() -> None:
    found = chosen(SPIDER_SEMANTIC, "nnunet14")
    assert ids(found) == {"vertebra": (1,), "disc": (2,), "canal": (3,)}
    assert ids(found, "pred_ids") == {"vertebra": (*range(2, 11),), "disc": (14,), "canal": (11, 12)}
    assert "canal of the predictions is taken with the cord" in found.remarks[0]
    assert ids(chosen("nnunet14", SPIDER_SEMANTIC))["canal"] == (11, 12)
    assert ids(chosen("nnunet14", "spineps"), "pred_ids")["canal"] == (61,)


# --- scores ----------------------------------------------------------------------------------------------------------


def parts() -> np.ndarray:
    """Six voxels of two parts of a structure (1, 2) and four of another one (3), one voxel apart."""
    array = np.zeros((14, 12, 6), np.uint8)
    array[2:4, 2, 2], array[4:8, 2, 2], array[2:6, 8, 2] = 1, 2, 3
    return array


def test_a_union_is_scored_as_one_structure(folders: Folders, tmp_path: Path) -> None:
    found = parts()
    found[found == 1] = 2  # the border between the parts is wrong, the union is right
    found[7, 2, 2] = 0
    folders.add("a", parts(), found)
    write_json(tmp_path / "structures.json", {"both": ["cord", 2], "one": ["disc"]})
    result = folders.run(structures=tmp_path / "structures.json", metrics=("dice", "assd", "volume_error"))
    values = folders.values()
    # 6 voxels against 5 of them; the border between the labels is none of the union.
    assert values["a", "both", "dice"] == pytest.approx(10 / 11)
    assert values["a", "one", "dice"] == 1.0
    assert values["a", "both", "volume_error"] == pytest.approx(-4.5e-3)
    assert {row.label for row in result.rows} == {"both", "one"}
    assert {(row.scope, row.label_id) for row in result.rows} == {("class", None)}
    pair = MaskPair(parts() > 0, found > 0, (1.0, 1.5, 3.0))
    cut = MaskPair(np.isin(parts(), (1, 2)), np.isin(found, (1, 2)), pair.spacing)
    assert values["a", "both", "assd"] == pytest.approx(score(METRICS["assd"], cut))
    options = folders.summary()["options"]
    assert options["structures"] == {"both": ["cord", 2], "one": ["disc"]}
    assert options["structure_ids"]["both"] == {"ref": [1, 2], "pred": [1, 2]}
    assert "| both |" in (folders.out / "summary.md").read_text(encoding="utf-8")


@given(
    arrays(np.uint8, (5, 4, 3), elements=st.integers(0, 4)),
    arrays(np.uint8, (5, 4, 3), elements=st.integers(0, 4)),
    st.sets(st.integers(1, 6), min_size=1),
    st.sets(st.integers(1, 6), min_size=1),
)
def test_pairs_equal_isin(ref: np.ndarray, pred: np.ndarray, own: set[int], other: set[int]) -> None:
    one = Structure("x", tuple(own), tuple(other))
    (_, pair), = structure_pairs(ref, pred, [one], (1.0, 2.0, 3.0), tolerance_mm=1.0)  # fmt: skip
    whole = MaskPair(np.isin(ref, list(own)), np.isin(pred, list(other)), (1.0, 2.0, 3.0))
    for name in ("ref_voxels", "pred_voxels", "overlap"):
        assert getattr(pair, name) == getattr(whole, name)
    box = tuple(slice(start, start + size) for start, size in zip(pair.origin, pair.ref.shape, strict=True))
    assert (whole.ref[box] == pair.ref).all()
    assert (whole.pred[box] == pair.pred).all()


def test_distances_in_voxels_do_not_know_the_spacing() -> None:
    ref, pred = np.zeros((9, 9, 9), bool), np.zeros((9, 9, 9), bool)
    ref[4, 4, 4], pred[4, 4, 7] = True, True
    for spacing in ((1.0, 1.0, 1.0), (0.5, 2.0, 3.3)):
        pair = MaskPair(ref, pred, spacing)
        assert score(METRICS["assd_in_voxels"], pair) == 3.0
        assert score(METRICS["assd_voxel"], pair) == pytest.approx(3 * spacing[2])
    cube = MaskPair(ref | pred, pred, (1.0, 1.0, 1.0))
    assert score(METRICS["assd_in_voxels"], cube) == score(METRICS["assd_voxel"], cube)


def test_a_structure_and_its_instances_have_their_own_rows_by_region(folders: Folders, tmp_path: Path) -> None:
    array = np.zeros((14, 12, 6), np.uint8)
    array[instances() == 19], array[instances() == 20] = 1, 2
    worse = array.copy()
    worse[0:2] = 0
    folders.add("a", array, worse)
    folders.add_instances("a", instances(), instances())
    write_json(tmp_path / "s.json", {"vertebra": [1, 2]})
    result = folders.run(structures=tmp_path / "s.json", regions=True, latex="mean")
    values = {(row.label, row.metric): row.value for row in result.rows if row.scope == "region"}
    # T12 has four slabs of which two are found; L1 is complete.
    assert values["thoracic vertebra", "dice"] == pytest.approx(2 * 2 / (4 + 2))
    assert values["lumbar vertebra", "dice"] == 1.0
    assert values["thoracic vertebra", "pq"] == 1.0
    lines = [line for line in folders.summary()["regions"] if line["label"] == "thoracic vertebra"]
    assert [("pq" in line["metrics"], "dice" in line["metrics"]) for line in lines] == [(True, False), (False, True)]
    text = (folders.out / "summary.md").read_text(encoding="utf-8")
    assert text.count("| thoracic vertebra |") == 3  # instances, structure, identification
    assert (folders.out / "summary.tex").is_file()


def test_perfect_sequences_by_region(folders: Folders) -> None:
    """Two cases; in the second one L1 is called L2: its lumbar sequence is wrong, its thoracic one is right."""
    empty = np.zeros((14, 12, 6), np.uint8)
    wrong = instances()
    wrong[wrong == 20] = 21
    for case, found in (("a", instances()), ("b", wrong)):
        folders.add(case, empty, empty)
        folders.add_instances(case, instances(), found)
    result = folders.run(regions=True)
    values = {(r.case, r.label, r.metric): r.value for r in result.rows if r.scope in ("region", "group")}
    assert values["b", "thoracic vertebra", "perfect_sequence"] == values["a", "lumbar vertebra", "id_rate"] == 1.0
    assert values["b", "lumbar vertebra", "perfect_sequence"] == values["b", "lumbar vertebra", "id_rate"] == 0.0
    assert values["b", "vertebra", "perfect_sequence"] == 0.0
    assert values["b", "vertebra", "id_rate"] == 0.5
    assert values["b", "lumbar vertebra", "pq"] == 1.0
    pooled = folders.summary()["identification_by_region"]
    assert list(pooled) == ["thoracic", "lumbar"]
    assert (pooled["lumbar"]["vertebra"]["identified"], pooled["lumbar"]["vertebra"]["instances"]) == (1, 2)
    assert pooled["lumbar"]["vertebra"]["perfect_rate"] == 0.5
    assert pooled["thoracic"]["vertebra"]["perfect_sequences"] == 2
    assert "| lumbar vertebra | 1 of 2 |" in (folders.out / "summary.md").read_text(encoding="utf-8")
    assert folders.run().to_dict()["identification_by_region"] == {}


def test_references_that_are_counted_have_no_regions_and_no_levels(folders: Folders) -> None:
    empty = np.zeros((14, 12, 6), np.uint8)
    for case in "ab":
        folders.add(case, empty, empty)
        folders.add_instances(case, instances(), instances())
    write_json(folders.ref_instances.parent / "qc" / "a.json", {"numbered": False})
    result = folders.run(regions=True)
    assert [problem.code for problem in result.summary.warnings["a"]] == ["W-EVAL-NOREGION"]
    assert {row.case for row in result.rows if row.scope == "region"} == {"b"}
    values = folders.values()
    assert math.isnan(values["a", "vertebra", "id_rate"])
    assert values["b", "vertebra", "id_rate"] == values["a", "vertebra", "pq"] == 1.0


def test_predictions_with_other_labels(folders: Folders) -> None:
    """References in SPIDER's classes, predictions in the 14 ones: the canal is compared with cord and canal."""
    ref, pred = np.zeros((14, 12, 6), np.uint8), np.zeros((14, 12, 6), np.uint8)
    ref[:6, 0:4, 0], ref[:6, 5, 0], ref[8:, 5, 0] = 1, 2, 3
    pred[:3, 0:4, 0], pred[3:6, 0:4, 0], pred[:6, 5, 0] = 2, 10, 14
    pred[8:11, 5, 0], pred[11:, 5, 0] = 11, 12
    write_json(folders.ref.parent / "dataset.json", {"labels": {"vertebra": 1, "disc": 2, "canal": 3}})
    folders.add("a", ref, pred)
    result = folders.run(structures="spineps", pred_labels="nnunet14", metrics=("dice",))
    assert result.exit_code == 0
    assert {key[1]: value for key, value in folders.values().items()} == {"vertebra": 1.0, "disc": 1.0, "canal": 1.0}
    assert any("cord in it" in remark for remark in result.remarks)
    with pytest.raises(UsageError, match="--pred-labels with --structures labels"):
        folders.run(pred_labels="nnunet14")
    with pytest.raises(UsageError, match="E-LABEL-SCHEME"):
        folders.run(structures="spineps", pred_labels="nnunet15")


# --- wrong usage -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "no structures"),
        ([1], "no structures"),
        ({"x": []}, "at least one id"),
        ({"x": 3}, "at least one id"),
        ({" ": [1]}, "give a list"),
        ({"x": {"ref": [1]}}, "give a list"),
        ({"x": ["kord"]}, "did you mean 'cord'"),
        ({"x": [0]}, "made of 0"),
        ({"x": [9]}, "made of 9"),
        ({"x": [True]}, "made of True"),
        ({"x": [1.5]}, "made of 1.5"),
    ],
)
def test_bad_files_of_structures(folders: Folders, tmp_path: Path, content: Any, message: str) -> None:
    folders.add("a", parts(), parts())
    write_json(tmp_path / "s.json", content)
    with pytest.raises(UsageError, match="E-EVAL-STRUCTURES") as caught:
        folders.run(structures=tmp_path / "s.json")
    assert message in str(caught.value)
    assert not folders.out.exists()


def test_no_names_no_file_and_nothing_known_are_wrong_usage(folders: Folders, tmp_path: Path) -> None:
    folders.add("a", parts(), parts())
    with pytest.raises(UsageError, match="did you mean 'spineps'"):
        folders.run(structures="spinep")
    write_json(tmp_path / "odd.json", {"liver": 1, "spleen": 2, "kidney": 3})
    with pytest.raises(UsageError, match="none of the structures"):
        folders.run(structures="spineps", labels=tmp_path / "odd.json")
    (folders.ref.parent / "dataset.json").unlink()
    with pytest.raises(UsageError, match="no names of labels"):
        folders.run(structures="spineps")
    write_json(tmp_path / "s.json", {"x": [1, 2], "y": ["cord"]})
    with pytest.raises(UsageError, match="the labels have no names"):
        folders.run(structures=tmp_path / "s.json")
    write_json(tmp_path / "s.json", {"x": [1, 2]})
    assert folders.run(structures=tmp_path / "s.json").exit_code == 0
    with pytest.raises(UsageError, match="--structures with --csa"):
        folders.run(structures="spineps", csa=True)


def test_other_structures_under_one_name_are_not_compared(folders: Folders, tmp_path: Path) -> None:
    folders.add("a", parts(), parts())
    for name, members in (("one", [1]), ("two", [1, 2])):
        write_json(tmp_path / f"{name}.json", {"x": members})
        folders.out = tmp_path / name
        folders.run(structures=tmp_path / f"{name}.json")
    with pytest.raises(UsageError, match="different structures"):
        compare(tmp_path / "one", [tmp_path / "two"], tmp_path / "out")


def test_command(folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    array = np.zeros((14, 12, 6), np.uint8)
    array[2:4], array[5:7] = 2, 10
    for folder in (folders.ref, folders.pred):
        save(folder / "a.nii.gz", array, AFFINE)
    words = ["-ref", str(folders.ref), "-pred", str(folders.pred), "-o", str(folders.out), "-q"]
    assert main([*words, "--scheme", "nnunet14", "--structures", "spineps", "--metrics", "dice"]) == 0
    assert main([*words, "--structures", "nothing", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)
    assert error["error"]["code"] == "E-EVAL-STRUCTURES"
