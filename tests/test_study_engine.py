"""The engine of the study: configuration, conditions, steps, scores, gaps; without any training."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from model_builder import LABELS14, SIDED14, make_model

from nnunet_spine_ext.augment.profiles import COMPONENTS
from nnunet_spine_ext.core.errors import NoInputError, SetupError, SpineExtError, UsageError
from nnunet_spine_ext.core.io import read_volume, write_json, write_volume
from nnunet_spine_ext.core.volume import Volume
from nnunet_spine_ext.inference.journal import Journal
from nnunet_spine_ext.study import commands, folders, trainings
from nnunet_spine_ext.study.assemble import assemble
from nnunet_spine_ext.study.conditions import SOURCE, conditions
from nnunet_spine_ext.study.config import PhantomData, preset_names, read_config
from nnunet_spine_ext.study.features import distances
from nnunet_spine_ext.study.gaps import ceiling, signal_to_noise
from nnunet_spine_ext.study.given import given_images, refuse_other_labels
from nnunet_spine_ext.study.index import StudyCase, read_index, write_index
from nnunet_spine_ext.study.reacquire import simulated
from nnunet_spine_ext.study.run import study
from nnunet_spine_ext.study.score import class_dice, score_case, score_levels, score_strategy, summary
from nnunet_spine_ext.study.simulate import make_spines
from nnunet_spine_ext.study.steps import Ledger, Step, run_steps
from nnunet_spine_ext.study.trainings import Preprocessed, dataset_name, training_device
from nnunet_spine_ext.study.workers import Workers

SMALL = PhantomData(region="lumbar", spacing=(3.0, 3.0, 6.0), sides=False)


# --- configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", preset_names())
def test_presets_can_be_read_and_assembled(name: str, tmp_path: Path) -> None:
    config = read_config(None, name)
    made = assemble(config, tmp_path)
    assert {run.strategy for run in made.runs} | set(made.unavailable) == set(config.strategies)
    names = [step.name for step in made.steps]
    assert len(set(names)) == len(names)
    before: set[str] = set()
    for step in made.steps:
        assert set(step.needs) <= before, f"{step.name} comes before what it needs"
        before.add(step.name)


def test_the_cpu_study_is_the_one_that_is_announced() -> None:
    config = read_config(None, "cpu")
    data = config.phantoms
    assert data is not None
    assert (data.training, data.test, data.pool, config.network.configuration) == (24, 12, 50, "2d")
    assert config.samples.counts == (0, 1, 5, 10, 50)
    assert len(config.seeds) == 1
    assert "spacing=[1.5, 1.5]" in config.network.settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["strategies=[none, mach]"], "did you mean 'match'"),
        (["scanners=[ge-3]"], "did you mean 'ge-3t'"),
        (["samples.scanner=ge-4t"], "did you mean"),
        (["samples.counts=[0, 60]"], "N = 60; expected at most phantoms.pool = 50"),
        (["phantoms.trainings=3"], "did you mean 'training'"),
        (["strategies=[match]"], "add none"),
        (["phantoms=null"], "neither phantoms nor given"),
        (["phantoms.validation=24"], "fewer to validate"),
        (["scanners=[ge-3t, ge-3t]"], "twice"),
        (["components.severities=[9]"], "to 4"),
        (["device=gpu"], "cuda"),
        (["phantoms.unlabelled=0"], "spines of the targets"),
        (["seeds=[]"], "numbers from 0"),
        (["seeds=[1, 1]"], "1 twice"),
        (["components.severities=[1, 2, 1]"], "twice"),
        (["scanners=[nako-siemens-3t, ge-1.5t]"], "the source, nako-siemens-3t; expected scanners other than"),
        (["scanners=[]"], "none; expected scanners"),
        (["scanners=[philips-3t]"], "ge-1.5t; expected a scanner that is tested on: philips-3t"),
        (["network.by_training={shift-dann: [train.num_epochs=1]}"], "did you mean 'shift_dann'"),
        (["step_size=0"], "step_size=0"),
        (["bootstrap=-1"], "bootstrap=-1"),
        (["budget=-1"], "budget=-1"),
        (["network.configuration=3d"], "3d_fullres"),
        (["network.settings=[train.precision=auto]"], "network.settings: train.precision=auto; .* set precision"),
        (["network.settings=['train={precision: auto}']"], "network.settings: train.precision=auto"),
        (["network.by_training={shift: [train.precision=fp32]}"], "by_training.shift: train.precision=fp32"),
    ],
)
def test_wrong_configurations_are_refused(change: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_config(None, "cpu", change)


def test_a_preset_of_plans_does_not_choose_the_precision_of_a_study(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("train:\n  precision: auto\n")
    with pytest.raises(UsageError, match=r"network\.preset .* train\.precision=auto"):
        read_config(None, "cpu", [f"network.preset={file}"])


def test_a_file_or_a_preset(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a file"):
        read_config(None, None)
    with pytest.raises(UsageError, match="did you mean 'smoke'"):
        read_config(None, "smok")
    with pytest.raises(UsageError, match="no such file"):
        read_config(tmp_path / "absent.yaml", None)
    file = tmp_path / "mine.yaml"
    file.write_text("phantoms: {tests: 3}\n")
    with pytest.raises(UsageError, match=r"mine\.yaml"):
        read_config(file, None)
    good = tmp_path / "good.yaml"
    good.write_text("given: {dataset: data, domain: site, source: a}\nmodels: {source: model}\nstrategies: [none]\n")
    assert read_config(None, str(good)) == read_config(good, None), "a file is a preset, too"


def test_conditions_are_six_scanners_six_components_and_fifteen_pairs() -> None:
    found = conditions(read_config(None, "cpu"))
    by_factor = {factor: [c for c in found if c.factor == factor] for factor in ("scanner", "component", "pair")}
    assert [len(rows) for rows in by_factor.values()] == [6, 6, 15]
    assert found[0] == SOURCE
    assert len({c.key for c in found}) == len(found)
    assert all(letter.isalnum() or letter in "_-" for c in found for letter in c.key)
    for condition in by_factor["component"]:
        severities = condition.parsed().severities
        assert [name for name in COMPONENTS if getattr(severities, name) > 0] == [condition.components]
    assert SOURCE.parsed().shifted.noise == SOURCE.parsed().reference.noise


def test_scanners_that_would_share_files_are_refused() -> None:
    # Six digits of a severity are in a name.
    with pytest.raises(UsageError, match="files would both call philips-1p5t_field_1") as caught:
        conditions(read_config(None, "cpu", ["components.severities=[1.0, 1.0000001]"]))
    assert caught.value.code == "E-STUDY-DOMAINS"


def _fine_tunings(folder: Path, *changes: str) -> dict[str, set[int]]:
    """Return the numbers of the spines that each pool of a study has."""
    made = assemble(read_config(None, "cpu", ["strategies=[none, finetuned]", *changes]), folder)
    pools: dict[str, set[int]] = {}
    for step in made.steps:
        group = str(step.arguments.get("group", ""))
        if group.startswith("pool-"):
            pools.setdefault(group, set()).update(range(step.arguments["first"], step.arguments["last"]))
    return pools


def test_every_scanner_has_more_cases_than_one_seed_draws(tmp_path: Path) -> None:
    every = ["samples.everywhere=true", "samples.column=4"]
    sizes = {group: len(spines) for group, spines in _fine_tunings(tmp_path, *every).items()}
    assert len(sizes) == 5
    # One more is for validation; the curve goes up to 50.
    assert sizes.pop("pool-ge-1p5t") == 51
    assert set(sizes.values()) == {13}
    few = _fine_tunings(tmp_path, *every, "samples.counts=[0, 1, 4]", "phantoms.pool=9")
    assert {len(spines) for spines in few.values()} == {10}, "at most phantoms.pool"


@pytest.mark.parametrize(
    ("name", "visible", "expected"),
    [
        ("cpu", "3", ("cpu", None)),
        ("cuda", "2,3", ("cuda", None)),
        ("cuda:1", None, ("cuda", "1")),
        ("cuda:1", "2,3", ("cuda", "3")),
        ("cuda:0", "GPU-8e1f, GPU-77aa", ("cuda", "GPU-8e1f")),
    ],
)
def test_a_training_runs_on_the_gpu_that_is_asked_for(name: str, visible: str | None, expected: Any) -> None:
    assert training_device(name, visible) == expected


@pytest.mark.parametrize("visible", ["0", "", "2,-1,3"])
def test_a_gpu_that_cannot_be_seen_is_refused(visible: str) -> None:
    with pytest.raises(SpineExtError, match=r"cuda:1.*CUDA_VISIBLE_DEVICES") as caught:
        training_device("cuda:1", visible)
    assert caught.value.code == "E-ENV-DEVICE"


def test_the_command_of_a_training_sees_that_gpu_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[str], str | None]] = []

    def run_it(line: list[str], _log: Path, environment: dict[str, str]) -> int:
        seen.append((line, environment.get("CUDA_VISIBLE_DEVICES")))
        return 0

    monkeypatch.setattr(commands, "run_command", run_it)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    trainings._train(tmp_path, 901, "T", "p", "2d", "cuda:1", tmp_path / "model", "stamp")
    trainings._train(tmp_path, 901, "T", "p", "2d", "cuda", tmp_path / "model", "stamp")
    assert [line[line.index("-device") + 1] for line, _ in seen] == ["cuda", "cuda"]
    assert [gpus for _, gpus in seen] == ["7", "4,7"]


# --- steps --------------------------------------------------------------------------------


def note(folder: str, name: str, seconds: float = 0.0, fail: bool = False) -> str:
    """Work of the steps below: leave a mark that counts."""
    time.sleep(seconds)
    if fail:
        msg = f"{name} is broken"
        raise ValueError(msg)
    with (Path(folder) / f"{name}.txt").open("a") as stream:
        stream.write("x")
    return name


def _steps(folder: Path, *, second: Any = 1, **options: Any) -> list[Step]:
    def step(name: str, facts: Any, needs: Sequence[str] = (), **more: Any) -> Step:
        outputs = () if more.get("fail") else (f"{name}.txt",)
        return Step(name, note, {"folder": str(folder), "name": name, **more}, facts, tuple(needs), outputs=outputs)

    return [
        step("a", 1),
        step("b", second, ["a"], **options),
        step("c", 1, ["a"]),
        step("d", 1, ["b", "c"]),
    ]


def _run(folder: Path, jobs: int = 1, **options: Any) -> Any:
    with Workers(jobs, {}, folder / "log.txt", inline=jobs == 1) as workers:
        return run_steps(_steps(folder, **options), Ledger(folder), workers)


def _times(folder: Path) -> dict[str, int]:
    return {name: len((folder / f"{name}.txt").read_text()) for name in "abcd" if (folder / f"{name}.txt").exists()}


@pytest.mark.parametrize("jobs", [1, 2])
def test_steps_are_done_once_and_again_only_after_a_change(tmp_path: Path, jobs: int) -> None:
    assert sorted(_run(tmp_path, jobs).done) == ["a", "b", "c", "d"]
    again = _run(tmp_path)
    assert again.done == []
    assert again.skipped == ["a", "b", "c", "d"]
    _run(tmp_path, second=2)
    assert _times(tmp_path) == {"a": 1, "b": 2, "c": 1, "d": 2}
    (tmp_path / "c.txt").unlink()
    assert _run(tmp_path, second=2).done == ["c"]


def test_a_failed_step_ends_only_what_needs_it(tmp_path: Path) -> None:
    found = _run(tmp_path, fail=True)
    assert sorted(found.done) == ["a", "c"]
    assert "b is broken" in str(found.failed["b"])
    assert "it needs 'b'" in found.left_out["d"]
    assert "Traceback" in (tmp_path / "log.txt").read_text()
    assert sorted(_run(tmp_path).done) == ["b", "d"]


def test_nothing_optional_is_begun_when_the_budget_is_over(tmp_path: Path) -> None:
    steps = [replace(step, optional=step.name != "a") for step in _steps(tmp_path)]
    with Workers(1, {}, tmp_path / "log.txt", inline=True) as workers:
        found = run_steps(steps, Ledger(tmp_path), workers, deadline=time.monotonic() - 1)
    assert found.done == ["a"]
    assert "budget" in found.left_out["b"]


def rest(folder: str) -> dict[str, Any]:
    """Work that takes its time."""
    time.sleep(0.05)
    return {}


def test_what_would_not_end_within_the_budget_is_not_begun_and_the_rest_is(tmp_path: Path) -> None:
    costs = {"first": 1, "long": 1000, "short": 1}
    steps = [Step(name, rest, {"folder": ""}, 1, weight=weight) for name, weight in costs.items()]
    with Workers(1, {}, tmp_path / "log.txt", inline=True) as workers:
        found = run_steps(steps, Ledger(tmp_path), workers, deadline=time.monotonic() + 20)
    assert found.done == ["first", "short"]
    assert found.left_out == {"long": "it would not be done within the budget of time"}


def lose(folder: str, name: str, needs: str = "") -> dict[str, Any]:
    """Work of the step below: cases fail as long as there is a file ``full``."""
    note(folder, name)
    return {"failed": {"case": "no room"} if (Path(folder) / "full").exists() else {}, "needs": needs}


def test_steps_that_lost_cases_are_done_again(tmp_path: Path) -> None:
    arguments = {"folder": str(tmp_path)}
    steps = [
        Step("predict", lose, arguments | {"name": "a"}, 1, outputs=("a.txt",)),
        Step("score", lose, arguments | {"name": "b"}, 1, ("predict",), outputs=("b.txt",), optional=False),
        Step("whole", note, arguments | {"name": "c"}, 1, outputs=("c.txt",)),
    ]

    def do(deadline: float | None = None) -> Any:
        with Workers(1, {}, tmp_path / "log.txt", inline=True) as workers:
            return run_steps(steps, Ledger(tmp_path), workers, deadline=deadline)

    (tmp_path / "full").touch()
    assert do().done == ["predict", "score", "whole"]
    # What is there is used when there is no time to try again.
    late = do(time.monotonic() - 1)
    assert (late.done, late.left_out) == (["score"], {})
    assert do().done == ["predict", "score"], "it may fail again"
    (tmp_path / "full").unlink()
    found = do()
    assert (found.done, found.skipped) == (["predict", "score"], ["whole"])
    assert do().done == []
    assert _times(tmp_path) == {"a": 3, "b": 4, "c": 1}


def test_a_dry_run_tells_of_steps_that_lost_cases(tmp_path: Path) -> None:
    step = Step("predict", lose, {}, 1)
    ledger = Ledger(tmp_path)
    ledger.enter(step, 1.0, {"failed": {"case": {"found": "no memory"}}})
    assert ledger.planned([step]) == ["predict"]
    ledger.enter(step, 1.0, {"failed": {}})
    assert ledger.planned([step]) == []


def test_a_damaged_record_is_done_again(tmp_path: Path) -> None:
    _run(tmp_path)
    (tmp_path / "steps" / "c.json").write_text("{")
    assert _run(tmp_path).done == ["c"]


_KILLED = """
import sys, pathlib
sys.path.insert(0, {tests!r})
from test_study_engine import _run
if __name__ == "__main__":
    _run(pathlib.Path({folder!r}), 2, seconds=60)
"""


@pytest.mark.slow
def test_a_killed_study_takes_its_processes_along_and_goes_on(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(_KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path)))
    child = subprocess.Popen([sys.executable, str(script)], start_new_session=True)
    end = time.monotonic() + 240
    while not (tmp_path / "c.txt").exists() and time.monotonic() < end:
        time.sleep(0.2)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    while _alive(script) and time.monotonic() < end:
        time.sleep(0.2)
    assert not _alive(script)
    assert sorted(_run(tmp_path).skipped) == ["a", "c"]
    assert _times(tmp_path) == {"a": 1, "b": 1, "c": 1, "d": 1}


def _alive(script: Path) -> list[str]:
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(script) in line and "ps -eo" not in line]


# --- the folder --------------------------------------------------------------------------------


def test_a_folder_of_something_else_and_a_study_without_resume(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="no study made"):
        study(None, tmp_path, preset="smoke")
    write_json(tmp_path / "study.json", {"kind": "something else"})
    with pytest.raises(UsageError, match="no study made"):
        study(None, tmp_path, preset="smoke", resume=True)
    write_json(tmp_path / "study.json", {"kind": "cross-scanner study", "config": {}})
    with pytest.raises(UsageError, match="--resume"):
        study(None, tmp_path, preset="smoke")
    with pytest.raises(UsageError, match="at least 1"):
        study(None, tmp_path, preset="smoke", jobs=0)


def test_steps_of_other_versions_are_told_of_when_a_study_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    config = read_config(None, "smoke")
    same = {"config": json.loads(json.dumps(config.to_dict())), "versions": folders.versions()}
    folders.log_changes(same, config.to_dict())
    assert not caplog.records
    others = {**folders.versions(), "nnunetv2": "2.0"}
    folders.log_changes({**same, "versions": others}, config.to_dict())
    assert "nnunetv2 2.0 (now 2." in caplog.text


def test_a_dry_run_lists_the_steps_and_writes_nothing(tmp_path: Path) -> None:
    found = study(None, tmp_path / "out", preset="smoke", dry_run=True)
    assert found.exit_code == 0
    assert "train source, seed 0" in found.render()
    assert "harmonized" in found.unavailable
    assert not (tmp_path / "out").exists()


# --- images --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spines")
    chosen = [c for c in conditions(read_config(None, "smoke")) if c.factor == "scanner"]
    make_spines(folder, "test", SMALL, 0, 1, chosen)
    return folder


def test_every_scanner_takes_the_same_spine_and_the_truth_is_that_of_the_source(spines: Path) -> None:
    cases = read_index(spines / "data" / "test" / "0000")
    assert [case.condition.scanner for case in cases] == ["nako-siemens-3t", "philips-3t", "ge-1.5t"]
    assert len({case.instances for case in cases}) == 1
    truth = read_volume(spines / cases[0].instances)
    assert truth.same_grid(read_volume(spines / cases[0].images[0]))
    coarse = read_volume(spines / cases[2].own_instances)
    assert coarse.same_grid(read_volume(spines / cases[2].images[0]))
    assert coarse.spacing[2] > 1.3 * truth.spacing[2]
    # Sides are merged: processes are left ones only.
    assert not set(np.unique(read_volume(spines / cases[0].semantic).array)) & {5, 7, 9}


def test_the_same_spines_have_the_same_bytes(spines: Path, tmp_path: Path) -> None:
    (first, *_) = read_index(spines / "data" / "test" / "0000")
    make_spines(tmp_path, "test", SMALL, 0, 1, [SOURCE])
    assert (tmp_path / first.images[0]).read_bytes() == (spines / first.images[0]).read_bytes()


def test_spines_that_nothing_is_scored_on_have_masks_on_their_own_grid_only(tmp_path: Path) -> None:
    (target,) = (c for c in conditions(read_config(None, "smoke")) if c.scanner == "ge-1.5t" and c.factor == "scanner")
    for group in ("pool-ge", "test"):
        make_spines(tmp_path, group, SMALL, 0, 1, [target])
    (pool,), (test,) = (read_index(tmp_path / "data" / group / "0000") for group in ("pool-ge", "test"))
    assert (pool.semantic, pool.instances) == (pool.own_semantic, pool.own_instances)
    assert not (tmp_path / "data/pool-ge/0000/truth").exists()
    assert test.semantic != test.own_semantic
    for case in (pool, test):
        image, own, scored = (read_volume(tmp_path / p) for p in (case.images[0], case.own_semantic, case.semantic))
        assert own.same_grid(image)
        assert scored.same_grid(image) == (case is pool)


def test_resolution_alone_has_a_price(spines: Path) -> None:
    source, _, coarse = read_index(spines / "data" / "test" / "0000")
    assert ceiling(spines, source) == 1.0
    assert 0.5 < ceiling(spines, coarse) < 0.95
    assert signal_to_noise(read_volume(spines / coarse.images[0])) > 0


def test_signal_to_noise_of_a_known_image() -> None:
    rng = np.random.default_rng(0)
    array = np.zeros((64, 64, 12))
    array[12:52, 12:52] = 100
    noisy = Volume(array + rng.normal(0, 5, array.shape), np.diag([1.0, 1.0, 3.0, 1.0]))
    assert signal_to_noise(noisy) == pytest.approx(20, rel=0.1)
    assert np.isnan(signal_to_noise(Volume(np.ones((8, 8, 8)), np.eye(4))))


def test_a_perfect_prediction_on_the_coarse_grid_scores_the_ceiling(spines: Path, tmp_path: Path) -> None:
    coarse = read_index(spines / "data" / "test" / "0000")[2]
    (tmp_path / "instances").mkdir()
    write_volume(read_volume(spines / coarse.own_semantic), tmp_path / f"{coarse.case}.nii.gz")
    write_volume(read_volume(spines / coarse.own_instances), tmp_path / "instances" / f"{coarse.case}.nii.gz")
    found = score_case(spines, tmp_path, coarse)
    assert found["dice"] == pytest.approx(ceiling(spines, coarse))
    assert found["id_rate"] == 1
    assert found["missing"] == 0
    assert found["msd_mm"] > 0


def test_an_unnumbered_prediction_identifies_the_sacrum_alone(spines: Path, tmp_path: Path) -> None:
    case = read_index(spines / "data" / "test" / "0000")[0]
    (tmp_path / "instances").mkdir()
    (tmp_path / "qc").mkdir()
    write_volume(read_volume(spines / case.semantic), tmp_path / f"{case.case}.nii.gz")
    write_volume(read_volume(spines / case.instances), tmp_path / "instances" / f"{case.case}.nii.gz")
    write_json(tmp_path / "qc" / f"{case.case}.json", {"numbered": False})
    found = score_case(spines, tmp_path, case)
    assert found["dice"] == 1
    assert found["id_rate"] == pytest.approx(1 / found["vertebrae"])


def test_a_case_without_prediction_counts_with_nothing_found(spines: Path, tmp_path: Path) -> None:
    case = read_index(spines / "data" / "test" / "0000")[0]
    found = score_case(spines, tmp_path, case, done=False)
    assert (found["dice"], found["id_rate"], found["semantic_dice"]) == (0, 0, 0)
    assert found["missing"] == found["vertebrae"] > 0
    assert np.isnan(found["msd_mm"])


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        ([{"skipped": True, "noise": {"level": 0.01, "after": None}}], (0, 0)),
        ([{"skipped": True, "noise": {"level": 0.1, "after": 0.01}}], (1, 0)),
        ([{"skipped": False, "noise": None}], (0, 1)),
        ([{"skipped": True, "noise": {"after": 0.01}}, {"skipped": False, "noise": {"after": None}}], (1, 1)),
        ([{"skipped": True}], (0, 0)),
        ([], (None, None)),
        (None, (None, None)),
    ],
)
def test_what_matching_did_comes_from_the_journal(
    channels: list[dict[str, Any]] | None, expected: tuple[int | None, ...], spines: Path, tmp_path: Path
) -> None:
    case = read_index(spines / "data" / "test" / "0000")[0]
    entry: dict[str, Any] = {"case": case.case, "status": "failed"}
    if channels is not None:
        entry["intensity"] = {"method": "body", "channels": channels}
    Journal(tmp_path).append(entry)
    scores = tmp_path / "scores.json"
    score_strategy(spines, folder=str(tmp_path), scores=str(scores), folders=["data/test/0000"], chosen=[SOURCE.key])
    (row,) = json.loads(scores.read_text())
    assert (row["noise_reduced"], row["matched"]) == expected


def test_a_file_that_a_finished_prediction_lacks_is_not_an_empty_mask(spines: Path, tmp_path: Path) -> None:
    case = read_index(spines / "data" / "test" / "0000")[0]
    write_volume(read_volume(spines / case.semantic), tmp_path / f"{case.case}.nii.gz")
    with pytest.raises(SpineExtError, match="instances"):
        score_case(spines, tmp_path, case)


# --- scores --------------------------------------------------------------------------------


def _stack(ids: Sequence[int], shift: int = 0, size: int = 10) -> np.ndarray:
    """Cubes of 8 voxels one below the other, in a volume of 1 mm."""
    array = np.zeros((12, 12, 10 * len(ids) + 4), dtype=np.uint16)
    for row, label in enumerate(ids):
        array[2:10, 2 + shift : 10, 10 * row + 2 : 10 * row + size] = label
    return array


def test_levels_by_hand() -> None:
    truth = _stack([20, 21, 22])
    rows = score_levels(truth, _stack([20, 21, 0], shift=4), (1.0, 1.0, 1.0))
    assert [row["level"] for row in rows] == ["L1", "L2", "L3"]
    assert [round(row["dice"], 4) for row in rows] == [0.6667, 0.6667, 0.0]
    assert [row["identified"] for row in rows] == [True, True, False]
    found = summary(rows)
    assert found["missing"] == 1
    assert found["dice"] == pytest.approx(4 / 9)
    assert found["id_rate"] == pytest.approx(2 / 3)
    assert found["msd_mm"] == pytest.approx((rows[0]["msd_mm"] + rows[1]["msd_mm"]) / 2)


def test_wrong_numbers_have_their_dice_but_are_not_identified() -> None:
    rows = score_levels(_stack([20, 21, 22]), _stack([21, 22, 23]), (1.0, 1.0, 3.0))
    assert [row["dice"] for row in rows] == [1.0, 1.0, 1.0]
    assert [row["identified"] for row in rows] == [False, False, False]


def test_discs_and_the_coccyx_are_no_vertebrae() -> None:
    rows = score_levels(_stack([20, 120, 26, 27]), _stack([20, 120, 26, 27]), (1.0, 1.0, 1.0))
    assert [(row["level"], row["region"]) for row in rows] == [("L1", "lumbar"), ("S1", "sacral")]
    assert summary([])["vertebrae"] == 0


def test_class_dice_by_hand() -> None:
    truth, found = np.array([[0, 1, 1, 2]]), np.array([[0, 1, 0, 3]])
    assert class_dice(truth, found) == pytest.approx((2 / 3 + 0) / 2)
    assert np.isnan(class_dice(np.zeros((1, 4), int), found))


@pytest.mark.parametrize("instances", [False, True])
def test_the_ignore_label_of_a_given_mask_is_no_class(tmp_path: Path, instances: bool) -> None:
    truth, found = (np.zeros((12, 12, 12), np.uint8) for _ in range(2))
    truth[2:6, 2:10, 2:10], truth[6:10, 2:10, 2:10] = 1, 2
    truth[:, :, 9:] = 3
    # Whatever is said where the truth is not known.
    found[2:6, 2:10, 2:12], found[6:10, 2:10, 2:12] = 1, 2
    ids = np.array([0, 20, 21, 0], np.uint8)
    for name, array in (("truth", truth), ("found", found)):
        volume = Volume(array, np.eye(4))
        write_volume(volume, tmp_path / name / "c.nii.gz")
        write_volume(volume.with_array(ids[array]), tmp_path / name / "instances" / "c.nii.gz")
    own = "truth/instances/c.nii.gz" if instances else ""
    case = StudyCase("c", "s", SOURCE, ("c.nii.gz",), "truth/c.nii.gz", own, ignore=3)
    score = score_case(tmp_path, tmp_path / "found", case)
    assert (score["dice"], score["semantic_dice"], score["missing"]) == (1, 1, 0)
    assert score["msd_mm"] == 0
    assert score_case(tmp_path, tmp_path / "found", replace(case, ignore=None))["semantic_dice"] < 0.7


def test_distances_of_features_are_in_units_of_the_source() -> None:
    rng = np.random.default_rng(1)
    source = {f"s{k}": rng.normal(size=6) for k in range(20)}
    far = {"far": np.full(6, 30.0)}
    found = distances({**source, **far}, list(source))
    assert np.mean([found[name] ** 2 for name in source]) == pytest.approx(1)
    assert found["far"] > 10
    assert np.isnan(distances({"s0": source["s0"], **far}, ["s0"])["far"])


# --- images of one's own --------------------------------------------------------------------------------


def _dataset(folder: Path, scanners: Sequence[str | None], *, labels: bool = True) -> Path:
    rows = {}
    for name in ("imagesTs", "labelsTs"):
        (folder / name).mkdir(parents=True)
    for number, scanner in enumerate(scanners):
        case = f"case{number}"
        volume = Volume(np.ones((4, 4, 4), dtype=np.float32), np.eye(4))
        write_volume(volume, folder / "imagesTs" / f"{case}_0000.nii.gz")
        if labels:
            write_volume(volume.with_array(np.ones((4, 4, 4), dtype=np.uint8)), folder / "labelsTs" / f"{case}.nii.gz")
        rows[case] = {"subject": f"s{number}", "manufacturer": scanner, "labelled": True}
    write_json(folder / "cases.json", {"version": 1, "cases": rows})
    return folder


def _given(folder: Path, **options: Any) -> Any:
    file = folder.parent / "given.yaml"
    file.write_text(json.dumps({"given": {"dataset": str(folder), **options}}))
    return given_images(read_config(file, None), folder.parent / "study")


def test_domains_of_a_dataset_become_conditions(tmp_path: Path) -> None:
    found = _given(_dataset(tmp_path / "d", ["GE", "Siemens", "Siemens"]), source="Siemens")
    assert [c.scanner for c in found.conditions] == ["Siemens", "GE"]
    assert found.source.scanner == "Siemens"
    assert (found.subjects, found.instances) == (2, False)
    (step,) = found.test_steps
    step.work(**step.arguments)
    assert {case.condition.key for case in read_index(tmp_path / "study" / found.test_folders[0])} == {"Siemens", "GE"}


def test_domains_that_would_share_files_are_refused(tmp_path: Path) -> None:
    folder = _dataset(tmp_path / "d", ["Philips 1", "Philips-1", "GE"])
    with pytest.raises(
        UsageError, match="'Philips 1' and 'Philips-1', which files would both call Philips-1"
    ) as caught:
        _given(folder, source="GE")
    assert caught.value.code == "E-STUDY-DOMAINS"


@pytest.mark.parametrize("simulate", [False, True])
def test_the_ignore_label_of_a_dataset_comes_along(tmp_path: Path, simulate: bool) -> None:
    folder = _dataset(tmp_path / "d", ["GE", "Siemens"])
    write_json(folder / "dataset.json", {"labels": {"background": 0, "cord": 1, "ignore": 2}})
    (step,) = _given(folder, source="GE", simulate=simulate).test_steps
    assert {case.ignore for case in step.arguments["cases"]} == {2}


def test_one_case_without_instances_takes_them_from_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = _dataset(tmp_path / "d", ["GE", "Siemens"])
    (folder / "instancesTs").mkdir()
    mask = read_volume(folder / "labelsTs" / "case0.nii.gz")
    write_volume(mask, folder / "instancesTs" / "case0.nii.gz")
    found = _given(folder, source="GE")
    assert not found.instances, "so no vertebrae are predicted"
    (step,) = found.test_steps
    step.work(**step.arguments)
    study_folder = tmp_path / "study"
    case = read_index(study_folder / found.test_folders[0])[0]
    (tmp_path / "predicted").mkdir()
    write_volume(mask, tmp_path / "predicted" / f"{case.case}.nii.gz")
    assert score_case(study_folder, tmp_path / "predicted", case)["dice"] == 1, "and none are missed"
    assert "no instance mask of case1" in caplog.text
    write_volume(mask, folder / "instancesTs" / "case1.nii.gz")
    assert _given(folder, source="GE").instances


@pytest.mark.parametrize(
    ("scanners", "options", "message"),
    [
        (["GE", "GE"], {"source": "GE"}, "a single manufacturer"),
        (["GE", "Siemens"], {"source": "siemens"}, "did you mean 'Siemens'"),
        (["GE", "Siemens"], {}, "trained on"),
        (["GE", None], {"source": "GE"}, "no manufacturer of case1"),
        (
            ["GE", "Siemens"],
            {"source": "GE", "domain": "manufacturr"},
            "no case with 'manufacturr'.*mean 'manufacturer'",
        ),
    ],
)
def test_domains_that_cannot_be_studied(
    tmp_path: Path, scanners: list[str | None], options: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        _given(_dataset(tmp_path / "d", scanners), **options)


def test_missing_masks_and_missing_data(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no reference mask of case0, case1"):
        _given(_dataset(tmp_path / "d", ["GE", "Siemens"], labels=False), source="GE")
    with pytest.raises(NoInputError, match=r"cases\.json: no such folder; expected a raw dataset"):
        _given(tmp_path / "absent", source="GE")
    with pytest.raises(NoInputError, match="no images"):
        _given(tmp_path / "d", source="GE", part="Tr")


def test_given_images_need_a_model(tmp_path: Path) -> None:
    folder = _dataset(tmp_path / "d", ["GE", "Siemens"])
    file = tmp_path / "given.yaml"
    file.write_text(json.dumps({"given": {"dataset": str(folder), "source": "GE"}}))
    made = assemble(read_config(file, None), tmp_path / "study")
    assert "models.source" in made.unavailable["none"]
    file.write_text(json.dumps({"given": {"dataset": str(folder), "source": "GE"}, "models": {"source": "absent"}}))
    with pytest.raises(SpineExtError, match="absent"):
        assemble(read_config(file, None), tmp_path / "study")


def test_a_dry_run_says_which_strategies_are_not_available(tmp_path: Path) -> None:
    folder = _dataset(tmp_path / "d", ["GE", "Siemens"])
    file = tmp_path / "given.yaml"
    file.write_text(json.dumps({"given": {"dataset": str(folder), "source": "GE"}, "strategies": ["none"]}))
    text = study(file, o=tmp_path / "study", dry_run=True).render()
    assert "not available: none: " in text
    assert text.endswith("nothing was done (dry run)")


def test_a_model_of_other_labels_is_refused(tmp_path: Path) -> None:
    folder = _dataset(tmp_path / "d", ["GE", "Siemens"])
    write_json(folder / "dataset.json", {"labels": {"background": 0, "cord": 1, "canal": 2}})
    refuse_other_labels(folder, {1: "cord", 2: "canal"})
    with pytest.raises(UsageError, match=r"cord 1, canal 2.*expected canal 1, cord 2"):
        refuse_other_labels(folder, {1: "canal", 2: "cord"})


def _with_models(folder: Path, *changes: str, **models: Path) -> Any:
    given = [f"models.{name}={path}" for name, path in models.items()]
    return assemble(read_config(None, "smoke", [*given, *changes]), folder / "study")


def test_digital_spines_are_not_studied_with_a_model_of_other_classes(tmp_path: Path) -> None:
    other = make_model(tmp_path / "nnUNetTrainerSpine__p__3d_fullres", labels={"background": 0, "disc": 1, "sacrum": 2})
    with pytest.raises(UsageError, match=r"disc 1, sacrum 2.*expected sacrum 1, arcus 2") as caught:
        _with_models(tmp_path, "strategies=[none]", source=other)
    assert caught.value.code == "E-STUDY-LABELS"


@pytest.mark.parametrize("strategies", ["[none, finetuned]", "[none, shift]"])
def test_a_source_model_of_another_configuration_is_refused_where_something_is_trained(
    tmp_path: Path, strategies: str
) -> None:
    # The checkpoint says it: the folder has another name.
    model = make_model(tmp_path / "model", labels=LABELS14, sided=SIDED14)
    with pytest.raises(UsageError, match=r"2d, and a model of 3d_fullres") as caught:
        _with_models(tmp_path, f"strategies={strategies}", source=model)
    assert "network.configuration=3d_fullres" in caught.value.fix
    same = _with_models(tmp_path, f"strategies={strategies}", "network.configuration=3d_fullres", source=model)
    assert not same.unavailable
    assert _with_models(tmp_path, "strategies=[none, tta]", source=model).runs, "nothing is trained"


def test_simulated_images_keep_their_grid_and_their_source(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    array = rng.uniform(20, 100, (40, 12, 48)).astype(np.float32)
    volume = Volume(array, np.array([[0, 3.0, 0, 0], [-1.0, 0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1]]))
    chosen = {c.key: c for c in conditions(read_config(None, "cpu"))}
    same = simulated(volume, SOURCE, "case")
    assert same.same_grid(volume)
    np.testing.assert_allclose(same.array, array, rtol=1e-4)
    worse = simulated(volume, chosen["philips-1p5t"], "case")
    assert worse.same_grid(volume)
    assert np.array_equal(worse.array, simulated(volume, chosen["philips-1p5t"], "case").array)
    assert not np.allclose(worse.array, array, rtol=0.05)


def test_data_are_preprocessed_again_only_when_cases_or_spacing_change(tmp_path: Path) -> None:
    (tmp_path / "cases").mkdir()
    case = StudyCase("a", "s", SOURCE, ("a.nii.gz",), "b.nii.gz", digest="1")
    write_index(tmp_path / "cases", [case])
    (tmp_path / "nnUNet_preprocessed" / "Dataset901_StudySource").mkdir(parents=True)

    def asked(facts: Any = "1.5") -> Preprocessed:
        return Preprocessed(tmp_path, 901, ["cases"], facts)

    assert not asked().same
    asked().note()
    assert asked().same
    assert not asked("2").same
    write_index(tmp_path / "cases", [replace(case, digest="2")])
    assert not asked().same
    write_index(tmp_path / "cases", [case])
    asked().forget()
    assert not asked().same


# --- fine-tuning ------------------------------------------------------------------------------


def test_fine_tunings_to_one_scanner_preprocess_their_data_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Preprocessing deletes what is there first, which another fine-tuning may be training on."""
    said: list[str] = []
    data = tmp_path / "nnUNet_preprocessed" / dataset_name(910)

    def planned(_model: Path, _number: str, *, name: str, **_: Any) -> Any:
        data.mkdir(parents=True, exist_ok=True)
        write_json(data / f"{name}.json", {"configurations": {"2d": {"data_identifier": "shared"}}})
        return SimpleNamespace(path=data / f"{name}.json")

    monkeypatch.setattr(trainings, "finetune_plan", planned)
    monkeypatch.setattr(trainings, "command", lambda _study, name, *_words, **_options: said.append(name))
    write_index(tmp_path / "pool", [StudyCase("c", "s", SOURCE, ("c.nii.gz",), "truth/c.nii.gz", digest="1")])
    folders = ["pool"]

    def do(n: int) -> None:
        trainings.finetune(tmp_path, number=910, model="m", n=n, seed=0, configuration="2d", settings=[],
                           device="cpu", stamp="s", validation="c", folders=folders)  # fmt: skip

    do(1)
    do(5)
    assert said == ["nnUNetv2_preprocess", "nnUNetv2_train", "nnUNetv2_train"]
    # Other cases.
    write_index(tmp_path / "pool", [StudyCase("c", "s", SOURCE, ("c.nii.gz",), "truth/c.nii.gz", digest="2")])
    do(1)
    assert said[3:] == ["nnUNetv2_preprocess", "nnUNetv2_train"]
    # The dataset is written anew, which deletes what is preprocessed.
    monkeypatch.setattr(trainings, "write_dataset", lambda *_: None)
    trainings.plan_target(tmp_path, number=910, folders=folders, sides=False)
    do(1)
    assert said[5:] == ["nnUNetv2_extract_fingerprint", "nnUNetv2_preprocess", "nnUNetv2_train"]


def test_a_second_fine_tuning_waits_while_the_first_prepares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = threading.Event()
    leave = threading.Event()
    calls: list[str] = []

    def planned(_model: Path, _number: str, *, name: str, **_: Any) -> Any:
        calls.append(name)
        inside.set()
        assert leave.wait(60)
        raise SetupError("E-TEST", file="f", found="x", expected="y", fix="z")

    monkeypatch.setattr(trainings, "finetune_plan", planned)

    def do(n: int) -> None:
        with pytest.raises(SetupError):
            trainings.finetune(tmp_path, number=910, model="m", n=n, seed=0, configuration="2d", settings=[],
                               device="cpu", stamp="s", validation="c", folders=[])  # fmt: skip

    first, second = (threading.Thread(target=do, args=(n,)) for n in (1, 5))
    first.start()
    assert inside.wait(60)
    second.start()
    time.sleep(0.5)
    assert calls == ["study-finetune1-0"]
    leave.set()
    first.join(60)
    second.join(60)
    assert calls == ["study-finetune1-0", "study-finetune5-0"]
