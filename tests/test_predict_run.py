"""A run of prediction as a whole: what lies in the folder already, a rehearsal, a full disk, a model that is none."""

from __future__ import annotations

import errno
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from model_builder import LABELS14, SIDED14, make_image, make_model, stock_predict

from nnunet_spine_ext.cli import predict as command
from nnunet_spine_ext.core.errors import NoInputError, SetupError, UsageError
from nnunet_spine_ext.inference import managers, one_case, space
from nnunet_spine_ext.inference import predict as module
from nnunet_spine_ext.inference.folder import find_model_folder, load_model, open_model_folder
from nnunet_spine_ext.inference.predict import predict

NAME = "nnUNetTrainerSpine__nnUNetPlans__3d_fullres"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("results") / "Dataset901_Toy" / NAME)


def run_record(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return content


# ---- masks of other runs -----------------------------------------------------------------------------------------


def test_masks_of_other_runs_stay_and_are_told_apart(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    for name in ("same", "other", "now"):
        make_image(tmp_path / name / f"{name}.nii.gz")
    predict(tmp_path / "same", out, m=model, device="cpu")
    predict(tmp_path / "other", out, m=model, device="cpu", tta="none")
    (out / "drawn.nii.gz").write_bytes((out / "same.nii.gz").read_bytes())
    caplog.clear()
    result = predict(tmp_path / "now", out, m=model, device="cpu")
    expected = {"same_settings": ["same"], "other_settings": ["other"], "unknown": ["drawn"]}
    assert run_record(out)["foreign"] == expected
    assert {f.name for f in out.glob("*.nii.gz")} == {f"{n}.nii.gz" for n in ("same", "other", "now", "drawn")}
    assert [note.code for note in result.notes] == ["W-OUT-FOREIGN"]
    assert all(text in caplog.text for text in ("1 of an earlier run with another model", "drawn"))
    assert (result.exit_code, result.done) == (0, ["now"])
    assert result.to_dict()["notes"][0]["code"] == "W-OUT-FOREIGN"


def test_a_run_of_its_own_folder_warns_of_nothing(model: Path, tmp_path: Path) -> None:
    for name in "ab":
        make_image(tmp_path / "in" / f"{name}.nii.gz")
    predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", num_parts=2)
    # The other part's masks are of the same run, and so is a second run over the same input.
    for options in ({"num_parts": 2, "part_id": 1}, {"tta": "none"}):
        result = predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", **options)  # type: ignore[arg-type]
        assert result.notes == []
    assert run_record(tmp_path / "out")["foreign"] == {}


def test_resuming_with_more_images_is_no_mixture(model: Path, tmp_path: Path) -> None:
    make_image(tmp_path / "one" / "a.nii.gz")
    make_image(tmp_path / "two" / "b.nii.gz")
    predict(tmp_path / "one", tmp_path / "out", m=model, device="cpu")
    assert predict(tmp_path / "two", tmp_path / "out", m=model, device="cpu", resume=True).notes == []
    assert run_record(tmp_path / "out")["foreign"] == {"same_settings": ["a"]}


# ---- rehearsal ---------------------------------------------------------------------------------------------------


def damage(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:400])


@pytest.mark.parametrize(("bad", "code"), [((), 0), (("b",), 3), (("a", "b", "c"), 4)])
def test_a_dry_run_ends_as_the_run_will(model: Path, tmp_path: Path, bad: tuple[str, ...], code: int) -> None:
    for name in "abc":
        make_image(tmp_path / "in" / f"{name}.nii.gz")
    for name in bad:
        damage(tmp_path / "in" / f"{name}.nii.gz")
    rehearsed = predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu", dry_run=True)
    assert not (tmp_path / "out").exists()
    done = predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu")
    assert rehearsed.exit_code == done.exit_code == code
    assert sorted(rehearsed.planned) == done.done == [name for name in "abc" if name not in bad]
    assert rehearsed.failed == done.failed
    assert f"{len(done.done)} to predict, 0 finished, {len(bad)} would fail" in rehearsed.render()


def test_a_dry_run_sees_channels_on_different_grids_and_strictness(tmp_path: Path) -> None:
    model = make_model(tmp_path / NAME, channels=2)
    for name, shape in (("a", (24, 20, 17)), ("b", (24, 20, 18))):
        make_image(tmp_path / "in" / f"{name}_0000.nii.gz")
        make_image(tmp_path / "in" / f"{name}_0001.nii.gz", shape=shape)
    make_image(tmp_path / "in" / "c_0000.nii.gz")
    result = predict(tmp_path / "in", tmp_path / "out", m=model, dry_run=True)
    assert {case: problem.code for case, problem in result.failed.items()} == {
        "a": "E-GEOM-CHANNELS",
        "c": "E-IN-CHANNEL",
    }
    assert list(result.planned) == ["b"]


def test_a_dry_run_of_a_resumed_run_names_what_is_finished(model: Path, tmp_path: Path) -> None:
    for name in "ab":
        make_image(tmp_path / "in" / f"{name}.nii.gz")
    predict(tmp_path / "in", tmp_path / "out", m=model, device="cpu")
    (tmp_path / "out" / "b.nii.gz").write_bytes(b"broken")
    before = {f: f.read_bytes() for f in (tmp_path / "out").iterdir()}
    result = predict(tmp_path / "in", tmp_path / "out", m=model, dry_run=True, resume=True)
    assert (result.skipped, list(result.planned)) == (["a"], ["b"])
    assert {f: f.read_bytes() for f in (tmp_path / "out").iterdir()} == before


def test_a_dry_run_needs_no_torch(model: Path, tmp_path: Path) -> None:
    make_image(tmp_path / "in" / "a.nii.gz")
    script = "import sys; from nnunet_spine_ext.cli.predict import main; code = main(sys.argv[1:]); "
    script += "sys.exit(code or 100 * ('torch' in sys.modules) or 101 * ('nnunetv2' in sys.modules))"
    words = ["-i", tmp_path / "in", "-o", tmp_path / "out", "-m", model, "--dry-run", "--json"]
    done = subprocess.run([sys.executable, "-c", script, *map(str, words)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["planned"] == {"a": [str(tmp_path / "in" / "a.nii.gz")]}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"i": "absent.nii.gz"}, NoInputError),
        ({"o": "in"}, UsageError),
        ({"device": "abacus"}, UsageError),
        ({"m": "absent"}, SetupError),
        ({"instances": True}, UsageError),
        ({"f": ["3"]}, SetupError),
    ],
    ids=str,
)
def test_a_dry_run_refuses_what_the_run_refuses(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], error: type[Exception]
) -> None:
    make_image(tmp_path / "in" / "a.nii.gz")
    monkeypatch.chdir(tmp_path)
    for dry_run in (True, False):
        with pytest.raises(error):
            predict(**{"i": "in", "o": "out", "m": model, "device": "cpu", "dry_run": dry_run} | change)


def test_a_dry_run_refuses_a_cascade(tmp_path: Path) -> None:
    model = make_model(tmp_path / NAME)
    make_image(tmp_path / "in" / "a.nii.gz")
    plans = json.loads((model / "plans.json").read_text())
    whole = plans["configurations"]["3d_fullres"]
    plans["configurations"] |= {
        "base": whole | {"previous_stage": "3d_lowres"},
        "3d_fullres": {"inherits_from": "base"},
    }
    (model / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(SetupError, match="3d_lowres") as caught:
        predict(tmp_path / "in", tmp_path / "out", m=model, dry_run=True)
    assert caught.value.code == "E-MODEL-CASCADE"


# ---- a full disk -------------------------------------------------------------------------------------------------


def full_for(names: str, original: Any) -> Any:
    def write(volume: Any, path: Path) -> None:
        if path.name[0] in names:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(volume, path)

    return write


def test_the_third_case_without_room_ends_the_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abcdef":
        make_image(tmp_path / "in" / f"{name}.nii.gz")
    monkeypatch.setattr(one_case, "write_volume", full_for("acd", one_case.write_volume))
    words = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", str(model), "-device", "cpu", "--report"]
    assert command.main(words) == 5
    printed = capsys.readouterr().out
    assert "STOPPED" in printed
    assert "2 further cases" in printed
    rows = [json.loads(line) for line in (tmp_path / "out" / "cases.jsonl").read_text().splitlines()]
    assert {row["case"]: row["status"] for row in rows} == {"a": "failed", "b": "done", "c": "failed", "d": "failed"}
    assert {row["error"]["code"] for row in rows if row["error"]} == {"E-OUT-WRITE"}
    assert [f.name for f in (tmp_path / "out").glob("*.nii.gz")] == ["b.nii.gz"]
    assert not list((tmp_path / "out").glob(".*")), "temporary files and the lock are gone"
    monkeypatch.undo()
    assert command.main([*words[:-1], "--resume"]) == 0


def test_a_disk_that_is_full_at_the_start_is_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    make_image(tmp_path / "in" / "a.nii.gz")
    monkeypatch.setattr(module, "write_run", full)
    words = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", str(model), "-device", "cpu"]
    assert command.main(words) == 5
    message = capsys.readouterr().err
    assert "E-OUT-WRITE" in message
    assert "quota" in message
    assert "Traceback" not in message


@pytest.mark.parametrize(("free", "warned"), [(1_000, True), (10**9, False)])
def test_little_room_is_said_before_the_work(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, warned: bool
) -> None:
    make_image(tmp_path / "in" / "a.nii.gz")
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    notes = predict(tmp_path / "in", tmp_path / "out", m=model, dry_run=True, report=True).notes
    assert [note.code for note in notes] == (["W-OUT-SPACE"] if warned else [])
    if warned:
        assert "0.0 MB free for the results of 1 cases" in notes[0].found
        assert "about 2.1 MB" in notes[0].expected


# ---- instances in stock nnU-Net ----------------------------------------------------------------------------------


def test_a_failing_instance_step_costs_stock_nnunet_no_other_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from nnunet_spine_ext.instances import interface

    model = make_model(tmp_path / NAME, labels=LABELS14, sided=SIDED14, predict={"instances": True})
    files = [tmp_path / "in" / f"{name}_0000.nii.gz" for name in "abc"]
    for file in files:
        make_image(file)
    out = tmp_path / "out"
    stock_predict(model, files, out)
    cleaned = {name: (out / f"{name}.nii.gz").read_bytes() for name in "abc"}
    original, calls = interface.separate, []
    plain = make_model(tmp_path / "plain", labels=LABELS14, sided=SIDED14)
    stock_predict(plain, files, tmp_path / "as_predicted")
    as_predicted = (tmp_path / "as_predicted" / "b.nii.gz").read_bytes()

    def separate(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise ZeroDivisionError("a bug")
        return original(*args, **kwargs)

    monkeypatch.setattr(interface, "separate", separate)
    monkeypatch.setattr(managers, "_without_instances", [])
    registered: list[Any] = []
    monkeypatch.setattr(managers.atexit, "register", registered.append)
    stock_predict(model, files, out)
    # Without the step the mask is as the network gave it.
    assert {name: (out / f"{name}.nii.gz").read_bytes() for name in "abc"} == cleaned | {"b": as_predicted}
    # What the first run wrote for b must not pass for the second's.
    assert sorted(f.name for f in (out / "instances").glob("*.nii.gz")) == ["a.nii.gz", "c.nii.gz"]
    assert json.loads((out / "qc" / "b.json").read_text())["error"]["code"] == "E-INST-FAILED"
    assert "error" not in json.loads((out / "qc" / "c.json").read_text())
    assert "a bug" in caplog.text
    # The exit code of stock prediction cannot tell; a file can, until the case succeeds.
    assert (out / "without_instances.txt").read_text() == "b\n"
    stock_predict(model, files, out)
    assert not (out / "without_instances.txt").exists()
    assert (out / "instances" / "b.nii.gz").is_file()
    caplog.clear()
    with caplog.at_level(logging.ERROR):
        registered[0]()
    assert "cases with a mask but without instances: b " in caplog.text


# ---- models that are none ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("{model}/fold_0", "a fold folder"),
        ("{model}/fold_0/checkpoint_final.pth", "a place inside a model"),
        ("{model}/plans.json", "a place inside a model"),
        ("{model}/fold_7", "no such folder in the model"),
        ("{model}/..", "a dataset's folder"),
        ("{model}/../..", "a folder of datasets"),
        ("{model}x", "no such folder"),
    ],
)
def test_another_level_is_named_with_the_model_that_was_meant(model: Path, given: str, found: str) -> None:
    with pytest.raises(SetupError) as caught:
        open_model_folder(given.format(model=model))
    assert caught.value.code == "E-MODEL-FOLDER"
    assert found in caught.value.found
    assert NAME in caught.value.fix


def test_a_dataset_is_answered_with_its_models(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_results", str(model.parent.parent))
    for folder, file, found in (("raw", "imagesTr/a", "a raw dataset"), ("pre", "nnUNetPlans.json", "a preprocessed")):
        place = tmp_path / folder / model.parent.name
        (place / file).parent.mkdir(parents=True)
        (place / file).write_text("{}")
        (place / "dataset.json").write_text("{}")
        with pytest.raises(SetupError) as caught:
            open_model_folder(place)
        assert found in caught.value.found
        assert str(model) in caught.value.fix
    with pytest.raises(SetupError, match="did you mean 'Dataset901_Toy'"):
        find_model_folder(None, "Dataset901_Toi", "a", "b", "c")


def test_what_a_model_lacks_is_named(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "results" / "Dataset901_Toy" / NAME
    shutil.copytree(model, copy)
    original = tmp_path / "preprocessed" / "Dataset901_Toy" / "dataset.json"
    original.parent.mkdir(parents=True)
    shutil.move(copy / "dataset.json", original)
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    with pytest.raises(SetupError, match=r"without dataset\.json \(plans\.json, fold_0 are there\)") as caught:
        open_model_folder(copy)
    assert str(original) in caught.value.fix
    shutil.copy(original, copy)
    (copy / "fold_0" / "checkpoint_final.pth").rename(copy / "fold_0" / "checkpoint_best.pth")
    with pytest.raises(
        SetupError, match=r"no checkpoint_final\.pth in fold 0 \(there: checkpoint_best\.pth\)"
    ) as caught:
        open_model_folder(copy)
    assert "-chk checkpoint_best.pth" in caught.value.fix
    assert load_model(copy, checkpoint="checkpoint_best.pth").folds == ("0",)
    with pytest.raises(SetupError, match=r"no fold 3 \(folds there: 0\)"):
        open_model_folder(copy, ("3",))
    (copy / "plans.json").write_text('{"configurations": {}}')
    with pytest.raises(SetupError, match="transpose_forward") as caught:
        open_model_folder(copy, checkpoint="checkpoint_best.pth")
    assert caught.value.code == "E-MODEL-JSON"
    shutil.rmtree(copy / "fold_0")
    with pytest.raises(SetupError, match="folds there: none"):
        open_model_folder(copy)


def test_unfinished_folds_are_said_and_fold_all_stands_in(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / NAME
    shutil.copytree(model, copy)
    (copy / "fold_1").mkdir()
    assert open_model_folder(copy).folds == ("0",)
    assert "fold 1 left out" in caplog.text
    (copy / "fold_0").rename(copy / "fold_all")
    assert open_model_folder(copy).folds == ("all",)
