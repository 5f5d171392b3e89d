"""Strategies that match take over what their twins, which match nothing, made of scans that matching leaves alone."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from model_builder import LABELS14, SIDED14, make_model
from test_matching_prediction import body, noisy, reference_for, with_reference

from nnunet_spine_ext.core.errors import SetupError
from nnunet_spine_ext.core.io import read_json, read_volume, sha256, write_json, write_volume
from nnunet_spine_ext.inference.folder import open_model_folder
from nnunet_spine_ext.inference.predict import predict
from nnunet_spine_ext.measure.numbered import is_numbered
from nnunet_spine_ext.study import predicting
from nnunet_spine_ext.study.assemble import assemble
from nnunet_spine_ext.study.conditions import SOURCE
from nnunet_spine_ext.study.config import read_config
from nnunet_spine_ext.study.index import StudyCase, write_index
from nnunet_spine_ext.study.predicting import journal_of, predict_strategy
from nnunet_spine_ext.study.steps import Ledger, Progress, Step, _share, run_steps
from nnunet_spine_ext.study.strategies import STRATEGIES, twin_of
from nnunet_spine_ext.study.twins import left_alone
from nnunet_spine_ext.study.workers import Workers

NAME = "nnUNetTrainerSpine__nnUNetPlans__3d_fullres"
# Of these scans matching leaves the first two alone.
SCANS = {"near": {"seed": 1}, "alike": {"seed": 2}, "far": {"seed": 2, "gamma": 0.4, "offset": 30}}
ALONE = ["alike", "near"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of three scans with a model, and what its strategies without matching predicted."""
    folder = tmp_path_factory.mktemp("twins") / "study"
    for case, how in SCANS.items():
        write_volume(body(**how), folder / "data" / f"{case}.nii.gz")
    write_index(folder / "data", [StudyCase(c, c, SOURCE, (f"data/{c}.nii.gz",), "") for c in SCANS])
    model = make_model(folder / "Dataset901_Toy" / NAME, labels=LABELS14, sided=SIDED14)
    with_reference(model, reference_for(folder / "reference"))
    for name in ("none", "tta"):
        _predict(folder, name)
    return folder


@pytest.fixture
def study(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(made, tmp_path / "study"))


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The cases of each prediction that was not a rehearsal, in order."""
    calls: list[list[str]] = []

    # Its signature says which options there are.
    @functools.wraps(predict)
    def spied(*arguments: Any, **options: Any) -> Any:
        result = predict(*arguments, **options)
        if not options.get("dry_run"):
            calls.append(sorted(result.done))
        return result

    monkeypatch.setattr(predicting, "predict", spied)
    return calls


def _predict(study: Path, name: str, twin: str = "", folder: str = "", **changes: Any) -> dict[str, Any]:
    how: dict[str, Any] = {
        "model": f"Dataset901_Toy/{NAME}", "folders": ["data"], "chosen": [SOURCE.key], "device": "cpu",
        "step_size": 1.0, "folds": None, "checkpoint": "checkpoint_final.pth", "instances": True, "twin": twin,
        "precision": "fp32",
        "options": STRATEGIES[name].options, "folder": f"predictions/{folder or name}",
    }  # fmt: skip
    return predict_strategy(study, **(how | changes))


def _files(folder: Path) -> dict[str, str]:
    """Return the hashes of all that a prediction left, but for its records, which know the time."""
    return {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("cases.jsonl", "run.json")
    }


def _timeless(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in ("seconds", "fingerprint", "taken_from")}


@pytest.mark.parametrize("name", ["match", "match+tta", "anchored", "anchored+tta"])
def test_what_is_taken_over_is_what_a_prediction_would_write(
    study: Path, name: str, predicted: list[list[str]]
) -> None:
    twin = twin_of(name)
    assert twin is not None
    assert _predict(study, name, folder="anew")["taken_over"] == 0
    assert _predict(study, name, twin)["taken_over"] == 2
    assert predicted == [sorted(SCANS), ["far"]]
    own, anew = study / "predictions" / name, study / "predictions" / "anew"
    assert _files(own) == _files(anew)
    assert {"alike.nii.gz", "instances/alike.nii.gz", "centroids/near.json", "qc/near.json"} <= set(_files(own))
    journal, other = journal_of(study, f"predictions/{name}"), journal_of(study, "predictions/anew")
    assert {case: _timeless(row) for case, row in journal.items()} == {c: _timeless(row) for c, row in other.items()}
    assert {case: row.get("taken_from") for case, row in journal.items()} == {"alike": twin, "near": twin, "far": None}
    plain = journal_of(study, f"predictions/{twin}")
    assert [journal[case]["seconds"] for case in ALONE] == [plain[case]["seconds"] for case in ALONE]
    assert all(read_volume(own / part / f"{case}.nii.gz").array.any() for part in ("", "instances") for case in ALONE)
    assert all(is_numbered(own, case) == is_numbered(anew, case) for case in SCANS)


def test_a_study_that_goes_on_keeps_what_it_has(study: Path, predicted: list[list[str]]) -> None:
    _predict(study, "match", "none")
    before, journal = _files(study / "predictions/match"), journal_of(study, "predictions/match")
    assert _predict(study, "match", "none")["taken_over"] == 2
    assert predicted == [["far"], []], "far was finished"
    assert (_files(study / "predictions/match"), journal_of(study, "predictions/match")) == (before, journal)


def test_what_the_strategy_predicted_itself_is_kept(study: Path, predicted: list[list[str]]) -> None:
    _predict(study, "match")
    assert _predict(study, "match", "none")["taken_over"] == 0
    assert predicted == [sorted(SCANS), []]
    assert not any("taken_from" in row for row in journal_of(study, "predictions/match").values())


def test_a_study_of_scans_that_are_all_left_alone_has_its_record(study: Path, predicted: list[list[str]]) -> None:
    write_index(study / "data", [StudyCase(c, c, SOURCE, (f"data/{c}.nii.gz",), "") for c in ALONE])
    assert _predict(study, "match", "none") == {"failed": {}, "cases": 2, "taken_over": 2}
    assert predicted == [[]]
    assert read_json(study / "predictions/match/run.json")["foreign"] == {}
    again = _predict(study, "match", "none")
    assert again["taken_over"] == 2
    assert read_json(study / "predictions/match/run.json")["foreign"] == {}, "of a study that went on, too"


def _failed(study: Path) -> None:
    entry = {"case": "near", "status": "failed", "warnings": [], "error": {"found": "no memory"}}
    with (study / "predictions/none/cases.jsonl").open("a") as stream:
        stream.write(json.dumps(entry) + "\n")


def _lost(study: Path) -> None:
    (study / "predictions/none/instances/near.nii.gz").unlink()


def _changed(study: Path) -> None:
    (study / "predictions/none/near.nii.gz").write_bytes((study / "predictions/none/far.nii.gz").read_bytes())


def _other_input(study: Path) -> None:
    write_volume(body(1, gain=1.5), study / "data/near.nii.gz")


@pytest.mark.parametrize("happened", [_failed, _lost, _changed, _other_input])
def test_what_the_twin_does_not_have_is_predicted(study: Path, predicted: list[list[str]], happened: Any) -> None:
    _predict(study, "match", "none")
    happened(study)
    assert _predict(study, "match", "none")["taken_over"] == 1
    assert predicted[1:] == [["near"]]
    assert "taken_from" not in journal_of(study, "predictions/match")["near"]
    assert _predict(study, "match", folder="anew")["failed"] == {}
    assert _files(study / "predictions/match") == _files(study / "predictions/anew")


@pytest.mark.parametrize("change", ["options", "model", "no twin"])
def test_a_twin_of_other_options_or_another_model_is_none(study: Path, predicted: list[list[str]], change: str) -> None:
    how: dict[str, Any] = {"twin": "none"}
    if change == "options":
        how["step_size"] = 0.5
    elif change == "model":
        plans = study / "Dataset901_Toy" / NAME / "plans.json"
        write_json(plans, read_json(plans) | {"plans_name": "other"})
    else:
        how["twin"] = "tta+absent"
    assert _predict(study, "match", **how)["taken_over"] == 0
    assert predicted == [sorted(SCANS)]


def test_a_scan_that_matching_warns_about_is_predicted(study: Path, predicted: list[list[str]]) -> None:
    plans = study / "Dataset901_Toy" / NAME / "plans.json"
    content = read_json(plans)
    content["spine_ext"]["reference"]["0"]["contrast"] = "T2w"
    write_json(plans, content)
    write_json(study / "cases.json", {"cases": {"near": {"contrast": "T1w"}}})
    _predict(study, "none")
    _predict(study, "match", "none")
    assert predicted == [sorted(SCANS), ["far", "near"]]
    codes = [row["code"] for row in journal_of(study, "predictions/match")["near"]["warnings"]]
    assert "W-MATCH-CONTRAST" in codes


def test_a_model_without_reference_is_refused_as_without_a_twin(study: Path) -> None:
    plans = study / "Dataset901_Toy" / NAME / "plans.json"
    content = read_json(plans)
    del content["spine_ext"]["reference"]
    write_json(plans, content)
    _predict(study, "none")
    for twin in ("", "none"):
        with pytest.raises(SetupError, match="without an intensity reference"):
            _predict(study, "match", twin)


# --- which, and in which order -----------------------------------------------------------------------------


def test_twins_differ_in_matching_alone() -> None:
    found = {name: twin_of(name) for name in STRATEGIES if twin_of(name) is not None}
    assert found == {"match": "none", "match+tta": "tta", "anchored": "none", "anchored+tta": "tta"}


def _steps(folder: Path, strategies: Sequence[str]) -> dict[str, Step]:
    made = assemble(read_config(None, "smoke", [f"strategies=[{', '.join(strategies)}]"]), folder)
    return {step.name: step for step in made.steps}


def test_a_strategy_comes_after_its_twin_and_is_the_same_step_without(tmp_path: Path) -> None:
    both = _steps(tmp_path, ["match+tta", "none", "match", "tta"])
    order = list(both)
    for name, twin in (("match+tta", "tta"), ("match", "none")):
        step, other = both[f"predict {name}, seed 0"], f"predict {twin}, seed 0"
        assert (step.follows, step.arguments["twin"]) == ((other,), twin)
        assert order.index(other) < order.index(step.name)
    alone = _steps(tmp_path, ["none", "match+tta"])
    step = alone["predict match+tta, seed 0"]
    assert (step.follows, step.arguments["twin"]) == ((), "")
    keys = []
    for steps in (both, alone):
        ledger = Ledger(tmp_path)
        keys.append({name: ledger.key(one) for name, one in steps.items()}[step.name])
    assert keys[0] == keys[1], "what a twin spares changes no result"


def fail() -> None:
    """Work of the step below."""
    msg = "broken"
    raise ValueError(msg)


def rest() -> dict[str, Any]:
    """Work that always succeeds."""
    return {}


def test_a_step_is_done_although_one_that_it_follows_failed(tmp_path: Path) -> None:
    first = Step("first", fail, {}, 1)
    second = Step("second", rest, {}, 1, follows=("first",))
    for steps in ([first, second], [replace(first, work=rest), second]):
        with Workers(1, {}, tmp_path / "log.txt", inline=True) as workers:
            found = run_steps(steps, Ledger(tmp_path), workers)
        assert "second" in [*found.done, *found.skipped]
    assert found.done == ["first"], "and it is not done again for that one"


@pytest.mark.parametrize("method", ["noise", "body", "anchored"])
def test_a_scan_whose_noise_is_reduced_is_not_left_alone(study: Path, method: Any) -> None:
    write_volume(noisy(), study / "data" / "noisy.nii.gz")
    cases = [StudyCase(c, c, SOURCE, (f"data/{c}.nii.gz",), "") for c in (*SCANS, "noisy")]
    model = open_model_folder(study / "Dataset901_Toy" / NAME, None, "checkpoint_final.pth")
    # About the one that is far matching warns, whatever the method.
    assert set(left_alone(cases, study, model, method)) == {*ALONE}


def test_what_was_taken_over_says_nothing_about_how_long_a_step_takes() -> None:
    steps = [Step(name, len, {}, None, weight=10) for name in ("taken", "left")]
    progress = Progress(steps, 1)
    progress.finish(steps[0], 5.0, share=0.25)
    assert progress.expected(steps[1]) == pytest.approx(20)
    # Other steps answer with something else under that name, or with nothing.
    for answer in (None, [], {"cases": {"a": 1}}, {"cases": 4, "taken_over": 0}):
        assert _share(answer) == 1
    assert _share({"cases": 4, "taken_over": 3}) == pytest.approx(0.25)
