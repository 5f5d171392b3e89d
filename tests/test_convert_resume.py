"""A conversion reads every file once, holds one case, and goes on where it was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from opened_files import count_opens

from nnunet_spine_ext.check.opening import Opened
from nnunet_spine_ext.cli.convert import main
from nnunet_spine_ext.core import dataset as dataset_module
from nnunet_spine_ext.core.errors import CaseError, Problem, SetupError, SpineExtError, UsageError
from nnunet_spine_ext.core.io import read_volume
from nnunet_spine_ext.core.partial import Partial
from nnunet_spine_ext.dataset_conversion import conversion
from nnunet_spine_ext.dataset_conversion.conversion import Built, Rules, Target, convert
from nnunet_spine_ext.dataset_conversion.discovery import Candidate, Source
from nnunet_spine_ext.dataset_conversion.labelmap import LabelMap
from nnunet_spine_ext.dataset_conversion.pairs import pairs
from nnunet_spine_ext.dataset_conversion.report import ConversionResult

HERE = Path(__file__).parent
SHAPE = (9, 8, 7)
AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])
SUBJECTS = ("anna", "bert", "cleo", "dora")


def _save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, AFFINE), path)
    return path


def _sources(folder: Path, subjects: tuple[str, ...] = SUBJECTS) -> Path:
    for number, subject in enumerate(subjects):
        image = np.random.default_rng(number).integers(0, 900, SHAPE).astype(np.int16)
        _save(folder / subject / "t2.nii.gz", image)
        _save(folder / subject / "seg.nii.gz", (image > 600).astype(np.uint8))
    return folder


def _pairs(root: Path, **changes: Any) -> ConversionResult:
    base: dict[str, Any] = {
        "name": "Toy",
        "images": [f"{root}/in/*/t2.*"],
        "labels": [f"{root}/in/*/seg.*"],
        "label_map": ["cord=1"],
        "raw": root / "raw",
        "preprocessed": root / "pre",
    }
    return pairs(501, **(base | changes))


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _interrupt_before(subject: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the next conversion end with an interrupt when it comes to the image of a subject."""
    read = conversion.open_image

    def stop_at(path: Path, **options: Any) -> Opened:
        if subject in str(path):
            raise KeyboardInterrupt
        return read(path, **options)

    monkeypatch.setattr(conversion, "open_image", stop_at)


def _interrupted(root: Path, monkeypatch: pytest.MonkeyPatch, subject: str = "cleo", **changes: Any) -> None:
    with monkeypatch.context() as patch:
        _interrupt_before(subject, patch)
        with pytest.raises(KeyboardInterrupt):
            _pairs(root, **changes)
    assert [path.name for path in (root / "raw").iterdir()] == [".Dataset501_Toy.partial"]


# --- one read -------------------------------------------------------------------------------------------------------


def _in_every_format(folder: Path) -> Path:
    _sources(folder)
    for subject, suffix in zip(SUBJECTS, (".mha", ".mhd", ".nrrd", ".nii"), strict=True):
        for name in ("t2", "seg"):
            path = folder / subject / f"{name}.nii.gz"
            sitk.WriteImage(sitk.ReadImage(str(path)), str(path.with_name(f"{name}{suffix}")), False)
            path.unlink()
    return _sources(folder, ("eric",))


@pytest.mark.parametrize("changes", [{}, {"label_map": None}, {"dry_run": True}])
def test_every_source_file_is_opened_once(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = _in_every_format(tmp_path / "in")
    with count_opens(folder) as counts:
        result = _pairs(tmp_path, **changes)
    assert result.exit_code == 0, result.render()
    assert len(result.rows) == 5
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert "bert/t2.raw" in files
    assert dict(counts) == dict.fromkeys(files, 1)


def test_a_data_file_beside_its_header_is_listed(tmp_path: Path) -> None:
    _in_every_format(tmp_path / "in")
    result = _pairs(tmp_path)
    sources = json.loads((result.folder / "cases.json").read_text())["cases"]["bert"]["sources"]
    assert [(row["role"], row["file"]) for row in sources] == [
        ("image_0000", "bert/t2.mhd"), ("image_0000-data", "bert/t2.raw"),
        ("label", "bert/seg.mhd"), ("label-data", "bert/seg.raw"),
    ]  # fmt: skip
    assert len({row["sha256"] for row in sources}) == 4


def test_times_are_in_the_result_and_never_in_the_dataset(tmp_path: Path) -> None:
    _sources(tmp_path / "in")
    result = _pairs(tmp_path)
    answer = result.to_dict()
    assert sorted(answer["seconds"]) == sorted(SUBJECTS)
    assert 0 < sum(answer["seconds"].values()) <= answer["total_seconds"] + 0.01
    assert "s per case" in result.render()
    assert "seconds" not in (result.folder / "conversion.json").read_text()


# --- going on -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"label_map": None}, {"test_subjects": ["anna"]}])
def test_what_is_finished_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    folder = _sources(tmp_path / "in")
    _interrupted(tmp_path, monkeypatch, **changes)
    with count_opens(folder) as counts:
        result = _pairs(tmp_path, resume=True, **changes)
    assert dict(counts) == {f"{s}/{n}.nii.gz": 1 for s in ("cleo", "dora") for n in ("t2", "seg")}
    assert (result.resumed, sorted(result.seconds)) == (2, ["cleo", "dora"])
    assert "2 finished before" in result.render()
    whole = _pairs(tmp_path, raw=tmp_path / "raw2", preprocessed=tmp_path / "pre2", **changes)
    assert _tree(result.folder) == _tree(whole.folder)
    assert _tree(tmp_path / "pre") == _tree(tmp_path / "pre2")
    assert [row.to_dict() for row in result.rows] == [row.to_dict() for row in whole.rows]
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["Dataset501_Toy"]


def test_a_source_that_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _sources(tmp_path / "in")
    _interrupted(tmp_path, monkeypatch)
    image = np.random.default_rng(99).integers(0, 900, SHAPE).astype(np.int16)
    _save(folder / "anna" / "t2.nii.gz", image)
    result = _pairs(tmp_path, resume=True)
    assert (result.resumed, sorted(result.seconds)) == (1, ["anna", "cleo", "dora"])
    np.testing.assert_array_equal(read_volume(result.folder / "imagesTr" / "anna_0000.nii.gz").array, image)


def test_a_finished_case_that_broke_meanwhile_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _sources(tmp_path / "in")
    _interrupted(tmp_path, monkeypatch)
    (folder / "anna" / "t2.nii.gz").write_bytes(b"")
    result = _pairs(tmp_path, resume=True)
    assert [problem.code for problem in result.skipped] == ["E-IN-EMPTY"]
    assert not [name for name in _tree(result.folder) if "anna" in name]


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_an_output_that_is_not_what_was_written_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    _sources(tmp_path / "in")
    _interrupted(tmp_path, monkeypatch)
    output = tmp_path / "raw" / ".Dataset501_Toy.partial" / "dataset" / "labelsTr" / "bert.nii.gz"
    if damage == "cut":
        output.write_bytes(output.read_bytes()[:-9])
    else:
        output.unlink()
    result = _pairs(tmp_path, resume=True)
    assert (result.resumed, sorted(result.seconds)) == (1, ["bert", "cleo", "dora"])
    whole = _pairs(tmp_path, raw=tmp_path / "raw2", preprocessed=tmp_path / "pre2")
    assert _tree(result.folder) == _tree(whole.folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"label_map": ["canal=1"]}, "label_map"),
        ({"folds": 2}, "folds was 5 and is 2"),
        ({"contrast": ["T2w"]}, "cases anna was"),
        ({"test_subjects": ["anna"]}, "test_subjects"),
    ],
)
def test_another_request_starts_anew_and_says_why(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    changes: dict[str, Any],
    words: str,
) -> None:
    _sources(tmp_path / "in")
    _interrupted(tmp_path, monkeypatch)
    result = _pairs(tmp_path, resume=True, **changes)
    assert "starting anew, because" in caplog.text
    assert words in caplog.text
    assert (result.resumed, len(result.rows)) == (0, 4)
    whole = _pairs(tmp_path, raw=tmp_path / "raw2", preprocessed=tmp_path / "pre2", **changes)
    assert _tree(result.folder) == _tree(whole.folder)


def test_a_new_case_starts_anew_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _sources(tmp_path / "in")
    _interrupted(tmp_path, monkeypatch)
    _sources(tmp_path / "in", ("eric",))
    assert len(_pairs(tmp_path, resume=True).rows) == 5
    assert "cases eric is new" in caplog.text


def test_without_resume_what_is_left_is_removed_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _sources(tmp_path / "in")
    _interrupted(tmp_path, monkeypatch)
    assert _pairs(tmp_path).resumed == 0
    assert "2 finished cases" in caplog.text
    assert "--resume would have continued it" in caplog.text


def test_the_command_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _sources(tmp_path / "in")
    arguments = ["pairs", "501", "--name", "Toy", "--images", f"{tmp_path}/in/*/t2.nii.gz", "--labels"]
    arguments += [f"{tmp_path}/in/*/seg.nii.gz", "--raw", f"{tmp_path}/raw", "--preprocessed", f"{tmp_path}/pre"]
    with monkeypatch.context() as patch:
        _interrupt_before("dora", patch)
        assert main(arguments) == 130
    assert main([*arguments, "--resume"]) == 0
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["Dataset501_Toy"]


def test_a_torn_journal_is_used_up_to_its_last_whole_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _sources(tmp_path / "in")
    _interrupted(tmp_path, monkeypatch, "dora")
    journal = tmp_path / "raw" / ".Dataset501_Toy.partial" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-7])
    assert _pairs(tmp_path, resume=True).resumed == 2
    _interrupted(
        tmp_path / "b", monkeypatch, "dora", images=[f"{tmp_path}/in/*/t2.*"], labels=[f"{tmp_path}/in/*/seg.*"]
    )
    journal = tmp_path / "b" / "raw" / ".Dataset501_Toy.partial" / "journal.jsonl"
    journal.write_bytes(b"no journal\n")
    _sources(tmp_path / "b" / "in")
    result = _pairs(tmp_path / "b", resume=True)
    assert (result.resumed, len(result.rows)) == (0, 4)


def test_a_full_disk_keeps_what_is_finished_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _sources(tmp_path / "in")
    write = dataset_module.write_volume

    def full(volume: Any, path: Path) -> None:
        if "cleo" in path.name:
            raise OSError(28, "No space left on device")
        write(volume, path)

    with monkeypatch.context() as patch:
        patch.setattr(dataset_module, "write_volume", full)
        with pytest.raises(SpineExtError, match="--resume") as caught:
            _pairs(tmp_path)
    assert caught.value.code == "E-OUT-WRITE"
    assert _pairs(tmp_path, resume=True).resumed == 2


def test_an_id_that_is_taken_meanwhile_costs_no_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _sources(tmp_path / "in")
    read = conversion.open_image

    def somebody_else_writes(path: Path, **options: Any) -> Opened:
        (tmp_path / "raw" / "Dataset501_Other").mkdir(exist_ok=True)
        return read(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(conversion, "open_image", somebody_else_writes)
        with pytest.raises(UsageError, match="taken by Dataset501_Other"):
            _pairs(tmp_path)
    assert not (tmp_path / "raw" / "Dataset501_Toy").exists()
    (tmp_path / "raw" / "Dataset501_Other").rmdir()
    assert _pairs(tmp_path, resume=True).resumed == 4


def test_a_hidden_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    _sources(tmp_path / "in")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / ".Dataset501_Toy.partial").write_text("a file")
    with pytest.raises(UsageError, match=r"\.Dataset501_Toy\.partial: cannot be used") as caught:
        _pairs(tmp_path)
    assert caught.value.code == "E-OUT-FOLDER"


def test_two_files_of_one_role_are_never_mixed_up(tmp_path: Path) -> None:
    twice = _candidate(tmp_path / "in", "anna")
    twice = _candidate(tmp_path / "in", "anna", extras=(*twice.extras, *twice.extras))
    result = _by_builder(tmp_path, [twice, _candidate(tmp_path / "in", "bert")], dry_run=True)
    assert [problem.code for problem in result.skipped] == ["E-CASE-INTERNAL"]
    assert "two files of one role" in result.skipped[0].found


def test_after_nothing_usable_nothing_is_left(tmp_path: Path) -> None:
    for subject in SUBJECTS:
        _save(tmp_path / "in" / subject / "t2.nii.gz", np.zeros(SHAPE, np.int16))
        _save(tmp_path / "in" / subject / "seg.nii.gz", np.zeros(SHAPE, np.uint8))
    assert _pairs(tmp_path).exit_code == 4
    assert list((tmp_path / "raw").iterdir()) == []


# --- killed at every step -------------------------------------------------------------------------------------------


def _kill_everywhere(*arguments: str) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    command = [sys.executable, str(HERE / "kill_everywhere.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("scenario", ["mapped", "unmapped", "overwrite"])
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(tmp_path: Path, scenario: str) -> None:
    _kill_everywhere(scenario, str(tmp_path / "k"), "7")


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["mapped", "unmapped", "overwrite"])
def test_a_run_can_be_killed_before_each_of_its_steps(tmp_path: Path, scenario: str) -> None:
    _kill_everywhere(scenario, str(tmp_path / "k"))


# --- one writer -----------------------------------------------------------------------------------------------------

_HOLD = """
import sys
from pathlib import Path
from nnunet_spine_ext.core.partial import Partial
with Partial(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that writes the dataset."""
    command = [sys.executable, "-c", _HOLD, str(tmp_path / "raw" / "Dataset501_Toy")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_writer_is_refused_while_the_first_lives(
    tmp_path: Path, holder: subprocess.Popen[str], resume: bool
) -> None:
    _sources(tmp_path / "in")
    with pytest.raises(SetupError, match=f"process {holder.pid} on .* is writing Dataset501_Toy") as caught:
        _pairs(tmp_path, resume=resume)
    assert caught.value.code == "E-OUT-LOCKED"
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert _pairs(tmp_path, resume=resume).exit_code == 0
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["Dataset501_Toy"]


def test_a_lock_of_another_host_is_never_taken_over(tmp_path: Path) -> None:
    _sources(tmp_path / "in")
    partial = Partial(tmp_path / "raw" / "Dataset501_Toy")
    partial.path.mkdir(parents=True)
    (partial.path / "lock").write_text(json.dumps({"pid": 1, "host": "elsewhere.example"}))
    with pytest.raises(SetupError, match=r"process 1 on elsewhere.example.*delete .*lock"):
        _pairs(tmp_path)
    (partial.path / "lock").unlink()
    assert _pairs(tmp_path).exit_code == 0


def test_where_files_cannot_be_locked_the_text_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holder: subprocess.Popen[str]
) -> None:
    from nnunet_spine_ext.core import lock

    _sources(tmp_path / "in")
    monkeypatch.setattr(lock, "fcntl", None)
    with pytest.raises(SetupError, match=f"process {holder.pid}"):
        _pairs(tmp_path)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert _pairs(tmp_path).exit_code == 0


# --- builders -------------------------------------------------------------------------------------------------------

CLASSES = LabelMap({"cord": 1, "canal": 2}, {})


def _candidate(folder: Path, name: str, **changes: Any) -> Candidate:
    folder = _sources(folder, (name,)) / name
    _save(folder / "inst.nii.gz", np.full(SHAPE, 119, np.uint16))
    base: dict[str, Any] = {
        "case_id": name,
        "subject": name,
        "images": (Source("image_0000", folder / "t2.nii.gz", f"{name}/t2.nii.gz"),),
        "label": Source("label", folder / "seg.nii.gz", f"{name}/seg.nii.gz"),
        "info": {"contrast": "T2w", "age": 40},
        "extras": (Source("instances", folder / "inst.nii.gz", f"{name}/inst.nii.gz"),),
    }
    return Candidate(**(base | changes))


def _build(case: Candidate, opened: Mapping[str, Opened]) -> Built:
    if case.case_id == "bad":
        raise CaseError("E-TEST-BAD", file="bad", found="a bad case", expected="a good one", fix="none")
    image, mask, instances = (opened[role].volume for role in ("image_0000", "label", "instances"))
    assert image is not None
    assert mask is not None
    warning = Problem("warning", "W-TEST-ODD", case.case_id, "odd", "even", "nothing")
    return Built([image], mask.with_array(mask.array * 2), instances, {"age": 41, "levels": [19, 20]}, [warning])


def _by_builder(tmp_path: Path, cases: list[Candidate], **changes: Any) -> ConversionResult:
    target = Target(501, "Built", ("T2w",), tmp_path / "raw", tmp_path / "pre", ignore=True)
    base: dict[str, Any] = {"rules": Rules(), "options": {"converter": "test"}, "build": _build}
    return convert(cases, [], CLASSES, target, **(base | changes))


def test_a_builder_makes_the_cases(tmp_path: Path) -> None:
    result = _by_builder(tmp_path, [_candidate(tmp_path / "in", name) for name in ("anna", "bad", "bert")])
    assert [problem.code for problem in result.skipped] == ["E-TEST-BAD"]
    assert [[p.code for p in row.warnings] for row in result.rows] == [["W-TEST-ODD"]] * 2
    row = json.loads((result.folder / "cases.json").read_text())["cases"]["anna"]
    assert (row["age"], row["levels"], row["contrast"]) == (41, [19, 20], "T2w")
    assert [source["role"] for source in row["sources"]] == ["image_0000", "label", "instances"]
    assert (read_volume(result.folder / "instancesTr" / "anna.nii.gz").array == 119).all()
    assert set(np.unique(read_volume(result.folder / "labelsTr" / "anna.nii.gz").array)) == {0, 2}
    description = json.loads((result.folder / "dataset.json").read_text())
    assert description["labels"] == {"background": 0, "cord": 1, "canal": 2, "ignore": 3}
    assert "classes without a voxel in any mask: cord" in result.notes


def test_the_roles_of_files_decide_how_they_are_judged(tmp_path: Path) -> None:
    fraction = np.full(SHAPE, 1.5, np.float32)
    fraction[0] = 1
    cases = [_candidate(tmp_path / "in", name) for name in ("anna", "bert")]
    for role, code in (("instances", "E-LABEL-VALUE"), ("label", "E-LABEL-VALUE"), ("chunk-BWS", "")):
        extra = Source(role, _save(tmp_path / f"{role}.nii.gz", fraction), "extra")
        more = _candidate(tmp_path / "in", "cleo", extras=(cases[0].extras[0], extra))
        if role == "label":
            more = _candidate(tmp_path / "in", "cleo", label=extra)
        if role == "instances":
            more = _candidate(tmp_path / "in", "cleo", extras=(extra,))
        result = _by_builder(tmp_path, [*cases, more], dry_run=True)
        assert [problem.code for problem in result.skipped] == ([code] if code else [])


@pytest.mark.parametrize("value", [float("nan"), object()])
def test_facts_that_are_no_json_are_the_fault_of_their_case(tmp_path: Path, value: Any) -> None:
    cases = [_candidate(tmp_path / "in", "anna"), _candidate(tmp_path / "in", "bert", info={"contrast": value})]
    result = _by_builder(tmp_path, cases)
    assert [problem.code for problem in result.skipped] == ["E-CASE-INFO"]
    assert [row.case_id for row in result.rows] == ["anna"]


def test_what_is_wrong_with_the_list_is_said_before_work(tmp_path: Path) -> None:
    anna, again = _candidate(tmp_path / "in", "anna"), _candidate(tmp_path / "in", "bert", case_id="ANNA")
    with pytest.raises(UsageError, match="'ANNA', and 'anna'"):
        _by_builder(tmp_path, [anna, again])
    with pytest.raises(UsageError, match="training and test cases: anna"):
        _by_builder(tmp_path, [anna, _candidate(tmp_path / "in", "bert", subject="anna", test=True)])
    assert not (tmp_path / "raw").exists()


# --- memory ---------------------------------------------------------------------------------------------------------

_PEAK = """
import json, sys
from pathlib import Path
from nnunet_spine_ext.dataset_conversion.pairs import pairs
result = pairs(501, name="Many", images=[sys.argv[1] + "/{subject}/t2.nii.gz"],
               labels=[sys.argv[1] + "/{subject}/seg.nii.gz"], raw=sys.argv[2], preprocessed=sys.argv[3])
# Of this program alone: what getrusage says begins with the process that started it.
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
print(json.dumps([len(result.rows), result.exit_code, peak / 1024]))
"""


def _many(folder: Path, subjects: int, distinct: int) -> Path:
    """Sources of `distinct` series of 1.8 million voxels (5.4 MB with its mask), hard-linked under `subjects` names."""
    for number in range(subjects):
        target = folder / f"s{number:04d}"
        target.mkdir(parents=True)
        for name in ("t2.nii.gz", "seg.nii.gz"):
            if number >= distinct:
                os.link(folder / f"s{number % distinct:04d}" / name, target / name)
        if number < distinct:
            image = np.zeros((200, 150, 60), np.int16)
            image[:, :, number] = 1 + np.arange(150, dtype=np.int16)
            _save(target / "t2.nii.gz", image)
            _save(target / "seg.nii.gz", (image > 100).astype(np.uint8))
    return folder


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_cases(tmp_path: Path) -> None:
    if not Path("/proc/self/status").is_file():
        pytest.skip("the system does not say how much memory a process took")
    peaks = []
    for subjects in (10, 100):
        source = _many(tmp_path / f"in-{subjects}", subjects, min(subjects, 20))
        command = [sys.executable, "-c", _PEAK, str(source), *(str(tmp_path / f"{n}-{subjects}") for n in "rp")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        count, code, peak = json.loads(done.stdout)
        assert (count, code) == (subjects, 0)
        peaks.append(peak)
    assert peaks[1] < 1024
    assert peaks[1] - peaks[0] < 60, peaks
