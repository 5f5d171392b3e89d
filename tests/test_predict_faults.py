"""What goes wrong in prediction: named, isolated, nothing half-written, the exit code tells the truth."""

from __future__ import annotations

import errno
import gzip
import json
import os
import pickle
import socket
import subprocess
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from model_builder import LABELS14, SIDED14, make_image, make_model, stock_predict

from nnunet_spine_ext import __version__
from nnunet_spine_ext.cli import predict as command
from nnunet_spine_ext.core.errors import NoInputError, SetupError, SpineExtError, UsageError
from nnunet_spine_ext.core.io import read_volume, sha256, write_json, write_volume
from nnunet_spine_ext.inference.cases import find_cases
from nnunet_spine_ext.inference.folder import load_model
from nnunet_spine_ext.inference.journal import Journal, folder_lock
from nnunet_spine_ext.inference.predict import predict
from nnunet_spine_ext.inference.results import tell_changes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "cord")


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "html":
        path.write_bytes(b"<html>log in first</html>")
    elif kind == "annex":
        path.write_bytes(b"/annex/objects/MD5E-s123--0123456789abcdef.nii.gz\n")


@pytest.mark.parametrize("kind", ["truncated", "empty", "html", "annex"])
def test_one_bad_file_is_named_and_the_others_are_done(model: Path, tmp_path: Path, kind: str) -> None:
    for name in "abc":
        make_image(tmp_path / "in" / f"{name}.nii.gz")
    damage(tmp_path / "in" / "b.nii.gz", kind)
    result = predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu")
    assert result.exit_code == 3
    assert result.done == ["a", "c"]
    problem = result.failed["b"]
    assert problem.file.endswith("b.nii.gz")
    assert all((problem.found, problem.expected, problem.fix))
    assert sorted(f.name for f in (tmp_path / "out").glob("*.nii.gz")) == ["a.nii.gz", "c.nii.gz"]
    rows = Journal(tmp_path / "out").read()
    assert {k: v["status"] for k, v in rows.items()} == {"a": "done", "b": "failed", "c": "done"}

    make_image(tmp_path / "in" / "b.nii.gz")
    again = predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", resume=True)
    assert (again.exit_code, again.done, again.skipped) == (0, ["b"], ["a", "c"])


def test_a_case_that_fails_now_does_not_keep_its_old_mask(model: Path, tmp_path: Path) -> None:
    make_image(tmp_path / "in" / "a.nii.gz")
    predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu")
    damage(tmp_path / "in" / "a.nii.gz", "truncated")
    assert predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu").exit_code == 4
    assert not list((tmp_path / "out").glob("*.nii.gz"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("mask", "a.nii.gz is missing or not as it was written"),
        ("image", "its input has changed"),
        ("options", "it was done with another model or other options"),
        ("journal", ""),
    ],
)
def test_resume_verifies_instead_of_trusting(
    model: Path, tmp_path: Path, change: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_image(tmp_path / "in" / "a.nii.gz")
    predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu")
    digest = sha256(tmp_path / "out" / "a.nii.gz")
    options = {}
    if change == "mask":
        (tmp_path / "out" / "a.nii.gz").write_bytes(b"\x1f\x8b broken")
    elif change == "image":
        make_image(tmp_path / "in" / "a.nii.gz", seed=5)
    elif change == "options":
        options = {"tta": "none"}
    else:
        (tmp_path / "out" / "cases.jsonl").unlink()
    caplog.set_level("INFO", "nnunet_spine_ext")
    again = predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", resume=True, **options)
    assert again.done == ["a"]
    assert [m for m in caplog.messages if "done again" in m] == ([f"a is done again: {reason}"] if reason else [])
    told = [m for m in caplog.messages if "in the last run" in m]
    changed = [f"{tmp_path / 'out'}: other than in the last run: tta mirror -> none"]
    assert told == (changed if change == "options" else [])
    if change == "mask":
        assert sha256(tmp_path / "out" / "a.nii.gz") == digest
    assert predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", resume=True, **options).skipped == ["a"]


@pytest.mark.parametrize("record", ["absent", "damaged", "short"])
def test_a_run_whose_record_is_lost_is_gone_on_with(
    model: Path, tmp_path: Path, record: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_image(tmp_path / "in" / "a.nii.gz")
    predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu")
    file = tmp_path / "out" / "run.json"
    content = json.loads(file.read_text()) | {"nnunet_spine_ext": "0.0", "model": {"sha256": "of another"}}
    file.write_text(json.dumps(content))
    caplog.set_level("INFO", "nnunet_spine_ext")
    tell_changes(tmp_path / "out", content["options"], "of this")
    assert caplog.messages[-1].endswith(f"nnunet_spine_ext 0.0 -> {__version__}; another model, or folds, or plans")
    caplog.clear()
    if record == "absent":
        file.unlink()
    else:
        file.write_text({"damaged": "{", "short": '{"options": 3}'}[record])
    assert predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", resume=True).skipped == ["a"]
    assert not [m for m in caplog.messages if "in the last run" in m]


def test_missing_channel_lists_expected_and_found(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", channels=2)
    make_image(tmp_path / "in" / "a_0000.nii.gz")
    for channel in (0, 1):
        make_image(tmp_path / "in" / f"b_{channel:04d}.nii.gz")
    result = predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu")
    assert result.done == ["b"]
    assert "a_0001 (T2w)" in result.failed["a"].expected
    assert result.failed["a"].found == "a_0000.nii.gz"


@pytest.mark.parametrize("kind", ["nan", "4d_one", "suffix_raw"])
@pytest.mark.parametrize("stock", [False, True], ids=["ours", "stock"])
def test_what_is_only_a_warning_is_predicted(model: Path, tmp_path: Path, kind: str, stock: bool) -> None:
    image = make_image(tmp_path / "in" / "a_0000.nii.gz")
    file, content = tmp_path / "in" / "a_0000.nii.gz", image.array.astype(np.float32)
    if kind == "nan":
        content[3, 4, 5] = np.nan
        write_volume(image.with_array(content), file)
    elif kind == "4d_one":
        file.write_bytes(gzip.compress(nib.Nifti1Image(image.array[..., None], image.affine).to_bytes()))
    else:
        file.write_bytes(gzip.decompress(file.read_bytes()))
    if stock:
        stock_predict(model, [file], tmp_path / "out")
    else:
        result = predict(file, tmp_path / "out", m=model, device="cpu")
        assert (result.exit_code, [p.severity for p in result.warnings["a"]]) == (0, ["warning"])
    mask = read_volume(tmp_path / "out" / "a.nii.gz")
    assert mask.same_grid(image)
    assert 0 < np.count_nonzero(mask.array) < mask.array.size, "a NaN that spreads makes the mask empty"


def test_an_unreadable_file_is_named_as_such(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        make_image(tmp_path / "in" / f"{name}.nii.gz")
    original = Path.open

    def closed(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.name == "a.nii.gz" and self.parent.name == "in":
            raise PermissionError(13, "Permission denied")
        return original(self, *args, **kwargs)

    # Tests often run as root, who may read everything.
    monkeypatch.setattr(Path, "open", closed)
    result = predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu")
    assert (result.exit_code, result.done) == (3, ["b"])
    assert result.failed["a"].code == "E-IN-PERMISSION"


def test_instances_of_a_model_with_other_classes_are_refused_before_any_work(model: Path, tmp_path: Path) -> None:
    make_image(tmp_path / "in" / "a.nii.gz")
    with pytest.raises(UsageError, match="nnunet14") as caught:
        predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", instances=True)
    assert caught.value.code == "E-USE-SCHEME"
    assert not (tmp_path / "out").exists()


def test_a_cascade_is_refused(tmp_path: Path) -> None:
    make_image(tmp_path / "in" / "a.nii.gz")
    model = make_model(tmp_path / "model")
    plans = json.loads((model / "plans.json").read_text())
    configurations = plans["configurations"]
    configurations["3d_lowres"] = dict(configurations["3d_fullres"])
    configurations["3d_fullres"]["previous_stage"] = "3d_lowres"
    write_json(model / "plans.json", plans)
    with pytest.raises(SetupError, match="3d_lowres") as caught:
        predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu")
    assert caught.value.code == "E-MODEL-CASCADE"


def test_a_dry_run_lists_the_cases(model: Path, tmp_path: Path) -> None:
    make_image(tmp_path / "in" / "a.nii.gz")
    result = predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", dry_run=True)
    assert f"a: {tmp_path / 'in' / 'a.nii.gz'}" in result.render()
    assert result.to_dict()["planned"] == {"a": [str(tmp_path / "in" / "a.nii.gz")]}
    assert not (tmp_path / "out").exists()


def test_channels_on_different_grids(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", channels=2)
    make_image(tmp_path / "in" / "a_0000.nii.gz")
    make_image(tmp_path / "in" / "a_0001.nii.gz", shape=(24, 20, 17))
    result = predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu")
    assert result.failed["a"].code == "E-GEOM-CHANNELS"
    assert result.exit_code == 4


def test_same_case_twice_is_refused_before_any_work(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "a_0000.nii.gz"):
        make_image(tmp_path / "one" / name)
    for name in ("b.nii.gz", "B.nii.gz"):
        make_image(tmp_path / "two" / name)
    for folder in ("one", "two"):
        with pytest.raises(UsageError, match="same case") as caught:
            find_cases(tmp_path / folder, ["T2w"])
        assert caught.value.exit_code == 2


def test_a_year_at_the_end_of_a_name_is_no_channel(tmp_path: Path) -> None:
    for name in ("anna_2019", "anna_2020", "b_0000"):
        make_image(tmp_path / "in" / f"{name}.nii.gz")
    cases = find_cases(tmp_path / "in", ["T2w"])
    assert [(case.name, case.problem) for case in cases] == [("anna_2019", None), ("anna_2020", None), ("b", None)]
    make_image(tmp_path / "in" / "b_0001.nii.gz")
    problem = find_cases(tmp_path / "in", ["T2w"])[2].problem
    assert problem is not None
    assert problem.code == "E-IN-CHANNEL"


def test_nothing_to_predict(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for source in (tmp_path / "in", tmp_path / "absent.nii.gz"):
        with pytest.raises(NoInputError):
            predict(source, tmp_path / "out", m=model, device="cpu")
    assert not (tmp_path / "out").exists()


def test_output_that_cannot_be(model: Path, tmp_path: Path) -> None:
    make_image(tmp_path / "in" / "a.nii.gz")
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "in", tmp_path / "file"):
        with pytest.raises(UsageError) as caught:
            predict(tmp_path / "in", output, m=model, device="cpu")
        assert str(output) in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_output(model: Path, tmp_path: Path) -> None:
    make_image(tmp_path / "in" / "a.nii.gz")
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UsageError, match="cannot be written"):
        predict(tmp_path / "in", tmp_path / "locked" / "out", m=model, device="cpu")


def test_read_only_output_is_asked_of_the_system(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_image(tmp_path / "in" / "a.nii.gz")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UsageError, match="cannot be written"):
        predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu")


@pytest.mark.parametrize("place", ["a_file/x", "x" * 300])
def test_an_output_that_cannot_be_made(model: Path, tmp_path: Path, place: str) -> None:
    make_image(tmp_path / "in" / "a.nii.gz")
    (tmp_path / "a_file").touch()
    with pytest.raises(UsageError, match="E-OUT-FOLDER"):
        predict(tmp_path / "in", tmp_path / place, m=model, device="cpu")


def test_incomplete_models(model: Path, tmp_path: Path) -> None:
    for missing in ("plans.json", "dataset.json", "fold_0/checkpoint_final.pth"):
        copy = tmp_path / missing.replace("/", "_")
        subprocess.run(["cp", "-r", str(model), str(copy)], check=True)
        (copy / missing).unlink()
        with pytest.raises(SetupError) as caught:
            load_model(copy)
        assert caught.value.exit_code == 5
    with pytest.raises(SetupError, match="fold 3"):
        load_model(model, ("3",))
    (tmp_path / "plans.json" / "plans.json").write_text("{")
    with pytest.raises(SetupError, match="JSON"):
        load_model(tmp_path / "plans.json")


class _Foreign:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch /tmp/should-never-exist",)


def test_foreign_code_in_a_checkpoint_is_refused(model: Path, tmp_path: Path) -> None:
    import torch

    copy = tmp_path / "model"
    subprocess.run(["cp", "-r", str(model), str(copy)], check=True)
    path = copy / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    torch.save(content | {"extra": _Foreign()}, path, pickle_module=pickle)
    with pytest.raises(SetupError, match="system") as caught:
        load_model(copy)
    assert caught.value.code == "E-MODEL-CODE"
    assert not Path("/tmp/should-never-exist").exists()


def test_truncated_checkpoint(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    subprocess.run(["cp", "-r", str(model), str(copy)], check=True)
    damage(copy / "fold_0" / "checkpoint_final.pth", "truncated")
    with pytest.raises(SetupError, match="cannot be read"):
        load_model(copy)


def test_unknown_trainer_and_weights_that_do_not_fit(tmp_path: Path) -> None:
    make_image(tmp_path / "in" / "a.nii.gz")
    model = make_model(tmp_path / "strange", trainer="nnUNetTrainerOfSomebodyElse")
    with pytest.raises(SetupError, match="nnUNet_extTrainer") as caught:
        predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu")
    assert caught.value.exit_code == 5

    model = make_model(tmp_path / "wider")
    plans = json.loads((model / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [8, 8, 8]
    write_json(model / "plans.json", plans)
    with pytest.raises(SetupError, match="tensors that do not fit"):
        predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu")


def test_a_network_that_answers_with_nan_makes_no_empty_mask(tmp_path: Path) -> None:
    import torch

    make_image(tmp_path / "in" / "a.nii.gz")
    model = make_model(tmp_path / "model")
    path = model / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    next(iter(content["network_weights"].values()))[:] = float("nan")
    torch.save(content, path)
    result = predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu")
    assert result.failed["a"].code == "E-MODEL-NONFINITE"
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_sided_model_with_another_reader_is_refused(tmp_path: Path) -> None:
    make_image(tmp_path / "in" / "a.nii.gz")
    model = make_model(tmp_path / "model", labels=LABELS14, sided=SIDED14)
    plans = json.loads((model / "plans.json").read_text())
    write_json(model / "plans.json", plans | {"image_reader_writer": "SimpleITKIO"})
    with pytest.raises(SetupError, match="NibabelIOWithReorient"):
        predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu")


def test_lock(model: Path, tmp_path: Path) -> None:
    make_image(tmp_path / "in" / "a.nii.gz")
    (tmp_path / "out").mkdir()
    with folder_lock(tmp_path / "out"), pytest.raises(SetupError, match=str(os.getpid())) as caught:
        predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu")
    assert caught.value.exit_code == 5
    ended = subprocess.Popen(["true"])
    ended.wait()
    write_json(tmp_path / "out" / ".nnunet_spine.lock", {"pid": ended.pid, "host": socket.gethostname()})
    assert predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu").exit_code == 0
    assert not (tmp_path / "out" / ".nnunet_spine.lock").exists()


def test_parts_of_one_run_share_a_folder_and_others_do_not(tmp_path: Path) -> None:
    with folder_lock(tmp_path, part=(0, 4)), folder_lock(tmp_path, part=(3, 4)):
        for part in ((3, 4), (0, 1), (0, 3)):
            with pytest.raises(SetupError, match="another run"), folder_lock(tmp_path, part=part):
                pytest.fail("this run must not start")
        with folder_lock(tmp_path, part=(1, 4)):
            pass
    with folder_lock(tmp_path), pytest.raises(SetupError), folder_lock(tmp_path, part=(0, 2)):
        pytest.fail("a part must not join a whole run")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_named_and_the_next_case_is_tried(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnunet_spine_ext.inference import one_case as module

    for name in "ab":
        make_image(tmp_path / "in" / f"{name}.nii.gz")
    original = module.write_volume

    def full(volume: Any, path: Path) -> None:
        if path.name == "a.nii.gz":
            raise OSError(errno.ENOSPC, "No space left on device")
        original(volume, path)

    monkeypatch.setattr(module, "write_volume", full)
    result = predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu")
    assert (result.exit_code, result.done) == (3, ["b"])
    assert result.failed["a"].code == "E-OUT-WRITE"
    assert "No space left" in result.failed["a"].found


def test_a_journal_that_cannot_be_written_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "cases.jsonl").mkdir()
    with pytest.raises(SpineExtError, match=r"cases\.jsonl") as caught:
        Journal(tmp_path).append({"case": "a", "status": "done"})
    assert (caught.value.code, caught.value.exit_code) == ("E-OUT-WRITE", 5)


def test_journal_survives_a_cut_off_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append({"case": "a", "status": "done"})
    with (tmp_path / "cases.jsonl").open("a") as stream:
        stream.write('{"case": "b", "sta')
    journal.append({"case": "c", "status": "done"})
    assert set(journal.read()) == {"a", "c"}


def test_parts_share_the_cases(model: Path, tmp_path: Path) -> None:
    for name in "abc":
        make_image(tmp_path / "in" / f"{name}.nii.gz")
    done = [
        predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", num_parts=2, part_id=k).done for k in (0, 1)
    ]
    assert done == [["a", "c"], ["b"]]
    with pytest.raises(UsageError):
        predict(tmp_path / "in", tmp_path / "out", m=model, num_parts=2, part_id=2)


def test_command_exit_codes_and_messages(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_image(tmp_path / "in" / "a.nii.gz")
    arguments = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    assert command.main([*arguments, "-m", str(model), "-device", "cpu"]) == 0
    assert "1 done" in capsys.readouterr().out
    assert command.main([*arguments, "-m", str(tmp_path / "absent")]) == 5
    message = capsys.readouterr().err
    assert all(word in message for word in ("file", "found", "expected", "do"))
    assert command.main([*arguments, "-m", str(model), "-device", "cuda:7"]) == 5
    assert command.main([*arguments, "-m", str(model), "-device", "abacus"]) == 2
    assert command.main(arguments) == 2


def test_interrupt_leaves_nothing_under_a_final_name(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnunet_spine_ext.inference import predictor

    make_image(tmp_path / "in" / "a.nii.gz")
    make_image(tmp_path / "in" / "b.nii.gz")
    original = predictor.SpinePredictor.segment
    calls = []

    def segment(self: predictor.SpinePredictor, *args: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(predictor.SpinePredictor, "segment", segment)
    arguments = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", str(model), "-device", "cpu"]
    assert command.main(arguments) == 130
    assert [f.name for f in (tmp_path / "out").glob("*.nii.gz")] == ["a.nii.gz"]
    assert not (tmp_path / "out" / ".nnunet_spine.lock").exists()
    assert command.main([*arguments, "--resume"]) == 0
    assert read_volume(tmp_path / "out" / "b.nii.gz").array.size > 0
