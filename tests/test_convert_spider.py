"""`nnUNetv2_spine_convert spider`: targets, numbering, headers, tables, patients, bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from layout_spider import Series, toy_patient, toys, write_spider
from nnunet_verdict import verify_with_nnunet
from opened_files import count_opens

from nnunet_spine_ext.check.datasets import inspect_dataset
from nnunet_spine_ext.cli import convert_spider
from nnunet_spine_ext.cli.convert import main
from nnunet_spine_ext.core import spider as numbering
from nnunet_spine_ext.core.errors import NoInputError, SpineExtError, UsageError
from nnunet_spine_ext.core.io import read_volume, write_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.dataset_conversion.report import ConversionResult
from nnunet_spine_ext.dataset_conversion.spider import spider
from nnunet_spine_ext.dataset_conversion.spider_files import SERIES_NAMES
from nnunet_spine_ext.dataset_conversion.spider_targets import TARGETS

CASES = ["1_t1", "1_t2", "1_t2_SPACE", "2_t2", "3_t2", "4_t2"]


def _convert(tmp_path: Path, **changes: Any) -> ConversionResult:
    base: dict[str, Any] = {"raw": tmp_path / "raw", "preprocessed": tmp_path / "pre", "folds": 3}
    return spider(tmp_path / "in", **({"dataset_id": 501} | base | changes))


def _read(result: ConversionResult, case: str, kind: str = "labelsTr") -> np.ndarray:
    return read_volume(result.folder / kind / f"{case}.nii.gz").array


def _table(result: ConversionResult) -> dict[str, Any]:
    cases: dict[str, Any] = json.loads((result.folder / "cases.json").read_text())["cases"]
    return cases


def _codes(result: ConversionResult) -> list[str]:
    return [problem.code for row in result.rows for problem in row.warnings]


def _nothing_written(tmp_path: Path) -> bool:
    return not any(list((tmp_path / name).glob("*")) for name in ("raw", "pre"))


# --- targets --------------------------------------------------------------------------------------------------------


def test_semantic_makes_a_dataset_that_nnunet_accepts(tmp_path: Path) -> None:
    series = toys()
    write_spider(tmp_path / "in", series)
    result = _convert(tmp_path, test_subset="validation")
    assert result.exit_code == 0, result.render()
    assert result.folder.name == "Dataset501_SPIDER"
    description = json.loads((result.folder / "dataset.json").read_text())
    assert description["labels"] == {"background": 0, "vertebra": 1, "disc": 2, "canal": 3}
    assert description["spine_ext"]["scheme"] == "whole_vertebrae"
    assert description["licence"] == "CC BY 4.0"
    cases = _table(result)
    assert sorted(cases) == CASES
    assert {case for case, row in cases.items() if row.get("test")} == {"4_t2"}
    splits = json.loads((tmp_path / "pre" / "Dataset501_SPIDER" / "splits_final.json").read_text())
    assert sorted(case for split in splits for case in split["val"]) == CASES[:-1]
    assert all(len({case for case in CASES[:3] if case in split["val"]}) in (0, 3) for split in splits)
    for one in series:
        kind = "Ts" if one.subset == "validation" else "Tr"
        kinds = np.select([one.mask().array == 100, one.mask().array > 200, one.mask().array > 0], [3, 2, 1])
        np.testing.assert_array_equal(_read(result, one.name, f"labels{kind}"), kinds)
        kept = np.where((one.instances.array > 200) | (one.instances.array == 26), 0, one.instances.array)
        np.testing.assert_array_equal(_read(result, one.name, f"instances{kind}"), kept)
        image = read_volume(result.folder / f"images{kind}" / f"{one.name}_0000.nii.gz")
        np.testing.assert_array_equal(image.array, one.image.array)
    assert inspect_dataset(result.folder).ok
    verify_with_nnunet(result.folder)


def test_classes_of_levels_do_not_depend_on_the_subset_and_come_back(tmp_path: Path) -> None:
    series = toys()
    write_spider(tmp_path / "in", series)
    result = _convert(tmp_path, target="levels")
    only = _convert(tmp_path, dataset_id=502, target="levels", series=["t1"])
    assert result.spec is not None
    assert only.spec is not None
    assert result.spec.labels == only.spec.labels == numbering.levels_labels()
    assert [row.case_id for row in only.rows] == ["1_t1"]
    back = np.zeros(22, np.int16)
    for label, number in numbering.levels_to_spider().items():
        back[label] = number
    for one in series:
        np.testing.assert_array_equal(back[_read(result, one.name)], one.mask().array)
    verify_with_nnunet(result.folder)


def test_too_few_levels_skip_the_case_and_name_the_option(tmp_path: Path) -> None:
    write_spider(tmp_path / "in", toys())
    result = _convert(tmp_path, target="levels", levels=5)
    assert [(p.code, Path(p.file).name) for p in result.skipped] == [("E-SPIDER-LEVELS", "3_t2.mha")]
    assert "label ids 6 (1328 voxels), 206 (280 voxels)" in result.skipped[0].found
    assert "--levels 6" in result.skipped[0].fix
    assert result.exit_code == 3


def test_nnunet14_says_only_what_spider_knows(tmp_path: Path) -> None:
    series = toys()
    write_spider(tmp_path / "in", series)
    result = _convert(tmp_path, target="nnunet14")
    assert result.exit_code == 0, result.render()
    description = json.loads((result.folder / "dataset.json").read_text())
    assert description["labels"]["ignore"] == 15
    assert description["spine_ext"]["scheme"] == "nnunet14"
    for one in series:
        label, truth = _read(result, one.name), one.semantic.array
        assert set(np.unique(label)) == {0, 14, 15}
        np.testing.assert_array_equal(label[label != 15], truth[label != 15])
        assert (label[truth == 14] == 14).all()
        assert (label[np.isin(truth, (1, *range(2, 14)))] == 15).all()
        assert (label == 0).mean() > 0.3
    verify_with_nnunet(result.folder)


def test_margins_widen_what_is_ignored(tmp_path: Path) -> None:
    write_spider(tmp_path / "in", toys())
    usual = _convert(tmp_path, target="nnunet14")
    wide = _convert(tmp_path, dataset_id=502, target="nnunet14", endplate_margin=8.0, end_margin=35.0)
    narrow, more = _read(usual, "2_t2"), _read(wide, "2_t2")
    assert ((narrow == 15) <= (more == 15)).all()
    assert (more == 15).sum() > 1.1 * (narrow == 15).sum()
    assert ((more == 14) == (narrow == 14)).all()


def test_parts_made_by_a_model_fill_in_and_are_flagged(tmp_path: Path) -> None:
    series = toys()
    write_spider(tmp_path / "in", series, {"subregions"})
    (tmp_path / "in" / "subregions" / "3_t2_seg-spine_msk.nii.gz").unlink()
    given = {"target": "nnunet14", "subregions": tmp_path / "in" / "subregions", "test_patients": ["4"]}
    result = _convert(tmp_path, **given)
    assert result.exit_code == 0, result.render()
    for one in series[:4]:
        np.testing.assert_array_equal(_read(result, one.name), one.semantic.array)
    assert set(np.unique(_read(result, "3_t2"))) == {0, 14, 15}
    assert set(np.unique(_read(result, "4_t2", "labelsTs"))) == {0, 14, 15}
    cases = _table(result)
    assert {case: row["label_source"] for case, row in cases.items()} == {
        **dict.fromkeys(CASES[:4], "model"), "3_t2": "reference", "4_t2": "reference",
    }  # fmt: skip
    assert [case for case, row in cases.items() if row.get("train_only")] == CASES[:4]
    assert cases["2_t2"]["subregions_dice"] > 0.9
    assert [source["role"] for source in cases["2_t2"]["sources"]] == ["image_0000", "label", "subregions"]
    said = result.render()
    for words in ("no mask for 3_t2", "SPIDER alone", "4_t2", "never validated"):
        assert words in said
    allowed = _convert(tmp_path, dataset_id=502, allow_model_labels=True, **given)
    assert not any(row.get("train_only") for row in _table(allowed).values())
    np.testing.assert_array_equal(_read(allowed, "4_t2", "labelsTs"), series[-1].semantic.array)
    verify_with_nnunet(allowed.folder)


def test_every_file_is_read_once(tmp_path: Path) -> None:
    source = write_spider(tmp_path / "in", toys(), ["subregions"])
    with count_opens(source) as opened:
        result = _convert(tmp_path, target="nnunet14", subregions=source / "subregions", dry_run=True)
    assert set(opened.values()) == {1}
    assert len(opened) == 2 + sum(len(row.files) for row in result.rows)


def test_where_spider_and_the_model_contradict_each_other_is_ignored(tmp_path: Path) -> None:
    series = toys()
    write_spider(tmp_path / "in", series, {"subregions"})
    path = tmp_path / "in" / "subregions" / "2_t2_seg-spine_msk.nii.gz"
    parts = read_volume(path)
    array, truth = parts.array.copy(), series[3].semantic.array
    array[:4] = 0
    write_volume(parts.with_array(array), path)
    label = _read(_convert(tmp_path, target="nnunet14", subregions=path.parent), "2_t2")
    np.testing.assert_array_equal(label[4:], truth[4:])
    # Bone and canal without parts are ignored, discs are SPIDER's, what SPIDER does not label is the model's.
    assert (label[:4][np.isin(truth[:4], (*range(2, 13),))] == 15).all()
    assert (label[:4][truth[:4] == 14] == 14).all()
    assert (label[:4][np.isin(truth[:4], (0, 1, 13))] == 0).all()


def test_exchanged_codes_of_cord_and_canal_are_put_right(tmp_path: Path) -> None:
    series = toys()
    write_spider(tmp_path / "in", series, {"swapped_cord_canal"})
    result = _convert(tmp_path, target="nnunet14", subregions=tmp_path / "in" / "subregions")
    assert _codes(result) == ["W-LABEL-EXCHANGED"] * len(CASES)
    for one in series:
        np.testing.assert_array_equal(_read(result, one.name), one.semantic.array)


def test_masks_of_another_scan_are_no_subregions(tmp_path: Path) -> None:
    write_spider(tmp_path / "in", toys(), {"subregions"})
    path = tmp_path / "in" / "subregions" / "2_t2_seg-spine_msk.nii.gz"
    parts = read_volume(path)
    write_volume(parts.with_array(np.roll(parts.array, 18, axis=1)), path)
    result = _convert(tmp_path, target="nnunet14", subregions=path.parent)
    assert [(p.code, p.file) for p in result.skipped] == [("E-SPIDER-SUBREGIONS", str(path))]
    with pytest.raises(NoInputError, match="1_t1"):
        _convert(tmp_path, dataset_id=502, target="nnunet14", subregions=tmp_path / "nowhere")


@pytest.mark.parametrize(("target", "codes"), [("semantic", ["W-SPIDER-ABSENT"]), ("nnunet14", ["W-LABEL-EMPTY"])])
def test_a_mask_without_a_kind_of_structure_is_warned_of(tmp_path: Path, target: str, codes: list[str]) -> None:
    source = write_spider(tmp_path / "in", toys())
    path = source / "masks" / "2_t2.mha"
    mask = read_volume(path)
    write_volume(mask.with_array(np.where(mask.array > 99, 0, mask.array).astype(np.int16)), path)
    result = _convert(tmp_path, target=target)
    assert _codes(result) == codes
    said = next(row for row in result.rows if row.case_id == "2_t2").warnings[0].found
    assert target == "nnunet14" or said == "no disc, no canal"


def test_partly_visible_vertebrae_are_kept_or_ignored(tmp_path: Path) -> None:
    series = toys()
    write_spider(tmp_path / "in", series, {"partly_visible"})
    kept = _convert(tmp_path, target="levels")
    ignored = _convert(tmp_path, dataset_id=502, target="levels", partly_visible="ignore")
    semantic = _convert(tmp_path, dataset_id=503, partly_visible="ignore")
    highest = series[0].instances.array == 20
    assert set(_read(kept, "1_t1")[highest]) == {5}
    assert set(_read(ignored, "1_t1")[highest]) == {22}
    assert set(_read(semantic, "1_t1")[highest]) == {4}
    for result in (kept, ignored):
        assert set(_read(result, "1_t1", "instancesTr")[highest]) == {20}
        assert _table(result)["1_t1"]["partly_visible"] == [20]
    description = json.loads((semantic.folder / "dataset.json").read_text())
    assert description["labels"]["ignore"] == 4
    # There 4 is the cord.
    assert description["spine_ext"]["scheme"] != "whole_vertebrae"
    verify_with_nnunet(semantic.folder)


# --- numbering ------------------------------------------------------------------------------------------------------


def test_masks_that_count_from_above_give_the_same_dataset(tmp_path: Path) -> None:
    write_spider(tmp_path / "in", toys())
    published = _convert(tmp_path, target="levels")
    write_spider(tmp_path / "other" / "in", toys(), {"top_down"})
    copied = _convert(tmp_path / "other", target="levels", level_order="top-down")
    assert copied.exit_code == 0, copied.render()
    for kind in ("labelsTr", "instancesTr"):
        for case in CASES:
            np.testing.assert_array_equal(_read(copied, case, kind), _read(published, case, kind))


@pytest.mark.parametrize(
    ("quirks", "order", "other"), [((), "top-down", "bottom-up"), (("top_down",), "bottom-up", "top-down")]
)
def test_the_wrong_order_is_refused_with_the_other_one(
    tmp_path: Path, quirks: tuple[str, ...], order: Any, other: str
) -> None:
    write_spider(tmp_path / "in", toys(), quirks)
    result = _convert(tmp_path, level_order=order)
    assert result.exit_code == 4
    assert {p.code for p in result.skipped} == {"E-SPIDER-ORDER"}
    assert result.skipped[0].fix == f"--level-order {other}"
    assert _nothing_written(tmp_path)


def test_other_lowest_vertebrae(tmp_path: Path) -> None:
    write_spider(tmp_path / "in", toys())
    table = tmp_path / "lowest.csv"
    table.write_text("Patient;Lowest;thoracic\n002;l6;\n3;;13\n4;S1;\n77;L4;\n")
    result = _convert(tmp_path, lowest_table=table)
    assert result.exit_code == 0, result.render()
    found = {case: [int(k) for k in np.unique(_read(result, case, "instancesTr")) if 0 < k < 100] for case in CASES}
    assert found["1_t1"] == [20, 21, 22, 23, 24]
    assert found["2_t2"] == [21, 22, 23, 24, 25]
    assert found["3_t2"] == [20, 21, 22, 23, 24, 28]
    assert found["4_t2"] == [21, 22, 23, 24, 26]
    cases = _table(result)
    assert [cases[case]["lowest_vertebra"] for case in CASES] == ["L5", "L5", "L5", "L6", "L5", "S1"]
    assert cases["3_t2"]["thoracic_vertebrae"] == 13
    assert [row["below"] for row in cases["2_t2"]["gradings"]] == ["L6", "L5", "L4", "L3", "L2"]
    assert "without files: 77" in result.render()
    every = _convert(tmp_path, dataset_id=502, lowest="L6")
    assert set(np.unique(_read(every, "1_t1", "instancesTr"))) >= {25, 125}


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("patient,lowest\n1,L7\n", "E-SPIDER-LOWEST", "line 2: 'L7'"),
        ("patient,lowest,thoracic\n1,L5,twelve\n", "E-SPIDER-TABLE", "twelve"),
        ("patient,lowest\n1,L5\n01,L6\n", "E-SPIDER-TABLE", "line 3: patient 1 again"),
        ("who,lowest\n1,L5\n", "E-SPIDER-TABLE", "who, lowest"),
        ("patient,top\n1,L5\n", "E-SPIDER-TABLE", "patient, top"),
        ("\n", "E-SPIDER-TABLE", "empty"),
        ("PK\0\0", "E-SPIDER-TABLE", "no text"),
    ],
)
def test_wrong_tables_of_lowest_vertebrae(tmp_path: Path, text: str, code: str, words: str) -> None:
    write_spider(tmp_path / "in", toys())
    (tmp_path / "lowest.csv").write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        _convert(tmp_path, lowest_table=tmp_path / "lowest.csv")
    assert (caught.value.code, caught.value.file) == (code, str(tmp_path / "lowest.csv"))
    assert _nothing_written(tmp_path)


# --- headers and layouts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "quirk",
    ["nested", "nifti", "float_masks", "eight_bits", "lower_case_space", "turned_mask", "semicolons", "no_tables"],
)
def test_quirks_that_change_nothing(tmp_path: Path, quirk: str) -> None:
    write_spider(tmp_path / "in", toys())
    usual = _convert(tmp_path, target="nnunet14")
    write_spider(tmp_path / "other" / "in", toys(quirks={quirk}), {quirk})
    result = _convert(tmp_path / "other", target="nnunet14")
    assert result.exit_code == 0, result.render()
    assert _codes(result) == []
    for kind in ("imagesTr", "labelsTr", "instancesTr"):
        for path in sorted((usual.folder / kind).iterdir()):
            other = read_volume(result.folder / kind / path.name)
            np.testing.assert_array_equal(other.array, read_volume(path).array)
            np.testing.assert_array_equal(other.affine, read_volume(path).affine)
    facts = _table(result)["1_t1"]
    if quirk == "no_tables":
        assert (facts.get("sex"), facts["manufacturer"]) == (None, None)
        assert "no overview.csv" in result.render()
        assert "no radiological_gradings.csv" in result.render()
    else:
        assert {k: v for k, v in facts.items() if k != "sources"} == {
            k: v for k, v in _table(usual)["1_t1"].items() if k != "sources"
        }


def test_a_mask_within_the_tolerance_takes_the_images_header(tmp_path: Path) -> None:
    write_spider(tmp_path / "in", toys(), {"header_within_tolerance"})
    result = _convert(tmp_path)
    assert result.exit_code == 0, result.render()
    assert [(p.code, Path(p.file).name) for row in result.rows for p in row.warnings] == [("W-GEOM-GRID", "4_t2.mha")]
    assert "0.3 mm" in result.rows[-1].warnings[0].found
    label, image = (read_volume(result.folder / name) for name in ("labelsTr/4_t2.nii.gz", "imagesTr/4_t2_0000.nii.gz"))
    np.testing.assert_array_equal(label.affine, image.affine)
    strict = _convert(tmp_path, dataset_id=502, strict=True)
    assert [(p.code, p.severity) for p in strict.skipped] == [("W-GEOM-GRID", "error")]
    narrow = _convert(tmp_path, dataset_id=503, header_tolerance=0.1)
    assert [p.code for p in narrow.skipped] == ["E-GEOM-GRID"]


@pytest.mark.parametrize(
    ("quirk", "words"), [("wrong_header", "40 mm"), ("lost_direction", "axes turned by 180 degrees")]
)
def test_a_mask_beyond_the_tolerance_is_refused_with_numbers(tmp_path: Path, quirk: str, words: str) -> None:
    series = toys()
    write_spider(tmp_path / "in", series, {quirk})
    result = _convert(tmp_path)
    assert [(p.code, Path(p.file).name) for p in result.skipped] == [("E-GEOM-GRID", "4_t2.mha")]
    assert words in result.skipped[0].found
    assert "--header-tolerance" in result.skipped[0].fix
    assert result.exit_code == 3
    taken = _convert(tmp_path, dataset_id=502, header_tolerance=500)
    assert _codes(taken) == ["W-GEOM-GRID"]
    np.testing.assert_array_equal(_read(taken, "4_t2") > 0, series[-1].mask().array > 0)


def test_oblique_volumes_keep_their_geometry(tmp_path: Path) -> None:
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]]

    def turned(volume: Volume) -> Volume:
        return Volume(volume.array, turn @ volume.affine)

    series = [
        Series(one.patient, one.series, turned(one.image), turned(one.semantic), turned(one.instances))
        for one in toys(2)
    ]
    write_spider(tmp_path / "in", series)
    result = _convert(tmp_path, target="nnunet14")
    assert result.exit_code == 0, result.render()
    image = read_volume(result.folder / "imagesTr" / "1_t1_0000.nii.gz")
    np.testing.assert_allclose(image.affine, series[0].image.affine, atol=1e-4)
    label = _read(result, "1_t1")
    np.testing.assert_array_equal(label[label != 15], series[0].semantic.array[label != 15])


# --- tables -----------------------------------------------------------------------------------------------------------


def test_tables_become_facts(tmp_path: Path) -> None:
    write_spider(tmp_path / "in", toys(), {"stranger_rows"})
    result = _convert(tmp_path)
    facts = _table(result)["2_t2"]
    expected = {
        "sex": "F", "birth_year": 1961, "manufacturer": "SIEMENS", "model": "Avanto", "field_strength": 1.5, "TR": 3200,
        "TE": 101.5, "subset": "training", "contrast": "T2w", "series": "t2", "num_vertebrae": 5, "num_discs": 5,
    }  # fmt: skip
    assert {key: facts[key] for key in expected} == expected
    assert facts["gradings"][0] == {
        "disc": 1, "below": "L5", "pfirrmann": 2, "modic": 0, "upper_endplate": 1, "lower_endplate": 0,
        "spondylolisthesis": 0, "herniation": 0, "narrowing": 1, "bulging": 0,
    }  # fmt: skip
    # A date of birth and a serial number tell who and where: they stay behind.
    assert "1961-02" not in json.dumps(facts)
    assert "12345" not in json.dumps(facts)
    said = result.render()
    assert "rows for 1 series without files: 998_t2" in said
    assert "rows for 1 patients without files: 999" in said
    kept = json.loads((result.folder / "conversion.json").read_text())["notes"]
    assert kept == [note.replace(f"{tmp_path / 'in'}/", "") for note in result.notes]


def test_what_a_table_says_in_other_words_is_understood_or_named(tmp_path: Path) -> None:
    write_spider(tmp_path / "in", toys(), {"no_tables"})
    (tmp_path / "in" / "My Overview.csv").write_bytes(
        "File name,Gender,Age,Field strength,Manufacturer\n1_T1.mha,female,061Y,3 T,Philips\n"
        "1_t2-space,M,n/a,1.5,Siem\xe4ns\nreadme,M,1,1,1\n1_t1,M,1,1,1\n".encode("latin-1")
    )
    (tmp_path / "in" / "gradings.csv").write_text("Case,IVD,Pfirrmann grade\n1,203,4\n1,202,x\n1,2,3\n01,five,2\n")
    result = _convert(tmp_path)
    cases = _table(result)
    assert (cases["1_t1"]["sex"], cases["1_t1"]["age"], cases["1_t1"]["field_strength"]) == ("F", 61, None)
    assert (cases["1_t2_SPACE"]["manufacturer"], cases["1_t2_SPACE"].get("age")) == ("Siemäns", None)
    assert cases["1_t1"]["gradings"] == [{"disc": 2, "below": "L4"}, {"disc": 3, "below": "L3", "pfirrmann": 4}]
    said = result.render()
    for words in (
        "line 2: Field strength is '3 T'", "line 4: the file name 'readme'", "line 5: 1_t1 again",
        "line 3: Pfirrmann grade is 'x'", "line 4: disc 2 of patient 1 again", "line 5: the disc 'five'",
        "has no row for 1_t2, 2_t2, 3_t2, 4_t2",
    ):  # fmt: skip
        assert words in said


def test_two_overviews_are_refused(tmp_path: Path) -> None:
    write_spider(tmp_path / "in", toys())
    (tmp_path / "in" / "overview (1).csv").write_text("a\n")
    with pytest.raises(UsageError, match="2 tables") as caught:
        _convert(tmp_path)
    assert caught.value.code == "E-SPIDER-LAYOUT"


# --- patients -------------------------------------------------------------------------------------------------------


def test_test_patients_come_from_a_list(tmp_path: Path) -> None:
    write_spider(tmp_path / "in", toys())
    listed = tmp_path / "published.txt"
    listed.write_text("# the published split\npatient\n\n001\n3,extra\n")
    result = _convert(tmp_path, test_patients=[str(listed), "4"])
    assert {row.case_id for row in result.rows if row.kind == "test"} == {*CASES[:3], "3_t2", "4_t2"}
    again = _convert(tmp_path, dataset_id=502, test_patients=["4", str(listed)])
    assert [row.kind for row in again.rows] == [row.kind for row in result.rows]
    assert result.options["test_patients"] == ["1", "3", "4"]
    verify_with_nnunet(result.folder)


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"test_patients": ["1", "55"]}, "E-PAIR-SUBJECT", "55"),
        ({"test_subset": "test"}, "E-SPIDER-OPTION", "'test'"),
        ({"series": ["t3"]}, "E-SPIDER-OPTION", "t3"),
        ({"target": "sematic"}, "E-SPIDER-OPTION", "did you mean 'semantic'"),
        ({"partly_visible": "drop"}, "E-SPIDER-OPTION", "drop"),
        ({"level_order": "up"}, "E-SPIDER-ORDER", "up"),
        ({"lowest": "L9"}, "E-SPIDER-LOWEST", "L9"),
        ({"levels": 0}, "E-SPIDER-OPTION", "1 to 25"),
        ({"subregions": "."}, "E-SPIDER-OPTION", "--target nnunet14"),
        ({"end_margin": -1.0}, "E-SPIDER-OPTION", "0 mm or more"),
        ({"header_tolerance": float("nan")}, "E-SPIDER-OPTION", "nan"),
        ({"folds": 1}, "E-SPLIT-FOLDS", "2 or more"),
    ],
)
def test_wrong_usage_writes_nothing(tmp_path: Path, changes: dict[str, Any], code: str, words: str) -> None:
    write_spider(tmp_path / "in", toys())
    with pytest.raises(SpineExtError, match=words) as caught:
        _convert(tmp_path, **changes)
    assert (caught.value.code, caught.value.exit_code) == (code, 2)
    assert _nothing_written(tmp_path)


def test_a_series_without_a_row_goes_with_its_patient(tmp_path: Path) -> None:
    write_spider(tmp_path / "in", [*toy_patient("1", "t1", "t2", subset="validation"), *toys()[-2:]])
    table = tmp_path / "in" / "overview.csv"
    rows = [row for row in table.read_text().splitlines() if not row.startswith("1_t1")]
    table.write_text("\n".join(rows))
    result = _convert(tmp_path, test_subset="validation", dry_run=True)
    assert {row.case_id: row.kind for row in result.rows if row.subject == "1"} == {"1_t1": "test", "1_t2": "test"}
    assert any("has no row for 1_t1" in note for note in result.notes)


def test_a_patient_in_two_subsets_is_refused(tmp_path: Path) -> None:
    series = [
        *toy_patient("1", "t1"),
        *toy_patient("1", "t2", subset="validation"),
        *toy_patient("2"),
        *toy_patient("3"),
    ]
    write_spider(tmp_path / "in", series)
    with pytest.raises(UsageError, match="another subset: 1") as caught:
        _convert(tmp_path, test_subset="Validation")
    assert (caught.value.code, caught.value.exit_code) == ("E-SPLIT-TEST", 2)


# --- bad input: the file is named, the other cases are converted -----------------------------------------------------


def _rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    volume = read_volume(path)
    write_volume(Volume(change(volume.array.copy()), volume.affine), path)


def _four_dimensions(path: Path) -> None:
    image = sitk.ReadImage(str(path))
    sitk.WriteImage(sitk.JoinSeries([image, image]), str(path))


def _not_a_number(array: np.ndarray) -> np.ndarray:
    array[3, 3, 3] = np.nan
    return array


def _set(number: int, dtype: Any = np.int16) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[2:4, 10:12, 50:52] = number
        return array.astype(dtype)

    return change


def _cut_to_eight_bits(array: np.ndarray) -> np.ndarray:
    # Level 5's disc as 257: one too many for eight bits, it becomes 1, the number of the lowest vertebra.
    array[array == 205] = 257
    return array.astype(np.uint8)


def _renumber(pairs: dict[int, int]) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        table = np.arange(256, dtype=array.dtype)
        table[list(pairs)] = list(pairs.values())
        return table[array]

    return change


def _halve(array: np.ndarray) -> np.ndarray:
    array[:4][array[:4] == 3] = 103
    return array


def _rename(image: Path) -> None:
    (image.parents[1] / MASK).unlink()
    image.rename(image.with_name("2_flair.mha"))


IMAGE, MASK = "images/2_t2.mha", "masks/2_t2.mha"
FAULTS: list[tuple[str, str, Callable[[Path], Any], str, str]] = [
    ("missing mask", MASK, Path.unlink, "E-PAIR-NOMASK", "without a mask"),
    ("missing image", IMAGE, Path.unlink, "E-PAIR-NOIMAGE", "without an image"),
    ("truncated", MASK, lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]), "E-IN-", "bytes"),
    ("not a number", IMAGE, lambda p: _rewrite(p, _not_a_number), "E-INT-NONFINITE", ""),
    ("four dimensions", IMAGE, _four_dimensions, "E-IN-DIM", "4"),
    ("empty mask", MASK, lambda p: _rewrite(p, np.zeros_like), "E-LABEL-EMPTY", "empty mask"),
    ("unknown ids", MASK, lambda p: _rewrite(p, _set(60)), "E-LABEL-UNKNOWN", "60 (8 voxels)"),
    ("large ids", MASK, lambda p: _rewrite(p, _set(999)), "E-LABEL-UNKNOWN", "999 (8 voxels)"),
    ("cut ids", MASK, lambda p: _rewrite(p, _set(300, np.uint8)), "E-LABEL-UNKNOWN", "44 (8 voxels); the mask has"),
    ("cut to a known id", MASK, lambda p: _rewrite(p, _cut_to_eight_bits), "E-SPIDER-SPREAD", "vertebra 1 from below"),
    ("signed eight bits", MASK, lambda p: _rewrite(p, lambda a: a.astype(np.int8)), "E-LABEL-VALUE", "-55"),
    ("no whole numbers", MASK, lambda p: _rewrite(p, lambda a: a * np.float32(1.01)), "E-LABEL-VALUE", "1.01"),
    ("other shape", MASK, lambda p: _rewrite(p, lambda a: a[:, :, 1:]), "E-GEOM-GRID", "of shape"),
    ("exchanged levels", MASK, lambda p: _rewrite(p, _renumber({2: 3, 3: 2})), "E-SPIDER-ORDER", "vertebra 3 from"),
    ("discs above", MASK, lambda p: _rewrite(p, _renumber({k: k - 1 for k in range(202, 206)} | {201: 0})),
     "E-SPIDER-DISCS", "discs above"),
    ("whole and partly", MASK, lambda p: _rewrite(p, _halve), "E-SPIDER-TWICE", "as partly visible 103"),
    ("strange name", IMAGE, _rename, "E-SPIDER-NAME", "2_flair.mha"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "spoil", "code", "words"), [fault[1:] for fault in FAULTS], ids=[f[0] for f in FAULTS]
)
def test_a_bad_file_is_named_and_the_others_are_converted(
    tmp_path: Path, file: str, spoil: Callable[[Path], Any], code: str, words: str
) -> None:
    write_spider(tmp_path / "in", toys())
    spoil(tmp_path / "in" / file)
    result = _convert(tmp_path)
    assert len(result.skipped) == 1, result.render()
    problem = result.skipped[0]
    assert problem.code.startswith(code)
    assert words in problem.found
    assert problem.file.startswith(str(tmp_path / "in"))
    assert "2_" in Path(problem.file).name
    assert result.exit_code == 3
    written = sorted(path.name for path in (result.folder / "labelsTr").iterdir())
    assert written == [f"{case}.nii.gz" for case in CASES if case != "2_t2"]
    assert inspect_dataset(result.folder).ok


@pytest.mark.parametrize("name", ["1_t2_space.mha", "1_T2_SPACE.nii.gz", "01_t2-SPACE.mha", "deeper/1_t2_SPACE.mha"])
def test_two_files_for_one_series_are_refused_with_both_names(tmp_path: Path, name: str) -> None:
    write_spider(tmp_path / "in", toys())
    twin = tmp_path / "in" / "images" / name
    if twin.exists():
        pytest.skip("this file system does not tell letter case")
    write_volume(read_volume(tmp_path / "in" / "images" / "1_t2_SPACE.mha"), twin)
    with pytest.raises(UsageError, match=r"1_t2_SPACE") as caught:
        _convert(tmp_path)
    assert (caught.value.code, caught.value.exit_code) == ("E-CASE-TWICE", 2)
    assert _nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda root: (root / "masks").rename(root / "labels"), NoInputError, "no folder called masks"),
        (lambda root: root.rename(root.parent / "out"), NoInputError, "no such folder"),
        (lambda root: (root / "Images").mkdir(), UsageError, "several folders called images"),
        (lambda root: [p.rename(p.with_suffix(".raw")) for p in root.rglob("*.mha")], NoInputError, "like a series"),
    ],
)  # fmt: skip
def test_folders_that_are_no_spider(tmp_path: Path, spoil: Any, error: type[SpineExtError], words: str) -> None:
    spoil(write_spider(tmp_path / "in", toys()))
    with pytest.raises(error, match=words) as caught:
        _convert(tmp_path)
    assert caught.value.code == "E-SPIDER-LAYOUT"
    assert _nothing_written(tmp_path)


def test_what_a_macintosh_leaves_behind_is_no_image(tmp_path: Path) -> None:
    write_spider(tmp_path / "in", toys(), {"nested"})
    for name in ("__MACOSX/images/._1_t1.mha", "SPIDER_unpacked/images/._1_t1.mha", "SPIDER_unpacked/images/.DS_Store"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"junk")
    assert _convert(tmp_path).exit_code == 0


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_spider(tmp_path / "in", toys())
    words = [
        "spider",
        str(tmp_path / "in"),
        "501",
        "--raw",
        str(tmp_path / "raw"),
        "--preprocessed",
        str(tmp_path / "pre"),
    ]
    assert main([*words, "--target", "levels", "--dry-run"]) == 0
    assert "1_t2_SPACE  subject 1  train" in capsys.readouterr().out
    assert _nothing_written(tmp_path)
    assert main([*words, "--target", "levels", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["written"], len(answer["used"]), answer["options"]["target"]) == (True, 6, "levels")
    assert main([*words, "--overwrite", "--level-order", "top-down"]) == 4
    assert "--level-order bottom-up" in capsys.readouterr().out


def test_choices_of_the_command_are_those_of_the_function() -> None:
    assert convert_spider._TARGETS == TARGETS
    assert convert_spider._SERIES == SERIES_NAMES
