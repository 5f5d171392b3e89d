"""`nnUNetv2_spine_convert nako`: trees with every quirk, chunks joined, and what nnU-Net says about the result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layout_nako import PARTS, QUIRKS, Person, people, write_nako
from nnunet_verdict import verify_with_nnunet
from opened_files import count_opens

from nnunet_spine_ext.cli.convert import main
from nnunet_spine_ext.core.errors import NoInputError, UsageError
from nnunet_spine_ext.core.io import read_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.dataset_conversion.nako import nako
from nnunet_spine_ext.dataset_conversion.report import ConversionResult

NAMES = ("100007", "100011")


def _convert(tmp_path: Path, *quirks: str, names: tuple[str, ...] = NAMES, **changes: Any) -> ConversionResult:
    source = tmp_path / "in"
    if not source.exists():
        write_nako(source, people(*names), quirks)
    return nako(source, 521, raw=tmp_path / "raw", preprocessed=tmp_path / "pre", **changes)


def _table(result: ConversionResult) -> dict[str, Any]:
    cases: dict[str, Any] = json.loads((result.folder / "cases.json").read_text())["cases"]
    return cases


def _volume(result: ConversionResult, case: str, kind: str = "labelsTr") -> Volume:
    ending = "_0000.nii.gz" if kind.startswith("images") else ".nii.gz"
    return read_volume(result.folder / kind / f"{case}{ending}")


def _truth(person: Person, position: int, what: str = "semantic") -> np.ndarray:
    count = person.image.shape[1]
    low, high = PARTS[position]
    array: np.ndarray = getattr(person, what).array[:, int(low * count) : int(high * count)]
    return array


def _codes(result: ConversionResult) -> list[str]:
    return sorted({problem.code for row in result.rows for problem in row.warnings})


# --- chunks as cases ------------------------------------------------------------------------------------------------

EXACT = (
    (), ("prefix",), ("sessions",), ("session_folders",), ("entity_order", "sessions"), ("no_sidecars",), ("subreg",),
    ("beside",), ("composed",), ("swapped_codes",),
)  # fmt: skip


@pytest.mark.parametrize("quirks", EXACT, ids=" ".join)
def test_every_layout_gives_the_same_masks_exactly(tmp_path: Path, quirks: tuple[str, ...]) -> None:
    result = _convert(tmp_path, *quirks)
    assert (result.exit_code, len(result.rows), result.skipped) == (0, 6, [])
    session = "_ses-30" if {"sessions", "session_folders"} & set(quirks) else ""
    person = people(NAMES[1])[0]
    for position, chunk in enumerate(("HWS", "BWS", "LWS")):
        case = f"sub-100011{session}_acq-sag_chunk-{chunk}_T2w"
        np.testing.assert_array_equal(_volume(result, case).array, _truth(person, position))
        np.testing.assert_array_equal(_volume(result, case, "instancesTr").array, _truth(person, position, "instances"))
        np.testing.assert_array_equal(_volume(result, case, "imagesTr").array, _truth(person, position, "image"))
    facts = _table(result)[case]
    assert facts["subject"] == "sub-100011"
    assert (facts["contrast"], facts["chunk"]) == ("T2w", "LWS")
    assert facts["model"] == (None if "no_sidecars" in quirks else "Skyra")
    assert {source["role"] for source in facts["sources"]} == {"image_0000", "label", "instances"}
    assert ("W-LABEL-EXCHANGED" in _codes(result)) == ("swapped_codes" in quirks)
    notes = " ".join(result.notes)
    assert ("composed" in notes) == ("composed" in quirks)


def test_nnunet_accepts_the_result_and_knows_sides_and_subjects(tmp_path: Path) -> None:
    result = _convert(tmp_path, names=("1", "2", "3"), test_subjects=["3"])
    verify_with_nnunet(result.folder)
    description = json.loads((result.folder / "dataset.json").read_text())
    assert description["spine_ext"]["scheme"] == "nnunet14"
    assert description["spine_ext"]["sided_labels"] == [[4, 5], [6, 7], [8, 9]]
    assert description["labels"]["disc"] == 14
    for split in result.splits or []:
        sides = [{case.split("_")[0] for case in split[side]} for side in ("train", "val")]
        assert not sides[0] & sides[1]
    assert len(list((result.folder / "imagesTs").iterdir())) == 3
    assert len(list((result.folder / "labelsTs").iterdir())) == 3


def test_of_repeated_scans_the_highest_number_counts(tmp_path: Path) -> None:
    result = _convert(tmp_path, "duplicate_sequ")
    assert result.exit_code == 0
    case = "sub-100007_acq-sag_chunk-HWS_T2w"
    np.testing.assert_array_equal(_volume(result, case, "imagesTr").array, _truth(people("100007")[0], 0, "image"))
    assert "sequ-10_" in _table(result)[case]["sources"][0]["file"]
    assert any("repeated scans" in note and "sequ-9_" in note for note in result.notes)
    # A mask of the scan that was repeated is no mask of the repetition.
    for mask in (tmp_path / "in/derivatives_seg").rglob("*sequ-10_*"):
        mask.rename(mask.with_name(mask.name.replace("sequ-10_", "sequ-9_")))
    again = _convert(tmp_path, dry_run=True, overwrite=True)
    assert again.exit_code == 3
    assert {problem.code for problem in again.skipped} == {"E-PAIR-NOMASK"}
    assert "is of the scan before it" in str(again.skipped[0])


def test_composed_series_are_refused_with_the_reason(tmp_path: Path) -> None:
    result = _convert(tmp_path, "composed_only")
    assert (result.exit_code, len(result.rows)) == (3, 3)
    assert [problem.code for problem in result.skipped] == ["E-NAKO-COMPOSED"]
    assert "COMP_SP" in str(result.skipped[0])
    # Without sidecar the missing chunk tells, beside images that have one.
    shutil.rmtree(tmp_path / "in")
    write_nako(tmp_path / "in", people("1"), ("composed", "no_sidecars"))
    for sidecar in (tmp_path / "in").rglob("*.json"):
        sidecar.unlink()
    result = _convert(tmp_path, dry_run=True, overwrite=True)
    assert (result.exit_code, len(result.rows)) == (0, 3)
    assert any("no chunk in its name" in note for note in result.notes)


@pytest.mark.parametrize(
    ("name", "facts", "reason"),
    [
        ("sub-1_acq-composed_T2w", {}, "name"),
        ("sub-1_sequ-3_T2w", {"SeriesDescription": "SAG_T2-spine"}, "series"),
        ("sub-1_sequ-3_T2w", {"SeriesDescription": "T2 sag Composed"}, "series"),
        ("sub-1_sequ-3_T2w", {"ImageType": "DERIVED\\PRIMARY\\MPR\\COMPOSED"}, "image type"),
        ("sub-1_sequ-3_T2w", {"ImageType": ["ORIGINAL", "COMP_AD"]}, "image type"),
        ("sub-1_sequ-3_T2w", {"SeriesDescription": "T2_TSE_SAG_320_LWS", "ImageType": ["ORIGINAL", "NORM"]}, None),
        ("sub-1_sequ-3_T2w", {"ImageType": 7, "SeriesDescription": None}, None),
    ],
)
def test_composed_series_are_recognised(tmp_path: Path, name: str, facts: dict[str, Any], reason: str | None) -> None:
    from nnunet_spine_ext.dataset_conversion.nako_tree import composed_reason, read_tree

    (tmp_path / f"{name}.nii.gz").touch()
    (tmp_path / f"{name}.json").write_text(json.dumps(facts))
    found = composed_reason(read_tree(tmp_path, ["T2w"], {}).images[0])
    assert found is None if reason is None else reason in (found or "")


def test_what_was_stitched_replaces_its_chunks(tmp_path: Path) -> None:
    result = _convert(tmp_path, "stitched_tree")
    assert (result.exit_code, len(result.rows)) == (0, 2)
    case = "sub-100007_acq-sag_stitched_T2w"
    np.testing.assert_array_equal(_volume(result, case).array, people("100007")[0].semantic.array)
    assert any("--use auto" in note for note in result.notes)
    chunks = _convert(tmp_path, use="chunks", dry_run=True, overwrite=True)
    assert len(chunks.rows) == 6
    joined = _convert(tmp_path, stitch=True, dry_run=True, overwrite=True)
    assert [len(row.files) for row in joined.rows] == [9, 9]


@pytest.mark.parametrize("folder", ["rawdata_unstitched", "not-unstitched", "sub-stitcher"])
def test_a_folder_of_what_is_not_stitched_holds_chunks(tmp_path: Path, folder: str) -> None:
    source = write_nako(tmp_path / "in", people("1"), ("no_instances",))
    (source / "rawdata").rename(source / folder)
    result = _convert(tmp_path, dry_run=True, stitch=True)
    assert [row.case_id for row in result.rows] == ["sub-1_acq-sag_stitched_T2w"]
    assert len(result.rows[0].files) == 6


def test_what_has_masks_is_preferred(tmp_path: Path) -> None:
    source = write_nako(tmp_path / "in", people(*NAMES), ("stitched_tree",))
    shutil.rmtree(source / "derivatives_stitched")
    assert len(_convert(tmp_path, dry_run=True).rows) == 6
    with_flag = _convert(tmp_path, use="stitched", dry_run=True)
    assert {problem.code for problem in with_flag.skipped} == {"E-PAIR-NOMASK"}


def test_a_mask_belongs_to_the_image_that_it_names_most_closely(tmp_path: Path) -> None:
    source = write_nako(tmp_path / "in", people(*NAMES), ("stitched_tree",))
    for path in sorted(source.rglob("*sequ-stitched_*")):
        path.rename(path.with_name(path.name.replace("sequ-stitched_", "")))
    result = _convert(tmp_path, dry_run=True)
    assert [row.case_id for row in result.rows] == [f"sub-{name}_acq-sag_stitched_T2w" for name in NAMES]
    assert result.skipped == []


@pytest.mark.parametrize(
    ("quirk", "code", "used"),
    [("pointer", "E-IN-POINTER", 5), ("four_d", "E-IN-DIM", 5), ("no_masks", "E-PAIR-NOMASK", 3)],
)
def test_bad_scans_are_skipped_alone(tmp_path: Path, quirk: str, code: str, used: int) -> None:
    result = _convert(tmp_path, quirk)
    assert (result.exit_code, len(result.rows)) == (3, used)
    assert {problem.code for problem in result.skipped} == {code}
    verify_with_nnunet(result.folder)


def test_masks_without_images_are_reported_and_others_suffixes_are_not(tmp_path: Path) -> None:
    source = write_nako(tmp_path / "in", people(*NAMES), ("stray_mask",))
    image = next((source / "rawdata").rglob("*100007*BWS_T2w.nii.gz"))
    image.rename(image.with_name(image.name.replace("T2w", "T1w")))
    result = _convert(tmp_path, dry_run=True)
    assert sorted(problem.file.split("/")[-1][:10] for problem in result.skipped) == ["sub-100007", "sub-999_se"]
    both = _convert(tmp_path, suffix=["T2w", "T1w"], dry_run=True)
    # The mask says mod-T2w: it is no mask of the T1w image.
    assert sorted(problem.code for problem in both.skipped) == ["E-PAIR-NOIMAGE", "E-PAIR-NOIMAGE", "E-PAIR-NOMASK"]
    with pytest.raises(NoInputError, match="T2w"):
        _convert(tmp_path, suffix=["T2"])
    with pytest.raises(NoInputError, match=r"none with --where chunk=lws; .*did you mean 'chunk=LWS'"):
        _convert(tmp_path, where=["chunk=lws"])
    with pytest.raises(NoInputError, match="no name has part: leave --where out"):
        _convert(tmp_path, where=["part=water"])


def test_unlabelled_scans_become_ignored_cases(tmp_path: Path) -> None:
    result = _convert(tmp_path, "no_masks", unlabelled=True)
    assert (result.exit_code, len(result.rows)) == (0, 6)
    case = "sub-100011_acq-sag_chunk-BWS_T2w"
    assert (_volume(result, case).array == 15).all()
    assert not _table(result)[case]["labelled"]
    verify_with_nnunet(result.folder)


def test_ambiguous_masks_are_refused_and_a_folder_can_be_chosen(tmp_path: Path) -> None:
    source = write_nako(tmp_path / "in", people(*NAMES))
    shutil.copytree(source / "derivatives_seg", source / "derivatives")
    result = _convert(tmp_path, dry_run=True)
    assert result.exit_code == 4
    assert {problem.code for problem in result.skipped} == {"E-PAIR-AMBIGUOUS"}
    assert "--derivatives" in str(result.skipped[0])
    for word in ("derivatives", str(source / "derivatives_seg")):
        assert _convert(tmp_path, derivatives=[word], dry_run=True).exit_code == 0
    shutil.copytree(source / "rawdata/sub-100007", source / "rawdata/copy/sub-100007")
    result = _convert(tmp_path, derivatives=["derivatives"], dry_run=True)
    assert (result.exit_code, len(result.rows)) == (3, 3)
    assert {problem.code for problem in result.skipped} == {"E-PAIR-AMBIGUOUS"}


def test_images_can_be_chosen_by_entities(tmp_path: Path) -> None:
    source = write_nako(tmp_path / "in", people(*NAMES))
    result = _convert(tmp_path, where=["chunk=BWS"], dry_run=True)
    assert [row.case_id for row in result.rows] == [f"sub-{name}_acq-sag_chunk-BWS_T2w" for name in NAMES]
    assert result.skipped == []
    assert source.is_dir()


def test_unknown_ids_are_refused_unless_they_are_dropped(tmp_path: Path) -> None:
    from nnunet_spine_ext.core.io import write_volume

    source = write_nako(tmp_path / "in", people(*NAMES))
    path = next((source / "derivatives_seg").rglob("*100007*LWS*seg-spine*"))
    mask = read_volume(path)
    array = mask.array.copy()
    array[:3, :3, :3] = 65
    write_volume(mask.with_array(array), path)
    result = _convert(tmp_path, dry_run=True)
    assert [problem.code for problem in result.skipped] == ["E-LABEL-UNKNOWN"]
    assert "65 (27 voxels)" in str(result.skipped[0])
    assert _convert(tmp_path, drop_ids=[65], dry_run=True).exit_code == 0


def test_declared_codes_are_not_guessed(tmp_path: Path) -> None:
    result = _convert(tmp_path, "swapped_codes", cord_canal="exchanged", where=["chunk=LWS"])
    assert _codes(result) == []
    case = "sub-100007_acq-sag_chunk-LWS_T2w"
    np.testing.assert_array_equal(_volume(result, case).array, _truth(people("100007")[0], 2))
    kept = _convert(tmp_path, cord_canal="stored", overwrite=True)
    cord = _volume(kept, case).array == 11
    np.testing.assert_array_equal(cord, _truth(people("100007")[0], 2) == 12)


def test_test_lists_and_wrong_options(tmp_path: Path) -> None:
    write_nako(tmp_path / "in", people(*NAMES))
    listed = tmp_path / "test.yaml"
    listed.write_text("test: [100011, sub-777]\n")
    result = _convert(tmp_path, test_list=listed, dry_run=True)
    assert {row.kind for row in result.rows if row.subject == "sub-100011"} == {"test"}
    assert any("sub-777" in note for note in result.notes)
    for changes, code in (
        ({"test_subjects": ["777"]}, "E-PAIR-SUBJECT"),
        ({"test_subjects": ["1000"]}, "E-PAIR-SUBJECT"),
        ({"use": "some"}, "E-NAKO-OPTION"),
        ({"use": "stitched", "stitch": True}, "E-NAKO-OPTION"),
        ({"where": ["chunk"]}, "E-NAKO-OPTION"),
        ({"derivatives": ["nowhere"]}, "E-IN-MISSING"),
        ({"folds": 1}, "E-SPLIT-FOLDS"),
    ):
        with pytest.raises(UsageError) as caught:
            _convert(tmp_path, **changes)
        assert caught.value.code == code


# --- chunks joined --------------------------------------------------------------------------------------------------


def test_chunks_of_one_grid_are_joined_to_the_original_mask(tmp_path: Path) -> None:
    result = _convert(tmp_path, "gains", "duplicate_sequ", "composed", "sessions", stitch=True)
    assert (result.exit_code, len(result.rows), _codes(result)) == (0, 2, [])
    verify_with_nnunet(result.folder)
    for person in people(*NAMES):
        case = f"sub-{person.name}_ses-30_acq-sag_stitched_T2w"
        np.testing.assert_array_equal(_volume(result, case).array, person.semantic.array)
        np.testing.assert_array_equal(_volume(result, case, "instancesTr").array, person.instances.array)
        image = _volume(result, case, "imagesTr")
        assert image.same_grid(person.image)
        bright = person.image.array > 100
        assert np.abs(image.array / np.maximum(person.image.array, 1) - 1)[bright].max() < 0.02
        facts = _table(result)[case]
        np.testing.assert_allclose(facts["stitch"]["gains"], (1 / 1.6, 1, 1 / 0.7), rtol=0.005)
        assert facts["stitch"]["chunks"] == ["HWS", "BWS", "LWS"]
        assert [row["label_dice"] for row in facts["stitch"]["overlaps"]] == [1.0, 1.0]
        assert len(facts["sources"]) == 9
        assert facts["model"] == "Skyra"


def test_images_and_masks_are_read_once(tmp_path: Path) -> None:
    source = write_nako(tmp_path / "in", people(*NAMES), ("duplicate_sequ", "composed"))
    with count_opens(source) as opened:
        result = _convert(tmp_path, stitch=True, dry_run=True)
    times = {name: count for name, count in opened.items() if name.endswith(".nii.gz")}
    assert set(times.values()) == {1}
    assert times.keys() == {file for row in result.rows for file in row.files.values()}


def test_turned_chunks_are_joined_with_little_loss(tmp_path: Path) -> None:
    result = _convert(tmp_path, "gains", "turned", names=NAMES[:1], stitch=True, n4=True)
    assert (result.exit_code, _codes(result)) == (0, [])
    person = people(NAMES[0])[0]
    case = f"sub-{person.name}_acq-sag_stitched_T2w"
    facts = _table(result)[case]
    assert facts["stitch"]["interpolated"] == ["HWS", "LWS"]
    assert facts["n4"]["levels"] == 3
    labels = _volume(result, case).resample_like(person.semantic, order=0).array
    for number in range(1, 15):
        one, two = person.semantic.array == number, labels == number
        assert 2 * (one & two).sum() >= 0.95 * (one.sum() + two.sum()), number


def test_numbers_counted_in_every_chunk_are_reconciled(tmp_path: Path) -> None:
    result = _convert(tmp_path, "counted", stitch=True)
    assert (result.exit_code, _codes(result)) == (0, ["W-STITCH-NUMBERS"])
    person = people(NAMES[0])[0]
    found = _volume(result, f"sub-{person.name}_acq-sag_stitched_T2w", "instancesTr").array
    pairs = np.unique(np.stack([person.instances.array.ravel(), found.ravel()], axis=1), axis=0)
    # One id each, one shift for all that is counted.
    assert len(pairs) == len(np.unique(found)) == len(np.unique(person.instances.array))
    counted = [(a, b) for a, b in pairs.tolist() if 1 <= a % 100 <= 25]
    assert len({b - a for a, b in counted}) == 1


@pytest.mark.parametrize(
    ("quirk", "code", "skipped"),
    [
        ("missing_chunk", "W-STITCH-MISSING", 0),
        ("missing_middle", "E-STITCH-GAP", 1),
        ("no_neck_mask", "E-PAIR-NOMASK", 1),
        ("four_d", "E-IN-DIM", 1),
        ("no_instances", "", 0),
    ],
)
def test_incomplete_scans(tmp_path: Path, quirk: str, code: str, skipped: int) -> None:
    result = _convert(tmp_path, quirk, stitch=True)
    assert (len(result.skipped), len(result.rows)) == (skipped, 2 - skipped)
    said = [*(problem.code for problem in result.skipped), *_codes(result)]
    assert said == ([code] if code else [])
    assert (result.folder / "instancesTr").exists() == (quirk != "no_instances")


def test_a_chunk_without_a_mask_is_ignored_where_it_is_alone(tmp_path: Path) -> None:
    result = _convert(tmp_path, "no_neck_mask", stitch=True, unlabelled=True)
    assert (result.exit_code, _codes(result)) == (0, ["W-STITCH-INSTANCES"])
    labels = _volume(result, f"sub-{NAMES[1]}_acq-sag_stitched_T2w").array
    alone = int(PARTS[1][0] * labels.shape[1])
    assert (labels[:, :alone] == 15).all()
    np.testing.assert_array_equal(labels[:, alone:], people(NAMES[1])[0].semantic.array[:, alone:])
    verify_with_nnunet(result.folder)


def test_an_interrupted_run_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunet_spine_ext.dataset_conversion import nako_masks

    whole = _convert(tmp_path, "gains", names=("1", "2", "3"), stitch=True)
    expected = {path.name: path.read_bytes() for path in whole.folder.rglob("*") if path.is_file()}
    shutil.rmtree(whole.folder)
    stitch, calls = nako_masks.stitch, []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return stitch(*args, **kwargs)

    monkeypatch.setattr(nako_masks, "stitch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _convert(tmp_path, stitch=True, overwrite=True)
    assert not whole.folder.exists()
    result = _convert(tmp_path, stitch=True, overwrite=True, resume=True)
    assert (result.resumed, len(calls)) == (2, 4)
    assert {path.name: path.read_bytes() for path in result.folder.rglob("*") if path.is_file()} == expected


# --- real data, the command -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["as it is", "NAKO"])
def test_the_real_pair_of_tptbox(tmp_path: Path, test_data: Path, layout: str) -> None:
    real = test_data / "tptbox/sample_mri"
    source = tmp_path / "in"
    subjects = ("mri",) if layout == "as it is" else ("100001", "100002")
    for subject in subjects:
        if layout == "as it is":
            shutil.copytree(real, source)
            continue
        entities = f"sub-{subject}_sequ-4_acq-sag_chunk-BWS"
        files = {
            f"rawdata/1000/sub-{subject}/T2w/{entities}_T2w.nii.gz": "sub-mri_label-6_T2w",
            f"derivatives_seg/1000/sub-{subject}/T2w/{entities}_mod-T2w_seg-spine_msk.nii.gz": (
                "sub-mri_seg-subreg_label-6_msk"
            ),
            f"derivatives_seg/1000/sub-{subject}/T2w/{entities}_mod-T2w_seg-vert_msk.nii.gz": (
                "sub-mri_seg-vert_label-6_msk"
            ),
        }
        for name, stem in files.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(real / f"{stem}.nii.gz", source / name)
    result = _convert(tmp_path, n4=layout == "NAKO")
    assert (result.exit_code, len(result.rows), _codes(result)) == (0, len(subjects), [])
    row = result.rows[0]
    mask = read_volume(real / "sub-mri_seg-subreg_label-6_msk.nii.gz").array
    table = {41: 2, 42: 3, 43: 4, 44: 5, 45: 6, 46: 7, 47: 8, 48: 9, 49: 10, 60: 11, 61: 12, 62: 13, 100: 14}
    found = _volume(result, row.case_id).array
    for source_id, number in table.items():
        np.testing.assert_array_equal(found == number, mask == source_id)
    instances = read_volume(real / "sub-mri_seg-vert_label-6_msk.nii.gz").array
    np.testing.assert_array_equal(_volume(result, row.case_id, "instancesTr").array, instances)
    if layout == "NAKO":
        verify_with_nnunet(result.folder)


def test_real_masks_with_exchanged_codes_are_put_right(tmp_path: Path, test_data: Path) -> None:
    from nnunet_spine_ext.core.io import write_volume

    real = test_data / "panoptica/semantic"
    for subject in ("ref", "pred"):
        mask = read_volume(real / f"{subject}.nii.gz")
        noise = np.random.default_rng(0).integers(1, 900, mask.shape).astype(np.int16)
        folder = tmp_path / f"in/sub-{subject}"
        write_volume(mask.with_array(noise), folder / f"sub-{subject}_chunk-LWS_T2w.nii.gz")
        write_volume(mask, folder / f"sub-{subject}_chunk-LWS_seg-subreg_msk.nii.gz")
    result = _convert(tmp_path)
    said = {row.subject: [problem.code for problem in row.warnings] for row in result.rows}
    assert said == {"sub-pred": [], "sub-ref": ["W-LABEL-EXCHANGED"]}
    one, two = (_volume(result, f"sub-{name}_chunk-LWS_T2w").array for name in ("ref", "pred"))
    for number in (11, 12):
        both = ((one == number) & (two == number)).sum()
        assert 2 * both > 0.9 * ((one == number).sum() + (two == number).sum())


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_nako(tmp_path / "in", people("1"), ("missing_chunk", "composed"))
    folders = ["--raw", str(tmp_path / "raw"), "--preprocessed", str(tmp_path / "pre")]
    assert main(["nako", str(tmp_path / "in"), "521", "--stitch", *folders]) == 0
    said = capsys.readouterr().out
    assert "Dataset521_NAKO" in said
    assert "W-STITCH-MISSING" in said
    assert "composed series left out" in said


def test_the_layout_knows_its_quirks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown quirks"):
        write_nako(tmp_path, [], ("swapped",))
    assert len(set(QUIRKS)) == len(QUIRKS)
