"""Subject lists, provenance, participants and names of the Spine-Generic converter, each on its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nnunet_spine_ext.core.errors import UsageError
from nnunet_spine_ext.dataset_conversion.participants import read_participants
from nnunet_spine_ext.dataset_conversion.provenance import provenance_of
from nnunet_spine_ext.dataset_conversion.spine_generic_names import contrast_of, split_stem, wanted
from nnunet_spine_ext.dataset_conversion.subject_lists import read_entries, read_test_list, select

SUBJECTS = [
    *(f"sub-beijingVerio0{k}" for k in range(1, 5)),
    "sub-beijingGE01",
    "sub-brnoUhb02",
    "sub-mniPilot1",
    "sub-unf01",
    "sub-unf02",
]


def _file(folder: Path, text: str, name: str = "list.yml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


# --- who is meant ---------------------------------------------------------------------------------------------------


def test_entries_are_subjects_sites_or_files() -> None:
    chosen = select(["beijingVerio", "sub-unf01", "mniPilot1"], SUBJECTS)
    assert chosen.subjects == {*SUBJECTS[:4], "sub-unf01", "sub-mniPilot1"}
    assert not chosen.unknown
    files = select(["sub-unf02/anat/sub-unf02_T1w.nii.gz", "/elsewhere/x/sub-unf02_T2star_seg-manual.nii.gz"], SUBJECTS)
    assert files.images == {"sub-unf02": {"sub-unf02_T1w", "sub-unf02_T2star_seg-manual"}}
    assert not files.subjects


def test_a_site_is_the_whole_name_before_the_number() -> None:
    # `beijing` would take two sites in; `sub-unf` is the site unf written as a subject.
    assert select(["beijing"], SUBJECTS).unknown == ["beijing"]
    assert select(["sub-unf"], SUBJECTS).subjects == {"sub-unf01", "sub-unf02"}
    # A subject that is not there, not the site of those whose names go on.
    assert select(["sub-unf0", "unf0"], SUBJECTS).unknown == ["sub-unf0", "unf0"]
    assert select(["oxfordFmrib", "sub-unf03", "sub-unf03_T1w.nii.gz"], SUBJECTS).unknown == [
        "oxfordFmrib", "sub-unf03", "sub-unf03_T1w.nii.gz",
    ]  # fmt: skip


def test_exclusion_files_hold_one_list_or_one_per_measure(tmp_path: Path) -> None:
    measures = "csa_t1:\n- sub-unf01  # motion\n- sub-unf02\ncsa_t2:\n- beijingVerio  # TR=2\nmtr:\n"
    path = _file(tmp_path, measures)
    assert read_entries([path]) == ["sub-unf01", "sub-unf02", "beijingVerio"]
    assert read_entries([f"{path}:csa_t2"]) == ["beijingVerio"]
    assert read_entries([f"{path}:csa_t2,mtr"]) == ["beijingVerio"]
    plain = _file(tmp_path, "- sub-unf01\n- sub-brnoUhb02\n", "plain.yml")
    assert read_entries([plain, f"{path}:csa_t1"]) == ["sub-unf01", "sub-brnoUhb02", "sub-unf02"]
    assert read_entries([_file(tmp_path, "sub-unf01\nbeijingGE\n", "lines.txt")]) == ["sub-unf01", "beijingGE"]
    assert read_entries([_file(tmp_path, "", "empty.yml")]) == []


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        ("a: [sub-1]", ":b", "no list called 'b'.*known: a"),
        ("a: 5", "", "a list of subjects"),
        ("- {a: 1}", "", "a list of subjects"),
        ("a: [", "", "cannot be read"),
    ],
)
def test_wrong_lists_are_refused(tmp_path: Path, text: str, key: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        read_entries([_file(tmp_path, text) + key])
    assert error.value.code == "E-PAIR-LIST"
    with pytest.raises(UsageError, match="cannot be read"):
        read_entries([str(tmp_path / "nowhere.yml")])


# --- test lists -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "# frozen\ntest:\n- sub-unf01\n- sub-unf02\n",
        "test: [sub-unf01, sub-unf02]\ntrain: [sub-brnoUhb02]\nval: [sub-mniPilot1]\n",
        "test_list: [unf01, unf02]\n",
        "- sub-unf01\n- sub-unf02\n",
        "test: {unf: [sub-unf01, sub-unf02]}\n",
        "unf: [sub-unf01, sub-unf02]\n",
    ],
)
def test_lists_of_test_subjects_in_all_their_forms(tmp_path: Path, text: str) -> None:
    assert read_test_list(_file(tmp_path, text)) == ["sub-unf01", "sub-unf02"]


@pytest.mark.parametrize("other", ["train", "validation"])
def test_a_subject_on_two_sides_is_refused(tmp_path: Path, other: str) -> None:
    path = _file(tmp_path, f"test: [sub-unf01, sub-unf02]\n{other}: [sub-unf02]\n")
    with pytest.raises(UsageError, match="sub-unf02") as error:
        read_test_list(path)
    assert error.value.code == "E-SPLIT-TEST"


def test_a_subject_in_train_and_validation_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="in train and in val: sub-unf02"):
        read_test_list(_file(tmp_path, "test: [sub-unf01]\ntrain: [sub-unf02]\nval: [sub-unf02]\n"))


@pytest.mark.parametrize("text", ["trainees: [sub-unf01]\n", "train: [sub-unf01]\n", "", "test: []\n"])
def test_a_file_without_test_subjects_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="key test"):
        read_test_list(_file(tmp_path, text))


# --- who made a mask ------------------------------------------------------------------------------------------------

_MODEL = {"Name": "spinalcordtoolbox: sct_deepseg -i a.nii.gz -task seg_sc_contrast_agnostic -o b.nii.gz"}
_MANUAL = {"Name": "Manual", "Author": "A. Person"}


@pytest.mark.parametrize(
    ("content", "source"),
    [
        ({"GeneratedBy": [_MODEL]}, "model"),
        ({"GeneratedBy": _MODEL}, "model"),
        ({"GeneratedBy": [{"Name": "sct_deepseg_sc", "Version": "5.0"}, _MANUAL]}, "manual"),
        ({"GeneratedBy": [_MANUAL, _MODEL]}, "model"),
        ({"GeneratedBy": [_MODEL, {"Name": "sct_resample -mm 1x1x1"}]}, "model"),
        ({"GeneratedBy": [_MODEL, _MANUAL, {"Name": "sct_image -setorient RPI"}]}, "manual"),
        ({"GeneratedBy": [{"Name": "nnUNetv2_predict -d 501"}]}, "model"),
        ({"GeneratedBy": [{"Name": "ours", "ModelURL": "https://example.org/x.zip"}]}, "model"),
        ({"GeneratedBy": [{"Name": "sct_propseg"}]}, "model"),
        ({"GeneratedBy": [{"Name": "sct_maths"}]}, "unknown"),
        ({"GeneratedBy": []}, "unknown"),
        ({"GeneratedBy": [5, None]}, "unknown"),
        ({"SpatialReference": "orig"}, "unknown"),
        ({"Author": "A. Person", "Date": "2021"}, "manual"),
        ({"Author": "A. Person", "GeneratedBy": [_MODEL]}, "model"),
        ([1], "unknown"),
    ],
)
def test_who_made_a_mask(tmp_path: Path, content: object, source: str) -> None:
    (tmp_path / "m.json").write_text(json.dumps(content))
    assert provenance_of(tmp_path / "m.nii.gz").source == source


def test_a_sidecar_with_a_missing_quote_still_tells(tmp_path: Path) -> None:
    # 203 masks of the public data set have such a file.
    text = json.dumps({"GeneratedBy": [_MODEL | {"ModelURL": "https://x"}]}).replace('"ModelURL"', 'ModelURL"')
    (tmp_path / "m.json").write_text(text)
    made = provenance_of(tmp_path / "m.nii.gz")
    assert (made.source, made.said) == ("model", ("spinalcordtoolbox: sct_deepseg -task seg_sc_contrast_agnostic",))
    (tmp_path / "m.json").write_text("\x00\xff not JSON")
    assert provenance_of(tmp_path / "m.nii.gz").source == "unknown"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"Author": "Jane Doe"}, ("Author",)),
        ({"GeneratedBy": [{"Name": "Manual correction by Jane Doe"}]}, ("Manual",)),
        ({"GeneratedBy": [{"Name": "/opt/jane/bin/sct_deepseg -task seg_sc -i /data/Doe_Jane/t2.nii.gz -v 1"}]},
         ("sct_deepseg -task seg_sc -v 1",)),
        ({"GeneratedBy": [{"Name": "sct_propseg -i Doe.nii.gz -c t2"}, {"Name": "Jane Doe", "Date": "1"}]},
         ("sct_propseg -c t2", "another step")),
        ({"GeneratedBy": [{"Name": "sct_maths -i Doe.nii.gz -bin 0.5"}, {"Name": ""}]},
         ("sct_maths -bin 0.5", "another step")),
        ({"GeneratedBy": [{"Name": "net v3", "ModelURL": "https://x"}]}, ("net v3",)),
    ],
)  # fmt: skip
def test_steps_are_kept_without_people_and_files(tmp_path: Path, content: object, said: tuple[str, ...]) -> None:
    (tmp_path / "m.json").write_text(json.dumps(content))
    assert provenance_of(tmp_path / "m.nii.gz").said == said


def test_no_sidecar_is_an_unknown_origin(tmp_path: Path) -> None:
    made = provenance_of(tmp_path / "m.nii.gz")
    assert (made.source, made.sidecar) == ("unknown", False)


# --- participants.tsv -----------------------------------------------------------------------------------------------


def test_participants_give_site_scanner_and_pathology_and_no_names(tmp_path: Path) -> None:
    text = (
        "\ufeffparticipant_id\tage\tinstitution_id\tinstitution\tmanufacturer\tmanufacturers_model_name\tpathology\t"
        "researcher\r\nsub-unf01\t24\tunf\tMontreal\tSiemens\tPrisma-fit\tHC\tN. Body\r\n"
        "unf02\t-\t-\tMontreal\tn/a\t-\tunknown\tN. Body\r\nsub-unf03\r\n\r\n"
    )
    _file(tmp_path, text, "participants.tsv")
    assert read_participants(tmp_path) == {
        "sub-unf01": {"site": "unf", "manufacturer": "Siemens", "model": "Prisma-fit", "pathology": "HC"},
        "sub-unf02": {"site": "Montreal"},
        "sub-unf03": {},
    }
    assert read_participants(tmp_path / "elsewhere") is None


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stem", "image", "rest", "contrast"),
    [
        ("sub-unf01_T1w", "sub-unf01_T1w", "", "T1w"),
        ("sub-unf01_T2w_label-SC_seg", "sub-unf01_T2w", "label-SC_seg", "T2w"),
        ("sub-a1_flip-1_mt-on_MTS_label-SC_seg", "sub-a1_flip-1_mt-on_MTS", "label-SC_seg", "flip-1_mt-on_MTS"),
        ("sub-a1_acq-MTon_MTS_seg-manual", "sub-a1_acq-MTon_MTS", "seg-manual", "flip-1_mt-on_MTS"),
        ("sub-a1_ses-2_run-01_T2star", "sub-a1_ses-2_run-01_T2star", "", "T2star"),
        ("sub-a1_rec-average_dwi_label-SC_seg", "sub-a1_rec-average_dwi", "label-SC_seg", "rec-average_dwi"),
        ("sub-a1_T2w_desc-softseg_label-SC_seg", "sub-a1_T2w", "desc-softseg_label-SC_seg", "T2w"),
        ("sub-a1_space-other_T1w_label-SC_seg", "sub-a1_space-other_T1w", "label-SC_seg", "space-other_T1w"),
    ],
)
def test_names_are_read_by_their_entities(stem: str, image: str, rest: str, contrast: str) -> None:
    assert split_stem(stem) == (image, rest)
    assert contrast_of(image) == contrast


def test_other_names_are_left_alone() -> None:
    assert split_stem("participants") is None
    assert split_stem("sub-a1") is None


def test_contrasts_are_chosen_by_name_former_name_or_suffix() -> None:
    assert wanted("flip-1_mt-on_MTS", ("MTS",))
    assert wanted("flip-1_mt-on_MTS", ("T1w", "flip-1_mt-on_MTS"))
    assert wanted("flip-1_mt-on_MTS", ("acq-MTon_MTS",))
    assert not wanted("flip-1_mt-on_MTS", ("flip-1_mt-off_MTS", "T1w"))
    assert not wanted("flip-2_mt-off_MTS", ("T1w",))
