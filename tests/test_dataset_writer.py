"""Raw datasets appear wholly or not at all, nnU-Net accepts them, and no subject is on two sides of a split."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nnunet_verdict import verify_with_nnunet

from nnunet_spine_ext.check.datasets import inspect_dataset
from nnunet_spine_ext.core import dataset as dataset_module
from nnunet_spine_ext.core.dataset import DatasetSpec, RawCase, dataset_writer, grouped_splits, write_raw_dataset
from nnunet_spine_ext.core.errors import CaseError, NoInputError, SpineExtError, UsageError
from nnunet_spine_ext.core.io import read_volume
from nnunet_spine_ext.core.splits import split_faults
from nnunet_spine_ext.core.volume import Volume

AFFINE = np.array([[0, 0, 2.0, -10], [-1.5, 0, 0, 20], [0, 1.0, 0, 5], [0, 0, 0, 1]])  # PSR, as many spine scans
SHAPE = (9, 8, 7)


def _spec(**changes: Any) -> DatasetSpec:
    base: dict[str, Any] = {
        "dataset_id": 501,
        "name": "Toy",
        "channel_names": {0: "T2w"},
        "labels": {"cord": 1, "left process": 2, "right process": 3},
        "sided_labels": ((2, 3),),
    }
    return DatasetSpec(**(base | changes))


def _case(number: int, subject: str | None = None, **changes: Any) -> RawCase:
    rng = np.random.default_rng(number)
    image = Volume(rng.integers(0, 900, SHAPE).astype(np.int16), AFFINE)
    label = Volume(rng.integers(0, 4, SHAPE).astype(np.int64), AFFINE)
    base: dict[str, Any] = {
        "case_id": f"case_{number}",
        "subject": f"s{number}" if subject is None else subject,
        "images": [image],
        "label": label,
        "info": {"contrast": "T2w", "session": "1"},
        "sources": [{"role": "image_0000", "file": f"{number}.nii.gz", "sha256": "0" * 64}],
    }
    return RawCase(**(base | changes))


def _cases(count: int = 4) -> list[RawCase]:
    return [_case(number) for number in range(count)]


def _tree(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_dataset_has_everything_and_nnunet_accepts_it(tmp_path: Path) -> None:
    cases = [*_cases(3), _case(3, "s0", label=None), _case(4, "t", test=True), _case(5, "u", test=True, label=None)]
    cases[0].instances = Volume(np.full(SHAPE, 119), AFFINE)
    spec = _spec(ignore=True, description="made up", licence="CC0")
    folder = write_raw_dataset(tmp_path / "raw", spec, cases, preprocessed_root=tmp_path / "pre")

    assert folder == tmp_path / "raw" / "Dataset501_Toy"
    description = json.loads((folder / "dataset.json").read_text())
    assert description["labels"] == {"background": 0, "cord": 1, "left process": 2, "right process": 3, "ignore": 4}
    assert description["channel_names"] == {"0": "T2w"}
    assert (description["numTraining"], description["file_ending"]) == (4, ".nii.gz")
    assert description["overwrite_image_reader_writer"] == "NibabelIOWithReorient"
    assert description["spine_ext"] == {"version": 1, "scheme": "custom", "sided_labels": [[2, 3]]}
    assert sorted(_tree(folder)) == [
        "cases.json",
        "dataset.json",
        *(f"imagesTr/case_{n}_0000.nii.gz" for n in range(4)),
        *(f"imagesTs/case_{n}_0000.nii.gz" for n in (4, 5)),
        "instancesTr/case_0.nii.gz",
        *(f"labelsTr/case_{n}.nii.gz" for n in range(4)),
        "labelsTs/case_4.nii.gz",
        "splits_final.json",
    ]
    assert [p.name for p in (tmp_path / "raw").iterdir()] == ["Dataset501_Toy"]
    facts = inspect_dataset(folder)
    assert facts.ok, facts.problems
    assert (facts.subjects, facts.folds, facts.training) == (5, 3, tuple(f"case_{n}" for n in range(4)))
    verify_with_nnunet(folder)


def test_files_keep_values_and_grid(tmp_path: Path) -> None:
    cases = _cases(2)
    cases[0].label = Volume(cases[0].label.array, AFFINE + 1e-5)  # type: ignore[union-attr]
    folder = write_raw_dataset(tmp_path, _spec(ignore=True), [*cases, _case(2, label=None)])
    for case in cases:
        image, label = (
            read_volume(folder / "imagesTr" / f"{case.case_id}_0000.nii.gz"),
            read_volume(folder / "labelsTr" / f"{case.case_id}.nii.gz"),
        )
        assert (image.array.dtype, label.array.dtype) == (np.int16, np.uint8)
        np.testing.assert_array_equal(image.array, case.images[0].array)
        np.testing.assert_array_equal(label.array, case.label.array)  # type: ignore[union-attr]
        np.testing.assert_array_equal(image.affine, label.affine)
        np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
    assert set(np.unique(read_volume(folder / "labelsTr" / "case_2.nii.gz").array)) == {4}


def test_cases_json_names_every_fact(tmp_path: Path) -> None:
    folder = write_raw_dataset(tmp_path / "raw", _spec(), _cases(2), preprocessed_root=tmp_path / "pre")
    table = json.loads((folder / "cases.json").read_text())
    assert table["version"] == 1
    row = table["cases"]["case_0"]
    assert row["subject"] == "s0"
    assert row["contrast"] == "T2w"
    assert row["session"] == "1"
    assert row["labelled"] is True
    assert all(row[key] is None for key in ("site", "manufacturer", "model", "field_strength", "TR", "TE"))
    assert row["sources"][0]["role"] == "image_0000"
    for name in ("cases.json", "splits_final.json"):
        assert (tmp_path / "pre" / "Dataset501_Toy" / name).read_bytes() == (folder / name).read_bytes()


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    first = write_raw_dataset(tmp_path / "a", _spec(), _cases(3))
    second = write_raw_dataset(tmp_path / "b", _spec(), _cases(3))
    assert _tree(first) == _tree(second)


def test_more_than_255_classes_need_16_bits(tmp_path: Path) -> None:
    spec = _spec(labels={f"c{n}": n for n in range(1, 301)}, sided_labels=())
    label = Volume(np.arange(np.prod(SHAPE)).reshape(SHAPE) % 301, AFFINE)
    folder = write_raw_dataset(tmp_path, spec, [_case(0, label=label), _case(1, label=label)])
    stored = nib.load(folder / "labelsTr" / "case_0.nii.gz")
    assert stored.get_data_dtype() == np.uint16
    assert int(np.asarray(stored.dataobj).max()) == 300


# --- half a dataset -------------------------------------------------------------------------------------------------


def _stop_after_two() -> Iterator[RawCase]:
    yield from _cases(2)
    raise KeyboardInterrupt


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_raw_dataset(tmp_path / "raw", _spec(), _stop_after_two(), preprocessed_root=tmp_path / "pre")
    assert list((tmp_path / "raw").iterdir()) == []
    assert list((tmp_path / "pre").iterdir()) == []


def test_a_full_disk_leaves_nothing_and_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(volume: Volume, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(dataset_module, "write_volume", full)
    with pytest.raises(SpineExtError, match=r"imagesTr.case_0_0000.nii.gz: cannot be written \(No space") as caught:
        write_raw_dataset(tmp_path, _spec(), _cases())
    assert (caught.value.code, caught.value.exit_code) == ("E-OUT-WRITE", 5)
    assert list(tmp_path.iterdir()) == []


def test_overwrite_replaces_and_a_failed_one_keeps_the_old(tmp_path: Path) -> None:
    raw, pre = tmp_path / "raw", tmp_path / "pre"
    folder = write_raw_dataset(raw, _spec(), _cases(4), preprocessed_root=pre)
    before = _tree(folder)
    with pytest.raises(KeyboardInterrupt):
        write_raw_dataset(raw, _spec(), _stop_after_two(), preprocessed_root=pre, overwrite=True)
    assert _tree(folder) == before
    write_raw_dataset(raw, _spec(), _cases(2), preprocessed_root=pre, overwrite=True)
    assert len(list((folder / "imagesTr").iterdir())) == 2
    assert list(json.loads((pre / folder.name / "cases.json").read_text())["cases"]) == ["case_0", "case_1"]
    assert [path.name for path in raw.iterdir()] == ["Dataset501_Toy"]


@pytest.mark.parametrize("existing", ["Dataset501_Toy", "Dataset501_Other", "Dataset501"])
@pytest.mark.parametrize("root", ["raw", "pre"])
def test_a_taken_id_is_refused_by_name(tmp_path: Path, existing: str, root: str) -> None:
    (tmp_path / root / existing).mkdir(parents=True)
    with pytest.raises(UsageError, match=existing) as caught:
        write_raw_dataset(tmp_path / "raw", _spec(), _cases(), preprocessed_root=tmp_path / "pre")
    assert caught.value.code == "E-DATASET-EXISTS"
    assert caught.value.exit_code == 2
    if existing != "Dataset501_Toy":
        with pytest.raises(UsageError, match="remove that dataset"):
            write_raw_dataset(tmp_path / "raw", _spec(), _cases(), preprocessed_root=tmp_path / "pre", overwrite=True)


def test_other_ids_are_free(tmp_path: Path) -> None:
    for name in ("Dataset050_Toy", "Dataset5010_Toy", "Dataset502_Toy", ".Dataset501_Toy.old"):
        (tmp_path / name).mkdir()
    write_raw_dataset(tmp_path, _spec(), _cases(2))


@pytest.mark.parametrize("root", ["raw", "pre"])
def test_an_output_root_that_is_a_file_is_refused_before_work(tmp_path: Path, root: str) -> None:
    (tmp_path / root).write_text("not a folder")
    with pytest.raises(UsageError) as caught:
        write_raw_dataset(tmp_path / "raw", _spec(), _cases(), preprocessed_root=tmp_path / "pre")
    assert caught.value.code == "E-OUT-FOLDER"
    assert not (tmp_path / "raw" / "Dataset501_Toy").exists()


# --- cases that do not fit ------------------------------------------------------------------------------------------


def _other_grid(shift: float = 0.0, shape: tuple[int, int, int] = SHAPE) -> Volume:
    affine = AFFINE.copy()
    affine[0, 3] += shift
    return Volume(np.zeros(shape, dtype=np.uint8), affine)


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"label": _other_grid(0.5)}, "E-GEOM-GRID", "0.5 mm"),
        ({"label": _other_grid(shape=(9, 8, 6))}, "E-GEOM-GRID", r"\(9, 8, 6\)"),
        ({"instances": _other_grid(3.0)}, "E-GEOM-GRID", "instance mask"),
        ({"images": [_case(0).images[0], _case(0).images[0]]}, "E-CASE-CHANNELS", r"2 image\(s\)"),
        ({"label": Volume(np.full(SHAPE, 9), AFFINE)}, "E-LABEL-UNKNOWN", r"9 \(504 voxels\)"),
        ({"label": Volume(np.full(SHAPE, 1.5), AFFINE)}, "E-LABEL-UNKNOWN", "1.5"),
        ({"label": None}, "E-CASE-UNLABELLED", "ignore"),
        ({"case_id": "../escape"}, "E-CASE-ID", "escape"),
        ({"subject": ""}, "E-CASE-ID", "case_9"),
    ],
)
def test_a_case_that_does_not_fit_is_refused_and_its_siblings_are_written(
    tmp_path: Path, changes: dict[str, Any], code: str, words: str
) -> None:
    with dataset_writer(tmp_path, _spec()) as writer:
        writer.add(_case(0))
        with pytest.raises(CaseError, match=words) as caught:
            writer.add(_case(9, **changes))
        writer.add(_case(1))
    assert caught.value.code == code
    assert caught.value.expected
    assert caught.value.fix
    assert sorted(path.name for path in (writer.folder / "imagesTr").iterdir()) == [
        "case_0_0000.nii.gz",
        "case_1_0000.nii.gz",
    ]


def test_the_same_id_in_another_letter_case_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'case_0' and 'CASE_0'") as caught:
        write_raw_dataset(tmp_path, _spec(), [*_cases(2), _case(3, case_id="CASE_0")])
    assert caught.value.code == "E-CASE-TWICE"
    assert list(tmp_path.iterdir()) == []


def test_a_subject_in_training_and_test_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="s1") as caught:
        write_raw_dataset(tmp_path, _spec(), [*_cases(3), _case(7, "s1", test=True)])
    assert caught.value.code == "E-SPLIT-TEST"


@pytest.mark.parametrize("cases", [[], [_case(0, test=True)], [_case(0, label=None)]])
def test_a_dataset_without_labelled_training_case_is_refused(tmp_path: Path, cases: list[RawCase]) -> None:
    with pytest.raises(NoInputError):
        write_raw_dataset(tmp_path, _spec(ignore=True), cases)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"dataset_id": 0}, "E-DATASET-ID"),
        ({"dataset_id": 1000}, "E-DATASET-ID"),
        ({"name": "a/b"}, "E-DATASET-NAME"),
        ({"name": ""}, "E-DATASET-NAME"),
        ({"channel_names": {}}, "E-DATASET-CHANNELS"),
        ({"channel_names": {1: "T2w"}}, "E-DATASET-CHANNELS"),
        ({"labels": {}}, "E-DATASET-LABELS"),
        ({"labels": {"a": 1, "b": 3}, "sided_labels": ()}, "E-DATASET-LABELS"),
        ({"labels": {"ignore": 1}, "sided_labels": ()}, "E-DATASET-LABELS"),
        ({"sided_labels": ((2, 9),)}, "E-DATASET-SIDED"),
        ({"sided_labels": ((2, 2),)}, "E-DATASET-SIDED"),
    ],
)
def test_a_wrong_description_is_refused(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        _spec(**changes)
    assert caught.value.code == code


# --- splits ---------------------------------------------------------------------------------------------------------

_TABLES = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=4), st.sampled_from([f"s{n}" for n in range(9)]), min_size=2, max_size=40
).filter(lambda table: len(set(table.values())) >= 2)


@given(_TABLES, st.integers(2, 6))
def test_every_case_is_validated_once_and_no_subject_leaks(subject_of: dict[str, str], folds: int) -> None:
    splits = grouped_splits(subject_of, folds)
    assert len(splits) == min(folds, len(set(subject_of.values())))
    assert sorted(case for split in splits for case in split["val"]) == sorted(subject_of)
    assert all(sorted(split["train"] + split["val"]) == sorted(subject_of) for split in splits)
    assert list(split_faults(splits, subject_of)) == []
    assert splits == grouped_splits(dict(reversed(subject_of.items())), folds)


@given(_TABLES, st.data())
def test_cases_that_only_train_are_never_validated_and_never_leak(subject_of: dict[str, str], data: Any) -> None:
    unscored = set(data.draw(st.lists(st.sampled_from(sorted(subject_of)))))
    if len({subject for case, subject in subject_of.items() if case not in unscored}) < 2:
        return
    splits = grouped_splits(subject_of, 5, train_only=unscored)
    assert sorted(case for split in splits for case in split["val"]) == sorted(set(subject_of) - unscored)
    assert list(split_faults(splits, subject_of)) == []


def test_folds_have_nearly_equal_sizes() -> None:
    subject_of = {f"s{s}_{c}": f"s{s}" for s in range(23) for c in range(1 + s % 3)}
    sizes = sorted(len(split["val"]) for split in grouped_splits(subject_of, 5))
    assert all(b - a <= 1 for a, b in pairwise(sizes))


def test_splits_need_two_subjects_and_two_folds(tmp_path: Path) -> None:
    for call in (({"a": "x", "b": "x"}, 5), ({"a": "x", "b": "y"}, 1)):
        with pytest.raises(UsageError):
            grouped_splits(*call)
    folder = write_raw_dataset(tmp_path, _spec(), [_case(0, "x"), _case(1, "x")])
    assert not (folder / "splits_final.json").exists()


def test_own_splits_are_used_or_refused(tmp_path: Path) -> None:
    wanted = [{"train": ["case_1"], "val": ["case_0"]}]
    folder = write_raw_dataset(tmp_path / "ok", _spec(), _cases(2), splits=wanted)
    assert json.loads((folder / "splits_final.json").read_text()) == wanted
    leaking = [{"train": ["case_0"], "val": ["case_1"]}]
    with pytest.raises(UsageError, match="subjects in train and val: x") as caught:
        write_raw_dataset(tmp_path / "leak", _spec(), [_case(0, "x"), _case(1, "x")], splits=leaking)
    assert caught.value.code == "E-SPLIT-WRONG"
    with pytest.raises(UsageError, match="do not exist: nobody"):
        write_raw_dataset(tmp_path / "no", _spec(), _cases(2), splits=[{"train": ["case_0"], "val": ["nobody"]}])
    cases = [*_cases(2), _case(2, label=None)]
    with pytest.raises(UsageError, match="without masks to score: case_2"):
        write_raw_dataset(tmp_path / "un", _spec(ignore=True), cases, splits=[{"train": ["case_0"], "val": ["case_2"]}])


# --- check.datasets -------------------------------------------------------------------------------------------------


def _edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    for key, value in changes.items():
        content[key] = value
    path.write_text(json.dumps(content))


def _leak(folder: Path) -> None:
    _edit(folder / "cases.json", cases={f"case_{n}": {"subject": "x"} for n in range(3)})


def _small_mask(folder: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), AFFINE), folder / "labelsTr" / "case_1.nii.gz")


@pytest.mark.parametrize(
    ("damage", "code", "file"),
    [
        (lambda f: (f / "labelsTr" / "case_1.nii.gz").unlink(), "E-PAIR-NOMASK", "case_1_0000.nii.gz"),
        (lambda f: (f / "imagesTr" / "case_1_0000.nii.gz").unlink(), "E-PAIR-NOIMAGE", "case_1.nii.gz"),
        (lambda f: (f / "imagesTr" / "case_1_0000.nii.gz").unlink(), "E-DATASET-COUNT", "dataset.json"),
        (lambda f: (f / "imagesTr" / "case_1_0000.nii.gz").unlink(), "E-DATASET-CASES", "cases.json"),
        (lambda f: _edit(f / "dataset.json", channel_names={"0": "a", "1": "b"}), "E-CASE-CHANNELS", "case_0"),
        (lambda f: _edit(f / "dataset.json", overwrite_image_reader_writer=None), "W-DATASET-READER", "dataset.json"),
        (_leak, "E-SPLIT-WRONG", "splits_final.json"),
        (lambda f: (f / "splits_final.json").unlink(), "W-DATASET-SPLITS", "splits_final.json"),
        (lambda f: (f / "splits_final.json").write_text("3"), "E-SPLIT-WRONG", "splits_final.json"),
        (lambda f: (f / "cases.json").unlink(), "W-DATASET-CASES", "cases.json"),
        (lambda f: (f / "cases.json").write_text("{}"), "E-DATASET-CASES", "cases.json"),
        (lambda f: (f / "dataset.json").write_text("{"), "E-IN-JSON", "dataset.json"),
        (lambda f: (f / "dataset.json").write_text("{}"), "E-DATASET-JSON", "dataset.json"),
        (_small_mask, "E-GEOM-GRID", "case_1.nii.gz"),
        (lambda f: _twin(f), "E-CASE-TWICE", "Dataset501_Toy"),
    ],
)
def test_damage_to_a_dataset_is_found(tmp_path: Path, damage: Any, code: str, file: str) -> None:
    folder = write_raw_dataset(tmp_path, _spec(), _cases(3))
    assert inspect_dataset(folder).problems == []
    damage(folder)
    facts = inspect_dataset(folder)
    found = [problem for problem in facts.problems if problem.code == code]
    assert found, facts.problems
    assert any(file in problem.file for problem in found)
    assert all(problem.found and problem.expected and problem.fix for problem in facts.problems)
    assert facts.ok == code.startswith("W-")


def _twin(folder: Path) -> None:
    for name in ("imagesTr/{}_0000.nii.gz", "labelsTr/{}.nii.gz"):
        (folder / name.format("Case_1")).write_bytes((folder / name.format("case_1")).read_bytes())


def test_a_folder_without_dataset_json_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"dataset\.json"):
        inspect_dataset(tmp_path)
